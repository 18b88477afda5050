//! buildah.

use yare_testkit::{require_programs, require_root};

use crate::content::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, OCI_ZSTD_LAYER};
use crate::place::{Place, by_every_way};

/// `store` is the folder of the images.
const BUILDAH: &str = "store=here\n\
    buildah() { command buildah --root \"$PWD/$store/root\" --runroot \"$PWD/$store/run\" --storage-driver vfs \"$@\"; }\n";

impl Place {
    #[track_caller]
    fn buildah(&self, script: &str) -> String {
        self.sh(&format!("{BUILDAH}{script}"))
    }
}

#[test]
fn buildah_pushes_what_it_builds_and_pulls_it() {
    let name = "buildah_pushes_what_it_builds_and_pulls_it";
    if !require_root(name) || !require_programs(name, &["buildah", "curl"]) {
        return;
    }
    by_every_way(|place| {
        images_go_and_come(place);
        lists_go_and_come(place);
        layers_are_compressed_with_zstd(place);
    });
}

fn images_go_and_come(place: &Place) {
    place.buildah(
        "buildah from -q --name made scratch
         echo hello > hello && buildah add -q made hello /
         buildah config --label of=buildah made
         buildah commit -q made app",
    );
    for (format, kind) in [("oci", OCI_MANIFEST), ("v2s2", DOCKER_MANIFEST)] {
        let digest = place.buildah(&format!(
            "buildah push -q $flags --format {format} --digestfile digest app docker://$host/team/built:{format}
             cat digest"
        ));
        let there = place.manifest("team/built", format);
        assert_eq!((there.digest.as_str(), there.kind.as_str()), (digest.trim(), kind));
        let pulled = place.buildah(&format!(
            "store=there-{format}
             buildah pull -q $flags docker://$host/team/built:{format} > id
             buildah inspect --type image --format '{{{{.FromImageDigest}}}} {{{{.OCIv1.Config.Labels}}}}' \"$(cat id)\"
             buildah from -q --name it \"$(cat id)\" && cat \"$(buildah mount it)/hello\" && buildah umount it"
        ));
        assert!(
            pulled.starts_with(&format!("{} map[io.buildah.version:", there.digest))
                && pulled.contains(" of:buildah]")
                && pulled.contains("\nhello\n"),
            "{pulled}"
        );
    }
}

fn lists_go_and_come(place: &Place) {
    place.buildah(
        "buildah manifest create list
         buildah manifest add $flags list docker://$host/team/built:oci
         buildah manifest add --arch arm64 $flags list docker://$host/team/built:v2s2
         buildah manifest push -q --all $flags --format oci list docker://$host/team/list:oci
         buildah manifest push -q --all $flags --format v2s2 list docker://$host/team/list:v2s2",
    );
    let members = ["oci", "v2s2"].map(|reference| place.manifest("team/built", reference).digest);
    let index = place.manifest("team/list", "oci");
    assert_eq!(index.kind, OCI_INDEX);
    assert!(index.members().contains(&members[0].as_str()), "{:?} {members:?}", index.value);
    let list = place.manifest("team/list", "v2s2");
    assert_eq!(list.kind, DOCKER_LIST);
    assert!(list.members().contains(&members[1].as_str()), "{:?} {members:?}", list.value);
    // Of the two it takes the one for this machine.
    let pulled = place.buildah(
        "store=listed
         buildah pull -q $flags docker://$host/team/list:oci > id
         buildah inspect --type image --format '{{.FromImageDigest}}' \"$(cat id)\"",
    );
    assert_eq!(pulled.trim(), members[0]);
}

fn layers_are_compressed_with_zstd(place: &Place) {
    // A layer that it sent before it would have mounted, compressed as it is there.
    place.buildah(
        "buildah from -q --name other scratch
         echo squeezed > hello && buildah add -q other hello / && buildah commit -q other squeezed
         buildah push -q $flags --format oci --compression-format zstd squeezed docker://$host/squeezed/built:1",
    );
    assert_eq!(place.manifest("squeezed/built", "1").layers(), [OCI_ZSTD_LAYER]);
    let text = place.buildah(
        "store=squeezed
         buildah from -q --name it $flags docker://$host/squeezed/built:1 > name
         cat \"$(buildah mount it)/hello\" && buildah umount it > name",
    );
    assert_eq!(text, "squeezed\n");
}
