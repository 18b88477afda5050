//! Transfers with honest and with hostile clients.

use super::{Folders, Limits, Wanted, receive};
use crate::grpc::server::{self, Call};
use crate::proto::files::{DATA, ERROR, FINISH, Packet, REQUEST, STAT, Stat};
use crate::session::{Offer, Session, Sessions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use yare_errdefs::{Class, Classified, Result};

const DIRECTORY: u32 = 1 << 31;
const LINK: u32 = 1 << 27;

fn stat(path: &str, mode: u32, content: &str) -> Packet {
    let stat = Stat {
        path: path.into(),
        mode,
        size: i64::try_from(content.len()).expect("small"),
        modified: 1_700_000_000_123_456_789,
        ..Stat::default()
    };
    Packet { kind: STAT, stat: Some(stat), ..Packet::default() }
}

fn link(path: &str, to: &str, mode: u32) -> Packet {
    let mut packet = stat(path, mode, "");
    packet.stat.as_mut().expect("a stat").link = to.into();
    packet
}

fn data(id: u32, content: &str) -> Packet {
    Packet { kind: DATA, id, data: content.to_owned().into(), ..Packet::default() }
}

fn packet(kind: i32) -> Packet {
    Packet { kind, ..Packet::default() }
}

/// What a client sends at once, and what it answers when a number is asked for.
type Script = Vec<Packet>;

/// Plays a client: sends the script, then answers with `content` by number until it is told to finish.
async fn play(mut call: Call, script: Script, content: Vec<(u32, String)>) {
    let mut reply = call.reply().expect("the call is open");
    for packet in script {
        if reply.send(&packet).await.is_err() {
            return;
        }
    }
    while let Ok(Some(asked)) = call.next::<Packet>().await {
        match asked.kind {
            REQUEST => {
                let found = content.iter().find(|(id, _)| *id == asked.id);
                let (_, text) = found.expect("only what was told is asked for");
                for packet in [data(asked.id, text), data(asked.id, "")] {
                    reply.send(&packet).await.expect("read");
                }
            }
            FINISH => {
                reply.send(&packet(FINISH)).await.expect("read");
                reply.finish().expect("finished");
                return;
            }
            other => panic!("an engine sends no packets of kind {other}"),
        }
    }
}

/// A session with a client that plays a script.
async fn client(script: Script, content: &[(u32, &str)]) -> Arc<Session> {
    let content: Vec<_> = content.iter().map(|(id, text)| (*id, (*text).to_owned())).collect();
    let sessions = Arc::new(Sessions::default());
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    tokio::spawn(server::serve(theirs, move |call| play(call, script.clone(), content.clone())));
    let offer = Offer { id: "s".to_owned(), ..Offer::default() };
    let kept = Arc::clone(&sessions);
    tokio::spawn(async move { kept.serve(offer, ours).await });
    sessions.find("s").await.expect("the session is there")
}

/// One transfer into the folder that `folders` keep.
async fn transfer(
    folders: &Arc<Folders>,
    script: Script,
    content: &[(u32, &str)],
    limits: Limits,
) -> Result<usize> {
    let session = client(script, content).await;
    let folder = folders.take("key")?;
    let mut tree = folder.tree()?;
    let wanted = Wanted { dir: "context".to_owned(), ..Wanted::default() };
    let received = receive(&session, &wanted, &mut tree, limits, &mut |_| ()).await?;
    Ok(received.files)
}

fn place() -> (tempfile::TempDir, Arc<Folders>) {
    let root = tempfile::tempdir().expect("a folder");
    let folders = Folders::new(root.path().to_owned());
    (root, folders)
}

fn only_folder(root: &Path) -> std::path::PathBuf {
    let mut entries = std::fs::read_dir(root).expect("readable");
    entries.next().expect("one folder").expect("readable").path()
}

#[tokio::test]
async fn files_come_once_and_go_when_they_are_gone() {
    let (root, folders) = place();
    let all = vec![
        stat("a", DIRECTORY | 0o750, ""),
        stat("a/b", 0o640, "hello"),
        link("a/l", "../../etc/passwd", LINK | 0o777),
        link("hard", "a/b", 0o640),
        stat("z", 0o644, "zz"),
        packet(STAT),
    ];
    let content = [(1, "hello"), (4, "zz")];
    assert_eq!(transfer(&folders, all.clone(), &content, Limits::default()).await.expect("sent"), 2);
    let folder = only_folder(root.path());
    assert_eq!(std::fs::read_to_string(folder.join("a/b")).expect("there"), "hello");
    assert_eq!(std::fs::read_link(folder.join("a/l")).expect("a link").to_str(), Some("../../etc/passwd"));
    let meta = std::fs::metadata(folder.join("a/b")).expect("there");
    assert_eq!((meta.mode() & 0o7777, meta.mtime_nsec(), meta.nlink()), (0o640, 123_456_789, 2));
    assert_eq!(std::fs::metadata(folder.join("a")).expect("there").mode() & 0o7777, 0o750);
    // The same again: only stats.
    assert_eq!(transfer(&folders, all, &content, Limits::default()).await.expect("sent"), 0);
    // A directory becomes a file, others are gone.
    let fewer = vec![stat("a", 0o644, "now a file"), packet(STAT)];
    assert_eq!(transfer(&folders, fewer, &[(0, "now a file")], Limits::default()).await.expect("sent"), 1);
    let left: Vec<_> = std::fs::read_dir(&folder).expect("readable").collect();
    assert_eq!(left.len(), 1);
    assert_eq!(std::fs::read_to_string(folder.join("a")).expect("there"), "now a file");
}

#[tokio::test]
async fn what_a_killed_transfer_left_is_asked_for_again() {
    let (root, folders) = place();
    let script = vec![stat("a", 0o644, "hello"), packet(STAT)];
    let broken = vec![stat("a", 0o644, "hello"), packet(STAT), data(0, "he"), packet(ERROR)];
    assert!(transfer(&folders, broken, &[(0, "")], Limits::default()).await.is_err());
    assert_eq!(transfer(&folders, script, &[(0, "hello")], Limits::default()).await.expect("sent"), 1);
    assert_eq!(std::fs::read_to_string(only_folder(root.path()).join("a")).expect("there"), "hello");
}

#[tokio::test]
async fn hostile_clients_are_refused() {
    let outside = tempfile::tempdir().expect("a folder");
    let canary = outside.path().join("canary");
    std::fs::write(&canary, "alive").expect("written");
    let target = outside.path().to_str().expect("UTF-8");
    let scripts: Vec<(&str, Script)> = vec![
        ("a step up", vec![stat("../x", 0o644, "x")]),
        ("a step up inside", vec![stat("a", DIRECTORY | 0o755, ""), stat("a/../../x", 0o644, "x")]),
        ("an absolute path", vec![stat("/etc/x", 0o644, "x")]),
        ("no directory", vec![stat("a/b", 0o644, "x")]),
        ("through a link", vec![link("l", target, LINK | 0o777), stat("l/canary", 0o644, "x"), packet(STAT)]),
        ("twice", vec![stat("a", 0o644, "x"), stat("a", DIRECTORY | 0o755, "")]),
        ("a hard link out", vec![link("h", "../../canary", 0o644), packet(STAT)]),
        ("a hard link to nothing", vec![link("h", "nothing", 0o644), packet(STAT)]),
        ("content unasked", vec![data(7, "x")]),
        ("stats after the end", vec![packet(STAT), stat("a", 0o644, "x")]),
        ("an early end", vec![packet(FINISH)]),
        ("an unknown kind", vec![packet(99)]),
        ("its own error", vec![packet(ERROR)]),
        ("an endless list", (0..200).map(|n| stat(&format!("f{n}"), DIRECTORY | 0o755, "")).collect()),
    ];
    for (what, script) in scripts {
        let (_root, folders) = place();
        let limits = Limits { entries: 100, names: 4096, bytes: 100 };
        let error = transfer(&folders, script, &[], limits).await.expect_err(what);
        assert_eq!(error.class(), Class::InvalidArgument, "{what}: {error}");
    }
    let (_root, folders) = place();
    let big = "x".repeat(101);
    let script = vec![stat("a", 0o644, "x"), packet(STAT)];
    let limits = Limits { bytes: 100, ..Limits::default() };
    assert!(transfer(&folders, script, &[(0, &big)], limits).await.is_err(), "more bytes than allowed");
    assert_eq!(std::fs::read_to_string(&canary).expect("there"), "alive");
    assert_eq!(std::fs::read_dir(outside.path()).expect("readable").count(), 1);
}

#[tokio::test]
async fn a_link_in_the_folder_from_the_last_time_leads_nowhere() {
    let (root, folders) = place();
    let outside = tempfile::tempdir().expect("a folder");
    transfer(&folders, vec![packet(STAT)], &[], Limits::default()).await.expect("sent");
    // What nobody but a fault of ours could do: a link where the client now has a directory.
    symlink(outside.path(), only_folder(root.path()).join("d")).expect("made");
    let script = vec![stat("d", DIRECTORY | 0o755, ""), stat("d/x", 0o644, "x"), packet(STAT)];
    transfer(&folders, script, &[(1, "x")], Limits::default()).await.expect("sent");
    assert_eq!(std::fs::read_dir(outside.path()).expect("readable").count(), 0);
    let made = std::fs::symlink_metadata(only_folder(root.path()).join("d")).expect("there");
    assert!(made.is_dir() && made.permissions().mode() & 0o777 == 0o755);
}

#[test]
fn two_builds_at_a_time_have_a_folder_each() {
    let (root, folders) = place();
    let (one, two) = (folders.take("k").expect("made"), folders.take("k").expect("made"));
    assert_ne!(one.path(), two.path());
    let first = one.path().to_owned();
    drop(one);
    assert_eq!(folders.take("k").expect("made").path(), first, "it is kept");
    let once = folders.take("").expect("made");
    let path = once.path().to_owned();
    drop(once);
    assert!(!path.exists(), "what has no key is not kept");
    assert_eq!(folders.shrink(0), 1, "what is used stays");
    assert_eq!(std::fs::read_dir(root.path()).expect("readable").count(), 1);
    drop(two);
}
