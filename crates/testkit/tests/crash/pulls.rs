//! The engine is killed, and the line breaks, while an image is pulled: the next pull goes on where it was.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tar::{Builder, Header};
use yare_testkit::{Engine, Registry, eventually, require_root};

use crate::chance::{Chance, rounds};

/// Bytes of the one layer; they do not compress.
const LAYER: usize = 24 << 20;
/// What may be under way at a kill and is not on the disk: buffers of sockets, channels and the line.
const UNDER_WAY: u64 = 6 << 20;

/// A slow line to the registry that counts what comes, and can be cut.
struct Line {
    port: u16,
    received: Arc<AtomicU64>,
    cut: Arc<AtomicBool>,
    /// Connections that carry something now, and the most that did.
    busy: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

impl Line {
    fn to(registry: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = Self {
            port: listener.local_addr().unwrap().port(),
            received: Arc::default(),
            cut: Arc::default(),
            busy: Arc::default(),
            most: Arc::default(),
        };
        let (received, cut) = (Arc::clone(&line.received), Arc::clone(&line.cut));
        let (busy, most) = (Arc::clone(&line.busy), Arc::clone(&line.most));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&registry) else { continue };
                let (received, cut) = (Arc::clone(&received), Arc::clone(&cut));
                let (busy, most) = (Arc::clone(&busy), Arc::clone(&most));
                let (mut up, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut up, &mut to));
                std::thread::spawn(move || {
                    most.fetch_max(busy.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                    carry(server, client, &received, &cut);
                    busy.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        line
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// About 16 MB in a second, from the registry to the engine.
fn carry(mut from: TcpStream, mut to: TcpStream, received: &AtomicU64, cut: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if cut.swap(false, Ordering::Relaxed) {
            break;
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
        received.fetch_add(count as u64, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(4));
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_pull_goes_on_after_kill_and_cut() {
    if !require_root("a_pull_goes_on_after_kill_and_cut") {
        return;
    }
    let mut engine = Engine::start();
    let registry = Registry::start(&engine.path().join("registry"));
    let line = Line::to(registry.host());
    let mut chance = Chance::new();
    let (direct, slow) = (format!("{}/a:1", registry.host()), format!("127.0.0.1:{}/a:1", line.port));
    for _ in 0..rounds(2, 20) {
        let words: Vec<u8> = (0..LAYER / 8).flat_map(|_| chance.next().to_le_bytes()).collect();
        engine.docker(&["import", "-", &direct]).input(tar(&words)).ok();
        engine.docker(&["push", "-q", &direct]).ok();
        engine.docker(&["rmi", &direct]).ok();
        let mut kept = 0;
        for part in 1..=2 {
            let mut pull = engine.docker(&["pull", "-q", &slow]).into_command().spawn().unwrap();
            let wanted = (LAYER as u64 / 3) * part;
            eventually("some of the layer comes", Duration::from_secs(60), || on_the_disk(&engine) >= wanted);
            engine.kill9();
            pull.wait().unwrap();
            kept = on_the_disk(&engine);
            engine.restart();
        }
        let before = line.received();
        line.cut.store(true, Ordering::Relaxed);
        engine.docker(&["pull", "-q", &slow]).ok();
        let more = line.received() - before;
        let most = LAYER as u64 + LAYER as u64 / 50 + UNDER_WAY - kept;
        assert!(more <= most, "{more} bytes came of a layer of {LAYER}, of which there were {kept}");
        // What came is right: it goes to the registry again without being sent, under the same digest.
        let pushed = engine.docker(&["push", &slow]).ok();
        assert!(pushed.contains("Layer already exists"), "{pushed}");
        engine.docker(&["rmi", &slow]).ok();
        let left = std::fs::read_dir(engine.data_root().join("content/partial")).unwrap().count();
        assert_eq!(left, 0, "a download is left behind");
    }
    drop(registry);
    engine.finish();
}

/// Bytes of the layer that were written. More may have come: how much waits in a socket is up to the machine.
fn on_the_disk(engine: &Engine) -> u64 {
    let sizes = |folder: &str| {
        let files = std::fs::read_dir(engine.data_root().join("content").join(folder)).unwrap();
        files.filter_map(|file| Some(file.ok()?.metadata().ok()?.len())).max()
    };
    // A layer that is whole goes elsewhere.
    sizes("partial").or_else(|| sizes("blobs/sha256")).unwrap_or_default()
}

/// The names of large blobs that are in the store as they came.
fn blobs(engine: &Engine) -> Vec<String> {
    let folder = std::fs::read_dir(engine.data_root().join("content/blobs/sha256")).unwrap();
    let files = folder.map(|entry| entry.unwrap()).filter(|file| file.metadata().unwrap().len() > 100_000);
    files.map(|file| file.file_name().into_string().unwrap()).collect()
}

/// The digest that a push told.
fn digest(output: &str) -> String {
    output.split("digest: ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn a_layer_is_kept_once_whenever_the_engine_is_killed() {
    if !require_root("a_layer_is_kept_once_whenever_the_engine_is_killed") {
        return;
    }
    let mut engine = Engine::start_with(&["--keep-compressed-layers", "0s"]);
    let [one, two] = ["one", "two"].map(|name| Registry::start(&engine.path().join(name)));
    let mut chance = Chance::new();
    let [first, second] = [&one, &two].map(|registry| format!("{}/a:1", registry.host()));
    for _ in 0..rounds(3, 30) {
        let words: String = (0..1 << 20).map(|_| format!("{:x} ", chance.next() >> 40)).collect();
        engine.docker(&["import", "-", &first]).input(tar(words.as_bytes())).ok();
        let wanted = digest(&engine.docker(&["push", &first]).ok());
        engine.docker(&["rmi", &first]).ok();
        engine.docker(&["pull", "-q", &first]).ok();
        // It takes about as long as compressing, twice.
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(chance.below(1500)));
            engine.kill9();
            engine.restart();
        }
        eventually("the layer is kept once", Duration::from_secs(300), || blobs(&engine).is_empty());
        let recipes = std::fs::read_dir(engine.data_root().join("content/recipes")).unwrap();
        let recipes: Vec<_> = recipes.map(|entry| entry.unwrap().path()).collect();
        let [recipe] = &recipes[..] else { panic!("no recipe of the layer as it came: {recipes:?}") };
        assert!(recipe.metadata().unwrap().len() < 1 << 20, "the recipe is large");
        engine.docker(&["tag", &first, &second]).ok();
        assert_eq!(digest(&engine.docker(&["push", &second]).ok()), wanted);
        assert!(blobs(&engine).is_empty(), "a push left the layer in both forms");
        engine.docker(&["rmi", &first, &second]).ok();
        assert!(!recipe.exists(), "the recipe outlives its image");
    }
    drop((one, two));
    engine.finish();
}

/// Bytes of a layer that comes in parts.
const LARGE: usize = 160 << 20;

#[test]
fn a_large_layer_comes_over_several_connections() {
    if !require_root("a_large_layer_comes_over_several_connections") {
        return;
    }
    let mut engine = Engine::start();
    let registry = Registry::start(&engine.path().join("registry"));
    let line = Line::to(registry.host());
    let mut chance = Chance::new();
    let (direct, slow) = (format!("{}/a:1", registry.host()), format!("127.0.0.1:{}/a:1", line.port));
    let patience = Duration::from_secs(300);
    let words: Vec<u8> = (0..LARGE / 8).flat_map(|_| chance.next().to_le_bytes()).collect();
    engine.docker(&["import", "-", &direct]).input(tar(&words)).patience(patience).ok();
    drop(words);
    engine.docker(&["push", "-q", &direct]).patience(patience).ok();
    engine.docker(&["rmi", &direct]).ok();
    // Killed on the way, and later a connection breaks.
    let mut pull = engine.docker(&["pull", "-q", &slow]).into_command().spawn().unwrap();
    eventually("some of the layer comes", patience, || line.received() >= LARGE as u64 / 3);
    engine.kill9();
    pull.wait().unwrap();
    engine.restart();
    line.cut.store(true, Ordering::Relaxed);
    engine.docker(&["pull", "-q", &slow]).patience(patience).ok();
    let (total, most) = (line.received(), LARGE as u64 + LARGE as u64 / 50 + UNDER_WAY);
    assert!(total <= most, "{total} bytes came of a layer of {LARGE}");
    assert!(line.most.load(Ordering::Relaxed) >= 3, "it came over one connection");
    let pushed = engine.docker(&["push", &slow]).patience(patience).ok();
    assert!(pushed.contains("Layer already exists"), "{pushed}");
    drop(registry);
    engine.finish();
}

fn tar(content: &[u8]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, "data", content).unwrap();
    tar.into_inner().unwrap()
}
