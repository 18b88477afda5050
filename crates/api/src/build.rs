//! What a build is asked for and what it tells: the extension of `POST /build` that Yare's own client
//! speaks, beside Docker's classic query.
//!
//! The request is the `Content-Type` [`CONTENT_TYPE`]: four bytes, the length of a JSON [`BuildRequest`] in
//! network order (at most [`MAX_REQUEST`]), that document, then the context as a tar, plain or compressed,
//! or nothing when the context is elsewhere. The reply is one [`BuildMessage`] a line. A status has
//! BuildKit's form, so that `--progress rawjson` shows what tools of the field read.

use crate::null::{empty, wire};
use std::collections::BTreeMap;

/// The media type of a request in this form.
pub const CONTENT_TYPE: &str = "application/vnd.yare.build.v1";
/// What [`Vertex::error`] ends with when a step ended because the build did, as tools of the field expect it.
pub const CANCELLED: &str = "context canceled";
/// Most bytes of the JSON document.
pub const MAX_REQUEST: usize = 8 << 20;

wire! {
    "camelCase";

    /// Everything a build can be asked for.
    BuildRequest {
        /// The main context; an empty one is the tar that follows the request.
        #[serde(skip_serializing_if = "Option::is_none")]
        context: Option<BuildContext>,
        /// Further contexts by name (`--build-context`).
        #[serde(skip_serializing_if = "empty")]
        contexts: BTreeMap<String, BuildContext>,
        /// Path of the Dockerfile within the context; empty is `Dockerfile`.
        #[serde(skip_serializing_if = "empty")]
        dockerfile: String,
        /// The Dockerfile itself, base64, when it is not in the context.
        #[serde(skip_serializing_if = "Option::is_none")]
        dockerfile_inline: Option<String>,
        /// The ignore file that lies beside an inline Dockerfile, base64.
        #[serde(skip_serializing_if = "Option::is_none")]
        ignore_inline: Option<String>,
        /// Names that the image gets.
        #[serde(skip_serializing_if = "empty")]
        tags: Vec<String>,
        /// `--build-arg`; without a value the argument is unset.
        #[serde(skip_serializing_if = "empty")]
        build_args: BTreeMap<String, Option<String>>,
        /// The stage to build; empty is the last.
        #[serde(skip_serializing_if = "empty")]
        target: String,
        /// `os/arch[/variant]` each; empty is the host's.
        #[serde(skip_serializing_if = "empty")]
        platforms: Vec<String>,
        /// Use no cached step.
        #[serde(skip_serializing_if = "empty")]
        no_cache: bool,
        /// Use no cached step of these stages.
        #[serde(skip_serializing_if = "empty")]
        no_cache_filter: Vec<String>,
        /// Ask the registry for newer base images.
        #[serde(skip_serializing_if = "empty")]
        pull: bool,
        /// Labels of the image.
        #[serde(skip_serializing_if = "empty")]
        labels: BTreeMap<String, String>,
        /// Annotations. A bare name is for the manifest; others are `TYPE:NAME` or `TYPE[PLATFORM]:NAME`,
        /// where the type is `index`, `index-descriptor`, `manifest` or `manifest-descriptor`.
        #[serde(skip_serializing_if = "empty")]
        annotations: BTreeMap<String, String>,
        /// Network of the steps: `default`, `none`, `host` or `container:X`.
        #[serde(skip_serializing_if = "empty")]
        network_mode: String,
        /// `host:address` each.
        #[serde(skip_serializing_if = "empty")]
        extra_hosts: Vec<String>,
        /// Bytes of `/dev/shm`.
        #[serde(skip_serializing_if = "empty")]
        shm_size: i64,
        /// `name=soft[:hard]` each.
        #[serde(skip_serializing_if = "empty")]
        ulimits: Vec<String>,
        /// Parent of the steps' cgroups.
        #[serde(skip_serializing_if = "empty")]
        cgroup_parent: String,
        /// Bytes of memory a step may use.
        #[serde(skip_serializing_if = "empty")]
        memory: i64,
        /// Bytes of memory and swap a step may use, -1 for no limit.
        #[serde(skip_serializing_if = "empty")]
        memory_swap: i64,
        /// Weight of a step's CPU time.
        #[serde(skip_serializing_if = "empty")]
        cpu_shares: i64,
        /// Microseconds.
        #[serde(skip_serializing_if = "empty")]
        cpu_period: i64,
        /// Microseconds a period.
        #[serde(skip_serializing_if = "empty")]
        cpu_quota: i64,
        /// Processors a step may use.
        #[serde(skip_serializing_if = "empty")]
        cpuset_cpus: String,
        /// Memory nodes a step may use.
        #[serde(skip_serializing_if = "empty")]
        cpuset_mems: String,
        /// Secrets by id; the values, base64, never reach a layer, a cache key or a log.
        #[serde(skip_serializing_if = "empty")]
        secrets: BTreeMap<String, String>,
        /// Sockets of SSH agents by id, paths on the engine's host.
        #[serde(skip_serializing_if = "empty")]
        ssh: BTreeMap<String, String>,
        /// What is made of the result; empty is the image store.
        #[serde(skip_serializing_if = "empty")]
        outputs: Vec<BuildOutput>,
        /// `type=registry,ref=…` and the like, as attributes; `type=image` is an image of the store with
        /// its history, as the classic endpoint means it.
        #[serde(skip_serializing_if = "empty")]
        cache_from: Vec<BTreeMap<String, String>>,
        /// The same for where the cache is written.
        #[serde(skip_serializing_if = "empty")]
        cache_to: Vec<BTreeMap<String, String>>,
        /// Make one layer of those that the build adds.
        #[serde(skip_serializing_if = "empty")]
        squash: bool,
        /// Entitlements that are granted: `network.host`, `security.insecure`, `device`.
        #[serde(skip_serializing_if = "empty")]
        allow: Vec<String>,
        /// `off`, `warn` or `fail`; empty is `warn`.
        #[serde(skip_serializing_if = "empty")]
        secret_scan: String,
        /// Say for each step that ran why its cache did not serve.
        #[serde(skip_serializing_if = "empty")]
        explain: bool,
        /// Build twice and compare.
        #[serde(skip_serializing_if = "empty")]
        verify: bool,
        /// `sbom` and `provenance` with their attributes (`type` is the key).
        #[serde(skip_serializing_if = "empty")]
        attest: BTreeMap<String, BTreeMap<String, String>>,
        /// Instead of building: `check`, `outline` or `targets`.
        #[serde(skip_serializing_if = "empty")]
        call: String,
    }

    /// Where files come from.
    BuildContext {
        /// `local` (a directory of the engine's host), `image`, `git`, `http` or `oci-layout`; `none` for a
        /// main context without files.
        kind: String,
        /// Path, reference or URL.
        value: String,
        /// Device of a local directory's root: an engine that finds another there does not see the same
        /// files as its client, and refuses.
        #[serde(skip_serializing_if = "empty")]
        device: u64,
        /// Inode of a local directory's root.
        #[serde(skip_serializing_if = "empty")]
        inode: u64,
    }

    /// One thing that is made of the result.
    BuildOutput {
        /// `image`, `docker`, `oci`, `tar`, `local` or `registry`.
        kind: String,
        /// The attributes as given (`dest`, `name`, `compression`, `compression-level`, `push` …). A
        /// destination is a path on the engine's host; without one the bytes come as [`BuildMessage::data`].
        #[serde(skip_serializing_if = "empty")]
        attributes: BTreeMap<String, String>,
    }

    /// One line of the reply; which members are there says what it is.
    BuildMessage {
        /// Text, as the classic builder prints it.
        #[serde(skip_serializing_if = "empty")]
        stream: String,
        /// What happens in the graph.
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<SolveStatus>,
        /// Bytes of an output without destination, base64. Those of one output come in their order; a
        /// directory comes as a tar.
        #[serde(skip_serializing_if = "empty")]
        data: String,
        /// Which of [`BuildRequest::outputs`] has the bytes, from 0. Means nothing where only one comes so.
        #[serde(skip_serializing_if = "empty")]
        output: usize,
        /// The outcome; the last line of a build that worked.
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<BuildResult>,
        /// Lines of the Dockerfile around the step that failed, framed, as they are printed before the error.
        #[serde(skip_serializing_if = "empty")]
        excerpt: String,
        /// Why it failed; the last line.
        #[serde(skip_serializing_if = "Option::is_none")]
        error_detail: Option<crate::progress::ErrorDetail>,
        /// The text of `errorDetail` again.
        #[serde(skip_serializing_if = "empty")]
        error: String,
        /// What the user can do about it.
        #[serde(skip_serializing_if = "empty")]
        hint: String,
    }

    /// What came of a build.
    BuildResult {
        /// The image's id, when one was made.
        #[serde(skip_serializing_if = "empty")]
        image_id: String,
        /// Digest of its manifest or index.
        #[serde(skip_serializing_if = "empty")]
        digest: String,
        /// The names it has now.
        #[serde(skip_serializing_if = "empty")]
        names: Vec<String>,
        /// For `--metadata-file`.
        #[serde(skip_serializing_if = "empty")]
        metadata: BTreeMap<String, serde_json::Value>,
        /// Where the time and the bytes went, a row a step in the order of the Dockerfile.
        #[serde(skip_serializing_if = "empty")]
        steps: Vec<BuildStep>,
        /// The answer to a call other than a build.
        #[serde(skip_serializing_if = "Option::is_none")]
        answer: Option<serde_json::Value>,
    }

    /// One step in the final account.
    BuildStep {
        /// As in [`Vertex::name`].
        name: String,
        /// Whether the cache served it.
        cached: bool,
        /// Microseconds that it took.
        duration: u64,
        /// Bytes that it added.
        size: u64,
        /// Why the cache did not serve, when that was asked for.
        #[serde(skip_serializing_if = "empty")]
        reason: String,
    }

    /// News of the graph, in BuildKit's form.
    SolveStatus {
        /// Vertices whose state changed.
        #[serde(skip_serializing_if = "empty")]
        vertexes: Vec<Vertex>,
        /// Progress of what vertices do.
        #[serde(skip_serializing_if = "empty")]
        statuses: Vec<VertexStatus>,
        /// Output of processes.
        #[serde(skip_serializing_if = "empty")]
        logs: Vec<VertexLog>,
        /// Warnings about the Dockerfile or of a step.
        #[serde(skip_serializing_if = "empty")]
        warnings: Vec<VertexWarning>,
    }

    /// A step of the graph.
    Vertex {
        /// Names it within one build.
        digest: String,
        /// The vertices that it needs.
        #[serde(skip_serializing_if = "empty")]
        inputs: Vec<String>,
        /// For people: `[stage 2/5] RUN make`.
        name: String,
        /// RFC 3339.
        #[serde(skip_serializing_if = "Option::is_none")]
        started: Option<String>,
        /// RFC 3339.
        #[serde(skip_serializing_if = "Option::is_none")]
        completed: Option<String>,
        /// Whether the cache served it.
        #[serde(skip_serializing_if = "empty")]
        cached: bool,
        /// Why it failed; ends with [`CANCELLED`] when that was no fault of its own.
        #[serde(skip_serializing_if = "empty")]
        error: String,
    }

    /// Progress of one thing that a vertex does.
    VertexStatus {
        /// What is done, in words.
        id: String,
        /// Which vertex does it.
        #[serde(skip_serializing_if = "empty")]
        vertex: String,
        /// More words.
        #[serde(skip_serializing_if = "empty")]
        name: String,
        /// Units in all, 0 when not known.
        #[serde(skip_serializing_if = "empty")]
        total: i64,
        /// Units done, bytes where nothing else is said.
        current: i64,
        /// RFC 3339.
        timestamp: String,
        /// RFC 3339.
        #[serde(skip_serializing_if = "Option::is_none")]
        started: Option<String>,
        /// RFC 3339.
        #[serde(skip_serializing_if = "Option::is_none")]
        completed: Option<String>,
    }

    /// Output of a vertex's process.
    VertexLog {
        /// Which vertex.
        #[serde(skip_serializing_if = "empty")]
        vertex: String,
        /// 1 is standard output, 2 standard error.
        stream: i64,
        /// The bytes, base64.
        data: String,
        /// RFC 3339.
        timestamp: String,
    }

    /// A warning.
    VertexWarning {
        /// Which vertex.
        #[serde(skip_serializing_if = "empty")]
        vertex: String,
        /// 1 and up; greater is less important.
        level: i64,
        /// One line, base64.
        short: String,
        /// More lines, base64.
        #[serde(skip_serializing_if = "empty")]
        detail: Vec<String>,
        /// Where to read on.
        #[serde(skip_serializing_if = "empty")]
        url: String,
        /// Lines of the Dockerfile that it is about.
        #[serde(skip_serializing_if = "empty")]
        range: Vec<SourceRange>,
    }

    /// Lines of a file.
    SourceRange {
        /// First.
        start: SourcePosition,
        /// Last.
        end: SourcePosition,
    }

    /// A place in a file.
    SourcePosition {
        /// From 1.
        line: i64,
        /// From 0.
        character: i64,
    }
}
