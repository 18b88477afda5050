//! Names of users and groups, looked up in an image.

use crate::{Error, Result};
use rustix::fs::{Mode, OFlags};
use std::io::Read;
use std::os::fd::BorrowedFd;

/// Most bytes of a file of users that are read.
const LONGEST: u64 = 4 << 20;

/// The ids that `user[:group]` means below a root. A number without group is its own group's too; a name
/// without group has the group that the image gives it.
///
/// # Errors
/// A name is not in the image's files.
pub fn resolve(root: BorrowedFd<'_>, text: &str) -> Result<(u32, u32)> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let user = if user.is_empty() { "0" } else { user };
    let (uid, own) = match user.parse::<u32>() {
        Ok(uid) => (uid, uid),
        Err(_) => {
            let fields =
                entry(root, "etc/passwd", user).ok_or_else(|| unknown("user", user, "/etc/passwd"))?;
            let number = |index: usize| fields.get(index).and_then(|field| field.parse().ok());
            let ids = number(2).zip(number(3));
            ids.ok_or_else(|| {
                Error::invalid(format!("the entry of {user} in /etc/passwd of the image is damaged"))
            })?
        }
    };
    let gid = match group.parse::<u32>() {
        Ok(gid) => gid,
        Err(_) if group.is_empty() => own,
        Err(_) => entry(root, "etc/group", group)
            .and_then(|fields| fields.get(2)?.parse().ok())
            .ok_or_else(|| unknown("group", group, "/etc/group"))?,
    };
    Ok((uid, gid))
}

/// Whether the text has a name in it, so that its meaning depends on the image.
pub(crate) fn is_named(text: &str) -> bool {
    text.split(':').any(|part| !part.is_empty() && part.parse::<u32>().is_err())
}

fn unknown(what: &str, name: &str, file: &str) -> Error {
    Error::invalid(format!("unable to find {what} {name}: no matching entries in {file} of the image"))
        .with_hint(format!("make it with an earlier RUN, or use its number instead of {name:?}"))
}

fn entry(root: BorrowedFd<'_>, path: &str, name: &str) -> Option<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = yare_sys::fs::open_beneath(root, path, flags, Mode::empty()).ok()?;
    let mut text = Vec::new();
    std::fs::File::from(fd).take(LONGEST).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    text.lines().map(fields).find(|fields| fields.first().is_some_and(|first| first == name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn names_and_numbers() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/passwd"), "root:x:0:0::/:\nu:x:7:8::/:\nbad:x\n").unwrap();
        std::fs::write(folder.path().join("etc/group"), "g:x:9:\n").unwrap();
        let root = yare_sys::fs::open_dir(folder.path()).unwrap();
        let ids = |text| resolve(root.as_fd(), text);
        assert_eq!(ids("12").unwrap(), (12, 12));
        assert_eq!(ids("u").unwrap(), (7, 8));
        assert_eq!(ids("u:g").unwrap(), (7, 9));
        assert_eq!(ids(":5").unwrap(), (0, 5));
        for bad in ["nobody", "u:none", "bad"] {
            assert!(ids(bad).is_err(), "{bad}");
        }
        assert!(is_named("u") && is_named("1:g") && !is_named("1:2") && !is_named(""));
    }
}
