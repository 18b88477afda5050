//! `artifact`: files that travel through registries as images do. No engine takes part.

use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream;
use yare_distribution::{Content, Intent, Pushed, Resume};
use yare_oci::{Descriptor, MediaType};

use super::remote::{client, failed, name, open, reference};
use crate::artifacts::{Artifact, Artifacts, Making, file_name, parse};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{Layout, Row, json, size, write_list};
use crate::table::Outcome;

const LAYOUT: Layout = Layout {
    headings: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("Digest", "DIGEST"),
        ("Type", "TYPE"),
        ("Size", "SIZE"),
    ],
    table: &["Repository", "Tag", "Digest", "Type", "Size"],
    raw: "",
};
/// The kind of an artifact of which nothing is said.
const KIND: &str = "application/vnd.unknown.artifact.v1";
/// Bytes of a file that are read and sent at once.
const PIECE: u64 = 256 << 10;

fn full(text: &str) -> Result<String, Failure> {
    Ok(reference(text)?.to_string())
}

/// `artifact add`
pub(crate) async fn add(cx: &Context, given: &Given) -> Outcome {
    let named = full(given.argument(0))?;
    let kind = given.text_opt("type").filter(|kind| !kind.is_empty()).unwrap_or(KIND);
    let mut making =
        Making { kind: kind.to_owned(), file_kind: given.text("file-type").to_owned(), ..Making::default() };
    for annotation in given.list("annotation") {
        let (key, value) = annotation
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Failure::new(format!("annotation {annotation:?} is not KEY=VALUE")))?;
        making.annotations.insert(key.to_owned(), value.to_owned());
    }
    let files = given.arguments.iter().skip(1).map(|file| PathBuf::from(&cx.cwd).join(file));
    let artifacts = Artifacts::of(&cx.environment);
    let digest = artifacts.write()?.add(&named, &files.collect::<Vec<_>>(), &making)?;
    cx.line(digest)?;
    Ok(0)
}

/// `artifact ls`
pub(crate) async fn list(cx: &Context, given: &Given) -> Outcome {
    let all = Artifacts::of(&cx.environment).list()?;
    if given.bool("quiet") {
        for artifact in all {
            cx.line(artifact.descriptor.digest)?;
        }
        return Ok(0);
    }
    let whole = given.bool("no-trunc");
    let rows = all.iter().map(|artifact| {
        let (repository, tag) = artifact.name.rsplit_once(':').unwrap_or((&artifact.name, ""));
        let digest = artifact.descriptor.digest;
        Row::new()
            .with("Repository", repository)
            .with("Tag", tag)
            .with("Digest", if whole { digest.to_string() } else { digest.short() })
            .with("Type", artifact.kind())
            .with("Size", size(i64::try_from(artifact.size()).unwrap_or(i64::MAX)))
    });
    write_list(cx, given.text("format"), &LAYOUT, rows)?;
    Ok(0)
}

/// `artifact inspect`
pub(crate) async fn inspect(cx: &Context, given: &Given) -> Outcome {
    let artifacts = Artifacts::of(&cx.environment);
    let mut shown = Vec::new();
    for named in &given.arguments {
        let Artifact { name, descriptor, bytes, .. } = artifacts.find(named)?;
        let manifest: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| Failure::new(error.to_string()))?;
        shown.push(serde_json::json!({ "Name": name, "Digest": descriptor.digest, "Manifest": manifest }));
    }
    cx.line(json::pretty(&serde_json::Value::Array(shown), "    "))?;
    Ok(0)
}

/// `artifact rm`
pub(crate) async fn remove(cx: &Context, given: &Given) -> Outcome {
    let artifacts = Artifacts::of(&cx.environment);
    let writing = artifacts.write()?;
    for named in &given.arguments {
        cx.line(writing.remove(named)?)?;
    }
    Ok(0)
}

/// `artifact extract`: its files, into a folder. What is there already is not overwritten.
pub(crate) async fn extract(cx: &Context, given: &Given) -> Outcome {
    let artifacts = Artifacts::of(&cx.environment);
    let artifact = artifacts.find(given.argument(0))?;
    let folder = PathBuf::from(&cx.cwd).join(given.arguments.get(1).map_or(".", String::as_str));
    for layer in &artifact.manifest.layers {
        let path = folder.join(file_name(layer)?);
        let failed =
            |error: std::io::Error| Failure::new(format!("cannot write {}: {error}", path.display()));
        let mut source = std::fs::File::open(artifacts.blob(&layer.digest)).map_err(failed)?;
        let options = std::fs::File::options().write(true).create_new(true).mode(0o644).open(&path);
        std::io::copy(&mut source, &mut options.map_err(failed)?).map_err(failed)?;
        cx.line(path.display())?;
    }
    Ok(0)
}

/// `artifact pull`
pub(crate) async fn pull(cx: &Context, given: &Given) -> Outcome {
    let wanted = reference(given.argument(0))?;
    let client = client(cx, given, &[&wanted])?;
    let repository = open(cx, &client, &wanted, Intent::Pull).await?;
    let document = repository.manifest(&name(&wanted)).await.map_err(|error| failed(&error))?;
    let kind = document.descriptor.media_type.as_str();
    if MediaType::is_index(kind) {
        let why = format!("{} is an index of several manifests", wanted.familiar());
        return Err(Failure::new(why).with_hint("name one of them by digest: NAME@sha256:..."));
    }
    let manifest = parse(&wanted.familiar(), &document.bytes)?;
    let artifacts = Artifacts::of(&cx.environment);
    let writing = artifacts.write()?;
    for blob in manifest.layers.iter().chain([&manifest.config]) {
        if writing.has(blob) {
            continue;
        }
        let mut draft = writing.draft()?;
        let stream = repository.blob(blob, Resume::default());
        let mut stream = stream.map_err(|error| failed(&error))?;
        while let Some(chunk) = stream.chunk().await.map_err(|error| failed(&error))? {
            draft.append(&chunk)?;
        }
        writing.finish(draft)?;
    }
    let digest = writing.name(&wanted.to_string(), kind, &document.bytes)?;
    cx.line(digest)?;
    Ok(0)
}

/// `artifact push`
pub(crate) async fn push(cx: &Context, given: &Given) -> Outcome {
    let target = reference(given.argument(0))?;
    let artifacts = Artifacts::of(&cx.environment);
    let artifact = artifacts.find(given.argument(0))?;
    let client = client(cx, given, &[&target])?;
    let repository = open(cx, &client, &target, Intent::Push).await?;
    let mut sent = 0;
    for blob in artifact.blobs() {
        let file = std::fs::File::open(artifacts.blob(&blob.digest))
            .map_err(|error| Failure::new(format!("blob {} cannot be read: {error}", blob.digest)))?;
        let file = Arc::new(file);
        let content = |offset: u64| content(Arc::clone(&file), blob, offset);
        let pushed = repository.push_blob(blob, &[], &content).await.map_err(|error| failed(&error))?;
        sent += u32::from(pushed == Pushed::Uploaded);
    }
    let kind = &artifact.descriptor.media_type;
    let put = repository.put_manifest(&name(&target), kind, &artifact.bytes).await;
    let digest = put.map_err(|error| failed(&error))?;
    if !given.bool("quiet") {
        cx.line(format_args!("{}: {sent} blobs sent", target.familiar()))?;
    }
    cx.line(digest)?;
    Ok(0)
}

/// The content of a blob from `offset`, as it is sent.
fn content(file: Arc<std::fs::File>, blob: &Descriptor, offset: u64) -> Content {
    let end = blob.size;
    Box::pin(stream::try_unfold(offset, move |start| {
        let file = Arc::clone(&file);
        async move {
            if start >= end {
                return Ok(None);
            }
            let read = tokio::task::spawn_blocking(move || {
                let length = usize::try_from(PIECE.min(end - start)).map_err(std::io::Error::other)?;
                let mut piece = vec![0; length];
                file.read_exact_at(&mut piece, start)?;
                Ok::<_, std::io::Error>(piece)
            });
            let piece = read.await.map_err(std::io::Error::other)??;
            let next = start + piece.len() as u64;
            Ok(Some((piece.into(), next)))
        }
    }))
}
