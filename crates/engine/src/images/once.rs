//! Layers that came compressed are kept once: what their pull left in two forms becomes one, when nobody waits.

use crate::Engine;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use yare_errdefs::chain;
use yare_image::KeptOnce;
use yare_oci::{DiffId, Digest};

/// How often the thread looks whether it may begin, and whether the engine ends.
const LOOK: Duration = Duration::from_millis(250);

/// What the thread is to do.
#[derive(Debug, Default)]
pub(crate) struct Settling(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    runs: bool,
    /// When something came that the thread has not seen.
    came: Option<Instant>,
}

/// Sees to it that layers that came are kept once, some time after the last of them. A thread does it at idle
/// priority, and ends with the work. Killed anywhere, the next start goes on.
pub(crate) fn settle(engine: &Arc<Engine>) {
    let Some(delay) = engine.config.keep_compressed_layers else { return };
    {
        let mut state = engine.transfers.settling.0.lock();
        state.came = Some(Instant::now());
        if std::mem::replace(&mut state.runs, true) {
            return;
        }
    }
    let weak = Arc::downgrade(engine);
    let work = move || work(&weak, delay);
    if let Err(error) = std::thread::Builder::new().name("keep-once".into()).spawn(work) {
        engine.transfers.settling.0.lock().runs = false;
        tracing::warn!(%error, "compressed layers stay beside their directories until the next start");
    }
}

fn work(engine: &Weak<Engine>, delay: Duration) {
    if let Err(error) = yare_sys::fs::become_idle() {
        tracing::debug!(%error, "layers are taken apart at normal priority");
    }
    loop {
        std::thread::sleep(LOOK);
        let Some(engine) = engine.upgrade().filter(|engine| !engine.stopping()) else { return };
        {
            let mut state = engine.transfers.settling.0.lock();
            match state.came {
                None => {
                    state.runs = false;
                    return;
                }
                Some(came) if came.elapsed() < delay || engine.transfers.is_fetching() => continue,
                Some(_) => state.came = None,
            }
        }
        for (blob, layer) in engine.images.kept_twice() {
            if engine.stopping() {
                return;
            }
            keep_once(&engine, &blob, &layer);
        }
    }
}

fn keep_once(engine: &Engine, blob: &Digest, layer: &DiffId) {
    match engine.images.keep_once(blob, layer) {
        Ok(KeptOnce::Recipe(size)) => {
            tracing::info!(%blob, %layer, recipe = size, "a compressed layer gave way to its recipe");
        }
        Ok(KeptOnce::Blob) => {
            tracing::info!(%blob, %layer, "a compressed layer stays: nothing makes it again");
        }
        Ok(KeptOnce::Gone) => {}
        Err(error) => tracing::warn!(%blob, error = chain(&error), "a compressed layer stays for now"),
    }
}
