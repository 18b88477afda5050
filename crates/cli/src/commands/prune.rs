//! `prune` of everything.

use std::fmt::Write as _;

use yare_api::BuildPruneResponse;
use yare_client::Request;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::total_size;
use crate::opts;
use crate::session::Input;
use crate::table::Outcome;

/// What a prune has done.
#[derive(Debug, Default)]
struct Pruned {
    reclaimed: u64,
    report: String,
}

/// Asks unless told not to; anything but yes is no.
async fn agreed(cx: &Context, given: &Given, warning: &str) -> Result<bool, Failure> {
    if given.bool("force") {
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

fn print(cx: &Context, pruned: &Pruned) -> Outcome {
    cx.write(&pruned.report)?;
    cx.line(format_args!("Total reclaimed space: {}", total_size(pruned.reclaimed)))?;
    Ok(0)
}

async fn prune_containers(cx: &Context, filters: &[String]) -> Result<Pruned, Failure> {
    let reply = cx.client().container_prune(&opts::filters(filters, &[])).await?;
    let mut pruned =
        Pruned { reclaimed: u64::try_from(reply.space_reclaimed).unwrap_or(0), report: String::new() };
    list(&mut pruned.report, "Deleted Containers", &reply.containers_deleted.unwrap_or_default());
    Ok(pruned)
}

async fn prune_images(cx: &Context, filters: &[String], all: bool) -> Result<Pruned, Failure> {
    let dangling = if all { "false" } else { "true" };
    let reply = cx.client().image_prune(&opts::filters(filters, &[("dangling", dangling)])).await?;
    let mut pruned =
        Pruned { reclaimed: u64::try_from(reply.space_reclaimed).unwrap_or(0), report: String::new() };
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
    let mut pruned =
        Pruned { reclaimed: u64::try_from(reply.space_reclaimed).unwrap_or(0), report: String::new() };
    list(&mut pruned.report, "Deleted Volumes", &reply.volumes_deleted.unwrap_or_default());
    Ok(pruned)
}

async fn prune_networks(cx: &Context, filters: &[String]) -> Result<Pruned, Failure> {
    let reply = cx.client().network_prune(&opts::filters(filters, &[])).await?;
    let mut pruned = Pruned::default();
    list(&mut pruned.report, "Deleted Networks", &reply.networks_deleted.unwrap_or_default());
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
    let mut pruned =
        Pruned { reclaimed: u64::try_from(reply.space_reclaimed).unwrap_or(0), report: String::new() };
    list(&mut pruned.report, "Deleted build cache objects", &reply.caches_deleted.unwrap_or_default());
    Ok(pruned)
}

/// `container prune`.
pub(crate) async fn containers(cx: &Context, given: &Given) -> Outcome {
    if !agreed(cx, given, "WARNING! This will remove all stopped containers.").await? {
        return CANCELLED;
    }
    print(cx, &prune_containers(cx, &given.list("filter")).await?)
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
    print(cx, &prune_images(cx, &given.list("filter"), all).await?)
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
    print(cx, &prune_volumes(cx, &given.list("filter"), all).await?)
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
    print(cx, &prune_builds(cx, &given.list("filter"), all, &limits).await?)
}

/// `system prune`: containers, networks, volumes where asked for, images, build cache.
pub(crate) async fn system(cx: &Context, given: &Given) -> Outcome {
    let (all, volumes, filters) = (given.bool("all"), given.bool("volumes"), given.list("filter"));
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
    add(prune_containers(cx, &filters).await)?;
    add(prune_networks(cx, &filters).await)?;
    if volumes {
        add(prune_volumes(cx, &filters, false).await)?;
    }
    add(prune_images(cx, &filters, all).await)?;
    add(prune_builds(cx, &filters, all, &[]).await)?;
    cx.line(format_args!("Total reclaimed space: {}", total_size(total)))?;
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
