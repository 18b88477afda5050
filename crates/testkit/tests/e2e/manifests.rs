//! Manifest lists: put together by docker's command line and ours, in one store, and pushed.

use std::fs;

use serde_json::{Value, json};
use yare_testkit::Registry;

use crate::archive;
use crate::case::cases;
use crate::client::Client;

cases![
    Docker:
        lists_of_both_programs_have_the_same_digest.with_either_registry(),
        a_list_that_one_began_the_other_pushes.with_either_registry(),
        what_cannot_be_listed_is_refused_alike.with_either_registry();
];

/// Pushes an image for each platform and gives their names, which end in `:<architecture>`.
fn push(c: &Client, registry: &Registry, images: &[(&str, &str, &str)]) {
    for (repository, architecture, variant) in images {
        let name = format!("{}/{}/{repository}:{architecture}", registry.host(), c.n);
        let layers = [archive::layer(&[("of", &format!("{} {architecture}", c.n))])];
        let image = archive::docker_archive_for(&name, &layers, (architecture, variant));
        fs::write(c.folder.join("image.tar"), image).unwrap();
        c.ok(&format!("docker load -q -i image.tar && docker push -q {name}; docker rmi {name}"));
    }
}

/// Both programs, with a folder of their own each and no engine.
fn programs() -> [(&'static str, String); 2] {
    let yare = yare_testkit::yare_binary().display().to_string();
    [("docker", "docker".to_owned()), ("yare", yare)]
}

fn lists_of_both_programs_have_the_same_digest(c: &Client) {
    let registry = c.registry("registry");
    push(c, &registry, &[("app", "amd64", ""), ("app", "arm", "v7"), ("other", "arm64", "v8")]);
    let base = format!("{}/{}", registry.host(), c.n);
    let transcripts = programs().map(|(name, program)| {
        let list = format!("{base}/app:list");
        c.ok(&format!(
            "export DOCKER_CONFIG=$PWD/{name} DOCKER_HOST=unix:///none; m='{program} manifest'; \
             $m create --insecure {list} {base}/app:amd64 {base}/app:arm {base}/other:arm64 && \
             $m annotate {list} {base}/app:arm --variant v6 --os-version 1 --os-features a,b && \
             $m create --insecure --amend {list} {base}/app:arm && \
             $m inspect {list} && $m inspect -v {list} && $m inspect {list} {base}/app:arm && \
             $m push --insecure {list} && $m push --insecure --purge {list} && ! $m inspect {list} {base}/app:arm 2>&1 && \
             $m inspect --insecure {list} && $m inspect -v --insecure {list} && $m inspect --insecure {base}/app:amd64 && \
             $m inspect --insecure -v {base}/app:amd64"
        ))
    });
    assert!(transcripts[0].contains(&format!("Pushed ref {base}/app@sha256:")), "{}", transcripts[0]);
    assert_eq!(transcripts[0], transcripts[1]);
    // What was pushed is what an engine gets.
    c.ok(&format!("docker pull -q {base}/app:list && docker rmi {base}/app:list"));
}

fn a_list_that_one_began_the_other_pushes(c: &Client) {
    let registry = c.registry("registry");
    push(c, &registry, &[("app", "amd64", ""), ("app", "arm64", "")]);
    let base = format!("{}/{}/app", registry.host(), c.n);
    let [docker, yare] = programs().map(|(_, program)| program);
    for (one, other) in [(&docker, &yare), (&yare, &docker)] {
        let printed = c.ok(&format!(
            "export DOCKER_CONFIG=$PWD/both DOCKER_HOST=unix:///none; \
             {one} manifest create --insecure {base}:l {base}:amd64 {base}:arm64 && \
             {other} manifest annotate {base}:l {base}:arm64 --variant v9 && \
             {one} manifest annotate {base}:l {base}:arm64 --os-version 2 && \
             {other} manifest push --insecure -p {base}:l >/dev/null && [ ! -e both/manifests/*app-l ] && \
             {one} manifest inspect --insecure {base}:l"
        ));
        let list: Value = serde_json::from_str(printed.split_once('\n').unwrap().1).unwrap();
        let platform = json!({"architecture": "arm64", "os": "linux", "os.version": "2", "variant": "v9"});
        assert_eq!(list["manifests"][1]["platform"], platform);
    }
}

fn what_cannot_be_listed_is_refused_alike(c: &Client) {
    let registry = c.registry("registry");
    push(c, &registry, &[("app", "amd64", "")]);
    let base = format!("{}/{}/app", registry.host(), c.n);
    let outcomes = programs().map(|(name, program)| {
        let with = |script: &str| {
            let run = c.run(&format!(
                "export DOCKER_CONFIG=$PWD/{name} DOCKER_HOST=unix:///none; {program} manifest {script}"
            ));
            let told = run.stderr.lines().next().unwrap_or_default();
            (script.to_owned(), run.code, told.to_owned())
        };
        [
            with(&format!("create --insecure {base}:l {base}:amd64")),
            with(&format!("create --insecure {base}:l {base}:amd64")),
            with(&format!("annotate {base}:l {base}:none --arch arm")),
            with(&format!("annotate {base}:none {base}:amd64 --arch arm")),
            with(&format!("create --insecure {base}:m {base}:none")),
            with(&format!("push --insecure {base}:none")),
            with(&format!("rm {base}:none")),
            with(&format!("push --insecure {base}:l")),
            with(&format!("create --insecure {base}:m {base}:l")),
            with(&format!("rm {base}:l")),
            with(&format!("rm {base}:l")),
        ]
    });
    for (docker, yare) in outcomes[0].iter().zip(&outcomes[1]) {
        assert_eq!(docker, yare);
    }
    let combination = c.fails(
        1,
        &format!(
            "export DOCKER_CONFIG=$PWD/y; m='{} manifest'; $m create {base}:l {base}:amd64 && $m annotate {base}:l {base}:amd64 --arch vax",
            yare_testkit::yare_binary().display()
        ),
    );
    assert!(combination.contains("unsupported os/arch combination: linux/vax"), "{combination}");
}
