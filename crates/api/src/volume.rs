//! Volumes.

#![expect(missing_docs, reason = "names and meanings are those of the Engine API 1.51")]

use crate::null::{empty, no_members, wire};
use std::collections::BTreeMap;

wire! {
    "PascalCase";

    Volume {
        #[serde(skip_serializing_if = "empty")]
        created_at: String,
        driver: String,
        labels: Option<BTreeMap<String, String>>,
        mountpoint: String,
        name: String,
        options: Option<BTreeMap<String, String>>,
        scope: String,
        #[serde(skip_serializing_if = "no_members")]
        status: Option<BTreeMap<String, serde_json::Value>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        usage_data: Option<VolumeUsageData>,
    }

    /// References and bytes; -1 is unknown.
    VolumeUsageData {
        ref_count: i64,
        size: i64,
    }

    /// What `POST /volumes/create` takes.
    VolumeCreateOptions {
        #[serde(skip_serializing_if = "empty")]
        driver: String,
        #[serde(skip_serializing_if = "no_members")]
        driver_opts: Option<BTreeMap<String, String>>,
        #[serde(skip_serializing_if = "no_members")]
        labels: Option<BTreeMap<String, String>>,
        #[serde(skip_serializing_if = "empty")]
        name: String,
    }

    VolumeListResponse {
        volumes: Option<Vec<Volume>>,
        warnings: Option<Vec<String>>,
    }

    VolumePruneResponse {
        volumes_deleted: Option<Vec<String>>,
        space_reclaimed: i64,
    }
}
