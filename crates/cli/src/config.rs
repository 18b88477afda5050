//! The user's configuration file, `~/.docker/config.json`: Docker's, as far as it concerns this program.

mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::context::Environment;
use crate::failure::Failure;
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
    /// Folders with plugins, before all others.
    pub cli_plugins_extra_dirs: Vec<String>,
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
    /// What is wrong with the file; then all of the above is as if there were none.
    #[serde(skip)]
    pub fault: Option<String>,
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
    /// The user, where `auth` does not tell.
    pub username: String,
    /// The password, where `auth` does not tell.
    pub password: String,
    /// A token in the password's place.
    pub identitytoken: String,
    /// A token that is shown to the registry as it is.
    pub registrytoken: String,
}

impl Config {
    /// Reads the file in this directory. One that cannot be read is as an empty one for what only asks, as
    /// with docker, and [`Self::fault`] says why; it is never written over.
    pub(crate) fn load(directory: &Path, environment: &Environment) -> Self {
        let path = directory.join("config.json");
        let read = file::read(&path).and_then(|mut document| {
            // Go's programs write `null` for what is empty.
            document.retain(|_, value| !value.is_null());
            serde_json::from_value::<Self>(Value::Object(document))
                .map_err(|error| format!("{} is not understood: {error}", path.display()))
        });
        let (config, fault) = match read {
            Ok(config) => (config, None),
            Err(fault) => (Self::default(), Some(fault)),
        };
        let (vault, programs) = (Vault::of(environment), Programs::on(environment));
        Self { path, vault, programs, fault, ..config }
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file may be changed.
    ///
    /// # Errors
    /// When what is in it is not understood.
    pub(crate) fn intact(&self) -> Result<(), Failure> {
        match &self.fault {
            None => Ok(()),
            Some(fault) => Err(Failure::new(format!("nothing was written: {fault}"))
                .with_hint("mend the file, or move it away, and try again")),
        }
    }

    /// Writes credentials into the file, perhaps with the helper that has the secret; everything else stays.
    ///
    /// # Errors
    /// When the file cannot be written, or is not understood.
    pub(crate) fn put(&self, key: &str, auth: Value, helper: Option<&str>) -> Result<(), String> {
        file::change(&self.path, |document| {
            put_member(document, "auths", key, auth);
            if let Some(helper) = helper {
                put_member(document, "credHelpers", key, Value::from(helper));
            }
        })
    }

    /// Notes which context is in use; an empty name is none.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) fn use_context(&self, name: &str) -> Result<(), Failure> {
        self.intact()?;
        if name.is_empty() && self.current_context.is_empty() {
            return Ok(());
        }
        let changed = file::change(&self.path, |document| match name {
            "" => drop(document.remove("currentContext")),
            _ => drop(document.insert("currentContext".to_owned(), name.into())),
        });
        changed.map_err(Failure::new)
    }

    /// Takes the credentials under these keys out of the file, and the helper `helper` of these registries.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) fn drop_keys(&self, is_key: impl Fn(&str) -> bool, helper: &str) -> Result<(), String> {
        file::change(&self.path, |document| {
            if let Some(auths) = document.get_mut("auths").and_then(Value::as_object_mut) {
                auths.retain(|key, _| !is_key(key));
            }
            if let Some(helpers) = document.get_mut("credHelpers").and_then(Value::as_object_mut) {
                helpers.retain(|key, name| !(is_key(key) && name == helper));
            }
        })
    }
}

/// Puts one entry into a member that is an object, or `null`, or not there.
fn put_member(document: &mut Map<String, Value>, member: &str, key: &str, value: Value) {
    match document.get_mut(member).and_then(Value::as_object_mut) {
        Some(entries) => drop(entries.insert(key.to_owned(), value)),
        None => drop(document.insert(member.to_owned(), serde_json::json!({ key: value }))),
    }
}
