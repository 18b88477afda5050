//! `pb`: graphs of operations (LLB).

use super::{Platform, Range, SourceInfo};
use std::collections::BTreeMap;

/// `pb.Op`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Op {
    #[prost(message, repeated, tag = "1")]
    pub(crate) inputs: Vec<Input>,
    #[prost(message, optional, tag = "2")]
    pub(crate) exec: Option<ExecOp>,
    #[prost(message, optional, tag = "3")]
    pub(crate) source: Option<SourceOp>,
    #[prost(message, optional, tag = "4")]
    pub(crate) file: Option<FileOp>,
    #[prost(message, optional, tag = "5")]
    pub(crate) build: Option<BuildOp>,
    #[prost(message, optional, tag = "6")]
    pub(crate) merge: Option<MergeOp>,
    #[prost(message, optional, tag = "7")]
    pub(crate) diff: Option<DiffOp>,
    #[prost(message, optional, tag = "8")]
    pub(crate) passthrough: Option<PassthroughOp>,
    #[prost(message, optional, tag = "10")]
    pub(crate) platform: Option<Platform>,
}

/// `pb.Input`: a vertex by the digest of its bytes, and which of its outputs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Input {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) index: i64,
}

/// `pb.OpMetadata`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct OpMetadata {
    #[prost(bool, tag = "1")]
    pub(crate) ignore_cache: bool,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(crate) description: BTreeMap<String, String>,
    #[prost(btree_map = "string, bool", tag = "5")]
    pub(crate) caps: BTreeMap<String, bool>,
}

/// `pb.Source`: the lines of files that operations are of, by the digests of their bytes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Origins {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) locations: BTreeMap<String, Locations>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) files: Vec<SourceInfo>,
}

/// `pb.Locations`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Locations {
    #[prost(message, repeated, tag = "1")]
    pub(crate) locations: Vec<Location>,
}

/// `pb.Location`: a file by its place, and lines of it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Location {
    #[prost(int32, tag = "1")]
    pub(crate) file: i32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) ranges: Vec<Range>,
}

/// `pb.SourceOp`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SourceOp {
    #[prost(string, tag = "1")]
    pub(crate) identifier: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub(crate) attributes: BTreeMap<String, String>,
}

/// `pb.BuildOp`: a graph that is in a file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct BuildOp {
    #[prost(int64, tag = "1")]
    pub(crate) builder: i64,
    /// `pb.BuildInput` is a place, too.
    #[prost(btree_map = "string, message", tag = "2")]
    pub(crate) inputs: BTreeMap<String, Place>,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(crate) attributes: BTreeMap<String, String>,
}

/// The only [`BuildOp::builder`]: whoever builds the graph that the operation is in.
pub(crate) const BUILDER: i64 = -1;

/// `pb.PassthroughOp`. Not understood here, but known.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct PassthroughOp {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
}

/// `pb.MergeOp`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct MergeOp {
    #[prost(message, repeated, tag = "1")]
    pub(crate) inputs: Vec<Place>,
}

/// `pb.DiffOp`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct DiffOp {
    #[prost(message, optional, tag = "1")]
    pub(crate) lower: Option<Place>,
    #[prost(message, optional, tag = "2")]
    pub(crate) upper: Option<Place>,
}

/// `pb.MergeInput`, `pb.LowerDiffInput`, `pb.UpperDiffInput`: a place among the inputs, -1 for nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Place {
    #[prost(int64, tag = "1")]
    pub(crate) input: i64,
}

/// `pb.ExecOp`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ExecOp {
    #[prost(message, optional, tag = "1")]
    pub(crate) meta: Option<Meta>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) mounts: Vec<Mount>,
    #[prost(int32, tag = "3")]
    pub(crate) network: i32,
    #[prost(int32, tag = "4")]
    pub(crate) security: i32,
    #[prost(message, repeated, tag = "5")]
    pub(crate) secret_env: Vec<SecretEnv>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) devices: Vec<Device>,
}

/// What [`ExecOp::network`] can be; 0 is a network of its own.
pub(crate) const NETWORK_HOST: i32 = 1;
pub(crate) const NETWORK_NONE: i32 = 2;
/// What [`ExecOp::security`] can be; 0 is the usual.
pub(crate) const SECURITY_INSECURE: i32 = 1;

/// `pb.Meta`: a process.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Meta {
    #[prost(string, repeated, tag = "1")]
    pub(crate) args: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) env: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) cwd: String,
    #[prost(string, tag = "4")]
    pub(crate) user: String,
    #[prost(message, optional, tag = "5")]
    pub(crate) proxies: Option<ProxyEnv>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) extra_hosts: Vec<HostIp>,
    #[prost(string, tag = "7")]
    pub(crate) hostname: String,
    #[prost(message, repeated, tag = "9")]
    pub(crate) ulimits: Vec<Ulimit>,
    #[prost(string, tag = "10")]
    pub(crate) cgroup_parent: String,
    #[prost(int32, repeated, tag = "12")]
    pub(crate) valid_codes: Vec<i32>,
}

/// `pb.ProxyEnv`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct ProxyEnv {
    #[prost(string, tag = "1")]
    pub(crate) http: String,
    #[prost(string, tag = "2")]
    pub(crate) https: String,
    #[prost(string, tag = "3")]
    pub(crate) ftp: String,
    #[prost(string, tag = "4")]
    pub(crate) no: String,
    #[prost(string, tag = "5")]
    pub(crate) all: String,
}

/// `pb.HostIP`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct HostIp {
    #[prost(string, tag = "1")]
    pub(crate) host: String,
    #[prost(string, tag = "2")]
    pub(crate) ip: String,
}

/// `pb.Ulimit`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Ulimit {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int64, tag = "2")]
    pub(crate) soft: i64,
    #[prost(int64, tag = "3")]
    pub(crate) hard: i64,
}

/// `pb.SecretEnv`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SecretEnv {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(bool, tag = "3")]
    pub(crate) optional: bool,
}

/// `pb.CDIDevice`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Device {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(bool, tag = "2")]
    pub(crate) optional: bool,
}

/// `pb.Mount`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Mount {
    #[prost(int64, tag = "1")]
    pub(crate) input: i64,
    #[prost(string, tag = "2")]
    pub(crate) selector: String,
    #[prost(string, tag = "3")]
    pub(crate) dest: String,
    #[prost(int64, tag = "4")]
    pub(crate) output: i64,
    #[prost(bool, tag = "5")]
    pub(crate) read_only: bool,
    #[prost(int32, tag = "6")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "19")]
    pub(crate) tmpfs: Option<TmpfsOpt>,
    #[prost(message, optional, tag = "20")]
    pub(crate) cache: Option<CacheOpt>,
    #[prost(message, optional, tag = "21")]
    pub(crate) secret: Option<SecretOpt>,
    #[prost(message, optional, tag = "22")]
    pub(crate) ssh: Option<SecretOpt>,
    /// A result, in the mounts of a frontend's container.
    #[prost(string, tag = "23")]
    pub(crate) result: String,
}

/// What [`Mount::kind`] can be.
pub(crate) const BIND: i32 = 0;
pub(crate) const SECRET: i32 = 1;
pub(crate) const SSH: i32 = 2;
pub(crate) const CACHE: i32 = 3;
pub(crate) const TMPFS: i32 = 4;

/// `pb.TmpfsOpt`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct TmpfsOpt {
    #[prost(int64, tag = "1")]
    pub(crate) size: i64,
}

/// `pb.CacheOpt`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct CacheOpt {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(int32, tag = "2")]
    pub(crate) sharing: i32,
}

/// What [`CacheOpt::sharing`] can be; 0 is shared.
pub(crate) const PRIVATE: i32 = 1;
pub(crate) const LOCKED: i32 = 2;

/// `pb.SecretOpt` and `pb.SSHOpt`, which have the same fields.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct SecretOpt {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(uint32, tag = "2")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) gid: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) mode: u32,
    #[prost(bool, tag = "5")]
    pub(crate) optional: bool,
}

/// `pb.FileOp`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct FileOp {
    #[prost(message, repeated, tag = "2")]
    pub(crate) actions: Vec<FileAction>,
}

/// `pb.FileAction`. Places count the inputs first, then the actions.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct FileAction {
    #[prost(int64, tag = "1")]
    pub(crate) input: i64,
    #[prost(int64, tag = "2")]
    pub(crate) secondary: i64,
    /// Which output of the operation it is; -1 for none.
    #[prost(int64, tag = "3")]
    pub(crate) output: i64,
    #[prost(message, optional, tag = "4")]
    pub(crate) copy: Option<FileCopy>,
    #[prost(message, optional, tag = "5")]
    pub(crate) mkfile: Option<MakeFile>,
    #[prost(message, optional, tag = "6")]
    pub(crate) mkdir: Option<MakeDir>,
    #[prost(message, optional, tag = "7")]
    pub(crate) rm: Option<Remove>,
    #[prost(message, optional, tag = "8")]
    pub(crate) symlink: Option<MakeLink>,
}

/// `pb.FileActionCopy`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct FileCopy {
    #[prost(string, tag = "1")]
    pub(crate) src: String,
    #[prost(string, tag = "2")]
    pub(crate) dest: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) owner: Option<Chown>,
    #[prost(int32, tag = "4")]
    pub(crate) mode: i32,
    #[prost(bool, tag = "5")]
    pub(crate) follow_link: bool,
    #[prost(bool, tag = "6")]
    pub(crate) contents: bool,
    #[prost(bool, tag = "7")]
    pub(crate) unpack: bool,
    #[prost(bool, tag = "8")]
    pub(crate) make_parents: bool,
    #[prost(bool, tag = "9")]
    pub(crate) wildcard: bool,
    #[prost(bool, tag = "10")]
    pub(crate) may_match_nothing: bool,
    #[prost(int64, tag = "11")]
    pub(crate) time: i64,
    #[prost(string, repeated, tag = "12")]
    pub(crate) include: Vec<String>,
    #[prost(string, repeated, tag = "13")]
    pub(crate) exclude: Vec<String>,
    #[prost(bool, tag = "14")]
    pub(crate) replace: bool,
    #[prost(string, tag = "15")]
    pub(crate) mode_text: String,
    #[prost(string, repeated, tag = "16")]
    pub(crate) required: Vec<String>,
}

/// `pb.FileActionMkFile`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct MakeFile {
    #[prost(string, tag = "1")]
    pub(crate) path: String,
    #[prost(int32, tag = "2")]
    pub(crate) mode: i32,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) data: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    pub(crate) owner: Option<Chown>,
    #[prost(int64, tag = "5")]
    pub(crate) time: i64,
}

/// `pb.FileActionMkDir`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct MakeDir {
    #[prost(string, tag = "1")]
    pub(crate) path: String,
    #[prost(int32, tag = "2")]
    pub(crate) mode: i32,
    #[prost(bool, tag = "3")]
    pub(crate) parents: bool,
    #[prost(message, optional, tag = "4")]
    pub(crate) owner: Option<Chown>,
    #[prost(int64, tag = "5")]
    pub(crate) time: i64,
}

/// `pb.FileActionRm`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Remove {
    #[prost(string, tag = "1")]
    pub(crate) path: String,
    #[prost(bool, tag = "2")]
    pub(crate) may_lack: bool,
    #[prost(bool, tag = "3")]
    pub(crate) wildcard: bool,
}

/// `pb.FileActionSymlink`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct MakeLink {
    #[prost(string, tag = "1")]
    pub(crate) target: String,
    #[prost(string, tag = "2")]
    pub(crate) path: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) owner: Option<Chown>,
    #[prost(int64, tag = "4")]
    pub(crate) time: i64,
}

/// `pb.ChownOpt`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Chown {
    #[prost(message, optional, tag = "1")]
    pub(crate) user: Option<User>,
    #[prost(message, optional, tag = "2")]
    pub(crate) group: Option<User>,
}

/// `pb.UserOpt`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct User {
    #[prost(message, optional, tag = "1")]
    pub(crate) name: Option<NamedUser>,
    #[prost(uint32, optional, tag = "2")]
    pub(crate) id: Option<u32>,
}

/// `pb.NamedUserOpt`: a name, and among which input's users.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct NamedUser {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int64, tag = "2")]
    pub(crate) input: i64,
}
