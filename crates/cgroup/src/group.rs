//! One container's directories in every hierarchy together.

use crate::device;
use crate::error::{CgroupError, Result};
use crate::host::{Controller, Hierarchy, Host, Mode, open_for_writing, read_at, write_at};
use crate::plan::{Write, plan_v1, plan_v2};
use crate::stats::{self, Stats};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode as FileMode, OFlags};
use rustix::io::Errno;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use yare_oci::runtime::Resources;
use yare_sys::privilege::Privilege;

/// A group: the same path beneath every hierarchy it uses. Dropping it changes nothing; see [`remove`].
///
/// [`remove`]: Group::remove
#[derive(Debug)]
pub struct Group {
    host: Host,
    path: String,
    /// Indices into the v1 hierarchies.
    v1: Vec<usize>,
    /// The v2 directory.
    v2: Option<OwnedFd>,
}

/// Where one hierarchy of a group is, for a container that mounts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Controllers of a v1 hierarchy joined by commas; empty for v2.
    pub controllers: String,
    /// Path of the group's directory in the host's mount namespace.
    pub path: PathBuf,
    /// Path of the group beneath the root of the hierarchy, without a leading slash.
    pub group: String,
}

/// How long an emptied group may take to lose its last zombie.
const PATIENCE: Duration = Duration::from_millis(2000);

/// How long a group may take until it stands still: who waits for a disk is stopped when he has what he waits for.
const STILL: Duration = Duration::from_secs(10);

/// How often a group's parents are made again when they vanish while the group is being made.
const PARENT_TRIES: usize = 1000;

impl Group {
    /// Makes the group and sets its limits; what the kernel lacks is returned as warnings.
    ///
    /// `path` is relative to the root of each hierarchy (a leading slash is ignored); missing parents are
    /// made and stay. An empty group left at that path is used again. On failure nothing is left.
    pub fn create(host: &Host, path: &str, resources: Option<&Resources>) -> Result<(Self, Vec<String>)> {
        let default = Resources::default();
        let resources = resources.unwrap_or(&default);
        let mode = host.mode();
        let writes = if mode == Mode::V2 { plan_v2(resources)? } else { plan_v1(resources)? };
        let rules = device::settle(&resources.devices)?;
        let mut group = Self { host: host.clone(), path: clean(path)?, v1: Vec::new(), v2: None };
        let made = group.make(&writes).and_then(|()| {
            let mut warnings = group.write_all(&writes)?;
            group.apply_devices(&rules, &mut warnings)?;
            Ok(warnings)
        });
        match made {
            Ok(warnings) => Ok((group, warnings)),
            Err(error) => {
                let _ = group.remove();
                Err(error)
            }
        }
    }

    /// The group at `path`, which another process made.
    pub fn open(host: &Host, path: &str) -> Result<Self> {
        let path = clean(path)?;
        let exists = |hierarchy: &Hierarchy| {
            rustix::fs::statat(&hierarchy.root, path.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
        };
        let v1: Vec<usize> = host
            .hierarchies
            .v1
            .iter()
            .enumerate()
            .filter(|(_, hierarchy)| exists(hierarchy))
            .map(|(index, _)| index)
            .collect();
        let v2 = host.hierarchies.v2.as_ref().and_then(|v2| open_group(v2, &path).ok());
        if host.has_groups() && v1.is_empty() && v2.is_none() {
            return Err(CgroupError::io("open", &path, io::ErrorKind::NotFound));
        }
        Ok(Self { host: host.clone(), path, v1, v2 })
    }

    /// The path beneath the hierarchies, without a leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn is_v2(&self) -> bool {
        self.host.mode() == Mode::V2
    }

    /// The directory for `CLONE_INTO_CGROUP`. In hybrid mode the v1 hierarchies still need [`Group::add`].
    pub fn v2_fd(&self) -> Option<BorrowedFd<'_>> {
        self.v2.as_ref().map(AsFd::as_fd)
    }

    /// Whether a process must also be [added](Group::add) after it was born in [`Group::v2_fd`].
    pub fn needs_join(&self) -> bool {
        !self.v1.is_empty()
    }

    /// Where the hierarchies of this group are.
    pub fn mount_points(&self) -> Vec<MountPoint> {
        let point = |hierarchy: &Hierarchy| MountPoint {
            controllers: hierarchy.controllers.iter().map(|c| c.name()).collect::<Vec<_>>().join(","),
            path: hierarchy.mount_point.join(&self.path),
            group: self.path.clone(),
        };
        if self.is_v2() {
            return self.host.hierarchies.v2.iter().map(point).collect();
        }
        self.v1_hierarchies().map(point).collect()
    }

    fn v1_hierarchies(&self) -> impl Iterator<Item = &Hierarchy> {
        self.v1.iter().filter_map(|index| self.host.hierarchies.v1.get(*index))
    }

    /// Makes the directories.
    fn make(&mut self, writes: &[Write]) -> Result<()> {
        let host = self.host.clone();
        let mode = host.mode();
        for (index, hierarchy) in host.hierarchies.v1.iter().enumerate() {
            if hierarchy.controllers.iter().any(|controller| wanted_v1(*controller, mode, writes)) {
                make_directory(hierarchy, &self.path)?;
                self.v1.push(index);
            }
        }
        if let Some(v2) = &host.hierarchies.v2 {
            make_directory(v2, &self.path)?;
            if mode == Mode::V2 {
                self.enable_controllers(v2)?;
            }
            let group = open_group(v2, &self.path);
            self.v2 = Some(group.map_err(|error| CgroupError::io("open", &self.path, error))?);
        }
        Ok(())
    }

    /// Turns every available controller on in each parent, so that the leaf has its files.
    fn enable_controllers(&self, v2: &Hierarchy) -> Result<()> {
        let mut parent = String::new();
        for component in self.path.split('/') {
            let file = |name: &str| if parent.is_empty() { name.into() } else { format!("{parent}/{name}") };
            let available = read_at(v2.root.as_fd(), &file("cgroup.controllers")).unwrap_or_default();
            let subtree = file("cgroup.subtree_control");
            let enabled = read_at(v2.root.as_fd(), &subtree).unwrap_or_default();
            for name in available.split_whitespace() {
                let on = enabled.split_whitespace().any(|other| other == name);
                if !on && let Err(error) = write_at(v2.root.as_fd(), &subtree, &format!("+{name}")) {
                    tracing::debug!(controller = name, %parent, %error, "controller cannot be enabled");
                }
            }
            if !parent.is_empty() {
                parent.push('/');
            }
            parent.push_str(component);
        }
        Ok(())
    }

    fn directory_of(&self, controller: Option<Controller>) -> Option<&Hierarchy> {
        if self.is_v2() {
            return self.host.hierarchies.v2.as_ref();
        }
        let controller = controller?;
        self.v1_hierarchies().find(|hierarchy| hierarchy.controllers.contains(&controller))
    }

    fn write_all(&self, writes: &[Write]) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for write in writes {
            if let Some(warning) = self.write(write)? {
                warnings.push(warning);
            }
        }
        Ok(warnings)
    }

    /// A warning when the kernel does not have the file.
    fn write(&self, write: &Write) -> Result<Option<String>> {
        let missing = || Some(format!("the kernel does not support {}; the limit is ignored", write.file));
        let Some(hierarchy) = self.directory_of(write.controller) else { return Ok(missing()) };
        let path = format!("{}/{}", self.path, write.file);
        match write_at(hierarchy.root.as_fd(), &path, &write.value) {
            Ok(()) => Ok(None),
            Err(Errno::NOENT) if write.file == "blkio.weight" => {
                let path = format!("{}/blkio.bfq.weight", self.path);
                match write_at(hierarchy.root.as_fd(), &path, &write.value) {
                    Ok(()) => Ok(None),
                    Err(_) => Ok(missing()),
                }
            }
            Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(missing()),
            Err(error) => Err(CgroupError::Refused {
                path: self.path.clone(),
                file: write.file.clone(),
                value: write.value.clone(),
                source: error.into(),
            }),
        }
    }

    fn apply_devices(&self, rules: &[device::Rule], warnings: &mut Vec<String>) -> Result<()> {
        // Who is not root of the host can neither make devices nor set rules about them.
        if rules.is_empty() || !Privilege::current().makes_devices() || !self.host.has_groups() {
            return Ok(());
        }
        if let Some(devices) = self.directory_of(Some(Controller::Devices)).filter(|_| !self.is_v2()) {
            return self.write_devices(devices, rules);
        }
        match &self.v2 {
            Some(v2) => attach_program(v2, rules)
                .map_err(|error| CgroupError::io("set devices of", &self.path, error)),
            None => {
                warnings.push("the kernel does not support device rules; they are ignored".to_string());
                Ok(())
            }
        }
    }

    fn write_devices(&self, devices: &Hierarchy, rules: &[device::Rule]) -> Result<()> {
        let open = |file: &str| {
            let path = format!("{}/{file}", self.path);
            open_for_writing(devices.root.as_fd(), &path)
                .map_err(|error| CgroupError::io("open", &path, error))
        };
        let (allow, deny) = (open("devices.allow")?, open("devices.deny")?);
        for rule in rules {
            let (file, name) =
                if rule.allows() { (&allow, "devices.allow") } else { (&deny, "devices.deny") };
            let line = rule.line();
            rustix::io::write(file, line.as_bytes()).map_err(|error| CgroupError::Refused {
                path: self.path.clone(),
                file: name.to_string(),
                value: line,
                source: error.into(),
            })?;
        }
        Ok(())
    }

    /// Moves a process into every hierarchy of the group.
    pub fn add(&self, pid: i32) -> Result<()> {
        let pid = pid.to_string();
        let path = format!("{}/cgroup.procs", self.path);
        for hierarchy in self.v1_hierarchies() {
            write_at(hierarchy.root.as_fd(), &path, &pid).map_err(|error| {
                CgroupError::io("join", &hierarchy.mount_point.join(&path).to_string_lossy(), error)
            })?;
        }
        if let Some(v2) = &self.v2 {
            write_at(v2.as_fd(), "cgroup.procs", &pid)
                .map_err(|error| CgroupError::io("join", &path, error))?;
        }
        Ok(())
    }

    /// As [`Group::add`] for a process that was born in [`Group::v2_fd`]: only the v1 hierarchies.
    pub fn add_v1(&self, pid: i32) -> Result<()> {
        let pid = pid.to_string();
        let path = format!("{}/cgroup.procs", self.path);
        for hierarchy in self.v1_hierarchies() {
            write_at(hierarchy.root.as_fd(), &path, &pid).map_err(|error| {
                CgroupError::io("join", &hierarchy.mount_point.join(&path).to_string_lossy(), error)
            })?;
        }
        Ok(())
    }

    /// Changes limits; those not named stay. What the kernel lacks is returned as warnings.
    pub fn update(&self, resources: &Resources) -> Result<Vec<String>> {
        let mut writes = if self.is_v2() { plan_v2(resources)? } else { plan_v1(resources)? };
        // On v1 memory may not exceed memory plus swap at any moment: raising needs the other order.
        let limit = writes.iter().position(|write| write.file == "memory.limit_in_bytes");
        let swap = writes.iter().position(|write| write.file == "memory.memsw.limit_in_bytes");
        if let (Some(limit), Some(swap)) = (limit, swap) {
            let now = self.read(Controller::Memory, "memory.limit_in_bytes").unwrap_or_default();
            let now: i64 = now.trim().parse().unwrap_or(0);
            let wanted: i64 = writes[limit].value.parse().unwrap_or(0);
            if wanted < 0 || wanted > now {
                writes.swap(limit, swap);
            }
        }
        self.write_all(&writes)
    }

    /// Kills every process in the group and its subgroups. Does not wait for them to be gone.
    pub fn kill(&self) -> Result<()> {
        if let Some(v2) = &self.v2
            && write_at(v2.as_fd(), "cgroup.kill", "1").is_ok()
        {
            return Ok(());
        }
        for _ in 0..20 {
            let pids = self.pids()?;
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                let _ = yare_sys::process::kill(pid, 9);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Stops every process in the group and returns when all stand still. When they do not, none is stopped.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true).inspect_err(|_| {
            // Nobody would let go on what is told to run; a group that is gone needs it no more.
            let _ = self.ask_frozen(false);
        })
    }

    /// Lets the processes of the group run again.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        if !self.host.has_groups() {
            return if frozen { Err(CgroupError::NoGroups) } else { Ok(()) };
        }
        let deadline = Instant::now() + STILL;
        while !self.ask_frozen(frozen)? {
            if Instant::now() > deadline {
                return Err(CgroupError::io(freezing(frozen), &self.path, io::ErrorKind::TimedOut));
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        Ok(())
    }

    /// Asks the kernel once; whether it is so.
    fn ask_frozen(&self, frozen: bool) -> Result<bool> {
        let failed = |error: Errno| CgroupError::io(freezing(frozen), &self.path, error);
        if let Some(v2) = &self.v2 {
            write_at(v2.as_fd(), "cgroup.freeze", if frozen { "1" } else { "0" }).map_err(failed)?;
            let events = read_at(v2.as_fd(), "cgroup.events").map_err(failed)?;
            return Ok(stats::parse_keyed(&events).get("frozen") == Some(&u64::from(frozen)));
        }
        let state = if frozen { "FROZEN" } else { "THAWED" };
        let freezer = self
            .directory_of(Some(Controller::Freezer))
            .ok_or_else(|| CgroupError::io(freezing(frozen), &self.path, io::ErrorKind::Unsupported))?;
        let file = format!("{}/freezer.state", self.path);
        write_at(freezer.root.as_fd(), &file, state).map_err(failed)?;
        Ok(read_at(freezer.root.as_fd(), &file).map_err(failed)?.trim() == state)
    }

    /// Whether the group is frozen.
    pub fn is_frozen(&self) -> bool {
        match &self.v2 {
            Some(v2) => read_at(v2.as_fd(), "cgroup.freeze").is_ok_and(|text| text.trim() == "1"),
            None => self.read(Controller::Freezer, "freezer.state").is_ok_and(|text| text.trim() != "THAWED"),
        }
    }

    /// How many processes of the group the kernel has killed for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        let text = self.read(Controller::Memory, file).unwrap_or_default();
        stats::parse_keyed(&text).get("oom_kill").copied().unwrap_or(0)
    }

    /// What the group uses.
    pub fn stats(&self) -> Stats {
        stats::read(self)
    }

    /// The text of a file of a controller.
    pub fn read(&self, controller: Controller, file: &str) -> Result<String> {
        let path = format!("{}/{file}", self.path);
        let hierarchy = self
            .directory_of(Some(controller))
            .ok_or_else(|| CgroupError::io("read", &path, io::ErrorKind::NotFound))?;
        read_at(hierarchy.root.as_fd(), &path).map_err(|error| CgroupError::io("read", &path, error))
    }

    /// Processes of the group and its subgroups, sorted, in the caller's process id namespace.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        let hierarchy = match self.v1_hierarchies().next() {
            Some(first) => Some(first),
            None => self.host.hierarchies.v2.as_ref(),
        };
        if let Some(hierarchy) = hierarchy {
            collect_pids(hierarchy.root.as_fd(), &self.path, &mut pids)
                .map_err(|error| CgroupError::io("list processes of", &self.path, error))?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Removes the group and its subgroups. All processes must have ended; a group already gone is no error.
    pub fn remove(&self) -> Result<()> {
        let mut result = Ok(());
        let deadline = Instant::now() + PATIENCE;
        for hierarchy in
            self.v1_hierarchies().chain(self.v2.iter().filter_map(|_| self.host.hierarchies.v2.as_ref()))
        {
            if let Err(error) = remove_tree(hierarchy.root.as_fd(), &self.path, deadline) {
                result = Err(CgroupError::io(
                    "remove",
                    &hierarchy.mount_point.join(&self.path).to_string_lossy(),
                    error,
                ));
            }
        }
        result
    }
}

/// Which v1 controllers a group joins: those that account, and those with a limit.
fn wanted_v1(controller: Controller, mode: Mode, writes: &[Write]) -> bool {
    match controller {
        Controller::Memory
        | Controller::Pids
        | Controller::Devices
        | Controller::Cpu
        | Controller::Cpuacct => true,
        Controller::Freezer => mode == Mode::V1,
        Controller::Cpuset | Controller::Blkio | Controller::Hugetlb => {
            writes.iter().any(|write| write.controller == Some(controller))
        }
    }
}

/// What is done, for errors.
fn freezing(frozen: bool) -> &'static str {
    if frozen { "freeze" } else { "thaw" }
}

/// The path without leading and doubled slashes; no component may be `.` or `..`.
fn clean(path: &str) -> Result<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let bad = |part: &&str| matches!(*part, "." | "..") || part.contains(['\0', '\n']) || part.len() > 255;
    if parts.is_empty() || parts.iter().any(bad) {
        return Err(CgroupError::InvalidPath(path.to_string()));
    }
    Ok(parts.join("/"))
}

fn make_directory(hierarchy: &Hierarchy, path: &str) -> Result<()> {
    let failed = |path: &str, error: Errno| {
        CgroupError::io("create", &hierarchy.mount_point.join(path).to_string_lossy(), error)
    };
    let mode = FileMode::from_raw_mode(0o755);
    let cpuset = hierarchy.controllers.contains(&Controller::Cpuset);
    match rustix::fs::mkdirat(&hierarchy.root, path, mode) {
        Ok(()) if !cpuset => return Ok(()),
        Ok(()) | Err(Errno::NOENT) => {}
        Err(Errno::EXIST) => {
            // Left over: made anew, so that no limit or frozen state of before is kept.
            let used = read_at(hierarchy.root.as_fd(), &format!("{path}/cgroup.procs"));
            let empty = used.map_err(|error| failed(path, error))?.is_empty();
            if !empty || remove_tree(hierarchy.root.as_fd(), path, Instant::now()).is_err() {
                let path = hierarchy.mount_point.join(path);
                return Err(CgroupError::InUse(path.to_string_lossy().into()));
            }
            match rustix::fs::mkdirat(&hierarchy.root, path, mode) {
                Ok(()) if !cpuset => return Ok(()),
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(failed(path, error)),
            }
        }
        Err(error) => return Err(failed(path, error)),
    }
    // Whoever cleans up a neighbour may remove a parent that is empty for a moment.
    let mut tries = 0;
    loop {
        match make_with_parents(hierarchy, path) {
            Err((_, Errno::NOENT)) if tries < PARENT_TRIES => {
                tries += 1;
                // On few processors it is the others' turn to finish.
                std::thread::yield_now();
            }
            outcome => return outcome.map_err(|(part, error)| failed(part, error)),
        }
    }
}

/// Makes the directory and what is missing of its parents; an error comes with the part that failed.
fn make_with_parents<'a>(hierarchy: &Hierarchy, path: &'a str) -> std::result::Result<(), (&'a str, Errno)> {
    let mode = FileMode::from_raw_mode(0o755);
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for part in ends.map(|end| &path[..end]) {
        match rustix::fs::mkdirat(&hierarchy.root, part, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err((part, error)),
        }
        if hierarchy.controllers.contains(&Controller::Cpuset) {
            inherit_cpuset(hierarchy, part).map_err(|error| (part, error))?;
        }
    }
    Ok(())
}

/// A new v1 cpuset is empty and takes no process until its parent's processors are copied.
fn inherit_cpuset(hierarchy: &Hierarchy, path: &str) -> rustix::io::Result<()> {
    let root = hierarchy.root.as_fd();
    let parent = path.rsplit_once('/').map_or(String::new(), |(parent, _)| format!("{parent}/"));
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = format!("{path}/{file}");
        if read_at(root, &own)?.trim().is_empty() {
            let inherited = read_at(root, &format!("{parent}{file}"))?;
            write_at(root, &own, inherited.trim())?;
        }
    }
    Ok(())
}

fn open_group(hierarchy: &Hierarchy, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(&hierarchy.root, path, flags, FileMode::empty())
}

fn attach_program(v2: &OwnedFd, rules: &[device::Rule]) -> io::Result<()> {
    let directory = rustix::fs::openat(
        v2,
        c".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        FileMode::empty(),
    )?;
    let program = yare_sys::bpf::load_device_program(&device::program(rules))?;
    yare_sys::bpf::attach_device_program(&directory, &program)
}

/// Names of the subgroups of a group.
fn subgroups(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let directory = rustix::fs::openat(root, path, flags, FileMode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type() == FileType::Directory && name != "." && name != ".." {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

fn collect_pids(root: BorrowedFd<'_>, path: &str, pids: &mut Vec<i32>) -> rustix::io::Result<()> {
    let text = match read_at(root, &format!("{path}/cgroup.procs")) {
        Ok(text) => text,
        Err(Errno::NOENT | Errno::NODEV) => return Ok(()),
        Err(error) => return Err(error),
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for name in subgroups(root, path).unwrap_or_default() {
        collect_pids(root, &format!("{path}/{name}"), pids)?;
    }
    Ok(())
}

/// `rmdir`, subgroups first when there are any; waits a little for processes that are still exiting.
fn remove_tree(root: BorrowedFd<'_>, path: &str, deadline: Instant) -> rustix::io::Result<()> {
    loop {
        match rustix::fs::unlinkat(root, path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY | Errno::NOTEMPTY) => {}
            Err(error) => return Err(error),
        }
        let children = subgroups(root, path).unwrap_or_default();
        for name in &children {
            remove_tree(root, &format!("{path}/{name}"), deadline)?;
        }
        if children.is_empty() {
            if Instant::now() > deadline {
                return Err(Errno::BUSY);
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_program_denies() {
        let name = "a_device_program_denies";
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none(), "{name} needs root");
            println!("SKIP {name}: needs root");
            return;
        }
        let host = Host::detect().unwrap();
        let path = format!("yare-device-test-{}", std::process::id());
        let (group, _) = Group::create(&host, &path, None).unwrap();
        let Some(v2) = &group.v2 else {
            println!("SKIP {name}: needs cgroup v2");
            return group.remove().unwrap();
        };
        let deny = yare_oci::runtime::DeviceRule { allow: false, access: "rwm".into(), ..Default::default() };
        attach_program(v2, &device::settle(&[deny]).unwrap()).unwrap();
        let procs = format!("/sys/fs/cgroup/unified/{path}/cgroup.procs");
        let procs = if std::path::Path::new(&procs).exists() {
            procs
        } else {
            format!("/sys/fs/cgroup/{path}/cgroup.procs")
        };
        let script = format!("echo $$ > {procs}; (exec 3< /dev/zero) && ! (exec 3< /dev/kmsg)");
        let status = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
        group.remove().unwrap();
        assert!(status.success());
    }

    #[test]
    fn paths_stay_beneath_the_root() {
        assert_eq!(clean("/yare//x").unwrap(), "yare/x");
        for bad in ["", "/", "a/../b", "./a", "a\nb"] {
            assert!(clean(bad).is_err(), "{bad:?}");
        }
    }
}
