//! `stats`: what containers use.

use std::io::{Read, Write};

use serde_json::Value;

use crate::case::cases;
use crate::client::Client;
use crate::http;

cases![
    Both:
        a_table_shows_what_runs.alone(),
        one_container_is_asked_for,
        a_stopped_container_uses_nothing,
        unknown_containers_have_no_statistics;
    Api:
        a_sample_has_its_members,
        a_sample_counts_what_happens,
        samples_go_on_until_the_container_is_gone,
        one_shot_is_at_once;
];

const BUSY: &str = "docker run -d --name $n -m 64m --pids-limit 50 busybox sh -c 'head -c 20000000 /dev/zero > /f; while :; do :; done'";

fn a_table_shows_what_runs(c: &Client) {
    c.ok("docker run -d --name $n -m 64m busybox sh -c 'while :; do :; done'; docker create --name $n-2 busybox");
    let shown = c.ok("docker stats --no-stream");
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 2, "{shown}");
    let heads: Vec<&str> = lines[0].split("  ").map(str::trim).filter(|head| !head.is_empty()).collect();
    let cells: Vec<&str> = lines[1].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    let wanted =
        ["CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O", "PIDS"];
    assert_eq!((heads.as_slice(), cells.len()), (wanted.as_slice(), wanted.len()), "{shown}");
    assert_eq!(cells[1], c.n, "{shown}");
    assert!(cells[3].ends_with("/ 64MiB"), "{shown}");
    let percent: f64 = cells[2].trim_end_matches('%').parse().unwrap();
    assert!(percent > 1.0, "{shown}");
    assert_eq!(c.ok("docker stats --no-stream -a").lines().count(), 3);
}

fn one_container_is_asked_for(c: &Client) {
    c.ok(BUSY);
    let line = c.line("docker stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemPerc}} {{.CPUPerc}} {{.NetIO}} {{.BlockIO}}' $n");
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[0], c.n, "{line}");
    assert!(words[1].parse::<u32>().unwrap() >= 1, "{line}");
    for percent in &words[2..4] {
        assert!(percent.trim_end_matches('%').parse::<f64>().unwrap() > 0.0, "{line}");
    }
    assert!(line.contains("B / ") && !line.contains("--"), "{line}");
}

fn a_stopped_container_uses_nothing(c: &Client) {
    c.ok("docker create --name $n busybox");
    c.says(
        "docker stats --no-stream --format '{{.Name}} {{.MemUsage}} {{.PIDs}}' $n",
        &format!("{} 0B / 0B 0\n", c.n),
    );
}

fn unknown_containers_have_no_statistics(c: &Client) {
    let text = c.fails(1, "docker stats --no-stream $n-no");
    assert!(text.contains(&format!("No such container: {}-no", c.n)), "{text}");
}

fn stats(c: &Client, query: &str) -> Value {
    let response = c.api("GET", &format!("/v1.51/containers/{}/stats?{query}", c.n), None);
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
    response.json()
}

fn a_sample_has_its_members(c: &Client) {
    c.ok(BUSY);
    let sample = stats(c, "stream=false");
    let id = c.line("docker inspect -f '{{.Id}}' $n");
    assert_eq!(
        (sample["name"].as_str(), sample["id"].as_str()),
        (Some(format!("/{}", c.n).as_str()), Some(id.as_str()))
    );
    let members: Vec<&str> = sample.as_object().unwrap().keys().map(String::as_str).collect();
    for member in [
        "read",
        "preread",
        "pids_stats",
        "blkio_stats",
        "num_procs",
        "storage_stats",
        "cpu_stats",
        "precpu_stats",
        "memory_stats",
        "networks",
    ] {
        assert!(members.contains(&member), "{member} is not in {members:?}");
    }
    assert!(
        sample["read"].as_str() > sample["preread"].as_str() && sample["preread"].as_str() > Some("2"),
        "{sample}"
    );
    assert_eq!(sample["memory_stats"]["limit"], 64 << 20);
    assert!(sample["memory_stats"]["stats"]["inactive_file"].is_u64(), "{sample}");
    assert!(sample["pids_stats"]["current"].as_u64() >= Some(1), "{sample}");
    assert!(sample["cpu_stats"]["online_cpus"].as_u64() >= Some(1), "{sample}");
    let blocks = sample["blkio_stats"].as_object().unwrap();
    assert_eq!(blocks.len(), 8, "{blocks:?}");
    let network = sample["networks"].as_object().unwrap();
    assert_eq!(network.keys().collect::<Vec<_>>(), ["eth0"]);
    assert_eq!(network["eth0"].as_object().unwrap().len(), 8);
    // Of a container without a network of its own there is none.
    c.ok("docker run -d --name $n-h --network host busybox sleep 1000");
    let other = c.api("GET", &format!("/v1.51/containers/{}-h/stats?stream=0&one-shot=1", c.n), None).json();
    assert!(other.get("networks").is_none(), "{other}");
}

fn a_sample_counts_what_happens(c: &Client) {
    c.ok(BUSY);
    let (first, second) = (stats(c, "stream=0"), stats(c, "stream=0"));
    let cpu = |sample: &Value, when: &str| sample[when]["cpu_usage"]["total_usage"].as_u64().unwrap();
    assert!(cpu(&first, "precpu_stats") < cpu(&first, "cpu_stats"), "{first}");
    assert!(cpu(&first, "cpu_stats") < cpu(&second, "cpu_stats"), "{second}");
    let system = |sample: &Value| sample["cpu_stats"]["system_cpu_usage"].as_u64().unwrap();
    assert!(system(&first) < system(&second) && system(&first) > cpu(&first, "cpu_stats"), "{second}");
    let received = |sample: &Value| sample["networks"]["eth0"]["rx_bytes"].as_u64().unwrap();
    c.ok("docker exec $n sh -c 'ping -c2 -s 1000 $(ip route | awk \"/default/{print \\$3}\") > /dev/null'");
    assert!(received(&stats(c, "stream=0&one-shot=1")) >= received(&second) + 2000);
}

fn samples_go_on_until_the_container_is_gone(c: &Client) {
    c.ok("docker run -d --name $n busybox sleep 1000");
    let mut stream = http::open(&c.host.socket);
    let request =
        format!("GET /v1.51/containers/{}/stats HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n", c.n);
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    let mut read = |wanted: usize| {
        while text.matches("\"read\":\"2").count() < wanted {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "it ended: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    read(3);
    c.ok("docker rm -f $n");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
}

fn one_shot_is_at_once(c: &Client) {
    c.ok("docker run -d --name $n busybox sleep 1000");
    let sample = stats(c, "stream=false&one-shot=true");
    assert_eq!(sample["preread"], "0001-01-01T00:00:00Z");
    assert_eq!(sample["precpu_stats"]["cpu_usage"]["total_usage"], 0);
    assert!(sample["cpu_stats"]["cpu_usage"]["total_usage"].as_u64() > Some(0), "{sample}");
    let refused = c.api("GET", &format!("/v1.51/containers/{}/stats?one-shot=1", c.n), None);
    assert_eq!(
        (refused.status, refused.message().as_str()),
        (400, "cannot have stream=true and one-shot=true")
    );
    let refused = c.api("GET", "/v1.51/containers/nosuch/stats?stream=0", None);
    assert_eq!((refused.status, refused.message().as_str()), (404, "No such container: nosuch"));
}
