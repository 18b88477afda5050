//! `builder du`: what the cache of builds takes.

use yare_api::{BuildCache, SystemDataUsageResponse};
use yare_client::Request;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{self, Layout, Row, tabulate, total_size, write_list};
use crate::opts;
use crate::table::Outcome;

const LAYOUT: Layout = Layout {
    headings: &[
        ("ID", "ID"),
        ("Reclaimable", "RECLAIMABLE"),
        ("Size", "SIZE"),
        ("LastUsedAt", "LAST ACCESSED"),
        ("CreatedAt", "CREATED"),
        ("Description", "DESCRIPTION"),
        ("Type", "TYPE"),
        ("Shared", "SHARED"),
        ("UsageCount", "USAGE"),
        ("Parents", "PARENTS"),
    ],
    table: &["ID", "Reclaimable", "Size", "LastUsedAt"],
    raw: "",
};

/// `builder du`.
pub(crate) async fn du(cx: &Context, given: &Given) -> Outcome {
    let request = Request::get("/system/df").query("type", "build-cache");
    let usage: SystemDataUsageResponse = cx.client().json(request).await?;
    let mut caches = usage.build_cache.unwrap_or_default();
    let filters: Vec<(String, String)> =
        given.list("filter").iter().map(|text| opts::filter(text)).collect::<Result<_, String>>()?;
    for (name, value) in &filters {
        if !matches!(name.as_str(), "id" | "type" | "inuse" | "shared" | "private" | "description") {
            return Err(Failure::new(format!("invalid filter '{name}'")));
        }
        caches.retain(|cache| matches_filter(cache, name, value));
    }
    let now = cx.now();
    if given.bool("verbose") {
        cx.write(verbose(&caches, &now))?;
        cx.write(totals(&caches))?;
        return Ok(0);
    }
    let format = given.text("format");
    write_list(cx, format, &LAYOUT, caches.iter().map(|cache| row(cache, &now)))?;
    if matches!(format, "" | "table") {
        cx.write(totals(&caches))?;
    }
    Ok(0)
}

fn matches_filter(cache: &BuildCache, name: &str, value: &str) -> bool {
    let wanted = value != "false";
    match name {
        "id" => cache.id.starts_with(value),
        "type" => cache.r#type == value,
        "inuse" => cache.in_use == wanted,
        "shared" => cache.shared == wanted,
        "private" => cache.shared != wanted,
        _ => cache.description.contains(value),
    }
}

fn since(time: &str, now: &crate::clock::Now) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => format::ago(time.as_second(), now.timestamp()),
        Err(_) => String::new(),
    }
}

fn row(cache: &BuildCache, now: &crate::clock::Now) -> Row {
    Row::new()
        .with("ID", cache.id.clone())
        .with("Reclaimable", (!cache.in_use).to_string())
        .with("Size", format::size(cache.size))
        .with("LastUsedAt", cache.last_used_at.as_deref().map(|time| since(time, now)).unwrap_or_default())
        .with("CreatedAt", since(&cache.created_at, now))
        .with("Description", cache.description.clone())
        .with("Type", cache.r#type.clone())
        .with("Shared", cache.shared.to_string())
        .with("UsageCount", cache.usage_count.to_string())
        .with("Parents", cache.parents.clone().unwrap_or_default().join(","))
}

fn verbose(caches: &[BuildCache], now: &crate::clock::Now) -> String {
    let mut text = String::new();
    for cache in caches {
        let mut lines = format!("ID:\t{}\n", cache.id);
        if let Some(parents) = cache.parents.as_ref().filter(|parents| !parents.is_empty()) {
            lines.push_str(&format!("Parents:\t{}\n", parents.join(", ")));
        }
        lines.push_str(&format!("Created:\t{}\n", since(&cache.created_at, now)));
        lines.push_str(&format!("Reclaimable:\t{}\nShared:\t{}\n", !cache.in_use, cache.shared));
        lines.push_str(&format!(
            "Size:\t{}\nDescription:\t{}\n",
            format::size(cache.size),
            cache.description
        ));
        lines.push_str(&format!("Usage count:\t{}\n", cache.usage_count));
        if let Some(used) = &cache.last_used_at {
            lines.push_str(&format!("Last used:\t{}\n", since(used, now)));
        }
        lines.push_str(&format!("Type:\t{}\n", cache.r#type));
        text.push_str(&tabulate(&lines));
        text.push('\n');
    }
    text
}

/// The sums, as Buildx ends its list.
fn totals(caches: &[BuildCache]) -> String {
    let sum = |wanted: &dyn Fn(&BuildCache) -> bool| {
        let sizes =
            caches.iter().filter(|cache| wanted(cache)).map(|cache| u64::try_from(cache.size).unwrap_or(0));
        total_size(sizes.fold(0, u64::saturating_add))
    };
    let mut lines = String::new();
    if caches.iter().any(|cache| cache.shared) {
        lines.push_str(&format!("Shared:\t{}\n", sum(&|cache| cache.shared)));
        lines.push_str(&format!("Private:\t{}\n", sum(&|cache| !cache.shared)));
    }
    lines.push_str(&format!("Reclaimable:\t{}\nTotal:\t{}\n", sum(&|cache| !cache.in_use), sum(&|_| true)));
    tabulate(&lines)
}
