//! `volume create`, `volume ls`, `volume rm`, `volume export`, `volume import`.

use std::collections::BTreeMap;

use yare_api::{Volume, VolumeCreateOptions};
use yare_client::Request;

use crate::commands::{archive, transfer};
use crate::context::{Context, each};
use crate::flags::Given;
use crate::format::{self, Layout, Row, natural_order, write_list};
use crate::opts;
use crate::table::Outcome;

const LAYOUT: Layout = Layout {
    headings: &[
        ("Name", "VOLUME NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
        ("Group", "GROUP"),
        ("Availability", "AVAILABILITY"),
        ("Status", "STATUS"),
    ],
    table: &["Driver", "Name"],
    raw: "name: {{.Name}}\ndriver: {{.Driver}}\n",
};

/// `volume create`.
pub(crate) async fn create(cx: &Context, given: &Given) -> Outcome {
    let volume = cx.client().volume_create(&request(given)).await?;
    cx.line(volume.name)?;
    Ok(0)
}

/// The body of the create call.
pub(crate) fn request(given: &Given) -> VolumeCreateOptions {
    let map = |name: &str| -> Option<BTreeMap<String, String>> {
        let entries = given.list(name);
        (!entries.is_empty()).then(|| opts::key_values(&entries))
    };
    VolumeCreateOptions {
        driver: given.text_opt("driver").unwrap_or("local").to_owned(),
        driver_opts: map("opt"),
        labels: map("label"),
        name: given.argument(0).to_owned(),
    }
}

fn archive_path(volume: &str) -> String {
    format!("/yare/volumes/{}/archive", Request::segment(volume))
}

/// `volume export`.
pub(crate) async fn export(cx: &Context, given: &Given) -> Outcome {
    let request = Request::get(archive_path(given.argument(0)));
    archive::fetch(cx, request, given.text("output"), ("export", "volume")).await
}

/// `volume import`.
pub(crate) async fn import(cx: &Context, given: &Given) -> Outcome {
    let body = match given.arguments.get(1).map(String::as_str) {
        None | Some("-") => transfer::standard_input(cx),
        Some(path) => transfer::file(path).await?,
    };
    let request = Request::put(archive_path(given.argument(0))).body("application/x-tar", body);
    cx.client().send(request).await?;
    Ok(0)
}

/// `volume ls`.
pub(crate) async fn ls(cx: &Context, given: &Given) -> Outcome {
    let quiet = given.bool("quiet");
    let format = match given.text_opt("format") {
        Some(format) if !format.is_empty() => format,
        _ if quiet => "",
        _ => &cx.config().volumes_format,
    };
    let mut listed = cx.client().volume_list(&opts::filters(&given.list("filter"), &[])).await?;
    let mut volumes = listed.volumes.take().unwrap_or_default();
    volumes.sort_by(|a, b| natural_order(&a.name, &b.name));
    if quiet && (format.is_empty() || format == "table") {
        for volume in &volumes {
            cx.line(&volume.name)?;
        }
    } else {
        write_list(cx, format, &LAYOUT, volumes.iter().map(row))?;
    }
    for warning in listed.warnings.unwrap_or_default() {
        cx.warn(format_args!("WARNING: {warning}"));
    }
    Ok(0)
}

/// One volume of a list.
pub(crate) fn row(volume: &Volume) -> Row {
    let none = BTreeMap::new();
    let labels = volume.labels.as_ref().unwrap_or(&none);
    let usage = volume.usage_data.as_ref();
    Row::new()
        .with("Name", volume.name.clone())
        .with("Driver", volume.driver.clone())
        .with("Scope", volume.scope.clone())
        .with("Mountpoint", volume.mountpoint.clone())
        .with("Labels", format::labels(labels))
        .with("Links", usage.map_or("N/A".to_owned(), |usage| usage.ref_count.to_string()))
        .with("Size", usage.map_or("N/A".to_owned(), |usage| format::size(usage.size)))
        .with("Group", "N/A")
        .with("Availability", "N/A")
        .with("Status", "N/A")
        .labelled(labels)
}

/// `volume rm`. With `-f`, a volume that is not there is no failure.
pub(crate) async fn rm(cx: &Context, given: &Given) -> Outcome {
    let force = given.bool("force");
    each(cx, &given.arguments, async |name| match cx.client().volume_remove(name, force).await {
        Err(error) if !(force && error.is_not_found()) => Err(error.into()),
        _ => Ok(Some(name.to_owned())),
    })
    .await
}
