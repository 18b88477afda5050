//! Clients that lie, stall, and ask for what they must not get.

use crate::client::{image, location, read_answer, with_digest};
use crate::served::Served;
use serde_json::json;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use yare_oci::{Digest, MediaType};

fn files(served: &Served, folder: &str) -> usize {
    std::fs::read_dir(served.root.join(folder)).unwrap().count()
}

#[test]
fn a_wrong_digest_leaves_nothing() {
    let served = Served::new("");
    let at = with_digest(&served.client.start("a"), &Digest::of("good"));
    served.client.send("PUT", &at, &[], b"evil").refused(400, "DIGEST_INVALID");
    assert_eq!((files(&served, "uploads"), files(&served, "blobs/sha256")), (0, 0));
}

#[test]
fn a_truncated_body_is_gone_on_with_and_not_taken_for_whole() {
    let served = Served::new("");
    let client = &served.client;
    let at = client.start("a");
    let digest = Digest::of("0123456789");
    let mut stream = client.connect();
    let head =
        format!("PUT {} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n01234", with_digest(&at, &digest));
    stream.write_all(head.as_bytes()).unwrap();
    drop(stream);
    let begun = Instant::now();
    while client.get(&at).header("Range") != Some("0-4") {
        assert!(begun.elapsed() < Duration::from_secs(60), "what came is kept");
        std::thread::sleep(Duration::from_millis(20));
    }
    client.get(&format!("/v2/a/blobs/{digest}")).expect(404);
    let answer = client.send("PATCH", &at, &[("Content-Range", "5-9")], b"56789").expect(202);
    client.send("PUT", &with_digest(&location(&answer), &digest), &[], b"").expect(201);
}

#[test]
fn lengths_must_be_right() {
    let served = Served::new("");
    let at = served.client.start("a");
    let answer = served.client.send("PATCH", &at, &[("Content-Range", "0-9")], b"abc");
    answer.refused(400, "SIZE_INVALID");
    for bad in ["x", "9-0", "0", "-5", "0-18446744073709551615"] {
        served.client.send("PATCH", &at, &[("Content-Range", bad)], b"abc").refused(416, "RANGE_INVALID");
    }
    assert_eq!(served.client.get(&at).expect(204).header("Range"), Some("0-0"));
    // Two lengths are how requests are smuggled.
    let mut stream = served.client.connect();
    let head =
        format!("PATCH {at} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde");
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(read_answer(stream, "PATCH").unwrap().status, 400);
}

#[test]
fn blobs_and_manifests_are_bounded() {
    let served = Served::new("[limits]\nblob = '1000'");
    let at = served.client.start("a");
    let answer = served.client.send("PATCH", &at, &[], &[0; 2000]);
    answer.refused(413, "SIZE_INVALID");
    served.client.get(&at).refused(404, "BLOB_UPLOAD_UNKNOWN");
    // A manifest of 100 MB is refused before it is sent.
    let begun = Instant::now();
    let headers = [("Content-Length", "100000000"), ("Content-Type", MediaType::OCI_MANIFEST)];
    served.client.send("PUT", "/v2/a/manifests/v1", &headers, b"{").refused(413, "MANIFEST_INVALID");
    assert!(begun.elapsed() < Duration::from_secs(20));
    // And one without a length, when it has become too long.
    let mut stream = served.client.connect();
    stream
        .write_all(b"PUT /v2/a/manifests/v1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let piece = vec![b' '; 1 << 20];
    for _ in 0..10 {
        if stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).is_err()
            || stream.write_all(&piece).is_err()
            || stream.write_all(b"\r\n").is_err()
        {
            break;
        }
    }
    // The reply may be lost in the reset that ends an unread body.
    if let Ok(answer) = read_answer(stream, "PUT") {
        assert_eq!(answer.status, 413);
    }
}

#[test]
fn names_do_not_lead_out_of_the_root() {
    let served = Served::new("");
    let digest = Digest::of("x");
    for path in [
        "/v2/../../etc/manifests/passwd",
        "/v2/%2e%2e/%2e%2e/etc/manifests/passwd",
        "/v2/a/../b/tags/list",
        "/v2/a%2f%2e%2e%2fb/tags/list",
        "/v2/a/blobs/uploads/../../../lock",
        "/v2/a/blobs/uploads/..%2f..%2flock",
        "/v2/a/manifests/..%2f..%2fx",
        "/v2/a/blobs/sha256:../../x",
        &format!("/v2/A/blobs/{digest}"),
        "/v2/a%00b/tags/list",
        "/../../etc/passwd",
    ] {
        let answer = served.client.get(path);
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.status);
    }
    let answer = served.client.send("PUT", "/v2/..%2f..%2fx/manifests/v1", &[], b"{}");
    answer.refused(400, "NAME_INVALID");
    let from = format!("/v2/a/blobs/uploads/?mount={digest}&from=../../x");
    served.client.send("POST", &from, &[], b"").refused(400, "NAME_INVALID");
}

#[test]
fn manifests_that_can_be_read_in_two_ways_are_refused() {
    let served = Served::new("");
    let pushed = served.client.push_image("a", "v1", "x");
    let mut both = image(&[(pushed.config, 2), (pushed.layer, 1)]);
    both["manifests"] =
        json!([{ "mediaType": MediaType::OCI_MANIFEST, "digest": pushed.digest.to_string(), "size": 1 }]);
    for kind in [MediaType::OCI_MANIFEST, MediaType::OCI_INDEX, "application/json", "text/html"] {
        let answer = served.client.put("a", "v2", kind, both.to_string().as_bytes());
        answer.refused(400, "MANIFEST_INVALID");
    }
    let deep = "[".repeat(100_000);
    served.client.put("a", "v2", MediaType::OCI_MANIFEST, deep.as_bytes()).refused(400, "MANIFEST_INVALID");
}

#[test]
fn slow_clients_are_shown_out() {
    let served = Served::new("[limits]\nsilence = '1s'");
    // A head that never ends.
    let mut stream = served.client.connect();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n").unwrap();
    assert_ends(&mut stream, "head");
    // A body that never comes.
    let at = served.client.start("a");
    let mut stream = served.client.connect();
    let head = format!("PATCH {at} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc");
    stream.write_all(head.as_bytes()).unwrap();
    assert_ends(&mut stream, "body");
    // A body that trickles.
    let at = served.client.start("a");
    let mut stream = served.client.connect();
    let head = format!("PATCH {at} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let begun = Instant::now();
    while stream.write_all(b"x").is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(60), "trickling goes on for ever");
        std::thread::sleep(Duration::from_millis(100));
    }
    // Others were served meanwhile.
    served.client.get("/v2/").expect(200);
}

#[test]
fn heads_that_trickle_hold_no_place() {
    // All places but one are held by clients that send a header now and then, as slow loris does.
    let served = Served::new("[limits]\nsilence = '1s'\nconnections = 21\nconnections_per_client = 0");
    let begun = Instant::now();
    let lorises: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = served.client.connect();
            std::thread::spawn(move || {
                stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n").unwrap();
                let begun = Instant::now();
                // What is written to a closed connection is refused a moment later.
                while stream.write_all(b"X-A: b\r\n").is_ok() && begun.elapsed() < Duration::from_secs(80) {
                    std::thread::sleep(Duration::from_millis(100));
                }
                begun.elapsed()
            })
        })
        .collect();
    while !lorises.iter().all(std::thread::JoinHandle::is_finished) {
        served.client.get("/v2/").expect(200);
        std::thread::sleep(Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(120), "trickling goes on for ever");
    }
    let held = lorises.into_iter().map(|loris| loris.join().unwrap()).max().unwrap();
    assert!(
        held < Duration::from_secs(60),
        "{held:?} with a header now and then, where 1 s of silence is too much"
    );
}

fn assert_ends(stream: &mut std::net::TcpStream, what: &str) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    let waited = matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!waited, "{what}: the connection is still open");
}

#[test]
fn one_client_does_not_take_all_connections() {
    let served = Served::new("[limits]\nconnections_per_client = 2");
    let held = [served.client.connect(), served.client.connect()];
    let ask = |mut stream: std::net::TcpStream| {
        // One that is closed at once may refuse the bytes, too.
        let _ = stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        text.starts_with(b"HTTP/1.1 200")
    };
    assert!(!ask(served.client.connect()), "a third one is closed");
    assert!(held.into_iter().all(ask), "those that it has go on");
    served.client.get("/v2/").expect(200);
}

#[test]
fn a_client_that_takes_nothing_does_not_hold_a_connection() {
    let served = Served::new("[limits]\nsilence = '1s'\nconnections = 2\ngrace = '5s'");
    let blob = vec![7; 32 << 20];
    let digest = served.client.push_blob("a", &blob);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = served.client.connect();
        stream.write_all(format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        held.push(stream);
    }
    // Both places are taken by clients that do not read; they are shown out and this one gets in.
    assert_eq!(served.client.get(&format!("/v2/a/blobs/{digest}")).expect(200).body.len(), blob.len());
}

#[test]
fn an_upload_belongs_to_its_repository_and_one_writer() {
    let served = Served::new("");
    let at = served.client.start("a");
    served.client.get(&at.replace("/v2/a/", "/v2/b/")).refused(404, "BLOB_UPLOAD_UNKNOWN");
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (client, at) = (served.client.clone(), at.clone());
            std::thread::spawn(move || {
                client.send("PATCH", &at, &[("Content-Range", "0-99999")], &[1; 100_000]).status
            })
        })
        .collect();
    let statuses: Vec<u16> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 202).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [202, 416].contains(status)), "{statuses:?}");
}

#[test]
fn the_same_blob_from_many_clients_is_kept_once() {
    let served = Served::new("");
    let blob = vec![9; 300_000];
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (client, blob) = (served.client.clone(), blob.clone());
            std::thread::spawn(move || client.push_blob(&format!("r{}", number % 3), &blob))
        })
        .collect();
    clients.into_iter().for_each(|client| assert_eq!(client.join().unwrap(), Digest::of(&blob)));
    assert_eq!((files(&served, "uploads"), files(&served, "blobs/sha256")), (0, 1));
    for name in ["r0", "r1", "r2"] {
        served.client.head(&format!("/v2/{name}/blobs/{}", Digest::of(&blob))).expect(200);
    }
}

#[test]
fn memory_stays_bounded_while_much_streams_through() {
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
    let served = Served::new("");
    let at = served.client.start("a");
    let before = resident();
    let (piece, count) = (vec![5_u8; 1 << 20], 128);
    let mut hasher = yare_oci::Hasher::new();
    let mut stream = served.client.connect();
    let size = piece.len() * count;
    stream
        .write_all(format!("PATCH {at} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n").as_bytes())
        .unwrap();
    let mut most = 0;
    for _ in 0..count {
        hasher.update(&piece);
        stream.write_all(&piece).unwrap();
        most = most.max(resident());
    }
    assert_eq!(read_answer(stream, "PATCH").unwrap().status, 202);
    let digest = hasher.finish();
    served.client.send("PUT", &with_digest(&at, &digest), &[], b"").expect(201);
    // Other tests of this process run beside; 128 MiB in memory would show all the same.
    assert!(most < before + (100 << 10), "{before} KiB grew to {most} KiB");
}
