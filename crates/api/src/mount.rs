//! Mounts, as asked for and as shown.

#![expect(missing_docs, reason = "names and meanings are those of the Engine API 1.51")]

use crate::null::{empty, no_members, wire};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

wire! {
    "PascalCase";

    /// A mount as asked for with `HostConfig.Mounts`.
    Mount {
        #[serde(skip_serializing_if = "empty")]
        r#type: String,
        #[serde(skip_serializing_if = "empty")]
        source: String,
        #[serde(skip_serializing_if = "empty")]
        target: String,
        #[serde(skip_serializing_if = "empty")]
        read_only: bool,
        #[serde(skip_serializing_if = "empty")]
        consistency: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        bind_options: Option<BindOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        volume_options: Option<VolumeOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        image_options: Option<ImageOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        tmpfs_options: Option<TmpfsOptions>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cluster_options: Option<ClusterOptions>,
    }

    BindOptions {
        #[serde(skip_serializing_if = "empty")]
        propagation: String,
        #[serde(skip_serializing_if = "empty")]
        non_recursive: bool,
        #[serde(skip_serializing_if = "empty")]
        create_mountpoint: bool,
        #[serde(skip_serializing_if = "empty")]
        read_only_non_recursive: bool,
        #[serde(skip_serializing_if = "empty")]
        read_only_force_recursive: bool,
        /// Of API 1.56.
        #[serde(rename = "IDMapping", skip_serializing_if = "Option::is_none")]
        id_mapping: Option<IdMapping>,
    }

    /// How owners of the source appear in the container.
    IdMapping {
        /// `match-user`, `userns`, or ranges such as `uids=1000-0-1;gids=1000-0-1`.
        #[serde(skip_serializing_if = "empty")]
        source: String,
        #[serde(skip_serializing_if = "empty")]
        user: String,
    }

    VolumeOptions {
        #[serde(skip_serializing_if = "empty")]
        no_copy: bool,
        #[serde(skip_serializing_if = "no_members")]
        labels: Option<BTreeMap<String, String>>,
        #[serde(skip_serializing_if = "empty")]
        subpath: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        driver_config: Option<Driver>,
    }

    Driver {
        #[serde(skip_serializing_if = "empty")]
        name: String,
        #[serde(skip_serializing_if = "no_members")]
        options: Option<BTreeMap<String, String>>,
    }

    ImageOptions {
        #[serde(skip_serializing_if = "empty")]
        subpath: String,
    }

    TmpfsOptions {
        #[serde(skip_serializing_if = "empty")]
        size_bytes: i64,
        #[serde(skip_serializing_if = "empty")]
        mode: u32,
        #[serde(skip_serializing_if = "no_members")]
        options: Option<Vec<Vec<String>>>,
    }

    /// A mount as a container has it.
    MountPoint {
        #[serde(skip_serializing_if = "empty")]
        r#type: String,
        #[serde(skip_serializing_if = "empty")]
        name: String,
        source: String,
        destination: String,
        #[serde(skip_serializing_if = "empty")]
        driver: String,
        mode: String,
        #[serde(rename = "RW")]
        rw: bool,
        propagation: String,
    }
}

/// Options of cluster volumes; there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterOptions {}
