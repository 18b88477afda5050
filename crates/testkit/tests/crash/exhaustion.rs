//! A full disk, and no more open files: clear errors, nothing half made, and all is well once there is room.

use std::fs;
use std::io::Read;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};
use yare_testkit::{Engine, Outcome, eventually, require_root, yare_binary};

use crate::api::Api;
use crate::leaks;

/// An engine whose data root is a filesystem with little room beside what the engine itself puts there: its
/// own binary, as the first image.
pub(crate) fn engine_on_small_disk(megabytes: u64) -> Engine {
    let megabytes = megabytes + (yare_binary().metadata().unwrap().len() >> 20);
    let mut engine = Engine::start();
    engine.stop();
    fs::remove_dir_all(engine.data_root()).unwrap();
    fs::create_dir(engine.data_root()).unwrap();
    let options = std::ffi::CString::new(format!("size={megabytes}m,mode=710")).unwrap();
    mount("tmpfs", engine.data_root(), "tmpfs", MountFlags::empty(), Some(options.as_c_str())).unwrap();
    engine.restart();
    engine
}

fn assert_says_full(what: &str, outcome: &Outcome) {
    let text = format!("{}{}", outcome.stdout, outcome.stderr).to_lowercase();
    assert!(outcome.code != 0 && text.contains("no space left"), "{what}: {outcome:?}");
}

#[test]
fn a_full_disk_is_an_error_and_no_more() {
    if !require_root("a_full_disk_is_an_error_and_no_more") {
        return;
    }
    let mut engine = engine_on_small_disk(40);
    engine.load_busybox();
    engine.docker(&["run", "-d", "--name", "steady", "busybox", "sleep", "1000"]).ok();
    let listed = ["images", "-a", "--format", "{{.ID}} {{.Repository}} {{.Size}}"];
    let images = engine.docker(&listed).ok();
    let layers = || leaks::entries(&engine.data_root().join("snapshots/layers")).len();
    let before = layers();

    // An image that does not fit.
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(60 << 20);
    tar.append_data(&mut header, "big", vec![7_u8; 60 << 20].as_slice()).unwrap();
    let tar = tar.into_inner().unwrap();
    assert_says_full("import", &engine.docker(&["import", "-", "big"]).input(&*tar).run());
    assert_eq!(engine.docker(&listed).ok(), images);
    assert_eq!(layers(), before);
    eventually("the space is free again", Duration::from_secs(60), || {
        leaks::entries(&engine.data_root().join("snapshots/tmp")).is_empty()
            && leaks::entries(&engine.data_root().join("snapshots/trash")).is_empty()
    });
    engine.docker(&["run", "--rm", "busybox", "true"]).ok();

    // A copy and a commit that do not fit.
    assert_says_full("cp", &engine.docker(&["cp", "-", "steady:/tmp"]).input(&*tar).run());
    engine.docker(&["exec", "steady", "rm", "-f", "/tmp/big"]).ok();
    engine.docker(&["exec", "steady", "dd", "if=/dev/zero", "of=/half", "bs=1M", "count=25"]).ok();
    assert_says_full("commit", &engine.docker(&["commit", "steady", "big"]).run());
    assert_eq!(engine.docker(&listed).ok(), images);
    assert_eq!(layers(), before);
    assert_eq!(engine.docker(&["exec", "steady", "rm", "/half"]).ok(), "", "it is not frozen");
    eventually("the space is free again", Duration::from_secs(60), || {
        leaks::entries(&engine.data_root().join("snapshots/tmp")).is_empty()
            && leaks::entries(&engine.data_root().join("snapshots/trash")).is_empty()
    });

    // A container that takes all there is.
    let fill = "dd if=/dev/zero of=/fill bs=64k 2>&1; echo over; exit 6";
    let filled = engine.docker(&["run", "--name", "filler", "busybox", "sh", "-c", fill]).run();
    assert!(filled.code == 6 && filled.stdout.contains("No space left"), "{filled:?}");
    assert_eq!(engine.docker(&["inspect", "-f", "{{.State.ExitCode}}", "filler"]).ok(), "6\n");
    assert_eq!(engine.docker(&["exec", "steady", "echo", "hi"]).ok(), "hi\n");
    for args in
        [["create", "busybox"].as_slice(), &["volume", "create", "more"], &["run", "--rm", "busybox", "true"]]
    {
        let outcome = engine.docker(args).run();
        // What fits in the last few bytes may still succeed.
        if outcome.code != 0 {
            assert_says_full(&args.join(" "), &outcome);
        }
    }

    // A full disk is emptied by removing, without a restart, and what was written while it was full survives
    // a crash.
    engine.docker(&["rm", "filler"]).ok();
    engine.docker(&["create", "--name", "after", "busybox"]).ok();
    engine.kill9();
    engine.restart();
    assert_eq!(engine.docker(&["exec", "steady", "echo", "hi"]).ok(), "hi\n");
    assert!(!engine.docker(&["ps", "-aq", "--filter", "name=after"]).ok().is_empty());
    eventually("there is room again", Duration::from_secs(60), || {
        engine
            .docker(&["run", "--rm", "busybox", "sh", "-c", "dd if=/dev/zero of=/x bs=1M count=5"])
            .run()
            .code
            == 0
    });
    engine.docker(&["volume", "rm", "--force", "more"]).ok();
    let ids = engine.docker(&["ps", "-aq"]).ok();
    let ids: Vec<&str> = ids.split_whitespace().collect();
    engine.docker(&[["rm", "-f"].as_slice(), &ids].concat()).ok();
    engine.stop();
    unmount(engine.data_root(), UnmountFlags::empty()).unwrap();
    engine.restart();
    leaks::assert_clean(engine);
}

fn limit_open_files(engine: &Engine, limit: u64) -> Rlimit {
    let pid = Pid::from_raw(i32::try_from(engine.pid()).unwrap());
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum.map_or(limit, |maximum| limit.min(maximum));
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap()
}

#[test]
fn too_many_open_files_is_an_error_and_no_more() {
    if !require_root("too_many_open_files_is_an_error_and_no_more") {
        return;
    }
    let engine = Engine::start();
    engine.load_busybox();
    engine.docker(&["run", "-d", "--name", "steady", "busybox", "sleep", "1000"]).ok();
    let api = Api::new(engine.socket());
    let open = || leaks::entries(format!("/proc/{}/fd", engine.pid()).as_ref()).len() as u64;
    std::thread::sleep(Duration::from_millis(300));
    let before = open();
    for room in [2, 4, 8, 14] {
        let whole = limit_open_files(&engine, before + room);
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    let run = engine.yare(&["run", "--rm", "-v", "/data", "busybox", "echo", "hi"]);
                    scope.spawn(move || run.patience(Duration::from_secs(60)).run())
                })
                .collect();
            // They may have to wait for one another, not for ever.
            std::thread::sleep(Duration::from_secs(1));
            limit_open_files(&engine, whole.current.unwrap_or(u64::MAX));
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        for outcome in outcomes {
            let clear = outcome.stderr.to_lowercase().contains("too many open files");
            assert!(outcome.code == 0 && outcome.stdout == "hi\n" || clear, "room for {room}: {outcome:?}");
        }
        assert_eq!(
            engine.docker(&["run", "--rm", "busybox", "echo", "fine"]).ok(),
            "fine\n",
            "room for {room}"
        );
        assert_eq!(engine.docker(&["exec", "steady", "echo", "fine"]).ok(), "fine\n", "room for {room}");
    }
    eventually("no descriptor stays open", Duration::from_secs(60), || open() <= before + 4);
    // A client that could not go on after it had created its container leaves it, as docker does.
    let left = api.get("/containers/json?all=1").unwrap().json();
    let mut states = left.as_array().into_iter().flatten().map(|row| (&row["State"], &row["Command"]));
    assert!(states.all(|(state, command)| state == "created" || command == "sleep 1000"), "{left}");
    leaks::assert_clean(engine);
}

/// More than a pool of threads has, for each kind of client that may be silent for as long as it likes.
const SILENT: usize = 600;

#[test]
fn silent_clients_do_not_hold_up_others() {
    if !require_root("silent_clients_do_not_hold_up_others") {
        return;
    }
    let engine = Engine::start();
    engine.load_busybox();
    let program = "while sleep 0.1; do echo tick; done";
    let id = engine.docker(&["run", "-d", "busybox", "sh", "-c", program]).ok();
    let api = Api::new(engine.socket());
    let follow = format!("/containers/{}/logs?stdout=1&follow=1&tail=0", id.trim());
    let fine = |what: &str| {
        let run = engine.docker(&["run", "--rm", "busybox", "echo", "fine"]);
        assert_eq!(run.patience(Duration::from_secs(40)).ok(), "fine\n", "{what}");
    };
    let mut followers: Vec<_> = (0..SILENT).map(|_| api.begin("GET", &follow, "", 0).unwrap()).collect();
    fine("beside followers");
    for follower in &mut followers {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("tick") {
            let mut buffer = [0; 4096];
            let length = follower.read(&mut buffer).unwrap();
            assert!(length > 0, "a follower was let go: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&buffer[..length]);
        }
    }
    drop(followers);
    let stats = format!("/containers/{}/stats", id.trim());
    let watchers: Vec<_> = (0..SILENT).map(|_| api.begin("GET", &stats, "", 0).unwrap()).collect();
    fine("beside those who watch and do not read");
    drop(watchers);
    let archive = format!("/containers/{}/archive?path=/tmp", id.trim());
    let copies: Vec<_> =
        (0..SILENT).map(|_| api.begin("PUT", &archive, "application/x-tar", 1 << 20).unwrap()).collect();
    fine("beside copies that have stalled");
    drop(copies);
    let uploads: Vec<_> = (0..SILENT)
        .map(|_| api.begin("POST", "/images/load", "application/x-tar", 1 << 20).unwrap())
        .collect();
    fine("beside uploads that have stalled");
    drop(uploads);
    let threads = || leaks::entries(format!("/proc/{}/task", engine.pid()).as_ref()).len();
    eventually("the threads of the uploads end", Duration::from_secs(60), || threads() < SILENT / 2);
    leaks::assert_clean(engine);
}

#[test]
fn addresses_and_ports_of_starts_that_failed_come_back() {
    if !require_root("addresses_and_ports_of_starts_that_failed_come_back") {
        return;
    }
    let engine = Engine::start();
    engine.load_busybox();
    let api = Api::new(engine.socket());
    let body = json!({
        "Image": "busybox", "Cmd": ["/nosuch"],
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}},
    });
    let id = api.post("/containers/create", &body).unwrap().json()["Id"].as_str().unwrap().to_owned();
    // More than the subnet has addresses.
    for _ in 0..300 {
        let answer = api.post(&format!("/containers/{id}/start"), &Value::Null).unwrap();
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(answer.text().contains("/nosuch"), "{}", answer.text());
    }
    assert_eq!(leaks::elements(&engine.bridge()), Vec::<String>::new());
    assert_eq!(engine.docker(&["run", "--rm", "busybox", "echo", "fine"]).ok(), "fine\n");
    leaks::assert_clean(engine);
}
