//! Root filesystems made on the spot, so that no test needs a registry.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tar::{Builder, EntryType, Header};

use crate::binary::cache_folder;
use crate::command::Invocation;

/// A small root filesystem: a static busybox and a link to it for each of its programs.
///
/// # Panics
/// When there is no busybox on this machine.
pub fn busybox_rootfs_tar() -> &'static [u8] {
    static TAR: OnceLock<Vec<u8>> = OnceLock::new();
    TAR.get_or_init(|| {
        let busybox =
            ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(Path::new).find(|path| path.is_file());
        let busybox = busybox.expect("busybox is installed (apt-get install busybox-static)");
        let programs = Invocation::new(busybox, &["--list"]).ok();
        let binary = std::fs::read(busybox).expect("busybox can be read");
        build(&binary, programs.lines()).expect("a tar can be written to memory")
    })
}

fn build<'a>(busybox: &[u8], programs: impl Iterator<Item = &'a str>) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (folder, mode) in [
        ("bin/", 0o755),
        ("dev/", 0o755),
        ("etc/", 0o755),
        ("home/", 0o755),
        ("proc/", 0o555),
        ("root/", 0o700),
        ("sys/", 0o555),
        ("tmp/", 0o1777),
        ("var/", 0o755),
    ] {
        add(&mut tar, folder, EntryType::Directory, mode, b"")?;
    }
    add(&mut tar, "bin/busybox", EntryType::Regular, 0o755, busybox)?;
    for program in programs.filter(|program| *program != "busybox") {
        let mut header = header(EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{program}"), "busybox")?;
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n\
                 app:x:1000:1000:app:/home:/bin/sh\n";
    add(&mut tar, "etc/passwd", EntryType::Regular, 0o644, users.as_bytes())?;
    let groups = "root:x:0:\nnogroup:x:65534:\napp:x:1000:\nextra:x:2000:app\n";
    add(&mut tar, "etc/group", EntryType::Regular, 0o644, groups.as_bytes())?;
    tar.into_inner()
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(1_700_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn add(tar: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, mode: u32, content: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(kind, mode, content.len()), path, content)
}

/// A minimal Debian as a tar, made once by `mmdebstrap` and kept beside the build.
///
/// # Panics
/// When it cannot be made.
pub fn debian_rootfs_tar() -> PathBuf {
    let folder = cache_folder();
    std::fs::create_dir_all(&folder).expect("the folder of prepared things can be made");
    let tar = folder.join("debian-minbase.tar");
    if !tar.is_file() {
        let unfinished = folder.join(format!("debian-minbase.{}.tar", std::process::id()));
        bootstrap(&unfinished);
        std::fs::rename(&unfinished, &tar).expect("a finished tar can be renamed");
    }
    tar
}

fn bootstrap(tar: &Path) {
    let mut args = vec!["--variant=minbase".to_owned(), release(), tar.display().to_string()];
    // The mirrors of this machine, which may not reach others.
    args.extend(sources().iter().map(|source| source.display().to_string()));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Invocation::new("mmdebstrap", &args).patience(std::time::Duration::from_secs(600)).ok();
}

/// The code name of this machine's Debian, or the stable one.
fn release() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let debian = text.lines().any(|line| line == "ID=debian");
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.filter(|_| debian).unwrap_or("stable").to_owned()
}

fn sources() -> Vec<PathBuf> {
    let lists = std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let debian = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("debian") && (name.ends_with(".sources") || name.ends_with(".list"))
    };
    let main = PathBuf::from("/etc/apt/sources.list");
    let mut found: Vec<PathBuf> = lists.map(|entry| entry.path()).filter(debian).collect();
    if main.metadata().is_ok_and(|metadata| metadata.len() > 0) {
        found.push(main);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busybox_has_its_links() {
        let bytes = build(b"binary", ["busybox", "sh", "echo"].into_iter()).expect("built");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<String> = archive
            .entries()
            .expect("entries")
            .map(|entry| entry.expect("an entry").path().expect("a path").display().to_string())
            .collect();
        for wanted in ["bin/busybox", "bin/sh", "bin/echo", "etc/passwd", "tmp/"] {
            assert!(names.iter().any(|name| name == wanted), "{wanted} is not in {names:?}");
        }
        assert_eq!(names.iter().filter(|name| *name == "bin/busybox").count(), 1);
    }
}
