//! Mounts of a container that is being created: volumes found or made, sources checked.

use crate::container::{MountedImage, Origin};
use crate::images::blocking;
use crate::volumes::fill::Fill;
use crate::volumes::holds::Hold;
use crate::{Engine, volumes};
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_api::{MountPoint, VolumeCreateOptions};
use yare_errdefs::{Error, Result};
use yare_image::Lease;
use yare_specgen::Plan;
use yare_specgen::mounts::{MountPlan, MountSource, missing_bind};

/// The outcome.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// The mounts as inspect shows them, with their sources.
    pub(crate) points: Vec<MountPoint>,
    /// Where they come from when that is not all.
    pub(crate) origins: BTreeMap<String, Origin>,
    /// Volumes that were made for this container alone.
    pub(crate) anonymous: Vec<String>,
    /// Volumes that take what the image has at their place, if they are empty.
    pub(crate) to_fill: Vec<Fill>,
    /// Keep the volumes until the container is known to mount them.
    pub(crate) holds: Vec<Hold>,
    /// Keep the images, likewise.
    pub(crate) leases: Vec<Lease>,
}

/// Finds or makes what the plan of container `id` mounts.
pub(crate) async fn mounts(engine: &Arc<Engine>, id: &str, plan: &Plan) -> Result<Prepared> {
    let mut prepared = Prepared::default();
    let made = make_mounts(engine, id, plan, &mut prepared).await;
    if made.is_err() {
        for volume in &prepared.anonymous {
            volumes::take_away(engine, volume)?;
        }
    }
    made.map(|()| prepared)
}

async fn make_mounts(engine: &Arc<Engine>, id: &str, plan: &Plan, prepared: &mut Prepared) -> Result<()> {
    for mount in &plan.mounts {
        match &mount.source {
            MountSource::Bind { .. } => {
                // The path may be on a file server that does not answer.
                let mount = mount.clone();
                note_origin(&mount, prepared);
                prepared.points.push(blocking(move || bind(&mount)).await?);
            }
            MountSource::Volume { .. } => volume(engine, id, mount, prepared).await?,
            MountSource::Image { reference, .. } => image(engine, id, mount, reference, prepared)?,
            MountSource::Tmpfs { .. } => {
                let listed = plan
                    .host_config
                    .tmpfs
                    .as_ref()
                    .is_some_and(|tmpfs| tmpfs.contains_key(&mount.destination));
                if !listed {
                    prepared.points.push(point(mount, "tmpfs", String::new()));
                }
            }
        }
    }
    take_over(engine, id, plan, prepared).await
}

fn point(mount: &MountPlan, kind: &str, source: String) -> MountPoint {
    MountPoint {
        r#type: kind.to_owned(),
        source,
        destination: mount.destination.clone(),
        mode: mount.mode.clone(),
        rw: !mount.read_only,
        propagation: mount.propagation.clone(),
        ..MountPoint::default()
    }
}

/// Notes what is more than a source.
fn note_origin(mount: &MountPlan, prepared: &mut Prepared) {
    let origin = Origin {
        subpath: mount.source.subpath().to_owned(),
        id_map: mount.id_map.clone(),
        ..Origin::default()
    };
    if origin != Origin::default() {
        prepared.origins.insert(mount.destination.clone(), origin);
    }
}

fn bind(mount: &MountPlan) -> Result<MountPoint> {
    let MountSource::Bind { path, create } = &mount.source else {
        return Err(Error::internal(format!("the mount at {} is no bind", mount.destination)));
    };
    match std::fs::metadata(path) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && *create => {
            std::fs::create_dir_all(path).map_err(|error| {
                Error::internal(format!("error while creating mount source path '{path}'")).caused_by(error)
            })?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(missing_bind(path).with_hint(format!("make it first: mkdir -p {path}")));
        }
        Err(error) => {
            return Err(Error::invalid(format!("cannot use the bind source {path}")).caused_by(error));
        }
    }
    Ok(point(mount, "bind", path.to_owned()))
}

async fn volume(engine: &Arc<Engine>, id: &str, mount: &MountPlan, prepared: &mut Prepared) -> Result<()> {
    let MountSource::Volume { name, driver, options, labels, subpath, copy } = &mount.source else {
        return Ok(());
    };
    note_origin(mount, prepared);
    let wanted = VolumeCreateOptions {
        driver: driver.clone(),
        driver_opts: (!options.is_empty()).then(|| options.clone()),
        labels: (!labels.is_empty()).then(|| labels.clone()),
        ..VolumeCreateOptions::default()
    };
    let (ensured, hold) = match name {
        Some(name) => {
            let hold = volumes::hold(engine, name, id).await;
            (volumes::ensure(engine, name, &wanted).await?, hold)
        }
        None => {
            let made = volumes::make_for_container(engine, id, &wanted).await?;
            prepared.anonymous.push(made.0.name.clone());
            made
        }
    };
    if *copy {
        prepared.to_fill.push(Fill {
            destination: mount.destination.clone(),
            subpath: subpath.clone(),
            name: ensured.name.clone(),
            marked: name.is_some() && !ensured.is_mount,
            user: id.to_owned(),
            filling: hold.filling(),
        });
    }
    prepared.holds.push(hold);
    let source = ensured.folder.display().to_string();
    prepared.points.push(MountPoint {
        name: ensured.name,
        driver: "local".to_owned(),
        ..point(mount, "volume", source)
    });
    Ok(())
}

/// An image whose files are mounted. Which one the name means is settled here, as for the container's own.
fn image(
    engine: &Engine,
    id: &str,
    mount: &MountPlan,
    reference: &str,
    prepared: &mut Prepared,
) -> Result<()> {
    let image = engine.images.resolve(reference, None)?;
    prepared.leases.push(engine.images.hold(&image.id, id)?);
    engine.images.touch(&image.id);
    let snapshots = engine.images.snapshots();
    let folder = image.layers.last().map(|top| snapshots.layer_dir(top));
    let source = folder.unwrap_or_else(|| engine.config.data_root.clone()).display().to_string();
    let mounted = MountedImage { id: image.id.0, layers: image.layers.to_vec() };
    let origin =
        Origin { subpath: mount.source.subpath().to_owned(), image: Some(mounted), ..Origin::default() };
    prepared.origins.insert(mount.destination.clone(), origin);
    prepared.points.push(MountPoint { name: reference.to_owned(), ..point(mount, "image", source) });
    Ok(())
}

/// `--volumes-from`: the mounts of other containers, where nothing is mounted yet.
async fn take_over(engine: &Engine, id: &str, plan: &Plan, prepared: &mut Prepared) -> Result<()> {
    for from in &plan.volumes_from {
        // Not found would make clients pull the image.
        let missing = |error: Error| Error::invalid(error.to_string());
        let other = engine.containers.find(&from.container).map_err(missing)?.record();
        for mount in &other.mounts {
            if prepared.points.iter().any(|point| point.destination == mount.destination) {
                continue;
            }
            if mount.r#type == "volume" {
                prepared.holds.push(volumes::hold(engine, &mount.name, id).await);
                if engine.volumes.find(&mount.name).is_none() {
                    return Err(Error::conflict(format!(
                        "volume {} of container {} has just been removed",
                        mount.name, other.name
                    )));
                }
            }
            if let Some(origin) = other.origins.get(&mount.destination) {
                if let Some(image) = &origin.image {
                    prepared.leases.push(engine.images.hold(&yare_image::ImageId(image.id), id)?);
                }
                prepared.origins.insert(mount.destination.clone(), origin.clone());
            }
            let mut taken = mount.clone();
            if let Some(options) = tmpfs_options(&other.plan, &mount.destination) {
                taken.mode = options;
            }
            if let Some(read_only) = from.read_only {
                taken.rw = !read_only && taken.rw;
            }
            prepared.points.push(taken);
        }
    }
    Ok(())
}

/// The options of a plan's memory mount.
fn tmpfs_options(plan: &Plan, destination: &str) -> Option<String> {
    let mount = plan.mounts.iter().find(|mount| mount.destination == destination)?;
    match &mount.source {
        MountSource::Tmpfs { options } => Some(options.clone()),
        _ => None,
    }
}

/// Sources of the mounts by destination, for rendering.
pub(crate) fn sources(points: &[MountPoint]) -> BTreeMap<String, String> {
    points.iter().map(|point| (point.destination.clone(), point.source.clone())).collect()
}
