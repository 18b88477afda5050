//! The file itself: read as one document, changed under a lock, replaced at once.
//!
//! Docker's programs write the same file, from other versions and with members that are theirs. So a change
//! reads the document anew, touches its own members and keeps all others. A file that cannot be read, or is
//! no JSON object, is never replaced: what is in it cannot be told.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde_json::{Map, Value};
use yare_sys::fs::{Durability, Standing};

/// Links that are followed from one name to the file, as the kernel does.
const MOST_LINKS: usize = 40;

/// The document; an empty one when there is no file, or nothing in it.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn read(path: &Path) -> Result<Map<String, Value>, String> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    if text.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&text).map_err(|error| format!("{} is not understood: {error}", path.display()))
}

/// Changes the document. Where the name is a symbolic link, the file that it leads to is replaced.
///
/// # Errors
/// When it cannot be read or written; then it is as before.
pub(super) fn change(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let target = follow(path).map_err(failed)?;
    let (Some(folder), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(format!("{} is no file", path.display()));
    };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let _locked = lock(folder).map_err(failed)?;
    let mut document = read(&target)?;
    change(&mut document);
    write(folder, name, &document).map_err(|error| error.to_string())
}

/// Where a chain of symbolic links ends, whether or not there is a file.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = std::path::absolute(path)?;
    for _ in 0..MOST_LINKS {
        match std::fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            Err(error) if matches!(error.raw_os_error(), Some(libc) if libc == Errno::INVAL.raw_os_error()) =>
            {
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::LOOP.into())
}

/// Keeps other calls of this program away, so that of logins at the same time none is lost. Docker's does
/// not look at locks, and some network file systems have none for folders; then it is as with docker.
fn lock(folder: &Path) -> io::Result<OwnedFd> {
    let folder = yare_sys::fs::open_dir(folder)?;
    match rustix::fs::flock(&folder, FlockOperation::LockExclusive) {
        Ok(()) | Err(Errno::BADF | Errno::NOLCK | Errno::OPNOTSUPP) => Ok(folder),
        Err(error) => Err(error.into()),
    }
}

fn write(folder: &Path, name: &OsStr, document: &Map<String, Value>) -> io::Result<()> {
    let before = match std::fs::metadata(folder.join(name)) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let text = crate::format::json::pretty(&Value::Object(document.clone()), "\t");
    let standing = before.map_or(Standing::PRIVATE, |before| standing(&before, document));
    yare_sys::fs::atomic_write_as(folder, name, text.as_bytes(), Durability::Synced, standing)
}

/// As before; but the world does not read what has secrets in it.
fn standing(before: &Metadata, document: &Map<String, Value>) -> Standing {
    let secrets = ["auth", "password", "identitytoken", "registrytoken"];
    let is_secret = |entry: &Value| secrets.iter().any(|member| entry.get(member).is_some());
    let entries = document.get("auths").and_then(Value::as_object);
    let has_secrets = entries.is_some_and(|entries| entries.values().any(is_secret));
    let mask = if has_secrets { 0o770 } else { 0o777 };
    Standing { mode: before.mode() & mask, owner: Some((before.uid(), before.gid())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn put(path: &Path, member: &str) -> Result<(), String> {
        change(path, |document| drop(document.insert(member.to_owned(), Value::from(1))))
    }

    #[test]
    fn what_is_not_understood_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        for text in ["{\"auths\": {", "[]", "\"x\"", "\u{feff}{}"] {
            std::fs::write(&path, text).unwrap();
            let error = put(&path, "a").unwrap_err();
            assert!(error.contains("config.json is not understood"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(put(&path, "a").unwrap_err().contains("cannot read"));
    }

    #[test]
    fn no_file_and_an_empty_one_are_an_empty_document() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/config.json");
        put(&path, "a").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        std::fs::write(&path, " \n").unwrap();
        put(&path, "b").unwrap();
        assert_eq!(read(&path).unwrap().keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn links_stay_and_what_they_lead_to_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (link, middle) = (folder.path().join("config.json"), folder.path().join("middle"));
        let file = folder.path().join("dotfiles/docker.json");
        symlink("dotfiles/docker.json", &middle).unwrap();
        symlink(&middle, &link).unwrap();
        // The first login makes the file that the link speaks of.
        put(&link, "a").unwrap();
        put(&link, "b").unwrap();
        assert!(link.is_symlink() && middle.is_symlink() && !file.is_symlink());
        assert_eq!(read(&file).unwrap().keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "a draft is left");
        symlink("loop", folder.path().join("loop")).unwrap();
        assert!(put(&folder.path().join("loop"), "a").unwrap_err().contains("loop"));
    }

    #[test]
    fn modes_and_owners_stay_but_the_world_reads_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, "{}").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            std::os::unix::fs::chown(&path, Some(4321), Some(4322)).unwrap();
        }
        let owner = |path: &Path| std::fs::metadata(path).map(|file| (file.uid(), file.gid())).unwrap();
        let before = owner(&path);
        put(&path, "a").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        change(&path, |document| {
            document.insert("auths".into(), serde_json::json!({"r": {"auth": "YTpi"}}));
        })
        .unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(owner(&path), before);
        assert!(!is_root || before == (4321, 4322));
    }

    #[test]
    fn changes_at_the_same_time_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || put(path, &format!("m{number}")).unwrap());
            }
        });
        assert_eq!(read(&path).unwrap().len(), 8);
    }
}
