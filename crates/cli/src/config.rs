//! The user's configuration file, `~/.docker/config.json`: Docker's, as far as it concerns this program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

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
    #[serde(skip)]
    path: PathBuf,
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
    pub(crate) fn load(directory: &Path) -> Self {
        let path = directory.join("config.json");
        let config = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { path, ..config.unwrap_or_default() }
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

    /// Writes credentials into the file, or takes them out; everything else in it stays.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn store(&self, registry: &str, auth: Option<Value>) -> std::io::Result<()> {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        let mut document: Value = std::fs::read(&self.path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let Some(object) = document.as_object_mut() else { return Ok(()) };
        let auths = object.entry("auths").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(auths) = auths.as_object_mut() {
            match auth {
                Some(auth) => drop(auths.insert(registry.to_owned(), auth)),
                None => drop(auths.remove(registry)),
            }
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
