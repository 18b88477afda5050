//! Rows 3 to 6 and 38: files that are copied from and to a container whose processes mean harm.

use std::fs;

use tar::{Builder, EntryType, Header};
use yare_testkit::{Invocation, require_root};

use crate::stage::{Entry, Stage};

/// How often each copy is tried against one who exchanges names.
const TRIES: usize = 60;

/// A container in which `/s/x` is a directory and a link to the canary by turns.
fn swapping(stage: &Stage, flags: &[&str]) -> String {
    let target = stage.canary().display();
    let script = format!(
        "mkdir -p /s/x/deep && echo inside > /s/x/CANARY && ln -s {target} /s/link && exec /probe swap /s/x /s/link"
    );
    let id = stage.start(flags, &["busybox", "sh", "-c", &script]);
    let ready = "until [ -L /s/x ] || [ -L /s/link ]; do usleep 10000; done";
    assert_eq!(stage.exec(&[], &id, &["timeout", "20", "sh", "-c", ready]).code, 0);
    id
}

fn one_file(name: &str, content: &str) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_mode(0o4755);
    header.set_size(content.len() as u64);
    let mut tar = Builder::new(Vec::new());
    tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn row_03_names_that_change_lead_nowhere() {
    if !require_root("row_03_names_that_change_lead_nowhere") {
        return;
    }
    let stage = Stage::new();
    let id = swapping(&stage, &[]);
    let folder = tempfile::tempdir().unwrap();
    let evil = folder.path().join("evil");
    fs::write(&evil, "evil\n").unwrap();
    let evil = evil.display().to_string();
    let mut copied = 0;
    for number in 0..TRIES {
        for source in ["/s/x/CANARY", "/s/x/.", "/s/x/deep/../CANARY", "/s"] {
            let said = stage.engine.yare(&["cp", &format!("{id}:{source}"), "-"]).run();
            assert!(!said.stdout.contains("sings"), "{source}: {said:?}");
            copied += usize::from(said.code == 0 && said.stdout.contains("inside"));
        }
        for target in ["/s/x", "/s/x/evil", "/s/x/deep", "/s/x/CANARY"] {
            stage.engine.yare(&["cp", &evil, &format!("{id}:{target}")]).run();
        }
        // Names in the archive lead through the link too.
        let tar = one_file("s/x/planted", "evil\n");
        stage.engine.yare(&["cp", "-", &format!("{id}:/")]).input(tar).run();
        let out = folder.path().join(format!("out{number}"));
        stage.engine.yare(&["cp", "-L", &format!("{id}:/s/x"), &out.display().to_string()]).run();
        assert!(!out.is_symlink(), "a link that is followed came out as one");
        stage.assert_canary_sings("names that change");
    }
    assert!(copied > 0, "nothing was ever copied: the test shows nothing");
    let found = Invocation::new("grep", &["-rl", "sings", &folder.path().display().to_string()]).run();
    assert_eq!(found.stdout, "", "a file of the host came out of the container");
    stage.engine.yare(&["rm", "-f", &id]).ok();
    stage.finish();
}

#[test]
fn row_05_no_program_of_the_container_is_run() {
    if !require_root("row_05_no_program_of_the_container_is_run") {
        return;
    }
    let stage = Stage::new();
    let marker = stage.canary().join("folder/marker").display().to_string();
    let program = format!("#!/bin/sh\necho ran > /ran; echo ran > {marker}; cat\n").leak();
    let names = ["usr/bin/xz", "usr/bin/unpigz", "usr/bin/gzip", "usr/bin/tar", "usr/bin/zstd"];
    let library = ["lib/libnss_files.so.2", "lib64/libnss_compat.so.2", "etc/ld.so.preload"];
    let mut entries: Vec<Entry> = names.map(|name| Entry::File(name, program)).into();
    entries.extend(library.map(|name| Entry::File(name, "/evil.so\n")));
    stage.image("poisoned", &[], &entries);
    let id = stage.start(&[], &["poisoned", "sleep", "1000"]);
    let tar = one_file("f", "content\n");
    for packer in ["gzip", "xz", "zstd", "bzip2"] {
        let packed = packed(packer, &tar);
        stage.engine.yare(&["cp", "-", &format!("{id}:/tmp")]).input(packed).ok();
        let said = stage.exec(&[], &id, &["sh", "-c", "cat /tmp/f && rm /tmp/f && ls /ran"]);
        assert!(said.stdout == "content\n" && said.code != 0, "{packer}: {said:?}");
        stage.assert_canary_sings(packer);
    }
    stage.engine.yare(&["cp", "-a", &format!("{id}:/etc"), "-"]).ok();
    stage.engine.yare(&["rm", "-f", &id]).ok();
    stage.finish();
}

fn packed(packer: &str, tar: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.tar");
    fs::write(&file, tar).unwrap();
    let target = folder.path().join("packed").display().to_string();
    Invocation::new("sh", &["-c", &format!("{packer} -c {} > {target}", file.display())]).ok();
    fs::read(target).unwrap()
}

#[test]
fn row_06_mount_points_that_change_lead_nowhere() {
    if !require_root("row_06_mount_points_that_change_lead_nowhere") {
        return;
    }
    let stage = Stage::new();
    // The victim's second volume lies in a folder of the first, which the attacker has too.
    let attacker = swapping(&stage, &["-v", "shared:/s"]);
    let mounts = ["-v", "shared:/s", "-v", "inner:/s/x/inner", "-v", "deeper:/s/x/new/deeper"];
    let victim = stage.engine.yare(&[["create"].as_slice(), &mounts, &["busybox"]].concat()).ok();
    let victim = victim.trim();
    let tar = one_file("planted", "evil\n");
    for _ in 0..TRIES {
        for path in ["/s/x/inner", "/s/x/new/deeper", "/"] {
            stage.engine.yare(&["cp", "-", &format!("{victim}:{path}")]).input(&*tar).run();
            stage.engine.yare(&["cp", &format!("{victim}:{path}"), "-"]).run();
        }
        stage.assert_canary_sings("mount points that change");
    }
    stage.engine.yare(&["rm", "-f", &attacker, victim]).ok();
    stage.engine.yare(&["volume", "rm", "-f", "shared", "inner", "deeper"]).ok();
    stage.finish();
}

#[test]
fn row_38_what_the_kernel_shows_is_out_of_reach() {
    if !require_root("row_38_what_the_kernel_shows_is_out_of_reach") {
        return;
    }
    let stage = Stage::new();
    let canary = stage.canary().join("CANARY").display().to_string();
    let script = "ln -s /proc/self/root /self; ln -s /proc/1/root /one; ln -s /proc/sys/kernel /kernel; \
                  ln -s /sys /system; echo ready; sleep 1000";
    let id = stage.start(&["--privileged"], &["busybox", "sh", "-c", script]);
    let ready = "until [ -L /system ]; do usleep 10000; done";
    assert_eq!(stage.exec(&[], &id, &["timeout", "20", "sh", "-c", ready]).code, 0);
    let hostname = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for path in [
        format!("/self{canary}"),
        format!("/one{canary}"),
        "/proc/1/environ".to_owned(),
        "/kernel/core_pattern".to_owned(),
        "/system/kernel".to_owned(),
    ] {
        let said = stage.engine.yare(&["cp", &format!("{id}:{path}"), "-"]).run();
        assert_ne!(said.code, 0, "{path}: {said:?}");
        stage.engine.yare(&["cp", "/etc/hostname", &format!("{id}:{path}")]).run();
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), hostname);
    // Links in an archive are no way out either: what it puts behind them stays below the destination.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    let mut tar = Builder::new(Vec::new());
    tar.append_link(&mut header, "l", stage.canary()).unwrap();
    let (mut tar, file) = (tar.into_inner().unwrap(), one_file("l/folder/planted", "evil\n"));
    tar.truncate(tar.len() - 1024);
    tar.extend(file);
    stage.engine.yare(&["cp", "-", &format!("{id}:/tmp")]).input(tar).run();
    stage.assert_canary_sings("links in an archive");
    stage.engine.yare(&["rm", "-f", &id]).ok();
    stage.finish();
}
