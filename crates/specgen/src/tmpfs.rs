//! Options of tmpfs mounts.

use yare_api::TmpfsOptions;
use yare_errdefs::Error;

/// What every tmpfs of a user has unless an option says the opposite.
const BASE: [&str; 4] = ["noexec", "nosuid", "nodev", "rprivate"];
const DATA: [&str; 7] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];

/// Which flag a mount option turns; opposite options turn the same.
fn flag(option: &str) -> Option<&'static str> {
    let flags: [(&[&str], &str); 12] = [
        (&["ro", "rw"], "ro"),
        (&["suid", "nosuid"], "nosuid"),
        (&["dev", "nodev"], "nodev"),
        (&["exec", "noexec"], "noexec"),
        (&["sync", "async"], "sync"),
        (&["dirsync"], "dirsync"),
        (&["remount"], "remount"),
        (&["mand", "nomand"], "mand"),
        (&["atime", "noatime"], "noatime"),
        (&["diratime", "nodiratime"], "nodiratime"),
        (&["relatime", "norelatime"], "relatime"),
        (&["strictatime", "nostrictatime"], "strictatime"),
    ];
    let propagation =
        ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"];
    if propagation.contains(&option) {
        return Some("propagation");
    }
    flags.iter().find(|(options, _)| options.contains(&option)).map(|(_, flag)| *flag)
}

/// Puts the options of a user, comma-separated, after the base ones; of two that speak of the same, the
/// later stays.
///
/// # Errors
/// Docker's text for an option nobody knows, class invalid argument.
pub fn options(text: &str) -> Result<Vec<String>, Error> {
    let all = BASE.into_iter().chain(text.split(',').filter(|option| !option.is_empty()));
    let mut seen = std::collections::BTreeSet::new();
    let mut kept = Vec::new();
    for option in all.collect::<Vec<_>>().into_iter().rev().filter(|option| *option != "defaults") {
        let key = match (flag(option), option.split_once('=')) {
            (Some(flag), _) => flag,
            (None, Some((key, value))) if DATA.contains(&key) => {
                check_data(key, value)?;
                key
            }
            (None, split) => {
                let parts =
                    split.map_or_else(|| format!("{option:?}"), |(key, value)| format!("{key:?} {value:?}"));
                return Err(Error::invalid(format!("invalid tmpfs option [{parts}]")));
            }
        };
        if seen.insert(key.to_owned()) {
            kept.push(option.to_owned());
        }
    }
    kept.reverse();
    Ok(kept)
}

/// Values the kernel would refuse when the container starts are refused now.
fn check_data(key: &str, value: &str) -> Result<(), Error> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let good = match key {
        "size" => {
            let bare = value.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G', 't', 'T', '%']).unwrap_or(value);
            digits(bare)
        }
        "mode" => !value.is_empty() && value.bytes().all(|byte| (b'0'..=b'7').contains(&byte)),
        "uid" | "gid" => value.parse::<u32>().is_ok(),
        "nr_inodes" | "nr_blocks" => digits(value.strip_suffix(['k', 'm', 'g']).unwrap_or(value)),
        _ => !value.is_empty(),
    };
    if good { Ok(()) } else { Err(Error::invalid(format!("invalid tmpfs option [{key:?} {value:?}]"))) }
}

/// The options of a `Mounts` entry as the text above.
///
/// # Errors
/// Docker's text for an option nobody knows.
pub fn convert(wanted: Option<&TmpfsOptions>, read_only: bool) -> Result<String, Error> {
    let mut parts = Vec::new();
    if read_only {
        parts.push("ro".to_owned());
    }
    if let Some(wanted) = wanted {
        if wanted.mode != 0 {
            parts.push(format!("mode={:o}", wanted.mode));
        }
        if wanted.size_bytes != 0 {
            parts.push(format!("size={}", size(wanted.size_bytes)));
        }
        for option in wanted.options.iter().flatten() {
            match option.as_slice() {
                [name] if flag(name).is_some() => parts.push(name.clone()),
                [name, value] if DATA.contains(&name.as_str()) => parts.push(format!("{name}={value}")),
                _ => return Err(Error::invalid(format!("invalid option: {:?}", option.join("=")))),
            }
        }
    }
    let text = parts.join(",");
    options(&text)?;
    Ok(text)
}

fn size(bytes: i64) -> String {
    let unit =
        [("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10)].into_iter().find(|(_, unit)| bytes % unit == 0);
    match unit {
        Some((suffix, unit)) => format!("{}{suffix}", bytes / unit),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_option_stays() {
        assert_eq!(options("size=1m").unwrap(), ["noexec", "nosuid", "nodev", "rprivate", "size=1m"]);
        assert_eq!(
            options("exec,size=1m,size=2m").unwrap(),
            ["nosuid", "nodev", "rprivate", "exec", "size=2m"]
        );
        assert_eq!(options("rw,,defaults").unwrap(), ["noexec", "nosuid", "nodev", "rprivate", "rw"]);
        assert_eq!(options("bogus").unwrap_err().to_string(), "invalid tmpfs option [\"bogus\"]");
        assert_eq!(options("a=b").unwrap_err().to_string(), "invalid tmpfs option [\"a\" \"b\"]");
        assert!(options("size=huge").is_err() && options("mode=9").is_err() && options("uid=-1").is_err());
    }

    #[test]
    fn converts_mount_options() {
        let wanted =
            |size_bytes, mode, options: Option<Vec<Vec<String>>>| TmpfsOptions { size_bytes, mode, options };
        assert_eq!(convert(Some(&wanted(1 << 20, 0o700, None)), false).unwrap(), "mode=700,size=1m");
        assert_eq!(convert(Some(&wanted(1000, 0, None)), true).unwrap(), "ro,size=1000");
        assert_eq!(convert(None, false).unwrap(), "");
        let exec = Some(vec![vec!["exec".to_owned()]]);
        assert_eq!(convert(Some(&wanted(0, 0, exec)), true).unwrap(), "ro,exec");
        let bad = Some(vec![vec!["INVALID".to_owned()]]);
        assert!(convert(Some(&wanted(0, 0, bad)), false).is_err());
    }
}
