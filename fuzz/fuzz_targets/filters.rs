//! Filters from a client: they read back from their own JSON, and asking them anything ends soon.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use yare_api::filters::Filters;

/// The values of every name, as a set: the list form may name one twice.
fn sets(filters: &Filters) -> BTreeMap<String, Vec<String>> {
    let sorted = |name: &str| {
        let mut values = filters.values(name).to_vec();
        values.sort();
        values.dedup();
        values
    };
    filters.names().map(|name| (name.to_owned(), sorted(name))).collect()
}

fuzz_target!(|input: (&str, &str)| {
    let (value, json) = input;
    let Ok(filters) = Filters::parse(json) else { return };
    let again = Filters::parse(&filters.to_json()).expect("own form");
    assert_eq!(sets(&again), sets(&filters));

    let names: Vec<&str> = filters.names().collect();
    assert!(filters.validate(&names).is_ok());
    let labels = BTreeMap::from([(value.to_owned(), value.to_owned())]);
    for name in names {
        let exact = filters.match_exact(name, value);
        assert!(!exact || filters.match_prefix(name, value));
        assert!(!exact || filters.match_pattern(name, value));
        filters.match_labels(name, &labels);
        let _ = filters.boolean(name);
    }
    filters.match_prune_labels(&labels);
    let _ = filters.until(jiff::Timestamp::UNIX_EPOCH);
});
