//! Docker's command line and its Python library, through a stock dockerd and through our engine.

use std::path::Path;

use serde_json::{Value, json};
use yare_testkit::{
    Access, Dockerd, Engine, Invocation, busybox_rootfs_tar, require_programs, require_python, require_root,
};

use crate::content::{self, DOCKER_LIST, DOCKER_MANIFEST};
use crate::place::{Place, by_every_way};

/// What is needed to move images: no bridge, no packet filter, no forwarding.
const WITHOUT_NETWORK: [&str; 5] =
    ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"];

/// The installed dockerd, and its folder, which outlives it.
fn dockerd() -> (tempfile::TempDir, Dockerd) {
    let binary = Invocation::new("sh", &["-c", "command -v dockerd"]).ok();
    let folder = tempfile::Builder::new().prefix("yare-dockerd-").tempdir().unwrap();
    let dockerd = Dockerd::start(Path::new(binary.trim()), folder.path(), &WITHOUT_NETWORK, &[]);
    (folder, dockerd)
}

#[test]
fn docker_pushes_and_pulls_through_dockerd() {
    let name = "docker_pushes_and_pulls_through_dockerd";
    if !require_root(name) || !require_programs(name, &["dockerd", "docker", "skopeo", "curl"]) {
        return;
    }
    let (_folder, dockerd) = dockerd();
    by_every_way(|place| {
        let docker = Docker { place, socket: &dockerd.socket() };
        if place.has_login() {
            docker.a_login_is_proven();
        }
        docker.all_tags_go_and_come();
        // Its pushes of lists are plain HTTP where the registry is on loopback, whatever that speaks.
        if place.authority().is_none() {
            docker.a_list_is_made();
        }
        docker.sh("docker logout $host; docker image prune -af");
    });
}

/// Docker's command line at an engine.
struct Docker<'a> {
    place: &'a Place,
    socket: &'a Path,
}

impl Docker<'_> {
    fn script(&self, script: &str) -> String {
        format!("export DOCKER_HOST=unix://{}\n{script}", self.socket.display())
    }

    #[track_caller]
    fn sh(&self, script: &str) -> String {
        self.place.sh(&self.script(script))
    }

    fn a_login_is_proven(&self) {
        let login = "docker login -u user --password-stdin $host 2>&1 <<< ";
        let refused = self.place.script(&self.script(&format!("{login}wrong"))).run();
        let why = match self.place.access() {
            Access::Tokens => "unauthorized: incorrect username or password",
            Access::Password | Access::Everybody => "401 Unauthorized",
        };
        assert!(refused.code == 1 && refused.stdout.contains(why), "{refused:?}");
        assert!(self.sh(&format!("{login}secret")).contains("Login Succeeded"));
    }

    fn all_tags_go_and_come(&self) {
        std::fs::write(self.place.path("root.tar"), busybox_rootfs_tar()).unwrap();
        let id = self.sh("docker import -m \"$host\" root.tar $host/team/box:1
             docker tag $host/team/box:1 $host/team/box:2");
        let pushed = self.sh("docker push -a $host/team/box");
        let there = self.place.manifest("team/box", "2");
        assert_eq!(there.kind, DOCKER_MANIFEST);
        assert!(pushed.contains(&format!("2: digest: {}", there.digest)), "{pushed}");
        assert_eq!(there.value["config"]["digest"], id.trim());
        let again = self.sh("docker tag $host/team/box:1 $host/other/box:1; docker push $host/other/box:1");
        assert!(again.contains("Mounted from team/box"), "{again}");
        let known = self.sh("docker rmi -f $(docker images -q $host/team/box) > removed
             docker pull -q -a $host/team/box > pulled
             docker image inspect -f '{{.Id}} {{json .RepoDigests}}' $host/team/box:2");
        assert_eq!(known, format!("{} [\"{}/team/box@{}\"]\n", id.trim(), self.place.host(), there.digest));
    }

    /// The command line itself talks to the registry for this.
    fn a_list_is_made(&self) {
        let said = self.sh("docker manifest create --insecure $host/team/list:1 $host/team/box:1
             docker manifest annotate --arch arm64 --variant v8 $host/team/list:1 $host/team/box:1
             docker manifest push --insecure --purge $host/team/list:1
             docker manifest inspect --insecure $host/team/list:1 > inspected");
        let list = self.place.manifest("team/list", "1");
        assert_eq!(list.kind, DOCKER_LIST);
        assert_eq!(said.lines().last(), Some(list.digest.as_str()));
        assert_eq!(list.members(), [self.place.manifest("team/box", "1").digest]);
        let inspected = std::fs::read(self.place.path("inspected")).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&inspected).unwrap(), list.value);
    }

    /// An OCI image of another client is pulled, and pushed on in dockerd's own form.
    fn many_layers_go_and_come(&self) {
        let digest = content::image(&self.place.path("many"), "many", 40);
        let said = self.sh(
            "skopeo --insecure-policy copy -q --preserve-digests $dest oci:many docker://$host/team/many:1
             docker pull -q $host/team/many:1 > pulled
             docker image inspect -f '{{index .RepoDigests 0}} {{len .RootFS.Layers}}' $host/team/many:1
             docker tag $host/team/many:1 $host/other/many:1
             docker push -q $host/other/many:1 > pushed",
        );
        assert_eq!(said, format!("{}/team/many@{digest} 40\n", self.place.host()));
        let (first, second) = (self.place.manifest("team/many", "1"), self.place.manifest("other/many", "1"));
        assert_eq!((second.kind.as_str(), second.layers().len()), (DOCKER_MANIFEST, 40));
        assert_eq!(second.value["config"]["digest"], first.value["config"]["digest"]);
    }
}

#[test]
fn docker_passes_many_layers_on_through_dockerd() {
    let name = "docker_passes_many_layers_on_through_dockerd";
    if !require_root(name) || !require_programs(name, &["dockerd", "docker", "skopeo", "curl"]) {
        return;
    }
    let (_folder, dockerd) = dockerd();
    let place = Place::for_everybody();
    Docker { place: &place, socket: &dockerd.socket() }.many_layers_go_and_come();
}

#[test]
fn yare_passes_on_what_others_pushed() {
    let name = "yare_passes_on_what_others_pushed";
    if !require_root(name) || !require_programs(name, &["docker", "skopeo", "curl"]) {
        return;
    }
    let (engine, place) = (Engine::start(), Place::for_everybody());
    let docker = Docker { place: &place, socket: &engine.socket() };
    for (text, layers, form) in [
        ("many", 40, ""),
        ("docker", 2, "--format v2s2"),
        ("zstd", 2, "--format oci --dest-compress-format zstd"),
    ] {
        content::image(&place.path(text), text, layers);
        docker.sh(&format!(
            "skopeo --insecure-policy copy -q --dest-decompress oci:{text} dir:{text}-plain
             skopeo --insecure-policy copy -q {form} $dest dir:{text}-plain docker://$host/team/{text}:1
             docker pull -q $host/team/{text}:1 > pulled
             docker tag $host/team/{text}:1 $host/other/{text}:1
             docker push -q $host/other/{text}:1 > pushed
             docker create --name {text} $host/team/{text}:1 sh > created
             docker cp {text}:/f{layers} {text}-file && docker rm {text} > removed"
        ));
        let [first, second] = ["team", "other"].map(|at| place.manifest(&format!("{at}/{text}"), "1"));
        assert_eq!((second.digest, first.layers().len()), (first.digest.clone(), layers), "{text}");
        assert_eq!(first.layers()[0].ends_with("+zstd"), text == "zstd", "{first:?}");
        let copied = std::fs::read_to_string(place.path(&format!("{text}-file"))).unwrap();
        assert_eq!(copied, format!("{text} {layers}\n"));
    }
    engine.finish();
}

#[test]
fn docker_py_pushes_and_pulls_through_dockerd() {
    let name = "docker_py_pushes_and_pulls_through_dockerd";
    let Some(python) = require_python(name, &["docker"]) else { return };
    if !require_root(name) || !require_programs(name, &["dockerd", "curl"]) {
        return;
    }
    let (_folder, dockerd) = dockerd();
    by_every_way(|place| docker_py(place, &python, &dockerd.socket()));
}

#[test]
fn docker_py_pushes_and_pulls_through_yare() {
    let name = "docker_py_pushes_and_pulls_through_yare";
    let Some(python) = require_python(name, &["docker"]) else { return };
    if !require_root(name) || !require_programs(name, &["curl"]) {
        return;
    }
    let engine = Engine::start();
    by_every_way(|place| docker_py(place, &python, &engine.socket()));
    engine.finish();
}

fn docker_py(place: &Place, python: &str, socket: &Path) {
    std::fs::write(place.path("with_docker.py"), include_str!("with_docker.py")).unwrap();
    std::fs::write(place.path("root.tar"), busybox_rootfs_tar()).unwrap();
    let login = if place.has_login() { "user secret" } else { "" };
    let said =
        place.sh(&format!("'{python}' with_docker.py 'unix://{}' \"$host\" {login}", socket.display()));
    let said: Value = serde_json::from_str(&said).unwrap();
    let [there, other] = ["team/py", "other/py"].map(|repository| place.manifest(repository, "1"));
    assert_eq!((&said["pushed"], &said["looked_up"]), (&json!(there.digest), &json!(there.digest)));
    assert_eq!(said["pulled"]["digests"], json!([format!("{}/team/py@{}", place.host(), there.digest)]));
    assert_eq!(
        (&said["imported"], &said["pulled"]["id"]),
        (&there.value["config"]["digest"], &said["imported"])
    );
    // What was pulled is pushed on as it came.
    assert_eq!(other.digest, there.digest);
    assert_eq!(said["all"], json!(["1", "2"]));
}
