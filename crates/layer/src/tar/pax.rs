//! Extended headers: records of the form `<length> <key>=<value>\n`.

use super::Timestamp;

/// What of an extended header matters to a layer.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Timestamp>,
    /// In the order of the archive, the last of equal names only.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
}

/// The records of GNU's three pax formats of sparse files.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) major: Option<Vec<u8>>,
    pub(super) minor: Option<Vec<u8>>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) real_size: Option<u64>,
    /// Version 0.1: `offset,length,offset,length…`.
    pub(super) map: Option<Vec<u8>>,
    /// Version 0.0: repeated records, offset and length in turn.
    pub(super) pairs: Vec<u64>,
}

/// Parses a whole extended header.
pub(super) fn parse(mut bytes: &[u8]) -> Result<Extended, String> {
    let mut extended = Extended::default();
    // The padding of some writers is part of the data: it ends the records.
    while !bytes.is_empty() {
        let (key, value, rest) = record(bytes).ok_or("malformed pax record")?;
        bytes = rest;
        extended.take(key, value)?;
    }
    if extended.sparse.pairs.len() % 2 != 0 {
        return Err("sparse map with an offset but no length".into());
    }
    Ok(extended)
}

fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(bytes.get(..space)?)?).ok()?;
    let body = bytes.get(space + 1..length)?;
    let (last, body) = body.split_last()?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (body.get(..equals)?, body.get(equals + 1..)?);
    if *last != b'\n' || key.is_empty() || key.contains(&0) {
        return None;
    }
    Some((key, value, bytes.get(length..)?))
}

/// A number of decimal digits only, at least one.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// A number that fits the kernel's signed sizes.
fn size(value: &[u8]) -> Option<u64> {
    decimal(value).filter(|size| i64::try_from(*size).is_ok())
}

fn signed(value: &[u8]) -> Option<i64> {
    match value.strip_prefix(b"-") {
        Some(digits) => i64::try_from(decimal(digits)?).ok()?.checked_neg(),
        None => i64::try_from(decimal(value)?).ok(),
    }
}

/// `[-]seconds[.fraction]`; digits after the ninth are cut off.
fn timestamp(value: &[u8]) -> Option<Timestamp> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanos = 0_u32;
    for index in 0..9 {
        nanos = nanos * 10 + fraction.get(index).map_or(0, |digit| u32::from(digit - b'0'));
    }
    Some(match (negative, nanos) {
        (false, _) => Timestamp { seconds, nanos },
        (true, 0) => Timestamp { seconds: -seconds, nanos: 0 },
        (true, _) => Timestamp { seconds: (-seconds).checked_sub(1)?, nanos: 1_000_000_000 - nanos },
    })
}

impl Extended {
    /// Takes one record; an empty value unsets, unknown keys are passed over.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let bad = || format!("invalid pax record {}", String::from_utf8_lossy(key));
        let given = (!value.is_empty()).then_some(value);
        let name = || match given {
            Some(name) if name.contains(&0) => Err(bad()),
            name => Ok(name.map(<[u8]>::to_vec)),
        };
        let number = || given.map(|value| size(value).ok_or_else(bad)).transpose();
        match key {
            b"path" => self.path = name()?,
            b"linkpath" => self.link = name()?,
            b"size" => self.size = number()?,
            b"uid" => self.uid = given.map(|value| signed(value).ok_or_else(bad)).transpose()?,
            b"gid" => self.gid = given.map(|value| signed(value).ok_or_else(bad)).transpose()?,
            b"mtime" => self.mtime = given.map(|value| timestamp(value).ok_or_else(bad)).transpose()?,
            b"GNU.sparse.major" => self.sparse.major = name()?,
            b"GNU.sparse.minor" => self.sparse.minor = name()?,
            b"GNU.sparse.name" => self.sparse.name = name()?,
            b"GNU.sparse.size" => self.sparse.size = number()?,
            b"GNU.sparse.realsize" => self.sparse.real_size = number()?,
            b"GNU.sparse.map" => self.sparse.map = name()?,
            b"GNU.sparse.offset" if self.sparse.pairs.len().is_multiple_of(2) => {
                self.sparse.pairs.push(size(value).ok_or_else(bad)?);
            }
            b"GNU.sparse.numbytes" if self.sparse.pairs.len() % 2 == 1 => {
                self.sparse.pairs.push(size(value).ok_or_else(bad)?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => return Err(bad()),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.").filter(|name| !name.is_empty()) {
                    self.xattrs.retain(|(other, _)| other != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_nanoseconds_and_sign() {
        let at = |text: &str| timestamp(text.as_bytes()).map(|time| (time.seconds, time.nanos));
        assert_eq!(at("1.5"), Some((1, 500_000_000)));
        assert_eq!(at("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(at("-0.000000001"), Some((-1, 999_999_999)));
        assert_eq!(at("-1"), Some((-1, 0)));
        assert_eq!(at("15032385535.1234567899"), Some((15_032_385_535, 123_456_789)));
        assert_eq!(at("1."), Some((1, 0)));
        for bad in ["", ".5", "1.x", "--1", "1e3", "99999999999999999999"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn records_carry_any_byte_in_values() {
        let parsed = parse(b"30 SCHILY.xattr.user.a=x=\n\0\xff!\n").unwrap();
        assert_eq!(parsed.xattrs, [(b"user.a".to_vec(), b"x=\n\0\xff!".to_vec())]);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"5 a=b\n"[..],
            b"0 a=b\n",
            b"7 a=b\n",
            b"6 a=b ",
            b"9 path=a\0\n",
            b"x",
            b"6 =ab\n",
            b"99999999999999999999 a=b\n",
        ] {
            let parsed = parse(bad);
            assert!(parsed.is_err(), "{:?} gave {parsed:?}", String::from_utf8_lossy(bad));
        }
    }
}
