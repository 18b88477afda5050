//! Every recorded reply of dockerd 28.5 is read into its type and written back, and must come out with the
//! same members, in the same order, with the same `null`s and empties.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use yare_api as api;

fn sample(name: &str) -> String {
    let path = format!("{}/tests/data/samples/{name}.json", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn same<T: Serialize + DeserializeOwned>(name: &str) {
    let text = sample(name);
    for one in serde_json::Deserializer::from_str(&text).into_iter::<Box<serde_json::value::RawValue>>() {
        let one = one.unwrap_or_else(|error| panic!("{name}: {error}"));
        let typed: T = serde_json::from_str(one.get()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let written = serde_json::to_string_pretty(&typed).expect("what was read can be written");
        if written != one.get() {
            let first = written.lines().zip(one.get().lines()).position(|(a, b)| a != b).unwrap_or(0);
            let around = |text: &str| {
                text.lines().skip(first.saturating_sub(3)).take(7).collect::<Vec<_>>().join("\n")
            };
            panic!("{name}: line {}\nours:\n{}\ntheirs:\n{}", first + 1, around(&written), around(one.get()));
        }
    }
}

#[test]
fn containers() {
    for name in ["", "-created", "-exited", "-min"] {
        same::<api::ContainerInspectResponse>(&format!("v1.51-container-inspect{name}"));
    }
    same::<Vec<api::ContainerSummary>>("v1.51-containers-json");
    same::<Vec<api::ContainerSummary>>("v1.51-containers-json-size");
    same::<api::ContainerCreateResponse>("v1.51-create-min");
    same::<api::ContainerUpdateResponse>("v1.51-update");
    same::<api::ContainerTopResponse>("v1.51-top");
    same::<api::ContainerWaitResponse>("v1.51-wait-exited");
    same::<Vec<api::FilesystemChange>>("v1.51-changes");
    same::<api::ContainerPruneResponse>("v1.51-prune-containers");
    same::<api::IDResponse>("v1.51-commit");
}

#[test]
fn stats() {
    for name in ["-one-shot-param", "-oneshot", "-stopped"] {
        same::<api::ContainerStatsResponse>(&format!("v1.51-stats{name}"));
    }
}

#[test]
fn execs() {
    for name in ["done", "new", "running"] {
        same::<api::ExecInspectResponse>(&format!("v1.51-exec-inspect-{name}"));
    }
}

#[test]
fn images() {
    same::<api::ImageInspect>("v1.51-image-inspect");
    same::<api::ImageInspect>("ctrd-v1.51-image-inspect");
    same::<api::ImageInspect>("ctrd-v1.51-image-inspect-manifests");
    same::<Vec<api::ImageSummary>>("v1.51-images-json");
    same::<Vec<api::ImageSummary>>("ctrd-v1.51-images-json");
    same::<Vec<api::ImageSummary>>("ctrd-v1.51-images-json-manifests");
    same::<Vec<api::HistoryResponseItem>>("v1.51-image-history");
    same::<Vec<api::HistoryResponseItem>>("ctrd-v1.51-image-history");
    same::<Vec<api::ImageDeleteResponseItem>>("v1.51-rmi-delete");
    same::<Vec<api::ImageDeleteResponseItem>>("v1.51-rmi-untag");
    same::<api::ImagePruneResponse>("v1.51-prune-images");
    same::<api::BuildPruneResponse>("v1.51-prune-build");
}

#[test]
fn networks_and_volumes() {
    same::<api::Network>("v1.51-network-inspect");
    same::<api::Network>("v1.51-network-inspect-bridge");
    same::<Vec<api::Network>>("v1.51-networks");
    same::<api::NetworkPruneResponse>("v1.51-prune-networks");
    same::<api::Volume>("v1.51-volume-inspect");
    same::<api::Volume>("v1.51-volume-create-dup");
    same::<api::VolumeListResponse>("v1.51-volumes");
    same::<api::VolumePruneResponse>("v1.51-prune-volumes");
}

#[test]
fn system() {
    same::<api::SystemInfo>("v1.51-info");
    same::<api::SystemInfo>("ctrd-v1.51-info");
    same::<api::SystemVersion>("v1.51-version");
    same::<api::SystemDataUsageResponse>("v1.51-system-df");
    same::<api::SystemDataUsageResponse>("ctrd-v1.51-system-df");
    same::<api::EventMessage>("v1.51-events");
    same::<Vec<Value>>("v1.51-plugins");
}

#[test]
fn every_failure_is_one_message() {
    let dir = format!("{}/tests/data/samples", env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let text = sample(name.trim_end_matches(".json"));
        if text.starts_with("{\n  \"message\"") {
            same::<api::ErrorResponse>(name.trim_end_matches(".json"));
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} failures among the samples");
}
