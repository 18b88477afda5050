//! The small languages of flags, against the tables of docker's own tests.

use serde_json::{Value, json};

use super::{context, parse};
use crate::commands::run::prepare;
use crate::opts;

macro_rules! table {
    ($file:literal, $function:literal, $variable:literal) => {
        cases(include_str!(concat!("../../tests/data/", $file, ".json")), $function, $variable)
    };
}

/// The cases of one table; several tables of one name are put together.
fn cases(document: &str, function: &str, variable: &str) -> Vec<Value> {
    let document: Value = serde_json::from_str(document).unwrap();
    let tables = document["tables"].as_array().unwrap().iter();
    let cases: Vec<Value> = tables
        .filter(|table| table["func"] == function && table["var"] == variable)
        .flat_map(|table| match &table["cases"] {
            Value::Array(cases) => cases.clone(),
            Value::Object(cases) => {
                cases.iter().map(|(name, value)| json!({ "in": name, "out": value })).collect()
            }
            _ => Vec::new(),
        })
        .collect();
    assert!(!cases.is_empty(), "no table {function} {variable}");
    cases
}

fn text<'v>(case: &'v Value, name: &str) -> &'v str {
    case[name].as_str().unwrap_or_default()
}

#[test]
fn devices_with_numbers() {
    for case in table!("weightdevice", "TestValidateWeightDevice", "tests") {
        match (opts::device::weight(text(&case, "input")), case["expectedErr"].as_str()) {
            (Ok(device), None) => assert_eq!(json!(device.weight), case["expectedWeight"]),
            (outcome, expected) => assert_eq!(outcome.err().as_deref(), expected),
        }
    }
    let bps = table!("throttledevice", "TestValidateThrottleBpsDevice", "tests");
    let iops = table!("throttledevice", "TestValidateThrottleIOpsDevice", "tests");
    let read = |cases: Vec<Value>, read: fn(&str) -> Result<yare_api::ThrottleDevice, String>| {
        for case in cases {
            match (read(text(&case, "input")), case["expectedErr"].as_str()) {
                (Ok(device), None) => assert_eq!(json!(device.rate), case["expectedRate"]),
                (Err(why), Some(expected)) => assert!(why.starts_with(expected), "{why}"),
                (outcome, expected) => panic!("{case}: {outcome:?} {expected:?}"),
            }
        }
    };
    read(bps, opts::device::rate);
    read(iops, opts::device::count);
}

#[test]
fn devices() {
    for case in table!("container-opts", "TestValidateDevice", "valid") {
        let value = case.as_str().unwrap();
        // A path in the container alone may be relative on the host.
        assert!(opts::device::parse(value).is_ok(), "{value}");
    }
    for case in table!("container-opts", "TestValidateDevice", "invalid") {
        assert_eq!(opts::device::parse(text(&case, "in")).unwrap_err(), text(&case, "out"), "{case}");
    }
}

#[test]
fn capabilities() {
    let list = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap_or_default() };
    for case in table!("capabilities", "TestEffectiveCapAddCapDrop", "tests") {
        let (add, drop) = opts::capability::effective(&list(&case["in"]["add"]), &list(&case["in"]["drop"]));
        assert_eq!(add.unwrap_or_default(), list(&case["out"]["add"]), "{case}");
        assert_eq!(drop.unwrap_or_default(), list(&case["out"]["drop"]), "{case}");
    }
    for case in table!("capabilities", "TestNormalizeCapability", "tests") {
        let (add, _) = opts::capability::effective(&[text(&case, "in").to_owned()], &[]);
        assert_eq!(add.unwrap(), [text(&case, "out")]);
    }
}

#[test]
fn addresses_domains_labels_links() {
    for case in table!("opts", "TestValidateIPAddress", "tests") {
        match (opts::ip_address(text(&case, "input")), case["expectedErr"].as_str()) {
            (Ok(address), None) => assert_eq!(address, text(&case, "expectedOut")),
            (outcome, expected) => assert_eq!(outcome.err().as_deref(), expected),
        }
    }
    for case in table!("opts", "TestValidateDNSSearch", "valid") {
        assert!(opts::dns_search(case.as_str().unwrap()).is_ok(), "{case}");
    }
    for case in table!("opts", "TestValidateDNSSearch", "invalid") {
        assert!(opts::dns_search(case.as_str().unwrap()).is_err(), "{case}");
    }
    for case in table!("opts", "TestValidateLabel", "tests") {
        assert_eq!(opts::label(text(&case, "value")).err().as_deref(), case["expectedErr"].as_str());
    }
    for case in table!("opts", "TestValidateLink", "valid") {
        assert!(opts::link(case.as_str().unwrap()).is_ok(), "{case}");
    }
    for case in table!("opts", "TestValidateLink", "invalid") {
        assert_eq!(opts::link(text(&case, "in")).unwrap_err(), text(&case, "out"));
    }
}

#[test]
fn variables() {
    for case in table!("env", "TestValidateEnv", "tests") {
        assert_eq!(opts::env::check(text(&case, "value")).err().as_deref(), case["expectedErr"].as_str());
    }
}

#[test]
fn mounts() {
    // These texts are of a later client; what is taken and what is refused is the same.
    for case in table!("mount", "TestMountOptErrors", "tests") {
        assert!(opts::mount::parse(text(&case, "value"), "/").is_err(), "{case}");
    }
    for (function, kind) in [
        ("TestMountOptReadOnly", "bind"),
        ("TestMountOptVolumeNoCopy", "volume"),
        ("TestMountOptSetBindCreateSrc", "bind"),
    ] {
        for case in cases(include_str!("../../tests/data/mount.json"), function, "tests") {
            let option = text(&case, "value");
            let comma = if option.is_empty() { "" } else { "," };
            let value = format!("type={kind},target=/foo,source=/bar{comma}{option}");
            match (opts::mount::parse(&value, "/"), case["exp"].as_bool()) {
                (Ok(mount), Some(expected)) => {
                    let set = mount.read_only
                        || mount.volume_options.is_some_and(|options| options.no_copy)
                        || mount.bind_options.is_some_and(|options| options.create_mountpoint);
                    assert_eq!(set, expected, "{value}");
                }
                (Err(_), None) => {}
                (outcome, expected) => panic!("{value}: {outcome:?} {expected:?}"),
            }
        }
    }
    for case in table!("mount", "TestMountOptSetTmpfsNoError", "range") {
        let mount = opts::mount::parse(case.as_str().unwrap(), "/").unwrap();
        let options = mount.tmpfs_options.unwrap();
        assert_eq!((options.size_bytes, options.mode), (1024 * 1024, 0o700));
    }
}

#[test]
fn graphics_cards() {
    for case in table!("gpus", "TestGpusOptAll", "range") {
        assert_eq!(opts::gpus::parse(case.as_str().unwrap()).unwrap().count, -1, "{case}");
    }
    for case in table!("gpus", "TestGpusOpts", "range") {
        let request = opts::gpus::parse(case.as_str().unwrap()).unwrap();
        assert_eq!((request.driver.as_str(), request.count), ("nvidia", 1), "{case}");
        assert_eq!(request.capabilities.unwrap(), [["compute", "utility", "gpu"]]);
        assert_eq!(request.options.unwrap()["baz"], "qux");
    }
}

#[test]
fn ports() {
    for case in table!("nat", "TestPartPortSpecIPV6", "cases") {
        let mappings = opts::port::parse(text(&case, "spec")).unwrap();
        for (mapping, expected) in mappings.iter().zip(case["expected"].as_array().unwrap()) {
            assert_eq!(mapping.port, text(expected, "Port"), "{case}");
            assert_eq!(mapping.binding.host_ip, text(&expected["Binding"], "HostIP"), "{case}");
            assert_eq!(mapping.binding.host_port, text(&expected["Binding"], "HostPort"), "{case}");
        }
    }
    for case in table!("nat", "TestParsePortSpecEmptyContainerPort", "tests") {
        assert!(
            opts::port::parse(text(&case, "spec")).unwrap_err().starts_with("no port specified"),
            "{case}"
        );
    }
    for case in table!("nat", "BenchmarkParsePortSpecs", "specs") {
        for spec in case.as_array().unwrap() {
            assert!(opts::port::parse(spec.as_str().unwrap()).is_ok(), "{spec}");
        }
    }
}

/// The create body of these flags, or what is wrong with them.
fn body(flags: &str) -> Result<Value, String> {
    let mut cx = context();
    let (_, given) = parse(&mut cx, &format!("create {flags} img"))?;
    let (request, _) = prepare(&cx, &given).map_err(|failure| failure.text)?;
    Ok(serde_json::to_value(request).unwrap())
}

#[test]
fn streams_to_attach_and_links() {
    for case in table!("container-opts", "TestParseRunAttach", "tests") {
        let body = body(text(&case, "input")).unwrap();
        for name in ["AttachStdin", "AttachStdout", "AttachStderr"] {
            assert_eq!(
                body[name],
                case["expected"].get(name).cloned().unwrap_or(json!(false)),
                "{case} {name}"
            );
        }
    }
    for case in table!("container-opts", "TestParseRunLinks", "tests") {
        let body = body(text(&case, "input")).unwrap();
        let expected = case.get("expHostConfigLinks").cloned().unwrap_or(Value::Null);
        assert_eq!(body["HostConfig"]["Links"], expected, "{case}");
        let endpoints = &body["NetworkingConfig"]["EndpointsConfig"];
        for (name, links) in case["expNetConfigLinks"].as_object().into_iter().flatten() {
            assert_eq!(endpoints[name]["Links"], *links, "{case}");
        }
    }
}

#[test]
fn networks() {
    for case in table!("container-opts", "TestParseNetworkConfig", "tests") {
        let flags: Vec<&str> = case["flags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        match (body(&flags.join(" ")), case["expectedErr"].as_str()) {
            (Ok(body), None) => {
                let mode = &case["expectedHostCfg"]["NetworkMode"];
                assert_eq!(body["HostConfig"]["NetworkMode"], *mode, "{case}");
                let endpoints = body["NetworkingConfig"]["EndpointsConfig"].as_object().unwrap();
                let names: Vec<&String> = endpoints.keys().collect();
                let expected: Vec<&String> = case["expected"].as_object().unwrap().keys().collect();
                assert_eq!(names, expected, "{case}");
            }
            (Err(why), Some(expected)) => assert!(why.contains(expected), "{why}"),
            (outcome, expected) => panic!("{case}: {outcome:?} {expected:?}"),
        }
    }
}

#[test]
fn restart_policies_and_system_paths() {
    for case in table!("container-opts", "TestParseRestartPolicy", "tests") {
        let outcome = opts::restart::parse(text(&case, "input"));
        assert_eq!(outcome.err().as_deref(), case["expectedErr"].as_str(), "{case}");
    }
    for case in table!("container-opts", "TestParseSystemPaths", "tests") {
        let options: Vec<String> = serde_json::from_value(case["in"].clone()).unwrap();
        // Names without a meaning are the engine's to refuse.
        let read = opts::security::parse(&options).unwrap();
        let expected: Vec<String> = serde_json::from_value(case["out"].clone()).unwrap();
        assert_eq!(read.options.unwrap_or_default(), expected, "{case}");
        assert_eq!(read.plain_system_paths, case.get("masked").is_some(), "{case}");
    }
}

#[test]
fn volumes() {
    use opts::volume::{Volume, parse};
    for name in ["TestParseVolumeAnonymousVolume", "TestParseVolumeShortVolumes"] {
        for case in cases(include_str!("../../tests/data/volumespec.json"), name, "range") {
            let path = case.as_str().unwrap();
            assert_eq!(parse(path, "/"), Ok(Volume::Anonymous(path.to_owned())));
        }
    }
    for case in table!("volumespec", "TestParseVolumeMissingSource", "range") {
        assert!(parse(case.as_str().unwrap(), "/").is_err(), "{case}");
    }
    for case in table!("volumespec", "TestParseVolumeBindMount", "range") {
        let spec = format!("{}:/target", case.as_str().unwrap());
        assert!(matches!(parse(&spec, "/cwd"), Ok(Volume::Bind(_))), "{case}");
    }
}
