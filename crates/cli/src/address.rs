//! Which engine: `-H`, `YARE_HOST`, `DOCKER_HOST`, contexts, or the default socket.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use yare_client::Address;

use crate::context::{Autostart, Context};
use crate::failure::Failure;
use crate::flags::Given;

/// Where our engine listens unless told otherwise.
pub(crate) const DEFAULT: &str = "/run/yare/yare.sock";
/// Where Docker's does: taken when one listens there and ours is not.
const DOCKERS: &str = "/var/run/docker.sock";

/// Settles the engine's address; only the default one is started when nothing listens there.
pub(crate) fn choose(cx: &mut Context, global: &Given, autostart: Option<Autostart>) -> Result<(), Failure> {
    let hosts = global.list("host");
    if hosts.len() > 1 {
        return Err("Failed to initialize: unable to resolve docker endpoint: Specify only one -H".into());
    }
    if global.bool("tls")
        || global.bool("tlsverify")
        || cx.environment.nonempty("DOCKER_TLS_VERIFY").is_some()
    {
        return Err(Failure {
            code: 1,
            text: "connecting with TLS is not built into this client".to_owned(),
            hint: Some("forward the socket with ssh -L, or use a unix socket".to_owned()),
        });
    }
    let host = hosts
        .into_iter()
        .next()
        .filter(|host| !host.is_empty())
        .or_else(|| cx.environment.nonempty("YARE_HOST"))
        .or_else(|| cx.environment.nonempty("DOCKER_HOST"));
    let host = match host {
        Some(host) => Some(host),
        None => of_context(cx, global)?,
    };
    if let Some(host) = host {
        cx.address = Address::parse(&host)?;
        return Ok(());
    }
    // A socket file alone proves nothing: it outlives its engine.
    if !Path::new(DEFAULT).exists() && std::os::unix::net::UnixStream::connect(DOCKERS).is_ok() {
        cx.address = Address::Unix(PathBuf::from(DOCKERS));
    }
    cx.autostart.set(autostart);
    Ok(())
}

/// The address that the chosen context names; `None` for the default one.
fn of_context(cx: &Context, global: &Given) -> Result<Option<String>, Failure> {
    let name = global
        .text_opt("context")
        .map(str::to_owned)
        .or_else(|| cx.environment.nonempty("DOCKER_CONTEXT"))
        .unwrap_or_else(|| cx.config().current_context.clone());
    if name.is_empty() || name == "default" {
        return Ok(None);
    }
    match stored(&cx.config_directory).into_iter().find(|context| context.name == name) {
        Some(context) => Ok(Some(context.host().to_owned())),
        None => Err(Failure::new(format!("context {}: context not found", crate::opts::quote(&name)))),
    }
}

/// One stored context.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Stored {
    /// Its name.
    pub name: String,
    #[serde(default)]
    endpoints: std::collections::BTreeMap<String, Endpoint>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(default)]
    host: String,
}

impl Stored {
    /// The engine's address.
    pub(crate) fn host(&self) -> &str {
        self.endpoints.get("docker").map_or("", |endpoint| endpoint.host.as_str())
    }
}

/// The contexts that Docker's client has stored in this directory.
pub(crate) fn stored(directory: &Path) -> Vec<Stored> {
    let Ok(entries) = std::fs::read_dir(directory.join("contexts/meta")) else { return Vec::new() };
    let mut contexts: Vec<Stored> = entries
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("meta.json")).ok())
        .filter_map(|bytes| serde_json::from_slice(&bytes).ok())
        .collect();
    contexts.sort_by(|a, b| a.name.cmp(&b.name));
    contexts
}
