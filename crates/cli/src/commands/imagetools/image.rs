//! An image's config as Buildx shows it: what the image specification knows, in its order.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

type Map = BTreeMap<String, serde_json::Value>;

/// The config.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Image {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "empty")]
    author: Option<String>,
    architecture: String,
    os: String,
    #[serde(rename = "os.version", skip_serializing_if = "empty")]
    os_version: Option<String>,
    #[serde(rename = "os.features", skip_serializing_if = "none")]
    os_features: Option<Vec<String>>,
    #[serde(skip_serializing_if = "empty")]
    variant: Option<String>,
    config: Option<Settings>,
    rootfs: Root,
    #[serde(skip_serializing_if = "none")]
    history: Option<Vec<Step>>,
}

/// How containers of it run.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Settings {
    #[serde(skip_serializing_if = "empty")]
    user: Option<String>,
    #[serde(skip_serializing_if = "nothing")]
    exposed_ports: Option<Map>,
    #[serde(skip_serializing_if = "none")]
    env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "none")]
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "none")]
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "nothing")]
    volumes: Option<Map>,
    #[serde(skip_serializing_if = "empty")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "nothing")]
    labels: Option<Map>,
    #[serde(skip_serializing_if = "empty")]
    stop_signal: Option<String>,
    #[serde(skip_serializing_if = "no")]
    args_escaped: Option<bool>,
}

/// Its layers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Root {
    r#type: String,
    diff_ids: Option<Vec<String>>,
}

/// How a layer came to be.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Step {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "empty")]
    created_by: Option<String>,
    #[serde(skip_serializing_if = "empty")]
    author: Option<String>,
    #[serde(skip_serializing_if = "empty")]
    comment: Option<String>,
    #[serde(skip_serializing_if = "no")]
    empty_layer: Option<bool>,
}

impl Image {
    /// With settings, which Buildx shows also where there are none.
    pub(super) fn completed(mut self) -> Self {
        self.config.get_or_insert_default();
        self
    }
}

fn empty(text: &Option<String>) -> bool {
    text.as_deref().is_none_or(str::is_empty)
}

fn none<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

fn nothing(map: &Option<Map>) -> bool {
    map.as_ref().is_none_or(Map::is_empty)
}

fn no(flag: &Option<bool>) -> bool {
    !flag.unwrap_or_default()
}
