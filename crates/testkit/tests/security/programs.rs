//! Rows 1 and 2: the engine's own binary and its descriptors are out of a container's reach.

use yare_testkit::{Invocation, require_root, yare_binary};

use crate::stage::{Entry, Stage};

fn hash() -> String {
    Invocation::new("sha256sum", &[yare_binary().to_str().unwrap()]).ok()
}

fn refused(said: &str) -> bool {
    ["EACCES", "EROFS", "ETXTBSY", "EPERM"].contains(&said)
}

/// The ways in which a container may be more powerful than usual.
const POWERS: [&[&str]; 4] = [&[], &["--cap-add", "SYS_PTRACE"], &["--privileged"], &["--pid", "host"]];

#[test]
fn row_01_the_binary_cannot_be_written_through_proc() {
    if !require_root("row_01_the_binary_cannot_be_written_through_proc") {
        return;
    }
    let stage = Stage::new();
    let before = hash();
    for power in POWERS {
        // Process 1 is our init here, and runs our own program.
        let said = stage.says(&[&["--init"], power].concat(), &["/probe", "write", "/proc/1/exe"]);
        if power != ["--pid", "host"] {
            assert!(refused(&said), "{power:?}: {said}");
        }
        let said = stage.says(&[&["--init"], power].concat(), &["/probe", "hold", "/proc/1/exe"]);
        assert!(refused(&said) || power == ["--pid", "host"], "{power:?}: {said}");
    }
    assert_eq!(hash(), before);
    stage.finish();
}

#[test]
fn row_01_the_binary_cannot_be_written_while_execs_come_in() {
    if !require_root("row_01_the_binary_cannot_be_written_while_execs_come_in") {
        return;
    }
    let stage = Stage::new();
    let before = hash();
    // As fast as it can, the container tries every process that turns up, before it has become the program.
    let attack = "while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) ;; *) \
                  r=$(/probe write $p/exe); [ \"$r\" = opened ] && readlink $p/exe >> /opened; done=1;; esac; done; done";
    for power in [&[] as &[&str], &["--cap-add", "SYS_PTRACE"], &["--privileged"]] {
        let id = stage.start(power, &["busybox", "sh", "-c", attack]);
        for _ in 0..15 {
            assert_eq!(stage.exec(&[], &id, &["/bin/true"]).code, 0, "{power:?}");
        }
        let opened = stage.exec(&[], &id, &["sh", "-c", "cat /opened 2>/dev/null | sort | uniq -c"]).stdout;
        // Busybox's own file is the container's, and so is the probe's: those it may try.
        let foreign = opened.lines().filter(|line| !line.contains("busybox") && !line.contains("/probe"));
        assert_eq!(foreign.collect::<Vec<_>>(), Vec::<&str>::new(), "{power:?}: opened {opened}");
        stage.engine.yare(&["rm", "-f", &id]).ok();
    }
    assert_eq!(hash(), before);
    stage.finish();
}

#[test]
fn row_01_a_link_to_proc_self_exe_as_entrypoint_runs_nothing_of_the_host() {
    if !require_root("row_01_a_link_to_proc_self_exe_as_entrypoint_runs_nothing_of_the_host") {
        return;
    }
    let stage = Stage::new();
    let before = hash();
    let entries =
        [Entry::Link("entry", "/proc/self/exe".into()), Entry::File("script", "#!/proc/self/exe\n")];
    stage.image("selfish", &[], &entries);
    // It may run our program, in the container and with the container's rights.
    for init in ["--init", "--init=false"] {
        for entry in ["/entry", "/script"] {
            stage.run(&[init, "--entrypoint", entry], &["selfish", "version"]);
        }
    }
    // While it runs, nobody in the container can write to its file, nor afterwards through a descriptor.
    let attack = "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = entry ] && \
                  /probe write $p/exe && /probe hold $p/exe; done";
    for power in [&["--cap-add", "SYS_PTRACE"] as &[&str], &["--privileged"]] {
        let server = stage.start(&[], &["busybox", "sh", "-c", "sleep 1000 | nc -l -p 2375"]);
        let network = format!("container:{server}");
        let entry = ["--network", &network, "--entrypoint", "/entry"];
        let waits = ["selfish", "-H", "tcp://127.0.0.1:2375", "ps"];
        let listens = "until netstat -ltn | grep -q ':2375 '; do usleep 20000; done";
        assert_eq!(stage.exec(&[], &server, &["timeout", "60", "sh", "-c", listens]).code, 0, "{power:?}");
        let id = stage.start(&[power, &entry].concat(), &waits);
        let running = "until grep -qx entry /proc/[0-9]*/comm; do usleep 20000; done";
        assert_eq!(stage.exec(&[], &id, &["timeout", "60", "sh", "-c", running]).code, 0, "{power:?}");
        let said = stage.exec(&[], &id, &["sh", "-c", attack]).stdout;
        assert!(said.lines().count() == 2 && said.lines().all(refused), "{power:?}: {said}");
        stage.engine.yare(&["rm", "-f", &id, &server]).ok();
    }
    assert_eq!(hash(), before);
    stage.finish();
}

#[test]
fn row_02_a_program_has_the_standard_streams_and_no_more() {
    if !require_root("row_02_a_program_has_the_standard_streams_and_no_more") {
        return;
    }
    let stage = Stage::new();
    let flags: [&[&str]; 7] = [
        &[],
        &["--init=false"],
        &["-i"],
        &["-t"],
        &["--privileged"],
        &["--network", "host"],
        &["-v", "/volume", "-p", "127.0.0.1::80", "--tmpfs", "/t"],
    ];
    for flags in flags {
        assert_eq!(stage.says(flags, &["/probe", "fds"]), "0 1 2", "{flags:?}");
    }
    let id = stage.start(&[], &["busybox", "sleep", "1000"]);
    for flags in [&[] as &[&str], &["-i"], &["-t"], &["--privileged"], &["-u", "1000"], &["-d"]] {
        let outcome = stage.exec(flags, &id, &["/probe", "fds"]);
        let wanted = if flags == ["-d"] { "" } else { "0 1 2" };
        assert_eq!((outcome.code, outcome.stdout.trim_end()), (0, wanted), "exec {flags:?}");
    }
    // The init has none of the host's either: its streams are the program's.
    let listed = stage
        .exec(&["--privileged"], &id, &["sh", "-c", "for f in /proc/1/fd/*; do readlink $f; done"])
        .stdout;
    let foreign = listed.lines().filter(|link| link.starts_with('/') && *link != "/dev/null");
    assert_eq!(foreign.collect::<Vec<_>>(), Vec::<&str>::new(), "{listed}");
    stage.finish();
}

#[test]
fn row_02_a_working_directory_by_descriptor_does_not_lead_out() {
    if !require_root("row_02_a_working_directory_by_descriptor_does_not_lead_out") {
        return;
    }
    let stage = Stage::new();
    let canary = stage.canary().join("CANARY").display().to_string();
    let look = format!("pwd -P; cd ../../../../../../..; test -e .{canary} && echo OUT; ls -d .{canary}");
    let check = |how: &str, outcome: yare_testkit::Outcome| {
        let inside = outcome.stdout.starts_with('/') && !outcome.stdout.contains("unreachable");
        assert!(outcome.code != 0 || inside, "{how}: {outcome:?}");
        assert!(!outcome.stdout.contains("OUT"), "{how}: {outcome:?}");
    };
    for number in 3..64 {
        let folder = format!("/proc/self/fd/{number}");
        // The detour through the host's mount namespace, which bind mounts take, has more descriptors.
        let bind: &[&str] = if number % 2 == 0 { &["-v", "/usr/share:/share:ro"] } else { &[] };
        let args =
            [&["run", "--rm", "--init=false", "-w", &folder], bind, &["busybox", "sh", "-c", &look]].concat();
        check(&folder, stage.engine.yare(&args).run());
    }
    let id = stage.start(&[], &["busybox", "sleep", "1000"]);
    for number in 3..24 {
        let folder = format!("/proc/self/fd/{number}");
        check(&folder, stage.exec(&["-w", &folder], &id, &["sh", "-c", &look]));
    }
    let change = ["import", "--change", "WORKDIR /proc/self/fd/8", "-", "inside"];
    stage.engine.yare(&change).input(yare_testkit::busybox_rootfs_tar()).ok();
    check("WORKDIR", stage.run(&[], &["inside", "sh", "-c", &look]));
    stage.finish();
}
