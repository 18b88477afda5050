//! Clients whose sessions lie, never end, or stop reading: a clear error, nothing outside of the build's own
//! folders, and no more memory than is set aside for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use yare_testkit::{Engine, eventually};

use crate::case::cases;
use crate::client::Client;
use crate::llb::{BUSYBOX, Build, Graph, OWN, Output, SOLVE, STATUS};
use crate::peer::{Asked, FILES, Offers, stat};
use crate::wire::{Message, Refused, Wire};

cases![
    Api:
        names_that_lead_out_are_refused.differs(OWN),
        a_list_without_end_is_refused.differs(OWN),
        long_messages_are_refused.differs(OWN),
        a_client_that_reads_no_news_holds_nothing_up.differs(OWN),
        a_client_that_takes_no_output_ends_with_its_session.differs(OWN);
];

/// Peak of the engine's memory, in MiB, since the last call.
fn peak(engine: &Engine) -> u64 {
    let process = format!("/proc/{}", engine.pid());
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    std::fs::write(format!("{process}/clear_refs"), "5").unwrap();
    peak >> 10
}

/// What more memory the engine took meanwhile, in MiB.
fn growth<T>(engine: &Engine, does: impl FnOnce() -> T) -> (T, u64) {
    peak(engine);
    let before = peak(engine);
    let done = does();
    (done, peak(engine).saturating_sub(before))
}

fn own(c: &Client, case: impl FnOnce(&Engine, &Client)) {
    let engine = Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    case(&engine, &own);
    drop(own);
    engine.finish();
}

/// A build that wants a folder of the client's.
fn folder(graph: &mut Graph) -> Output {
    let base = graph.source(BUSYBOX);
    let local = graph.source("local://folder");
    let copy = Message::new().text(1, "/").text(2, "/copied").int(4, -1).int(5, 1).int(6, 1).int(11, -1);
    let action = Message::new().int(1, 0).int(2, 1).int(3, 0).message(4, &copy);
    graph.add(&[&base, &local], 4, &Message::new().message(2, &action))
}

fn solved(c: &Client, act: impl Fn(Asked) + Send + Sync + 'static) -> Result<Vec<u8>, Refused> {
    let build = Build::acting(c, act);
    let mut graph = Graph::default();
    let copied = folder(&mut graph);
    build.solve(&graph, &copied, "")
}

fn names_that_lead_out_are_refused(c: &Client) {
    own(c, |engine, c| {
        for name in ["../escaped", "/escaped", "a/../../escaped", "..", "a//b", "./x", ""] {
            let act = move |mut call: Asked| {
                call.send(&stat(name, 1));
                call.send(&Message::new().int(1, 0));
                while !call.next().is_empty() {}
            };
            let refused = solved(c, act).unwrap_err();
            assert_eq!(refused.code, 2, "{name:?}: {refused:?}");
            assert!(refused.message.contains("name") || refused.message.contains("path"), "{refused:?}");
        }
        let found = c.run(&format!("find {} /escaped -name 'escaped*' 2>/dev/null", engine.path().display()));
        assert_eq!(found.stdout, "");
    });
}

fn a_list_without_end_is_refused(c: &Client) {
    own(c, |engine, c| {
        let act = |mut call: Asked| {
            let deep: Vec<String> = (0..15).map(|level| format!("{level:02}{}", "d".repeat(240))).collect();
            let mut path = String::new();
            for name in &deep {
                path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                let told = Message::new().text(1, &path).int(2, 0o755 | 0x8000_0000);
                call.send(&Message::new().int(1, 0).message(2, &told));
            }
            let mut number = 0_u64;
            while call.send(&stat(&format!("{path}/f{number:09}"), 1)) {
                number += 1;
            }
        };
        let (refused, more) = growth(engine, || solved(c, act).unwrap_err());
        assert!(refused.message.contains("entries, or names of more than"), "{refused:?}");
        assert!(more < 700, "{more} MiB more for at most 256 MiB of names");
    });
}

fn long_messages_are_refused(c: &Client) {
    own(c, |engine, c| {
        // The announcement, and then all of the 100 MB.
        let act = |mut call: Asked| {
            if call.path != FILES {
                return call.end("12");
            }
            call.send_bytes(Bytes::from_static(&[0, 6, 64, 0, 0]));
            let piece = Bytes::from(vec![0; 1 << 20]);
            for _ in 0..100 {
                if !call.send_bytes(piece.clone()) {
                    return;
                }
            }
        };
        let (refused, more) = growth(engine, || solved(c, act).unwrap_err());
        assert!(refused.message.contains("too long"), "{refused:?}");
        assert!(more < 64, "{more} MiB more");
        let (refused, more) = growth(engine, || {
            let build = Build::offering(c, Offers::default());
            let large = Message::new().bytes(1, &vec![0; 100 << 20]);
            build.wire.call(SOLVE, "", &large).unwrap_err()
        });
        assert_eq!(refused.code, 8, "{refused:?}");
        assert!(more < 64, "{more} MiB more");
    });
}

fn a_client_that_reads_no_news_holds_nothing_up(c: &Client) {
    own(c, |engine, c| {
        let build = Build::offering(c, Offers::default());
        let mut graph = Graph::default();
        let base = graph.source(BUSYBOX);
        let said = graph.run(
            &base,
            &[],
            "dd if=/dev/zero bs=1M count=200 2>/dev/null | tr '\\0' x | fold -w 1000",
            &[],
        );
        let id = build.id();
        let request = build.request(&id, &graph.definition(&said), "");
        let ((), more) = growth(engine, || {
            let wire = build.wire.clone();
            let solving = std::thread::spawn(move || wire.call(SOLVE, "", &request));
            // On a connection of its own: what is not read of one call stops all of a connection.
            let unread = Wire::open(&c.host.socket).unread(STATUS, &Message::new().text(1, &id));
            solving.join().unwrap().unwrap();
            drop(unread);
        });
        assert!(more < 160, "{more} MiB more for 200 MB of output, of which 16 MiB are kept");
    });
}

fn a_client_that_takes_no_output_ends_with_its_session(c: &Client) {
    own(c, |engine, c| {
        let called = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&called);
        let build = Build::acting(c, move |call: Asked| {
            begun.store(true, Ordering::Release);
            // It never reads, until the test is over.
            std::thread::sleep(Duration::from_secs(60));
            drop(call);
        });
        let mut graph = Graph::default();
        let base = graph.source(BUSYBOX);
        let large = graph.run(&base, &[], "dd if=/dev/urandom of=/large bs=1M count=64 2>/dev/null", &[]);
        let exporter = Message::new().text(1, "tar");
        let request = Message::new().text(1, &build.id()).message(2, &graph.definition(&large));
        let request = request.text(5, &build.session).message(13, &exporter);
        let wire = build.wire.clone();
        let (solving, more) = growth(engine, || {
            let solving = std::thread::spawn(move || wire.call(SOLVE, "", &request));
            eventually("the output is offered", Duration::from_secs(60), || called.load(Ordering::Acquire));
            // More than a moment, for what would pile up now.
            std::thread::sleep(Duration::from_secs(1));
            solving
        });
        assert!(more < 64, "{more} MiB more");
        assert!(!solving.is_finished(), "nobody took the output");
        drop(build);
        let refused = solving.join().unwrap().unwrap_err();
        assert!(refused.code != 0, "{refused:?}");
    });
}
