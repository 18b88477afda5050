//! `kill -9` of the engine at random moments under load, again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use yare_testkit::{Engine, Invocation, busybox_rootfs_tar, eventually, require_root};

use crate::api::{Api, demultiplex};
use crate::chance::{Chance, rounds};
use crate::leaks;
use crate::load::{Asked, Book, Client, Promised};

/// How many clients work at once.
const CLIENTS: usize = 6;

/// How long an engine may take to settle what its predecessor left.
const SETTLE: Duration = Duration::from_secs(60);

#[test]
fn nothing_is_lost_or_left_when_the_engine_is_killed_under_load() {
    if require_root("nothing_is_lost_or_left_when_the_engine_is_killed_under_load") {
        kill_again_and_again(rounds(8, 200));
    }
}

#[test]
#[ignore = "takes minutes: the long form for `make soak`"]
fn nothing_is_lost_or_left_in_200_rounds() {
    if require_root("nothing_is_lost_or_left_in_200_rounds") {
        kill_again_and_again(rounds(200, 200));
    }
}

fn kill_again_and_again(rounds: u64) {
    let mut chance = Chance::new();
    let mut engine = Engine::start();
    engine.load_busybox();
    let api = Api::new(engine.socket());
    let steady = Steady::start(&api);
    let book = Book::default();
    for round in 0..rounds {
        one_round(&mut engine, &mut chance, &steady, &book);
        verify(&api, &steady, &book, round);
        steady.check_logs(&api, round % 10 == 9 || round + 1 == rounds || round < 2);
        forget_some(&api, &book, &mut chance);
    }
    steady.stop(&api);
    leaks::assert_clean(engine);
}

/// Load, a kill in the middle, a pause, a new engine. Sometimes that one is killed while it starts.
fn one_round(engine: &mut Engine, chance: &mut Chance, steady: &Steady, book: &Book) {
    let stop = AtomicBool::new(false);
    let ids: Vec<String> = steady.runs.iter().map(|run| run.id.clone()).collect();
    let pid = i32::try_from(engine.pid()).ok().and_then(Pid::from_raw).expect("the engine's pid");
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let client = Client {
                engine,
                api: Api::new(engine.socket()),
                book,
                chance: chance.fork(),
                steady: &ids,
                tar: busybox_rootfs_tar(),
            };
            let stop = &stop;
            scope.spawn(move || client.work(stop));
        }
        std::thread::sleep(chance.millis(50, 900));
        kill_process(pid, Signal::KILL).expect("the engine can be killed");
        stop.store(true, Ordering::Relaxed);
    });
    engine.kill9();
    std::thread::sleep(chance.millis(0, 400));
    engine.restart();
    if chance.below(3) == 0 {
        std::thread::sleep(chance.millis(0, 60));
        engine.kill9();
        engine.restart();
    }
    // A child of an engine that was killed while it started may hold its socket for a moment more.
    let api = Api::new(engine.socket());
    eventually("it answers", SETTLE, || api.get("/_ping").is_ok());
}

/// A container that must not notice anything.
struct Run {
    id: String,
    pid: i64,
    started: String,
    ip: String,
}

struct Steady {
    runs: Vec<Run>,
    /// Those that write ascending numbers; `true` for a terminal.
    counters: Vec<(String, bool)>,
    /// One that serves on this published port.
    port: u16,
}

const COUNT: &str =
    "i=0; while :; do n=0; while [ $n -lt 40 ]; do echo $i; i=$((i+1)); n=$((n+1)); done; usleep 50000; done";

impl Steady {
    fn start(api: &Api) -> Self {
        let count = |more: Value| {
            let mut body = json!({"Image": "busybox", "Cmd": ["sh", "-c", COUNT]});
            body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
            start(api, &body)
        };
        let small = json!({"Type": "json-file", "Config": {"max-size": "100k", "max-file": "1000"}});
        let counters = vec![
            (count(json!({})), false),
            (count(json!({"HostConfig": {"LogConfig": small, "Init": false}})), false),
            (count(json!({"Tty": true, "HostConfig": {"AutoRemove": true}})), true),
        ];
        let serve = json!({
            "Image": "busybox",
            "Cmd": ["httpd", "-f", "-p", "80", "-h", "/etc"],
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}},
        });
        let server = start(api, &serve);
        let sleep = |mode: &str| {
            start(
                api,
                &json!({"Image": "busybox", "Cmd": ["sleep", "100000"], "HostConfig": {"NetworkMode": mode}}),
            )
        };
        let others = [server.clone(), sleep("none"), sleep("host"), sleep(&format!("container:{server}"))];
        let ids = counters.iter().map(|(id, _)| id.clone()).chain(others);
        let runs = ids.map(|id| run_of(api, &id).expect("it has just been started")).collect();
        let ports = api.inspect(&server).ok().flatten().unwrap_or_default();
        let port = &ports["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"];
        let port = port.as_str().and_then(|port| port.parse().ok()).expect("a published port");
        Self { runs, counters, port }
    }

    /// What is not as it was.
    fn changes(&self, api: &Api) -> Vec<String> {
        let mut wrong: Vec<String> = self
            .runs
            .iter()
            .filter_map(|run| {
                let now = run_of(api, &run.id)?;
                let same = (now.pid, &now.started, &now.ip) == (run.pid, &run.started, &run.ip);
                (!same).then(|| {
                    format!(
                        "{}: pid {} became {}, start {} {}, address {:?} {:?}",
                        run.id, run.pid, now.pid, run.started, now.started, run.ip, now.ip
                    )
                })
            })
            .collect();
        let gone = self.runs.iter().filter(|run| run_of(api, &run.id).is_none());
        wrong.extend(gone.map(|run| format!("{} does not run any more", run.id)));
        match fetch(self.port) {
            Ok(page) if page.contains("root:") => {}
            other => wrong.push(format!("the published port does not answer: {other:?}")),
        }
        wrong
    }

    /// Every number is in the log, once and in order.
    fn check_logs(&self, api: &Api, all: bool) {
        for (id, terminal) in &self.counters {
            let tail = if all { "all" } else { "100" };
            let raw =
                api.get(&format!("/containers/{id}/logs?stdout=1&stderr=1&tail={tail}")).expect("logs").body;
            let text = if *terminal { raw } else { demultiplex(&raw).0 };
            let text = String::from_utf8_lossy(&text).into_owned();
            let numbers: Vec<u64> = text
                .lines()
                .map(|line| line.trim().parse().unwrap_or_else(|_| panic!("{id} wrote {line:?}")))
                .collect();
            let first = if all { 0 } else { numbers.first().copied().unwrap_or_default() };
            let wrong = numbers.iter().zip(first..).find(|(found, wanted)| *found != wanted);
            assert!(wrong.is_none(), "log of {id} (all: {all}): {wrong:?} (found, expected)");
            assert!(numbers.len() >= 40, "log of {id} has {} lines", numbers.len());
        }
    }

    fn stop(&self, api: &Api) {
        for run in &self.runs {
            let answer = api.post(&format!("/containers/{}/stop?t=2", run.id), &Value::Null).expect("stop");
            assert_eq!(answer.status, 204, "{}", answer.text());
        }
    }
}

fn fetch(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /passwd HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

fn start(api: &Api, body: &Value) -> String {
    let made = api.post("/containers/create", body).expect("create");
    let id = made.json()["Id"].as_str().unwrap_or_else(|| panic!("{}", made.text())).to_owned();
    let started = api.post(&format!("/containers/{id}/start"), &Value::Null).expect("start");
    assert_eq!(started.status, 204, "{}", started.text());
    id
}

/// The run of a container, while it runs.
fn run_of(api: &Api, id: &str) -> Option<Run> {
    let found = api.inspect(id).ok().flatten()?;
    let state = &found["State"];
    state["Running"].as_bool().filter(|running| *running)?;
    Some(Run {
        id: id.to_owned(),
        pid: state["Pid"].as_i64()?,
        started: state["StartedAt"].as_str()?.to_owned(),
        ip: found["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    })
}

/// Waits until all promises are kept; panics with those that are not.
fn verify(api: &Api, steady: &Steady, book: &Book, round: u64) {
    let begun = Instant::now();
    loop {
        let mut wrong = steady.changes(api);
        wrong.extend(broken_promises(api, book));
        wrong.extend(wrong_addresses(api));
        if wrong.is_empty() {
            return;
        }
        if begun.elapsed() > SETTLE {
            panic!("round {round}: {wrong:#?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn broken_promises(api: &Api, book: &Book) -> Vec<String> {
    let book = book.lock().clone();
    book.iter()
        .filter_map(|(id, promised)| {
            let now = api.inspect(id).expect("inspect answers");
            let wrong = complaint(promised, now.as_ref().map(|now| &now["State"]))?;
            Some(format!(
                "{id}: {wrong}; promised {promised:?}, is {:?}",
                now.map(|now| now["State"].clone())
            ))
        })
        .collect()
}

/// What is wrong with a container after the engine was killed; `state` is `None` when it is gone.
fn complaint(promised: &Promised, state: Option<&Value>) -> Option<&'static str> {
    let status = state.and_then(|state| state["Status"].as_str());
    let undisturbed = !promised.disturbed && promised.removed == Asked::No;
    let runs_on = promised.lasting && promised.started == Asked::Acknowledged && undisturbed;
    match (promised.removed, status) {
        (Asked::Acknowledged, Some(_)) => Some("it was removed and is there again"),
        (Asked::Acknowledged, None) => None,
        (_, Some("running")) if promised.lasting => None,
        (_, Some("running")) => Some("it should have ended"),
        _ if runs_on => Some("it should still run"),
        (_, None) if promised.auto_remove || promised.removed != Asked::No => None,
        (_, None) => Some("it is lost"),
        (_, Some(_)) if promised.auto_remove => Some("it should have removed itself"),
        (_, Some("created")) if promised.started == Asked::Acknowledged => Some("its start is forgotten"),
        (_, Some("created")) => None,
        (_, Some("exited")) if undisturbed && !promised.lasting => {
            let code = state.and_then(|state| state["ExitCode"].as_i64());
            (code != Some(promised.code)).then_some("its exit code is wrong")
        }
        (_, Some("exited")) => None,
        (_, Some(_)) => Some("it is in a strange state"),
    }
}

/// Every running container on the bridge has the address that the engine says, and nobody else has it.
fn wrong_addresses(api: &Api) -> Vec<String> {
    let listed = api.get("/containers/json").expect("ps").json();
    let ids = listed.as_array().into_iter().flatten().filter_map(|row| row["Id"].as_str());
    let found: Vec<Value> = ids.filter_map(|id| api.inspect(id).ok().flatten()).collect();
    let bridged = found.iter().filter(|found| found["HostConfig"]["NetworkMode"] == "bridge");
    let mut holders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for container in bridged.filter(|found| found["State"]["Running"] == true) {
        let (id, pid) = (container["Id"].as_str().unwrap_or_default(), container["State"]["Pid"].to_string());
        let said =
            container["NetworkSettings"]["Networks"]["bridge"]["IPAddress"].as_str().unwrap_or_default();
        let shown =
            Invocation::new("nsenter", &["-t", &pid, "-n", "ip", "-4", "-o", "address", "show", "eth0"])
                .run();
        if shown.code == 0 && !shown.stdout.contains(&format!(" {said}/")) {
            wrong.push(format!("{id} should have the address {said:?}, and has {shown:?}"));
        }
        holders.entry(said.to_owned()).or_default().insert(id.to_owned());
    }
    let doubled = holders.into_iter().filter(|(_, ids)| ids.len() > 1);
    wrong.extend(doubled.map(|(ip, ids)| format!("{ip} is the address of {ids:?}")));
    wrong
}

/// Reads the ends of a few containers as clients do, and takes most away, so that the book stays thin.
fn forget_some(api: &Api, book: &Book, chance: &mut Chance) {
    book.lock()
        .retain(|_, promised| promised.removed == Asked::No && (!promised.auto_remove || promised.lasting));
    let all: Vec<(String, Promised)> =
        book.lock().iter().map(|(id, promised)| (id.clone(), promised.clone())).collect();
    for (id, promised) in all {
        let ended = promised.started == Asked::Acknowledged && !promised.disturbed && !promised.lasting;
        if ended && chance.below(4) == 0 {
            check_end(api, &id, promised.code);
        }
        if promised.lasting || chance.below(4) != 0 {
            let answer = api.delete(&format!("/containers/{id}?force=1&v=1")).expect("rm");
            let gone = answer.status == 204 || answer.status == 404;
            assert!(gone, "cannot remove {id}: {} {}", answer.status, answer.text());
            if let Some(promised) = book.lock().get_mut(&id) {
                promised.removed = Asked::Acknowledged;
            }
        }
    }
}

fn check_end(api: &Api, id: &str, code: i64) {
    let waited = api.post(&format!("/containers/{id}/wait"), &Value::Null).expect("wait").json();
    assert_eq!(waited["StatusCode"].as_i64(), Some(code), "{waited}");
    let logs = api.get(&format!("/containers/{id}/logs?stdout=1")).expect("logs").body;
    assert_eq!(String::from_utf8_lossy(&demultiplex(&logs).0), "begin\nend\n", "log of {id}");
}
