//! `stats`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use yare_api::{ContainerStatsResponse, EventMessage};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{Layout, Row, short_id, write_list};
use crate::opts;
use crate::session::Signals;
use crate::table::Outcome;

const LAYOUT: Layout = Layout {
    headings: &[
        ("Container", "CONTAINER"),
        ("ID", "CONTAINER ID"),
        ("Name", "NAME"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    table: &["ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"],
    raw: "container: {{.Container}}\ncpu: {{.CPUPerc}}\nmem: {{.MemUsage}}\nmemperc: {{.MemPerc}}\nnetio: {{.NetIO}}\nblockio: {{.BlockIO}}\npids: {{.PIDs}}\n",
};

/// How often the screen is drawn.
const TICK: Duration = Duration::from_millis(500);

/// What is known of each container, in the order of their arrival.
#[derive(Default)]
struct Board {
    order: Vec<String>,
    samples: BTreeMap<String, Option<ContainerStatsResponse>>,
    failures: Vec<Failure>,
}

impl Board {
    fn add(&mut self, name: &str) -> bool {
        if self.samples.contains_key(name) {
            return false;
        }
        self.order.push(name.to_owned());
        self.samples.insert(name.to_owned(), None);
        true
    }

    fn remove(&mut self, name: &str) {
        self.order.retain(|known| known != name);
        self.samples.remove(name);
    }
}

/// `stats`.
pub(crate) async fn stats(cx: &Context, given: &Given) -> Outcome {
    let format = match given.text_opt("format") {
        Some(format) if !format.is_empty() => format,
        _ => &cx.config().stats_format,
    };
    let whole = given.bool("no-trunc");
    if given.bool("no-stream") {
        return once(cx, given, format, whole).await;
    }
    let mut signals = Signals::endings();
    tokio::select! {
        biased;
        ended = follow(cx, given, format, whole) => ended,
        number = signals.number() => Ok(if number == 2 { 0 } else { 128 + number }),
    }
}

/// The containers asked for, or those that run.
async fn names(cx: &Context, given: &Given) -> Result<Vec<String>, Failure> {
    if !given.arguments.is_empty() {
        return Ok(given.arguments.clone());
    }
    let containers = cx.client().container_list(given.bool("all"), None, false, "").await?;
    Ok(containers.into_iter().map(|container| container.id).collect())
}

async fn once(cx: &Context, given: &Given, format: &str, whole: bool) -> Outcome {
    let names = names(cx, given).await?;
    let samples = futures_util::future::join_all(names.iter().map(async |name| {
        let mut stream = cx.client().container_stats::<ContainerStatsResponse>(name, false).await?;
        stream.next().await
    }))
    .await;
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for (name, sample) in names.iter().zip(samples) {
        match sample {
            Ok(sample) => rows.push(row(name, sample.as_ref(), whole)),
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    write_list(cx, format, &LAYOUT, rows.into_iter())?;
    for failure in &failures {
        cx.report(failure);
    }
    Ok(i32::from(!failures.is_empty()))
}

async fn follow(cx: &Context, given: &Given, format: &str, whole: bool) -> Outcome {
    let board = Rc::new(RefCell::new(Board::default()));
    let all = given.arguments.is_empty();
    // The subscription comes before the list, so that no container is missed between them.
    let events = if all {
        Some(cx.client().events("", "", &opts::filters(&["type=container".to_owned()], &[])).await?)
    } else {
        None
    };
    let names = names(cx, given).await?;
    let sampler = Sampler { cx, board: &board };
    let mut running: futures_util::stream::FuturesUnordered<_> =
        futures_util::stream::FuturesUnordered::new();
    for name in names {
        board.borrow_mut().add(&name);
        running.push(sampler.sample(name));
    }
    let mut events = events;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                draw(cx, format, &board.borrow(), whole)?;
                let failures = std::mem::take(&mut board.borrow_mut().failures);
                // A container that went away meanwhile is no failure of a list of whatever runs.
                if let Some(failure) = failures.iter().find(|failure| all && !failure.text.contains("No such container")) {
                    return Err(failure.clone());
                }
                let lost = !all && board.borrow().order.is_empty();
                if lost {
                    for failure in &failures {
                        cx.report(failure);
                    }
                    return Ok(i32::from(!failures.is_empty()));
                }
            }
            Some(()) = futures_util::StreamExt::next(&mut running), if !running.is_empty() => {}
            event = next_event(&mut events), if all => match event {
                Some(event) if event.action == "start" || (given.bool("all") && event.action == "create") => {
                    let id = event.actor.id;
                    if board.borrow_mut().add(&id) {
                        running.push(sampler.sample(id));
                    }
                }
                Some(event) if event.action == "die" && !given.bool("all") => board.borrow_mut().remove(&event.actor.id),
                Some(_) => {}
                None => return Ok(0),
            },
        }
    }
}

async fn next_event(events: &mut Option<yare_client::JsonLines<EventMessage>>) -> Option<EventMessage> {
    match events {
        Some(stream) => stream.next().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

#[derive(Clone, Copy)]
struct Sampler<'a> {
    cx: &'a Context,
    board: &'a Rc<RefCell<Board>>,
}

impl Sampler<'_> {
    /// Keeps the board's entry fresh until the container ends.
    async fn sample(self, name: String) {
        let failed = match self.cx.client().container_stats::<ContainerStatsResponse>(&name, true).await {
            Err(error) => Some(Failure::from(error)),
            Ok(mut stream) => loop {
                match stream.next().await {
                    Ok(Some(sample)) => {
                        if let Some(entry) = self.board.borrow_mut().samples.get_mut(&name) {
                            *entry = Some(sample);
                        }
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(Failure::from(error)),
                }
            },
        };
        let mut board = self.board.borrow_mut();
        board.remove(&name);
        board.failures.extend(failed);
    }
}

fn draw(cx: &Context, format: &str, board: &Board, whole: bool) -> Result<(), Failure> {
    if cx.terminal {
        cx.write("\x1b[H\x1b[J")?;
    }
    let rows =
        board.order.iter().map(|name| row(name, board.samples.get(name).and_then(Option::as_ref), whole));
    write_list(cx, format, &LAYOUT, rows)?;
    cx.flush()
}

/// One container's line; dashes where nothing is known yet.
pub(crate) fn row(name: &str, sample: Option<&ContainerStatsResponse>, whole: bool) -> Row {
    let id = sample.map_or(name, |sample| if sample.id.is_empty() { name } else { &sample.id });
    let shown = if whole { id } else { short_id(id) };
    let Some(sample) = sample else {
        return Row::new()
            .with("Container", name)
            .with("ID", shown)
            .with("Name", "--")
            .with("CPUPerc", "--")
            .with("MemUsage", "-- / --")
            .with("MemPerc", "--")
            .with("NetIO", "--")
            .with("BlockIO", "--")
            .with("PIDs", "--");
    };
    let used = memory_used(sample);
    let limit = sample.memory_stats.limit;
    let (received, sent) = sample.networks.iter().flatten().fold((0, 0), |(received, sent), (_, network)| {
        (received + network.rx_bytes, sent + network.tx_bytes)
    });
    let (read, written) = blocks(sample);
    Row::new()
        .with("Container", name)
        .with("ID", shown)
        .with("Name", sample.name.strip_prefix('/').unwrap_or(&sample.name))
        .with("CPUPerc", format!("{:.2}%", cpu_percent(sample)))
        .with("MemUsage", format!("{} / {}", binary(used), binary(limit)))
        .with("MemPerc", format!("{:.2}%", percent(used, limit)))
        .with("NetIO", format!("{} / {}", decimal(received), decimal(sent)))
        .with("BlockIO", format!("{} / {}", decimal(read), decimal(written)))
        .with("PIDs", sample.pids_stats.current.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "four digits are printed")]
fn binary(bytes: u64) -> String {
    yare_api::units::bytes_size(bytes as f64)
}

#[expect(clippy::cast_precision_loss, reason = "three digits are printed")]
fn decimal(bytes: u64) -> String {
    yare_api::units::human_size_with_precision(bytes as f64, 3)
}

#[expect(clippy::cast_precision_loss, reason = "two decimals are printed")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

/// What is used without the page cache that could go at once; cgroup v1 and v2 name it differently.
fn memory_used(sample: &ContainerStatsResponse) -> u64 {
    let memory = &sample.memory_stats;
    let stat = |name: &str| memory.stats.as_ref().and_then(|stats| stats.get(name)).copied();
    let cache = stat("total_inactive_file").or_else(|| stat("inactive_file")).unwrap_or(0);
    if cache < memory.usage { memory.usage - cache } else { memory.usage }
}

/// The share of one CPU since the sample before.
#[expect(clippy::cast_precision_loss, reason = "two decimals are printed")]
fn cpu_percent(sample: &ContainerStatsResponse) -> f64 {
    let (now, before) = (&sample.cpu_stats, &sample.precpu_stats);
    let used = now.cpu_usage.total_usage as f64 - before.cpu_usage.total_usage as f64;
    let system = now.system_cpu_usage as f64 - before.system_cpu_usage as f64;
    let cpus = match now.online_cpus {
        0 => now.cpu_usage.percpu_usage.as_ref().map_or(0, Vec::len) as f64,
        cpus => f64::from(cpus),
    };
    if system > 0.0 && used > 0.0 { used / system * cpus * 100.0 } else { 0.0 }
}

fn blocks(sample: &ContainerStatsResponse) -> (u64, u64) {
    let mut totals = (0, 0);
    for entry in sample.blkio_stats.io_service_bytes_recursive.iter().flatten() {
        match entry.op.as_bytes().first() {
            Some(b'r' | b'R') => totals.0 += entry.value,
            Some(b'w' | b'W') => totals.1 += entry.value,
            _ => {}
        }
    }
    totals
}
