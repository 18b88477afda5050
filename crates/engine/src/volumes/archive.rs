//! A volume's content as a tar: out of one engine, into another.

use super::local;
use crate::Engine;
use crate::images::{self, Body, BodyReader, Output, blocking};
use std::os::fd::AsFd;
use std::sync::Arc;
use yare_api::VolumeCreateOptions;
use yare_errdefs::{Error, Result};
use yare_layer::{Decompressor, ExtractOptions, Form, Limits, WriteOptions};

/// The tar, as it is written. Who writes to the volume meanwhile is not stopped.
pub async fn export(engine: &Arc<Engine>, name: &str) -> Result<Output> {
    let hold = super::hold(engine, name, "its own export").await;
    if engine.volumes.find(name).is_none() {
        return Err(super::missing(name));
    }
    let (engine, name) = (Arc::clone(engine), name.to_owned());
    images::written(move |writer| {
        let _hold = hold;
        let cannot = || format!("cannot export volume {name}");
        let user = crate::random_id();
        let _uses = local::use_named(&engine, std::iter::once(name.as_str()), &user)?;
        let root = open(&engine, &name, &cannot)?;
        let options = WriteOptions { form: Form::Plain, root: true, living: true };
        yare_layer::write_tar(root.as_fd(), writer, &options)
            .map(drop)
            .map_err(|error| Error::wrap(cannot(), error))
    })
}

/// Extracts a tar, which may be compressed, into a volume: over what is there, or into a new one. A new one
/// does not outlive a failure; otherwise what was extracted until then stays. Goes on when the caller leaves.
pub async fn import(engine: &Arc<Engine>, name: &str, body: Body) -> Result<()> {
    let (engine, name) = (Arc::clone(engine), name.to_owned());
    engine.clone().detached(async move { import_now(&engine, &name, body).await }).await
}

async fn import_now(engine: &Arc<Engine>, name: &str, body: Body) -> Result<()> {
    let hold = super::hold(engine, name, "its own import").await;
    let ensured = super::ensure(engine, name, &VolumeCreateOptions::default()).await?;
    let reader = BodyReader::new(body);
    let extracted = blocking({
        let (engine, name) = (Arc::clone(engine), name.to_owned());
        move || extract(&engine, &name, reader)
    })
    .await;
    drop(hold);
    if extracted.is_err() && ensured.fresh {
        // A container may have come for it meanwhile: then it stays.
        if let Ok(_leaving) = super::leave(engine, name, None).await {
            super::discard(engine, name).await?;
        }
    }
    extracted
}

fn extract(engine: &Engine, name: &str, reader: BodyReader) -> Result<()> {
    let cannot = || format!("cannot import into volume {name}");
    let user = crate::random_id();
    let _uses = local::use_named(engine, std::iter::once(name), &user)?;
    let root = open(engine, name, &cannot)?;
    let time = |seconds, nanos| (seconds, nanos);
    let options = ExtractOptions {
        limits: Limits { bytes: None, entries: u64::MAX },
        owner: None,
        time: &time,
        now: engine.clock.now().as_second(),
        form: Form::Plain,
        kinds_stay: None,
        root: true,
        list: false,
    };
    let reader = Decompressor::new(reader)
        .map_err(|error| Error::invalid(format!("{}: it is no archive", cannot())).caused_by(error))?;
    yare_layer::extract(reader, root.as_fd(), &options)
        .map(drop)
        .map_err(|error| Error::wrap(cannot(), error))
}

fn open(engine: &Engine, name: &str, cannot: &dyn Fn() -> String) -> Result<std::os::fd::OwnedFd> {
    yare_sys::fs::open_dir(super::folder(engine, name))
        .map_err(|error| Error::new(yare_errdefs::class_of_io(&error), cannot()).caused_by(error))
}
