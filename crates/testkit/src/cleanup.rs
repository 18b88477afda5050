//! What an engine leaves in the kernel: finding it, and taking it away.
//!
//! Only things that carry the names of one engine are touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::command::Invocation;
use crate::wait_for;

/// The names that belong to one engine.
#[derive(Debug, Clone)]
pub(crate) struct Territory {
    /// Everything of it on disk is beneath this.
    pub(crate) folder: PathBuf,
    /// Its bridge.
    pub(crate) bridge: String,
    /// The parent of its cgroups, beneath each hierarchy.
    pub(crate) cgroup: String,
}

impl Territory {
    /// What is still there, in words.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let mounts = self.mounts().into_iter().map(|mount| format!("mount {}", mount.display()));
        let links = self.links().into_iter().map(|link| format!("interface {link}"));
        let groups = self.cgroups().into_iter().flat_map(|group| {
            let inside = folders_beneath(&group);
            inside.into_iter().filter(move |folder| *folder != group)
        });
        let groups = groups.map(|group| format!("cgroup {}", group.display()));
        let processes =
            self.processes().into_iter().map(|(pid, command)| format!("process {pid}: {command}"));
        mounts.chain(links).chain(groups).chain(processes).collect()
    }

    /// Takes everything away, whoever still uses it.
    pub(crate) fn clear(&self) {
        self.kill_containers();
        let done = wait_for(Duration::from_secs(5), || self.processes().is_empty());
        if !done {
            for (pid, _) in self.processes() {
                kill(pid);
            }
            wait_for(Duration::from_secs(2), || self.processes().is_empty());
        }
        for group in self.cgroups() {
            remove_cgroups(&group);
        }
        for mount in self.mounts().iter().rev() {
            // A mount that is gone already is as good.
            let _ = unmount(mount, UnmountFlags::DETACH);
        }
        self.clear_network();
    }

    fn clear_network(&self) {
        for bridge in self.bridges() {
            for link in ports(&bridge) {
                Invocation::new("ip", &["link", "delete", &link]).run();
            }
            Invocation::new("ip", &["link", "delete", &bridge]).run();
            clear_table(&format!("yare_{}", bridge.replace('-', "_")));
        }
        clear_table(&format!("yare_{}", self.bridge));
    }

    /// Its bridge and those of its users' networks, which name it in their aliases.
    fn bridges(&self) -> Vec<String> {
        let sign = format!("engine of {}\n", self.bridge);
        let of_ours = |path: &PathBuf| {
            path.file_name().is_some_and(|name| *name == *self.bridge)
                || fs::read_to_string(path.join("ifalias")).is_ok_and(|alias| alias.ends_with(&sign))
        };
        let all = entries(Path::new("/sys/class/net")).into_iter().filter(of_ours);
        all.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
    }

    fn kill_containers(&self) {
        let processes = || self.cgroups().iter().flat_map(|group| pids_beneath(group)).collect::<Vec<_>>();
        wait_for(Duration::from_secs(5), || {
            let left = processes();
            left.iter().copied().for_each(kill);
            left.is_empty()
        });
    }

    /// Mounts beneath the folder, in the order in which they were made.
    fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points.map(PathBuf::from).filter(|point| point.starts_with(&self.folder)).collect()
    }

    /// Interfaces that hang on the bridges.
    fn links(&self) -> Vec<String> {
        self.bridges().iter().flat_map(|bridge| ports(bridge)).collect()
    }

    /// The parent cgroup in every hierarchy that has it.
    fn cgroups(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let name = self.cgroup.trim_start_matches('/');
        let hierarchies = std::iter::once(root.to_owned()).chain(entries(root));
        hierarchies.map(|hierarchy| hierarchy.join(name)).filter(|group| group.is_dir()).collect()
    }

    /// Processes that have the folder in their command line or as their working directory.
    fn processes(&self) -> Vec<(u32, String)> {
        let wanted = self.folder.display().to_string();
        let found = entries(Path::new("/proc")).into_iter().filter_map(|process| {
            let pid = process.file_name()?.to_str()?.parse().ok()?;
            let command = fs::read(process.join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let folder = fs::read_link(process.join("cwd")).unwrap_or_default();
            let ours = command.contains(&wanted) || folder.starts_with(&self.folder);
            (ours && pid != std::process::id()).then_some((pid, command))
        });
        found.collect()
    }
}

/// Interfaces that hang on a bridge.
fn ports(bridge: &str) -> Vec<String> {
    let ports = Path::new("/sys/class/net").join(bridge).join("brif");
    entries(&ports).iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
}

fn clear_table(table: &str) {
    let listed = Invocation::new("nft", &["list", "tables"]).run().stdout;
    let own = listed.lines().filter_map(|line| line.strip_prefix("table "));
    for (family, name) in own.filter_map(|line| line.split_once(' ')).filter(|(_, name)| *name == table) {
        Invocation::new("nft", &["delete", "table", family, name]).run();
    }
}

/// Ends one process at once.
pub(crate) fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // Gone already is as good.
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// A folder and all beneath it, parents first.
fn folders_beneath(folder: &Path) -> Vec<PathBuf> {
    let inner = entries(folder).into_iter().filter(|path| path.is_dir());
    std::iter::once(folder.to_owned()).chain(inner.flat_map(|path| folders_beneath(&path))).collect()
}

fn pids_beneath(group: &Path) -> Vec<u32> {
    let files = folders_beneath(group).into_iter().map(|folder| folder.join("cgroup.procs"));
    let texts = files.filter_map(|file| fs::read_to_string(file).ok());
    texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect()
}

fn remove_cgroups(group: &Path) {
    for folder in folders_beneath(group).iter().rev() {
        // The last process may need a moment to leave.
        wait_for(Duration::from_secs(2), || fs::remove_dir(folder).is_ok() || !folder.exists());
    }
}
