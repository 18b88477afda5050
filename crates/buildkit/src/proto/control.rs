//! `moby.buildkit.v1`: the service `Control`.

use super::{Definition, Range, RpcStatus, SourceInfo, Timestamp, Typed, Version, WorkerRecord};
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SolveRequest {
    #[prost(string, tag = "1")]
    pub(crate) r#ref: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) definition: Option<Definition>,
    #[prost(string, tag = "3")]
    pub(crate) exporter: String,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(crate) exporter_attributes: BTreeMap<String, String>,
    #[prost(string, tag = "5")]
    pub(crate) session: String,
    #[prost(string, tag = "6")]
    pub(crate) frontend: String,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(crate) frontend_attributes: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub(crate) cache: Option<CacheOptions>,
    #[prost(string, repeated, tag = "9")]
    pub(crate) entitlements: Vec<String>,
    #[prost(btree_map = "string, message", tag = "10")]
    pub(crate) inputs: BTreeMap<String, Definition>,
    #[prost(bool, tag = "11")]
    pub(crate) internal: bool,
    #[prost(message, repeated, tag = "13")]
    pub(crate) exporters: Vec<Typed>,
    #[prost(bool, tag = "14")]
    pub(crate) session_exporter: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct CacheOptions {
    #[prost(message, repeated, tag = "4")]
    pub(crate) exports: Vec<Typed>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) imports: Vec<Typed>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SolveResponse {
    #[prost(btree_map = "string, string", tag = "1")]
    pub(crate) exporter_response: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct StatusRequest {
    #[prost(string, tag = "1")]
    pub(crate) r#ref: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StatusResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) vertexes: Vec<Vertex>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) statuses: Vec<VertexStatus>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) logs: Vec<VertexLog>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) warnings: Vec<VertexWarning>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Vertex {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(string, repeated, tag = "2")]
    pub(crate) inputs: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(bool, tag = "4")]
    pub(crate) cached: bool,
    #[prost(message, optional, tag = "5")]
    pub(crate) started: Option<Timestamp>,
    #[prost(message, optional, tag = "6")]
    pub(crate) completed: Option<Timestamp>,
    #[prost(string, tag = "7")]
    pub(crate) error: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct VertexStatus {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) vertex: String,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(int64, tag = "4")]
    pub(crate) current: i64,
    #[prost(int64, tag = "5")]
    pub(crate) total: i64,
    #[prost(message, optional, tag = "6")]
    pub(crate) timestamp: Option<Timestamp>,
    #[prost(message, optional, tag = "7")]
    pub(crate) started: Option<Timestamp>,
    #[prost(message, optional, tag = "8")]
    pub(crate) completed: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct VertexLog {
    #[prost(string, tag = "1")]
    pub(crate) vertex: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) timestamp: Option<Timestamp>,
    #[prost(int64, tag = "3")]
    pub(crate) stream: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) text: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct VertexWarning {
    #[prost(string, tag = "1")]
    pub(crate) vertex: String,
    #[prost(int64, tag = "2")]
    pub(crate) level: i64,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) short: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(crate) detail: Vec<Vec<u8>>,
    #[prost(string, tag = "5")]
    pub(crate) url: String,
    #[prost(message, optional, tag = "6")]
    pub(crate) info: Option<SourceInfo>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) ranges: Vec<Range>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ListWorkersResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) record: Vec<WorkerRecord>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct InfoResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) version: Option<Version>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PruneRequest {
    #[prost(string, repeated, tag = "1")]
    pub(crate) filter: Vec<String>,
    #[prost(bool, tag = "2")]
    pub(crate) all: bool,
    /// Nanoseconds.
    #[prost(int64, tag = "3")]
    pub(crate) keep_duration: i64,
    #[prost(int64, tag = "4")]
    pub(crate) reserved_space: i64,
    #[prost(int64, tag = "5")]
    pub(crate) max_used_space: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct DiskUsageResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) record: Vec<UsageRecord>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct UsageRecord {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(bool, tag = "3")]
    pub(crate) in_use: bool,
    #[prost(int64, tag = "4")]
    pub(crate) size: i64,
    #[prost(message, optional, tag = "6")]
    pub(crate) created: Option<Timestamp>,
    #[prost(message, optional, tag = "7")]
    pub(crate) last_used: Option<Timestamp>,
    #[prost(int64, tag = "8")]
    pub(crate) uses: i64,
    #[prost(string, tag = "9")]
    pub(crate) description: String,
    #[prost(string, tag = "10")]
    pub(crate) kind: String,
    #[prost(bool, tag = "11")]
    pub(crate) shared: bool,
    #[prost(string, repeated, tag = "12")]
    pub(crate) parents: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct HistoryRequest {
    #[prost(bool, tag = "1")]
    pub(crate) active_only: bool,
    #[prost(string, tag = "2")]
    pub(crate) r#ref: String,
    #[prost(bool, tag = "3")]
    pub(crate) early_exit: bool,
    #[prost(string, repeated, tag = "4")]
    pub(crate) filter: Vec<String>,
    #[prost(int32, tag = "5")]
    pub(crate) limit: i32,
}

/// What [`HistoryEvent::kind`] can be.
pub(crate) const STARTED: i32 = 0;
pub(crate) const COMPLETE: i32 = 1;
pub(crate) const DELETED: i32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HistoryEvent {
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) record: Option<HistoryRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HistoryRecord {
    #[prost(string, tag = "1")]
    pub(crate) r#ref: String,
    #[prost(string, tag = "2")]
    pub(crate) frontend: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) frontend_attributes: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) exporters: Vec<Typed>,
    #[prost(message, optional, tag = "5")]
    pub(crate) error: Option<RpcStatus>,
    #[prost(message, optional, tag = "6")]
    pub(crate) created: Option<Timestamp>,
    #[prost(message, optional, tag = "7")]
    pub(crate) completed: Option<Timestamp>,
    #[prost(message, optional, tag = "8")]
    pub(crate) logs: Option<Blob>,
    #[prost(btree_map = "string, string", tag = "9")]
    pub(crate) exporter_response: BTreeMap<String, String>,
    #[prost(int32, tag = "12")]
    pub(crate) generation: i32,
    #[prost(bool, tag = "14")]
    pub(crate) pinned: bool,
    #[prost(int32, tag = "15")]
    pub(crate) cached_steps: i32,
    #[prost(int32, tag = "16")]
    pub(crate) total_steps: i32,
    #[prost(int32, tag = "17")]
    pub(crate) completed_steps: i32,
    #[prost(int32, tag = "19")]
    pub(crate) warnings: i32,
}

/// `moby.buildkit.v1.Descriptor`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Blob {
    #[prost(string, tag = "1")]
    pub(crate) media_type: String,
    #[prost(string, tag = "2")]
    pub(crate) digest: String,
    #[prost(int64, tag = "3")]
    pub(crate) size: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct UpdateHistoryRequest {
    #[prost(string, tag = "1")]
    pub(crate) r#ref: String,
    #[prost(bool, tag = "2")]
    pub(crate) pinned: bool,
    #[prost(bool, tag = "3")]
    pub(crate) delete: bool,
    #[prost(bool, tag = "4")]
    pub(crate) finalize: bool,
}
