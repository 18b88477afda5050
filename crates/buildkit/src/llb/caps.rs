//! What of graphs is understood, in the field's words.

use yare_errdefs::{Error, Result};

/// What operations may need.
pub(crate) const LLB: [&str; 50] = [
    "source.image",
    "source.image.resolvemode",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.local.differ",
    "source.git",
    "source.git.keepgitdir",
    "source.git.fullurl",
    "source.git.httpauth",
    "source.git.knownsshhosts",
    "source.git.mountsshsock",
    "source.git.subdir",
    "source.ocilayout",
    "source.buildop.llbfilename",
    "source.http",
    "source.http.checksum",
    "source.http.perm",
    // As the field spells it.
    "soruce.http.uidgid",
    "exec.meta.base",
    "exec.meta.cdi",
    "exec.meta.cgroup.parent",
    "exec.meta.network",
    "exec.meta.proxyenv",
    "exec.meta.security",
    "exec.meta.setsdefaultpath",
    "exec.meta.ulimit",
    "exec.mount.bind",
    "exec.mount.bind.readwrite-nooutput",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.cache.content",
    "exec.mount.selector",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exec.secretenv",
    "exec.validexitcode",
    "file.base",
    "file.rm.wildcard",
    "file.rm.nofollowsymlink",
    "file.copy.includeexcludepatterns",
    "file.copy.modestring",
    "file.symlink.create",
    "platform",
];

/// What is understood beside single operations.
pub(crate) const GRAPH: [&str; 8] = [
    "constraints",
    "meta.ignorecache",
    "meta.description",
    "meta.exportcache",
    "mergeop",
    "diffop",
    "exporter.image.attestations",
    "exporter.multiple",
];

/// Whether everything that an operation says it needs is understood.
///
/// # Errors
/// It needs something else.
pub(super) fn check<'a>(needed: impl Iterator<Item = &'a String>) -> Result<()> {
    for cap in needed {
        if !LLB.contains(&cap.as_str()) && !GRAPH.contains(&cap.as_str()) {
            return Err(Error::unimplemented(format!(
                "requested feature {cap} is not supported by build server"
            )));
        }
    }
    Ok(())
}
