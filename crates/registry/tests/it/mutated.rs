//! What clients send, with random damage: it is refused, or what is read of it is sound.

use serde_json::json;
use yare_damage::Random;
use yare_oci::{Digest, MediaType};
use yare_registry::name::{Pattern, Reference, RepositoryName};
use yare_registry::range::{Wanted, piece, wanted};
use yare_registry::{manifest, route};

#[test]
fn any_manifest_is_refused_or_read_in_one_way() {
    let part = |text: &str| json!({ "mediaType": MediaType::OCI_LAYER, "digest": Digest::of(text).to_string(), "size": 3 });
    let image = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
        "config": part("c"), "layers": [part("l"), part("l")], "subject": part("s") });
    let index = json!({ "schemaVersion": 2, "manifests": [part("m"), part("n")], "annotations": {"a": "b"} });
    let texts = [image.to_string(), index.to_string()];
    let pieces = [
        "\"manifests\":[]",
        "\"layers\":[],",
        "\"config\":",
        "{",
        "}",
        "[",
        "]",
        ",",
        "\"",
        "sha256:",
        "-1",
        "null",
        "\"mediaType\":\"\"",
        MediaType::OCI_INDEX,
        MediaType::DOCKER_MANIFEST,
        "\"urls\":[\"x\"],",
    ];
    let kinds = [None, Some(MediaType::OCI_INDEX), Some(MediaType::OCI_MANIFEST), Some("application/json")];
    let mut random = Random::default();
    let mut read = 0;
    for _ in 0..20_000 {
        let text = random.damaged(&texts, &pieces);
        let kind = kinds[random.below(kinds.len())];
        let Ok(manifest) = manifest::parse(kind, text.as_bytes()) else { continue };
        read += 1;
        assert!(manifest.blobs.is_empty() || manifest.members.is_empty(), "read in two ways: {text}");
        assert!(manifest.blobs.is_sorted_by(|a, b| a < b), "each blob once: {text}");
        assert!(manifest.members.is_sorted_by(|a, b| a < b), "each member once: {text}");
        let again = manifest::parse(Some(&manifest.media_type), text.as_bytes());
        assert_eq!(again.ok(), Some(manifest), "by its own type: {text}");
    }
    assert!(read > 300, "only {read} were read: the damage is too much");
}

#[test]
fn any_path_is_refused_or_has_legal_names() {
    let digest = Digest::of("x");
    let texts = [
        "/v2/team/app/manifests/v1".to_owned(),
        format!("/v2/a/b/c/blobs/{digest}"),
        "/v2/a/blobs/uploads/0123456789abcdef0123456789abcdef".to_owned(),
        format!("/v2/a/referrers/{digest}"),
        "bytes=5-9".to_owned(),
        "0-99".to_owned(),
    ];
    let pieces =
        ["/", "..", "//", "%2f", "%2e%2e", "%ff", "%00", "A", "tags/list", "-", ":", "_", "*", "**", "9"];
    let mut random = Random::default();
    let mut read = 0;
    for _ in 0..10_000 {
        let text = random.damaged(&texts, &pieces);
        if let Ok(target) = route::parse(&text)
            && let Some(name) = target.repository()
        {
            read += 1;
            assert_eq!(RepositoryName::parse(name.as_str()).as_ref().ok(), Some(name), "{text}");
            assert!(!name.as_str().split('/').any(|part| part.is_empty() || part.starts_with('.')), "{text}");
        }
        if let Ok(reference) = Reference::parse(&text) {
            assert_eq!(Reference::parse(&reference.to_string()).ok(), Some(reference), "{text}");
        }
        let size = random.number() % 20;
        if let Wanted::Part(range) = wanted(Some(&text), size) {
            assert!(range.start < range.end && range.end <= size, "{text} of {size}");
        }
        if let Some(range) = piece(&text) {
            assert!(range.start < range.end, "{text}");
        }
        assert!(Pattern::new(text.as_str()).matches(&text), "{text}");
        assert!(Pattern::new("**").matches(&text), "{text}");
    }
    assert!(read > 300, "only {read} were read: the damage is too much");
}
