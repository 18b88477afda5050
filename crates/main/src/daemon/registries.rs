//! How the engine reaches registries: flags, the configuration file, and the environment's proxies.

use super::flags::Settings;
use super::{many, number, one};
use crate::rootless::Places;
use std::path::{Path, PathBuf};
use yare_distribution as distribution;
use yare_distribution::{Insecure, Policy, Proxies};
use yare_errdefs::{Error, Result};

/// Where folders per registry are looked for: ours, and Docker's, so that nobody has to move them.
const CERTS_D: &[&str] = &["/etc/yare/certs.d", "/etc/docker/certs.d"];

/// Where a signature policy is looked for.
const SIGNATURES: &str = "/etc/yare/signatures.toml";

/// What the settings say of registries.
pub(super) fn settings(settings: &Settings, places: Option<&Places>) -> Result<distribution::Settings> {
    let mut registries = distribution::Settings::default();
    let insecure = many(settings, "insecure-registry");
    let insecure: Result<Vec<Insecure>> =
        insecure.iter().map(|line| Insecure::parse(line).map_err(lifted)).collect();
    registries.insecure = insecure?;
    registries.hub_mirrors = many(settings, "registry-mirror");
    registries.certs_d = match many(settings, "certs-dir") {
        none if none.is_empty() => {
            let own = places.map(Places::certs_d).unwrap_or_default();
            own.into_iter().chain(CERTS_D.iter().map(Into::into)).collect()
        }
        dirs => dirs.iter().map(Into::into).collect(),
    };
    registries.signatures = signatures(one(settings, "signature-policy"))?;
    registries.patience.attempts =
        number(settings, "max-download-attempts", registries.patience.attempts)?.max(1);
    registries.proxies = Proxies::new(
        &proxy(settings, "http-proxy"),
        &proxy(settings, "https-proxy"),
        &proxy(settings, "no-proxy"),
    )
    .and_then(|proxies| proxies.with_default(&proxy(settings, "all-proxy")))
    .map_err(lifted)?;
    if let Some(bundle) = std::env::var_os("SSL_CERT_FILE") {
        registries.roots.insert(0, bundle.into());
    }
    // A mirror with a mistake in it is told now and not at the first pull.
    registries.endpoints(yare_oci::reference::DEFAULT_DOMAIN).map_err(lifted)?;
    Ok(registries)
}

/// The signature policy: the file that is named, or ours where it is there. One with a mistake in it is told
/// now; later it refuses every pull.
fn signatures(named: Option<&str>) -> Result<Option<PathBuf>> {
    let path = Path::new(named.unwrap_or(SIGNATURES));
    if named.is_none() && !path.exists() {
        return Ok(None);
    }
    Policy::read(path).map_err(lifted)?;
    Ok(Some(path.to_owned()))
}

/// The flag, or the variable of this name in either case: `http-proxy`, `HTTP_PROXY`, `http_proxy`.
fn proxy(settings: &Settings, name: &str) -> String {
    let variable = name.replace('-', "_");
    let from_environment = || {
        let upper = std::env::var(variable.to_uppercase()).ok();
        upper.or_else(|| std::env::var(&variable).ok()).unwrap_or_default()
    };
    one(settings, name).map_or_else(from_environment, str::to_owned)
}

fn lifted(error: distribution::Error) -> Error {
    Error::invalid(error.to_string())
}
