//! Pull-through caches whose blobs are in a bucket that several registries serve.

use crate::buckets;
use crate::cache::{Halting, begin, manifest};
use crate::client::Client;
use crate::replicas::Replicas;
use crate::served::Served;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use yare_oci::Digest;

/// More than a part of an object, so that the bucket has some of it before it is whole.
const HALF: usize = 9 << 20;

/// Registries over one bucket that cache an upstream below `hub`.
fn caches(name: &str, upstream: &str, more: &str) -> Option<Replicas> {
    Replicas::new(name, &format!("[[proxy]]\nprefix = 'hub'\nupstream = '{upstream}'\n{more}"))
}

fn blob(client: &Client, digest: &Digest) -> crate::client::Answer {
    client.get(&format!("/v2/hub/app/blobs/{digest}"))
}

/// What is left of a reply.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // One that is cut may be reset.
    let _ = stream.read_to_end(&mut rest);
    rest
}

/// Waits until what goes on behind the replies has come so far.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the bucket has so many blobs, and nothing that is on its way.
#[track_caller]
fn settles(served: &Served, replicas: &Replicas, blobs: u64) {
    let scrubbed = || served.runtime.block_on(yare_registry::scrub(&served.registry, false)).unwrap();
    eventually("what came in is stored", || scrubbed().blobs == blobs);
    assert!(scrubbed().damaged.is_empty());
    eventually("nothing else is left", || holds(replicas, blobs as usize));
}

/// Whether the test sees so many blobs, and nothing that is on its way; true where it cannot look.
fn holds(replicas: &Replicas, blobs: usize) -> bool {
    let count = |of: &str| replicas.objects(of).map(|objects| objects.len());
    count("blobs/").is_none_or(|found| found == blobs) && count("uploads/").is_none_or(|found| found == 0)
}

#[test]
fn what_one_fetched_all_have() {
    let upstream = Served::new("");
    let layer: Vec<u8> = (0..20_000_000_u32).map(|number| (number % 251) as u8).collect();
    let pushed = upstream.client.push_image("app", "v1", "small");
    upstream.client.push_blob("app", &layer);
    let Some(replicas) = caches("fetched", &upstream.client.address, "") else { return };
    let (first, second) = (replicas.start("a"), replicas.start("b"));
    assert_eq!(manifest(&first.client, "v1").expect(200).body, pushed.bytes);
    assert_eq!(blob(&first.client, &pushed.layer).expect(200).body, b"small");
    assert!(blob(&first.client, &Digest::of(&layer)).expect(200).body == layer);
    second.client.head(&format!("/v2/hub/app/blobs/{}", pushed.config)).expect(200);
    settles(&first, &replicas, 2);
    drop(upstream);
    for served in [&second, &replicas.start("new")] {
        let got = manifest(&served.client, "v1").expect(200);
        assert_eq!((got.header("Warning"), &got.body), (None, &pushed.bytes));
        assert_eq!(blob(&served.client, &pushed.layer).expect(200).body, b"small");
        assert!(blob(&served.client, &Digest::of(&layer)).expect(200).body == layer);
        blob(&served.client, &pushed.config).expect(502);
    }
    settles(&first, &replicas, 2);
}

#[test]
fn two_that_fetch_one_blob_store_it_once() {
    let upstream = Halting::new(HALF);
    let Some(replicas) = caches("at-once", &upstream.address, "") else { return };
    let served = [replicas.start("a"), replicas.start("b")];
    let layer = upstream.pushed.layer;
    // Half of it is with all clients, of which two share a transfer.
    let streams: Vec<TcpStream> = [&served[0], &served[1], &served[1]]
        .map(|served| {
            manifest(&served.client, "v1").expect(200);
            begin(&served.client, &layer, HALF / 2)
        })
        .into();
    assert!(holds_no_blob(&replicas), "what is not whole is no object");
    for _ in 0..2 {
        upstream.go.send(vec![7; HALF]).unwrap();
    }
    for stream in streams {
        assert_eq!(rest(stream).len(), 2 * HALF - HALF / 2);
    }
    for served in &served {
        assert_eq!(blob(&served.client, &layer).expect(200).body.len(), 2 * HALF);
        settles(served, &replicas, 1);
    }
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 2);
}

fn holds_no_blob(replicas: &Replicas) -> bool {
    replicas.objects("blobs/").is_none_or(|objects| objects.is_empty())
}

#[test]
fn nothing_of_what_is_wrong_is_kept() {
    let upstream = Halting::new(HALF);
    let Some(replicas) = caches("wrong", &upstream.address, "") else { return };
    let served = replicas.start("a");
    manifest(&served.client, "v1").expect(200);
    let layer = upstream.pushed.layer;
    let stream = begin(&served.client, &layer, HALF / 2);
    if replicas.objects("").is_some() {
        eventually("the bucket has a part of it", || replicas.objects("uploads/").unwrap().len() == 1);
    }
    upstream.go.send(vec![8; HALF]).unwrap();
    assert!(rest(stream).len() < 2 * HALF - HALF / 2, "the last byte must not come");
    settles(&served, &replicas, 0);
    // The next client makes it come anew.
    upstream.go.send(vec![7; HALF]).unwrap();
    assert_eq!(blob(&served.client, &layer).expect(200).body.len(), 2 * HALF);
    settles(&served, &replicas, 1);
}

#[test]
fn a_process_that_ends_leaves_nothing_to_be_seen() {
    let upstream = Halting::new(HALF);
    let text = "[collect]\ngrace = '0'\nuploads = '0'\n";
    let Some(replicas) = caches("ends", &upstream.address, text) else { return };
    let first = replicas.start("a");
    manifest(&first.client, "v1").expect(200);
    let layer = upstream.pushed.layer;
    let stream = begin(&first.client, &layer, HALF / 2);
    if replicas.objects("").is_some() {
        eventually("the bucket has a part of it", || replicas.objects("uploads/").unwrap().len() == 1);
    }
    // Its tasks end where they are.
    drop(stream);
    drop(first);
    assert!(holds_no_blob(&replicas));
    let second = replicas.start("b");
    second.collect(false);
    assert!(holds(&replicas, 0), "what it left is swept");
    // The first one is for the connection that is gone.
    for _ in 0..2 {
        upstream.go.send(vec![7; HALF]).unwrap();
    }
    assert_eq!(blob(&second.client, &layer).expect(200).body.len(), 2 * HALF);
}

/// A way to the store on which nothing moves while the flag is set.
fn halting_line() -> Option<(String, Arc<AtomicBool>)> {
    let store = buckets::address()?;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let halted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&halted);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (near, far) = (stream.unwrap(), TcpStream::connect(store).unwrap());
            for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                let flag = Arc::clone(&flag);
                std::thread::spawn(move || {
                    let mut bytes = vec![0; 64 << 10];
                    while let Ok(count @ 1..) = from.read(&mut bytes) {
                        while flag.load(Ordering::SeqCst) {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        if to.write_all(&bytes[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    Some((address, halted))
}

#[test]
fn a_bucket_that_does_not_answer_keeps_no_client_waiting() {
    let upstream = Halting::new(HALF);
    let Some(replicas) = caches("slow", &upstream.address, "") else { return };
    let Some((line, halted)) = halting_line() else { return };
    let served = replicas.start_through("a", &line);
    manifest(&served.client, "v1").expect(200);
    let layer = upstream.pushed.layer;
    let stream = begin(&served.client, &layer, HALF / 2);
    halted.store(true, Ordering::SeqCst);
    upstream.go.send(vec![7; HALF]).unwrap();
    assert_eq!(rest(stream).len(), 2 * HALF - HALF / 2);
    assert!(halted.swap(false, Ordering::SeqCst), "the client had all before the bucket answered");
    settles(&served, &replicas, 1);
}

#[test]
fn what_has_no_room_is_passed_through() {
    let upstream = Served::new("");
    let pushed = upstream.client.push_image("app", "v1", "one");
    let quota = "[[quota]]\nrepositories = '**'\nbytes = 1\n";
    let Some(replicas) = caches("no-room", &upstream.client.address, quota) else { return };
    let served = replicas.start("a");
    for _ in 0..2 {
        assert_eq!(manifest(&served.client, "v1").expect(200).body, pushed.bytes);
        assert_eq!(blob(&served.client, &pushed.layer).expect(200).body, b"one");
    }
    settles(&served, &replicas, 0);
}
