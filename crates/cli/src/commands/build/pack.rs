//! A directory as a tar stream, for engines that do not see its files.
//!
//! As Docker's client sends a context: names sorted, modes, times and links as they are, hard links once,
//! no owner, no extended attributes. Sockets are left out. The bytes go to the engine as fast as it takes
//! them, through one buffer.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use yare_dockerfile::ignore::{Cursor, Ignore};

use crate::failure::Failure;

/// What of a directory is sent.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// What is not.
    pub ignore: Ignore,
    /// Files that are sent whatever is ignored: the engine reads them, though no step sees them.
    pub always: Vec<String>,
}

impl Selection {
    /// Reads the ignore file that goes with a Dockerfile at this path within the directory; `inline` is the
    /// one beside a Dockerfile that is elsewhere.
    pub(super) fn of(directory: &Path, dockerfile: &str, inline: Option<&[u8]>) -> Result<Self, Failure> {
        let dockerfile = if dockerfile.is_empty() { "Dockerfile" } else { dockerfile };
        let own = format!("{dockerfile}.dockerignore");
        let always = vec![dockerfile.to_owned(), own.clone(), ".dockerignore".to_owned()];
        let mut found = inline.map(|text| ("the ignore file".to_owned(), text.to_vec()));
        for name in [own.as_str(), ".dockerignore"] {
            if found.is_some() {
                break;
            }
            let path = directory.join(name);
            match fs::read(&path) {
                Ok(text) => found = Some((name.to_owned(), text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(&path, &error)),
            }
        }
        let Some((name, text)) = found else { return Ok(Self { ignore: Ignore::default(), always }) };
        let ignore = Ignore::parse(&String::from_utf8_lossy(&text))
            .map_err(|error| Failure::new(format!("failed to read {name}: {error}")))?;
        Ok(Self { ignore, always })
    }

    /// Whether something that is always sent is below this directory.
    fn leads_on(&self, directory: &str) -> bool {
        let mut below = self.always.iter().filter_map(|path| path.strip_prefix(directory));
        below.any(|rest| rest.starts_with('/'))
    }
}

/// How packing ended.
pub(super) struct Packing(Option<oneshot::Receiver<Result<(), Failure>>>);

impl Packing {
    /// Waits for the end, which is told once and is a success from then on. Packing that was broken off
    /// because nobody read it any more has not failed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let Some(ended) = &mut self.0 else { return Poll::Ready(Ok(())) };
        let outcome = ready!(Pin::new(ended).poll(cx));
        self.0 = None;
        Poll::Ready(outcome.unwrap_or_else(|_| Err("packing the context ended early".into())))
    }
}

/// Packs on a thread of its own; the reader gives the tar.
pub(super) fn stream(
    directory: PathBuf,
    selection: Selection,
) -> Result<(tokio::net::UnixStream, Packing), Failure> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let reader = tokio::net::UnixStream::from_std(ours)?;
    let (done, ended) = oneshot::channel();
    std::thread::Builder::new().name("pack".to_owned()).spawn(move || {
        let writer = io::BufWriter::with_capacity(64 * 1024, theirs);
        let outcome = match pack(&directory, &selection, writer) {
            Ok(()) | Err(Fault::Reader) => Ok(()),
            Err(Fault::File(failure)) => Err(failure),
        };
        // Whoever waited may have failed already.
        drop(done.send(outcome));
    })?;
    Ok((reader, Packing(Some(ended))))
}

/// Why packing stopped.
#[derive(Debug)]
enum Fault {
    /// A file of the context cannot be read.
    File(Failure),
    /// Nobody takes the bytes any more; whoever took them knows why.
    Reader,
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::File(failure)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let why = super::options::file_error(&path.display().to_string(), error);
    let failure = Failure::new(format!("failed to read the build context: {why}"));
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            failure.with_hint("make it readable, or leave it out with a line in .dockerignore")
        }
        _ => failure,
    }
}

fn pack(root: &Path, selection: &Selection, writer: impl Write) -> Result<(), Fault> {
    let mut packer =
        Packer { archive: tar::Builder::new(writer), links: HashMap::new(), selection, pending: Vec::new() };
    packer.entries(root, Path::new(""), &selection.ignore.root())?;
    packer.archive.into_inner().and_then(|mut writer| writer.flush()).map_err(|_| Fault::Reader)
}

struct Packer<'a, W: Write> {
    archive: tar::Builder<W>,
    /// Names of files that have several, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    selection: &'a Selection,
    /// Ignored directories on the way to where the walk is: they are sent once something below them is.
    pending: Vec<(PathBuf, tar::Header)>,
}

impl<W: Write> Packer<'_, W> {
    fn entries(&mut self, directory: &Path, name: &Path, cursor: &Cursor<'_>) -> Result<(), Fault> {
        let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.map_err(|error| unreadable(directory, &error))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            let kind = entry.file_type().map_err(|error| unreadable(&path, &error))?;
            // Patterns are text; what is none in a name is matched by wildcards only.
            let text = name.to_string_lossy();
            if kind.is_dir() {
                self.directory(&path, &name, &cursor.enter(&text))?;
            } else if !kind.is_socket()
                && (!cursor.is_ignored(&text) || self.selection.always.iter().any(|always| *always == text))
            {
                self.one(&path, &name)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, name: &Path, cursor: &Cursor<'_>) -> Result<(), Fault> {
        let ignored = cursor.ignored();
        if ignored && cursor.prunable() && !self.selection.leads_on(&name.to_string_lossy()) {
            return Ok(());
        }
        let found = fs::symlink_metadata(path).map_err(|error| unreadable(path, &error))?;
        let mut header = header(&found);
        header.set_entry_type(tar::EntryType::Directory);
        let depth = self.pending.len();
        self.pending.push((name.to_owned(), header));
        if !ignored {
            self.parents()?;
        }
        self.entries(path, name, cursor)?;
        self.pending.truncate(depth);
        Ok(())
    }

    /// Sends the directories on the way that have not been sent.
    fn parents(&mut self) -> Result<(), Fault> {
        for (name, mut header) in std::mem::take(&mut self.pending) {
            // Its slash tells a directory apart for readers that know no types.
            let mut name = name.into_os_string();
            name.push("/");
            self.append(&mut header, Path::new(&name), io::empty())?;
        }
        Ok(())
    }

    fn one(&mut self, path: &Path, name: &Path) -> Result<(), Fault> {
        self.parents()?;
        let found = fs::symlink_metadata(path).map_err(|error| unreadable(path, &error))?;
        let kind = found.file_type();
        let mut header = header(&found);
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|error| unreadable(path, &error))?;
            header.set_entry_type(tar::EntryType::Symlink);
            return self.append_link(&mut header, name, &target);
        }
        if found.nlink() > 1 {
            match self.links.entry((found.dev(), found.ino())) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    let first = first.get().clone();
                    header.set_entry_type(tar::EntryType::Link);
                    return self.append_link(&mut header, name, &first);
                }
                std::collections::hash_map::Entry::Vacant(first) => drop(first.insert(name.to_owned())),
            }
        }
        if !kind.is_file() {
            return self.special(&mut header, name, &found);
        }
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(found.len());
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        let mut contents = Exact { file, left: found.len(), fault: None };
        let written = self.append(&mut header, name, &mut contents);
        match contents.fault {
            Some(error) => Err(unreadable(path, &error).into()),
            None => written,
        }
    }

    fn special(&mut self, header: &mut tar::Header, name: &Path, found: &fs::Metadata) -> Result<(), Fault> {
        let kind = found.file_type();
        header.set_entry_type(if kind.is_fifo() {
            tar::EntryType::Fifo
        } else if kind.is_char_device() {
            tar::EntryType::Char
        } else {
            tar::EntryType::Block
        });
        if !kind.is_fifo() {
            let numbers = header
                .set_device_major(rustix::fs::major(found.rdev()))
                .and_then(|()| header.set_device_minor(rustix::fs::minor(found.rdev())));
            numbers.map_err(|error| unreadable(name, &error))?;
        }
        self.append(header, name, io::empty())
    }

    fn append(
        &mut self,
        header: &mut tar::Header,
        name: &Path,
        contents: impl io::Read,
    ) -> Result<(), Fault> {
        self.archive.append_data(header, name, contents).map_err(|_| Fault::Reader)
    }

    fn append_link(&mut self, header: &mut tar::Header, name: &Path, target: &Path) -> Result<(), Fault> {
        // An empty target cannot be read back; the system makes none.
        debug_assert!(!target.as_os_str().as_bytes().is_empty(), "links have targets");
        self.archive.append_link(header, name, target).map_err(|_| Fault::Reader)
    }
}

/// The header of a file: its mode and time, and no owner.
fn header(found: &fs::Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(found.mode() & 0o7777);
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

/// A file that gives exactly as many bytes as its header says, whatever is written to it meanwhile.
struct Exact {
    file: File,
    left: u64,
    fault: Option<io::Error>,
}

impl io::Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let outcome = match self.file.read(&mut buffer[..most]) {
            Ok(0) => Err(io::Error::other("the file became shorter while it was read")),
            other => other,
        };
        match outcome {
            Ok(count) => {
                self.left -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.fault = Some(error);
                Err(kind.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("yare-pack-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&path));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    /// What is packed of a directory: kind, mode, link's target and text by name.
    type Packed = BTreeMap<Vec<u8>, (tar::EntryType, u32, Vec<u8>, String)>;

    fn packed(root: &Path, selection: &Selection) -> (Vec<Vec<u8>>, Packed) {
        let mut bytes = Vec::new();
        pack(root, selection, &mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let (mut order, mut seen) = (Vec::new(), Packed::new());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let (header, name) = (entry.header().clone(), entry.path_bytes().into_owned());
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            let target = entry.link_name_bytes().map(|target| target.into_owned()).unwrap_or_default();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            order.push(name.clone());
            seen.insert(name, (header.entry_type(), header.mode().unwrap(), target, text));
        }
        (order, seen)
    }

    fn texts(names: Vec<Vec<u8>>) -> Vec<String> {
        names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
    }

    #[test]
    fn kinds_links_modes_and_names_of_any_bytes() {
        let scratch = Scratch::new("kinds");
        let root = &scratch.0;
        let long = "n".repeat(150);
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/a"), "text").unwrap();
        fs::set_permissions(root.join("dir/a"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(root.join("dir/a"), root.join("dir/b")).unwrap();
        std::os::unix::fs::symlink("../nowhere", root.join("link")).unwrap();
        fs::write(root.join(OsStr::from_bytes(b"\xff\xfe\n")), "odd").unwrap();
        fs::write(root.join(&long), "long").unwrap();
        let socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let (order, seen) = packed(root, &Selection::default());
        drop(socket);
        let expected: Vec<&[u8]> =
            vec![b"dir/", b"dir/a", b"dir/b", b"dir/sub/", b"link", long.as_bytes(), b"\xff\xfe\n"];
        assert_eq!(order, expected);
        assert_eq!(seen[b"dir/a".as_slice()].1, 0o4751);
        assert_eq!(seen[b"dir/a".as_slice()].3, "text");
        assert_eq!(seen[b"dir/b".as_slice()].0, tar::EntryType::Link);
        assert_eq!(seen[b"dir/b".as_slice()].2, b"dir/a");
        assert_eq!(seen[b"link".as_slice()].2, b"../nowhere");
        assert_eq!(seen[b"\xff\xfe\n".as_slice()].3, "odd");
    }

    #[test]
    fn what_is_ignored_is_not_sent() {
        let scratch = Scratch::new("ignored");
        let root = &scratch.0;
        fs::create_dir_all(root.join("out/deep/er")).unwrap();
        fs::create_dir_all(root.join("docker")).unwrap();
        fs::create_dir_all(root.join("gone")).unwrap();
        let files = [
            "a.log",
            "b",
            "out/x",
            "out/deep/keep",
            "out/deep/er/y",
            "docker/D",
            "docker/z",
            "gone/g",
            "Dockerfile",
        ];
        for name in files {
            fs::write(root.join(name), name).unwrap();
        }
        let ignore = "*.log\nout\n!out/deep/keep\ndocker\ngone\nDockerfile\n.dockerignore\n";
        fs::write(root.join(".dockerignore"), ignore).unwrap();
        let usual = Selection::of(root, "", None).unwrap();
        let expected = [".dockerignore", "Dockerfile", "b", "out/", "out/deep/", "out/deep/keep"];
        assert_eq!(texts(packed(root, &usual).0), expected);
        // The Dockerfile is sent from within an ignored directory, too.
        let other = Selection::of(root, "docker/D", None).unwrap();
        let expected = [".dockerignore", "b", "docker/", "docker/D", "out/", "out/deep/", "out/deep/keep"];
        assert_eq!(texts(packed(root, &other).0), expected);
        fs::write(root.join("docker/D.dockerignore"), "*\n").unwrap();
        let own = Selection::of(root, "docker/D", None).unwrap();
        let expected = [".dockerignore", "docker/", "docker/D", "docker/D.dockerignore"];
        assert_eq!(texts(packed(root, &own).0), expected);
        let inline = Selection::of(root, "", Some(b"*\n!b\n")).unwrap();
        assert_eq!(texts(packed(root, &inline).0), [".dockerignore", "Dockerfile", "b"]);
        let wrong = Selection::of(root, "", Some(b"[\n")).unwrap_err();
        assert!(wrong.text.starts_with("failed to read the ignore file: "), "{}", wrong.text);
    }

    #[test]
    fn a_file_that_shrinks_is_named() {
        let scratch = Scratch::new("shrinks");
        let path = scratch.0.join("f");
        fs::write(&path, "12345").unwrap();
        let mut exact = Exact { file: File::open(&path).unwrap(), left: 10, fault: None };
        let mut text = Vec::new();
        assert!(exact.read_to_end(&mut text).is_err());
        let failure = unreadable(&path, &exact.fault.unwrap());
        assert!(failure.text.contains("became shorter") && failure.text.contains(path.to_str().unwrap()));
    }
}
