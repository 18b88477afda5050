//! Sizes in Docker's words.

/// A size such as `512`, `64k`, `1.5GiB`: units are powers of 1024.
pub fn bytes(text: &str) -> Option<u64> {
    let number = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(number);
    let suffix = suffix.trim_start_matches(' ').to_ascii_lowercase();
    let suffix = suffix.strip_suffix("ib").or_else(|| suffix.strip_suffix('b')).unwrap_or(&suffix);
    let power = match suffix {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let value: f64 = number.parse().ok()?;
    let value = value * 1024_f64.powi(power);
    // 2^53: larger ones aren't exact, and nobody has that much memory.
    (0.0..9_007_199_254_740_992.0).contains(&value).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(bytes("1m"), Some(1 << 20));
        assert_eq!(bytes("1.5GiB"), Some(3 << 29));
        assert_eq!(bytes("12"), Some(12));
        assert_eq!(bytes("64 kb"), Some(64 << 10));
        for bad in ["", "m", "-1", "1x", "1e400", "999999p"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
