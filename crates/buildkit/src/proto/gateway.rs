//! `moby.buildkit.v1.frontend`: the service `LLBBridge`.

use super::files::Stat;
use super::graph::{HostIp, Meta, Mount, SecretEnv, SourceOp};
use super::{Definition, Empty, Platform, Range, RpcStatus, SourceInfo, WorkerRecord};
use bytes::Bytes;
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PongResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) frontend_caps: Vec<Cap>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) llb_caps: Vec<Cap>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) workers: Vec<WorkerRecord>,
}

/// Something that the engine can do.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Cap {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(bool, tag = "2")]
    pub(crate) enabled: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SolveRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) definition: Option<Definition>,
    #[prost(string, tag = "2")]
    pub(crate) frontend: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub(crate) options: BTreeMap<String, String>,
    #[prost(btree_map = "string, message", tag = "13")]
    pub(crate) inputs: BTreeMap<String, Definition>,
    #[prost(bool, tag = "14")]
    pub(crate) evaluate: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SolveResponse {
    #[prost(message, optional, tag = "3")]
    pub(crate) result: Option<Answer>,
}

/// `moby.buildkit.v1.frontend.Result`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Answer {
    #[prost(message, optional, tag = "3")]
    pub(crate) r#ref: Option<Ref>,
    #[prost(message, optional, tag = "4")]
    pub(crate) refs: Option<RefMap>,
    #[prost(btree_map = "string, bytes", tag = "10")]
    pub(crate) metadata: BTreeMap<String, Vec<u8>>,
    /// By the name of what they are about; what is in them is not read.
    #[prost(btree_map = "string, message", tag = "11")]
    pub(crate) attestations: BTreeMap<String, Empty>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Ref {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) def: Option<Definition>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct RefMap {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) refs: BTreeMap<String, Ref>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReturnRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) result: Option<Answer>,
    #[prost(message, optional, tag = "2")]
    pub(crate) error: Option<RpcStatus>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct EvaluateRequest {
    #[prost(string, tag = "1")]
    pub(crate) r#ref: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct InputsResponse {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) definitions: BTreeMap<String, Definition>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ResolveImageConfigRequest {
    #[prost(string, tag = "1")]
    pub(crate) r#ref: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) platform: Option<Platform>,
    #[prost(string, tag = "3")]
    pub(crate) mode: String,
    /// 0 is a registry; an image layout is 1.
    #[prost(int32, tag = "5")]
    pub(crate) resolver: i32,
    /// Where a layout is.
    #[prost(string, tag = "6")]
    pub(crate) session: String,
    #[prost(string, tag = "7")]
    pub(crate) store: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ResolveImageConfigResponse {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) config: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(crate) r#ref: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ResolveSourceRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) source: Option<SourceOp>,
    #[prost(message, optional, tag = "2")]
    pub(crate) platform: Option<Platform>,
    #[prost(string, tag = "4")]
    pub(crate) mode: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ResolveSourceResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) source: Option<SourceOp>,
    #[prost(message, optional, tag = "2")]
    pub(crate) image: Option<SourceImage>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SourceImage {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) config: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadFileRequest {
    #[prost(string, tag = "1")]
    pub(crate) r#ref: String,
    #[prost(string, tag = "2")]
    pub(crate) path: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) range: Option<FileRange>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct FileRange {
    #[prost(int64, tag = "1")]
    pub(crate) offset: i64,
    /// 0 is all that follows.
    #[prost(int64, tag = "2")]
    pub(crate) length: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadFileResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadDirRequest {
    #[prost(string, tag = "1")]
    pub(crate) r#ref: String,
    #[prost(string, tag = "2")]
    pub(crate) path: String,
    #[prost(string, tag = "3")]
    pub(crate) pattern: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadDirResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) entries: Vec<Stat>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct StatFileRequest {
    #[prost(string, tag = "1")]
    pub(crate) r#ref: String,
    #[prost(string, tag = "2")]
    pub(crate) path: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct StatFileResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) stat: Option<Stat>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct WarnRequest {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
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
pub(crate) struct NewContainerRequest {
    #[prost(string, tag = "1")]
    pub(crate) container: String,
    /// Their results are named, and not numbered.
    #[prost(message, repeated, tag = "2")]
    pub(crate) mounts: Vec<Mount>,
    #[prost(int32, tag = "3")]
    pub(crate) network: i32,
    #[prost(message, optional, tag = "4")]
    pub(crate) platform: Option<Platform>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) extra_hosts: Vec<HostIp>,
    #[prost(string, tag = "7")]
    pub(crate) hostname: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReleaseContainerRequest {
    #[prost(string, tag = "1")]
    pub(crate) container: String,
}

/// What is said to and of a process: one of its fields beside the first.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ExecMessage {
    #[prost(string, tag = "1")]
    pub(crate) process: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) init: Option<InitMessage>,
    #[prost(message, optional, tag = "3")]
    pub(crate) file: Option<FdMessage>,
    #[prost(message, optional, tag = "4")]
    pub(crate) resize: Option<ResizeMessage>,
    #[prost(message, optional, tag = "5")]
    pub(crate) started: Option<Empty>,
    #[prost(message, optional, tag = "6")]
    pub(crate) exit: Option<ExitMessage>,
    #[prost(message, optional, tag = "7")]
    pub(crate) done: Option<Empty>,
    #[prost(message, optional, tag = "8")]
    pub(crate) signal: Option<SignalMessage>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct InitMessage {
    #[prost(string, tag = "1")]
    pub(crate) container: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) meta: Option<Meta>,
    /// The streams that the caller takes part in.
    #[prost(uint32, repeated, tag = "3")]
    pub(crate) fds: Vec<u32>,
    #[prost(bool, tag = "4")]
    pub(crate) tty: bool,
    #[prost(int32, tag = "5")]
    pub(crate) security: i32,
    #[prost(message, repeated, tag = "6")]
    pub(crate) secret_env: Vec<SecretEnv>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct FdMessage {
    #[prost(uint32, tag = "1")]
    pub(crate) fd: u32,
    #[prost(bool, tag = "2")]
    pub(crate) eof: bool,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) data: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct ResizeMessage {
    #[prost(uint32, tag = "1")]
    pub(crate) rows: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) cols: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ExitMessage {
    #[prost(uint32, tag = "1")]
    pub(crate) code: u32,
    #[prost(message, optional, tag = "2")]
    pub(crate) error: Option<RpcStatus>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SignalMessage {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}
