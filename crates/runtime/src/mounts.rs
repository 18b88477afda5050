//! The mounts of a container, all by descriptor: made detached, attached beneath the root's descriptor.

use crate::cgroups;
use crate::error::{Result, StartError, Step, reason};
use crate::options::{self, Options};
use crate::origin::{self, Origin};
use crate::rootfs::{self, Links, PROC};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::CString;
use std::path::Path;
use yare_cgroup::Group;
use yare_oci::runtime::{Mount, Spec};
use yare_sys::mount::{
    Attributes, Propagation, attach, clone_tree, new_filesystem, set_attributes, set_attributes_at,
};
use yare_sys::privilege::Privilege;

/// Files beneath /proc that may be replaced (lxcfs and the like); everything else there stays the kernel's.
const REPLACEABLE: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// The container's tree while it is put together.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Root of the container, attached.
    pub(crate) root: OwnedFd,
    /// Its procfs, our own descriptor of it.
    pub(crate) proc: Option<OwnedFd>,
    /// Its devpts.
    pub(crate) devpts: Option<OwnedFd>,
    /// Whether /dev is a bind mount, whose content is left alone.
    pub(crate) foreign_dev: bool,
}

/// Clones of the bind sources, made while the namespace still has the host's propagation.
pub(crate) fn clone_sources(spec: &Spec, origins: &[Origin]) -> Result<Vec<(Options, Option<OwnedFd>)>> {
    spec.mounts.iter().map(|mount| clone_source(mount, origin::of(origins, &mount.destination))).collect()
}

fn clone_source(mount: &Mount, origin: Option<&Origin>) -> Result<(Options, Option<OwnedFd>)> {
    let options = options::parse(mount).map_err(|text| StartError::invalid(Step::Spec, text))?;
    if let Some(tree) = origin.and_then(|origin| origin.tree.as_ref()) {
        let tree = tree
            .try_clone()
            .map_err(|error| StartError::io(Step::Mounts, format!("cannot mount {}", mount.source), error))?;
        return Ok((options, Some(tree)));
    }
    if !options.bind {
        return Ok((options, None));
    }
    if let Some(origin) = origin.filter(|origin| !origin.subpath.is_empty()) {
        let part = origin.clone_part(&mount.source, options.recursive)?;
        return Ok((options, Some(part)));
    }
    let source = CString::new(mount.source.as_str())
        .map_err(|_| StartError::invalid(Step::Spec, "a mount source contains a null byte"))?;
    let cloned = match foreign(&mount.source) {
        Some((pid, path)) => clone_foreign(pid, path, options.recursive),
        None => clone_tree(CWD, &source, options.recursive),
    };
    match cloned {
        Ok(clone) => Ok((options, Some(clone))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text = format!("bind source path does not exist: {}", mount.source);
            Err(StartError::invalid(Step::Mounts, text))
        }
        Err(error) => Err(StartError::io(Step::Mounts, format!("cannot bind {}", mount.source), error)),
    }
}

/// Mounts something in the caller's namespace, in the words of a specification; `mount.destination` does not
/// count.
///
/// # Errors
/// The options are wrong, or the kernel refuses.
pub fn mount_at(mount: &Mount, target: &OwnedFd) -> Result<()> {
    let failed = |error: &std::io::Error| match Errno::from_io_error(error) {
        Some(Errno::NODEV) => StartError::invalid(
            Step::Mounts,
            format!("{} (unknown filesystem type, or no such device)", reason(error)),
        ),
        _ if error.kind() == std::io::ErrorKind::NotFound
            || error.kind() == std::io::ErrorKind::InvalidInput =>
        {
            StartError::invalid(Step::Mounts, reason(error))
        }
        _ => StartError::internal(Step::Mounts, reason(error)),
    };
    let options = options::parse(mount).map_err(|text| StartError::invalid(Step::Mounts, text))?;
    if options.bind {
        let source = CString::new(mount.source.as_str())
            .map_err(|_| StartError::invalid(Step::Mounts, "a mount source contains a null byte"))?;
        let clone = clone_tree(CWD, &source, options.recursive).map_err(|error| failed(&error))?;
        return attach_bind(&clone, &options, target).map_err(|error| match error {
            Failure::Start(error) => error,
            Failure::System(error) => failed(&error),
        });
    }
    let data: Vec<(&str, Option<&str>)> =
        options.data.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    new_filesystem(&mount.kind, Some(&mount.source), &data, options.own.flags())
        .and_then(|made| attach(&made, target))
        .map_err(|error| failed(&error))
}

/// A path `/proc/PID/root/PATH` as its two parts: what is there may be a mount that only that process's
/// namespace has.
fn foreign(source: &str) -> Option<(i32, &str)> {
    let (pid, path) = source.strip_prefix("/proc/")?.split_once("/root")?;
    path.starts_with('/').then_some((pid.parse().ok()?, path))
}

/// A clone is made from inside the namespace that has the mount; the kernel refuses it from elsewhere.
fn clone_foreign(pid: i32, path: &str, recursive: bool) -> std::io::Result<OwnedFd> {
    let path = CString::new(path)?;
    // By path: this process has its own numbers by now, /proc is still the host's.
    let namespace = |process: &str| {
        let path = format!("/proc/{process}/ns/mnt");
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    };
    let enter =
        |namespace: &OwnedFd| move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount));
    let (own, other) = (namespace("self")?, namespace(&pid.to_string())?);
    enter(&other)?;
    let cloned = clone_tree(CWD, &path, recursive);
    enter(&own)?;
    cloned
}

/// Cuts the namespace off from the host's.
pub(crate) fn make_private() -> Result<()> {
    set_attributes_at(CWD, c"/", &Attributes::propagation(Propagation::Private), true)
        .map_err(|error| StartError::io(Step::Root, "cannot make the mounts private", error))
}

/// Leaves of the trees that have no place what is meant of them. The namespace is private by now.
pub(crate) fn narrow_trees(
    spec: &Spec,
    origins: &[Origin],
    sources: &mut [(Options, Option<OwnedFd>)],
) -> Result<()> {
    for (mount, (_, source)) in spec.mounts.iter().zip(sources) {
        let origin = origin::of(origins, &mount.destination).filter(|origin| origin.tree.is_some());
        if let Some(origin) = origin
            && let Some(tree) = source.take()
        {
            *source = Some(origin.narrow(tree, &mount.source)?);
        }
    }
    Ok(())
}

/// Attaches the root where `pivot_root` can take it from, as at `/` on top of the old one.
pub(crate) fn attach_root(root: &OwnedFd, place: &Path) -> Result<()> {
    let failed = |error: std::io::Error| {
        StartError::io(Step::Root, format!("cannot attach the root at {}", place.display()), error)
    };
    let place = rustix::fs::open(place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed(error.into()))?;
    attach(root, &place).map_err(failed)
}

/// Makes every mount of the specification.
pub(crate) fn attach_all(
    layout: &mut Layout,
    spec: &Spec,
    sources: Vec<(Options, Option<OwnedFd>)>,
    group: &Group,
) -> Result<()> {
    for (mount, (options, source)) in spec.mounts.iter().zip(sources) {
        let destination = normalise(&mount.destination)?;
        attach_one(layout, mount, &destination, &options, source, group).map_err(|error| match error {
            Failure::Start(error) => error,
            Failure::System(error) => describe(mount, &destination, &error),
        })?;
    }
    Ok(())
}

/// A failure that is described already, or one that the caller describes.
pub(crate) enum Failure {
    Start(StartError),
    System(std::io::Error),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}

fn describe(mount: &Mount, destination: &str, error: &std::io::Error) -> StartError {
    let source = if mount.source.is_empty() { &mount.kind } else { &mount.source };
    let text = format!("cannot mount {source} at {destination}: {}", reason(error));
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP) => StartError::invalid(
            Step::Mounts,
            format!("{destination} of the image is a symbolic link, nothing is mounted through it"),
        )
        .with_hint("use an image in which it is a directory"),
        Some(Errno::NOTDIR) => StartError::invalid(Step::Mounts, text).with_hint(
            "the source is a directory and the destination a file, or the other way round; \
             mount a directory onto a directory and a file onto a file",
        ),
        Some(Errno::NODEV) => StartError::invalid(Step::Mounts, format!("{text} (unknown filesystem type)")),
        Some(Errno::INVAL) => StartError::invalid(Step::Mounts, text),
        _ => StartError::internal(Step::Mounts, text),
    }
}

/// The destination without `.`, doubled slashes; `..` is refused, it never occurs with honest callers.
fn normalise(destination: &str) -> Result<String> {
    if rootfs::components(destination).any(|part| part == "..") {
        let text = format!("mount destination {destination} contains \"..\"");
        return Err(StartError::invalid(Step::Spec, text));
    }
    let parts: Vec<&str> = rootfs::components(destination).collect();
    Ok(format!("/{}", parts.join("/")))
}

fn attach_one(
    layout: &mut Layout,
    mount: &Mount,
    destination: &str,
    options: &Options,
    source: Option<OwnedFd>,
    group: &Group,
) -> Result<(), Failure> {
    let kernel = ["/proc", "/sys", "/dev"]
        .iter()
        .any(|top| destination == *top || *top != "/dev" && destination.starts_with(&format!("{top}/")));
    let links = if kernel { Links::Refused } else { Links::Inside };
    let file = match &source {
        Some(source) => rootfs::file_type(source.as_fd())? != FileType::Directory,
        None => false,
    };
    let missing = matches!(rootfs::locate(&layout.root, destination, links), Err(Errno::NOENT));
    let target = match file {
        true => rootfs::make_file(&layout.root, destination, links)?,
        false => rootfs::make_directory(&layout.root, destination, links)?,
    };
    check_proc(destination, mount, source.as_ref(), &target)?;
    match source {
        Some(source) => {
            attach_bind(&source, options, &target)?;
            layout.foreign_dev |= destination == "/dev";
        }
        None if mount.kind == "cgroup" || mount.kind == "cgroup2" => {
            cgroups::attach_cgroup(&target, options, group)?;
        }
        None => attach_filesystem(layout, mount, destination, options, (&target, missing))?,
    }
    Ok(())
}

/// Nothing but procfs stands at /proc, and beneath it only harmless files are replaced.
fn check_proc(
    destination: &str,
    mount: &Mount,
    source: Option<&OwnedFd>,
    target: &OwnedFd,
) -> Result<(), StartError> {
    let procfs = mount.kind == "proc" || source.is_some_and(|source| rootfs::is_on(source.as_fd(), PROC));
    let at_proc = destination == "/proc";
    if at_proc && procfs || REPLACEABLE.contains(&destination) {
        return Ok(());
    }
    if at_proc || (rootfs::is_on(target.as_fd(), PROC) && !procfs) {
        let text = format!("{destination:?} cannot be mounted because it is inside /proc");
        return Err(StartError::invalid(Step::Mounts, text)
            .with_hint("mount it somewhere else; /proc must be the kernel's"));
    }
    Ok(())
}

fn attach_bind(source: &OwnedFd, options: &Options, target: &OwnedFd) -> Result<(), Failure> {
    let (propagation, deep) = options.propagation.unwrap_or((Propagation::Private, true));
    let deep = deep && options.recursive;
    let mut own = options.own.attributes();
    let mut all = options.all.attributes();
    if deep {
        all.propagation = Some(propagation);
    } else {
        own.propagation = Some(propagation);
    }
    if !own.is_empty() {
        set_attributes(source, &own, false)?;
    }
    if !all.is_empty() {
        set_attributes(source, &all, true)?;
    }
    Ok(attach(source, target)?)
}

fn attach_filesystem(
    layout: &mut Layout,
    mount: &Mount,
    destination: &str,
    options: &Options,
    (target, was_missing): (&OwnedFd, bool),
) -> Result<(), Failure> {
    if mount.kind.is_empty() || mount.kind == "none" {
        let text = format!("the mount at {destination} has no type");
        return Err(StartError::invalid(Step::Spec, text).into());
    }
    let mut data: Vec<(&str, Option<&str>)> =
        options.data.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    // A tmpfs over a directory of the image looks like that directory; in a new place anybody may use it.
    let mode;
    if mount.kind == "tmpfs" && !was_missing && !data.iter().any(|(key, _)| *key == "mode") {
        mode = format!("{:o}", rustix::fs::fstat(target)?.st_mode & 0o7777);
        data.push(("mode", Some(&mode)));
    }
    let source = Some(mount.source.as_str()).filter(|source| !source.is_empty());
    let made = new_filesystem(&mount.kind, source, &data, options.own.flags());
    let made =
        made.or_else(|error| if mount.kind == "proc" { procfs_of_the_host(error) } else { Err(error) })?;
    attach(&made, target)?;
    if let Some((propagation, _)) = options.propagation {
        set_attributes(&made, &Attributes::propagation(propagation), false)?;
    }
    match (mount.kind.as_str(), destination) {
        ("proc", "/proc") => layout.proc = Some(made),
        ("devpts", "/dev/pts") => layout.devpts = Some(made),
        _ => {}
    }
    Ok(())
}

/// A clone of the procfs that is here, where it is that of this process's pid namespace: who is root of a user
/// namespace alone cannot mount one of the host's, which a container may share. Another refusal stays what it is: a
/// container with a namespace of its own must not see the host's processes.
fn procfs_of_the_host(error: std::io::Error) -> std::io::Result<OwnedFd> {
    let refused = Errno::from_io_error(&error) == Some(Errno::PERM);
    if !refused || Privilege::current() != Privilege::Namespace {
        return Err(error);
    }
    if !shares_pid_namespace(&std::fs::read_to_string("/proc/self/status")?) {
        let why = "a part of the host's /proc is covered, so that the kernel gives no user another one; \
                   findmnt -R /proc shows what covers it";
        return Err(std::io::Error::new(error.kind(), why));
    }
    clone_tree(CWD, c"/proc", true)
}

/// Whether a process is in the pid namespace whose procfs gave its `status`: it has one number there.
fn shares_pid_namespace(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.split_whitespace().count() == 1)
}

/// Makes the attached root the root of this namespace and lets the old one go.
pub(crate) fn pivot(root: &OwnedFd) -> Result<()> {
    let steps = || -> rustix::io::Result<()> {
        rustix::process::fchdir(root)?;
        rustix::process::pivot_root(c".", c".")?;
        // The old root now lies on top of the new one.
        rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
        rustix::process::chdir(c"/")
    };
    steps().map_err(|error| StartError::io(Step::Root, "cannot change the root", error))?;
    check_root(root)
}

/// Makes sure that nothing lies over the root: a mount left there would be entered by `/..`.
fn check_root(root: &OwnedFd) -> Result<()> {
    let failed = |error| StartError::io(Step::Root, "cannot check the root", error);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::open(c"/..", flags, Mode::empty()).map_err(failed)?;
    let mount = |fd: &OwnedFd| {
        rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id)
    };
    if mount(&top).map_err(failed)? == mount(root).map_err(failed)? {
        return Ok(());
    }
    Err(StartError::internal(Step::Root, "something is still mounted over the container's root"))
}

/// Propagation of the root, and its read-only mark.
pub(crate) fn finish_root(layout: &Layout, spec: &Spec) -> Result<()> {
    let failed =
        |error: std::io::Error| StartError::io(Step::Root, "cannot set attributes of the root", error);
    let wanted = spec.linux.as_ref().map_or("", |linux| linux.rootfs_propagation.as_str());
    let propagation = match wanted {
        "shared" | "rshared" => Some(Propagation::Shared),
        "slave" | "rslave" => Some(Propagation::Slave),
        "unbindable" | "runbindable" => Some(Propagation::Unbindable),
        "" | "private" | "rprivate" => None,
        other => {
            let text = format!("unknown propagation of the root {other:?}");
            return Err(StartError::invalid(Step::Spec, text));
        }
    };
    if let Some(propagation) = propagation {
        let attributes = Attributes::propagation(propagation);
        set_attributes(&layout.root, &attributes, wanted.starts_with('r')).map_err(failed)?;
    }
    if spec.root.as_ref().is_some_and(|root| root.readonly) {
        let readonly = Attributes::set(MountAttrFlags::MOUNT_ATTR_RDONLY);
        set_attributes(&layout.root, &readonly, false).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_another_namespace_are_seen() {
        assert_eq!(foreign("/proc/12/root/dev/shm"), Some((12, "/dev/shm")));
        for own in ["/proc/12/rootfs", "/proc/self/root/x", "/proc/12/root", "/srv/proc/1/root/x"] {
            assert_eq!(foreign(own), None, "{own}");
        }
    }

    #[test]
    fn destinations_are_normalised() {
        assert_eq!(normalise("//a/./b/").unwrap(), "/a/b");
        assert_eq!(normalise("a").unwrap(), "/a");
        assert!(normalise("/a/../b").is_err());
    }
}
