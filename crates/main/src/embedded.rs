//! Images that the engine brings along: `yare/hello`, of the first run, and `yare/registry`. They are made
//! from this very binary, so that they need no network, and share one layer.

use std::collections::BTreeMap;
use std::sync::Arc;
use yare_engine::Engine;
use yare_errdefs::{Error, Result};
use yare_image::{EmbeddedContent, EmbeddedFile};
use yare_oci::image::Empty;
use yare_oci::{ContainerConfig, Reference};

const GREETING: &str = "
Hello from Yare!

This program ran in a container of its own: own files, own processes, own network.
What happened:
 1. The command line asked the engine for a container of the image yare/hello.
 2. The image came out of the yare binary itself: no registry was asked.
 3. The engine made a writable layer, an address and a cgroup, and started this program.
 4. Its output went to your terminal, and to a log that is rotated before it fills the disk.

Next:
   yare import rootfs.tar debian    make an image from any root filesystem
   yare run -it debian bash         and look around in it
   yare system df                   see what is kept on disk, and why

";

/// Prints the greeting: what a container of `yare/hello` does.
pub(crate) fn greet() -> i32 {
    crate::say(GREETING)
}

/// The images, by name.
fn images() -> [(&'static str, ContainerConfig); 2] {
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    let hello = ContainerConfig { cmd: words(&["/yare", "hello"]), ..ContainerConfig::default() };
    let registry = ContainerConfig {
        entrypoint: words(&["/yare", "registry", "serve"]),
        cmd: words(&["--listen", "0.0.0.0:5000", "--root", "/var/lib/registry"]),
        exposed_ports: BTreeMap::from([("5000/tcp".to_owned(), Empty {})]),
        volumes: BTreeMap::from([("/var/lib/registry".to_owned(), Empty {})]),
        ..ContainerConfig::default()
    };
    [("yare/hello:latest", hello), ("yare/registry:latest", registry)]
}

/// Makes the images unless they are there. Images that an older binary made are used meanwhile: the new ones
/// are made beside the serving, and an old one goes unless a container holds it.
pub(crate) async fn ensure(engine: &Arc<Engine>) -> Result<()> {
    let present = images().map(|(name, _)| {
        yare_engine::images::inspect(engine, name).map(|image| image.id).ok().map(|id| (name, id))
    });
    let making = tokio::task::spawn_blocking({
        let engine = Arc::clone(engine);
        move || make(&engine)
    });
    if present.iter().any(Option::is_none) {
        let made = making.await;
        tell_end();
        return made
            .map_err(|error| Error::internal("cannot make the images of this binary").caused_by(error))?;
    }
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        if let Ok(Err(error)) = making.await {
            tracing::warn!(error = yare_errdefs::chain(&error), "cannot make the images of this binary");
        }
        for (name, old) in present.into_iter().flatten() {
            let options = yare_engine::images::RemoveOptions::default();
            let current = yare_engine::images::inspect(&engine, name).map(|image| image.id);
            if current.is_ok_and(|current| current != old)
                && let Err(error) = yare_engine::images::remove(&engine, &old, options, Vec::new()).await
            {
                tracing::info!(error = yare_errdefs::chain(&error), "the {name} of an older binary stays");
            }
        }
        tell_end();
    });
    Ok(())
}

/// For whoever waits until an engine does nothing of its own any more: several write to one log.
fn tell_end() {
    tracing::debug!(pid = std::process::id(), "the images of this binary are looked after");
}

fn make(engine: &Engine) -> Result<()> {
    let binary = std::fs::File::open("/proc/self/exe")
        .map_err(|error| Error::internal("cannot read this binary").caused_by(error))?;
    let files = [EmbeddedFile { path: "yare".into(), mode: 0o755, content: EmbeddedContent::File(binary) }];
    for (name, config) in images() {
        let reference = Reference::parse(name).map_err(|error| Error::internal(error.to_string()))?;
        yare_engine::images::ensure_embedded(engine, &reference, &files, &config)?;
    }
    Ok(())
}
