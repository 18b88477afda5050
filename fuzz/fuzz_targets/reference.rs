//! What is printed of a reference reads back as the same one, in the full and in the short form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yare_oci::Reference;

fuzz_target!(|text: &str| {
    let Ok(reference) = Reference::parse(text) else { return };
    assert_eq!(Reference::parse(&reference.to_string()).as_ref(), Ok(&reference), "full form");
    assert_eq!(Reference::parse(&reference.familiar()).as_ref(), Ok(&reference), "short form");
    let trimmed = reference.trimmed();
    assert_eq!(Reference::parse(&reference.repository()).as_ref(), Ok(&trimmed), "repository");
    assert_eq!(Reference::parse(&reference.familiar_name()).as_ref(), Ok(&trimmed), "short name");
    let latest = reference.or_latest();
    assert_eq!(Reference::parse(&latest.to_string()).as_ref(), Ok(&latest), "with a tag");
});
