//! `system df`.

use std::collections::BTreeSet;

use yare_api::{ContainerSummary, ImageSummary, SystemDataUsageResponse, Volume};

use crate::clock::Now;
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{self, Layout, Row, short_id, size, tabulate, write_list};
use crate::table::Outcome;

const LAYOUT: Layout = Layout {
    headings: &[
        ("Type", "TYPE"),
        ("TotalCount", "TOTAL"),
        ("Active", "ACTIVE"),
        ("Size", "SIZE"),
        ("Reclaimable", "RECLAIMABLE"),
    ],
    table: &["Type", "TotalCount", "Active", "Size", "Reclaimable"],
    raw: "type: {{.Type}}\ntotal: {{.TotalCount}}\nactive: {{.Active}}\nsize: {{.Size}}\nreclaimable: {{.Reclaimable}}\n",
};

/// `system df`.
pub(crate) async fn df(cx: &Context, given: &Given) -> Outcome {
    let usage = cx.client().system_df().await?;
    let format = given.text("format");
    if given.bool("verbose") && (format.is_empty() || format == "table") {
        cx.write(verbose(&usage, &cx.now()))?;
        return Ok(0);
    }
    summary(cx, format, &usage)?;
    Ok(0)
}

/// One line a kind of thing.
struct Sum {
    name: &'static str,
    count: usize,
    active: usize,
    size: i64,
    reclaimable: i64,
    with_percent: bool,
}

impl Sum {
    fn row(&self) -> Row {
        let percent = match self.with_percent && self.size > 0 {
            true => format!(" ({}%)", self.reclaimable * 100 / self.size),
            false => String::new(),
        };
        Row::new()
            .with("Type", self.name)
            .with("TotalCount", self.count.to_string())
            .with("Active", self.active.to_string())
            .with("Size", format::total_size(u64::try_from(self.size).unwrap_or(0)))
            .with(
                "Reclaimable",
                format!("{}{percent}", format::total_size(u64::try_from(self.reclaimable).unwrap_or(0))),
            )
    }
}

fn sums(usage: &SystemDataUsageResponse) -> Vec<Sum> {
    let images: Vec<&ImageSummary> = usage.images.iter().flatten().collect();
    let containers: Vec<&ContainerSummary> = usage.containers.iter().flatten().collect();
    let volumes: Vec<&Volume> = usage.volumes.iter().flatten().collect();
    let caches: Vec<_> = usage.build_cache.iter().flatten().collect();
    let used_images: i64 = images
        .iter()
        .filter(|image| image.containers > 0 && image.size != -1 && image.shared_size != -1)
        .map(|image| image.size - image.shared_size)
        .sum();
    let is_active = |container: &ContainerSummary| {
        ["running", "paused", "restarting"].iter().any(|state| container.state.contains(state))
    };
    let refs = |volume: &Volume| volume.usage_data.as_ref().map_or(0, |usage| usage.ref_count);
    let bytes = |volume: &Volume| volume.usage_data.as_ref().map_or(0, |usage| usage.size.max(0));
    vec![
        Sum {
            name: "Images",
            count: images.len(),
            active: images.iter().filter(|image| image.containers > 0).count(),
            size: usage.layers_size,
            reclaimable: usage.layers_size - used_images,
            with_percent: true,
        },
        Sum {
            name: "Containers",
            count: containers.len(),
            active: containers.iter().filter(|container| is_active(container)).count(),
            size: containers.iter().map(|container| container.size_rw).sum(),
            reclaimable: containers
                .iter()
                .filter(|container| !is_active(container))
                .map(|container| container.size_rw)
                .sum(),
            with_percent: true,
        },
        Sum {
            name: "Local Volumes",
            count: volumes.len(),
            active: volumes.iter().filter(|volume| refs(volume) > 0).count(),
            size: volumes.iter().map(|volume| bytes(volume)).sum(),
            reclaimable: volumes.iter().filter(|volume| refs(volume) == 0).map(|volume| bytes(volume)).sum(),
            with_percent: true,
        },
        Sum {
            name: "Build Cache",
            count: caches.len(),
            active: caches.iter().filter(|cache| cache.in_use).count(),
            size: caches.iter().filter(|cache| !cache.shared).map(|cache| cache.size).sum(),
            reclaimable: caches
                .iter()
                .filter(|cache| !cache.in_use && !cache.shared)
                .map(|cache| cache.size)
                .sum(),
            with_percent: false,
        },
    ]
}

/// The summary in any format.
pub(crate) fn summary(cx: &Context, format: &str, usage: &SystemDataUsageResponse) -> Result<(), Failure> {
    write_list(cx, format, &LAYOUT, sums(usage).iter().map(Sum::row))
}

fn verbose(usage: &SystemDataUsageResponse, now: &Now) -> String {
    let mut text = "Images space usage:\n\n".to_owned();
    text.push_str(&tabulate(&image_lines(usage, now)));
    text.push_str("\nContainers space usage:\n\n");
    text.push_str(&tabulate(&container_lines(usage, now)));
    text.push_str("\nLocal Volumes space usage:\n\n");
    let mut lines = "VOLUME NAME\tLINKS\tSIZE\n".to_owned();
    for volume in usage.volumes.iter().flatten() {
        let (links, bytes) = volume.usage_data.as_ref().map_or((0, 0), |usage| (usage.ref_count, usage.size));
        lines.push_str(&format!("{}\t{links}\t{}\n", volume.name, size(bytes)));
    }
    text.push_str(&tabulate(&lines));
    let caches: Vec<_> = usage.build_cache.iter().flatten().collect();
    let unshared: i64 = caches.iter().filter(|cache| !cache.shared).map(|cache| cache.size).sum();
    text.push_str(&format!(
        "\nBuild cache usage: {}\n\n",
        format::total_size(u64::try_from(unshared).unwrap_or(0))
    ));
    let since = |time: &str| match time.parse::<jiff::Timestamp>() {
        Ok(time) => format::ago(time.as_second(), now.timestamp()),
        Err(_) => String::new(),
    };
    let mut lines = "CACHE ID\tCACHE TYPE\tSIZE\tCREATED\tLAST USED\tUSAGE\tSHARED\n".to_owned();
    for cache in caches {
        lines.push_str(&format!(
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
            short_id(&cache.id),
            cache.r#type,
            size(cache.size),
            since(&cache.created_at),
            cache.last_used_at.as_deref().map(since).unwrap_or_default(),
            cache.usage_count,
            cache.shared
        ));
    }
    text.push_str(&tabulate(&lines));
    text
}

fn image_lines(usage: &SystemDataUsageResponse, now: &Now) -> String {
    let mut lines =
        "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS\n".to_owned();
    let mut seen = BTreeSet::new();
    let total = |bytes: i64| format::total_size(u64::try_from(bytes).unwrap_or(0));
    for image in usage.images.iter().flatten() {
        if !seen.insert(&image.id) {
            continue;
        }
        let name =
            image.repo_tags.iter().flatten().next().and_then(|tag| yare_oci::Reference::parse(tag).ok());
        let (repository, tag) = match &name {
            Some(reference) => (reference.familiar_name(), reference.tag().unwrap_or("<none>").to_owned()),
            None => ("<none>".to_owned(), "<none>".to_owned()),
        };
        lines.push_str(&format!(
            "{repository}\t{tag}\t{}\t{}\t{}\t{}\t{}\t{}\n",
            short_id(&image.id),
            format::ago(image.created, now.timestamp()),
            size(image.size),
            total(image.shared_size),
            total(image.size - image.shared_size),
            image.containers
        ));
    }
    lines
}

fn container_lines(usage: &SystemDataUsageResponse, now: &Now) -> String {
    let mut lines = "CONTAINER ID\tIMAGE\tCOMMAND\tLOCAL VOLUMES\tSIZE\tCREATED\tSTATUS\tNAMES\n".to_owned();
    for container in usage.containers.iter().flatten() {
        let names: Vec<&str> =
            container.names.iter().map(|name| name.strip_prefix('/').unwrap_or(name)).collect();
        lines.push_str(&format!(
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
            short_id(&container.id),
            container.image,
            crate::opts::quote(&format::ellipsis(&container.command, 20)),
            container.mounts.iter().filter(|mount| mount.driver == "local").count(),
            size(container.size_rw),
            format::ago(container.created, now.timestamp()),
            container.status,
            names.join(",")
        ));
    }
    lines
}
