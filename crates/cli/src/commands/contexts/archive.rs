//! `context export` and `import`: a context with its secrets as a tar.

use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use super::{check_new, done, resolve, store};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::opts::env::open_error;
use crate::opts::quote;
use crate::store::{Stored, TlsFiles, write_new};
use crate::table::Outcome;

/// The most that is read of an archive, as with docker.
const LARGEST: u64 = 10 << 20;
/// The file of what is no secret.
const META: &str = "meta.json";
/// Where the engine's files are.
const TLS: &str = "tls/docker";

/// `context export`.
pub(crate) async fn export(cx: &Context, given: &Given) -> Outcome {
    let name = given.argument(0);
    let file = match given.argument(1) {
        "" => format!("{name}.dockercontext"),
        file => file.to_owned(),
    };
    if file == "-" && cx.terminal {
        return Err("cowardly refusing to export to a terminal, specify a file path".into());
    }
    let (context, files) = resolve(cx, name)?;
    let archive = pack(&context, &files)?;
    if file == "-" {
        cx.write(archive)?;
        return Ok(0);
    }
    let path = PathBuf::from(cx.absolute(&file));
    write_new(&path, &archive, 0o600).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::new(format!("open {file}: file exists")),
        _ => Failure::new(open_error(&file, &error)),
    })?;
    cx.warn(format_args!("Written file {}", quote(&file)));
    Ok(0)
}

fn pack(context: &Stored, files: &TlsFiles) -> Result<Vec<u8>, Failure> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut append = |path: &str, kind, mode, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, bytes)
    };
    let meta = serde_json::to_vec(context).map_err(std::io::Error::from)?;
    append(META, tar::EntryType::Regular, 0o644, &meta)?;
    append("tls", tar::EntryType::Directory, 0o700, &[])?;
    if !files.is_empty() {
        append(TLS, tar::EntryType::Directory, 0o700, &[])?;
    }
    for (name, text) in files {
        append(&format!("{TLS}/{name}"), tar::EntryType::Regular, 0o600, text)?;
    }
    Ok(archive.into_inner()?)
}

/// `context import`.
pub(crate) async fn import(cx: &Context, given: &Given) -> Outcome {
    let (name, file) = (given.argument(0), given.argument(1));
    check_new(cx, name)?;
    let mut archive = Vec::new();
    let read = match file {
        "-" => std::io::stdin().lock().take(LARGEST + 1).read_to_end(&mut archive),
        file => std::fs::File::open(cx.absolute(file))
            .and_then(|opened| opened.take(LARGEST + 1).read_to_end(&mut archive)),
    };
    read.map_err(|error| Failure::new(open_error(file, &error)))?;
    let (mut context, files) = unpack(archive)?;
    name.clone_into(&mut context.name);
    store(cx).put(&context, &files)?;
    done(cx, name, "imported")
}

fn unpack(mut archive: Vec<u8>) -> Result<(Stored, TlsFiles), Failure> {
    if archive.len() as u64 > LARGEST {
        return Err(format!("the archive has more than {LARGEST} bytes, which no context needs").into());
    }
    if archive.starts_with(b"PK") {
        return Err(Failure::new("contexts in zip files are not built into this client")
            .with_hint("unpack it, and make a tar of meta.json and tls"));
    }
    // Docker's client leaves the end of its archives out.
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    let wrong = |error: std::io::Error| Failure::new(format!("the file is no archive of a context: {error}"));
    let (mut context, mut files) = (None, TlsFiles::new());
    let mut entries = tar::Archive::new(archive.as_slice());
    for entry in entries.entries().map_err(wrong)? {
        let mut entry = entry.map_err(wrong)?;
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let path = entry.path().map_err(wrong)?.into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(wrong)?;
        if path == Path::new(META) {
            let read = serde_json::from_slice::<Stored>(&bytes);
            context = Some(read.map_err(|error| Failure::new(format!("{META} is not understood: {error}")))?);
        } else if let Some(name) = file_of_tls(&path)? {
            files.insert(name, bytes);
        }
    }
    let context = context.ok_or_else(|| Failure::new("invalid context: no metadata found"))?;
    Ok((context, files))
}

/// The name of a file of the engine; none for those of other endpoints. What leads elsewhere is refused.
fn file_of_tls(path: &Path) -> Result<Option<String>, Failure> {
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let is_known = plain && path.starts_with("tls") && path.components().count() == 3;
    let name = path.file_name().and_then(|name| name.to_str()).filter(|_| is_known);
    let Some(name) = name else {
        return Err(Failure::new(format!("invalid context archive: unexpected file {}", path.display())));
    };
    Ok(path.starts_with(TLS).then(|| name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> TlsFiles {
        TlsFiles::from([("ca.pem".to_owned(), b"x".to_vec()), ("key.pem".to_owned(), vec![b'k'; 700])])
    }

    #[test]
    fn what_is_packed_is_unpacked_also_without_the_archives_end() {
        let mut context = Stored { name: "far".to_owned(), ..Stored::default() };
        context.describe("over there");
        context.lead_to("tcp://far:2376", false);
        let archive = pack(&context, &files()).unwrap();
        assert_eq!(unpack(archive.clone()).unwrap(), (context.clone(), files()));
        // As docker leaves it: even the last file is not padded.
        let end = archive.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        assert_eq!(unpack(archive[..end].to_vec()).unwrap(), (context, files()));
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for path in ["tls/docker/../../x", "tls/docker/a/b", "/tls/docker/x", "other", "tls/x"] {
            assert!(file_of_tls(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(file_of_tls(Path::new("tls/kubernetes/ca.pem")).unwrap(), None);
        assert!(unpack(b"junk".to_vec()).unwrap_err().text.contains("no archive"), "junk");
        assert!(unpack(Vec::new()).unwrap_err().text.contains("no metadata found"));
        assert!(unpack(b"PK\x03\x04".to_vec()).unwrap_err().text.contains("zip"));
    }
}
