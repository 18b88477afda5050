//! Rendered specs against bundles of dockerd 28.5.2 on a cgroup v1 host, and settled plans against every
//! create body that docker 28.2 sends for its flags.

use serde_json::{Value, json};
use yare_api::ContainerCreateRequest;
use yare_oci::runtime::Device;
use yare_oci::{ContainerConfig, ImageConfig};
use yare_specgen::{HostFacts, Plan, ResolvedDevice, Wiring, render, settle};

fn data(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The host the bundles were taken on.
fn host() -> HostFacts {
    HostFacts {
        cgroup_version: 1,
        cpus: 2,
        hostname: "vm".to_owned(),
        has_block_io_weight: false,
        // Its daemon lacked CAP_SYS_RESOURCE.
        capabilities: !(1 << 24),
        // The bundles have no init but where one was asked for.
        init: false,
        ..HostFacts::default()
    }
}

fn busybox() -> ImageConfig {
    let config = ContainerConfig { cmd: Some(vec!["sh".to_owned()]), ..ContainerConfig::default() };
    ImageConfig { config, ..ImageConfig::default() }
}

/// The body docker sends without any flag, changed.
fn request(change: &Value) -> ContainerCreateRequest {
    let mut body = data("create-bodies.json")["baseline"].take();
    overlay(&mut body, change);
    serde_json::from_value(body).unwrap_or_else(|error| panic!("{change}: {error}"))
}

fn overlay(body: &mut Value, change: &Value) {
    match (body, change) {
        (Value::Object(body), Value::Object(change)) => {
            for (name, value) in change {
                overlay(body.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (body, change) => *body = change.clone(),
    }
}

fn plan(change: &Value) -> Plan {
    settle(&request(change), &busybox(), &host()).unwrap_or_else(|errors| panic!("{change}: {errors:?}"))
}

/// The wiring that a bundle shows its daemon had.
fn wiring(bundle: &Value) -> Wiring {
    let source = |destination: &str| {
        let mounts = bundle["mounts"].as_array().into_iter().flatten();
        let found = mounts.into_iter().find(|mount| mount["destination"] == destination);
        found.and_then(|mount| mount["source"].as_str()).map(str::to_owned)
    };
    let namespace = |kind: &str| {
        let list = bundle["linux"]["namespaces"].as_array().into_iter().flatten();
        let found = list.into_iter().find(|namespace| namespace["type"] == kind);
        found.and_then(|namespace| namespace["path"].as_str()).map(str::to_owned)
    };
    let device = |device: &Value| ResolvedDevice {
        device: serde_json::from_value::<Device>(device.clone()).expect("a device"),
        access: "r".to_owned(),
    };
    Wiring {
        root: bundle["root"]["path"].as_str().unwrap_or_default().to_owned(),
        resolv_conf: source("/etc/resolv.conf"),
        hostname: source("/etc/hostname"),
        hosts: source("/etc/hosts"),
        devices: bundle["linux"]["devices"].as_array().into_iter().flatten().map(device).collect(),
        cgroup_path: bundle["linux"]["cgroupsPath"].as_str().unwrap_or_default().to_owned(),
        network_namespace: namespace("network"),
        pid_namespace: namespace("pid"),
        ipc_namespace: namespace("ipc"),
        shm: source("/dev/shm"),
        recursive_read_only: true,
        kernel_version: (6, 18),
        architecture: "amd64".to_owned(),
        ..Wiring::default()
    }
}

/// Takes out of a bundle what is Docker's accident or is compared elsewhere.
fn normal(mut spec: Value) -> Value {
    let object = spec.as_object_mut().expect("a spec");
    object.remove("_flags");
    let linux = spec["linux"].as_object_mut().expect("linux");
    if linux.get("seccomp").is_some_and(|filter| !filter.is_null()) {
        linux.insert("seccomp".to_owned(), json!("a filter"));
    }
    linux.retain(|_, value| !value.is_null());
    let resources = linux["resources"].as_object_mut().expect("resources");
    // Docker lists the default rules twice, writes -1 for any number, and writes empty or false limits.
    let mut rules: Vec<Value> = Vec::new();
    for mut rule in resources["devices"].take().as_array().cloned().unwrap_or_default() {
        rule.as_object_mut().expect("a rule").retain(|_, value| *value != json!(-1));
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    resources.insert("devices".to_owned(), Value::Array(rules));
    resources.retain(|_, value| *value != json!({}) && *value != json!({"disableOOMKiller": false}));
    spec
}

fn compare(bundle: &str, change: &Value) {
    let expected = data(&format!("bundles/{bundle}.json"));
    let mut plan = plan(change);
    let id = expected["linux"]["cgroupsPath"]
        .as_str()
        .and_then(|path| path.rsplit('/').next())
        .unwrap_or_default();
    plan.identify(id);
    if plan.hostname.is_empty() {
        // A container that joins a network has the name of the one it joins; the engine hands it over.
        expected["hostname"].as_str().unwrap_or_default().clone_into(&mut plan.hostname);
    }
    let spec = render(&plan, &wiring(&expected));
    let got = normal(serde_json::to_value(&spec).expect("a spec is JSON"));
    let expected = normal(expected);
    if got != expected {
        let lines = |value: &Value| serde_json::to_string_pretty(value).expect("JSON");
        let (got, expected) = (lines(&got), lines(&expected));
        let at = got.lines().zip(expected.lines()).position(|(a, b)| a != b).unwrap_or_default();
        let around =
            |text: &str| text.lines().skip(at.saturating_sub(6)).take(14).collect::<Vec<_>>().join("\n");
        panic!("{bundle}\ngot:\n{}\nexpected:\n{}", around(&got), around(&expected));
    }
}

fn run(change: Value) -> Value {
    let mut whole = json!({"Cmd": ["sleep", "30"]});
    overlay(&mut whole, &change);
    whole
}

fn with_host(host_config: Value) -> Value {
    run(json!({ "HostConfig": host_config }))
}

#[test]
fn the_default_container() {
    compare("default", &run(json!({})));
    compare("container-net", &run(json!({})));
    compare("net-none", &with_host(json!({"NetworkMode": "none"})));
}

#[test]
fn processes() {
    compare("entrypoint", &json!({"Entrypoint": ["/bin/sh"], "Cmd": ["-c", "sleep 30"]}));
    compare("tty", &run(json!({"Tty": true})));
    compare("user", &run(json!({"User": "1000:1000", "HostConfig": {"GroupAdd": ["5"]}})));
    let change = json!({"Hostname": "h1", "Domainname": "d1", "Env": ["A=b"], "WorkingDir": "/nonexist/dir",
        "StopSignal": "INT"});
    compare("hostname-env", &run(change));
}

#[test]
fn rights() {
    compare("caps", &with_host(json!({"CapAdd": ["CAP_NET_BIND_SERVICE"], "CapDrop": ["ALL"]})));
    compare("nnp", &with_host(json!({"SecurityOpt": ["no-new-privileges"]})));
    compare("privileged", &with_host(json!({"Privileged": true})));
    let change = json!({"SecurityOpt": ["seccomp=unconfined"], "MaskedPaths": [], "ReadonlyPaths": []});
    compare("unconfined", &with_host(change));
    let device =
        json!({"PathOnHost": "/dev/null", "PathInContainer": "/dev/xnull", "CgroupPermissions": "r"});
    compare("device", &with_host(json!({"Devices": [device], "DeviceCgroupRules": ["c 42:* rmw"]})));
}

#[test]
fn namespaces() {
    let host = json!({"NetworkMode": "host", "PidMode": "host", "IpcMode": "host", "UTSMode": "host",
        "CgroupnsMode": "host"});
    compare("host-namespaces", &with_host(host));
    compare("ipc-none", &with_host(json!({"IpcMode": "none"})));
    let base = "container:base2";
    compare("joined", &with_host(json!({"NetworkMode": base, "PidMode": base, "IpcMode": base})));
    compare("cgroup-parent", &with_host(json!({"CgroupParent": "/wrtest"})));
}

#[test]
fn filesystems() {
    compare("readonly", &with_host(json!({"ReadonlyRootfs": true, "Tmpfs": {"/run": "size=1m"}})));
    let mount = json!({"Type": "bind", "Source": "/src/ctx", "Target": "/d", "ReadOnly": true,
        "BindOptions": {"Propagation": "rprivate", "ReadOnlyForceRecursive": true}});
    compare("mount-ro-recursive", &with_host(json!({ "Mounts": [mount] })));
}

#[test]
fn the_rest() {
    compare("annotations", &with_host(json!({"Annotations": {"a.b": "c"}})));
    let sysctls = json!({"net.ipv4.ip_unprivileged_port_start": "80", "kernel.msgmax": "1000"});
    compare("sysctl", &with_host(json!({ "Sysctls": sysctls })));
}

#[test]
fn filters_are_those_docker_loads() {
    let every: Vec<String> = yare_oci::kernel::CAPABILITIES.iter().map(|name| (*name).to_owned()).collect();
    for (bundle, add) in [("default", Vec::new()), ("cap-add-ALL", every)] {
        let name = format!("bundles/{bundle}-seccomp-resolved.json");
        let change = with_host(json!({ "CapAdd": add }));
        let spec = render(&plan_on(&change, &HostFacts::default()), &wiring(&json!({})));
        let filter = spec.linux.and_then(|linux| linux.seccomp).expect("a filter");
        let (mut got, mut expected) = (serde_json::to_value(filter).expect("JSON"), data(&name));
        for filter in [&mut got, &mut expected] {
            // The current profile says of `socket` what blocks one more address family.
            let rules = filter["syscalls"].as_array_mut().expect("rules");
            rules.retain(|rule| rule["names"] != json!(["socket"]));
            rules.iter_mut().for_each(|rule| {
                rule.as_object_mut().expect("a rule").retain(|_, value| !value.is_null());
            });
        }
        for member in ["defaultAction", "defaultErrnoRet", "architectures"] {
            assert_eq!(got[member], expected[member], "{bundle}");
        }
        assert_eq!(got["syscalls"], expected["syscalls"], "{bundle}");
    }
}

fn plan_on(change: &Value, facts: &HostFacts) -> Plan {
    settle(&request(change), &busybox(), facts).unwrap_or_else(|errors| panic!("{change}: {errors:?}"))
}

/// Flags whose bodies dockerd refuses, too, or that Yare has not built, with what it says.
fn refused(flags: &str) -> Option<&'static str> {
    let refused = [
        ("-w rel", "the working directory 'rel' is invalid"),
        ("--restart always:3", "invalid restart policy: maximum retry count can only be used"),
        ("--restart on-failure:-1", "invalid restart policy: maximum retry count cannot be negative"),
        ("--restart bogus", "invalid restart policy: unknown policy 'bogus'"),
        ("-v /a:rel", "mount path must be absolute"),
        ("-v /a:/b -v /c:/b", "Duplicate mount point: /b"),
        ("--mount type=bind,dst=/b", "field Source must not be empty"),
        ("--mount type=tmpfs,src=x,dst=/b", "field Source must not be specified"),
        ("--mount type=cluster", "not supported"),
        ("--mount type=npipe", "not supported"),
        ("--mount type=bogus", "mount type unknown"),
        ("--mount type=bind,src=/a,dst=rel", "mount path must be absolute"),
        ("--volume-driver d -v v:/b", "mount path must be absolute"),
        ("--cap-add bogus", "unknown capability: \"CAP_BOGUS\""),
        ("--cpus 0.000000001", "range of CPUs is from 0.01 to 2.00"),
        ("--cpu-rt-period", "kernel does not support CPU real-time scheduler"),
        ("--runtime r", "unknown or invalid runtime name: r"),
        ("--log-opt x", "unknown log opt 'x'"),
        ("--health-interval 1us", "Interval in Healthcheck cannot be less than 1ms"),
        ("--storage-opt", "--storage-opt is supported only"),
        ("-p 80:0", "invalid port specification: \"0\""),
        ("--expose 80/bogus", "unknown protocol \"bogus\""),
    ];
    if flags == "-v /" {
        return Some("destination can't be '/'");
    }
    refused.iter().find(|(start, _)| flags.starts_with(start)).map(|(_, text)| *text)
}

#[test]
fn every_body_of_the_command_line_is_settled_or_refused_for_a_reason() {
    let mut wrong = Vec::new();
    for case in data("create-bodies.json")["create"].as_array().expect("cases") {
        let flags = case["flags"].as_str().expect("flags");
        let settled = settle(&request(&case["body"]), &busybox(), &host());
        match (settled, refused(flags)) {
            (Ok(plan), None) => {
                let text = serde_json::to_string(&plan).expect("a plan is JSON");
                let back: Plan = serde_json::from_str(&text).expect("a plan reads back");
                assert_eq!(render(&back, &Wiring::default()), render(&plan, &Wiring::default()), "{flags}");
            }
            (Err(errors), Some(text)) if errors[0].to_string().contains(text) => {}
            (Ok(_), Some(text)) => wrong.push(format!("{flags}: settled, not refused with {text}")),
            (Err(errors), expected) => wrong.push(format!("{flags}: {errors:?}, expected {expected:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn inspect_shows_the_defaults_docker_shows() {
    let plan = plan(&json!({"Cmd": ["true"]}));
    let shown = serde_json::to_value(&plan.host_config).expect("JSON");
    for (member, value) in [
        ("NetworkMode", json!("bridge")),
        ("CgroupnsMode", json!("host")),
        ("IpcMode", json!("private")),
        ("LogConfig", json!({"Type": "json-file", "Config": {}})),
        ("MemorySwappiness", json!(null)),
        ("OomKillDisable", json!(false)),
        ("PidsLimit", json!(null)),
        ("RestartPolicy", json!({"Name": "no", "MaximumRetryCount": 0})),
        ("Runtime", json!("runc")),
        ("ShmSize", json!(67108864)),
    ] {
        assert_eq!(shown[member], value, "{member}");
    }
    assert_eq!(shown["MaskedPaths"].as_array().map(Vec::len), Some(12));
    let config = serde_json::to_value(&plan.config).expect("JSON");
    assert_eq!(
        (&config["Env"], &config["Volumes"], &config["Labels"]),
        (&json!(null), &json!(null), &json!({}))
    );
}
