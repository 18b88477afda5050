//! Rows 8 to 13: images and volumes whose `/proc`, `/sys`, `/dev` and `/etc` are not what they seem.

use std::fs;

use yare_testkit::{Outcome, require_root};

use crate::stage::{Entry, Stage};

/// Says whether masking and read-only paths are in force, in a shell.
const CONFINED: &str =
    "/probe read /proc/kcore; /probe write /proc/sysrq-trigger; stat -f -c %t /proc /sys /dev";

fn assert_refused_or_confined(how: &str, outcome: &Outcome) {
    if outcome.code != 0 {
        // 125 is the engine's own refusal; 126 and 127 are its word on a program that cannot run.
        assert!((125..=127).contains(&outcome.code), "{how}: {outcome:?}");
        return;
    }
    let said: Vec<&str> = outcome.stdout.lines().collect();
    assert!(["empty", "EACCES", "EPERM"].contains(&said[0]), "{how}: {outcome:?}");
    assert!(["EROFS", "EACCES", "EPERM"].contains(&said[1]), "{how}: {outcome:?}");
    // proc, sysfs, tmpfs: filesystems of their own and not what the image or a volume put there.
    assert_eq!(said[2..], ["9fa0", "62656572", "1021994"], "{how}: {outcome:?}");
}

#[test]
fn row_08_linked_proc_and_sys_are_refused_or_confined() {
    if !require_root("row_08_linked_proc_and_sys_are_refused_or_confined") {
        return;
    }
    let stage = Stage::new();
    let canary = stage.canary().join("folder").display().to_string();
    for (number, (name, target)) in [
        ("proc", "/x"),
        ("proc", canary.as_str()),
        ("sys", "/x"),
        ("sys", canary.as_str()),
        ("proc", "../../../../x"),
    ]
    .into_iter()
    .enumerate()
    {
        let image = format!("linked{number}");
        stage.image(&image, &[name], &[Entry::Folder("x/"), Entry::Link(name, target.into())]);
        for flags in [&[] as &[&str], &["--init=false"], &["--read-only"]] {
            let outcome = stage.run(flags, &[&image, "sh", "-c", CONFINED]);
            assert_refused_or_confined(&format!("{name} -> {target} {flags:?}"), &outcome);
            stage.assert_canary_sings(name);
        }
    }
    stage.finish();
}

#[test]
fn row_08_nothing_can_be_mounted_over_proc() {
    if !require_root("row_08_nothing_can_be_mounted_over_proc") {
        return;
    }
    let stage = Stage::new();
    let folder = format!("{}:", stage.canary().join("folder").display());
    for target in
        ["/proc", "/proc/", "/x/../proc", "//proc", "/proc/self/attr", "/proc/sys", "/proc/sys/kernel"]
    {
        for source in ["named:", folder.as_str()] {
            let outcome =
                stage.run(&["-v", &format!("{source}{target}")], &["busybox", "sh", "-c", CONFINED]);
            assert_refused_or_confined(&format!("-v {source}{target}"), &outcome);
            assert_ne!(outcome.code, 0, "-v {source}{target}: {outcome:?}");
        }
        let outcome = stage.run(&["--tmpfs", target], &["busybox", "sh", "-c", CONFINED]);
        assert_refused_or_confined(&format!("--tmpfs {target}"), &outcome);
    }
    // A link in the image that leads to /proc.
    stage.image("lead", &[], &[Entry::Link("lead", "/proc".into()), Entry::Link("deep", "proc/sys".into())]);
    for target in ["/lead", "/deep", "/lead/sys/kernel"] {
        let outcome = stage.run(&["-v", &format!("named:{target}")], &["lead", "sh", "-c", CONFINED]);
        assert_refused_or_confined(&format!("-v named:{target}"), &outcome);
    }
    stage.engine.yare(&["volume", "rm", "-f", "named"]).ok();
    stage.finish();
}

#[test]
fn row_09_masked_files_read_empty_whatever_dev_null_is() {
    if !require_root("row_09_masked_files_read_empty_whatever_dev_null_is") {
        return;
    }
    let stage = Stage::new();
    let masked = "for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts /proc/sched_debug; do \
                  [ -e $f ] && /probe read $f; done; for d in /proc/acpi /proc/scsi /sys/firmware; do \
                  [ -d $d ] && ls -A $d; done; true";
    let assert_masked = |how: &str, outcome: &Outcome| {
        let leaks = outcome.stdout.lines().filter(|line| *line != "empty" && *line != "EACCES");
        assert_eq!(leaks.collect::<Vec<_>>(), Vec::<&str>::new(), "{how}: {outcome:?}");
        assert!(outcome.code == 0 || (125..=127).contains(&outcome.code), "{how}: {outcome:?}");
    };
    assert_masked("busybox", &stage.run(&[], &["busybox", "sh", "-c", masked]));
    let canary = stage.canary().join("CANARY").display().to_string();
    for (number, target) in
        ["/etc/passwd", "/proc/kcore", canary.as_str(), "../../../../etc/passwd"].iter().enumerate()
    {
        let image = format!("null{number}");
        stage.image(
            &image,
            &["dev"],
            &[Entry::Folder("dev/"), Entry::Link("dev/null", (*target).to_owned())],
        );
        assert_masked(target, &stage.run(&[], &[&image, "sh", "-c", masked]));
        // A volume in the place of /dev is filled with the image's.
        let outcome = stage.run(&["-v", "/dev"], &[&image, "sh", "-c", masked]);
        assert_masked(&format!("{target}, -v /dev"), &outcome);
        stage.assert_canary_sings(target);
    }
    let bad = stage.engine.path().join("bad-dev");
    fs::create_dir(&bad).unwrap();
    std::os::unix::fs::symlink(stage.canary().join("CANARY"), bad.join("null")).unwrap();
    fs::write(bad.join("zero"), "not a device").unwrap();
    let volume = format!("{}:/dev", bad.display());
    assert_masked("bind over /dev", &stage.run(&["-v", &volume], &["busybox", "sh", "-c", masked]));
    stage.finish();
}

#[test]
fn row_10_the_console_is_a_terminal_of_the_containers_own() {
    if !require_root("row_10_the_console_is_a_terminal_of_the_containers_own") {
        return;
    }
    let stage = Stage::new();
    let canary = stage.canary().join("CANARY").display().to_string();
    // 1cd1 is devpts: the console is a node of it, and it is ours.
    let look =
        "stat -f -c %t /dev/pts /dev/console; test -c /dev/console && tty; ls -l /dev/console | cut -c1";
    let links = [
        Entry::Folder("dev/"),
        Entry::Folder("dev/pts/"),
        Entry::Link("dev/pts/0", canary.clone()),
        Entry::Link("dev/pts/ptmx", canary.clone()),
        Entry::Link("dev/console", canary.clone()),
        Entry::Link("dev/ptmx", canary.clone()),
        Entry::Link("dev/tty", canary.clone()),
    ];
    stage.image("links", &["dev"], &links);
    stage.image("ptslink", &["dev"], &[Entry::Folder("dev/"), Entry::Link("dev/pts", "/etc".into())]);
    for image in ["busybox", "links", "ptslink"] {
        let outcome = stage.run(&["-t"], &[image, "sh", "-c", look]);
        assert_eq!(outcome.stdout.replace('\r', ""), "1cd1\n1cd1\n/dev/pts/0\nc\n", "{image}: {outcome:?}");
        stage.assert_canary_sings(image);
    }
    for flags in [["-v", "/dev/pts"], ["--tmpfs", "/dev/pts"], ["-v", "/dev/console"]] {
        let outcome = stage.run(&[&["-t"], flags.as_slice()].concat(), &["links", "sh", "-c", look]);
        assert!(outcome.code != 0 || outcome.stdout.contains("/dev/"), "{flags:?}: {outcome:?}");
        stage.assert_canary_sings(flags[1]);
    }
    stage.finish();
}

#[test]
fn row_11_kernel_parameters_are_written_to_the_real_proc_of_the_container() {
    if !require_root("row_11_kernel_parameters_are_written_to_the_real_proc_of_the_container") {
        return;
    }
    let stage = Stage::new();
    let host = || fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    let before = host();
    assert_eq!(
        stage.says(&["--sysctl", "kernel.msgmax=12345"], &["cat", "/proc/sys/kernel/msgmax"]),
        "12345"
    );
    stage.image(
        "fake",
        &["proc"],
        &[
            Entry::Folder("fake/"),
            Entry::Folder("fake/sys/"),
            Entry::Folder("fake/sys/kernel/"),
            Entry::File("fake/sys/kernel/msgmax", "0\n"),
            Entry::Link("proc", "/fake".into()),
        ],
    );
    let outcome = stage.run(
        &["--sysctl", "kernel.msgmax=12345"],
        &["fake", "cat", "/proc/sys/kernel/msgmax", "/fake/sys/kernel/msgmax"],
    );
    assert!(outcome.code != 0 || outcome.stdout == "12345\n0\n", "{outcome:?}");
    for name in [
        "kernel.hostname/../../../etc/x",
        "../../etc/x",
        "kernel/../net.x",
        "kernel.msg/../msgmax",
        "kernel.panic",
    ] {
        let outcome = stage.run(&["--sysctl", &format!("{name}=1")], &["busybox", "true"]);
        assert_ne!(outcome.code, 0, "{name}: {outcome:?}");
    }
    assert_eq!(host(), before);
    stage.finish();
}

#[test]
fn row_12_a_linked_dev_is_not_followed_on_the_host() {
    if !require_root("row_12_a_linked_dev_is_not_followed_on_the_host") {
        return;
    }
    let stage = Stage::new();
    let folder = stage.canary().join("folder").display().to_string();
    let up = format!("../../../../../../../..{folder}");
    for (number, target) in [folder.as_str(), &up, "/proc/self/root", "/x", "dev"].into_iter().enumerate() {
        let image = format!("dev{number}");
        stage.image(&image, &["dev"], &[Entry::Folder("x/"), Entry::Link("dev", target.into())]);
        for flags in [&[] as &[&str], &["-t"], &["--privileged"], &["--device", "/dev/zero:/dev/mine"]] {
            let outcome = stage.run(flags, &[&image, "sh", "-c", "test -c /dev/null && stat -f -c %t /dev/"]);
            let real = outcome.stdout.trim_end() == "1021994";
            assert!(real || (125..=127).contains(&outcome.code), "{target} {flags:?}: {outcome:?}");
            stage.assert_canary_sings(target);
        }
    }
    stage.finish();
}

#[test]
fn row_12_linked_files_of_etc_are_not_followed_on_the_host() {
    if !require_root("row_12_linked_files_of_etc_are_not_followed_on_the_host") {
        return;
    }
    let stage = Stage::new();
    let file = stage.canary().join("CANARY").display().to_string();
    let folder = stage.canary().join("folder").display().to_string();
    for name in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
        let image = name.replace(['/', '.'], "");
        stage.image(&image, &[], &[Entry::Link(name, file.clone())]);
        let outcome = stage.run(
            &["--hostname", "changed"],
            &[&image, "sh", "-c", &format!("cat /{name}; echo; echo changed > /{name}")],
        );
        assert!(!outcome.stdout.contains("sings"), "{name}: {outcome:?}");
        stage.assert_canary_sings(name);
    }
    for (number, target) in
        [folder.as_str(), "/proc/self/root/etc", "../../../../etc"].into_iter().enumerate()
    {
        let image = format!("etc{number}");
        stage.image(&image, &["etc"], &[Entry::Link("etc", target.into())]);
        stage.run(
            &["--hostname", "changed"],
            &[&image, "sh", "-c", "echo changed > /etc/hosts; echo > /etc/new"],
        );
        stage.assert_canary_sings(target);
    }
    assert!(!fs::read_to_string("/etc/hosts").unwrap().contains("changed"));
    assert!(!std::path::Path::new("/etc/new").exists());
    stage.finish();
}

#[test]
fn row_13_mount_points_are_not_made_through_a_link_that_is_swapped_in() {
    if !require_root("row_13_mount_points_are_not_made_through_a_link_that_is_swapped_in") {
        return;
    }
    let stage = Stage::new();
    let folder = stage.canary().join("folder").display().to_string();
    // One container swaps a folder of the shared volume for a link; others are to get mounts beneath it.
    let swap = format!(
        "cd /shared; mkdir -p a/deep; ln -s {folder} l; while :; do mv a b; mv l a; mv a l; mv b a; done"
    );
    stage.start(&["-v", "shared:/shared"], &["busybox", "sh", "-c", &swap]);
    let mut started = 0;
    for round in 0..50 {
        let target = ["/shared/a", "/shared/a/deep", "/shared/a/deep/er"][round % 3];
        let mount = format!("type=tmpfs,destination={target}");
        let volume = format!("/usr/share:{target}:ro");
        let mounts: &[&str] = if round % 2 == 0 { &["--mount", &mount] } else { &["-v", &volume] };
        let look =
            "while read -r id parent dev root point rest; do echo $root $point; done < /proc/self/mountinfo";
        let outcome =
            stage.run(&[&["-v", "shared:/shared"], mounts].concat(), &["busybox", "sh", "-c", look]);
        started += usize::from(outcome.code == 0);
        let outside = outcome.stdout.lines().filter(|line| {
            let mut words = line.split(' ').map(|word| word.starts_with(&folder));
            words.next() == Some(true) || words.next() == Some(true)
        });
        assert_eq!(outside.collect::<Vec<_>>(), Vec::<&str>::new(), "{target}");
        stage.assert_canary_sings(target);
    }
    assert!(started > 0, "no start succeeded, so nothing was tested");
    let ids = stage.engine.yare(&["ps", "-q"]).ok();
    stage.engine.yare(&["rm", "-f", ids.trim()]).ok();
    stage.engine.yare(&["volume", "rm", "shared"]).ok();
    stage.finish();
}
