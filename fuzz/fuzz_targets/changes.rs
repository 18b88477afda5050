//! `--change` lines of an import or commit: any text is taken or refused, and what it makes is a config.
#![no_main]

use libfuzzer_sys::fuzz_target;
use yare_oci::ContainerConfig;

fuzz_target!(|text: &str| {
    let changes: Vec<String> = text.split('\0').map(str::to_owned).collect();
    let mut config = ContainerConfig::default();
    let applied = yare_image::changes::apply(&mut config, &changes);
    assert_eq!(applied.is_ok(), yare_image::changes::check(&changes).is_ok());

    let json = serde_json::to_string(&config).expect("a config is JSON");
    let again: ContainerConfig = serde_json::from_str(&json).expect("own form");
    assert_eq!(serde_json::to_string(&again).expect("a config is JSON"), json);
});
