//! Images.

#![expect(missing_docs, reason = "names and meanings are those of the Engine API 1.51")]

use crate::container::{Empty, GraphDriver, HealthConfig};
use crate::null::{empty, no_members, wire};
use std::collections::BTreeMap;
use yare_oci::Descriptor;

wire! {
    "PascalCase";

    /// One row of `GET /images/json`. `SharedSize` is -1 when it was not computed.
    ImageSummary {
        containers: i64,
        created: i64,
        id: String,
        labels: Option<BTreeMap<String, String>>,
        parent_id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        descriptor: Option<Descriptor>,
        #[serde(skip_serializing_if = "no_members")]
        manifests: Option<Vec<ImageManifestSummary>>,
        repo_digests: Option<Vec<String>>,
        repo_tags: Option<Vec<String>>,
        shared_size: i64,
        size: i64,
        /// Yare's own: seconds since 1970 of its last use, absent where unknown.
        #[serde(skip_serializing_if = "empty")]
        last_used: i64,
    }

    ImageManifestSummary {
        #[serde(rename = "ID")]
        id: String,
        descriptor: Option<Descriptor>,
        available: bool,
        size: ImageManifestSize,
        kind: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        image_data: Option<ImageManifestImageData>,
        #[serde(skip_serializing_if = "Option::is_none")]
        attestation_data: Option<ImageManifestAttestationData>,
    }

    ImageManifestSize {
        content: i64,
        total: i64,
    }

    ImageManifestImageData {
        platform: Option<yare_oci::Platform>,
        size: ImageManifestUnpackedSize,
        containers: Option<Vec<String>>,
    }

    ImageManifestUnpackedSize {
        unpacked: i64,
    }

    ImageManifestAttestationData {
        r#for: String,
    }

    /// What `GET /images/{name}/json` replies.
    ImageInspect {
        id: String,
        repo_tags: Vec<String>,
        repo_digests: Vec<String>,
        parent: String,
        comment: String,
        #[serde(skip_serializing_if = "empty")]
        created: String,
        docker_version: String,
        author: String,
        architecture: String,
        #[serde(skip_serializing_if = "empty")]
        variant: String,
        os: String,
        #[serde(skip_serializing_if = "empty")]
        os_version: String,
        size: i64,
        graph_driver: GraphDriver,
        #[serde(rename = "RootFS")]
        root_fs: RootFS,
        metadata: ImageMetadata,
        #[serde(skip_serializing_if = "Option::is_none")]
        descriptor: Option<Descriptor>,
        #[serde(skip_serializing_if = "no_members")]
        manifests: Option<Vec<ImageManifestSummary>>,
        config: ImageConfig,
    }

    RootFS {
        r#type: String,
        #[serde(skip_serializing_if = "no_members")]
        layers: Option<Vec<String>>,
    }

    ImageMetadata {
        last_tag_time: String,
        /// Yare's own, absent where unknown.
        #[serde(skip_serializing_if = "empty")]
        last_used: String,
    }

    /// How containers of an image run by default, with the members dockerd 28.5 shows.
    ImageConfig {
        #[serde(skip_serializing_if = "empty")]
        args_escaped: bool,
        cmd: Option<Vec<String>>,
        entrypoint: Option<Vec<String>>,
        env: Option<Vec<String>>,
        #[serde(skip_serializing_if = "no_members")]
        exposed_ports: Option<BTreeMap<String, Empty>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        healthcheck: Option<HealthConfig>,
        labels: Option<BTreeMap<String, String>>,
        on_build: Option<Vec<String>>,
        #[serde(skip_serializing_if = "no_members")]
        shell: Option<Vec<String>>,
        #[serde(skip_serializing_if = "empty")]
        stop_signal: String,
        user: String,
        volumes: Option<BTreeMap<String, Empty>>,
        working_dir: String,
    }

    /// One row of `GET /images/{name}/history`.
    HistoryResponseItem {
        comment: String,
        created: i64,
        created_by: String,
        id: String,
        size: i64,
        tags: Option<Vec<String>>,
    }

    /// What a removal did; exactly one of the two is set.
    ImageDeleteResponseItem {
        #[serde(skip_serializing_if = "empty")]
        untagged: String,
        #[serde(skip_serializing_if = "empty")]
        deleted: String,
    }

    ImagePruneResponse {
        images_deleted: Option<Vec<ImageDeleteResponseItem>>,
        space_reclaimed: i64,
        /// Yare's own: what went, or by `dry-run` would go, and why.
        #[serde(skip_serializing_if = "no_members")]
        explained: Option<Vec<Pruned>>,
    }

    /// Yare's own: one image or container of a prune.
    Pruned {
        id: String,
        names: Vec<String>,
        /// Seconds since 1970 of its last use, absent where unknown.
        #[serde(skip_serializing_if = "empty")]
        last_used: i64,
        size: i64,
        reason: String,
    }

    ImageSearchResponseItem {
        #[serde(rename = "star_count")]
        star_count: i64,
        #[serde(rename = "is_official")]
        is_official: bool,
        #[serde(rename = "name")]
        name: String,
        #[serde(rename = "is_automated")]
        is_automated: bool,
        #[serde(rename = "description")]
        description: String,
    }

    /// What `GET /distribution/{name}/json` replies.
    DistributionInspect {
        descriptor: Option<Descriptor>,
        platforms: Option<Vec<yare_oci::Platform>>,
    }

    BuildPruneResponse {
        caches_deleted: Option<Vec<String>>,
        space_reclaimed: i64,
    }

    BuildCache {
        #[serde(rename = "ID")]
        id: String,
        // The space is Docker's own: ` Parents` is what it writes and what its clients read.
        #[serde(rename = " Parents", skip_serializing_if = "no_members")]
        parents: Option<Vec<String>>,
        r#type: String,
        description: String,
        in_use: bool,
        shared: bool,
        size: i64,
        created_at: String,
        last_used_at: Option<String>,
        usage_count: i64,
    }
}
