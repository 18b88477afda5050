//! Rows 16 and 17: what others on the host, and containers in its network, can reach of an engine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use yare_testkit::{Invocation, eventually, require_root};

use crate::stage::Stage;

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The engine, its launcher, and their children.
fn family(engine: u32) -> Vec<u32> {
    let mut found = vec![engine];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        next += 1;
        for task in entries(Path::new(&format!("/proc/{parent}/task"))) {
            let children = fs::read_to_string(task.join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}

#[test]
fn row_16_no_socket_of_ours_is_abstract() {
    if !require_root("row_16_no_socket_of_ours_is_abstract") {
        return;
    }
    let stage = Stage::new();
    let id = stage.start(&["--network", "host"], &["busybox", "sleep", "1000"]);
    // While as much as possible is open: an exec with streams, and a terminal.
    let mut exec = stage.engine.yare(&["exec", "-i", &id, "cat"]).into_command();
    let mut exec =
        exec.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let execs = || stage.engine.yare(&["inspect", "-f", "{{len .ExecIDs}}", &id]).ok();
    eventually("the exec runs", Duration::from_secs(60), || execs() == "1\n");
    let sockets: Vec<String> = family(stage.engine.pid())
        .into_iter()
        .flat_map(|pid| entries(Path::new(&format!("/proc/{pid}/fd"))))
        .filter_map(|link| {
            Some(
                fs::read_link(link)
                    .ok()?
                    .to_str()?
                    .strip_prefix("socket:[")?
                    .trim_end_matches(']')
                    .to_owned(),
            )
        })
        .collect();
    assert!(sockets.len() > 5, "{sockets:?}");
    let seen = stage.exec(&[], &id, &["cat", "/proc/net/unix"]).stdout;
    for line in
        seen.lines().filter(|line| line.split_whitespace().nth(7).is_some_and(|name| name.starts_with('@')))
    {
        let inode = line.split_whitespace().nth(6).unwrap_or_default();
        assert!(!sockets.iter().any(|socket| socket == inode), "{line}");
    }
    // What has a name is a file that only root, or the group of the socket, may use.
    let named = seen.lines().filter_map(|line| line.split_whitespace().nth(7));
    let ours: Vec<&str> = named.filter(|name| Path::new(name).starts_with(stage.engine.path())).collect();
    assert!(ours.contains(&stage.engine.socket().to_str().unwrap()), "{ours:?}");
    for name in ours {
        let metadata = fs::metadata(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((metadata.mode() & 0o007, metadata.uid()), (0, 0), "{name}");
        let folder = fs::metadata(Path::new(name).parent().unwrap()).unwrap();
        assert!(
            metadata.mode() & 0o077 == 0 || metadata.mode() & 0o777 == 0o660 || folder.mode() & 0o077 == 0,
            "{name}"
        );
    }
    for run_dir in entries(&stage.engine.exec_root().join("containers")) {
        assert_eq!(fs::metadata(&run_dir).unwrap().mode() & 0o777, 0o700, "{}", run_dir.display());
    }
    drop(exec.stdin.take());
    exec.wait().unwrap();
    stage.finish();
}

#[test]
fn row_16_somebody_else_cannot_use_the_sockets() {
    if !require_root("row_16_somebody_else_cannot_use_the_sockets") {
        return;
    }
    let stage = Stage::new();
    let id = stage.start(&[], &["busybox", "sleep", "1000"]);
    // Even where everybody may go there.
    fs::set_permissions(stage.engine.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let shim = stage.engine.exec_root().join("containers").join(&id).join("shim.sock");
    for socket in [stage.engine.socket(), shim] {
        let script = format!(
            "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un('{}')) ? print 'in' : print $!",
            socket.display()
        );
        let outcome = Invocation::new(
            "setpriv",
            &["--reuid=65534", "--regid=65534", "--clear-groups", "perl", "-e", &script],
        )
        .run();
        assert!(outcome.stdout.contains("Permission denied"), "{}: {outcome:?}", socket.display());
    }
    stage.finish();
}

#[test]
fn row_17_folders_are_closed_to_other_users() {
    if !require_root("row_17_folders_are_closed_to_other_users") {
        return;
    }
    let stage = Stage::new();
    let id = stage.start(&["-v", "named:/named"], &["busybox", "sh", "-c", "echo secret; sleep 1000"]);
    let logs = || stage.engine.yare(&["logs", &id]).ok();
    eventually("it has a log", Duration::from_secs(60), || logs() == "secret\n");
    fs::set_permissions(stage.engine.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for root in [stage.engine.data_root(), stage.engine.exec_root()] {
        let mode = fs::metadata(&root).unwrap().mode() & 0o777;
        assert!([0o700, 0o710].contains(&mode), "{} has mode {mode:o}", root.display());
    }
    // Below them too, nothing relies on the root alone.
    let (data, exec) = (stage.engine.data_root(), stage.engine.exec_root());
    for folder in [
        data.join("containers"),
        data.join("volumes"),
        exec.join("containers"),
        data.join("containers").join(&id),
    ] {
        let mode = fs::metadata(&folder).unwrap().mode();
        assert_eq!(mode & 0o007, 0, "{} has mode {mode:o}", folder.display());
    }
    for file in [data.join("yare.redb"), data.join("containers").join(&id).join(format!("{id}-json.log"))] {
        let mode = fs::metadata(&file).unwrap().mode();
        assert_eq!(mode & 0o007, 0, "{} has mode {mode:o}", file.display());
    }
    for folder in [data, exec] {
        let looked = Invocation::new(
            "setpriv",
            &["--reuid=65534", "--regid=65534", "--clear-groups", "find", folder.to_str().unwrap()],
        )
        .run();
        assert!(looked.stdout.lines().count() <= 1, "{looked:?}");
        assert!(looked.stderr.contains("Permission denied"), "{looked:?}");
    }
    stage.engine.yare(&["rm", "-f", &id]).ok();
    stage.engine.yare(&["volume", "rm", "named"]).ok();
    stage.finish();
}

#[test]
fn row_17_modes_are_mended_when_an_engine_starts() {
    if !require_root("row_17_modes_are_mended_when_an_engine_starts") {
        return;
    }
    let mut stage = Stage::new();
    stage.engine.stop();
    for root in [stage.engine.data_root(), stage.engine.exec_root(), stage.engine.data_root().join("volumes")]
    {
        fs::set_permissions(root, fs::Permissions::from_mode(0o777)).unwrap();
    }
    stage.engine.restart();
    stage.engine.docker(&["ps"]).ok();
    for root in [stage.engine.data_root(), stage.engine.exec_root(), stage.engine.data_root().join("volumes")]
    {
        let mode = fs::metadata(&root).unwrap().mode() & 0o777;
        assert_eq!(mode & 0o067, 0o000, "{} has mode {mode:o}", root.display());
    }
    stage.finish();
}
