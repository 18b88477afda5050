//! skopeo.

use serde_json::json;
use yare_testkit::require_programs;

use crate::content::{self, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, OCI_ZSTD_LAYER};
use crate::place::{Place, by_every_way};

const SKOPEO: &str = "skopeo() { command skopeo --insecure-policy \"$@\"; }\n";

impl Place {
    #[track_caller]
    fn skopeo(&self, script: &str) -> String {
        self.sh(&format!("{SKOPEO}{script}"))
    }
}

#[test]
fn skopeo_copies_syncs_lists_and_deletes() {
    if !require_programs("skopeo_copies_syncs_lists_and_deletes", &["skopeo", "curl", "zstd"]) {
        return;
    }
    by_every_way(|place| {
        an_index_goes_and_comes(place);
        formats_are_converted(place);
        many_layers_go_and_come(place);
        layers_are_compressed_with_zstd(place);
        folders_are_synchronised(place);
        tags_are_listed_and_deleted(place);
    });
}

fn an_index_goes_and_comes(place: &Place) {
    let index = content::index(&place.path("index"));
    place.skopeo(
        "skopeo copy -q --all --preserve-digests $dest oci:index docker://$host/team/multi:1
         skopeo copy -q --all --preserve-digests $src $dest docker://$host/team/multi:1 docker://$host/other/multi:2
         skopeo copy -q --all --preserve-digests $src docker://$host/other/multi:2 oci:index-back",
    );
    let there = place.manifest("other/multi", "2");
    assert_eq!((&there.digest, there.kind.as_str()), (&index, OCI_INDEX));
    assert_eq!(content::root(&place.path("index-back")), index);
    assert!(content::blobs(&place.path("index-back")) == content::blobs(&place.path("index")));
    // Who asks for one platform gets its image.
    place.skopeo("skopeo copy -q --override-arch arm64 $src docker://$host/team/multi:1 oci:arm");
    assert_eq!(content::root(&place.path("arm")), there.members()[1]);
    let said = place.skopeo("skopeo inspect --override-arch arm64 $flags docker://$host/team/multi:1");
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["Architecture"], &said["RepoTags"]), (&json!("arm64"), &json!(["1"])));
}

fn formats_are_converted(place: &Place) {
    let oci = content::image(&place.path("image"), "app", 3);
    place.skopeo(
        "skopeo copy -q $dest oci:image docker://$host/team/app:oci
         skopeo copy -q --format v2s2 $dest oci:image docker://$host/team/app:docker
         skopeo copy -q --format oci $src $dest docker://$host/team/app:docker docker://$host/team/app:again",
    );
    let [first, docker, again] =
        ["oci", "docker", "again"].map(|reference| place.manifest("team/app", reference));
    assert_eq!((first.digest, first.kind.as_str()), (oci, OCI_MANIFEST));
    assert_eq!((docker.kind.as_str(), again.kind.as_str()), (DOCKER_MANIFEST, OCI_MANIFEST));
    let digests = |manifest: &serde_json::Value| {
        let layers = manifest["layers"].as_array().unwrap().iter();
        layers.map(|layer| layer["digest"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(digests(&docker.value), digests(&first.value));
    assert_eq!(digests(&again.value), digests(&first.value));
}

fn many_layers_go_and_come(place: &Place) {
    let digest = content::image(&place.path("many"), "many", 40);
    place.skopeo(
        "skopeo copy -q --preserve-digests $dest oci:many docker://$host/team/many:1
         skopeo copy -q --preserve-digests $src docker://$host/team/many:1 oci:many-back",
    );
    assert_eq!(place.manifest("team/many", "1").digest, digest);
    assert_eq!(content::root(&place.path("many-back")), digest);
    let blobs = content::blobs(&place.path("many-back"));
    assert_eq!(blobs.len(), 42, "the layers, the config and the manifest");
    assert!(blobs == content::blobs(&place.path("many")));
}

fn layers_are_compressed_with_zstd(place: &Place) {
    // Nobody has sent the same layers before: skopeo would have them mounted, compressed as they are there.
    content::image(&place.path("plain"), "plain", 3);
    place.skopeo(
        "skopeo copy -q --dest-decompress oci:plain dir:plain-dir
         skopeo copy -q --format oci --dest-compress-format zstd $dest dir:plain-dir docker://$host/squeezed/app:1
         skopeo copy -q $src docker://$host/squeezed/app:1 dir:squeezed",
    );
    let there = place.manifest("squeezed/app", "1");
    assert_eq!(there.layers(), [OCI_ZSTD_LAYER; 3]);
    for (number, layer) in (1..).zip(there.value["layers"].as_array().unwrap()) {
        let file = layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        let text = place.sh(&format!("zstd -dc squeezed/{file} | tar -xO f{number}"));
        assert_eq!(text, format!("plain {number}\n"));
    }
}

fn folders_are_synchronised(place: &Place) {
    place.skopeo(
        "skopeo sync --all --src docker --dest dir $src $host/team/multi synced
         skopeo sync --all --src dir --dest docker $dest synced $host/mirror",
    );
    let (from, to) = (place.manifest("team/multi", "1"), place.manifest("mirror/multi", "1"));
    assert_eq!(to.digest, from.digest);
}

fn tags_are_listed_and_deleted(place: &Place) {
    let list = |repository: &str| {
        let said = place.skopeo(&format!("skopeo list-tags $flags docker://$host/{repository}"));
        serde_json::from_str::<serde_json::Value>(&said).unwrap()["Tags"].take()
    };
    assert_eq!(list("team/app"), json!(["again", "docker", "oci"]));
    let digest = place.manifest("team/app", "docker").digest;
    place.skopeo("skopeo delete $flags docker://$host/team/app:docker");
    assert_eq!(list("team/app"), json!(["again", "oci"]));
    assert!(!place.has("team/app", &digest));
    let refused =
        place.script(&format!("{SKOPEO}skopeo inspect $flags docker://$host/team/app:docker")).fails(1);
    assert!(refused.contains("manifest unknown"), "{refused}");
}
