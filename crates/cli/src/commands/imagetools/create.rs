//! `buildx imagetools create`: an index, or one image, under new names.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use yare_distribution::{Client, Intent, Name, Repository};
use yare_oci::{Digest, MediaType, Platform, Reference};

use super::combine::{Combined, Wishes, combine};
use super::source::{Found, Source, fetch, places};
use super::{SAID, failed};
use crate::commands::build::{Step, Steps, until_called_off};
use crate::commands::remote::{client, name, open};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::opts::env::open_error;
use crate::opts::{annotation, quote};
use crate::table::Outcome;

/// How many sources are asked for, and members copied, at a time.
const AT_ONCE: usize = 4;

/// `buildx imagetools create`.
pub(crate) async fn create(cx: &Context, given: &Given) -> Outcome {
    until_called_off(create_to_the_end(cx, given), SAID).await
}

async fn create_to_the_end(cx: &Context, given: &Given) -> Outcome {
    let plan = Plan::read(cx, given)?;
    let named: Vec<&Reference> = plan.tags.iter().chain(&plan.places).collect();
    let client = client(cx, given, &named)?;
    let asked = plan.sources.iter().zip(&plan.places);
    let found = asked.map(|(source, place)| fetch(cx, &client, source, place.clone()));
    let found: Vec<Found> = stream::iter(found).buffered(AT_ONCE).try_collect().await?;
    let combined = combine(&found, &plan.wishes)?;
    if combined.media_type == MediaType::DOCKER_LIST && !plan.wishes.annotations.is_empty() {
        cx.warn("WARNING: annotations are left out: a manifest list in Docker's form has no place for them");
    }
    if plan.is_dry {
        cx.write(&combined.bytes)?;
        cx.line("")?;
        return Ok(0);
    }
    let mut steps = Steps::new(cx, given)?;
    let mut done = Ok(());
    for tag in &plan.tags {
        done = push(cx, &client, &combined, tag, &mut steps).await;
        if done.is_err() {
            break;
        }
    }
    steps.finish(done.is_ok())?;
    done.map(|()| 0)
}

/// What the flags and arguments ask for.
#[derive(Debug)]
struct Plan {
    tags: Vec<Reference>,
    sources: Vec<Source>,
    /// Where each source is.
    places: Vec<Reference>,
    wishes: Wishes,
    is_dry: bool,
}

impl Plan {
    fn read(cx: &Context, given: &Given) -> Result<Self, Failure> {
        if !matches!(given.text("builder"), "" | "default") {
            return Err(Failure::new(format!("no builder {} found", quote(given.text("builder")))));
        }
        let (names, files, is_dry) = (given.list("tag"), given.list("file"), given.bool("dry-run"));
        if given.arguments.is_empty() && files.is_empty() {
            return Err("no sources specified".into());
        }
        if names.is_empty() && !is_dry {
            return Err("can't push with no tags specified, please set --tag or --dry-run".into());
        }
        let platforms =
            given.comma_list("platform").iter().map(|text| platform(text)).collect::<Result<_, _>>()?;
        let mut texts: Vec<String> =
            files.iter().map(|path| file(cx, path)).collect::<Result<_, Failure>>()?;
        let tags = names.iter().map(|text| tag(text)).collect::<Result<Vec<_>, _>>()?;
        texts.extend(given.arguments.iter().cloned());
        if given.bool("append") {
            // What the first name stands for is the first of the sources.
            texts.splice(0..0, names.first().cloned());
        }
        let sources = texts.iter().map(|text| Source::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let places = places(&sources, &tags)?;
        let mut annotations = Vec::new();
        for text in given.list("annotation") {
            let parsed =
                annotation::parse(&text).map_err(|why| format!("failed to parse annotations: {why}"));
            annotations.extend(parsed?);
        }
        let wishes = Wishes { annotations, prefer_index: given.bool_or("prefer-index", true), platforms };
        Ok(Self { tags, sources, places, wishes, is_dry })
    }
}

fn platform(text: &str) -> Result<Platform, Failure> {
    let fault = |why| Failure::new(format!("invalid platform {}: {why}", quote(text)));
    Platform::parse(text).map_err(fault)
}

fn file(cx: &Context, path: &str) -> Result<String, Failure> {
    let read = std::fs::read_to_string(cx.absolute(path));
    read.map_err(|error| Failure::new(open_error(path, &error)))
}

fn tag(text: &str) -> Result<Reference, Failure> {
    Reference::parse(text).map_err(|error| Failure::new(error.to_string()))
}

/// Makes a name stand for the result.
async fn push(
    cx: &Context,
    client: &Client,
    combined: &Combined,
    tag: &Reference,
    steps: &mut Steps<'_>,
) -> Result<(), Failure> {
    let step = steps.begin(format!("[internal] pushing {tag}"))?;
    let done = push_in(cx, client, combined, tag, (&mut *steps, &step)).await;
    steps.end(step, done.as_ref().err())?;
    done
}

async fn push_in(
    cx: &Context,
    client: &Client,
    combined: &Combined,
    tag: &Reference,
    (steps, step): (&mut Steps<'_>, &Step),
) -> Result<(), Failure> {
    let digest = Digest::of(&combined.bytes);
    if let Some(named) = tag.digest().filter(|named| *named != digest) {
        return Err(Failure::new(format!(
            "{tag} cannot stand for {digest}: its name has the digest {named}"
        )));
    }
    for (member, place) in &combined.members {
        steps.say(step, &format!("copying {member} from {place} to {tag}"))?;
    }
    let to = open(cx, client, tag, Intent::Push).await?;
    steps.during(copy(cx, client, &combined.members, (tag, &to))).await?;
    steps.say(step, &format!("pushing {digest} to {tag}"))?;
    // A name with a tag and the digest means the tag.
    let name = tag.tag().map_or_else(|| name(&tag.clone().or_latest()), |tag| Name::Tag(tag.to_owned()));
    let put = async {
        let put = to.put_manifest(&name, &combined.media_type, &combined.bytes).await;
        put.map_err(|error| failed(&error))
    };
    steps.during(put).await?;
    Ok(())
}

/// Brings to a repository what it lacks of these, from where they are.
async fn copy(
    cx: &Context,
    client: &Client,
    members: &[(Digest, Reference)],
    (tag, to): (&Reference, &Repository),
) -> Result<(), Failure> {
    let mut sources: BTreeMap<Reference, Repository> = BTreeMap::new();
    let mut wanted = BTreeSet::new();
    for (member, place) in members.iter().filter(|(_, place)| place.trimmed() != tag.trimmed()) {
        let place = place.trimmed();
        if !sources.contains_key(&place) {
            sources.insert(place.clone(), open(cx, client, &place, Intent::Pull).await?);
        }
        wanted.insert((*member, place));
    }
    let one = async |(member, place): &(Digest, Reference)| -> Result<(), Failure> {
        let member = Name::from(*member);
        let from = &sources[place];
        from.copy_to(&member, to, &member).await.map_err(|error| failed(&error))?;
        Ok(())
    };
    stream::iter(wanted.iter().map(one)).buffer_unordered(AT_ONCE).try_collect().await
}
