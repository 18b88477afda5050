//! `moby.buildkit.v1.frontend`: the service `LLBBridge`.

use super::{Definition, RpcStatus, WorkerRecord};
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
