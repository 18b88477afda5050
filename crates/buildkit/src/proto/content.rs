//! `containerd.services.content.v1`: blobs by digest.

/// `ReadContentRequest`, of all of a blob.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadRequest {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
}

/// `ReadContentResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ReadResponse {
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) data: bytes::Bytes,
}
