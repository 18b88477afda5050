//! The user's configuration file, `~/.docker/config.json`: Docker's, as far as it concerns this program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::context::Environment;
use crate::vault::Vault;

/// The members used here; the others are kept when the file is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Config {
    /// Default `--format` of `ps`.
    pub ps_format: String,
    /// Default `--format` of `images`.
    pub images_format: String,
    /// Default `--format` of `network ls`.
    pub networks_format: String,
    /// Default `--format` of `volume ls`.
    pub volumes_format: String,
    /// Default `--format` of `stats`.
    pub stats_format: String,
    /// The context in use.
    pub current_context: String,
    /// Default detach keys.
    pub detach_keys: String,
    /// Proxies that new containers get as variables, by engine address or `default`.
    pub proxies: BTreeMap<String, Proxy>,
    /// Credentials of registries, base64 of `user:password`.
    pub auths: BTreeMap<String, Auth>,
    /// The helper that keeps credentials in place of this file.
    pub creds_store: String,
    /// Other helpers for single registries.
    pub cred_helpers: BTreeMap<String, String>,
    /// Settings that are not Docker's, in the member that Docker keeps for others.
    pub plugins: Plugins,
    /// Encrypted credentials.
    #[serde(skip)]
    pub vault: Vault,
    /// What is installed.
    #[serde(skip)]
    pub programs: Programs,
    #[serde(skip)]
    path: PathBuf,
}

/// Settings of plugins.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Plugins {
    /// Ours.
    pub yare: Ours,
}

/// Our settings in Docker's file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Ours {
    /// `plain` for credentials in this file, without a helper.
    pub credentials: String,
}

/// Programs on the search path that decide how credentials are kept.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Programs {
    /// A `docker` that is not this program.
    pub docker: bool,
    /// `docker-credential-yare`.
    pub helper: bool,
}

impl Programs {
    fn on(environment: &Environment) -> Self {
        let folders = environment.text("PATH").unwrap_or_default();
        let found = |name: &str| {
            let files = std::env::split_paths(&folders).map(|folder| folder.join(name));
            files.into_iter().find(|file| file.is_file())
        };
        let ours = std::fs::canonicalize("/proc/self/exe").ok();
        let docker = found("docker").and_then(|file| std::fs::canonicalize(file).ok());
        Self { docker: docker.is_some() && docker != ours, helper: found("docker-credential-yare").is_some() }
    }
}

/// Proxies for containers.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Proxy {
    http_proxy: String,
    https_proxy: String,
    ftp_proxy: String,
    no_proxy: String,
    all_proxy: String,
}

impl Proxy {
    /// The variables, in both spellings, as Docker's client sends them.
    pub(crate) fn variables(&self) -> Vec<String> {
        [
            ("HTTP_PROXY", &self.http_proxy),
            ("HTTPS_PROXY", &self.https_proxy),
            ("FTP_PROXY", &self.ftp_proxy),
            ("NO_PROXY", &self.no_proxy),
            ("ALL_PROXY", &self.all_proxy),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .flat_map(|(name, value)| [format!("{name}={value}"), format!("{}={value}", name.to_lowercase())])
        .collect()
    }
}

/// Credentials of one registry.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct Auth {
    /// base64 of `user:password`.
    pub auth: String,
    /// A token in the password's place.
    pub identitytoken: String,
}

impl Config {
    /// Reads the file in this directory; no file, or one that is no JSON, is as an empty one.
    pub(crate) fn load(directory: &Path, environment: &Environment) -> Self {
        let path = directory.join("config.json");
        let config = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let (vault, programs) = (Vault::of(environment), Programs::on(environment));
        Self { path, vault, programs, ..config.unwrap_or_default() }
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The credentials of every registry, as the `X-Registry-Config` header takes them.
    pub(crate) fn registry_config(&self) -> String {
        use base64::Engine as _;
        let all: BTreeMap<&str, yare_api::AuthConfig> = self
            .auths
            .keys()
            // A helper that fails must not end a build that may not need it.
            .filter_map(|registry| Some((registry.as_str(), self.credentials(registry).ok()??)))
            .collect();
        let json = serde_json::to_vec(&all).unwrap_or_default();
        base64::engine::general_purpose::URL_SAFE.encode(json)
    }

    /// Writes credentials into the file, perhaps with the helper that has the secret, or takes both out;
    /// everything else in it stays.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn store(
        &self,
        registry: &str,
        auth: Option<Value>,
        helper: Option<&str>,
    ) -> std::io::Result<()> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        let mut document: Value = std::fs::read(&self.path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let Some(object) = document.as_object_mut() else { return Ok(()) };
        let mut put = |member: &str, value: Option<Value>| {
            let members = object.entry(member).or_insert_with(|| Value::Object(serde_json::Map::new()));
            let Some(members) = members.as_object_mut() else { return };
            match value {
                Some(value) => drop(members.insert(registry.to_owned(), value)),
                None => drop(members.remove(registry)),
            }
        };
        let is_gone = auth.is_none();
        put("auths", auth);
        if helper.is_some() || (is_gone && self.cred_helpers.get(registry).is_some_and(|name| name == "yare"))
        {
            put("credHelpers", helper.map(Value::from));
        }
        if let Some(parent) = self.path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let draft = self.path.with_extension("json.tmp");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        std::io::Write::write_all(&mut file, crate::format::json::pretty(&document, "\t").as_bytes())?;
        std::fs::rename(&draft, &self.path)
    }
}
