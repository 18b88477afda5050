//! `containerd.services.content.v1`: blobs by digest.

/// `InfoRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct InfoRequest {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
}

/// `InfoResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct InfoResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) info: Option<Info>,
}

/// `Info`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Info {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) size: i64,
}

/// `ReadContentRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadRequest {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) offset: i64,
    /// 0 is all.
    #[prost(int64, tag = "3")]
    pub(crate) size: i64,
}

/// `ReadContentResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadResponse {
    #[prost(int64, tag = "1")]
    pub(crate) offset: i64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) data: bytes::Bytes,
}

/// `WriteContentRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct WriteRequest {
    #[prost(int32, tag = "1")]
    pub(crate) action: i32,
    /// Names what is being written until it is whole.
    #[prost(string, tag = "2")]
    pub(crate) r#ref: String,
    #[prost(int64, tag = "3")]
    pub(crate) total: i64,
    #[prost(string, tag = "4")]
    pub(crate) expected: String,
    #[prost(int64, tag = "5")]
    pub(crate) offset: i64,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) data: bytes::Bytes,
}

/// What [`WriteRequest::action`] can be.
pub(crate) const WRITE: i32 = 1;
pub(crate) const COMMIT: i32 = 2;

/// `WriteContentResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct WriteResponse {
    #[prost(int32, tag = "1")]
    pub(crate) action: i32,
    #[prost(int64, tag = "4")]
    pub(crate) offset: i64,
}
