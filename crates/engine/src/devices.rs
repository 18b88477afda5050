//! Devices by the Container Device Interface, read anew whenever they are asked for: vendors write and change
//! their files at any time.

use crate::Engine;
use yare_api::{DeviceInfo, DeviceRequest};
use yare_cdi::Registry;
use yare_errdefs::{Classified, Error, Result, chain};
use yare_oci::runtime::Spec;
use yare_specgen::devices::{GPU, cdi_names};

/// What the engine's folders describe now.
pub fn registry(engine: &Engine) -> Registry {
    Registry::read(&engine.config.cdi_spec_dirs)
}

/// Edits a spec so that its container has the devices asked for.
///
/// # Errors
/// Docker's texts, and as there never the request's fault: on another host, or later, it may be right.
pub(crate) fn inject(engine: &Engine, requests: &[DeviceRequest], spec: &mut Spec) -> Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    let registry = registry(engine);
    let names = cdi_names(requests, registry.has_kind(GPU));
    let names = names.map_err(|error| Error::internal(error.to_string()))?;
    if names.is_empty() {
        return Ok(());
    }
    registry.inject(&names, spec).map_err(|error| {
        let failed = Error::internal(format!("CDI device injection failed: {}", chain(&error)));
        match error.hint() {
            Some(hint) => failed.with_hint(hint),
            None => failed,
        }
    })
}

/// For `info`: the devices, and what is wrong with files.
pub(crate) fn discovered(engine: &Engine) -> (Vec<DeviceInfo>, Vec<String>) {
    let registry = registry(engine);
    let device = |name: &str| DeviceInfo { source: "cdi".to_owned(), id: name.to_owned() };
    let faults = registry.faults().iter().flat_map(|(path, texts)| {
        texts.iter().map(|text| format!("CDI: Error associated with spec file {}: {text}", path.display()))
    });
    (registry.names().map(device).collect(), faults.collect())
}
