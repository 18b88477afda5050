//! Dockerfiles whose results were measured with the field's builder: exit, text, config, history, files.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::case::cases;
use crate::client::{Client, Program, shown};

cases![
    Both: measured_dockerfiles_give_what_was_measured.differs("its classic builder writes another history");
    Docker: and_so_they_do_over_buildkits_wire.differs(crate::buildx::OWN);
];

const VECTORS: &str = include_str!("../../../dockerfile/tests/data/dockerfile-build-vectors.json");

/// How a result differs from the measured one, on purpose.
enum Otherwise {
    /// It fails with a text that has this in it.
    Says(&'static str),
    /// It builds, and that is all that is looked at.
    Builds,
}

use Otherwise::{Builds, Says};

/// By name, each with its reason.
const OTHERWISE: &[(&str, Otherwise, &str)] = &[
    ("from-missing-stage-copy", Says("of nostage.invalid/x"), "it is said where it was looked for"),
    (
        "run-security-insecure",
        Says("security.insecure is not allowed"),
        "the flag is known, and named as a right to grant",
    ),
    ("copy-outside", Says("\"/x\": not found in the build context"), "no key of a cache that means nothing"),
    (
        "copy-abslink",
        Says("links do not lead out of the build context"),
        "no key of a cache that means nothing",
    ),
    ("copy-chmod-bad", Says("invalid chmod parameter: 'zz'"), "it says which flag and what it takes"),
    ("copy-parents", Builds, "the measured builder was too old for the flag"),
    ("copy-exclude", Builds, "the measured builder was too old for the flag"),
    ("add-url-unreachable", Says("cannot get http://127.0.0.1:1/x"), "the words of another HTTP client"),
    ("ignore-copy-ignored-file", Says("the ignore pattern \"a.txt\""), "it says why"),
];

/// What the classic builder cannot be asked for: it has no such flags.
const NOT_CLASSIC: [&str; 2] = ["--secret", "--build-context"];

const CLASSIC: &str = "DOCKER_BUILDKIT=0 docker build";
const YARE: &str = "docker build --progress=plain";
const BUILDX: &str = "DOCKER_CONFIG=$PWD/docker docker buildx build --progress=plain";

fn measured_dockerfiles_give_what_was_measured(c: &Client) {
    let engine = yare_testkit::Engine::start();
    let how = if c.program == Program::Docker { CLASSIC } else { YARE };
    compare(&c.of(&engine), how);
    engine.finish();
}

fn and_so_they_do_over_buildkits_wire(c: &Client) {
    let engine = yare_testkit::Engine::start();
    let own = c.of(&engine);
    if crate::buildx::buildx(&own) {
        own.ok("rm -r ctx");
        compare(&own, BUILDX);
    }
    drop(own);
    engine.finish();
}

fn compare(c: &Client, how: &str) {
    prepare(c);
    let document: Value = serde_json::from_str(VECTORS).unwrap();
    let cases = document["cases"].as_array().unwrap();
    let mut failures = Vec::new();
    for case in cases {
        if let Err(text) = check(c, case, how) {
            failures.push(format!("== {}: {text}", case["name"].as_str().unwrap()));
        }
    }
    assert!(failures.is_empty(), "{} of {} differ\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// The base image and the context that the results were measured with.
fn prepare(c: &Client) {
    c.ok("mkdir root && tar -xf $busybox -C root && echo root:x:0:0:root:/root:/bin/sh > root/etc/passwd \
         && tar -C root -c . | docker import -c 'CMD [\"sh\"]' - busybox:latest");
    c.ok("umask 022; mkdir -p src/ctx ctx/dir/sub ctx/node_modules/m ctx/empty arch/x && echo hello > src/ctx/f && cd ctx \
         && echo a > a.txt && echo b > b.txt && echo p > priv.txt && chmod 600 priv.txt \
         && printf '#!/bin/sh\\necho e\\n' > exec.sh && chmod 755 exec.sh && echo s > 'sp ace.txt' \
         && echo R > README.md && echo s > secret.log && echo c > dir/c.txt && echo h > dir/.hidden \
         && echo d > dir/sub/d.txt && echo i > node_modules/m/i.js && ln a.txt hard.txt && ln -s a.txt link \
         && ln -s dir dirlink && ln -s /etc/passwd abslink && ln -s ../outside uplink \
         && echo y > ../arch/x/y.txt && echo z > ../arch/x/z.txt && tar -czf arch.tar.gz -C ../arch x/y.txt x/z.txt \
         && find . -exec touch -hd @1600000000 {} +");
}

fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap_or_default()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|word| word.as_str().unwrap().to_owned()).collect()
}

fn check(c: &Client, case: &Value, how: &str) -> Result<(), String> {
    let arguments = words(&case["args"]);
    if how == CLASSIC && arguments.iter().any(|word| NOT_CLASSIC.contains(&word.as_str())) {
        return Ok(());
    }
    let dockerfile = text(case, "dockerfile");
    std::fs::write(c.folder.join("ctx/Dockerfile"), dockerfile).unwrap();
    match case["ignore"].as_str() {
        Some(ignore) => std::fs::write(c.folder.join("ctx/.dockerignore"), ignore).unwrap(),
        None => drop(std::fs::remove_file(c.folder.join("ctx/.dockerignore"))),
    }
    let quoted: Vec<String> = arguments
        .iter()
        .map(|word| format!("'{}'", word.replace("/src", &format!("{}/src", c.folder.display()))))
        .collect();
    let outcome = c.run(&format!("{how} -t v {} ctx 2>&1", quoted.join(" ")));
    let otherwise = OTHERWISE.iter().find(|(name, ..)| *name == text(case, "name"));
    let fails = match otherwise {
        Some((_, Says(_), _)) => true,
        Some((_, Builds, _)) => false,
        None => case["exit"] != 0,
    };
    if (outcome.code != 0) != fails {
        return Err(format!("{dockerfile}{}", shown(&outcome)));
    }
    if let Some((_, otherwise, _)) = otherwise {
        return match otherwise {
            Says(said) if !outcome.stdout.contains(said) => Err(format!("not {said:?}: {}", shown(&outcome))),
            _ => Ok(()),
        };
    }
    let mut wrong = Vec::new();
    if fails {
        let measured = words(&case["error"]).concat();
        let measured = measured.trim_start_matches("ERROR: failed to build: failed to solve: ");
        if !outcome.stdout.contains(measured) {
            wrong.push(format!("not {measured:?}: {}", outcome.stdout));
        }
    }
    for line in words(&case["run_output"]) {
        if !outcome.stdout.lines().any(|said| same_line(said, &line)) {
            wrong.push(format!("never printed {line:?}: {}", outcome.stdout));
        }
    }
    if !fails {
        compare_image(c, case, &mut wrong);
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{dockerfile}{}", wrong.join("\n"))) }
}

/// Whether a line of the display is this one of a step; times of day in it are passed over.
fn same_line(said: &str, line: &str) -> bool {
    if line.contains(':') && line.contains("   ") {
        let words = |text: &str| -> Vec<String> {
            let words = text.split_whitespace().rev().map(str::to_owned);
            words.enumerate().filter(|(index, _)| !(1..=3).contains(index)).map(|(_, word)| word).collect()
        };
        let (said, line) = (words(said), words(line));
        return said.starts_with(&line);
    }
    said.ends_with(line)
}

fn compare_image(c: &Client, case: &Value, wrong: &mut Vec<String>) {
    let mut differ = |what: &str, measured: &Value, found: &Value| {
        if measured != found {
            wrong.push(format!("{what}: measured {measured}\nbut found {found}"));
        }
    };
    if case["config"].is_object() {
        let image = c.api("GET", "/images/v/json", None).json();
        for (name, measured) in case["config"].as_object().unwrap() {
            differ(name, measured, &image["Config"][name]);
        }
        differ("architecture", &case["arch"], &image["Architecture"]);
        let layers = image["RootFS"]["Layers"].as_array().map_or(0, Vec::len);
        differ("number of layers", &case["nlayers"], &json!(layers));
        let history = c.api("GET", "/images/v/history", None).json();
        let steps =
            history.as_array().unwrap().iter().map(|step| json!([step["CreatedBy"], step["Comment"]]));
        let steps: Vec<Value> = steps
            .filter(|step| step[1] != "" && !step[1].as_str().unwrap().starts_with("Imported"))
            .collect();
        differ("history", &case["history"], &json!(steps));
    }
    if case["files"].is_array() {
        differ("files", &json!(files(&words(&case["files"]))), &json!(files(&exported(c))));
    }
}

/// The lines by path; what depends on the host's gzip or on the time of the build is left out.
fn files(lines: &[String]) -> BTreeMap<String, String> {
    let line = |line: &String| {
        let kinds = [" dir ", " file ", " symlink ", " hardlink "];
        let at = kinds.iter().filter_map(|kind| line.find(kind)).min().unwrap();
        let (path, rest) = (line[..at].to_owned(), line[at + 1..].to_owned());
        let rest = if path.ends_with(".tar.gz") { rest.rsplit_once(' ').unwrap().0.to_owned() } else { rest };
        (path, rest.split(" mtime=").next().unwrap().to_owned())
    };
    lines.iter().map(line).collect()
}

/// What is in the image, layer upon layer. Nothing in these images is deleted again.
fn exported(c: &Client) -> Vec<String> {
    let saved =
        c.ok("rm -rf saved && mkdir saved && docker save v | tar -xC saved && cat saved/manifest.json");
    let manifest: Value = serde_json::from_str(&saved).unwrap();
    let mut lines = BTreeMap::new();
    for layer in words(&manifest[0]["Layers"]) {
        let archive = std::fs::read(c.folder.join("saved").join(layer)).unwrap();
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string().trim_end_matches('/').to_owned();
            lines.insert(path.clone(), listed(&path, &entry));
        }
    }
    lines.remove(".");
    lines.into_values().collect()
}

fn listed(path: &str, entry: &tar::Entry<'_, &[u8]>) -> String {
    let header = entry.header();
    let link = || format!(" -> {}", entry.link_name().unwrap().unwrap().display());
    let (kind, link) = match header.entry_type() {
        tar::EntryType::Directory => ("dir", String::new()),
        tar::EntryType::Symlink => ("symlink", link()),
        tar::EntryType::Link => ("hardlink", link()),
        _ => ("file", String::new()),
    };
    let (mode, size) = (header.mode().unwrap() & 0o7777, header.size().unwrap());
    let (uid, gid) = (header.uid().unwrap(), header.gid().unwrap());
    format!("{path} {kind} {mode:o} {uid}:{gid} {size}{link}")
}
