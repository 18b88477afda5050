//! Names that a client tells.

use yare_errdefs::{Error, Result};

/// Most bytes of a path and of one name in it, as Linux has them.
const PATH: usize = 4096;
const NAME: usize = 255;

/// Whether a path is relative, clean and free of steps up; else an error.
pub(super) fn check(path: &[u8]) -> Result<()> {
    let wrong = |why: &str| {
        let shown = String::from_utf8_lossy(&path[..path.len().min(200)]);
        Err(Error::invalid(format!("the client sent a path that {why}: {:?}", shown)))
    };
    if path.is_empty() || path.len() > PATH {
        return wrong("is empty or too long");
    }
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => return wrong("is absolute or not clean"),
            b".." => return wrong("leads out of its folder"),
            name if name.len() > NAME => return wrong("has too long a name in it"),
            name if name.contains(&0) => return wrong("has a zero byte in it"),
            _ => {}
        }
    }
    Ok(())
}

/// The directory of a path, and its last name; the root's is empty.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_refused() {
        for path in [&b"a"[..], b"a/b", b"..a", b"a/..b", b"\xff/x", b"a\nb"] {
            check(path).expect("fine");
        }
        let long = [b'a'; 256];
        for path in [
            &b""[..],
            b"/a",
            b"../a",
            b"a/../b",
            b"a/..",
            b"..",
            ".".as_bytes(),
            b"a//b",
            b"a/",
            b"a/./b",
            b"a\0",
            &long,
        ] {
            assert!(check(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn paths_are_split() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
    }
}
