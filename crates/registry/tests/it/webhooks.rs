//! Webhooks, told over real sockets: what, in which order, and what becomes of it when they do not take it.

use crate::served::Served;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long anything may take on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request that a webhook got.
pub(crate) struct Told {
    head: String,
    pub(crate) event: Value,
}

impl Told {
    /// Action, repository, and tag or nothing.
    fn short(&self) -> String {
        let target = &self.event["target"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", text(&self.event["action"]), text(&target["repository"]), text(&target["tag"]))
    }
}

/// Somebody who is told, and answers as `answers` says: a status, or nothing at all.
pub(crate) struct Hook {
    pub(crate) url: String,
    told: Receiver<Told>,
}

impl Hook {
    pub(crate) fn new(mut answers: impl FnMut(&Told) -> Option<u16> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/events", listener.local_addr().unwrap());
        let (sender, told) = channel();
        // It ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Some(request) = read(&mut stream) else { continue };
                let Some(status) = answers(&request) else { continue };
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                // It is told before it answers: who waits for the answer finds it there.
                let is_over = sender.send(request).is_err();
                let _ = stream.write_all(answer.as_bytes());
                if is_over {
                    return;
                }
            }
        });
        Self { url, told }
    }

    pub(crate) fn next(&self) -> Told {
        self.told.recv_timeout(PATIENCE).expect("the webhook is told")
    }

    pub(crate) fn shorts(&self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.next().short()).collect()
    }

    pub(crate) fn assert_quiet(&self) {
        let more = self.told.recv_timeout(Duration::from_millis(700));
        assert!(more.is_err(), "told {}", more.map(|told| told.short()).unwrap_or_default());
    }
}

fn read(stream: &mut TcpStream) -> Option<Told> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && let Ok(envelope) = serde_json::from_str::<Value>(body)
        {
            assert_eq!(envelope["events"].as_array().unwrap().len(), 1);
            return Some(Told { head: head.to_owned(), event: envelope["events"][0].clone() });
        }
    }
}

fn metric(served: &Served, name: &str) -> u64 {
    let text = String::from_utf8(served.client.get("/metrics").expect(200).body).unwrap();
    let start = format!("yare_registry_webhook_{name}{{");
    let row = text.lines().find(|row| row.starts_with(&start)).unwrap_or_else(|| panic!("{name}: {text}"));
    row.rsplit(' ').next().unwrap().parse().unwrap()
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn pushes_pulls_mounts_and_deletes_are_told_in_their_order() {
    let hook = Hook::new(|_| Some(200));
    let served = Served::new(&format!(
        "[[webhook]]\nurl = '{}'\nrepositories = 'team/**'\nblobs = true\n\
         events = ['push', 'pull', 'mount', 'delete']\nheaders = {{ Authorization = 'Bearer x' }}",
        hook.url
    ));
    let client = &served.client;
    client.push_image("other/app", "v1", "untold");
    let image = client.push_image("team/a", "v1", "layer");
    let mount = format!("/v2/team/b/blobs/uploads/?mount={}&from=team/a", image.layer);
    client.send("POST", &mount, &[], b"").expect(201);
    client.delete(&format!("/v2/team/b/blobs/{}", image.layer)).expect(202);
    client.delete("/v2/team/a/manifests/v1").expect(202);
    client.delete(&format!("/v2/team/a/manifests/{}", image.digest)).expect(202);
    let told: Vec<Told> = (0..7).map(|_| hook.next()).collect();
    let shorts: Vec<String> = told.iter().map(Told::short).collect();
    assert_eq!(
        shorts,
        [
            "push team/a ",
            "push team/a ",
            "push team/a v1",
            "mount team/b ",
            "delete team/b ",
            "delete team/a v1",
            "delete team/a "
        ]
    );
    let head = told[2].head.to_lowercase();
    assert!(head.starts_with("post /events http/1.1"), "{head}");
    assert!(head.contains("authorization: bearer x"), "{head}");
    assert!(head.contains("content-type: application/vnd.docker.distribution.events.v1+json"), "{head}");
    let (blob, push, mount) = (&told[0].event, &told[2].event, &told[3].event);
    assert_eq!(blob["target"]["mediaType"], "application/octet-stream");
    assert_eq!(blob["target"]["digest"], image.layer.to_string());
    assert_eq!((&blob["target"]["size"], &blob["target"]["length"]), (&5.into(), &5.into()));
    let url = format!("http://{}/v2/team/a/manifests/{}", client.address, image.digest);
    assert_eq!(push["target"]["url"], url);
    assert_eq!(push["target"]["mediaType"], yare_oci::MediaType::OCI_MANIFEST);
    assert_eq!(push["target"]["size"], image.bytes.len());
    assert_eq!(push["request"]["method"], "PUT");
    assert_eq!(
        (&push["request"]["addr"], &push["request"]["host"]),
        (&"127.0.0.1".into(), &client.address.clone().into())
    );
    assert!(push["id"].as_str().is_some_and(|id| !id.is_empty()) && push["timestamp"].is_string());
    assert_eq!(mount["target"]["fromRepository"], "team/a");
    assert_eq!(told[6].event["target"]["digest"], image.digest.to_string());
    hook.assert_quiet();
}

#[test]
fn pulls_are_told_and_heads_are_none() {
    let hook = Hook::new(|_| Some(200));
    let served = Served::new(&format!("[[webhook]]\nurl = '{}'\nevents = ['pull']\nblobs = true", hook.url));
    let image = served.client.push_image("a", "v1", "layer");
    served.client.head("/v2/a/manifests/v1").expect(200);
    served.client.get("/v2/a/manifests/v1").expect(200);
    served.client.get(&format!("/v2/a/blobs/{}", image.layer)).expect(200);
    served
        .client
        .send("GET", &format!("/v2/a/blobs/{}", image.layer), &[("Range", "bytes=2-")], b"")
        .expect(206);
    let (first, second) = (hook.next(), hook.next());
    assert_eq!((first.short(), second.short()), ("pull a v1".to_owned(), "pull a ".to_owned()));
    assert_eq!(second.event["target"]["digest"], image.layer.to_string());
    hook.assert_quiet();
}

#[test]
fn only_manifests_are_told_of_unless_blobs_are_wanted() {
    let hook = Hook::new(|_| Some(200));
    let served = Served::new(&format!("[[webhook]]\nurl = '{}'\nevents = ['push', 'pull']", hook.url));
    let image = served.client.push_image("a", "v1", "layer");
    served.client.get(&format!("/v2/a/blobs/{}", image.layer)).expect(200);
    let tags = format!("/v2/a/manifests/{}?tag=v2&tag=v3", image.digest);
    let headers = [("Content-Type", yare_oci::MediaType::OCI_MANIFEST)];
    served.client.send("PUT", &tags, &headers, &image.bytes).expect(201);
    assert_eq!(hook.shorts(3), ["push a v1", "push a v2", "push a v3"]);
    hook.assert_quiet();
}

#[test]
fn what_fails_is_tried_again_and_nothing_overtakes_it() {
    let mut times = 0;
    let hook = Hook::new(move |_| {
        times += 1;
        match times {
            1 => Some(503),
            // It hangs up without an answer.
            2 => None,
            _ => Some(202),
        }
    });
    let served = Served::new(&format!("[[webhook]]\nurl = '{}'", hook.url));
    for tag in ["v1", "v2", "v3"] {
        served.client.push_image("a", tag, tag);
    }
    let first = hook.next();
    let again = hook.next();
    assert_eq!((first.short(), again.short()), ("push a v1".to_owned(), "push a v1".to_owned()));
    assert_eq!(first.event["id"], again.event["id"], "receivers know by the id that it is the same");
    assert_eq!(hook.shorts(2), ["push a v2", "push a v3"]);
    wait_for("the queue becomes empty", || metric(&served, "waiting") == 0);
    assert_eq!((metric(&served, "delivered_total"), metric(&served, "failures_total")), (3, 2));
    assert_eq!(metric(&served, "lost_total"), 0);
}

#[test]
fn an_event_that_its_webhook_calls_wrong_makes_room_for_the_next() {
    let hook = Hook::new(|told| Some(if told.short().ends_with("v1") { 422 } else { 200 }));
    let served = Served::new(&format!("[[webhook]]\nurl = '{}'", hook.url));
    served.client.push_image("a", "v1", "x");
    served.client.push_image("a", "v2", "x");
    assert_eq!(hook.shorts(4), ["push a v1", "push a v1", "push a v1", "push a v2"]);
    wait_for("the queue becomes empty", || metric(&served, "waiting") == 0);
    assert_eq!((metric(&served, "delivered_total"), metric(&served, "lost_total")), (1, 1));
}

#[test]
fn a_webhook_that_is_absent_or_slow_keeps_nobody_waiting() {
    // One takes connections and says nothing, the other is not there.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let absent = "127.0.0.1:1";
    let served = Served::new(&format!(
        "[[webhook]]\nname = 'silent'\nurl = 'http://{}/'\nqueue = 2\n[[webhook]]\nurl = 'http://{absent}/'",
        silent.local_addr().unwrap()
    ));
    let begun = Instant::now();
    for tag in ["v1", "v2", "v3", "v4"] {
        served.client.push_image("a", tag, "x");
    }
    assert!(begun.elapsed() < Duration::from_secs(25), "a webhook's time is not a client's");
    assert_eq!(metric(&served, "waiting"), 2);
    assert_eq!(metric(&served, "lost_total"), 2, "what does not fit the queue is counted");
    let text = String::from_utf8(served.client.get("/metrics").expect(200).body).unwrap();
    assert!(
        text.contains(&format!("yare_registry_webhook_waiting{{webhook=\"http://{absent}\"}} 4\n")),
        "{text}"
    );
    assert!(text.contains("yare_registry_lost_events_total 2\n"), "{text}");
}

#[test]
fn what_waits_outlives_the_process_and_a_webhook_that_is_gone_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("registry");
    let is_open = Arc::new(AtomicBool::new(false));
    let hook = {
        let is_open = Arc::clone(&is_open);
        Hook::new(move |_| Some(if is_open.load(Ordering::Relaxed) { 200 } else { 503 }))
    };
    let text = format!("[[webhook]]\nurl = '{}'\nevents = ['push', 'pull']\n", hook.url);
    let gone = "[[webhook]]\nname = 'gone'\nurl = 'http://127.0.0.1:1/'\n";
    let served = Served::at(root.clone(), &format!("{gone}{text}"));
    served.client.push_image("a", "v1", "x");
    assert_eq!(hook.next().short(), "push a v1");
    // Told a moment before the end: it is noted by that.
    served.client.get("/v2/a/manifests/v1").expect(200);
    drop(served);
    while hook.told.try_recv().is_ok() {}
    is_open.store(true, Ordering::Relaxed);
    let served = Served::at(root.clone(), &text);
    // The last try of the one before may only now be read.
    let mut told = hook.shorts(2);
    if told[1] == told[0] {
        told[1] = hook.next().short();
    }
    assert_eq!(told, ["push a v1", "pull a v1"]);
    wait_for("the queue becomes empty", || metric(&served, "waiting") == 0);
    assert_eq!(metric(&served, "delivered_total"), 2);
    drop(served);
    // With the name that it had before, it has nothing to be told.
    let served = Served::at(root, &format!("{gone}{text}"));
    assert_eq!(metric(&served, "waiting"), 0);
    hook.assert_quiet();
}

#[test]
fn what_retention_takes_is_told() {
    let hook = Hook::new(|_| Some(200));
    let served = Served::new(&format!(
        "[[retention]]\nrepositories = '**'\nkeep_newest = 0\n[[webhook]]\nurl = '{}'\nevents = ['delete']",
        hook.url
    ));
    let image = served.client.push_image("a/b", "v1", "gone");
    served.runtime.block_on(yare_registry::ask(&served.root, "/gc?dry-run")).unwrap().unwrap();
    served.runtime.block_on(yare_registry::ask(&served.root, "/gc")).unwrap().unwrap();
    let (tag, manifest) = (hook.next(), hook.next());
    assert_eq!((tag.short(), &tag.event["actor"]["name"]), ("delete a/b v1".to_owned(), &"retention".into()));
    assert_eq!(manifest.event["target"]["digest"], image.digest.to_string());
    hook.assert_quiet();
}
