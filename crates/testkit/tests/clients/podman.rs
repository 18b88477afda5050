//! podman.

use serde_json::json;
use yare_testkit::{require_programs, require_root};

use crate::content::{self, DOCKER_MANIFEST, OCI_MANIFEST};
use crate::place::{Place, by_every_way};

/// `trust` is what says how the registry is reached; who logged in needs no `$flags`.
const PODMAN: &str = "trust=${flags% --creds=*}\n\
    podman() { command podman --root \"$PWD/podman/root\" --runroot \"$PWD/podman/run\" --tmpdir \"$PWD/podman/tmp\" \
    --storage-driver vfs --cgroup-manager cgroupfs \"$@\"; }\n";

impl Place {
    #[track_caller]
    fn podman(&self, script: &str) -> String {
        self.sh(&format!("{PODMAN}{script}"))
    }
}

#[test]
fn podman_logs_in_pushes_pulls_and_lists() {
    let name = "podman_logs_in_pushes_pulls_and_lists";
    if !require_root(name) || !require_programs(name, &["podman", "skopeo", "curl"]) {
        return;
    }
    by_every_way(|place| {
        if place.has_login() {
            a_login_is_proven(place);
        }
        images_go_and_come(place);
        // It has no flag for an authority.
        let listed = place.podman("podman search --list-tags --tls-verify=false $host/team/app");
        let tags = listed.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
        assert_eq!(tags.collect::<Vec<_>>(), ["oci", "v2s2"], "{listed}");
    });
}

fn a_login_is_proven(place: &Place) {
    let login = |password: &str| {
        place.script(&format!("{PODMAN}podman login -u user --password-stdin $trust $host <<< {password}"))
    };
    let refused = login("wrong").fails(125);
    assert!(refused.contains("invalid username/password"), "{refused}");
    assert_eq!(login("secret").ok(), "Login Succeeded!\n");
}

fn images_go_and_come(place: &Place) {
    place
        .podman("echo hello > hello && tar -cf root.tar hello && podman import -q root.tar localhost/made:1");
    for (format, kind) in [("oci", OCI_MANIFEST), ("v2s2", DOCKER_MANIFEST)] {
        let said = place.podman(&format!(
            "podman push -q $trust --format {format} --digestfile digest localhost/made:1 $host/team/app:{format}
             podman rmi -af > removed
             podman pull -q $trust $host/team/app:{format} > id
             podman image inspect --format '{{{{.Digest}}}}' \"$(cat id)\"
             podman save -q --format oci-archive -o saved.tar \"$(cat id)\"
             podman tag \"$(cat id)\" localhost/made:1
             cat digest"
        ));
        let there = place.manifest("team/app", format);
        assert_eq!(there.kind, kind);
        assert_eq!(said, format!("{0}\n{0}", there.digest));
    }
    assert_eq!(place.tags("team/app"), json!(["oci", "v2s2"]));
}

#[test]
fn podman_passes_many_layers_on_as_they_came() {
    let name = "podman_passes_many_layers_on_as_they_came";
    if !require_root(name) || !require_programs(name, &["podman", "skopeo", "curl"]) {
        return;
    }
    let place = Place::for_everybody();
    let digest = content::image(&place.path("many"), "many", 40);
    let said = place.podman(
        "skopeo --insecure-policy copy -q --preserve-digests $dest oci:many docker://$host/team/many:1
         podman pull -q $trust $host/team/many:1 > id
         podman image inspect --format '{{.Digest}} {{len .RootFS.Layers}}' $host/team/many:1
         podman push -q $trust $host/team/many:1 $host/other/many:1",
    );
    assert_eq!(said, format!("{digest} 40\n"));
    let (first, second) = (place.manifest("team/many", "1"), place.manifest("other/many", "1"));
    assert_eq!(second.value["layers"], first.value["layers"]);
}
