//! Containers for real: needs root and a static busybox.
//!
//! A main of its own, because whoever starts a container must have one thread only.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test without the usual harness")]

mod harness;

use harness::*;
use std::path::Path;
use yare_errdefs::{Class, Classified};
use yare_oci::runtime::{IdMap, IdMapping, Memory, Mount, Pids, Process, Resources, Rlimit, Spec};
use yare_runtime::{Origin, StartError, Step};
use yare_sys::process::{pidfd_send_signal, wait};

type Test = (&'static str, fn());

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        const TESTS: &[Test] = &[$((stringify!($name), $name)),*];
    };
}

tests! {
    exit_codes_and_output,
    program_errors_are_explained,
    interpreters_that_are_missing_are_named,
    init_reaps_and_forwards,
    init_does_not_hide_exec_errors,
    a_terminal_is_controlling_and_sized,
    exec_joins_everything,
    exec_has_a_terminal_of_the_container,
    exec_errors_are_explained,
    users_are_looked_up_in_the_root,
    a_passwd_that_is_no_file_is_refused_quickly,
    no_capability_is_inheritable,
    only_the_standard_streams_are_open,
    signals_are_default,
    working_directories_stay_inside,
    masked_paths_read_as_nothing,
    no_mount_of_the_host_is_left,
    linked_proc_and_dev_are_refused,
    nothing_is_mounted_over_proc,
    volumes_through_links_stay_inside,
    limits_are_set,
    too_much_memory_is_counted,
    seccomp_denies_namespaces,
    cgroup_is_read_only,
    roots_can_be_read_only,
    binds_can_be_read_only,
    the_owner_of_a_bind_is_the_user,
    nobody_is_root_on_the_host,
    ids_are_mapped_by_number,
    what_cannot_be_id_mapped_is_named,
    names_and_parameters_are_set,
    limits_that_cannot_be_raised_are_warnings,
    a_device_that_is_not_allowed_is_not_opened,
    abandoned_containers_are_gone,
    our_own_file_is_out_of_reach,
    the_command_line_runs_a_bundle,
    the_command_line_keeps_the_life_cycle,
    the_command_line_reports_programs_that_do_not_run,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--reexec") {
        return check_own_file();
    }
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none(), "these tests need root");
        println!("SKIP containers: needs root");
        return;
    }
    if !Path::new(BUSYBOX).exists() {
        assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none(), "these tests need a static /bin/busybox");
        println!("SKIP containers: needs a static /bin/busybox");
        return;
    }
    if let Some(rounds) = std::env::var("YARE_BENCH").ok().and_then(|rounds| rounds.parse().ok()) {
        return bench(rounds);
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let mut failed = 0;
    for (name, test) in TESTS {
        if filter.is_some_and(|filter| !name.contains(filter.as_str())) {
            continue;
        }
        let good = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        failed += usize::from(!good);
    }
    assert!(failed == 0, "{failed} tests failed");
}

fn error(root: &RootFs, spec: &Spec) -> StartError {
    run_with(root, spec, &Options::default()).unwrap_err()
}

fn exit_codes_and_output() {
    assert_eq!(shell("echo hello; exit 3"), (3, "hello\n".to_string()));
    assert_eq!(shell("kill -9 $$").0, 0, "pid 1 cannot kill itself");
    let with_init = Options { init: true, ..Options::default() };
    let root = RootFs::new();
    assert_eq!(run_with(&root, &spec(&["sh", "-c", "kill -9 $$"]), &with_init).unwrap().0, 137);
    assert_eq!(run_with(&root, &spec(&["sh", "-c", "exit 42"]), &with_init).unwrap().0, 42);
}

fn program_errors_are_explained() {
    let root = RootFs::new();
    root.write("data", "x", 0o644);
    root.write("plain", "echo hi\n", 0o755);
    let cases = [
        ("nosuch", 127, Class::NotFound, "exec: \"nosuch\": executable file not found in $PATH"),
        ("/nosuch", 127, Class::NotFound, "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        ("/data", 126, Class::PermissionDenied, "exec: \"/data\": permission denied"),
        ("/etc", 126, Class::PermissionDenied, "exec: \"/etc\": is a directory"),
    ];
    for (program, code, class, text) in cases {
        let error = error(&root, &spec(&[program]));
        assert_eq!(error.to_string(), text);
        assert_eq!((error.exit_code(), error.class(), error.step()), (Some(code), class, Step::Exec));
    }
    let error = error(&root, &spec(&["/plain"]));
    assert!(error.to_string().starts_with("exec /plain: exec format error: a script without"), "{error}");
    assert!(error.hint().unwrap().contains("#!/bin/sh"));
}

fn interpreters_that_are_missing_are_named() {
    let root = RootFs::new();
    root.write("lost", "#!/usr/bin/python3\n", 0o755);
    root.write("windows", "#!/bin/sh\r\necho hi\r\n", 0o755);
    let mut foreign = std::fs::read(BUSYBOX).unwrap()[..4096].to_vec();
    foreign[18] = 243;
    root.write("foreign", &foreign, 0o755);
    let dynamic = ["/usr/bin/env", "/usr/bin/true"].iter().find(|path| Path::new(path).exists());
    let text = |program: &str| error(&root, &spec(&[program])).to_string();
    assert!(text("/lost").contains("its interpreter /usr/bin/python3 is not in the image"));
    assert!(text("/windows").contains("carriage return"));
    assert!(text("/foreign").contains("is for riscv64"), "{}", text("/foreign"));
    if let Some(dynamic) = dynamic {
        root.write("dynamic", std::fs::read(dynamic).unwrap(), 0o755);
        assert!(text("/dynamic").contains("its ELF loader /lib"), "{}", text("/dynamic"));
    }
}

fn init_reaps_and_forwards() {
    let root = RootFs::new();
    let options = Options { init: true, ..Options::default() };
    let script = "(sleep 0.05 &); sleep 0.3; cat /proc/[0-9]*/stat | grep -c ' Z '; cat /proc/1/cmdline";
    let (_, output) = run_with(&root, &spec(&["sh", "-c", script]), &options).unwrap();
    assert!(output.starts_with("0\n/sbin/yare-init\0"), "{output:?}");
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done";
    let container = start(&root, &spec(&["sh", "-c", script]), &options).unwrap();
    container.await_output("ready");
    pidfd_send_signal(&container.running.pidfd, 15).unwrap();
    assert_eq!(container.finish().0, 7);
    let status = "grep -E 'Cap(Inh|Prm|Eff|Amb)|Seccomp:' /proc/1/status";
    let (_, output) = run_with(&root, &spec(&["sh", "-c", status]), &options).unwrap();
    assert_eq!(output.matches("00000000a80425fb").count(), 2, "{output}");
    assert!(output.contains("Seccomp:\t2"), "{output}");
}

fn init_does_not_hide_exec_errors() {
    let options = Options { init: true, ..Options::default() };
    let error = run_with(&RootFs::new(), &spec(&["nosuch"]), &options).unwrap_err();
    assert_eq!(error.to_string(), "exec: \"nosuch\": executable file not found in $PATH");
}

fn a_terminal_is_controlling_and_sized() {
    let root = RootFs::new();
    for init in [false, true] {
        let options = Options { init, terminal: true, ..Options::default() };
        let script = "stty size; tty; echo x > /dev/tty; stat -c %T /dev/console; test -t 0 && echo yes";
        let (code, output) = run_with(&root, &spec(&["sh", "-c", script]), &options).unwrap();
        assert_eq!(code, 0, "{output}");
        assert!(output.starts_with("30 100\n/dev/pts/0\nx\n"), "{output:?}");
        assert!(output.ends_with("yes\n"), "{output:?}");
    }
}

fn process(args: &[&str]) -> Process {
    spec(args).process.unwrap()
}

fn exec_joins_everything() {
    let root = RootFs::new();
    let container = start(&root, &spec(&["sleep", "60"]), &Options::default()).unwrap();
    let script = "cat /proc/1/comm; hostname; for n in mnt pid net uts ipc; do \
                  test $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) || echo differs $n; done; \
                  grep -E 'CapInh|CapAmb' /proc/self/status; ls /proc/self/fd | wc -l; \
                  grep -c runtime-test /proc/self/cgroup; unshare -U true || echo denied";
    let (code, output) = container.exec(&process(&["sh", "-c", script]), None).unwrap();
    assert_eq!(code, 0, "{output}");
    assert!(output.starts_with("sleep\ntesthost\n"), "{output}");
    assert!(!output.contains("differs"), "{output}");
    assert!(output.contains("CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n4\n"), "{output}");
    assert!(output.ends_with("denied\n"), "{output}");
    let (_, output) = container.exec(&process(&["id"]), Some("app")).unwrap();
    assert_eq!(output, "uid=1000(app) gid=1000(app) groups=10(wheel),1000(app)\n");
    assert_eq!(container.exec(&process(&["sh", "-c", "exit 9"]), None).unwrap().0, 9);
    let elsewhere = Process { cwd: "/tmp".into(), ..process(&["pwd"]) };
    assert_eq!(container.exec(&elsewhere, None).unwrap().1, "/tmp\n");
    pidfd_send_signal(&container.running.pidfd, 9).unwrap();
    assert_eq!(container.finish().0, 137);
}

fn exec_has_a_terminal_of_the_container() {
    let root = RootFs::new();
    let container = start(&root, &spec(&["sleep", "60"]), &Options::default()).unwrap();
    let terminal = Process { terminal: true, ..process(&["sh", "-c", "stty size; tty; echo x > /dev/tty"]) };
    let (code, output) = container.exec(&terminal, None).unwrap();
    assert_eq!((code, output.as_str()), (0, "10 20\n/dev/pts/0\nx\n"));
    pidfd_send_signal(&container.running.pidfd, 9).unwrap();
    container.finish();
}

fn exec_errors_are_explained() {
    let root = RootFs::new();
    let container = start(&root, &spec(&["sleep", "60"]), &Options::default()).unwrap();
    let text = |args: &[&str]| container.exec(&process(args), None).unwrap_err().to_string();
    assert_eq!(text(&["nosuch"]), "exec: \"nosuch\": executable file not found in $PATH");
    assert_eq!(text(&["/etc"]), "exec: \"/etc\": is a directory");
    for number in 3..20 {
        let elsewhere = Process { cwd: format!("/proc/self/fd/{number}"), ..process(&["pwd"]) };
        let error = container.exec(&elsewhere, None).unwrap_err();
        assert_eq!(error.step(), Step::WorkingDirectory, "{error}");
    }
    assert_eq!(
        container.exec(&process(&["id"]), Some("ghost")).unwrap_err().to_string(),
        "unable to find user ghost: no matching entries in passwd file"
    );
    pidfd_send_signal(&container.running.pidfd, 9).unwrap();
    container.finish();
}

fn users_are_looked_up_in_the_root() {
    let root = RootFs::new();
    let id = |user: &str, groups: &[&str]| {
        let groups: Vec<String> = groups.iter().map(|group| group.to_string()).collect();
        let options = Options { user: Some(user), groups: &groups, ..Options::default() };
        run_with(&root, &spec(&["sh", "-c", "id -u; id -g; id -G; echo $HOME"]), &options)
    };
    assert_eq!(id("app", &[]).unwrap().1, "1000\n1000\n1000 10\n/home/app\n");
    assert_eq!(id("1:1", &[]).unwrap().1, "1\n1\n1\n/\n");
    assert_eq!(id("root", &["wheel", "77"]).unwrap().1, "0\n0\n0 10 77\n/root\n");
    for user in ["4294967295", "2147483648", "-1"] {
        let error = id(user, &[]).unwrap_err();
        assert_eq!(error.to_string(), "uids and gids must be in range 0-2147483647");
    }
    assert_eq!(
        id("0x0", &[]).unwrap_err().to_string(),
        "unable to find user 0x0: no matching entries in passwd file"
    );
    let script = "echo x > /dev/stdout; grep CapEff /proc/self/status";
    let options = Options { user: Some("app"), ..Options::default() };
    let (code, output) = run_with(&root, &spec(&["sh", "-c", script]), &options).unwrap();
    assert_eq!((code, output.as_str()), (0, "x\nCapEff:\t0000000000000000\n"));
}

fn a_passwd_that_is_no_file_is_refused_quickly() {
    let root = RootFs::new();
    let canary = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(canary.path(), "evil:x:5:5::/:\n").unwrap();
    std::fs::remove_file(root.path("etc/passwd")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, root.path("etc/passwd"), fifo, mode, 0).unwrap();
    let options = Options { user: Some("evil"), ..Options::default() };
    let before = std::time::Instant::now();
    let error = run_with(&root, &spec(&["true"]), &options).unwrap_err();
    assert_eq!(error.to_string(), "/etc/passwd is not a regular file");
    assert!(before.elapsed().as_secs() < 20);
    std::fs::remove_file(root.path("etc/passwd")).unwrap();
    std::os::unix::fs::symlink(canary.path(), root.path("etc/passwd")).unwrap();
    let error = run_with(&root, &spec(&["true"]), &options).unwrap_err();
    assert!(error.to_string().starts_with("unable to find user evil"), "{error}");
}

fn no_capability_is_inheritable() {
    let (_, output) = shell("grep Cap /proc/self/status");
    let expected = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
                    CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n";
    assert_eq!(output, expected);
}

fn only_the_standard_streams_are_open() {
    // A descriptor that the caller forgot to mark.
    let leak = std::fs::File::open("/").unwrap();
    let leak = rustix::io::dup(&leak).unwrap();
    let (_, output) = shell("echo /proc/self/fd/*");
    // The fourth is the directory that the shell itself reads.
    assert_eq!(output, "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3\n");
    drop(leak);
}

fn signals_are_default() {
    yare_sys::process::ignore_signal(3).unwrap();
    let (_, output) = run(&RootFs::new(), &["cat", "/proc/self/status"]);
    assert!(output.contains("SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000"), "{output}");
}

fn working_directories_stay_inside() {
    let root = RootFs::new();
    let leak = std::fs::File::open("/").unwrap();
    for number in 3..30 {
        let mut spec = spec(&["pwd"]);
        spec.process.as_mut().unwrap().cwd = format!("/proc/self/fd/{number}");
        let error = error(&root, &spec);
        assert_eq!(error.step(), Step::WorkingDirectory, "{error}");
    }
    drop(leak);
    let mut spec = spec(&["pwd"]);
    spec.process.as_mut().unwrap().cwd = "/made/on/the/way".into();
    assert_eq!(run_with(&root, &spec, &Options::default()).unwrap(), (0, "/made/on/the/way\n".into()));
}

fn masked_paths_read_as_nothing() {
    let root = RootFs::new();
    // An image's own null device that is a trap.
    root.write("dev/null", "trap", 0o666);
    let script = "cat /proc/keys /proc/interrupts | wc -c; ls /sys/firmware /proc/scsi /proc/acpi 2>/dev/null | grep -v : | wc -w; \
                  echo 1 > /proc/sys/kernel/panic; touch /sys/x; mount -t tmpfs none /tmp; \
                  cat /dev/null | wc -c";
    let (_, output) = run(&root, &["sh", "-c", script]);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!((lines[0], lines[1]), ("0", "0"), "{output}");
    assert!(output.contains("can't create /proc/sys/kernel/panic: Read-only file system"), "{output}");
    assert!(
        output.contains("mount: permission denied") || output.contains("Operation not permitted"),
        "{output}"
    );
    assert!(output.ends_with("0\n"), "{output}");
}

fn no_mount_of_the_host_is_left() {
    let root = RootFs::new();
    root.write("marker", "", 0o644);
    let (_, output) = run(&root, &["sh", "-c", "ls -d /../marker /../../marker; cat /proc/self/mountinfo"]);
    assert!(output.contains("/../marker\n") && output.contains("/../../marker\n"), "{output}");
    let mounts = output;
    assert_eq!(mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/")).count(), 1, "{mounts}");
    let container = start(&root, &spec(&["sleep", "60"]), &Options::default()).unwrap();
    let (_, output) = container.exec(&process(&["ls", "-d", "/../marker"]), None).unwrap();
    assert_eq!(output, "/../marker\n");
    pidfd_send_signal(&container.running.pidfd, 9).unwrap();
    container.finish();
}

fn linked_proc_and_dev_are_refused() {
    for folder in ["proc", "dev", "sys"] {
        let canary = tempfile::tempdir().unwrap();
        let root = RootFs::new();
        root.link(folder, canary.path());
        let error = error(&root, &spec(&["true"]));
        assert_eq!(error.class(), Class::InvalidArgument);
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 0);
        // Inside the root it is refused as well.
        let root = RootFs::new();
        root.link(folder, Path::new("/tmp"));
        assert!(run_with(&root, &spec(&["true"]), &Options::default()).is_err());
        assert_eq!(std::fs::read_dir(root.path("tmp")).unwrap().count(), 0);
    }
}

fn nothing_is_mounted_over_proc() {
    let root = RootFs::new();
    let volume = tempfile::tempdir().unwrap();
    root.write("keep", "", 0o644);
    std::os::unix::fs::symlink("/proc/sys", root.path("sneaky")).unwrap();
    for destination in ["/proc", "/proc/sys", "/proc/self", "/sneaky"] {
        let mut spec = spec(&["true"]);
        spec.mounts.push(bind(volume.path(), destination, &["rbind"]));
        let error = error(&root, &spec);
        assert!(
            error.to_string().contains("inside /proc") || error.to_string().contains("symbolic link"),
            "{destination}: {error}"
        );
    }
}

fn volumes_through_links_stay_inside() {
    let root = RootFs::new();
    let canary = tempfile::tempdir().unwrap();
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("file"), "content").unwrap();
    std::os::unix::fs::symlink(canary.path(), root.path("link")).unwrap();
    let mut spec = spec(&["cat", "/real/file"]);
    spec.mounts.push(bind(volume.path(), "/link/a/b", &["rbind", "rprivate"]));
    let _ = run_with(&root, &spec, &Options::default());
    assert_eq!(std::fs::read_dir(canary.path()).unwrap().count(), 0);
    std::fs::create_dir(root.path("real")).unwrap();
    std::os::unix::fs::symlink("/real", root.path("alias")).unwrap();
    spec.mounts.last_mut().unwrap().destination = "/alias".into();
    assert_eq!(run_with(&root, &spec, &Options::default()).unwrap(), (0, "content".into()));
}

fn limits_are_set() {
    let root = RootFs::new();
    let mut spec = spec(&[
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; for i in $(seq 30); do sleep 1 & done",
    ]);
    // On v2 the limits are seen only where the own group is the root.
    spec.linux.as_mut().unwrap().namespaces.push(own_cgroups());
    let resources = spec.linux.as_mut().unwrap().resources.as_mut().unwrap();
    *resources = Resources {
        memory: Some(Memory { limit: Some(64 << 20), swap: Some(64 << 20), ..Memory::default() }),
        pids: Some(Pids { limit: 8 }),
        ..resources.clone()
    };
    let container = start(&root, &spec, &Options::default()).unwrap();
    let stats = container.group.0.stats();
    assert_eq!((stats.memory.limit, stats.pids.limit), (Some(64 << 20), Some(8)));
    let (_, output) = container.finish();
    assert!(output.contains("67108864\n"), "{output}");
    assert!(output.contains("can't fork"), "{output}");
}

fn too_much_memory_is_counted() {
    let root = RootFs::new();
    let mut spec = spec(&["tail", "/dev/zero"]);
    spec.linux.as_mut().unwrap().resources = Some(Resources {
        memory: Some(Memory { limit: Some(16 << 20), swap: Some(16 << 20), ..Memory::default() }),
        ..Resources::default()
    });
    let container = start(&root, &spec, &Options::default()).unwrap();
    let exit = yare_sys::process::wait(&container.running.pidfd, true).unwrap().unwrap();
    assert_eq!(exit.code(), 137);
    assert!(container.group.0.oom_kills() >= 1);
}

fn seccomp_denies_namespaces() {
    let (_, output) = shell("unshare -U true; unshare -m true; grep -E 'Seccomp:' /proc/self/status");
    assert_eq!(output.matches("Operation not permitted").count(), 2, "{output}");
    assert!(output.contains("Seccomp:\t2"), "{output}");
    let root = RootFs::new();
    let mut spec = spec(&["grep", "-E", "Seccomp:|NoNewPrivs", "/proc/self/status"]);
    spec.process.as_mut().unwrap().no_new_privileges = true;
    let (_, output) = run_with(&root, &spec, &Options::default()).unwrap();
    assert_eq!(output, "NoNewPrivs:\t1\nSeccomp:\t2\n");
}

fn own_cgroups() -> yare_oci::runtime::Namespace {
    yare_oci::runtime::Namespace { kind: "cgroup".into(), path: String::new() }
}

fn cgroup_is_read_only() {
    let (_, output) = shell("mkdir /sys/fs/cgroup/x /sys/fs/cgroup/memory/x; ls /sys/fs/cgroup");
    assert!(output.matches("Read-only file system").count() >= 1, "{output}");
    let root = RootFs::new();
    // The first is for v1, the other for v2.
    let make = "mkdir /sys/fs/cgroup/pids/x || mkdir /sys/fs/cgroup/x";
    let mut spec = spec(&["sh", "-c", &format!("cat /proc/self/cgroup; ls /sys/fs/cgroup/*; {make}")]);
    spec.linux.as_mut().unwrap().namespaces.push(own_cgroups());
    let (_, output) = run_with(&root, &spec, &Options::default()).unwrap();
    assert!(!output.contains("runtime-test"), "{output}");
    assert!(output.contains("Read-only file system"), "{output}");
}

fn roots_can_be_read_only() {
    let root = RootFs::new();
    let mut spec = spec(&["sh", "-c", "touch /x; touch /dev/shm/y && echo fine"]);
    spec.root = Some(yare_oci::runtime::Root { path: String::new(), readonly: true });
    let (_, output) = run_with(&root, &spec, &Options::default()).unwrap();
    assert_eq!(output, "touch: /x: Read-only file system\nfine\n");
    assert!(!root.path("x").exists());
}

fn binds_can_be_read_only() {
    let root = RootFs::new();
    let volume = tempfile::tempdir().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "nameserver\n").unwrap();
    let mut spec =
        spec(&["sh", "-c", "touch /ro/x; touch /rw/x && echo fine; cat /etc/resolv.conf; ls /notthere"]);
    spec.mounts.push(bind(volume.path(), "/ro", &["rbind", "ro", "rprivate"]));
    spec.mounts.push(bind(volume.path(), "/rw", &["rbind", "rprivate"]));
    spec.mounts.push(bind(file.path(), "/etc/resolv.conf", &["rbind", "rprivate"]));
    let (_, output) = run_with(&root, &spec, &Options::default()).unwrap();
    assert!(output.starts_with("touch: /ro/x: Read-only file system\nfine\nnameserver\n"), "{output}");
    let missing = Mount { source: "/no/such/place".into(), ..bind(volume.path(), "/x", &["rbind"]) };
    spec.mounts.push(missing);
    assert_eq!(error(&root, &spec).to_string(), "bind source path does not exist: /no/such/place");
}

/// A directory of 1234:2345 with a file that only they read, and one of somebody else's.
fn owned() -> tempfile::TempDir {
    use std::os::unix::fs::{PermissionsExt, chown};
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("own"), "own").unwrap();
    std::fs::write(volume.path().join("other"), "other").unwrap();
    for name in ["own", "other"] {
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(volume.path().join(name), mode).unwrap();
    }
    chown(volume.path().join("own"), Some(1234), Some(2345)).unwrap();
    chown(volume.path().join("other"), Some(7), Some(8)).unwrap();
    chown(volume.path(), Some(1234), Some(2345)).unwrap();
    volume
}

fn owner(path: &Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

fn mapped(id_map: IdMap) -> [Origin; 1] {
    [Origin { destination: "/v".into(), tree: None, subpath: String::new(), id_map: Some(id_map) }]
}

fn the_owner_of_a_bind_is_the_user() {
    let script = "cd /v; stat -c %u:%g . own other; cat own other; touch made; chmod 4755 made; echo made=$?";
    for (user, mapped_to, shown, can_write) in [
        ("", "", "0:0", true),
        ("app", "", "1000:1000", true),
        ("4321:99", "", "4321:99", true),
        // Root has no name on this mount, and so none of its rights.
        ("root", "app", "1000:1000", false),
    ] {
        let (root, volume) = (RootFs::new(), owned());
        let mut spec = spec(&["sh", "-c", script]);
        spec.mounts.push(bind(volume.path(), "/v", &["rbind", "rprivate"]));
        let origins = mapped(IdMap::Owner(mapped_to.into()));
        let options = Options {
            user: Some(user).filter(|user| !user.is_empty()),
            origins: &origins,
            ..Options::default()
        };
        let (_, output) = run_with(&root, &spec, &options).unwrap();
        let head = format!("{shown}\n{shown}\n65534:65534\n");
        assert!(output.starts_with(&head), "{user}: {output}");
        // Root's right to read anything ends at files of nobody.
        assert!(output.contains("cat: can't open 'other': Permission denied"), "{user}: {output}");
        if can_write {
            assert!(output.contains("own") && output.ends_with("made=0\n"), "{user}: {output}");
            assert_eq!(owner(&volume.path().join("made")), (1234, 2345));
        } else {
            assert!(output.contains("touch: made: Value too large"), "{user}: {output}");
            assert!(!volume.path().join("made").exists());
        }
    }
}

fn nobody_is_root_on_the_host() {
    use std::os::unix::fs::chown;
    let (root, volume) = (RootFs::new(), owned());
    let mut spec = spec(&["sh", "-c", "touch /v/made; chmod 6755 /v/made"]);
    spec.mounts.push(bind(volume.path(), "/v", &["rbind", "rprivate"]));
    let origins = mapped(IdMap::Owner(String::new()));
    for (owner, group, user, starts) in [
        (0, 2345, "app", false),
        (1234, 0, "app", false),
        (0, 0, "app:root", false),
        (1234, 0, "app:root", true),
        (0, 0, "root", true),
    ] {
        chown(volume.path(), Some(owner), Some(group)).unwrap();
        let options = Options { user: Some(user), origins: &origins, ..Options::default() };
        let started = run_with(&root, &spec, &options);
        assert_eq!(volume.path().join("made").exists(), starts, "{user} at {owner}:{group}: {started:?}");
        if starts {
            std::fs::remove_file(volume.path().join("made")).unwrap();
        } else {
            let error = started.unwrap_err().to_string();
            assert!(error.contains(" belongs to root or its group: what "), "{error}");
        }
    }
}

fn ids_are_mapped_by_number() {
    let range = |container_id, host_id, size| IdMapping { container_id, host_id, size };
    let (root, volume) = (RootFs::new(), owned());
    let mut spec = spec(&["sh", "-c", "stat -c %u:%g /v /v/other; touch /v/made"]);
    spec.mounts.push(Mount {
        uid_mappings: vec![range(1234, 0, 1), range(7, 70, 5)],
        gid_mappings: vec![range(2000, 0, 1000), range(0, 5000, 10)],
        ..bind(volume.path(), "/v", &["rbind", "rprivate", "ridmap"])
    });
    let own = run_with(&root, &spec, &Options::default()).unwrap();
    assert_eq!(own, (0, "0:345\n70:5008\n".into()));
    assert_eq!(owner(&volume.path().join("made")), (1234, 2000));
    // What a caller says counts more than the specification.
    let origins = mapped(IdMap::Ranges { uids: vec![range(0, 0, 65536)], gids: vec![range(0, 0, 65536)] });
    let options = Options { origins: &origins, ..Options::default() };
    assert_eq!(run_with(&root, &spec, &options).unwrap(), (0, "1234:2345\n7:8\n".into()));
}

fn what_cannot_be_id_mapped_is_named() {
    let (root, volume) = (RootFs::new(), owned());
    let origins = mapped(IdMap::Owner(String::new()));
    let failed = |mount: Mount, origins: &[Origin]| {
        let mut spec = spec(&["true"]);
        spec.mounts.push(mount);
        run_with(&root, &spec, &Options { origins, ..Options::default() }).unwrap_err().to_string()
    };
    let of = |source: &str, options: &[&str]| bind(Path::new(source), "/v", options);
    assert_eq!(
        failed(of("/proc", &["bind"]), &origins),
        "cannot map the ids of /proc at /v: its filesystem cannot be id-mapped"
    );
    assert_eq!(
        failed(of("/", &["rbind"]), &origins),
        "cannot map the ids of / at /v: something that is mounted beneath it cannot be id-mapped"
    );
    let path = volume.path().to_str().unwrap();
    let none = failed(of(path, &["bind", "idmap"]), &[]);
    assert!(none.starts_with("the mount at /v has no mappings of its own"), "{none}");
    let twice = IdMapping { container_id: 0, host_id: 0, size: 2 };
    let overlap = mapped(IdMap::Ranges { uids: vec![twice.clone(), twice.clone()], gids: vec![twice] });
    assert_eq!(
        failed(of(path, &["bind"]), &overlap),
        format!("cannot map the ids of {path} at /v: the ranges overlap, or are too many")
    );
    let memory = Mount { kind: "tmpfs".into(), source: "tmpfs".into(), ..of("x", &["idmap"]) };
    assert_eq!(failed(memory, &[]), "the mount at /v cannot be id-mapped: it is no bind");
    // A user that only a mounted file makes another one is not guessed.
    let passwd = volume.path().join("own");
    std::fs::write(&passwd, "app:x:5:6::/:/bin/sh\n").unwrap();
    let mut spec = spec(&["true"]);
    spec.mounts.push(bind(volume.path(), "/v", &["rbind"]));
    spec.mounts.push(bind(&passwd, "/etc/passwd", &["rbind"]));
    let options = Options { user: Some("app"), origins: &origins, ..Options::default() };
    let error = run_with(&root, &spec, &options).unwrap_err().to_string();
    assert!(error.starts_with("the container's user is 1000:1000 by its image and 5:6 by a file"), "{error}");
}

fn names_and_parameters_are_set() {
    let root = RootFs::new();
    let mut spec = spec(&["sh", "-c", "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"]);
    let sysctl = &mut spec.linux.as_mut().unwrap().sysctl;
    sysctl.insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
    assert_eq!(run_with(&root, &spec, &Options::default()).unwrap().1, "testhost\n0\n");
    spec.linux.as_mut().unwrap().sysctl.insert("kernel.core_pattern".into(), "|/x".into());
    assert!(error(&root, &spec).to_string().contains("is not in a separate kernel namespace"));
}

fn limits_that_cannot_be_raised_are_warnings() {
    let root = RootFs::new();
    let mut spec = spec(&["sh", "-c", "ulimit -n"]);
    let limit = |soft, hard| Rlimit { kind: "RLIMIT_NOFILE".into(), soft, hard };
    let process = spec.process.as_mut().unwrap();
    process.rlimits = vec![limit(64, 64)];
    process.oom_score_adj = Some(-900);
    let container = start(&root, &spec, &Options::default()).unwrap();
    let warnings = container.running.warnings.clone();
    assert_eq!(container.finish().1, "64\n");
    let lowered = std::fs::write("/proc/self/oom_score_adj", "-900").is_ok();
    assert_eq!(warnings.is_empty(), lowered, "{warnings:?}");
}

fn a_device_that_is_not_allowed_is_not_opened() {
    let root = RootFs::new();
    let mut spec = spec(&["sh", "-c", "head -c1 /dev/kmsg; head -c3 /dev/zero | wc -c; ls -l /dev/kmsg"]);
    spec.linux.as_mut().unwrap().devices.push(yare_oci::runtime::Device {
        path: "/dev/kmsg".into(),
        kind: "c".into(),
        major: 1,
        minor: 11,
        ..Default::default()
    });
    let (_, output) = run_with(&root, &spec, &Options::default()).unwrap();
    assert!(output.contains("/dev/kmsg: Operation not permitted"), "{output}");
    assert!(output.contains("\n3\n"), "{output}");
}

fn abandoned_containers_are_gone() {
    let root = RootFs::new();
    let spec = spec(&["true"]);
    let group = TestGroup::new(&spec);
    let created = create(&root, &spec, &group, &Options::default(), streams().stdio).unwrap();
    let pid = created.pid;
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    created.abort();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

/// What the process started by the next test does.
fn check_own_file() {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    yare_runtime::selfexec::reexec_readonly(&arguments).unwrap();
    // Opening for writing says "busy" while it runs; what counts is the mount, for afterwards.
    let flags = rustix::fs::OFlags::PATH;
    let this = rustix::fs::open("/proc/self/exe", flags, rustix::fs::Mode::empty()).unwrap();
    let mount = rustix::fs::fstatvfs(&this).unwrap();
    println!("{}", mount.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
}

fn our_own_file_is_out_of_reach() {
    let this = std::env::current_exe().unwrap();
    let output = std::process::Command::new(this).arg("--reexec").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "true\n");
}

/// A bundle whose program writes to `out/log`, and the arguments that select its state directory.
struct Bundle {
    root: RootFs,
    directory: tempfile::TempDir,
    id: String,
}

impl Bundle {
    fn new(name: &str, script: &str) -> Self {
        let root = RootFs::new();
        let directory = tempfile::tempdir().unwrap();
        for folder in ["out", "state"] {
            std::fs::create_dir(directory.path().join(folder)).unwrap();
        }
        let id = format!("yare-cli-test-{}-{name}", std::process::id());
        let mut spec = spec(&["sh", "-c", script]);
        spec.linux.as_mut().unwrap().cgroups_path = format!("/{id}");
        spec.root = Some(yare_oci::runtime::Root {
            path: root.directory.path().to_string_lossy().into(),
            readonly: false,
        });
        spec.mounts.push(bind(&directory.path().join("out"), "/out", &["rbind"]));
        let hook = |name: &str| yare_oci::runtime::Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", &format!("echo {name} >> {}", directory.path().join("out/hooks").display())]
                .map(String::from)
                .to_vec(),
            ..Default::default()
        };
        let inside = |name: &str| yare_oci::runtime::Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", &format!("echo {name} >> /out/hooks")].map(String::from).to_vec(),
            ..Default::default()
        };
        spec.hooks = Some(yare_oci::runtime::Hooks {
            prestart: vec![hook("prestart")],
            create_runtime: vec![hook("createRuntime")],
            create_container: vec![hook("createContainer")],
            start_container: vec![inside("startContainer")],
            poststart: vec![hook("poststart")],
            poststop: vec![hook("poststop")],
        });
        let config = directory.path().join("config.json");
        std::fs::write(config, serde_json::to_vec(&spec).unwrap()).unwrap();
        Self { root, directory, id }
    }

    fn command(&self, words: &[&str]) -> i32 {
        let state = self.directory.path().join("state");
        let mut args: Vec<std::ffi::OsString> = vec!["--root".into(), state.into()];
        args.extend(words.iter().map(|word| {
            let word = word.replace("ID", &self.id);
            word.replace("BUNDLE", &self.directory.path().to_string_lossy()).into()
        }));
        yare_runtime::cli::main(&args)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(file)).unwrap_or_default()
    }

    fn await_log(&self, wanted: &str) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !self.read("out/log").contains(wanted) {
            assert!(std::time::Instant::now() < deadline, "{:?}", self.read("out/log"));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn the_command_line_runs_a_bundle() {
    let bundle = Bundle::new("run", "echo hello > /out/log; exit 5");
    assert_eq!(bundle.command(&["run", "--bundle", "BUNDLE", "ID"]), 5);
    assert_eq!(bundle.read("out/log"), "hello\n");
    let hooks = "prestart\ncreateRuntime\ncreateContainer\nstartContainer\npoststart\npoststop\n";
    assert_eq!(bundle.read("out/hooks"), hooks);
    assert_eq!(bundle.command(&["state", "ID"]), 1, "it is forgotten");
}

fn the_command_line_keeps_the_life_cycle() {
    let bundle = Bundle::new("cycle", "echo started > /out/log; sleep 60");
    let pid_file = "BUNDLE/state/pid";
    assert_eq!(bundle.command(&["create", "--bundle", "BUNDLE", "--pid-file", pid_file, "ID"]), 0);
    assert!(bundle.read("state/pid").parse::<i32>().unwrap() > 1);
    assert_eq!(bundle.command(&["create", "--bundle", "BUNDLE", "ID"]), 1, "the id is taken");
    assert_eq!(bundle.read("out/log"), "");
    assert_eq!(bundle.command(&["exec", "ID", "true"]), 1, "it does not run yet");
    assert_eq!(bundle.command(&["start", "ID"]), 0);
    bundle.await_log("started");
    assert_eq!(bundle.command(&["start", "ID"]), 1, "it runs already");
    assert_eq!(bundle.command(&["exec", "ID", "sh", "-c", "echo more >> /out/log; exit 4"]), 4);
    bundle.await_log("more");
    assert_eq!(bundle.command(&["pause", "ID"]), 0);
    assert_eq!(bundle.command(&["resume", "ID"]), 0);
    assert_eq!(bundle.command(&["delete", "ID"]), 1, "it runs");
    assert_eq!(bundle.command(&["kill", "ID", "KILL"]), 0);
    // The child is this process's, which is no init: reap it.
    let pid: i32 = bundle.read("state/pid").parse().unwrap();
    wait(yare_sys::process::pidfd_open(pid).unwrap(), true).unwrap();
    assert_eq!(bundle.command(&["kill", "ID"]), 1, "it has stopped");
    assert_eq!(bundle.command(&["delete", "ID"]), 0);
    assert_eq!(bundle.command(&["delete", "ID"]), 1);
    assert_eq!(bundle.command(&["delete", "--force", "ID"]), 0);
    assert!(bundle.root.path("bin").exists());
}

fn the_command_line_reports_programs_that_do_not_run() {
    let bundle = Bundle::new("missing", "");
    let config = bundle.directory.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap().replace("\"sh\",\"-c\",\"\"", "\"nosuch\"");
    std::fs::write(config, text).unwrap();
    let log = "BUNDLE/state/log";
    let words = ["--log", log, "--log-format", "json", "create", "--bundle", "BUNDLE", "ID"];
    assert_eq!(bundle.command(&words), 0, "the program is looked for at the start");
    assert_eq!(bundle.command(&["--log", log, "--log-format=json", "start", "ID"]), 1);
    let line = bundle.read("state/log");
    assert!(line.contains("executable file not found in $PATH"), "{line}");
    assert_eq!(bundle.command(&["delete", "--force", "ID"]), 0);
    while yare_sys::process::reap_any().unwrap().is_some() {}
}

/// Not a test: what a start costs. `YARE_BENCH=200 cargo test --release -p yare-runtime --test containers`.
fn bench(rounds: u32) {
    let root = RootFs::new();
    for (name, args, init) in [("true", ["true"], false), ("true with init", ["true"], true)] {
        let spec = spec(&args);
        let mut parts: [Vec<u128>; 4] = Default::default();
        for _ in 0..rounds {
            let options = Options { init, ..Options::default() };
            let t0 = std::time::Instant::now();
            let group = TestGroup::new(&spec);
            let t1 = std::time::Instant::now();
            let created = create(&root, &spec, &group, &options, streams().stdio).unwrap();
            let t2 = std::time::Instant::now();
            let running = created.start().unwrap();
            let t3 = std::time::Instant::now();
            wait(&running.pidfd, true).unwrap();
            let t4 = std::time::Instant::now();
            for (part, (from, to)) in parts.iter_mut().zip([(t0, t1), (t1, t2), (t2, t3), (t3, t4)]) {
                part.push((to - from).as_micros());
            }
        }
        let medians = parts.map(|mut part| {
            part.sort_unstable();
            (part[part.len() / 10], part[part.len() / 2])
        });
        println!(
            "{name}: p10/p50 us: cgroup {:?} create {:?} start {:?} wait {:?}",
            medians[0], medians[1], medians[2], medians[3]
        );
    }
    let profile = dockers_seccomp();
    let before = std::time::Instant::now();
    for _ in 0..100 {
        yare_runtime::seccomp::compile(&profile, yare_runtime::seccomp::Arch::NATIVE).unwrap();
    }
    println!("seccomp compile: {} us", before.elapsed().as_micros() / 100);
}
