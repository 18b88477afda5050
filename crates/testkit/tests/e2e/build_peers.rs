//! The tables' Dockerfiles built by Yare and by another builder: files, config and history of the results are
//! compared.
//!
//! `buildah` builds what it knows. BuildKit builds everything, if `YARE_REFERENCE_DOCKERD`
//! names a dockerd of 23 or later and there is a buildx (`YARE_TEST_DOCKER_PLUGINS`): `make compare-builds`.
//! `YARE_COMPARE_ROWS` has the names of the rows that are wanted, or `all`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use yare_testkit::{Dockerd, Outcome, require_programs};

use crate::build_table::{Row, context};
use crate::case::cases;
use crate::client::{Client, shown};
use crate::image_content::Content;
use crate::{build_copy, build_language, build_run, buildx, keeper};

cases![
    Docker:
        buildah_builds_the_same.differs("Yare's own builds are compared"),
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

const BUILDAH: Exceptions = &[
    ("*", "file etc/hostname: yare nothing", "its places of mounts stay in the layers of RUN"),
    ("*", "file etc/hosts: yare nothing", "likewise"),
    ("*", "file etc/resolv.conf: yare nothing", "likewise"),
    ("*", "file run: yare nothing", "likewise"),
    ("*", "config Hostname", "it keeps the name of its own container"),
    ("*", "io.buildah.version", "it signs its images"),
    ("*", "config ArgsEscaped: yare true", "BuildKit sets it"),
    ("*", "config WorkingDir: yare \"/\", peer nothing", "BuildKit sets it"),
    ("copy-chmod", "the peer fails", "it reads no modes of letters"),
    ("copy-nothing", "the peer fails", "a pattern must match"),
    ("copy-special-files", "the peer fails", "its steps may not make devices"),
    ("copy-times-are-given", "the peer fails", "it keeps the times of files"),
    ("add-chown", "the peer fails", "owner or mode of what it adds is another"),
    ("env-expansion", "the peer fails", "it knows fewer forms"),
    ("arg-is-of-its-stage-and-those-upon-it", "the peer fails", "its arguments end with their stage"),
    ("arg-hides-env-before-it", "the peer fails", "a variable hides every argument"),
    ("arg-without-a-value-hides-nothing", "the peer fails", "a variable hides every argument"),
    ("arg-proxy-leaves-no-trace", "the peer fails", "a proxy is there in the case it was given in"),
    ("variables-in-every-instruction", "file data/v: yare nothing", "it makes the directories of volumes"),
    ("volume", "file a b: yare nothing", "it makes the directories of volumes"),
    ("volume-is-written-later", "the peer fails", "what is written to a volume later is lost"),
    ("stage-names", "the peer fails", "names of stages have one case"),
    ("stage-target-in-other-case", "the peer fails", "names of stages have one case"),
    ("stage-on-a-variable", "the peer fails", "no variable names a stage"),
    ("text-escape", "the peer fails", "it reads the escaped lines in another way"),
    ("expose", "config ExposedPorts", "it keeps ranges"),
    ("standard-files", "the peer fails", "its steps have another host name"),
    ("nothing-of-the-host", "the peer fails", "its steps are not process 1 without namespaces"),
];

/// What is built without `YARE_COMPARE_ROWS`: a little of everything, in less than a minute.
const SAMPLE: &str = "copy-renames,copy-into-a-directory,copy-relative,copy-several,copy-directory-content,\
    copy-wildcards,copy-json,copy-chown,copy-user-is-root,copy-merges,copy-through-a-link,copy-of-links,\
    copy-link-out-of-the-image,copy-from-a-stage,add-every-compression,add-merges,cmd-shell,label,user-names,\
    workdir";

/// What a Dockerfile or its flags may not have for buildah 1.28, the one of Debian 12, without a network of
/// its own for steps.
const NOT_FOR_BUILDAH: &[&str] = &[
    "<<",
    "--link",
    "--parents",
    "--exclude",
    "--unpack",
    "--network",
    "--security",
    "--mount",
    "--allow",
    "--memory",
    "--cpu",
    "--ulimit",
    "--shm",
    "--build-context",
    "--secret",
    "--ssh",
    "SHELL",
    "HEALTHCHECK",
];

struct Buildah {
    storage: PathBuf,
}

impl Buildah {
    fn build(&self, c: &Client, row: &Row, flags: &str, context: &str, saved: &str) -> Outcome {
        let storage =
            format!("--root {0}/root --runroot {0}/run --storage-driver vfs", self.storage.display());
        run(
            c,
            &format!(
                "buildah {storage} bud --isolation chroot --format docker -t i -f files/{} {flags} {context} 2>&1 \
             && buildah {storage} push -q i docker-archive:{saved}:i:latest 2>&1",
                row.name
            ),
        )
    }
}

/// How a peer is compared.
struct Rules {
    exceptions: Exceptions,
    /// The rows that are built unless `YARE_COMPARE_ROWS` says.
    rows: &'static str,
    /// Whether its history has the same form.
    with_history: bool,
}

/// A dockerd in namespaces of its own, which end with it.
struct BuildKit {
    dockerd: Option<Dockerd>,
    cgroup_parent: String,
}

impl BuildKit {
    fn start(c: &Client, binary: &Path) -> Self {
        let cgroup_parent = format!("/yare-peer-{}", std::process::id());
        let folder = c.folder.join("dockerd");
        let inside = keeper::OWN_NAMESPACES;
        let dockerd = keeper::start_dockerd(binary, &folder, "10.209.0.1", &cgroup_parent, inside);
        Self { dockerd: Some(dockerd), cgroup_parent }
    }

    fn address(&self) -> String {
        format!("unix://{}", self.dockerd.as_ref().unwrap().socket().display())
    }

    fn build(&self, c: &Client, row: &Row, flags: &str, context: &str, saved: &str) -> Outcome {
        run(
            c,
            &format!(
                "export DOCKER_HOST={} DOCKER_CONFIG=$PWD/docker\ndocker buildx build --progress plain -t i -f files/{} \
             {flags} {context} 2>&1 && docker save -o {saved} i 2>&1",
                self.address(),
                row.name
            ),
        )
    }
}

impl Drop for BuildKit {
    fn drop(&mut self) {
        // Its containers must be gone before their groups can be.
        drop(self.dockerd.take());
        keeper::remove_cgroups(&self.cgroup_parent);
    }
}

fn run(c: &Client, script: &str) -> Outcome {
    c.script(script).patience(Duration::from_secs(120)).run()
}

fn buildah_builds_the_same(c: &Client) {
    if !require_programs("buildah_builds_the_same", &["buildah"]) {
        return;
    }
    let peer = Buildah { storage: c.folder.join("buildah") };
    let fits = |row: &Row| {
        !NOT_FOR_BUILDAH.iter().any(|word| row.dockerfile.contains(word) || row.flags.contains(word))
    };
    prepare(c);
    let pulled = run(
        c,
        &format!(
            "buildah --root {0}/root --runroot {0}/run --storage-driver vfs pull -q docker-archive:busybox.saved 2>&1",
            peer.storage.display()
        ),
    );
    assert_eq!(pulled.code, 0, "{}", shown(&pulled));
    let rules = Rules { exceptions: BUILDAH, rows: SAMPLE, with_history: false };
    compare(c, fits, &rules, |row, flags, context, saved| peer.build(c, row, flags, context, saved));
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
    let loaded = run(c, &format!("DOCKER_HOST={} docker load -i busybox.saved 2>&1", peer.address()));
    assert_eq!(loaded.code, 0, "{}", shown(&loaded));
    let rules = Rules { exceptions: BUILDKIT, rows: "all", with_history: true };
    compare(c, |_| true, &rules, |row, flags, context, saved| peer.build(c, row, flags, context, saved));
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
    rules: &Rules,
    build: impl Fn(&Row, &str, &str, &str) -> Outcome,
) {
    let exceptions = rules.exceptions;
    let yare = yare_testkit::yare_binary().display();
    let named = std::env::var("YARE_COMPARE_ROWS").unwrap_or_else(|_| rules.rows.to_owned());
    let wanted = |row: &Row| named == "all" || named.split(',').any(|name| name == row.name);
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
                differences(&read("own.saved"), &read("peer.saved"), rules.with_history)
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
    assert!(count > 0, "no row is called {named}");
    if named != "all" {
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
