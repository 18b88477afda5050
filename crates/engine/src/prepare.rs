//! Mounts of a container that is being created: volumes found or made, sources checked, new volumes filled.

use crate::{Engine, volumes};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yare_api::{MountPoint, VolumeCreateOptions};
use yare_errdefs::{Error, Result};
use yare_oci::DiffId;
use yare_specgen::Plan;
use yare_specgen::mounts::{MountPlan, MountSource, missing_bind};

/// The outcome.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// The mounts as inspect shows them, with their sources.
    pub(crate) points: Vec<MountPoint>,
    /// Volumes that were made for this container alone.
    pub(crate) anonymous: Vec<String>,
    /// Volumes that take what the image has at their place, if they are empty.
    pub(crate) to_fill: Vec<Fill>,
}

/// A volume to fill.
#[derive(Debug)]
pub(crate) struct Fill {
    destination: String,
    folder: PathBuf,
}

/// Finds or makes what a plan mounts.
pub(crate) async fn mounts(engine: &Arc<Engine>, plan: &Plan) -> Result<Prepared> {
    let mut prepared = Prepared::default();
    let made = make_mounts(engine, plan, &mut prepared).await;
    if made.is_err() {
        for volume in &prepared.anonymous {
            volumes::take_away(engine, volume)?;
        }
    }
    made.map(|()| prepared)
}

async fn make_mounts(engine: &Arc<Engine>, plan: &Plan, prepared: &mut Prepared) -> Result<()> {
    for mount in &plan.mounts {
        match &mount.source {
            MountSource::Bind { path, create } => prepared.points.push(bind(mount, path, *create)?),
            MountSource::Volume { .. } => volume(engine, mount, prepared).await?,
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
    take_over(engine, plan, prepared)
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

fn bind(mount: &MountPlan, path: &str, create: bool) -> Result<MountPoint> {
    match std::fs::metadata(path) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && create => {
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

async fn volume(engine: &Arc<Engine>, mount: &MountPlan, prepared: &mut Prepared) -> Result<()> {
    let MountSource::Volume { name, driver, options, labels, subpath, copy } = &mount.source else {
        return Ok(());
    };
    if !subpath.is_empty() {
        return Err(Error::unimplemented("a subpath of a volume is not built into this Yare yet"));
    }
    let wanted = VolumeCreateOptions {
        driver: driver.clone(),
        driver_opts: (!options.is_empty()).then(|| options.clone()),
        labels: (!labels.is_empty()).then(|| labels.clone()),
        ..VolumeCreateOptions::default()
    };
    let ensured = match name {
        Some(name) => volumes::ensure(engine, name, &wanted).await?,
        None => {
            let made = volumes::make_for_container(engine, &wanted)?;
            prepared.anonymous.push(made.name.clone());
            made
        }
    };
    if *copy {
        prepared
            .to_fill
            .push(Fill { destination: mount.destination.clone(), folder: ensured.folder.clone() });
    }
    let source = ensured.folder.display().to_string();
    prepared.points.push(MountPoint {
        name: ensured.name,
        driver: "local".to_owned(),
        ..point(mount, "volume", source)
    });
    Ok(())
}

/// `--volumes-from`: the mounts of other containers, where nothing is mounted yet.
fn take_over(engine: &Engine, plan: &Plan, prepared: &mut Prepared) -> Result<()> {
    for from in &plan.volumes_from {
        // Not found would make clients pull the image.
        let missing = |error: Error| Error::invalid(error.to_string());
        let other = engine.containers.find(&from.container).map_err(missing)?.record();
        for mount in &other.mounts {
            if prepared.points.iter().any(|point| point.destination == mount.destination) {
                continue;
            }
            let mut taken = mount.clone();
            if let Some(read_only) = from.read_only {
                taken.rw = !read_only && taken.rw;
            }
            prepared.points.push(taken);
        }
    }
    Ok(())
}

/// Fills empty volumes with what the image has at their place, owners and all. The image's tree is mounted
/// apart from every namespace and read beneath its root: no link in it leads out.
pub(crate) fn fill_volumes(engine: &Engine, layers: &[DiffId], fills: &[Fill]) -> Result<()> {
    let empty: Vec<&Fill> = fills.iter().filter(|fill| is_empty(&fill.folder)).collect();
    if empty.is_empty() {
        return Ok(());
    }
    let tree = engine
        .images
        .snapshots()
        .view_fd(layers)
        .map_err(|error| Error::wrap("cannot read the image to fill a volume from it", error))?;
    for fill in empty {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let relative = fill.destination.trim_start_matches('/');
        let Ok(source) = yare_sys::fs::open_beneath(tree.as_fd(), relative, flags, rustix::fs::Mode::empty())
        else {
            // The image has nothing there, or a file: the volume stays empty, as with Docker.
            continue;
        };
        copy(&source, fill)?;
    }
    Ok(())
}

fn copy(source: &std::os::fd::OwnedFd, fill: &Fill) -> Result<()> {
    let failed = || format!("cannot fill the volume for {} from the image", fill.destination);
    let target =
        yare_sys::fs::open_dir(&fill.folder).map_err(|error| Error::internal(failed()).caused_by(error))?;
    yare_layer::copy_tree(source.as_fd(), target.as_fd()).map_err(|error| Error::wrap(failed(), error))?;
    Ok(())
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Sources of the mounts by destination, for rendering.
pub(crate) fn sources(points: &[MountPoint]) -> BTreeMap<String, String> {
    points.iter().map(|point| (point.destination.clone(), point.source.clone())).collect()
}
