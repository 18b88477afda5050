//! The engine and the registry are killed at any moment of pushes and pulls between them.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tar::{Builder, Header};
use yare_testkit::{Engine, Invocation, eventually, require_root, yare_binary};

use crate::chance::{Chance, rounds};

/// Bytes of the one layer; they do not compress.
const LAYER: usize = 6 << 20;

/// A registry of ours that comes back at the same address.
struct Served {
    root: PathBuf,
    address: String,
    child: Child,
}

impl Served {
    fn start(root: &Path, address: &str) -> Self {
        let mut command = Command::new(yare_binary());
        command.args(["registry", "serve", "--listen", address, "--root"]).arg(root);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        eventually("the registry answers", Duration::from_secs(120), || TcpStream::connect(address).is_ok());
        Self { root: root.to_owned(), address: address.to_owned(), child }
    }

    fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        *self = Self::start(&self.root.clone(), &self.address.clone());
    }

    fn run(&self, command: &str) -> serde_json::Value {
        let root = self.root.to_str().unwrap();
        let said = Invocation::new(yare_binary(), &["registry", command, "--root", root, "--json"]).ok();
        serde_json::from_str(&said).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does something with the engine, kills it or the registry at some moment of it, and lets both come back.
/// Whether it was done before.
fn interrupted(
    (engine, served): (&mut Engine, &mut Served),
    args: &[&str],
    usual: Duration,
    chance: &mut Chance,
) -> bool {
    let mut doing = engine.docker(args).into_command();
    let mut doing = doing.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let longest = u64::try_from(usual.as_millis()).unwrap().max(2);
    std::thread::sleep(chance.millis(0, longest));
    let dies = chance.below(3);
    if dies != 0 {
        engine.kill9();
    }
    if dies != 1 {
        served.kill9();
    }
    let is_done = doing.wait().unwrap().success();
    if dies != 1 {
        served.restart();
    }
    if dies != 0 {
        engine.restart();
    }
    is_done
}

#[test]
fn pushes_and_pulls_survive_kills_on_both_sides() {
    if !require_root("pushes_and_pulls_survive_kills_on_both_sides") {
        return;
    }
    let mut engine = Engine::start();
    let address = format!("127.0.0.1:{}", yare_testkit::free_port());
    let mut served = Served::start(&engine.path().join("registry"), &address);
    let mut chance = Chance::new();
    let (mut usual, mut broken) = (Duration::from_secs(1), 0);
    let count = rounds(2, 100);
    for round in 0..count {
        let name = format!("{address}/app:{round}");
        let words: Vec<u8> = (0..LAYER / 8).flat_map(|_| chance.next().to_le_bytes()).collect();
        engine.docker(&["import", "-", &name]).input(tar(&words)).ok();
        let id = engine.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok();
        let is_pushed = interrupted((&mut engine, &mut served), &["push", "-q", &name], usual, &mut chance);
        let begun = Instant::now();
        engine.docker(&["push", "-q", &name]).ok();
        engine.docker(&["rmi", &name]).ok();
        let is_pulled = interrupted((&mut engine, &mut served), &["pull", "-q", &name], usual, &mut chance);
        engine.docker(&["pull", "-q", &name]).ok();
        usual = begun.elapsed() / 2;
        broken += u32::from(!is_pushed) + u32::from(!is_pulled);
        assert_eq!(engine.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok(), id, "round {round}");
        engine.docker(&["rmi", &name]).ok();
        let partial = engine.data_root().join("content/partial");
        assert_eq!(std::fs::read_dir(partial).unwrap().count(), 0, "a download is left behind");
    }
    eprintln!("{broken} of {} pushes and pulls were broken off in {count} rounds", 2 * count);
    // All that was acknowledged is there and whole.
    let last = format!("{address}/app:{}", count - 1);
    for round in 0..count {
        engine.docker(&["pull", "-q", &format!("{address}/app:{round}")]).ok();
    }
    engine.docker(&["image", "inspect", &last]).ok();
    served.run("gc");
    let scrubbed = served.run("scrub");
    assert_eq!(scrubbed["damaged"], serde_json::json!([]), "{scrubbed}");
    assert!(scrubbed["manifests"].as_u64().is_some_and(|found| found >= count), "{scrubbed}");
    drop(served);
    engine.finish();
}

fn tar(content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut tar = Builder::new(Vec::new());
    tar.append_data(&mut header, "content", content).unwrap();
    tar.into_inner().unwrap()
}
