//! What is built: the context and the Dockerfile, from the words on the command line.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use yare_api::build::{BuildContext, BuildRequest, MAX_REQUEST};

use super::options::file_error;
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::opts::quote;
use crate::session::Input;

/// How much of standard input is looked at: a tar's first header with its magic.
const HEAD: usize = 512;
/// Most bytes of a Dockerfile that is sent within the request, which grows by a third there.
const MAX_DOCKERFILE: usize = MAX_REQUEST / 4;

/// The main context.
#[derive(Debug)]
pub(super) enum Source {
    /// A directory of ours; its full path, free of links.
    Directory(PathBuf),
    /// Somewhere the engine gets it from.
    Remote(BuildContext),
    /// A tar on standard input, of which these bytes are read already.
    Archive(Vec<u8>),
    /// Nothing but the Dockerfile, which is in the request.
    Nothing,
}

/// Finds the context and the Dockerfile; the latter goes into the request.
pub(super) async fn find(cx: &Context, given: &Given, request: &mut BuildRequest) -> Result<Source, Failure> {
    let (context, file) = (given.argument(0), given.text("file"));
    for text in given.list("build-context") {
        let (name, context) = named(cx, &text)?;
        request.contexts.insert(name, context);
    }
    if context == "-" && file == "-" {
        return Err("invalid argument: can't use stdin for both build context and dockerfile".into());
    }
    if file.starts_with("http://") || file.starts_with("https://") {
        return Err(Failure::new(format!("failed to read dockerfile: {file} is a URL"))
            .with_hint("download it and give its path, or read it from standard input with -f -"));
    }
    if file == "-" {
        let text = read_all(cx, Vec::new()).await?;
        inline(request, &text, None)?;
    }
    if context == "-" {
        let head = read_head(cx).await?;
        if is_archive(&head) {
            file.clone_into(&mut request.dockerfile);
            return Ok(Source::Archive(head));
        }
        if !file.is_empty() {
            return Err(Failure::new(
                "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
            ));
        }
        let text = read_all(cx, head).await?;
        inline(request, &text, None)?;
        return Ok(Source::Nothing);
    }
    if let Some(remote) = remote(context) {
        if file != "-" {
            file.clone_into(&mut request.dockerfile);
        }
        return Ok(Source::Remote(remote));
    }
    let directory = directory(cx, context)?;
    if file != "-" {
        dockerfile(cx, &directory, file, request)?;
    }
    Ok(Source::Directory(directory))
}

/// A directory as the engine is told of it, with what it needs to see whether it has the same one.
pub(super) fn local(directory: &Path) -> Result<BuildContext, Failure> {
    let found = std::fs::metadata(directory)
        .map_err(|error| Failure::new(file_error(&directory.display().to_string(), &error)))?;
    let Some(value) = directory.to_str() else {
        return Err(Failure::new(format!("the path of the context is not UTF-8: {}", directory.display()))
            .with_hint("rename the directory, or send a tar: tar -C DIRECTORY -c . | yare build -"));
    };
    Ok(BuildContext {
        kind: "local".to_owned(),
        value: value.to_owned(),
        device: found.dev(),
        inode: found.ino(),
    })
}

/// The directory at this path.
fn directory(cx: &Context, path: &str) -> Result<PathBuf, Failure> {
    let wanted = PathBuf::from(cx.absolute(path));
    let found = match std::fs::canonicalize(&wanted) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(format!("unable to prepare context: path {} not found", quote(path))));
        }
        Err(error) => {
            let why = file_error(&wanted.display().to_string(), &error);
            return Err(Failure::new(format!("unable to prepare context: {why}")));
        }
    };
    if !found.is_dir() {
        let text = format!("unable to prepare context: path {} is not a directory", quote(path));
        return Err(Failure::new(text).with_hint("a Dockerfile of another name is given with -f"));
    }
    Ok(found)
}

/// The Dockerfile of a directory: its path when it is within, or else its text.
fn dockerfile(cx: &Context, directory: &Path, file: &str, request: &mut BuildRequest) -> Result<(), Failure> {
    if file.is_empty() {
        // The lower-case name serves when the usual one is not there.
        let name = ["Dockerfile", "dockerfile"].into_iter().find(|name| directory.join(name).exists());
        return match name {
            Some("Dockerfile") => Ok(()),
            Some(name) => {
                name.clone_into(&mut request.dockerfile);
                Ok(())
            }
            None => Err(missing(directory, "Dockerfile")),
        };
    }
    let wanted = PathBuf::from(cx.absolute(file));
    let found = std::fs::canonicalize(&wanted).map_err(|error| {
        Failure::new(format!(
            "failed to read dockerfile: {}",
            file_error(&wanted.display().to_string(), &error)
        ))
    })?;
    if let Ok(within) = found.strip_prefix(directory)
        && let Some(within) = within.to_str()
    {
        within.clone_into(&mut request.dockerfile);
        return Ok(());
    }
    let read = |path: &Path| -> Result<Vec<u8>, Failure> {
        std::fs::read(path).map_err(|error| {
            let why = file_error(&path.display().to_string(), &error);
            Failure::new(format!("failed to read dockerfile: {why}"))
        })
    };
    let text = read(&found)?;
    let mut beside = wanted.clone().into_os_string();
    beside.push(".dockerignore");
    let beside = PathBuf::from(beside);
    let ignore = if beside.exists() { Some(read(&beside)?) } else { None };
    inline(request, &text, ignore.as_deref())
}

fn missing(directory: &Path, name: &str) -> Failure {
    let path = directory.join(name);
    let failure = Failure::new(format!(
        "failed to read dockerfile: open {}: no such file or directory",
        path.display()
    ));
    let other = ["Containerfile", "Dockerfile.txt"].into_iter().find(|name| directory.join(name).exists());
    match other {
        Some(other) => {
            failure.with_hint(format!("there is a {other}: add -f {}", directory.join(other).display()))
        }
        None => failure.with_hint("give the directory that has the Dockerfile, or the file with -f"),
    }
}

fn inline(request: &mut BuildRequest, text: &[u8], ignore: Option<&[u8]>) -> Result<(), Failure> {
    if text.len() + ignore.map_or(0, <[u8]>::len) > MAX_DOCKERFILE {
        return Err(Failure::new(format!(
            "failed to read dockerfile: it is larger than {MAX_DOCKERFILE} bytes"
        )));
    }
    request.dockerfile_inline = Some(STANDARD.encode(text));
    request.ignore_inline = ignore.map(|ignore| STANDARD.encode(ignore));
    Ok(())
}

/// A context that the engine gets by itself: git repositories in all forms that Docker knows, and URLs.
fn remote(text: &str) -> Option<BuildContext> {
    let lower = text.to_ascii_lowercase();
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| lower.starts_with(prefix));
    let address = lower.split(['#', '?']).next().unwrap_or_default();
    let kind = if starts(&["git://", "github.com/", "ssh://"]) || is_scp_form(text) {
        "git"
    } else if starts(&["http://", "https://"]) {
        if address.trim_end_matches('/').ends_with(".git") { "git" } else { "http" }
    } else {
        return None;
    };
    Some(BuildContext { kind: kind.to_owned(), value: text.to_owned(), ..BuildContext::default() })
}

/// `user@host:path`, as git takes it.
fn is_scp_form(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let plain = |text: &str| !text.is_empty() && !text.contains(['/', ':', '#', ' ']);
    let host = rest.split([':', '/']).next().unwrap_or_default();
    plain(user) && plain(host) && host.len() < rest.len()
}

/// Reads one `--build-context`.
fn named(cx: &Context, text: &str) -> Result<(String, BuildContext), Failure> {
    let Some((name, value)) =
        text.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty())
    else {
        return Err(Failure::new(format!("invalid context value: {text}, expected key=value")));
    };
    let of = |kind: &str, value: &str| BuildContext {
        kind: kind.to_owned(),
        value: value.to_owned(),
        ..BuildContext::default()
    };
    let context = if let Some(image) = value.strip_prefix("docker-image://") {
        of("image", image)
    } else if let Some(layout) = value.strip_prefix("oci-layout://") {
        of("oci-layout", &cx.absolute(layout))
    } else if value.starts_with("target:") {
        return Err(Failure::new(format!("invalid context value: {text}: targets are for bake only")));
    } else if let Some(remote) = remote(value) {
        remote
    } else {
        local(&directory(cx, value)?).map_err(|failure| Failure {
            text: format!("failed to get build context {name}: {}", failure.text),
            ..failure
        })?
    };
    // `FROM alpine` and `FROM alpine:latest` mean the same context.
    let reference = yare_oci::Reference::parse(name)
        .map_err(|error| Failure::new(format!("invalid context name {name}: {error}")))?;
    let familiar = reference.familiar();
    Ok((familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned(), context))
}

/// The first bytes of standard input; fewer than [`HEAD`] only at its end.
async fn read_head(cx: &Context) -> Result<Vec<u8>, Failure> {
    let mut input = Input::new(cx.stdio.input);
    let mut head = vec![0; HEAD];
    let mut filled = 0;
    while filled < HEAD {
        match input.read(&mut head[filled..]).await? {
            0 => break,
            count => filled += count,
        }
    }
    head.truncate(filled);
    Ok(head)
}

/// The rest of standard input after `text`, as a Dockerfile.
async fn read_all(cx: &Context, mut text: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let mut input = Input::new(cx.stdio.input);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = input.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..count]);
        if text.len() > MAX_DOCKERFILE {
            return Err(Failure::new(format!(
                "failed to read dockerfile: standard input has more than {MAX_DOCKERFILE} bytes"
            ))
            .with_hint("what begins like no tar is read as a Dockerfile"));
        }
    }
    if text.is_empty() {
        return Err("failed to read dockerfile: the Dockerfile (stdin) cannot be empty".into());
    }
    Ok(text)
}

/// Whether bytes begin a tar, plain or compressed.
fn is_archive(head: &[u8]) -> bool {
    const COMPRESSED: [&[u8]; 5] =
        [b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x5d\0\0\x80\0"];
    COMPRESSED.iter().any(|magic| head.starts_with(magic)) || is_tar(head)
}

/// Whether this is a tar's header, by its checksum: archives from before POSIX have no magic.
fn is_tar(head: &[u8]) -> bool {
    let Some(header) = head.get(..HEAD) else { return false };
    let field: Vec<u8> = header[148..156].iter().copied().filter(|byte| !matches!(byte, 0 | b' ')).collect();
    let recorded = std::str::from_utf8(&field).ok().and_then(|text| u32::from_str_radix(text, 8).ok());
    let sum = header.iter().enumerate().map(|(at, byte)| {
        // The field itself counts as spaces.
        if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(*byte) }
    });
    recorded == Some(sum.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Option<String> {
        remote(text).map(|context| context.kind)
    }

    #[test]
    fn repositories_and_urls() {
        for text in [
            "GIT://github.com/user/repo.git",
            "git://github.com/user/repo.git#mybranch:mydir/mysubdir/",
            "https://github.com/user/repo.git",
            "https://github.com/user/repo.git#mybranch:mydir",
            "https://example.com/r.git?ref=v1&subdir=x",
            "git@github.com:user/repo.git#mybranch",
            "git@github.com/moby/moby",
            "ssh://foo%40barcorp.com@github.com/user/repo.git",
            "github.com/user/repo",
        ] {
            assert_eq!(kind(text).as_deref(), Some("git"), "{text}");
        }
        assert_eq!(kind("https://example.com/context.tar.gz").as_deref(), Some("http"));
        for text in [".", "/a", "a@b", "a/b@c:d", "./git@x:y", "directory"] {
            assert_eq!(kind(text), None, "{text}");
        }
    }

    #[test]
    fn standard_input_is_told_apart() {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        archive.append_data(&mut header, "Dockerfile", &b""[..]).unwrap();
        let tar = archive.into_inner().unwrap();
        assert!(is_archive(&tar[..HEAD]));
        let mut old = tar::Header::new_old();
        old.set_path("x").unwrap();
        old.set_size(0);
        old.set_cksum();
        assert!(is_archive(old.as_bytes()));
        assert!(
            is_archive(b"\x1f\x8b\x08\0") && is_archive(b"\x28\xb5\x2f\xfd\x24") && is_archive(b"BZh91AY")
        );
        let mut text = b"FROM busybox\n".to_vec();
        text.extend(std::iter::repeat_n(b'#', 600));
        assert!(!is_archive(&text[..HEAD]));
        assert!(!is_archive(b"FROM x") && !is_archive(b"") && !is_archive(&[0; HEAD]));
    }
}
