//! Which cgroup hierarchies this machine has, found once.

use crate::error::{CgroupError, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Access, Mode as FileMode, OFlags};
use rustix::mount::FsPickFlags;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yare_sys::privilege::Privilege;

/// A resource controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// Processor time.
    Cpu,
    /// Processor time accounting (v1).
    Cpuacct,
    /// Processors and memory nodes.
    Cpuset,
    /// Memory.
    Memory,
    /// Device access (v1; a BPF program on v2).
    Devices,
    /// Freezing (v1; part of the core on v2).
    Freezer,
    /// Block devices: `blkio` on v1, `io` on v2.
    Blkio,
    /// Number of tasks.
    Pids,
    /// Huge pages.
    Hugetlb,
}

impl Controller {
    const ALL: [Self; 9] = [
        Self::Cpu,
        Self::Cpuacct,
        Self::Cpuset,
        Self::Memory,
        Self::Devices,
        Self::Freezer,
        Self::Blkio,
        Self::Pids,
        Self::Hugetlb,
    ];

    /// The kernel's name for it on v1.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Devices => "devices",
            Self::Freezer => "freezer",
            Self::Blkio => "blkio",
            Self::Pids => "pids",
            Self::Hugetlb => "hugetlb",
        }
    }

    /// The kernel's name for it on v2.
    pub fn v2_name(self) -> &'static str {
        if self == Self::Blkio { "io" } else { self.name() }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|controller| controller.name() == name)
    }
}

/// How the hierarchies are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only v1.
    V1,
    /// Controllers on v1, and v2 mounted beside for killing and freezing.
    Hybrid,
    /// Only v2.
    V2,
}

/// One mounted hierarchy, held open so that it is reachable from any mount namespace.
#[derive(Debug)]
pub(crate) struct Hierarchy {
    /// Empty on v2.
    pub(crate) controllers: Vec<Controller>,
    pub(crate) mount_point: PathBuf,
    pub(crate) root: OwnedFd,
    /// Options of the superblock, for a remount.
    options: String,
}

#[derive(Debug)]
pub(crate) struct Hierarchies {
    pub(crate) v1: Vec<Hierarchy>,
    pub(crate) v2: Option<Hierarchy>,
    mode: Mode,
}

impl Hierarchies {
    /// Nothing of these is ours: containers have no groups of their own.
    fn none_of(mode: Mode) -> Self {
        Self { v1: Vec::new(), v2: None, mode }
    }
}

/// The cgroup hierarchies of this machine. Cheap to clone; survives a change of the mount namespace.
#[derive(Debug, Clone)]
pub struct Host {
    pub(crate) hierarchies: Arc<Hierarchies>,
}

impl Host {
    /// Reads `/proc/self/mountinfo` and opens every hierarchy.
    ///
    /// Of root of a user namespace only those count that it may make groups in: none for an engine without root, see
    /// [`Host::has_groups`]; in the containers of others there may be some.
    pub fn detect() -> Result<Self> {
        let path = "/proc/self/mountinfo";
        let table = read_text(path).map_err(|error| CgroupError::io("find", path, error))?;
        let mut found = parse_mountinfo(&table);
        let mode = mode_of(&found);
        if Privilege::current() == Privilege::Namespace {
            found.retain(|found| rustix::fs::access(&found.mount_point, Access::WRITE_OK).is_ok());
            if found.is_empty() {
                return Ok(Self { hierarchies: Arc::new(Hierarchies::none_of(mode)) });
            }
        }
        let hierarchies = Self::open(found)?;
        Ok(Self { hierarchies: Arc::new(hierarchies) })
    }

    fn open(all: Vec<Found>) -> Result<Hierarchies> {
        let mut hierarchies = Hierarchies { v1: Vec::new(), v2: None, mode: mode_of(&all) };
        for found in all {
            let Ok(root) = open_directory(&found.mount_point) else { continue };
            let hierarchy = Hierarchy {
                controllers: found.controllers,
                mount_point: found.mount_point,
                root,
                options: found.options,
            };
            if found.v2 {
                hierarchies.v2.get_or_insert(hierarchy);
            } else if !hierarchies.v1.iter().any(|known| known.controllers == hierarchy.controllers) {
                hierarchies.v1.push(hierarchy);
            }
        }
        if hierarchies.v1.is_empty() && hierarchies.v2.is_none() {
            return Err(CgroupError::NoHierarchy);
        }
        Ok(hierarchies)
    }

    /// Whether containers have groups of their own. Where they have not, a [`Group`](crate::Group) limits nothing,
    /// holds nobody and knows nobody's processes.
    pub fn has_groups(&self) -> bool {
        self.hierarchies.v2.is_some() || !self.hierarchies.v1.is_empty()
    }

    /// How the hierarchies are arranged.
    pub fn mode(&self) -> Mode {
        self.hierarchies.mode
    }

    /// Whether limits of this controller can be set.
    pub fn has(&self, controller: Controller) -> bool {
        if self.mode() == Mode::V2 && self.has_groups() {
            return match controller {
                Controller::Devices | Controller::Freezer | Controller::Cpuacct => true,
                other => self.v2_controllers().iter().any(|name| name == other.v2_name()),
            };
        }
        self.v1_of(controller).is_some()
    }

    /// Names of the controllers of the v2 hierarchy, as in its `cgroup.controllers`.
    pub fn v2_controllers(&self) -> Vec<String> {
        let Some(v2) = &self.hierarchies.v2 else { return Vec::new() };
        let text = read_at(v2.root.as_fd(), "cgroup.controllers").unwrap_or_default();
        text.split_whitespace().map(str::to_string).collect()
    }

    /// Where the hierarchy of a v1 controller is mounted.
    pub fn mount_point(&self, controller: Controller) -> Option<&Path> {
        self.v1_of(controller).map(|hierarchy| hierarchy.mount_point.as_path())
    }

    pub(crate) fn v1_of(&self, controller: Controller) -> Option<&Hierarchy> {
        self.hierarchies.v1.iter().find(|hierarchy| hierarchy.controllers.contains(&controller))
    }

    /// Makes joins fast where that is possible: remounts v2 with `favordynmods`.
    ///
    /// Without it a join after an idle gap waits for an RCU grace period (12 ms). On pure v2 processes are
    /// born in their group and nothing is changed. Returns whether the option is in force; a kernel or a
    /// container that does not allow it is no error.
    pub fn prepare(&self) -> bool {
        let Some(v2) = &self.hierarchies.v2 else { return false };
        if self.mode() == Mode::V2 || v2.options.split(',').any(|option| option == "favordynmods") {
            return true;
        }
        match favor_dynamic_modifications(v2) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "favordynmods is not available");
                false
            }
        }
    }
}

/// A remount replaces all options, so those in force are given again.
fn favor_dynamic_modifications(v2: &Hierarchy) -> rustix::io::Result<()> {
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let context = rustix::mount::fspick(&v2.root, c"", flags)?;
    for option in v2.options.split(',').filter(|option| !matches!(*option, "rw" | "ro" | "")) {
        rustix::mount::fsconfig_set_flag(&context, option)?;
    }
    rustix::mount::fsconfig_set_flag(&context, c"favordynmods")?;
    rustix::mount::fsconfig_reconfigure(&context)
}

#[derive(Debug, PartialEq, Eq)]
struct Found {
    v2: bool,
    controllers: Vec<Controller>,
    mount_point: PathBuf,
    options: String,
}

fn mode_of(found: &[Found]) -> Mode {
    let (v2, v1) = (found.iter().any(|found| found.v2), found.iter().any(|found| !found.v2));
    match (v2, v1) {
        (true, false) => Mode::V2,
        (true, true) => Mode::Hybrid,
        (false, _) => Mode::V1,
    }
}

/// The cgroup mounts of a mountinfo table; named hierarchies without controllers are left out.
fn parse_mountinfo(table: &str) -> Vec<Found> {
    table.lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<Found> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let kind = after.next()?;
    let v2 = match kind {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let options = after.nth(1)?;
    let controllers: Vec<_> =
        if v2 { Vec::new() } else { options.split(',').filter_map(Controller::parse).collect() };
    if !v2 && controllers.is_empty() {
        return None;
    }
    let mount_point = before.split(' ').nth(4)?;
    Some(Found { v2, controllers, mount_point: mount_point.into(), options: options.to_string() })
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())
}

fn read_text(path: &str) -> rustix::io::Result<String> {
    read_at(rustix::fs::CWD, path)
}

/// The text of a kernel file beneath a directory.
pub(crate) fn read_at(directory: BorrowedFd<'_>, path: &str) -> rustix::io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(directory, path, flags, FileMode::empty())?;
    let mut bytes = Vec::with_capacity(4096);
    loop {
        bytes.reserve(4096);
        if rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes))? == 0 {
            break;
        }
    }
    String::from_utf8(bytes).map_err(|_| rustix::io::Errno::ILSEQ)
}

/// Writes `value` to a kernel file beneath a directory, in one call.
pub(crate) fn write_at(directory: BorrowedFd<'_>, path: &str, value: &str) -> rustix::io::Result<()> {
    let file = open_for_writing(directory, path)?;
    rustix::io::write(&file, value.as_bytes()).map(drop)
}

pub(crate) fn open_for_writing(directory: BorrowedFd<'_>, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(directory, path, flags, FileMode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
25 21 0:22 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
26 25 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
28 25 0:25 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn a_host_without_groups_limits_nothing_and_stops_nobody() {
        for mode in [Mode::V1, Mode::Hybrid, Mode::V2] {
            let host = Host { hierarchies: Arc::new(Hierarchies::none_of(mode)) };
            assert!(!host.has_groups() && host.mode() == mode && !host.prepare());
            assert!(!host.has(Controller::Memory) && !host.has(Controller::Devices), "{mode:?}");
            let device = yare_oci::runtime::DeviceRule { access: "rwm".to_owned(), ..Default::default() };
            let resources = yare_oci::runtime::Resources { devices: vec![device], ..Default::default() };
            let (group, warnings) = crate::Group::create(&host, "/yare/a", Some(&resources)).unwrap();
            assert_eq!(warnings, [""; 0]);
            assert!(group.v2_fd().is_none() && !group.needs_join() && group.mount_points().is_empty());
            crate::Group::open(&host, "/yare/a").unwrap().thaw().unwrap();
            assert!(matches!(group.freeze(), Err(CgroupError::NoGroups)));
            group.kill().unwrap();
            group.remove().unwrap();
        }
    }

    #[test]
    fn finds_v1_and_v2_and_leaves_named_hierarchies_out() {
        let found = parse_mountinfo(TABLE);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].controllers, [Controller::Cpu, Controller::Cpuacct]);
        assert_eq!(found[0].mount_point, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert!(found[1].v2);
        assert_eq!(found[1].options, "rw,nsdelegate");
    }
}
