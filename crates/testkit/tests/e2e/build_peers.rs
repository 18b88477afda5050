//! The tables' Dockerfiles built by Yare and by another builder: files, config and history of the results are
//! compared.
//!
//! BuildKit builds everything, if `YARE_REFERENCE_DOCKERD`
//! names a dockerd of 23 or later and there is a buildx (`YARE_TEST_DOCKER_PLUGINS`): `make compare-builds`.
//! `YARE_COMPARE_ROWS` has the names of the rows that are wanted, or `all`.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use yare_testkit::Outcome;

use crate::build_table::{Row, context};
use crate::case::cases;
use crate::client::{Client, shown};
use crate::host::{Host, Kind};
use crate::image_content::Content;
use crate::{build_copy, build_language, build_run, buildx, keeper};

cases![
    Docker:
        buildkit_builds_the_same.differs("Yare's own builds are compared");
];

const TABLES: &[&[Row]] = &[
    build_copy::COPIES,
    build_copy::ARCHIVES,
    build_language::VARIABLES,
    build_language::STAGES,
    build_language::TEXT,
    build_language::CONFIG,
    build_run::MOUNTS,
    build_run::LIMITS,
];

/// What may be another on purpose: row (or `*`), a part of the line that says how it differs, and why.
type Exceptions = &'static [(&'static str, &'static str, &'static str)];

const BUILDKIT: Exceptions = &[
    (
        "copy-link",
        "history",
        "--link does nothing where layers are not merged, as with dockerd's graph drivers",
    ),
    ("copy-link", "file d: yare dir 755", "so the directory keeps its mode"),
    ("copy-parents", "unknown flag: --parents", "the frontend in dockerd 28 is too old for the flag"),
    (
        "copy-times-are-given",
        "the peer fails",
        "times of files are rewritten by its exporter, when asked for",
    ),
    ("stage-scratch-alone", "empty export", "it doesn't save an image without layers"),
    ("text-syntax", "the peer fails", "its frontend is pulled"),
    ("heredoc-copy-with-files", "history", "files and heredocs of one COPY are two layers here"),
    ("mount-cache", "the peer fails", "a mount with another owner or mode is another cache there"),
    ("security-insecure", "unknown flag: --security", "the frontend in dockerd 28 lacks the flag"),
    ("memory", "the peer fails", "its steps have no limits"),
    ("cpu", "the peer fails", "its steps have no limits"),
];

/// A dockerd in namespaces of its own, which end with it.
struct BuildKit {
    host: Host,
    child: Child,
}

impl BuildKit {
    fn start(c: &Client, binary: &Path) -> Self {
        let folder = c.folder.join("dockerd");
        std::fs::create_dir_all(&folder).unwrap();
        let path = |name: &str| folder.join(name);
        let host = Host {
            kind: Kind::Dockerd(28),
            socket: path("docker.sock"),
            data_root: path("data"),
            log: path("engine.log"),
            gateway: "10.209.0.1".to_owned(),
            cgroup_parent: format!("/yare-peer-{}", std::process::id()),
            pid: 0,
            folder,
        };
        let child = keeper::start_dockerd(binary, &host, keeper::OWN_NAMESPACES);
        Self { host, child }
    }

    fn build(&self, c: &Client, row: &Row, flags: &str, context: &str, saved: &str) -> Outcome {
        run(
            c,
            &format!(
                "export DOCKER_HOST={} DOCKER_CONFIG=$PWD/docker\ndocker buildx build --progress plain -t i -f files/{} \
             {flags} {context} 2>&1 && docker save -o {saved} i 2>&1",
                self.host.address(),
                row.name
            ),
        )
    }
}

impl Drop for BuildKit {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        keeper::remove_cgroups(&self.host.cgroup_parent);
    }
}

fn run(c: &Client, script: &str) -> Outcome {
    c.script(script).patience(Duration::from_secs(120)).run()
}

fn buildkit_builds_the_same(c: &Client) {
    let Some(binary) = std::env::var_os("YARE_REFERENCE_DOCKERD").map(PathBuf::from) else {
        eprintln!("SKIP {}: YARE_REFERENCE_DOCKERD names no dockerd", c.n);
        return;
    };
    if !buildx::has(c, &["docker-buildx"]) {
        return;
    }
    prepare(c);
    let peer = BuildKit::start(c, &binary);
    let loaded = run(c, &format!("DOCKER_HOST={} docker load -i busybox.saved 2>&1", peer.host.address()));
    assert_eq!(loaded.code, 0, "{}", shown(&loaded));
    compare(
        c,
        |_| true,
        BUILDKIT,
        true,
        |row, flags, context, saved| peer.build(c, row, flags, context, saved),
    );
}

/// The contexts, and the base for the peer.
fn prepare(c: &Client) {
    context(c);
    c.ok("printf s3cret > sec; mkdir -p named; echo nc > named/f; docker save -o busybox.saved busybox; mkdir -p $DOCKER_CONFIG; [ -e $DOCKER_CONFIG/config.json ] || echo {} > $DOCKER_CONFIG/config.json");
}

/// Builds what fits with both; the panic has what differs without being listed, and what is listed in vain.
fn compare(
    c: &Client,
    fits: impl Fn(&Row) -> bool,
    exceptions: Exceptions,
    with_history: bool,
    build: impl Fn(&Row, &str, &str, &str) -> Outcome,
) {
    let yare = yare_testkit::yare_binary().display();
    let named = std::env::var("YARE_COMPARE_ROWS").ok();
    let wanted = |row: &Row| {
        named.as_ref().is_none_or(|named| named == "all" || named.split(',').any(|name| name == row.name))
    };
    let mut used = vec![false; exceptions.len()];
    let (mut wrong, mut count) = (Vec::new(), 0);
    for row in TABLES.iter().copied().flatten().filter(|row| fits(row) && wanted(row)) {
        count += 1;
        std::fs::write(c.folder.join("files").join(row.name), row.dockerfile).unwrap();
        let context = if row.flags.contains("CTX") { "" } else { "ctx" };
        let flags = row.flags.replace("CTX", "");
        let own = run(
            c,
            &format!(
                "{yare} build --progress plain -t $n/own -f files/{} {flags} {context} 2>&1 && {yare} save -o own.saved $n/own 2>&1",
                row.name
            ),
        );
        let peers = build(row, &flags, context, "peer.saved");
        let differences = match (own.code, peers.code) {
            (0, 0) => {
                let read = |name: &str| Content::read(&c.folder.join(name));
                differences(&read("own.saved"), &read("peer.saved"), with_history)
            }
            (0, _) => vec![format!("the peer fails: {}", shown(&peers))],
            _ => vec![format!("yare fails: {}", shown(&own))],
        };
        let _ = run(c, "rm -f own.saved peer.saved");
        for difference in differences {
            let listed = exceptions
                .iter()
                .position(|(name, part, _)| (*name == "*" || *name == row.name) && difference.contains(part));
            match listed {
                Some(index) => used[index] = true,
                None => wrong.push(format!("== {}: {difference}", row.name)),
            }
        }
    }
    if named.is_some_and(|named| named != "all") {
        used.fill(true);
    }
    let in_vain = exceptions.iter().zip(used).filter(|(_, used)| !used).map(|(exception, _)| exception);
    wrong.extend(
        in_vain.map(|(name, part, why)| format!("== {name}: {part:?} is listed ({why}) and never was")),
    );
    assert!(wrong.is_empty(), "{} differences in {count} rows\n{}", wrong.len(), wrong.join("\n"));
}

fn differences(own: &Content, peer: &Content, with_history: bool) -> Vec<String> {
    let mut found = Vec::new();
    for (kind, own, peer) in [("file", &own.files, &peer.files), ("config", &own.config, &peer.config)] {
        let names: std::collections::BTreeSet<_> = own.keys().chain(peer.keys()).collect();
        for name in names.into_iter().filter(|name| own.get(*name) != peer.get(*name)) {
            let shown = |value: Option<&String>| value.map_or("nothing", String::as_str).to_owned();
            found.push(format!(
                "{kind} {name}: yare {}, peer {}",
                shown(own.get(name)),
                shown(peer.get(name))
            ));
        }
    }
    if with_history && own.history != peer.history {
        found.push(format!("history:\n  yare {:#?}\n  peer {:#?}", own.history, peer.history));
    }
    found
}
