//! Builds that are over, as `docker buildx history` shows them, and what builds keep on the disk.

use yare_testkit::Engine;

use crate::buildx::{OWN, buildx, dockerfile, fails, ok};
use crate::case::cases;
use crate::client::Client;

cases![
    Docker:
        the_history_outlives_the_engine.differs(OWN),
        what_builds_keep_is_counted_and_pruned.differs(OWN);
];

fn the_history_outlives_the_engine(c: &Client) {
    let mut engine = Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    let c = &own;
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM busybox\nARG X\nRUN echo said-$X\n");
    for x in ["one", "two"] {
        ok(c, &format!("docker buildx build --build-arg X={x} --metadata-file ../{x} ."));
        ok(c, &format!("sed -n 's/.*\"buildx.build.ref\": \"\\(.*\\)\".*/\\1/p' ../{x} > ../ref-{x}"));
    }
    dockerfile(c, "FROM busybox\nRUN echo broken; exit 7\n");
    fails(c, "docker buildx build .");
    let before = ok(c, "docker buildx history ls --no-trunc --format '{{.Ref}} {{.Name}} {{.Status}}'");
    assert_eq!((before.lines().count(), before.matches("Completed").count()), (3, 2), "{before}");
    assert!(before.contains("Error"), "{before}");
    engine.kill9();
    engine.restart();
    let after = ok(c, "docker buildx history ls --no-trunc --format '{{.Ref}} {{.Name}} {{.Status}}'");
    assert_eq!(before, after);
    let logs = ok(c, "docker buildx history logs $(basename $(cat ../ref-one)) 2>&1");
    assert!(logs.contains("said-one") && !logs.contains("said-two"), "{logs}");
    let logs = ok(c, "docker buildx history logs --progress rawjson $(basename $(cat ../ref-two)) 2>&1");
    assert!(logs.contains("\"vertexes\""), "{logs}");
    let inspected = ok(c, "docker buildx history inspect $(basename $(cat ../ref-two))");
    assert!(inspected.contains("X\t\ttwo") && inspected.contains("Build Steps:\t5/5"), "{inspected}");
    let inspected = ok(c, "docker buildx history inspect ^0");
    assert!(inspected.contains("exit code: 7"), "{inspected}");
    ok(c, "docker buildx history export -o ../bundle $(basename $(cat ../ref-two)) && test -s ../bundle");
    ok(c, "docker buildx history rm $(basename $(cat ../ref-one))");
    fails(c, "docker buildx history logs $(basename $(cat ../ref-one))");
    ok(c, "docker buildx history rm --all");
    engine.restart();
    assert_eq!(ok(c, "docker buildx history ls --format '{{.Ref}}'"), "");
    let left = std::fs::read_dir(engine.data_root().join("build/history")).unwrap().count();
    assert_eq!(left, 0, "nothing of it stays");
    drop(own);
    engine.finish();
}

fn what_builds_keep_is_counted_and_pruned(c: &Client) {
    let mut engine = Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    let c = &own;
    if !buildx(c) {
        return;
    }
    dockerfile(c, "FROM busybox\nCOPY many /many\n");
    ok(
        c,
        "mkdir many && for i in $(seq 20); do head -c 100000 /dev/urandom > many/$i; done; docker buildx build .",
    );
    let kinds = "docker system df -v --format '{{range .BuildCache}}{{.CacheType}} {{.Size}}\n{{end}}'";
    let used = ok(c, kinds);
    assert!(used.contains("source.local 2MB"), "{used}");
    assert!(used.contains("internal "), "{used}");
    // After a restart the folder is measured again.
    engine.restart();
    assert!(ok(c, kinds).contains("source.local 2MB"));
    let gone = ok(c, "docker buildx prune -f --filter type=source.local");
    assert!(gone.contains("Total:\t2MB"), "{gone}");
    let left = std::fs::read_dir(engine.data_root().join("build/synced")).unwrap().count();
    assert_eq!(left, 0);
    ok(c, "docker buildx prune -f && docker buildx history logs > /dev/null 2>&1");
    ok(c, "docker builder prune -af");
    assert_eq!(ok(c, "docker buildx history ls --format '{{.Ref}}'"), "");
    drop(own);
    engine.finish();
}
