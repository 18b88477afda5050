//! Paths, ranges and patterns of registry requests: names that come out are legal, ranges lie inside.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yare_registry::name::{Pattern, Reference, RepositoryName};
use yare_registry::range::{Wanted, piece, wanted};
use yare_registry::route::parse;

fuzz_target!(|input: (&str, u64)| {
    let (text, size) = input;
    if let Ok(target) = parse(text) {
        if let Some(name) = target.repository() {
            assert_eq!(RepositoryName::parse(name.as_str()).as_ref().ok(), Some(name));
            assert!(!name.as_str().split('/').any(|part| part.is_empty() || part.starts_with('.')));
        }
    }
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(Reference::parse(&reference.to_string()).ok(), Some(reference));
    }
    if let Wanted::Part(range) = wanted(Some(text), size) {
        assert!(range.start < range.end && range.end <= size);
    }
    if let Some(range) = piece(text) {
        assert!(range.start < range.end);
    }
    if text.len() < 4096 {
        assert!(Pattern::new(text).matches(text));
        let _ = Pattern::new(text).matches("team/app");
        assert!(Pattern::new("**").matches(text));
    }
});
