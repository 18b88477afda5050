//! Mounts whose files appear as somebody else's, by an id mapping of the mount.

use crate::container::Plan;
use crate::error::{Result, StartError, Step, reason};
use crate::options::{Depth, Options};
use crate::origin;
use crate::user::{self, Wanted};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::Errno;
use std::fmt::Write as _;
use yare_oci::runtime::{IdMap, IdMapping, Mount};
use yare_sys::mount::{clone_tree, map_ids};

/// Who the container runs as, as far as mappings counted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    uid: u32,
    gid: u32,
}

impl Counted {
    /// Fails when the identity, looked up with all mounts in place, is another one.
    pub(crate) fn check(self, uid: u32, gid: u32) -> Result<()> {
        if self == (Self { uid, gid }) {
            return Ok(());
        }
        let text = format!(
            "the container's user is {}:{} by its image and {uid}:{gid} by a file that is mounted over \
             /etc/passwd or /etc/group, so it is not clear whose an id-mapped mount is",
            self.uid, self.gid
        );
        Err(StartError::invalid(Step::Mounts, text).with_hint("give the user in numbers: --user UID:GID"))
    }
}

/// Maps the ids of what is to be mounted. `root` is the container's, without its mounts; `/proc` is the host's.
pub(crate) fn apply(
    plan: &Plan<'_>,
    sources: &[(Options, Option<OwnedFd>)],
    root: &OwnedFd,
) -> Result<Option<Counted>> {
    let mut counted = None;
    for (mount, (options, source)) in plan.spec.mounts.iter().zip(sources) {
        let given = origin::of(plan.origins, &mount.destination).and_then(|origin| origin.id_map.as_ref());
        let own = || IdMap::Ranges { uids: mount.uid_mappings.clone(), gids: mount.gid_mappings.clone() };
        let map = match given {
            Some(map) => map.clone(),
            None if is_mapped(mount, options) => own(),
            None => continue,
        };
        let Some(source) = source else {
            let text = format!("the mount at {} cannot be id-mapped: it is no bind", mount.destination);
            return Err(StartError::invalid(Step::Spec, text));
        };
        let (uids, gids) = match map {
            IdMap::Ranges { uids, gids } => (uids, gids),
            IdMap::Owner(name) => {
                let (uid, gid) = if name.is_empty() {
                    let (uid, gid) = own_user(plan, root)?;
                    counted = Some(Counted { uid, gid });
                    (uid, gid)
                } else {
                    let identity = user::resolve(root, Wanted { user: &name, groups: &[] })?;
                    (identity.uid, identity.gid)
                };
                owner_as(mount, source, uid, gid)?
            }
        };
        let deep = if given.is_some() { options.recursive } else { options.id_map == Some(Depth::All) };
        map_one(mount, source, &(uids, gids), deep)?;
    }
    Ok(counted)
}

/// Whether the specification itself asks for a mapping.
fn is_mapped(mount: &Mount, options: &Options) -> bool {
    options.id_map.is_some() || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty()
}

fn own_user(plan: &Plan<'_>, root: &OwnedFd) -> Result<(u32, u32)> {
    match plan.user {
        Some(wanted) => user::resolve(root, wanted).map(|identity| (identity.uid, identity.gid)),
        None => Ok((plan.process.user.uid, plan.process.user.gid)),
    }
}

type Ranges = (Vec<IdMapping>, Vec<IdMapping>);

/// The owner of what is mounted appears as this user, and nobody else as anybody. Root does so as root alone: files
/// that anybody else makes there would be root's on the host, programs that run as root included.
fn owner_as(mount: &Mount, source: &OwnedFd, uid: u32, gid: u32) -> Result<Ranges> {
    let owner = rustix::fs::statx(source, c"", AtFlags::EMPTY_PATH, StatxFlags::UID | StatxFlags::GID)
        .map_err(|error| StartError::io(Step::Mounts, format!("cannot look at {}", mount.source), error))?;
    if uid != 0 && (owner.stx_uid == 0 || (owner.stx_gid == 0 && gid != 0)) {
        let text = format!(
            "{} belongs to root or its group: what {uid}:{gid} makes at {} would be theirs on the host",
            mount.source, mount.destination
        );
        let ranges = format!("idmap=uids={}-{uid}-1;gids={}-{gid}-1", owner.stx_uid, owner.stx_gid);
        return Err(StartError::invalid(Step::Mounts, text).with_hint(format!(
            "change its owner and group with chown, or insist on it in numbers: {ranges}"
        )));
    }
    let one = |container_id, host_id| vec![IdMapping { container_id, host_id, size: 1 }];
    Ok((one(owner.stx_uid, uid), one(owner.stx_gid, gid)))
}

fn map_one(mount: &Mount, source: &OwnedFd, (uids, gids): &Ranges, deep: bool) -> Result<()> {
    if uids.is_empty() || gids.is_empty() {
        let text = format!(
            "the mount at {} has no mappings of its own: there is no user namespace to take them from",
            mount.destination
        );
        return Err(StartError::invalid(Step::Spec, text));
    }
    let namespace = yare_sys::process::user_namespace(&lines(uids), &lines(gids)).map_err(|error| {
        let text = format!("cannot map the ids of {} at {}", mount.source, mount.destination);
        match Errno::from_io_error(&error) {
            Some(Errno::INVAL) => {
                StartError::invalid(Step::Mounts, format!("{text}: the ranges overlap, or are too many"))
            }
            Some(Errno::NOSPC) => {
                StartError::invalid(Step::Mounts, format!("{text}: the host allows no more user namespaces"))
                    .with_hint("raise the kernel parameter user.max_user_namespaces")
            }
            _ => StartError::io(Step::Mounts, text, error),
        }
    })?;
    map_ids(source, &namespace, deep).map_err(|error| refused(mount, source, &namespace, deep, &error))
}

fn lines(ranges: &[IdMapping]) -> String {
    let mut text = String::new();
    for IdMapping { container_id, host_id, size } in ranges {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{container_id} {host_id} {size}");
    }
    text
}

/// Why the kernel does not map a mount, as far as it can be found out.
fn refused(
    mount: &Mount,
    source: &OwnedFd,
    namespace: &OwnedFd,
    deep: bool,
    error: &std::io::Error,
) -> StartError {
    let text = format!("cannot map the ids of {} at {}", mount.source, mount.destination);
    let top_alone = || {
        deep && clone_tree(source.as_fd(), c"", false)
            .is_ok_and(|top| map_ids(&top, namespace, false).is_ok())
    };
    match Errno::from_io_error(error) {
        Some(Errno::INVAL | Errno::PERM) if top_alone() => StartError::invalid(
            Step::Mounts,
            format!("{text}: something that is mounted beneath it cannot be id-mapped"),
        )
        .with_hint("leave such mounts out: --mount type=bind,…,bind-recursive=disabled"),
        Some(Errno::PERM) => {
            StartError::invalid(Step::Mounts, format!("{text}: it lies on a mount that is id-mapped already"))
                .with_hint("the kernel maps ids once; bind the directory that is mounted there instead")
        }
        Some(Errno::INVAL) => {
            StartError::invalid(Step::Mounts, format!("{text}: its filesystem cannot be id-mapped"))
                .with_hint("ext4, XFS, Btrfs and tmpfs can be; overlay and NFS, among others, cannot")
        }
        _ => StartError::internal(Step::Mounts, format!("{text}: {}", reason(error))),
    }
}
