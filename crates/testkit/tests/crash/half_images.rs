//! The engine is killed, or the client leaves, while an image comes in: no half image, no leftovers.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tar::{Builder, Header};
use yare_testkit::{Engine, Invocation, busybox_rootfs_tar, eventually, require_root};

use crate::api::Api;
use crate::chance::{Chance, rounds};
use crate::leaks;

const SWEEP: Duration = Duration::from_secs(60);

/// Everything that images have on disk, with the size of files.
fn kept(engine: &Engine) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for folder in ["content", "snapshots"] {
        walk(&engine.data_root().join(folder), &mut found);
    }
    found
}

fn walk(folder: &Path, found: &mut BTreeMap<String, u64>) {
    for path in leaks::entries(folder) {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        found.insert(path.display().to_string(), if metadata.is_file() { metadata.len() } else { 0 });
        if metadata.is_dir() {
            walk(&path, found);
        }
    }
}

fn assert_kept(engine: &Engine, before: &BTreeMap<String, u64>, when: &str) {
    let begun = Instant::now();
    while kept(engine) != *before {
        if begun.elapsed() > SWEEP {
            let now = kept(engine);
            let more: Vec<_> =
                now.iter().filter(|(path, size)| before.get(*path) != Some(*size)).take(20).collect();
            let less: Vec<_> = before.keys().filter(|path| !now.contains_key(*path)).take(20).collect();
            panic!("{when}: left behind {more:?}, lost {less:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A tar of files with content that does not compress and that no other layer has.
pub(crate) fn layer(chance: &mut Chance, files: usize, marker: &str) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let mut add = |path: String, content: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content).unwrap();
    };
    for file in 0..files {
        let words: Vec<u8> = (0..1500).flat_map(|_| chance.next().to_le_bytes()).collect();
        add(format!("data/{marker}/{file}"), &words);
    }
    add(format!("marker-{marker}"), marker.as_bytes());
    tar.into_inner().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let sum = Invocation::new("sha256sum", &[]).input(bytes).ok();
    sum.split(' ').next().unwrap_or_default().to_owned()
}

/// An archive as `docker save` wrote it, of a busybox with some layers above it.
pub(crate) fn archive(chance: &mut Chance, name: &str, above: usize) -> Vec<u8> {
    let mut layers = vec![busybox_rootfs_tar().to_vec()];
    layers.extend((0..above).map(|number| layer(chance, 60, &number.to_string())));
    archive_of(name, layers)
}

/// The same of any layers; a name without a tag is `latest`.
pub(crate) fn archive_of(name: &str, layers: Vec<Vec<u8>>) -> Vec<u8> {
    let (repository, tag) =
        name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).unwrap_or((name, "latest"));
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", sha256(layer))).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let files: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let config_name = format!("{}.json", sha256(config.as_bytes()));
    let manifest =
        json!([{"Config": config_name, "RepoTags": [format!("{repository}:{tag}")], "Layers": files}])
            .to_string();
    let mut tar = Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content).unwrap();
    };
    add(&config_name, config.as_bytes());
    files.iter().zip(&layers).for_each(|(path, layer)| add(path, layer));
    add("manifest.json", manifest.as_bytes());
    tar.into_inner().unwrap()
}

#[test]
fn a_commit_that_broke_off_leaves_nothing_and_nobody_frozen() {
    if !require_root("a_commit_that_broke_off_leaves_nothing_and_nobody_frozen") {
        return;
    }
    let mut engine = Engine::start();
    engine.load_busybox();
    let script =
        "for i in 1 2 3 4 5 6; do head -c 20000000 /dev/urandom > /f$i; done; touch /ready; sleep 1000";
    let id = engine.docker(&["run", "-d", "busybox", "sh", "-c", script]).ok().trim().to_owned();
    let ready = || engine.docker(&["exec", &id, "test", "-e", "/ready"]).run().code == 0;
    eventually("the container has written", SWEEP, ready);
    let before = kept(&engine);
    let mut chance = Chance::new();
    for round in 0..rounds(6, 60) {
        let pause = if round == 0 { Duration::from_millis(30) } else { chance.millis(0, 800) };
        let api = Api::new(engine.socket());
        let path = format!("/commit?container={id}");
        // Whether it is answered is a matter of luck.
        let asking = std::thread::spawn(move || drop(api.post(&path, &json!(null))));
        std::thread::sleep(pause);
        engine.kill9();
        asking.join().unwrap();
        engine.restart();
        let status = engine.docker(&["inspect", "-f", "{{.State.Status}}", &id]).ok();
        assert_eq!(status.trim(), "running", "killed after {pause:?}");
        let images = engine.docker(&["images", "-qf", "dangling=true", "--no-trunc"]).ok();
        let whole: Vec<&str> = images.lines().collect();
        if !whole.is_empty() {
            let shown = engine.docker(&["run", "--rm", whole[0], "sh", "-c", "wc -c < /f6"]).ok();
            assert_eq!(shown.trim(), "20000000");
            engine.docker(&[["rmi"].as_slice(), &whole].concat()).ok();
        }
        assert_kept(&engine, &before, &format!("killed after {pause:?}"));
    }
    engine.docker(&["rm", "-f", &id]).ok();
    leaks::assert_clean(engine);
}

#[test]
fn an_import_that_broke_off_leaves_nothing() {
    if !require_root("an_import_that_broke_off_leaves_nothing") {
        return;
    }
    let mut engine = Engine::start();
    engine.load_busybox();
    let api = Api::new(engine.socket());
    let tar = layer(&mut Chance::new(), 200, "half");
    let before = kept(&engine);
    for part in [0, 100_000, tar.len() / 2, tar.len() - 2048] {
        for path in ["/images/create?fromSrc=-&repo=half", "/images/load"] {
            let begin = || {
                let mut stream = api.begin("POST", path, "application/x-tar", tar.len()).unwrap();
                stream.write_all(&tar[..part]).unwrap();
                std::thread::sleep(Duration::from_millis(30));
                stream
            };
            drop(begin());
            assert_kept(&engine, &before, &format!("the client left {path} after {part} bytes"));
            let stream = begin();
            engine.kill9();
            drop(stream);
            engine.restart();
            assert_kept(&engine, &before, &format!("killed in {path} after {part} bytes"));
        }
    }
    assert_eq!(engine.docker(&["images", "-aq", "half"]).ok(), "");
    // A tar that ends too early is refused, not taken as far as it goes.
    let answer = api.post_tar("/images/create?fromSrc=-&repo=half", &tar[..tar.len() / 2]).unwrap();
    assert!(answer.text().contains("error"), "{}", answer.text());
    assert_kept(&engine, &before, "a truncated tar");
    leaks::assert_clean(engine);
}

#[test]
fn an_image_is_whole_or_not_there_when_a_load_is_killed() {
    if !require_root("an_image_is_whole_or_not_there_when_a_load_is_killed") {
        return;
    }
    let mut chance = Chance::new();
    let mut engine = Engine::start();
    engine.load_busybox();
    let api = Api::new(engine.socket());
    let archive = archive(&mut chance, "whole", 4);
    let before = kept(&engine);
    let begun = Instant::now();
    let loaded = api.post_tar("/images/load", &archive).unwrap();
    assert!(loaded.text().contains("Loaded image"), "{}", loaded.text());
    let takes = begun.elapsed().as_millis() as u64 + 2;
    engine.docker(&["rmi", "whole"]).ok();
    assert_kept(&engine, &before, "removed again");

    for round in 0..rounds(8, 150) {
        let moment = chance.millis(0, takes + takes / 4);
        let acknowledged = std::thread::scope(|scope| {
            let load = scope.spawn(|| api.post_tar("/images/load", &archive));
            std::thread::sleep(moment);
            engine.kill9();
            load.join().unwrap().is_ok_and(|answer| answer.text().contains("Loaded image"))
        });
        engine.restart();
        let there = !engine.docker(&["images", "-q", "whole"]).ok().is_empty();
        assert!(there || !acknowledged, "round {round}: an acknowledged image is lost");
        if !there {
            assert_kept(&engine, &before, &format!("round {round}, killed after {moment:?}"));
            continue;
        }
        let sums = "cat /marker-*; echo; ls -A /data/* | wc -l; find /data -type f -size -12000c | wc -l";
        let seen = engine.docker(&["run", "--rm", "whole", "sh", "-c", sums]).ok();
        assert_eq!(seen.split_whitespace().next(), Some("0123"), "round {round}: {seen}");
        assert_eq!(seen.split_whitespace().last(), Some("0"), "round {round}: {seen}");
        engine.docker(&["rmi", "whole"]).ok();
        eventually("the container is gone", SWEEP, || engine.docker(&["ps", "-aq"]).ok().is_empty());
        assert_kept(&engine, &before, &format!("round {round}, removed"));
    }
    leaks::assert_clean(engine);
}
