//! A pushed manifest is taken or refused; what was taken is no index and image at once, needs each blob
//! once, and is understood alike when its type is said and when it is not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yare_registry::manifest::parse;

fuzz_target!(|input: (Option<&str>, &[u8])| {
    let (kind, bytes) = input;
    let Ok(manifest) = parse(kind, bytes) else { return };
    assert!(manifest.blobs.is_empty() || manifest.members.is_empty(), "read in two ways");
    assert!(manifest.blobs.is_sorted_by(|a, b| a < b), "each blob once");
    assert!(manifest.members.is_sorted_by(|a, b| a < b), "each member once");
    assert_eq!(parse(Some(&manifest.media_type), bytes).as_ref().ok(), Some(&manifest), "its own type");
});
