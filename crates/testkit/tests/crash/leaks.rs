//! What an engine may leave behind, looked for in the kernel and on disk.
//!
//! Network namespaces have no list of their own: one lives as long as a process, an open descriptor or a
//! mount holds it. So when no process, no descriptor and no mount of an engine is left, neither is a
//! namespace; and a cable that still hangs on the bridge tells of one that is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use yare_testkit::{Engine, Invocation, eventually};

/// How long tear-down in the background may take without any progress.
const PATIENCE: Duration = Duration::from_secs(60);

/// Removes everything from an engine and asserts that nothing is left, neither while it runs nor when it
/// has ended.
pub(crate) fn assert_clean(mut engine: Engine) {
    // An engine that has just begun may still be making its own images, and would do so while it ends.
    let made = format!("the images of this binary are looked after pid={}\n", engine.pid());
    eventually("its own images are made", 2 * PATIENCE, || engine.log().contains(&made));
    wait_until_none("with an empty engine", &engine, || {
        empty(&engine);
        leaks_of_containers(&engine)
    });
    engine.stop();
    wait_until_none("after the engine's end", &engine, || {
        let mut left = leaks_of_containers(&engine);
        left.extend(
            holders(engine.path()).into_iter().map(|(pid, what)| format!("process {pid} holds {what}")),
        );
        left.extend(ports(&engine.bridge()).into_iter().map(|port| format!("interface {port}")));
        left
    });
    engine.finish();
}

/// Removes all containers, with the volumes made for them, and all images and the build cache. Nothing else may be there.
fn empty(engine: &Engine) {
    let list = |args: &[&str]| -> Vec<String> {
        engine.yare(args).ok().split_whitespace().map(str::to_owned).collect()
    };
    let remove = |words: &[&str], names: Vec<String>| {
        for some in names.chunks(50) {
            let names: Vec<&str> = some.iter().map(String::as_str).collect();
            engine.yare(&[words, &names].concat()).ok();
        }
    };
    remove(&["rm", "--force", "--volumes"], list(&["ps", "--all", "--quiet", "--no-trunc"]));
    let mut images = list(&["images", "--all", "--quiet", "--no-trunc"]);
    images.sort();
    images.dedup();
    remove(&["rmi", "--force"], images);
    engine.yare(&["builder", "prune", "--all", "--force"]).ok();
    for kind in [["ps", "--all", "--quiet"].as_slice(), &["volume", "ls", "--quiet"]] {
        assert_eq!(engine.yare(kind).ok(), "", "{kind:?}");
    }
}

fn wait_until_none(when: &str, engine: &Engine, leaks: impl Fn() -> Vec<String>) {
    let (mut least, mut since) = (usize::MAX, Instant::now());
    loop {
        let left = leaks();
        if left.is_empty() {
            return;
        }
        // Unlinking is done when nothing else wants the machine: it may take long, but it goes on.
        if left.len() < least {
            (least, since) = (left.len(), Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "leaked, {when}: {left:#?}\nits log:\n{}", engine.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What containers that are gone have left.
pub(crate) fn leaks_of_containers(engine: &Engine) -> Vec<String> {
    let mut left = Vec::new();
    left.extend(mounts(engine.path()).into_iter().map(|mount| format!("mount {mount}")));
    for group in cgroups(&engine.cgroup_parent()) {
        left.extend(fs::read_to_string(group.join("cgroup.procs")).into_iter().filter_map(|pids| {
            (!pids.is_empty()).then(|| format!("processes {pids:?} in {}", group.display()))
        }));
        left.extend(
            entries(&group)
                .into_iter()
                .filter(|path| path.is_dir())
                .map(|path| format!("cgroup {}", path.display())),
        );
    }
    left.extend(elements(&engine.bridge()).into_iter().map(|element| format!("packet filter: {element}")));
    let (data, exec) = (engine.data_root(), engine.exec_root());
    let folders = [
        exec.join("containers"),
        exec.join("trash"),
        data.join("containers"),
        data.join("volumes"),
        data.join("trash"),
        data.join("content/ingest"),
        data.join("snapshots/active"),
        data.join("snapshots/views"),
        data.join("snapshots/trash"),
        data.join("snapshots/tmp"),
        data.join("snapshots/layers"),
        data.join("snapshots/drafts"),
        data.join("build/contexts"),
        data.join("build/mounts"),
        data.join("content/blobs/sha256"),
    ];
    left.extend(folders.iter().flat_map(|folder| entries(folder)).map(|path| path.display().to_string()));
    left
}

/// Mounts beneath a folder, as this process sees them.
fn mounts(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(folder)).map(str::to_owned).collect()
}

/// The parent cgroup beneath each hierarchy.
fn cgroups(parent: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::iter::once(root.to_owned()).chain(entries(root));
    let groups = hierarchies.map(|hierarchy| hierarchy.join(parent.trim_start_matches('/')));
    groups.filter(|group| group.is_dir()).collect()
}

/// Elements of the maps of an engine's table.
pub(crate) fn elements(bridge: &str) -> Vec<String> {
    let table = format!("yare_{bridge}");
    let listed = Invocation::new("nft", &["-j", "list", "table", "ip", &table]).run().stdout;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap_or_default();
    let things = listed["nftables"].as_array().cloned().unwrap_or_default();
    let sets = things.iter().flat_map(|thing| [&thing["map"], &thing["set"]]);
    sets.filter_map(|set| set["elem"].as_array()).flatten().map(ToString::to_string).collect()
}

/// Interfaces that hang on a bridge.
pub(crate) fn ports(bridge: &str) -> Vec<String> {
    let ports = entries(&Path::new("/sys/class/net").join(bridge).join("brif"));
    ports.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
}

/// Processes, other than this one, that have something beneath a folder open, or run there, or name it.
pub(crate) fn holders(folder: &Path) -> Vec<(u32, String)> {
    let own = std::process::id();
    let pids = entries(Path::new("/proc")).into_iter().filter_map(|process| {
        let pid: u32 = process.file_name()?.to_str()?.parse().ok()?;
        (pid != own).then_some((pid, process))
    });
    let held = pids.filter_map(|(pid, process)| {
        let links = ["cwd", "root", "exe"]
            .map(|link| process.join(link))
            .into_iter()
            .chain(entries(&process.join("fd")));
        let mut targets = links.filter_map(|link| fs::read_link(link).ok());
        let open = targets.find(|target| target.starts_with(folder));
        let command = fs::read(process.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let named = command.contains(&*folder.to_string_lossy());
        let what =
            open.map(|path| path.display().to_string()).or_else(|| named.then(|| "its name".to_owned()))?;
        Some((pid, format!("{what} ({command})")))
    });
    held.collect()
}

/// The shim of a container.
pub(crate) fn shim_of(id: &str) -> Option<u32> {
    let title = format!("yare-shim {id}");
    entries(Path::new("/proc")).into_iter().find_map(|process| {
        let pid = process.file_name()?.to_str()?.parse().ok()?;
        let command = fs::read(process.join("cmdline")).ok()?;
        String::from_utf8_lossy(&command).starts_with(&title).then_some(pid)
    })
}

pub(crate) fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}
