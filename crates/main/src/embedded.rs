//! `yare/hello`: the image of the first run, made from this very binary, so that it needs no network.

use std::sync::Arc;
use yare_engine::Engine;
use yare_errdefs::{Error, Result};
use yare_image::{EmbeddedContent, EmbeddedFile};
use yare_oci::{ContainerConfig, Reference};

const NAME: &str = "yare/hello:latest";

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

/// Prints the greeting: what the container does.
pub(crate) fn greet() -> i32 {
    crate::say(GREETING)
}

/// Makes the image unless it is there. An image that an older binary made is used meanwhile: the new one is
/// made beside the serving, and the old one goes unless a container holds it.
pub(crate) async fn ensure(engine: &Arc<Engine>) -> Result<()> {
    let present = yare_engine::images::inspect(engine, NAME).map(|image| image.id).ok();
    let making = tokio::task::spawn_blocking({
        let engine = Arc::clone(engine);
        move || make(&engine)
    });
    let Some(old) = present else {
        return making
            .await
            .map_err(|error| Error::internal("cannot make the first image").caused_by(error))?;
    };
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        if let Ok(Err(error)) = making.await {
            tracing::warn!(error = yare_errdefs::chain(&error), "cannot make {NAME}");
        }
        let current = yare_engine::images::inspect(&engine, NAME).map(|image| image.id);
        if current.is_ok_and(|current| current != old)
            && let Err(error) = yare_engine::images::remove(&engine, &old, false, false).await
        {
            tracing::info!(error = yare_errdefs::chain(&error), "the {NAME} of an older binary stays");
        }
    });
    Ok(())
}

fn make(engine: &Engine) -> Result<()> {
    let binary = std::fs::File::open("/proc/self/exe")
        .map_err(|error| Error::internal("cannot read this binary").caused_by(error))?;
    let files = [EmbeddedFile { path: "hello".into(), mode: 0o755, content: EmbeddedContent::File(binary) }];
    let config = ContainerConfig { cmd: Some(vec!["/hello".to_owned()]), ..ContainerConfig::default() };
    let reference = Reference::parse(NAME).map_err(|error| Error::internal(error.to_string()))?;
    yare_engine::images::ensure_embedded(engine, &reference, &files, &config).map(drop)
}
