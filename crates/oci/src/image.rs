//! Image configs, with what Docker adds to the OCI ones.

use crate::{DiffId, Platform};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An image config (image-spec, config.md, and Docker's image-spec v1.2), a parsed view of its raw bytes.
/// Unknown members are kept in `extra`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// CPU architecture in Go's words.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Version of the operating system.
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// How containers of it run by default.
    #[serde(default)]
    pub config: ContainerConfig,
    /// The layers.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How each layer came to be.
    #[serde(default, skip_serializing_if = "null_default::is_empty", deserialize_with = "null_default::de")]
    pub history: Vec<History>,
    /// Docker's `docker commit` comment.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whatever else the document has.
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

impl ImageConfig {
    /// What the image was built for; an empty architecture or system counts as the host's.
    pub fn platform(&self) -> Platform {
        let host = Platform::host();
        let or =
            |value: &str, default: &str| if value.is_empty() { default.to_owned() } else { value.to_owned() };
        Platform::new(&or(&self.os, &host.os), &or(&self.architecture, &host.architecture), &self.variant)
    }
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Digests of the uncompressed tars, bottom first.
    #[serde(default, deserialize_with = "null_default::de")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

/// One step of an image's making.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By what command.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// A remark.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether this step has no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// How containers of an image run by default: the `config` member of an image config.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `user[:group]`, names or numbers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `port/proto` keys.
    #[serde(
        default,
        skip_serializing_if = "null_default::is_empty_map",
        deserialize_with = "null_default::de"
    )]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `KEY=value`.
    #[serde(default, skip_serializing_if = "null_default::is_empty", deserialize_with = "null_default::de")]
    pub env: Vec<String>,
    /// Program and first arguments; `None` and empty differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Default arguments, or the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths that become anonymous volumes.
    #[serde(
        default,
        skip_serializing_if = "null_default::is_empty_map",
        deserialize_with = "null_default::de"
    )]
    pub volumes: BTreeMap<String, Empty>,
    /// Working directory.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(
        default,
        skip_serializing_if = "null_default::is_empty_map",
        deserialize_with = "null_default::de"
    )]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Seconds to wait after that signal (Docker).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Health check (Docker).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for images built on this one (Docker).
    #[serde(default, skip_serializing_if = "null_default::is_empty", deserialize_with = "null_default::de")]
    pub on_build: Vec<String>,
    /// Shell of the shell form (Docker).
    #[serde(default, skip_serializing_if = "null_default::is_empty", deserialize_with = "null_default::de")]
    pub shell: Vec<String>,
    /// Windows only (Docker).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Whatever else the member has (old images carry `Hostname`, `Image`, … here).
    #[serde(flatten)]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// How to find out whether a container is healthy (Docker). Durations are nanoseconds, 0 is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]`, `["CMD-SHELL", text]`.
    #[serde(default, skip_serializing_if = "null_default::is_empty", deserialize_with = "null_default::de")]
    pub test: Vec<String>,
    /// Time between probes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time a probe may take.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time after start in which failures don't count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between probes in the start period.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
    /// What is done with a container that is unhealthy: `none`, `kill`, `restart`, `stop`; empty where nobody
    /// says. Not Docker's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub on_failure: String,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// The empty object, as sets are written in Go's JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Go writes an absent list or map as `null`: read it as the default.
mod null_default {
    use serde::{Deserialize, Deserializer};
    use std::collections::BTreeMap;

    pub(super) fn de<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
    }

    pub(super) fn is_empty<T>(list: &[T]) -> bool {
        list.is_empty()
    }

    pub(super) fn is_empty_map<K, V>(map: &BTreeMap<K, V>) -> bool {
        map.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_nulls_and_keeps_what_it_does_not_know() {
        let text = r#"{"architecture":"amd64","os":"linux","docker_version":"20","history":null,
            "config":{"Env":null,"Cmd":["sh"],"Hostname":"h","Volumes":{"/v":{}}},"rootfs":{"type":"layers","diff_ids":null}}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
        assert!(config.config.volumes.contains_key("/v"));
        assert_eq!(config.extra["docker_version"], "20");
        assert_eq!(config.config.extra["Hostname"], "h");
        let back = serde_json::to_value(&config).unwrap();
        assert_eq!(back["docker_version"], "20");
    }
}
