//! Everything about one container.

use crate::Engine;
use crate::clock::rfc3339;
use crate::container::{Condition, Container, Record};
use crate::images::blocking;
use crate::lifecycle::State;
use crate::networks;
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_api::{
    ContainerInspectResponse, ContainerState, ContainerTopResponse, ContainerWaitResponse, GraphDriver,
    HostConfig, NetworkSettings, PortBinding, PortMap,
};
use yare_errdefs::{Error, Result};
use yare_net::EndpointRecord;

/// [`inspect`] with sizes, which takes a walk over the writable layer.
pub async fn inspect_with_size(engine: &Arc<Engine>, id: &str) -> Result<ContainerInspectResponse> {
    let (engine, id) = (Arc::clone(engine), id.to_owned());
    blocking(move || inspect(&engine, &id, true)).await
}

/// What `inspect` shows.
pub fn inspect(engine: &Engine, id: &str, size: bool) -> Result<ContainerInspectResponse> {
    let container = engine.containers.find(id)?;
    let record = container.record();
    let (path, args) = record
        .plan
        .argv
        .split_first()
        .map_or((String::new(), Vec::new()), |(first, rest)| (first.clone(), rest.to_vec()));
    let files = engine.container_dir(&record.id);
    let file = |name: &str| files.join(name).display().to_string();
    let (size_rw, size_root_fs) = match size {
        true => {
            let (own, whole) = super::list::sizes(engine, &record);
            (Some(own), Some(whole))
        }
        false => (None, None),
    };
    let execs = engine.execs.of_container(&record.id);
    let logged = record.host_config.log_config.r#type == "json-file";
    Ok(ContainerInspectResponse {
        id: record.id.clone(),
        created: rfc3339(Some(record.created)),
        path,
        args,
        state: state(&record),
        image: record.image.to_string(),
        resolv_conf_path: file("resolv.conf"),
        hostname_path: file("hostname"),
        hosts_path: file("hosts"),
        log_path: if logged {
            super::logs::log_path(engine, &record).display().to_string()
        } else {
            String::new()
        },
        name: format!("/{}", record.name),
        restart_count: i64::from(record.state.restarts),
        app_armor_profile: record.plan.apparmor_profile.clone(),
        driver: "overlay2".to_owned(),
        platform: "linux".to_owned(),
        exec_ids: (!execs.is_empty()).then_some(execs),
        host_config: HostConfig { links: crate::links::shown(engine, &record), ..record.host_config.clone() },
        graph_driver: graph_driver(engine, &record),
        size_rw,
        size_root_fs,
        mounts: record.mounts.clone(),
        config: record.config.clone(),
        network_settings: network_settings(engine, &record),
        ..ContainerInspectResponse::default()
    })
}

pub(crate) fn state(record: &Record) -> ContainerState {
    let state = &record.state;
    ContainerState {
        status: state.status.to_string(),
        running: state.status.counts_as_running(),
        paused: state.status == State::Paused,
        restarting: state.status == State::Restarting,
        oom_killed: state.oom_killed,
        dead: state.status == State::Dead,
        pid: i64::from(state.pid),
        exit_code: i64::from(state.exit_code),
        error: state.error.clone(),
        started_at: rfc3339(state.started_at),
        finished_at: rfc3339(state.finished_at),
        health: state.health.as_ref().map(health),
    }
}

fn health(health: &crate::health::Health) -> yare_api::Health {
    let log = health.log.iter().map(|probe| yare_api::HealthcheckResult {
        start: rfc3339(Some(probe.start)),
        end: rfc3339(Some(probe.end)),
        exit_code: i64::from(probe.code),
        output: probe.output.clone(),
    });
    yare_api::Health {
        status: health.status.as_str().to_owned(),
        failing_streak: i64::from(health.streak),
        log: Some(log.collect()),
    }
}

fn graph_driver(engine: &Engine, record: &Record) -> GraphDriver {
    let mut data = BTreeMap::from([("ID".to_owned(), record.id.clone())]);
    let snapshots = engine.images.snapshots();
    let lower: Vec<String> =
        record.layers.iter().rev().map(|layer| snapshots.layer_dir(layer).display().to_string()).collect();
    data.insert("LowerDir".to_owned(), lower.join(":"));
    if let Ok(upper) = snapshots.upper(&record.id) {
        data.insert("UpperDir".to_owned(), upper.display().to_string());
        data.insert("WorkDir".to_owned(), upper.with_file_name("work").display().to_string());
    }
    GraphDriver { data: Some(data), name: "overlay2".to_owned() }
}

fn network_settings(engine: &Engine, record: &Record) -> NetworkSettings {
    let mut settings = NetworkSettings {
        ports: ports(record),
        networks: super::list::endpoints(engine, record),
        ..NetworkSettings::default()
    };
    if record.state.status.has_process() {
        settings.sandbox_id = record.id.clone();
        settings.sandbox_key = format!("/proc/{}/ns/net", record.state.pid);
    }
    // What was there before networks of one's own: the place in the default bridge.
    let in_bridge = |endpoint: &&EndpointRecord| networks::of_endpoint(endpoint) == networks::BRIDGE;
    if let Some(endpoint) = record.endpoints.iter().find(in_bridge) {
        settings.endpoint_id = endpoint.endpoint_id.clone();
        settings.gateway = endpoint.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
        settings.ip_address = endpoint.ip.to_string();
        settings.ip_prefix_len = i64::from(endpoint.prefix);
        settings.mac_address = endpoint.mac.to_string();
        if let Some(place) = endpoint.ipv6 {
            settings.ipv6_gateway = place.gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
            settings.global_ipv6_address = place.ip.to_string();
            settings.global_ipv6_prefix_len = i64::from(place.prefix);
        }
    }
    settings
}

/// Exposed ports, with where they are published while it runs.
fn ports(record: &Record) -> PortMap {
    if !record.state.status.has_process() || record.endpoints.is_empty() {
        return PortMap::new();
    }
    let exposed = record.config.exposed_ports.iter().flatten().map(|(port, _)| (port.clone(), None));
    let mut ports: PortMap = exposed.collect();
    for published in record.endpoints.iter().flat_map(|endpoint| &endpoint.ports) {
        let bindings =
            ports.entry(format!("{}/{}", published.container_port, published.protocol)).or_default();
        bindings.get_or_insert_default().push(PortBinding {
            host_ip: published.host_ip.to_string(),
            host_port: published.host_port.to_string(),
        });
    }
    ports
}

/// Waits for a condition. The waiting begins when this returns, not when its result is awaited.
pub fn wait(
    engine: &Engine,
    id: &str,
    condition: &str,
) -> Result<impl Future<Output = ContainerWaitResponse> + Send + 'static + use<>> {
    let condition = Condition::parse(condition)?;
    Ok(engine.containers.find(id)?.wait(condition))
}

/// The processes of a container, from `/proc`. `ps_args` picks the columns: the default ones (`-ef`), or
/// `-o` and a list of names.
pub async fn top(engine: &Arc<Engine>, id: &str, ps_args: &str) -> Result<ContainerTopResponse> {
    let container = engine.containers.find(id)?;
    let (engine, ps_args) = (Arc::clone(engine), ps_args.to_owned());
    blocking(move || top_now(&engine, &container, &ps_args)).await
}

fn top_now(engine: &Engine, container: &Container, ps_args: &str) -> Result<ContainerTopResponse> {
    if !container.state().has_process() {
        return Err(Error::conflict(format!("container {} is not running", container.id)));
    }
    let pids = crate::processes::of(engine, &container.record())?;
    let output = std::process::Command::new("ps")
        .args(if ps_args.is_empty() { vec!["-ef"] } else { ps_args.split_whitespace().collect() })
        .output()
        .map_err(|error| {
            Error::unavailable("cannot run ps on the host").caused_by(error).with_hint("install procps")
        })?;
    if !output.status.success() {
        return Err(Error::invalid(format!("ps: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    pick(&String::from_utf8_lossy(&output.stdout), &pids)
}

/// Keeps the rows of `ps` whose PID column is one of these.
fn pick(table: &str, pids: &[i32]) -> Result<ContainerTopResponse> {
    let mut lines = table.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let column = titles
        .iter()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::invalid("Couldn't find PID field in ps output"))?;
    let row = |line: &str| -> Vec<String> {
        let mut fields: Vec<String> = Vec::new();
        let mut rest = line.trim_start();
        while fields.len() + 1 < titles.len() && !rest.is_empty() {
            let (field, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            fields.push(field.to_owned());
            rest = after.trim_start();
        }
        fields.push(rest.trim_end().to_owned());
        fields
    };
    let processes = lines
        .map(row)
        .filter(|fields| {
            fields.get(column).and_then(|pid| pid.parse().ok()).is_some_and(|pid: i32| pids.contains(&pid))
        })
        .collect();
    Ok(ContainerTopResponse { processes, titles })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_keeps_the_containers_rows_and_whole_commands() {
        let table = "UID   PID  PPID CMD\nroot    1     0 init\nroot   42     1 sleep 1 2 3\n";
        let top = pick(table, &[42]).unwrap();
        assert_eq!(top.titles, ["UID", "PID", "PPID", "CMD"]);
        assert_eq!(top.processes, [["root", "42", "1", "sleep 1 2 3"]]);
        assert!(pick("A B\n1 2\n", &[1]).is_err());
    }
}
