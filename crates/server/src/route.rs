//! The route table: one list of (method, pattern, first version, operation).
//!
//! Routing, 404 versus 501, the metrics labels and the listing of what is built all come from this list.
//! `{name}` in a pattern stands for one or more characters, slashes included, because names of images have
//! them (`/images/a/b:c/json`); so an entry is tried by prefix and suffix, in the order of the table, and a
//! fixed path stands before a pattern that would also match it.

use std::fmt;

use http::Method;

/// The methods that the API uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Read.
    Get,
    /// Read the headers only.
    Head,
    /// Create or act.
    Post,
    /// Replace.
    Put,
    /// Remove.
    Delete,
}

impl Verb {
    fn is(self, method: &Method) -> bool {
        method.as_str() == self.as_str()
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Ping,
    Version,
    Info,
    Events,
    DiskUsage,
    Metrics,
    Auth,
    ContainerList,
    ContainerCreate,
    ContainerPrune,
    ContainerInspect,
    ContainerTop,
    ContainerChanges,
    ContainerExport,
    ContainerStats,
    ContainerPathStat,
    ContainerArchive,
    ContainerExtract,
    ContainerCommit,
    ContainerLogs,
    ContainerResize,
    ContainerStart,
    ContainerStop,
    ContainerRestart,
    ContainerKill,
    ContainerUpdate,
    ContainerRename,
    ContainerPause,
    ContainerUnpause,
    ContainerAttach,
    ContainerAttachSocket,
    ContainerWait,
    ContainerRemove,
    ExecCreate,
    ExecStart,
    ExecResize,
    ExecKill,
    ExecInspect,
    ImageList,
    ImageCreate,
    ImageInspect,
    ImageHistory,
    ImageTag,
    ImageRemove,
    ImagePrune,
    ImageSaveOne,
    ImageSave,
    ImageLoad,
    Build,
    ImagePush,
    ImageSearch,
    DistributionInspect,
    BuildPrune,
    BuildCancel,
    BuildKit,
    BuildKitSession,
    RegistryStatus,
    Cleaning,
    RegistryEnable,
    RegistryDisable,
    VolumeList,
    VolumeExport,
    VolumeImport,
    VolumeCreate,
    VolumeInspect,
    VolumeRemove,
    VolumePrune,
    NetworkList,
    NetworkInspect,
    NetworkCreate,
    NetworkConnect,
    NetworkDisconnect,
    NetworkRemove,
    NetworkPrune,
    PluginList,
    PluginInspect,
    /// Known, not built; the text names the feature.
    NotBuilt(&'static str),
    /// Part of swarm mode, which this engine is never in.
    Swarm,
}

/// How far a route is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Answers as documented.
    Built,
    /// Answers 501.
    NotBuilt,
    /// Answers 503: no swarm here.
    NoSwarm,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) verb: Verb,
    pub(crate) pattern: &'static str,
    /// The minor version of the API (1.x) that brought the route.
    pub(crate) since: u16,
    pub(crate) operation: Operation,
}

/// One row of the table as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteInfo {
    /// The method.
    pub verb: Verb,
    /// The path, with `{name}` where something is captured.
    pub pattern: &'static str,
    /// The minor version of the API (1.x) that brought the route.
    pub since: u16,
    /// Whether it does anything here.
    pub support: Support,
}

impl Route {
    fn info(&self) -> RouteInfo {
        let support = match self.operation {
            Operation::NotBuilt(_) => Support::NotBuilt,
            Operation::Swarm => Support::NoSwarm,
            _ => Support::Built,
        };
        RouteInfo { verb: self.verb, pattern: self.pattern, since: self.since, support }
    }
}

const fn route(verb: Verb, pattern: &'static str, since: u16, operation: Operation) -> Route {
    Route { verb, pattern, since, operation }
}

use Operation::NotBuilt;
use Verb::{Delete, Get, Head, Post, Put};

const CHECKPOINTS: &str = "checkpoint and restore";
const PLUGINS: &str = "managed plugins";
const DEBUGGING: &str = "the Go runtime's debug page";

/// Every route that is known, in the order in which they are tried.
pub(crate) static TABLE: &[Route] = &[
    // System.
    route(Head, "/_ping", 0, Operation::Ping),
    route(Get, "/_ping", 0, Operation::Ping),
    route(Get, "/version", 0, Operation::Version),
    route(Get, "/info", 0, Operation::Info),
    route(Get, "/events", 0, Operation::Events),
    route(Get, "/system/df", 25, Operation::DiskUsage),
    route(Get, "/metrics", 0, Operation::Metrics),
    route(Post, "/auth", 0, Operation::Auth),
    route(Post, "/session", 31, Operation::BuildKitSession),
    route(Post, "/grpc", 31, Operation::BuildKit),
    route(Get, "/yare/cleaning", 0, Operation::Cleaning),
    route(Post, "/yare/exec/{id}/kill", 0, Operation::ExecKill),
    route(Get, "/yare/volumes/{name}/archive", 0, Operation::VolumeExport),
    route(Put, "/yare/volumes/{name}/archive", 0, Operation::VolumeImport),
    route(Get, "/yare/registry", 0, Operation::RegistryStatus),
    route(Put, "/yare/registry", 0, Operation::RegistryEnable),
    route(Delete, "/yare/registry", 0, Operation::RegistryDisable),
    route(Get, "/debug/vars", 0, NotBuilt(DEBUGGING)),
    route(Get, "/debug/pprof/", 0, NotBuilt(DEBUGGING)),
    route(Get, "/debug/pprof/{name}", 0, NotBuilt(DEBUGGING)),
    // Containers.
    route(Get, "/containers/json", 0, Operation::ContainerList),
    route(Post, "/containers/create", 0, Operation::ContainerCreate),
    route(Post, "/containers/prune", 25, Operation::ContainerPrune),
    route(Get, "/containers/{id}/json", 0, Operation::ContainerInspect),
    route(Get, "/containers/{id}/top", 0, Operation::ContainerTop),
    route(Get, "/containers/{id}/logs", 0, Operation::ContainerLogs),
    route(Get, "/containers/{id}/changes", 0, Operation::ContainerChanges),
    route(Get, "/containers/{id}/export", 0, Operation::ContainerExport),
    route(Get, "/containers/{id}/stats", 0, Operation::ContainerStats),
    route(Post, "/containers/{id}/resize", 0, Operation::ContainerResize),
    route(Post, "/containers/{id}/start", 0, Operation::ContainerStart),
    route(Post, "/containers/{id}/stop", 0, Operation::ContainerStop),
    route(Post, "/containers/{id}/restart", 0, Operation::ContainerRestart),
    route(Post, "/containers/{id}/kill", 0, Operation::ContainerKill),
    route(Post, "/containers/{id}/update", 0, Operation::ContainerUpdate),
    route(Post, "/containers/{id}/rename", 0, Operation::ContainerRename),
    route(Post, "/containers/{id}/pause", 0, Operation::ContainerPause),
    route(Post, "/containers/{id}/unpause", 0, Operation::ContainerUnpause),
    route(Post, "/containers/{id}/attach", 0, Operation::ContainerAttach),
    route(Get, "/containers/{id}/attach/ws", 0, Operation::ContainerAttachSocket),
    route(Post, "/containers/{id}/wait", 0, Operation::ContainerWait),
    route(Get, "/containers/{id}/checkpoints", 0, NotBuilt(CHECKPOINTS)),
    route(Post, "/containers/{id}/checkpoints", 0, NotBuilt(CHECKPOINTS)),
    route(Delete, "/containers/{id}/checkpoints/{checkpoint}", 0, NotBuilt(CHECKPOINTS)),
    route(Delete, "/containers/{id}", 0, Operation::ContainerRemove),
    route(Head, "/containers/{id}/archive", 0, Operation::ContainerPathStat),
    route(Get, "/containers/{id}/archive", 0, Operation::ContainerArchive),
    route(Put, "/containers/{id}/archive", 0, Operation::ContainerExtract),
    // Exec.
    route(Post, "/containers/{id}/exec", 0, Operation::ExecCreate),
    route(Post, "/exec/{id}/start", 0, Operation::ExecStart),
    route(Post, "/exec/{id}/resize", 0, Operation::ExecResize),
    route(Get, "/exec/{id}/json", 0, Operation::ExecInspect),
    // Images.
    route(Get, "/images/json", 0, Operation::ImageList),
    route(Get, "/images/search", 0, Operation::ImageSearch),
    route(Get, "/images/get", 0, Operation::ImageSave),
    route(Post, "/images/load", 0, Operation::ImageLoad),
    route(Post, "/images/create", 0, Operation::ImageCreate),
    route(Post, "/images/prune", 25, Operation::ImagePrune),
    route(Get, "/images/{name}/json", 0, Operation::ImageInspect),
    route(Get, "/images/{name}/history", 0, Operation::ImageHistory),
    route(Get, "/images/{name}/get", 0, Operation::ImageSaveOne),
    route(Get, "/images/{name}/attestations", 0, NotBuilt("attestations of images")),
    route(Post, "/images/{name}/push", 0, Operation::ImagePush),
    route(Post, "/images/{name}/tag", 0, Operation::ImageTag),
    route(Delete, "/images/{name}", 0, Operation::ImageRemove),
    route(Post, "/commit", 0, Operation::ContainerCommit),
    route(Get, "/distribution/{name}/json", 30, Operation::DistributionInspect),
    // Building.
    route(Post, "/build", 0, Operation::Build),
    route(Post, "/build/prune", 31, Operation::BuildPrune),
    route(Post, "/build/cancel", 31, Operation::BuildCancel),
    // Volumes.
    route(Get, "/volumes", 0, Operation::VolumeList),
    route(Post, "/volumes/create", 0, Operation::VolumeCreate),
    route(Post, "/volumes/prune", 25, Operation::VolumePrune),
    route(Get, "/volumes/{name}", 0, Operation::VolumeInspect),
    route(Put, "/volumes/{name}", 42, Operation::Swarm),
    route(Delete, "/volumes/{name}", 0, Operation::VolumeRemove),
    // Networks.
    route(Get, "/networks", 0, Operation::NetworkList),
    route(Get, "/networks/", 0, Operation::NetworkList),
    route(Post, "/networks/create", 0, Operation::NetworkCreate),
    route(Post, "/networks/prune", 25, Operation::NetworkPrune),
    route(Post, "/networks/{id}/connect", 0, Operation::NetworkConnect),
    route(Post, "/networks/{id}/disconnect", 0, Operation::NetworkDisconnect),
    route(Get, "/networks/{id}", 0, Operation::NetworkInspect),
    route(Delete, "/networks/{id}", 0, Operation::NetworkRemove),
    // Plugins.
    route(Get, "/plugins", 25, Operation::PluginList),
    route(Get, "/plugins/privileges", 25, NotBuilt(PLUGINS)),
    route(Post, "/plugins/pull", 25, NotBuilt(PLUGINS)),
    route(Post, "/plugins/create", 25, NotBuilt(PLUGINS)),
    route(Get, "/plugins/{name}/json", 25, Operation::PluginInspect),
    route(Post, "/plugins/{name}/enable", 25, NotBuilt(PLUGINS)),
    route(Post, "/plugins/{name}/disable", 25, NotBuilt(PLUGINS)),
    route(Post, "/plugins/{name}/upgrade", 26, NotBuilt(PLUGINS)),
    route(Post, "/plugins/{name}/push", 25, NotBuilt(PLUGINS)),
    route(Post, "/plugins/{name}/set", 25, NotBuilt(PLUGINS)),
    route(Delete, "/plugins/{name}", 25, NotBuilt(PLUGINS)),
    // Swarm.
    route(Get, "/swarm", 0, Operation::Swarm),
    route(Get, "/swarm/unlockkey", 0, Operation::Swarm),
    route(Post, "/swarm/init", 0, Operation::Swarm),
    route(Post, "/swarm/join", 0, Operation::Swarm),
    route(Post, "/swarm/leave", 0, Operation::Swarm),
    route(Post, "/swarm/update", 0, Operation::Swarm),
    route(Post, "/swarm/unlock", 0, Operation::Swarm),
    route(Get, "/nodes", 0, Operation::Swarm),
    route(Get, "/nodes/{id}", 0, Operation::Swarm),
    route(Delete, "/nodes/{id}", 0, Operation::Swarm),
    route(Post, "/nodes/{id}/update", 0, Operation::Swarm),
    route(Get, "/services", 0, Operation::Swarm),
    route(Post, "/services/create", 0, Operation::Swarm),
    route(Get, "/services/{id}/logs", 0, Operation::Swarm),
    route(Get, "/services/{id}", 0, Operation::Swarm),
    route(Delete, "/services/{id}", 0, Operation::Swarm),
    route(Post, "/services/{id}/update", 0, Operation::Swarm),
    route(Get, "/tasks", 0, Operation::Swarm),
    route(Get, "/tasks/{id}/logs", 0, Operation::Swarm),
    route(Get, "/tasks/{id}", 0, Operation::Swarm),
    route(Get, "/secrets", 0, Operation::Swarm),
    route(Post, "/secrets/create", 0, Operation::Swarm),
    route(Get, "/secrets/{id}", 0, Operation::Swarm),
    route(Delete, "/secrets/{id}", 0, Operation::Swarm),
    route(Post, "/secrets/{id}/update", 0, Operation::Swarm),
    route(Get, "/configs", 0, Operation::Swarm),
    route(Post, "/configs/create", 0, Operation::Swarm),
    route(Get, "/configs/{id}", 0, Operation::Swarm),
    route(Delete, "/configs/{id}", 0, Operation::Swarm),
    route(Post, "/configs/{id}/update", 0, Operation::Swarm),
];

/// Every route that is known, for documents and tests.
pub fn routes() -> Vec<RouteInfo> {
    TABLE.iter().map(Route::info).collect()
}

/// A route and what its pattern captured.
#[derive(Debug)]
pub(crate) struct Match {
    /// The position in [`TABLE`].
    pub(crate) index: usize,
    /// What stands for each `{…}`, in order.
    pub(crate) names: Vec<String>,
}

impl Match {
    /// The row.
    pub(crate) fn route(&self) -> &'static Route {
        &TABLE[self.index]
    }
}

/// The route of a method and an already decoded path without its version.
pub(crate) fn find(method: &Method, path: &str) -> Option<Match> {
    TABLE
        .iter()
        .enumerate()
        .filter(|(_, route)| route.verb.is(method))
        .find_map(|(index, route)| captures(route.pattern, path).map(|names| Match { index, names }))
}

/// What `path` has for each `{…}` of `pattern`; `None` when it does not match.
fn captures(pattern: &str, path: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let (mut pattern, mut path) = (pattern, path);
    while let Some((before, rest)) = pattern.split_once('{') {
        let (_, after) = rest.split_once('}')?;
        path = path.strip_prefix(before)?;
        let end = end_of_name(path, after)?;
        names.push(path[..end].to_owned());
        (pattern, path) = (after, &path[end..]);
    }
    (pattern == path).then_some(names)
}

/// Where a captured name ends: as late as what follows it in the pattern allows.
fn end_of_name(path: &str, after: &str) -> Option<usize> {
    let end = match after.split_once('{') {
        None => path.len().checked_sub(after.len())?,
        Some((between, _)) => path.rfind(between)?,
    };
    (end > 0 && path.is_char_boundary(end)).then_some(end)
}

/// A path cut into its version prefix, when it has one, and the rest.
pub(crate) fn split_version(path: &str) -> (Option<&str>, &str) {
    let prefix = path.strip_prefix("/v").and_then(|rest| rest.split_once('/'));
    match prefix {
        Some((version, _)) if is_version(version) => (Some(version), &path["/v".len() + version.len()..]),
        _ => (None, path),
    }
}

fn is_version(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(method: &Method, path: &str) -> Option<(Operation, Vec<String>)> {
        find(method, path).map(|found| (found.route().operation, found.names))
    }

    #[test]
    fn names_may_contain_slashes() {
        let found = operation(&Method::GET, "/images/docker.io/library/a:1/json");
        assert_eq!(found, Some((Operation::ImageInspect, vec!["docker.io/library/a:1".to_owned()])));
        let found = operation(&Method::GET, "/images/x/json/json");
        assert_eq!(found, Some((Operation::ImageInspect, vec!["x/json".to_owned()])));
        let found = operation(&Method::DELETE, "/images/a/b@sha256:12");
        assert_eq!(found, Some((Operation::ImageRemove, vec!["a/b@sha256:12".to_owned()])));
    }

    #[test]
    fn two_names_are_told_apart() {
        let found = find(&Method::DELETE, "/containers/a/checkpoints/b").expect("known");
        assert_eq!(found.names, ["a", "b"]);
        assert_eq!(found.route().operation, NotBuilt(CHECKPOINTS));
    }

    #[test]
    fn an_empty_name_is_no_name() {
        assert!(find(&Method::GET, "/containers//json").is_none());
        assert!(find(&Method::GET, "/volumes/").is_none());
        assert!(find(&Method::DELETE, "/containers/").is_none());
    }

    #[test]
    fn a_wrong_method_is_an_unknown_page() {
        assert!(find(&Method::POST, "/containers/json").is_none());
        assert!(find(&Method::PATCH, "/info").is_none());
        assert!(find(&Method::GET, "/nosuchroute").is_none());
    }

    #[test]
    fn fixed_paths_win_over_patterns() {
        assert_eq!(operation(&Method::GET, "/images/get").map(|found| found.0), Some(Operation::ImageSave));
        let prune = operation(&Method::POST, "/containers/prune").map(|found| found.0);
        assert_eq!(prune, Some(Operation::ContainerPrune));
        assert_eq!(operation(&Method::GET, "/networks/").map(|found| found.0), Some(Operation::NetworkList));
    }

    #[test]
    fn every_row_can_be_reached() {
        for (index, row) in TABLE.iter().enumerate() {
            let path = row.pattern.replace("{id}", "x").replace("{name}", "a/b").replace("{checkpoint}", "c");
            let method = Method::from_bytes(row.verb.as_str().as_bytes()).expect("a method");
            let found = find(&method, &path).expect("its own path");
            assert_eq!(found.index, index, "{} {path} is caught by {}", row.verb, found.route().pattern);
        }
    }

    #[test]
    fn a_version_prefix_is_cut_off() {
        assert_eq!(split_version("/v1.51/info"), (Some("1.51"), "/info"));
        assert_eq!(split_version("/info"), (None, "/info"));
        assert_eq!(split_version("/version"), (None, "/version"));
        assert_eq!(split_version("/volumes/x"), (None, "/volumes/x"));
        assert_eq!(split_version("/v1.51"), (None, "/v1.51"));
        assert_eq!(split_version("/vx/info"), (None, "/vx/info"));
    }

    #[test]
    fn every_documented_endpoint_is_known() {
        let rows = include_str!("../tests/data/endpoints.tsv");
        let mut count = 0;
        for row in rows.lines().filter(|row| !row.starts_with('#')) {
            let mut columns = row.split('\t');
            let (method, path) = (columns.next().expect("method"), columns.next().expect("path"));
            count += 1;
            if method == "OPTIONS" {
                continue; // answered for any path, before routing
            }
            let known = TABLE.iter().any(|route| route.verb.as_str() == method && route.pattern == path);
            assert!(known, "{method} {path} is not in the table");
        }
        assert_eq!(count, 118);
    }

    #[test]
    fn swarm_rows_are_marked() {
        let rows = include_str!("../tests/data/endpoints.tsv");
        for row in rows.lines().filter(|row| !row.starts_with('#') && row.ends_with("\tswarm")) {
            let path = row.split('\t').nth(1).expect("path");
            let route = TABLE.iter().find(|route| route.pattern == path).expect("known");
            assert_eq!(route.operation, Operation::Swarm, "{path}");
        }
    }

    #[test]
    fn everything_the_docker_cli_sends_has_a_route() {
        let text = include_str!("../tests/data/docker-cli-28.2.2-requests.json");
        let vectors: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let commands = vectors["other"].as_array().expect("a list");
        let requests = commands.iter().filter_map(|command| command["requests"].as_array()).flatten();
        for request in requests {
            let (method, path) = (request["m"].as_str().expect("m"), request["p"].as_str().expect("p"));
            let path = path.split('?').next().expect("a path");
            let path = percent_encoding::percent_decode_str(path).decode_utf8().expect("UTF-8");
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let (version, rest) = split_version(&path);
            assert_eq!(version, Some("1.50"), "{path}");
            assert!(find(&method, rest).is_some(), "{method} {path}");
        }
    }
}
