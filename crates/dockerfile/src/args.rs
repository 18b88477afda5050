//! Arguments that a build has without a value in the Dockerfile.

/// Known in `FROM` at once, and in a stage after `ARG NAME`.
pub const PLATFORM: &[&str] = &[
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDOSVERSION",
    "BUILDARCH",
    "BUILDVARIANT",
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETOSVERSION",
    "TARGETARCH",
    "TARGETVARIANT",
    "TARGETSTAGE",
];

/// For the builder itself; never variables of a step.
pub const CONTROL: &[&str] = &[
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SYNTAX",
    "SOURCE_DATE_EPOCH",
];

/// Set in every `RUN` if the build was given them, declared or not; in no history and no cache key.
pub const PROXY: &[&str] = &["ALL_PROXY", "FTP_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"];

/// Whether a name is one of [`PROXY`], in upper or lower case.
pub fn is_proxy(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    PROXY.contains(&upper.as_str()) && (name == upper || name == name.to_ascii_lowercase())
}
