//! Runs cases in a few threads and reports like `cargo test`.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use yare_testkit::Server;

use crate::case::{Case, Clients};
use crate::client::{Client, Program};
use crate::host::{Host, Kind};
use crate::http::request;
use crate::keeper::{Keeper, into_own_namespaces, is_reference};

/// What the command line asks for.
#[derive(Debug, Default)]
struct Options {
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    ignored: bool,
    include_ignored: bool,
    list: bool,
    threads: usize,
}

impl Options {
    fn of_arguments() -> Self {
        let mut options = Self { threads: 4, ..Self::default() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let mut value = || value.clone().or_else(|| arguments.next()).unwrap_or_default();
            match flag.as_str() {
                "--exact" => options.exact = true,
                "--ignored" => options.ignored = true,
                "--include-ignored" => options.include_ignored = true,
                "--list" => options.list = true,
                "--skip" => options.skips.push(value()),
                "--test-threads" => options.threads = value().parse().expect("--test-threads takes a number"),
                "--format" | "--color" | "-Z" | "--report-time" => drop(value()),
                // The rest of libtest's flags changes nothing here.
                flag if flag.starts_with('-') => (),
                filter => options.filters.push(filter.to_owned()),
            }
        }
        options
    }

    fn wants(&self, name: &str) -> bool {
        let matches = |pattern: &String| if self.exact { name == pattern } else { name.contains(pattern) };
        (self.filters.is_empty() || self.filters.iter().any(matches)) && !self.skips.iter().any(matches)
    }
}

/// One run of one case.
#[derive(Debug, Clone)]
struct Turn {
    case: Case,
    program: Program,
    server: Server,
    name: String,
    /// The case's prefix.
    prefix: String,
}

fn turns(cases: &[Case]) -> Vec<Turn> {
    let turn = |number: usize, case: &Case, program: Program, server: Server| {
        let theme = case.theme.rsplit("::").next().unwrap_or_default();
        let client = if case.clients == Clients::Api { "api" } else { program.name() };
        let mut name = format!("{theme}::{}::{client}", case.name);
        let mut prefix = format!("t{number}{}", &client[..1]);
        if server == Server::Yare {
            name.push_str("::own_registry");
            prefix.push('r');
        }
        Turn { case: *case, program, server, name, prefix }
    };
    let all = cases.iter().enumerate().flat_map(|(number, case)| {
        let programs: &[Program] = match case.clients {
            Clients::Both => &[Program::Docker, Program::Yare],
            Clients::Docker | Clients::Api => &[Program::Docker],
        };
        let servers: &[Server] =
            if case.has_either_registry { &[Server::Debian, Server::Yare] } else { &[Server::Debian] };
        programs
            .iter()
            .flat_map(move |&program| servers.iter().map(move |&server| turn(number, case, program, server)))
    });
    all.collect()
}

/// Why a case is passed over with this engine.
fn passed_over(case: &Case, kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Yare => None,
        Kind::Dockerd(major) if major >= 28 => case.differs,
        Kind::Dockerd(_) if case.clients == Clients::Api => Some("the case speaks API 1.51"),
        Kind::Dockerd(_) => case.differs.or(case.differs_from_old),
    }
}

/// Runs what the command line asks for; whether all went well.
pub(crate) fn run(cases: &[Case]) -> bool {
    let options = Options::of_arguments();
    let all = turns(cases);
    check_names(&all);
    let total = all.len();
    let wanted: Vec<Turn> = all.into_iter().filter(|turn| options.wants(&turn.name)).collect();
    let filtered = total - wanted.len();
    if options.list {
        wanted.iter().for_each(|turn| println!("{}: test", turn.name));
        println!("\n{} tests, 0 benchmarks", wanted.len());
        return true;
    }
    let asked = |turn: &Turn| options.include_ignored || options.ignored == turn.case.is_long;
    let (chosen, ignored): (Vec<Turn>, Vec<Turn>) = wanted.into_iter().partition(asked);
    if chosen.is_empty() || !yare_testkit::require_root("e2e") {
        println!("\nrunning 0 tests\n");
        println!(
            "test result: ok. 0 passed; 0 failed; {} ignored; 0 measured; {filtered} filtered out",
            ignored.len() + chosen.len()
        );
        return true;
    }
    if is_reference() {
        into_own_namespaces();
    }
    run_all(&options, chosen, ignored.len(), filtered)
}

fn check_names(turns: &[Turn]) {
    let mut names = HashSet::new();
    for turn in turns {
        assert!(names.insert(&turn.name), "two cases are called {}", turn.name);
    }
}

fn run_all(options: &Options, chosen: Vec<Turn>, mut ignored: usize, filtered: usize) -> bool {
    let begun = Instant::now();
    println!("\nrunning {} tests", chosen.len() + 1);
    let (keeper, host) = Keeper::start();
    std::panic::set_hook(Box::new(keep_message));
    let (passed_over_turns, chosen): (Vec<Turn>, Vec<Turn>) =
        chosen.into_iter().partition(|turn| passed_over(&turn.case, host.kind).is_some());
    for turn in &passed_over_turns {
        let reason = passed_over(&turn.case, host.kind).unwrap_or_default();
        println!("test {} ... ignored, {reason}", turn.name);
    }
    ignored += passed_over_turns.len();
    let (alone, together): (Vec<Turn>, Vec<Turn>) = chosen.into_iter().partition(|turn| turn.case.is_alone);
    let report = Report::default();
    run_threads(&together, options.threads, &host, &report);
    remove_containers(&host);
    run_threads(&alone, 1, &host, &report);
    run_again(&together, &host, &report);
    let last = "teardown::nothing_is_left_behind";
    report.add(last, begun.elapsed(), keeper.finish());
    report.close(ignored, filtered, begun.elapsed())
}

/// Cases that failed beside others are run once more, alone: on a busy machine a client may be too late for
/// what a case waits for. What fails alone too has failed; what does not is shown, so that it is looked at.
fn run_again(turns: &[Turn], host: &Host, report: &Report) {
    let failed: Vec<String> = report.failures.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
    for turn in turns.iter().filter(|turn| failed.contains(&turn.name)) {
        remove_containers(host);
        let mut again = turn.clone();
        again.prefix.push_str("-again");
        if run_one(&again, host).is_ok() {
            let mut failures = report.failures.lock().unwrap();
            let messages =
                failures.extract_if(.., |(name, _)| *name == turn.name).map(|(_, message)| message);
            let messages: Vec<String> = messages.collect();
            println!(
                "test {} ... ok alone, after it had failed beside others:\n{}",
                turn.name,
                messages.join("\n")
            );
            drop(failures);
            report.passed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What failed cases may have left; those that look at all containers see only their own.
fn remove_containers(host: &Host) {
    let containers = request(&host.socket, "GET", "/containers/json?all=1", None).json();
    for container in containers.as_array().into_iter().flatten() {
        let id = container["Id"].as_str().unwrap_or_default();
        request(&host.socket, "DELETE", &format!("/containers/{id}?force=1&v=1"), None);
    }
}

fn run_threads(turns: &[Turn], threads: usize, host: &Host, report: &Report) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, turns.len().max(1)) {
            scope.spawn(|| {
                while let Some(turn) = turns.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let outcome = run_one(turn, host);
                    report.add(&turn.name, begun.elapsed(), outcome);
                }
            });
        }
    });
}

fn run_one(turn: &Turn, host: &Host) -> Result<(), String> {
    let seen = std::fs::metadata(&host.log).map_or(0, |metadata| metadata.len());
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let client = Client::new(host, turn.program, turn.prefix.clone()).with_server(turn.server);
        (turn.case.body)(&client);
    }));
    ended.map_err(|_| {
        let message = MESSAGE.take();
        format!("{message}{}", complaints(host, seen))
    })
}

/// Warnings and errors that the engine logged since.
fn complaints(host: &Host, since: u64) -> String {
    let log = std::fs::read(&host.log).unwrap_or_default();
    let new = log.get(usize::try_from(since).unwrap_or(0)..).unwrap_or_default();
    let new = String::from_utf8_lossy(new).into_owned();
    let lines: Vec<&str> =
        new.lines().filter(|line| line.contains("ERROR") || line.contains("WARN")).collect();
    if lines.is_empty() {
        return String::new();
    }
    let last = &lines[lines.len().saturating_sub(15)..];
    format!("\n--- the engine meanwhile\n{}", last.join("\n"))
}

thread_local! {
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps a panic's text for the report at the end.
fn keep_message(panic: &std::panic::PanicHookInfo<'_>) {
    let text = panic.payload().downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.payload().downcast_ref::<&str>().map(|&text| text.to_owned()));
    let place = panic.location().map(|place| format!("{}:{}: ", place.file(), place.line()));
    MESSAGE.set(format!("{}{}", place.unwrap_or_default(), text.unwrap_or_default()));
}

/// What came of the cases so far.
#[derive(Debug, Default)]
struct Report {
    passed: AtomicUsize,
    failures: Mutex<Vec<(String, String)>>,
}

impl Report {
    fn add(&self, name: &str, took: Duration, outcome: Result<(), String>) {
        let slow = if took > Duration::from_secs(1) {
            format!(" <{:.1}s>", took.as_secs_f32())
        } else {
            String::new()
        };
        match outcome {
            Ok(()) => {
                self.passed.fetch_add(1, Ordering::Relaxed);
                println!("test {name} ... ok{slow}");
            }
            Err(message) => {
                println!("test {name} ... FAILED{slow}");
                self.failures.lock().unwrap().push((name.to_owned(), message));
            }
        }
    }

    fn close(self, ignored: usize, filtered: usize, took: Duration) -> bool {
        let failures = self.failures.into_inner().unwrap();
        if !failures.is_empty() {
            println!("\nfailures:\n");
            failures.iter().for_each(|(name, message)| println!("---- {name} ----\n{message}\n"));
            println!("\nfailures:");
            failures.iter().for_each(|(name, _)| println!("    {name}"));
        }
        let word = if failures.is_empty() { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {word}. {} passed; {} failed; {ignored} ignored; 0 measured; {filtered} filtered out; \
             finished in {:.2}s\n",
            self.passed.into_inner(),
            failures.len(),
            took.as_secs_f32()
        );
        failures.is_empty()
    }
}
