//! `images`, `rmi`, `tag`, `history`.

use yare_api::{HistoryResponseItem, ImageSummary};

use crate::clock::Now;
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{self, Layout, Row, ellipsis, short_id, write_list};
use crate::opts;
use crate::table::Outcome;

const HEADINGS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("LastUsed", "LAST USED"),
];
const RAW: &str = "repository: {{.Repository}}\ntag: {{.Tag}}\nimage_id: {{.ID}}\ncreated_at: {{.CreatedAt}}\nvirtual_size: {{.Size}}\n";
const LAYOUT: Layout =
    Layout { headings: HEADINGS, table: &["Repository", "Tag", "ID", "CreatedSince", "Size"], raw: RAW };
const DIGESTS: Layout = Layout {
    headings: HEADINGS,
    table: &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"],
    raw: RAW,
};
const HISTORY: Layout = Layout {
    headings: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
        ("Size", "SIZE"),
        ("Comment", "COMMENT"),
    ],
    table: &["ID", "CreatedSince", "CreatedBy", "Size", "Comment"],
    raw: "",
};
const HISTORY_EXACT: Layout = Layout {
    headings: HISTORY.headings,
    table: &["ID", "CreatedAt", "CreatedBy", "Size", "Comment"],
    raw: "",
};
const NONE: &str = "<none>";

/// `images`.
pub(crate) async fn list(cx: &Context, given: &Given) -> Outcome {
    let quiet = given.bool("quiet");
    let format = match given.text_opt("format") {
        Some(format) if !format.is_empty() => format,
        _ if quiet => "",
        _ => &cx.config().images_format,
    };
    let pattern = given.arguments.first().map_or("", String::as_str);
    let more: &[(&str, &str)] = if pattern.is_empty() { &[] } else { &[("reference", pattern)] };
    let filters = opts::filters(&given.list("filter"), more);
    let images = cx.client().image_list(given.bool("all"), &filters).await?;
    let whole = given.bool("no-trunc");
    let digests = given.bool("digests");
    if quiet && (format.is_empty() || format == "table") {
        for image in &images {
            // One line a name, as the table has: that is what scripts count.
            for _ in names(image, false, true) {
                cx.line(if whole { &image.id } else { short_id(&image.id) })?;
            }
        }
        return Ok(0);
    }
    let digests = digests || format.contains(".Digest");
    let now = cx.now();
    let layout = if given.bool("digests") { &DIGESTS } else { &LAYOUT };
    let wanted = layout.wanted(format);
    let rows = images.iter().flat_map(|image| {
        let now = &now;
        names(image, digests, false).into_iter().map(move |name| row(image, name, whole, now, wanted))
    });
    write_list(cx, format, layout, rows)?;
    if images.is_empty() && crate::table::find(&format!("image {pattern}")).is_some() {
        let program = &cx.program;
        cx.warn(format_args!(
            "\nNo images found matching \"{pattern}\": did you mean \"{program} image {pattern}\"?"
        ));
    }
    Ok(0)
}

/// One name of an image.
#[derive(Clone)]
struct Name {
    repository: String,
    tag: String,
    digest: String,
}

/// The lines that an image has in the list: one a tag (and digest), or one with `<none>`.
fn names(image: &ImageSummary, digests: bool, quiet: bool) -> Vec<Name> {
    let split = |reference: &String| {
        let reference = yare_oci::Reference::parse(reference).ok()?;
        let digest = reference.digest().map_or_else(|| NONE.to_owned(), |digest| digest.to_string());
        let tag = reference.tag().unwrap_or(NONE).to_owned();
        Some(Name { repository: reference.familiar_name(), tag, digest })
    };
    let is_none = |text: &&String| *text != "<none>:<none>" && *text != "<none>@<none>";
    let tags: Vec<Name> = image.repo_tags.iter().flatten().filter(is_none).filter_map(split).collect();
    let by_digest: Vec<Name> =
        image.repo_digests.iter().flatten().filter(is_none).filter_map(split).collect();
    let none = Name { repository: NONE.to_owned(), tag: NONE.to_owned(), digest: NONE.to_owned() };
    if tags.is_empty() && by_digest.is_empty() {
        return vec![none];
    }
    if quiet || !digests {
        if !tags.is_empty() {
            return tags;
        }
        let mut names = by_digest;
        names.dedup_by(|a, b| a.repository == b.repository);
        return names.into_iter().map(|name| Name { digest: NONE.to_owned(), ..name }).collect();
    }
    let mut names = Vec::new();
    let mut used: Vec<&str> = Vec::new();
    for tag in &tags {
        let matching: Vec<&Name> =
            by_digest.iter().filter(|name| name.repository == tag.repository).collect();
        used.push(&tag.repository);
        match matching.as_slice() {
            [] => names.push(tag.clone()),
            some => names.extend(some.iter().map(|name| Name { digest: name.digest.clone(), ..tag.clone() })),
        }
    }
    names.extend(by_digest.iter().filter(|name| !used.contains(&name.repository.as_str())).cloned());
    names
}

fn row(
    image: &ImageSummary,
    name: Name,
    whole: bool,
    now: &Now,
    wanted: Option<&'static [&'static str]>,
) -> Row {
    let known = |value: i64, text: String| if value == -1 { "N/A".to_owned() } else { text };
    let unique = image.size - image.shared_size;
    let total = |bytes: i64| format::total_size(u64::try_from(bytes).unwrap_or(0));
    Row::of(wanted)
        .with("ID", if whole { image.id.clone() } else { short_id(&image.id).to_owned() })
        .with("Repository", name.repository)
        .with("Tag", name.tag)
        .with("Digest", name.digest)
        .with("CreatedSince", since(image.created, now))
        .lazily("CreatedAt", || format::go_time(image.created, now))
        .with("Size", format::size(image.size))
        .with("Containers", known(image.containers, image.containers.to_string()))
        .with("VirtualSize", total(image.size))
        .with("SharedSize", known(image.shared_size, total(image.shared_size)))
        .with("UniqueSize", known(image.shared_size, total(unique)))
        .with("LastUsed", since(image.last_used, now))
}

/// Age, or that nobody knows it.
fn since(created: i64, now: &Now) -> String {
    if created <= 0 { "N/A".to_owned() } else { format::ago(created, now.timestamp()) }
}

/// `rmi`.
pub(crate) async fn remove(cx: &Context, given: &Given) -> Outcome {
    let (force, no_prune) = (given.bool("force"), given.bool("no-prune"));
    let platforms = opts::platform::json_list(&given.comma_list("platform"))?;
    let mut failures = Vec::new();
    let mut fatal = false;
    for name in &given.arguments {
        match cx.client().image_remove(name, force, no_prune, &platforms).await {
            Err(error) => {
                fatal |= !(force && error.is_not_found());
                failures.push(Failure::from(error));
            }
            Ok(removed) => {
                for item in removed {
                    if item.deleted.is_empty() {
                        cx.line(format_args!("Untagged: {}", item.untagged))?;
                    } else {
                        cx.line(format_args!("Deleted: {}", item.deleted))?;
                    }
                }
            }
        }
    }
    for failure in &failures {
        cx.report(failure);
    }
    Ok(i32::from(fatal))
}

/// `tag`.
pub(crate) async fn tag(cx: &Context, given: &Given) -> Outcome {
    let target = given.argument(1);
    let named = opts::reference::named(target, true).map_err(|why| {
        format!("Error parsing reference: {} is not a valid repository/tag: {why}", opts::quote(target))
    })?;
    if named.is_digest {
        return Err("refusing to create a tag with a digest reference".into());
    }
    cx.client().image_tag(given.argument(0), &named.repository, &named.tag).await?;
    Ok(0)
}

/// `history`.
pub(crate) async fn history(cx: &Context, given: &Given) -> Outcome {
    let platform = given.text_opt("platform").map(opts::platform::json).transpose()?;
    let items = cx.client().image_history(given.argument(0), platform).await?;
    let (whole, human) = (given.bool("no-trunc"), given.bool_or("human", true));
    let format = given.text("format");
    let id = |item: &HistoryResponseItem| if whole { item.id.clone() } else { short_id(&item.id).to_owned() };
    if given.bool("quiet") && (format.is_empty() || format == "table") {
        for item in &items {
            cx.line(id(item))?;
        }
        return Ok(0);
    }
    let now = cx.now();
    let rows = items.iter().map(|item| {
        let by = item.created_by.replace('\t', " ");
        let created = jiff::Timestamp::from_second(item.created).unwrap_or_default();
        let local =
            created.to_zoned_datetime(now.time_zone().clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
        let created_at = local.strip_suffix("+00:00").map_or(local.clone(), |bare| format!("{bare}Z"));
        Row::new()
            .with("ID", id(item))
            .with("CreatedSince", if human { since(item.created, &now) } else { created_at.clone() })
            .with("CreatedAt", created_at)
            .with("CreatedBy", if whole { by } else { ellipsis(&by, 45) })
            .with("Size", if human { format::size(item.size) } else { item.size.to_string() })
            .with("Comment", item.comment.clone())
    });
    write_list(cx, format, if human { &HISTORY } else { &HISTORY_EXACT }, rows)?;
    Ok(0)
}
