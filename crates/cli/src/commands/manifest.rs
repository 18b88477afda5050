//! `manifest create`, `annotate`, `inspect`, `push` and `rm`: lists of images of several platforms, put together
//! from what registries have. No engine takes part.

use yare_distribution::{Client, Document, Intent, Name, Repository};
use yare_errdefs::{Class, Classified as _};
use yare_oci::{Index, MediaType, Reference};

use super::remote::{Told, client, failed, name, open, reference, told};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::json::Json;
use crate::manifests::{Entry, Lists, document};
use crate::table::Outcome;

/// What Go compiles for, and so what Docker takes.
const PLATFORMS: &[(&str, &[&str])] = &[
    ("aix", &["ppc64"]),
    ("android", &["386", "amd64", "arm", "arm64"]),
    ("darwin", &["386", "amd64", "arm", "arm64"]),
    ("dragonfly", &["amd64"]),
    ("freebsd", &["386", "amd64", "arm", "arm64"]),
    (
        "linux",
        &[
            "386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc64",
            "ppc64le", "riscv64", "s390x",
        ],
    ),
    ("netbsd", &["386", "amd64", "arm", "arm64"]),
    ("openbsd", &["386", "amd64", "arm", "arm64"]),
    ("plan9", &["386", "amd64", "arm"]),
    ("solaris", &["amd64"]),
    ("wasip1", &["wasm"]),
    ("windows", &["386", "amd64", "arm", "arm64"]),
];

fn lists(cx: &Context) -> Lists {
    Lists::of(&cx.config_directory)
}

fn no_such(wanted: &Reference) -> Failure {
    Failure::new(format!("No such manifest: {wanted}"))
}

/// `manifest create`. The list is written when all its images are known, or not at all.
pub(crate) async fn create(cx: &Context, given: &Given) -> Outcome {
    let target = reference(given.argument(0))?;
    let lists = lists(cx);
    if lists.list(&target)?.is_some() && !given.bool("amend") {
        return Err("refusing to amend an existing manifest list with no --amend flag".into());
    }
    let images: Vec<Reference> =
        given.arguments[1..].iter().map(|text| reference(text)).collect::<Result<_, _>>()?;
    let client = client(cx, given, &images.iter().collect::<Vec<_>>())?;
    let mut entries = Vec::new();
    for image in &images {
        // What is in the list already may have been annotated.
        let entry = match lists.entry(&target, image)? {
            Some(entry) => entry,
            None => fetch(cx, &client, image).await?,
        };
        entries.push(entry);
    }
    for (image, entry) in images.iter().zip(&entries) {
        lists.save(&target, image, entry)?;
    }
    cx.line(format_args!("Created manifest list {target}"))?;
    Ok(0)
}

/// `manifest annotate`.
pub(crate) async fn annotate(cx: &Context, given: &Given) -> Outcome {
    let (target, image) = (reference(given.argument(0))?, reference(argument(given, 1))?);
    let lists = lists(cx);
    let mut entry = lists
        .entry(&target, &image)?
        .ok_or_else(|| Failure::new(format!("manifest for image {image} does not exist in {target}")))?;
    let mut platform = entry.descriptor.platform.take().unwrap_or_else(|| Told::default().into());
    for (flag, member) in [
        ("os", &mut platform.os),
        ("arch", &mut platform.architecture),
        ("variant", &mut platform.variant),
        ("os-version", &mut platform.os_version),
    ] {
        if let Some(value) = given.text_opt(flag).filter(|value| !value.is_empty()) {
            value.clone_into(member);
        }
    }
    for feature in given.comma_list("os-features") {
        if !platform.os_features.contains(&feature) {
            platform.os_features.push(feature);
        }
    }
    let known = PLATFORMS.iter().find(|(os, _)| *os == platform.os);
    if !known.is_some_and(|(_, architectures)| architectures.contains(&platform.architecture.as_str())) {
        return Err(Failure::new(format!(
            "manifest entry for image has unsupported os/arch combination: {}/{}",
            platform.os, platform.architecture
        )));
    }
    entry.descriptor.platform = Some(platform);
    lists.save(&target, &image, &entry)?;
    Ok(0)
}

/// `manifest push`. Images of other repositories go with it.
pub(crate) async fn push(cx: &Context, given: &Given) -> Outcome {
    let target = reference(given.argument(0))?;
    let lists = lists(cx);
    let entries = lists.list(&target)?.ok_or_else(|| no_such(&target))?;
    if entries.is_empty() {
        return Err(Failure::new(format!("{target} not found")));
    }
    let (media_type, text) = document(&entries)?;
    let sources: Vec<Reference> = entries.iter().map(Entry::reference).collect::<Result<_, _>>()?;
    let registries: Vec<&Reference> = sources.iter().chain([&target]).collect();
    let client = client(cx, given, &registries)?;
    let to = open(cx, &client, &target, Intent::Push).await?;
    for (entry, source) in entries.iter().zip(&sources) {
        if source.repository() == target.repository() {
            continue;
        }
        let from = open(cx, &client, source, Intent::Pull).await?;
        let digest = Name::from(entry.descriptor.digest);
        let copied = from.copy_to(&digest, &to, &digest).await.map_err(|error| failed(&error))?;
        let there = target.with_digest(copied.digest);
        cx.line(format_args!("Pushed ref {there} with digest: {}", copied.digest))?;
    }
    let digest = to.put_manifest(&name(&target), media_type, text.as_bytes()).await;
    cx.line(digest.map_err(|error| failed(&error))?)?;
    if given.bool("purge") {
        lists.remove(&target)?;
    }
    Ok(0)
}

/// `manifest rm`. What can be removed is, whatever else is named.
pub(crate) async fn remove(cx: &Context, given: &Given) -> Outcome {
    let lists = lists(cx);
    let one = |text: &str| {
        let target = reference(text)?;
        if lists.list(&target)?.is_none() {
            return Err(no_such(&target));
        }
        lists.remove(&target)
    };
    let failures: Vec<Failure> = given.arguments.iter().filter_map(|text| one(text).err()).collect();
    failures.iter().for_each(|failure| cx.report(failure));
    Ok(i32::from(!failures.is_empty()))
}

/// `manifest inspect`: a list that is being put together here, or what a registry has.
pub(crate) async fn inspect(cx: &Context, given: &Given) -> Outcome {
    let verbose = given.bool("verbose");
    let wanted = reference(given.arguments.last().map_or("", String::as_str))?;
    if given.arguments.len() == 2 {
        let entry = lists(cx).entry(&reference(given.argument(0))?, &wanted)?;
        let entry = entry.ok_or_else(|| no_such(&wanted))?;
        return if verbose { print(cx, &entry, "\t") } else { print_raw(cx, &entry.bytes()?, "\t") };
    }
    if let Some(entries) = lists(cx).list(&wanted)? {
        if verbose {
            return print(cx, &entries, "\t");
        }
        cx.line(document(&entries)?.1)?;
        return Ok(0);
    }
    let client = client(cx, given, &[&wanted])?;
    let repository = open(cx, &client, &wanted, Intent::Pull).await?;
    let found = manifest(&repository, &wanted).await?;
    match (MediaType::is_index(&found.descriptor.media_type), verbose) {
        (true, false) => print_raw(cx, &found.bytes, "   "),
        (false, false) => print_raw(cx, &found.bytes, "\t"),
        (true, true) => print(cx, &members(&repository, &wanted, &found).await?, "\t"),
        (false, true) => print(cx, &entry(&repository, &wanted, &found).await?, "\t"),
    }
}

fn print(cx: &Context, value: &impl serde::Serialize, indent: &str) -> Outcome {
    cx.line(Json::of(value).pretty(indent))?;
    Ok(0)
}

/// Prints a document in the order of its members.
fn print_raw(cx: &Context, bytes: &[u8], indent: &str) -> Outcome {
    let document: Json = serde_json::from_slice(bytes).map_err(|error| Failure::new(error.to_string()))?;
    cx.line(document.pretty(indent))?;
    Ok(0)
}

fn argument(given: &Given, index: usize) -> &str {
    given.arguments.get(index).map_or("", String::as_str)
}

async fn manifest(repository: &Repository, wanted: &Reference) -> Result<Document, Failure> {
    repository.manifest(&name(wanted)).await.map_err(|error| match error.class() {
        Class::NotFound => Failure::new(format!("no such manifest: {wanted}")),
        _ => failed(&error),
    })
}

/// An image of a registry as an entry of a list.
async fn fetch(cx: &Context, client: &Client, image: &Reference) -> Result<Entry, Failure> {
    let repository = open(cx, client, image, Intent::Pull).await?;
    let found = manifest(&repository, image).await?;
    if MediaType::is_index(&found.descriptor.media_type) {
        return Err(Failure::new(format!("{image} is a manifest list"))
            .with_hint("name its images by their digests; manifest inspect shows them"));
    }
    entry(&repository, image, &found).await
}

async fn entry(repository: &Repository, image: &Reference, found: &Document) -> Result<Entry, Failure> {
    let told = told(repository, image, &found.bytes).await?;
    Entry::new(image, found.descriptor.clone(), told.into(), &found.bytes)
}

/// The images of an index, each with the platform that the index says.
async fn members(
    repository: &Repository,
    wanted: &Reference,
    found: &Document,
) -> Result<Vec<Entry>, Failure> {
    let index: Index = serde_json::from_slice(&found.bytes)
        .map_err(|error| Failure::new(format!("the index {wanted} is not understood: {error}")))?;
    let mut entries = Vec::new();
    for listed in index.manifests {
        let image = repository.manifest(&Name::from(listed.digest)).await.map_err(|error| failed(&error))?;
        if MediaType::is_index(&image.descriptor.media_type) {
            return Err(Failure::new(format!("{} is an index within {wanted}", listed.digest)));
        }
        let platform = listed.platform.unwrap_or_else(|| Told::default().into());
        let place = wanted.and_digest(listed.digest);
        entries.push(Entry::new(&place, image.descriptor, platform, &image.bytes)?);
    }
    Ok(entries)
}
