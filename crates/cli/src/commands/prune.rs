//! `prune` of everything.

use std::fmt::Write as _;

use yare_api::{BuildPruneResponse, CleaningStatus, Pruned as Explained};
use yare_client::Request;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{Json, ago, short_id, total_size};
use crate::opts;
use crate::session::Input;
use crate::table::Outcome;

/// What a prune has done.
#[derive(Debug, Default)]
struct Pruned {
    reclaimed: u64,
    report: String,
    /// Containers of a dry run, which images that go after them have no more.
    containers: Vec<String>,
}

impl Pruned {
    fn of(bytes: i64) -> Self {
        Self { reclaimed: u64::try_from(bytes).unwrap_or(0), ..Self::default() }
    }
}

/// Filters and what is a filter for the engine: a dry run and what of the images shall stay.
fn filters_of(given: &Given) -> Vec<String> {
    let mut filters = given.list("filter");
    filters.extend(given.bool("dry-run").then(|| "dry-run=true".to_owned()));
    filters
}

fn image_filters_of(given: &Given) -> Vec<String> {
    let mut filters = filters_of(given);
    filters.extend(given.text_opt("keep").map(|keep| format!("keep={keep}")));
    filters.extend(given.bytes("keep-storage").map(|bytes| format!("keep-storage={bytes}")));
    filters
}

/// What a dry run found, one line each, with the reason.
fn explain(cx: &Context, report: &mut String, title: &str, found: &[Explained]) {
    if found.is_empty() {
        return;
    }
    let _ = writeln!(report, "{title}:");
    for one in found {
        let id = short_id(&one.id);
        let name =
            if one.names.is_empty() { id.to_owned() } else { format!("{} ({id})", one.names.join(", ")) };
        let used = match one.last_used {
            0 => "at an unknown time".to_owned(),
            second => ago(second, cx.now().timestamp()),
        };
        let size = total_size(u64::try_from(one.size).unwrap_or(0));
        let _ = writeln!(report, "{name}: {size}, last used {used}: {}", one.reason);
    }
    report.push('\n');
}

/// Asks unless told not to; anything but yes is no.
async fn agreed(cx: &Context, given: &Given, warning: &str) -> Result<bool, Failure> {
    if given.bool("force") || given.bool("dry-run") {
        return Ok(true);
    }
    cx.write(format!("{warning}\nAre you sure you want to continue? [y/N] "))?;
    cx.flush()?;
    let mut input = Input::new(cx.stdio.input);
    let mut answer = Vec::new();
    let mut byte = [0];
    while input.read(&mut byte).await? == 1 && byte[0] != b'\n' {
        answer.push(byte[0]);
    }
    let yes = matches!(String::from_utf8_lossy(&answer).trim(), "y" | "Y");
    Ok(yes)
}

/// What an answer of no comes to: nothing is said, nothing has failed.
const CANCELLED: Outcome = Ok(0);

fn list(report: &mut String, title: &str, names: &[String]) {
    if !names.is_empty() {
        let _ = writeln!(report, "{title}:");
        for name in names {
            let _ = writeln!(report, "{name}");
        }
        report.push('\n');
    }
}

fn print(cx: &Context, given: &Given, pruned: &Pruned) -> Outcome {
    cx.write(&pruned.report)?;
    print_total(cx, given, pruned.reclaimed)?;
    Ok(0)
}

fn print_total(cx: &Context, given: &Given, bytes: u64) -> Result<(), Failure> {
    let what = if given.bool("dry-run") { "Space that would be reclaimed" } else { "Total reclaimed space" };
    cx.line(format_args!("{what}: {}", total_size(bytes)))?;
    Ok(())
}

/// Whether filters ask for a dry run.
fn is_dry(filters: &[String]) -> bool {
    filters.iter().any(|filter| filter == "dry-run=true")
}

async fn prune_containers(cx: &Context, filters: &[String]) -> Result<Pruned, Failure> {
    let reply = cx.client().container_prune(&opts::filters(filters, &[])).await?;
    let mut pruned = Pruned::of(reply.space_reclaimed);
    pruned.containers = reply.containers_deleted.unwrap_or_default();
    match is_dry(filters) {
        true => {
            explain(cx, &mut pruned.report, "Would delete containers", &reply.explained.unwrap_or_default())
        }
        false => list(&mut pruned.report, "Deleted Containers", &pruned.containers),
    }
    Ok(pruned)
}

async fn prune_images(cx: &Context, filters: &[String], all: bool) -> Result<Pruned, Failure> {
    let dangling = if all { "false" } else { "true" };
    let reply = cx.client().image_prune(&opts::filters(filters, &[("dangling", dangling)])).await?;
    let mut pruned = Pruned::of(reply.space_reclaimed);
    if is_dry(filters) {
        explain(cx, &mut pruned.report, "Would delete images", &reply.explained.unwrap_or_default());
        return Ok(pruned);
    }
    let lines: Vec<String> = reply
        .images_deleted
        .unwrap_or_default()
        .into_iter()
        .map(|item| match item.untagged.is_empty() {
            true => format!("deleted: {}", item.deleted),
            false => format!("untagged: {}", item.untagged),
        })
        .collect();
    list(&mut pruned.report, "Deleted Images", &lines);
    Ok(pruned)
}

async fn prune_volumes(cx: &Context, filters: &[String], all: bool) -> Result<Pruned, Failure> {
    let more: &[(&str, &str)] = if all { &[("all", "true")] } else { &[] };
    let reply = cx.client().volume_prune(&opts::filters(filters, more)).await?;
    let mut pruned = Pruned::of(reply.space_reclaimed);
    list(&mut pruned.report, "Deleted Volumes", &reply.volumes_deleted.unwrap_or_default());
    Ok(pruned)
}

async fn prune_networks(cx: &Context, filters: &[String]) -> Result<Pruned, Failure> {
    let reply = cx.client().network_prune(&opts::filters(filters, &[])).await?;
    let mut pruned = Pruned::default();
    let title = if is_dry(filters) { "Would delete networks" } else { "Deleted Networks" };
    list(&mut pruned.report, title, &reply.networks_deleted.unwrap_or_default());
    Ok(pruned)
}

async fn prune_builds(
    cx: &Context,
    filters: &[String],
    all: bool,
    limits: &[(&'static str, i64)],
) -> Result<Pruned, Failure> {
    let mut request = Request::post("/build/prune").flag("all", all);
    request = request.query("filters", opts::filters(filters, &[]));
    for (name, bytes) in limits {
        request = request.query(name, bytes.to_string());
    }
    let reply: BuildPruneResponse = cx.client().json(request).await?;
    let mut pruned = Pruned::of(reply.space_reclaimed);
    let title =
        if is_dry(filters) { "Would delete build cache objects" } else { "Deleted build cache objects" };
    list(&mut pruned.report, title, &reply.caches_deleted.unwrap_or_default());
    Ok(pruned)
}

/// `container prune`.
pub(crate) async fn containers(cx: &Context, given: &Given) -> Outcome {
    if !agreed(cx, given, "WARNING! This will remove all stopped containers.").await? {
        return CANCELLED;
    }
    print(cx, given, &prune_containers(cx, &filters_of(given)).await?)
}

/// `image prune`.
pub(crate) async fn images(cx: &Context, given: &Given) -> Outcome {
    let all = given.bool("all");
    let warning = match all {
        true => "WARNING! This will remove all images without at least one container associated to them.",
        false => "WARNING! This will remove all dangling images.",
    };
    if !agreed(cx, given, warning).await? {
        return CANCELLED;
    }
    print(cx, given, &prune_images(cx, &image_filters_of(given), all).await?)
}

/// `volume prune`.
pub(crate) async fn volumes(cx: &Context, given: &Given) -> Outcome {
    let all = given.bool("all");
    let warning = match all {
        true => "WARNING! This will remove all local volumes not used by at least one container.",
        false => "WARNING! This will remove anonymous local volumes not used by at least one container.",
    };
    if !agreed(cx, given, warning).await? {
        return CANCELLED;
    }
    print(cx, given, &prune_volumes(cx, &given.list("filter"), all).await?)
}

/// `network prune`.
pub(crate) async fn networks(cx: &Context, given: &Given) -> Outcome {
    let warning = "WARNING! This will remove all custom networks not used by at least one container.";
    if !agreed(cx, given, warning).await? {
        return CANCELLED;
    }
    cx.write(prune_networks(cx, &given.list("filter")).await?.report)?;
    Ok(0)
}

/// `builder prune`.
pub(crate) async fn builder(cx: &Context, given: &Given) -> Outcome {
    let all = given.bool("all");
    let warning = match all {
        true => "WARNING! This will remove all build cache.",
        false => "WARNING! This will remove all dangling build cache.",
    };
    if !agreed(cx, given, warning).await? {
        return CANCELLED;
    }
    let limits: Vec<(&str, i64)> = ["keep-storage", "max-used-space", "min-free-space", "reserved-space"]
        .into_iter()
        .filter_map(|flag| Some((flag, given.bytes(flag)?)))
        .collect();
    print(cx, given, &prune_builds(cx, &given.list("filter"), all, &limits).await?)
}

/// `system policy`: what the engine removes by itself, and what of that is due.
pub(crate) async fn policy(cx: &Context, given: &Given) -> Outcome {
    let status: CleaningStatus = cx.client().json(Request::get("/yare/cleaning")).await?;
    if given.text("format") == "json" {
        cx.line(Json::of(&status).compact())?;
        return Ok(0);
    }
    let bytes = |bytes: i64| total_size(u64::try_from(bytes).unwrap_or(0));
    cx.line(format_args!("Images that lost their tag (retag-grace): {}", status.retag_grace))?;
    cx.line(format_args!("Images without a container (clean-images): {}", status.images))?;
    cx.line(format_args!("Stopped containers (clean-containers): {}", status.containers))?;
    let (wanted, free) = (bytes(status.min_free), bytes(status.free));
    cx.line(format_args!("Free space (clean-min-free): {wanted} wanted, {free} there\n"))?;
    let mut report = String::new();
    let planned = status.planned.unwrap_or_default();
    explain(cx, &mut report, "Due now", &planned);
    if status.build_cache > 0 {
        let _ = writeln!(report, "Build cache: {}", bytes(status.build_cache));
    }
    cx.write(if report.is_empty() { "Nothing is due.\n" } else { report.trim_end_matches("\n\n") })?;
    if !report.is_empty() {
        cx.line("")?;
    }
    Ok(0)
}

/// `system prune`: containers, networks, volumes where asked for, images, build cache.
pub(crate) async fn system(cx: &Context, given: &Given) -> Outcome {
    let (all, volumes, filters) = (given.bool("all"), given.bool("volumes"), filters_of(given));
    if volumes && given.bool("dry-run") {
        return Err("--dry-run knows nothing of volumes yet: leave --volumes out".into());
    }
    let unsupported = ["until", "unused-for"].into_iter().find(|name| {
        filters.iter().any(|filter| filter.split_once('=').is_some_and(|(key, _)| key == *name))
    });
    if let Some(name) = unsupported.filter(|_| volumes) {
        return Err(format!("ERROR: The \"{name}\" filter is not supported with \"--volumes\"").into());
    }
    if !agreed(cx, given, &system_warning(all, volumes, &filters)).await? {
        return CANCELLED;
    }
    let mut total = 0;
    let mut failures: Vec<Failure> = Vec::new();
    let mut add = |pruned: Result<Pruned, Failure>| -> Result<(), Failure> {
        match pruned {
            Ok(pruned) => {
                total += pruned.reclaimed;
                cx.write(pruned.report)?;
            }
            Err(failure) => failures.push(failure),
        }
        Ok(())
    };
    let containers = prune_containers(cx, &filters).await;
    let mut image_filters = image_filters_of(given);
    if let Some(pruned) = containers.as_ref().ok().filter(|_| is_dry(&filters)) {
        image_filters.extend(pruned.containers.iter().map(|id| format!("without-container={id}")));
    }
    add(containers)?;
    add(prune_networks(cx, &filters).await)?;
    if volumes {
        add(prune_volumes(cx, &filters, false).await)?;
    }
    add(prune_images(cx, &image_filters, all).await)?;
    add(prune_builds(cx, &filters, all, &[]).await)?;
    print_total(cx, given, total)?;
    // An engine without a builder, or without networks of its own, has nothing of that to remove.
    failures.retain(|failure| !failure.text.contains("is not built into"));
    for failure in &failures {
        cx.report(failure);
    }
    Ok(i32::from(!failures.is_empty()))
}

fn system_warning(all: bool, volumes: bool, filters: &[String]) -> String {
    let mut warning = "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n".to_owned();
    if volumes {
        warning.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    warning.push_str(match all {
        true => "  - all images without at least one container associated to them\n  - all build cache\n",
        false => "  - all dangling images\n  - unused build cache\n",
    });
    if !filters.is_empty() {
        warning.push_str("\n  Items to be pruned will be filtered with:\n");
        for filter in filters {
            let _ = writeln!(warning, "  - {filter}");
        }
    }
    warning
}
