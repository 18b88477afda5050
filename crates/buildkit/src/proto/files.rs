//! `fsutil.types`: how trees of files travel.
//!
//! The names are declared as strings, and clients put any bytes there that a file system allows.

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Packet {
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) stat: Option<Stat>,
    #[prost(uint32, tag = "3")]
    pub(crate) id: u32,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) data: bytes::Bytes,
}

/// What [`Packet::kind`] can be.
pub(crate) const STAT: i32 = 0;
pub(crate) const REQUEST: i32 = 1;
pub(crate) const DATA: i32 = 2;
pub(crate) const FINISH: i32 = 3;
pub(crate) const ERROR: i32 = 4;

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Stat {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) path: Vec<u8>,
    /// Bits of Go's `FileMode`.
    #[prost(uint32, tag = "2")]
    pub(crate) mode: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) gid: u32,
    #[prost(int64, tag = "5")]
    pub(crate) size: i64,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "6")]
    pub(crate) modified: i64,
    #[prost(bytes = "vec", tag = "7")]
    pub(crate) link: Vec<u8>,
    #[prost(message, repeated, tag = "10")]
    pub(crate) xattrs: Vec<Xattr>,
}

/// A row of the map of extended attributes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Xattr {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}
