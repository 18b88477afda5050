//! `buildx imagetools` over our registry. What it has to print, the end-to-end tests ask of Docker's Buildx.

use super::artifacts::{Served, User};

#[test]
fn an_index_is_made_where_its_parts_are_brought_to() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::new(&folder.path().join("registry"));
    let user = User::new();
    std::fs::write(user.home().join("file"), "content").unwrap();
    let source = format!("{}/team/source:v1", served.address);
    let digest = user.run(&format!("artifact add --type application/x {source} file")).unwrap();
    user.run(&format!("artifact push {source}")).unwrap();
    let tag = format!("{}/other/copy:v2", served.address);
    let create = "buildx imagetools create --progress none --annotation index:a=b";
    user.run(&format!("{create} -t {tag} {source}")).unwrap();
    let shown = user.run(&format!("buildx imagetools inspect {tag}")).unwrap();
    assert!(shown.starts_with(&format!("Name:      {tag}\nMediaType: application/vnd.oci.image.index")));
    assert!(shown.contains(&format!("  Name:      {tag}@{}\n", digest.trim())), "{shown}");
    let raw = user.run(&format!("buildx imagetools inspect --raw {tag}")).unwrap();
    assert_eq!(user.run(&format!("{create} --dry-run {source}")).unwrap(), format!("{raw}\n"));
    // Its member came with it, whole.
    let member = format!("{}/other/copy@{}", served.address, digest.trim());
    user.run(&format!("buildx imagetools create --progress none --prefer-index=false -t {tag} {member}"))
        .unwrap();
    user.run(&format!("artifact pull {tag}")).unwrap();
    for (line, why) in [
        (
            format!("create {source}"),
            "ERROR: can't push with no tags specified, please set --tag or --dry-run",
        ),
        ("create -t x".to_owned(), "ERROR: no sources specified"),
        (format!("create -t {tag}@sha256:{} {source}", "0".repeat(64)), "cannot stand for sha256:"),
        (format!("create --builder other -t {tag} {source}"), "ERROR: no builder \"other\" found"),
        (format!("inspect {source}x"), ":v1x: not found"),
    ] {
        let failure = user.run(&format!("buildx imagetools {line}")).unwrap_err();
        assert!(failure.contains(why), "{line}: {failure}");
    }
}
