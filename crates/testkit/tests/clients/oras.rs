//! oras, by its Python library.

use serde_json::{Value, json};
use yare_testkit::{Access, require_python};

use crate::content::OCI_MANIFEST;
use crate::place::{Place, by_every_way};

#[test]
fn oras_pushes_attaches_pulls_lists_and_deletes() {
    let Some(python) = require_python("oras_pushes_attaches_pulls_lists_and_deletes", &["oras"]) else {
        return;
    };
    by_every_way(|place| {
        let said = run(place, &python);
        artifacts_went_and_came(place, &said);
        what_is_attached_is_found(place, &said);
        assert_eq!(said["tags"], json!(["1", "sbom"]));
        // The last thing it does: the tag goes, and with it the manifest.
        assert_eq!(place.tags("team/artifact"), json!(["1"]));
        assert!(!place.has("team/artifact", said["sbom"]["digest"].as_str().unwrap()));
    });
}

fn run(place: &Place, python: &str) -> Value {
    std::fs::write(place.path("with_oras.py"), include_str!("with_oras.py")).unwrap();
    let authority = place.authority().map(|path| path.display().to_string()).unwrap_or_default();
    // What it pushes with asks for no token but the first, which is for pulling: no registry with tokens for one
    // purpose each takes its pushes so. Ours takes the password as well.
    let [to_push, to_pull] = match place.access() {
        Access::Everybody => ["token", "token"],
        Access::Password => ["basic", "basic"],
        Access::Tokens => ["basic", "token"],
    };
    let login = if place.has_login() { "user secret" } else { "" };
    let said =
        place.sh(&format!("'{python}' with_oras.py \"$host\" {to_push} {to_pull} '{authority}' {login}"));
    serde_json::from_str(&said).unwrap()
}

fn artifacts_went_and_came(place: &Place, said: &Value) {
    let there = place.manifest("team/artifact", "1");
    assert_eq!((&said["pushed"], there.kind.as_str()), (&json!(there.digest), OCI_MANIFEST));
    assert_eq!(there.value["annotations"], json!({"org.example.of": "oras"}));
    assert_eq!(there.layers(), ["text/plain", "application/octet-stream"]);
    for name in ["small.txt", "large.bin"] {
        let [sent, got] =
            ["", "back/"].map(|folder| std::fs::read(place.path(&format!("{folder}{name}"))).unwrap());
        assert!(!sent.is_empty() && sent == got, "{name}: {} bytes went, {} came", sent.len(), got.len());
    }
}

fn what_is_attached_is_found(place: &Place, said: &Value) {
    let subject = place.manifest("team/artifact", "1").digest;
    // The registry said that it knows about subjects, so that the client needs no tag in their place.
    assert_eq!(said["sbom"]["subject"], json!(subject));
    let found = &said["referrers"]["manifests"];
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found[0]["digest"], said["sbom"]["digest"]);
    assert_eq!(found[0]["annotations"], json!({"org.example.kind": "sbom"}));
}
