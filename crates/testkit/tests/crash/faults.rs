//! Pushes and pulls over a line on which requests get lost, late, cut, refused and changed: each ends with
//! success or with an error that says what is wrong, what is acknowledged is right, and over a line that is
//! sound again it succeeds.

use std::time::Duration;

use yare_testkit::{Engine, Outcome, Registry, busybox_rootfs_tar, require_root};

use crate::chance::{Chance, rounds};
use crate::faulty_line::FaultyLine;
use crate::half_images::{archive, archive_of, layer};
use crate::leaks;

/// Layers above the one of busybox, each a bit smaller than this.
const LAYERS: usize = 4;
const LAYER: u64 = 1 << 20;
/// What may be under way when a pull gives up: in sockets and channels of three layers.
const UNDER_WAY: u64 = 2 << 20;
/// What a fault may cost beside what is changed: documents, and heads of answers.
const COST: u64 = 128 << 10;

/// An error that says of which registry it speaks, and is none of ours.
fn assert_clear(what: &str, outcome: &Outcome, line: &FaultyLine) {
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    let ours = ["panicked", "internal error", "broken pipe"];
    assert!(said.contains(&line.host()), "{what} does not name the registry: {outcome:?}");
    assert!(!ours.iter().any(|word| said.contains(word)), "{what} is not clear: {outcome:?}");
}

/// Does it while the line is bad, and again while it is sound if that failed; whether it did.
fn do_it(engine: &Engine, args: &[&str], line: &FaultyLine, percent: u64) -> bool {
    let patience = Duration::from_secs(300);
    line.spoil(percent);
    let outcome = engine.docker(args).patience(patience).run();
    line.spoil(0);
    if outcome.code != 0 {
        assert_clear(&args.join(" "), &outcome, line);
        engine.docker(args).patience(patience).ok();
    }
    outcome.code != 0
}

#[test]
fn pushes_and_pulls_over_a_bad_line_end_well_or_clearly() {
    if !require_root("pushes_and_pulls_over_a_bad_line_end_well_or_clearly") {
        return;
    }
    let engine = Engine::start_with(&["--max-download-attempts", "3"]);
    let registry = Registry::of_yare(&engine.path().join("registry"));
    let mut chance = Chance::new();
    let line = FaultyLine::to(registry.host(), chance.fork());
    let (mut broken, count) = (0, rounds(10, 100));
    for round in 0..count {
        let percent = 5 + chance.below(40);
        let name = format!("{}/app:{round}", line.host());
        engine.docker(&["load", "-q"]).input(archive(&mut chance, "made", LAYERS)).ok();
        engine.docker(&["tag", "made", &name]).ok();
        let id = engine.docker(&["image", "inspect", "-f", "{{.Id}}", "made"]).ok();
        broken += u32::from(do_it(&engine, &["push", "-q", &name], &line, percent));
        engine.docker(&["rmi", "made", &name]).ok();

        let (before, faults, flips) = (line.received(), line.faults(), line.flips());
        let is_broken = do_it(&engine, &["pull", "-q", &name], &line, percent);
        broken += u32::from(is_broken);
        assert_eq!(engine.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok(), id, "round {round}");
        let size: u64 =
            engine.docker(&["image", "inspect", "-f", "{{.Size}}", &name]).ok().trim().parse().unwrap();
        let received = line.received() - before;
        let most = size
            + (line.flips() - flips) * LAYER.max(size / 2)
            + (line.faults() - faults) * COST
            + u64::from(is_broken) * UNDER_WAY;
        assert!(received <= most, "round {round}: {received} bytes came of {size}, at most {most}");
        engine.docker(&["rmi", &name]).ok();
        let partial = engine.data_root().join("content/partial");
        assert_eq!(leaks::entries(&partial), Vec::<std::path::PathBuf>::new(), "a download is left behind");
    }
    eprintln!("{} faults broke {broken} of {} pushes and pulls", line.faults(), 2 * count);
    assert!(line.faults() > count, "the line was not bad");
    // All that was acknowledged is there and whole, also what was not pulled just now.
    for round in 0..count {
        engine.docker(&["pull", "-q", &format!("{}/app:{round}", line.host())]).ok();
    }
    drop(registry);
    leaks::assert_clean(engine);
}

/// What is on the disk of a layer came over such a line, or the disk changed it: it is fetched anew.
#[test]
fn a_download_that_goes_on_from_wrong_bytes_succeeds() {
    if !require_root("a_download_that_goes_on_from_wrong_bytes_succeeds") {
        return;
    }
    let engine = Engine::start();
    let registry = Registry::of_yare(&engine.path().join("registry"));
    let name = format!("{}/app:1", registry.host());
    engine.docker(&["load", "-q"]).input(archive(&mut Chance::new(), "made", 2)).ok();
    engine.docker(&["tag", "made", &name]).ok();
    let id = engine.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok();
    engine.docker(&["push", "-q", &name]).ok();
    engine.docker(&["rmi", "made", &name]).ok();
    engine.docker(&["pull", "-q", &name]).ok();
    let content = engine.data_root().join("content");
    let blobs = leaks::entries(&content.join("blobs/sha256"));
    assert!(blobs.len() >= 3, "{blobs:?}");
    // No layer at all; and one that is right only at its beginning.
    let halves = |bytes: &[u8]| [vec![7; bytes.len() / 2], [&bytes[..bytes.len() / 2], &[7; 100]].concat()];
    let wrong: Vec<_> = blobs.iter().map(|blob| halves(&std::fs::read(blob).unwrap())).collect();
    for kind in 0..2 {
        engine.docker(&["rmi", &name]).ok();
        for (blob, wrong) in blobs.iter().zip(&wrong) {
            std::fs::write(content.join("partial").join(blob.file_name().unwrap()), &wrong[kind]).unwrap();
        }
        engine.docker(&["pull", "-q", &name]).ok();
        assert_eq!(engine.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok(), id);
    }
    drop(registry);
    engine.finish();
}

/// More than overlayfs stacks, as builds make them: pulled, and run.
#[test]
#[ignore = "takes a minute: make soak"]
fn an_image_of_many_layers_is_pulled_as_it_was_pushed() {
    if !require_root("an_image_of_many_layers_is_pulled_as_it_was_pushed") {
        return;
    }
    let engine = Engine::start();
    let registry = Registry::of_yare(&engine.path().join("registry"));
    let name = format!("{}/many:1", registry.host());
    let (mut chance, mut layers) = (Chance::new(), vec![busybox_rootfs_tar().to_vec()]);
    layers.extend((0..520).map(|number: u32| layer(&mut chance, 0, &number.to_string())));
    engine.docker(&["load", "-q"]).input(archive_of(&name, layers)).ok();
    let id = engine.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok();
    let patience = Duration::from_secs(300);
    engine.docker(&["push", "-q", &name]).patience(patience).ok();
    engine.docker(&["rmi", &name]).ok();
    engine.docker(&["pull", "-q", &name]).patience(patience).ok();
    assert_eq!(engine.docker(&["image", "inspect", "-f", "{{.Id}}", &name]).ok(), id);
    let last = engine.docker(&["run", "--rm", &name, "cat", "/marker-519"]).patience(patience).ok();
    assert_eq!(last, "519");
    drop(registry);
    engine.finish();
}
