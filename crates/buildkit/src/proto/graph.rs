//! `pb`: the little of graphs that is used.

/// `pb.Op`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Op {
    #[prost(message, repeated, tag = "1")]
    pub(crate) inputs: Vec<Input>,
    #[prost(message, optional, tag = "3")]
    pub(crate) source: Option<SourceOp>,
}

/// `pb.Input`: a vertex by the digest of its bytes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Input {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) index: i64,
}

/// `pb.SourceOp`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SourceOp {
    #[prost(string, tag = "1")]
    pub(crate) identifier: String,
}
