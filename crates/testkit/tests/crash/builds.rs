//! Builds side by side, with caches that they share, while the engine is killed or its disk fills up at random
//! moments: the next builds finish and are right, what was finished is there, and nothing else is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use yare_testkit::{Engine, eventually, require_root};

use crate::chance::{Chance, rounds};
use crate::exhaustion::engine_on_small_disk;
use crate::leaks;

/// How many build at once.
const BUILDERS: usize = 4;

/// How long an engine may take to settle what its predecessor left.
const SETTLE: Duration = Duration::from_secs(60);

/// Stages that all builders share and stages of their own, cache mounts of every kind, copies between them. Who
/// is to be alone in a cache sees whether somebody else wrote meanwhile (77); busybox's `md5sum` does not see
/// whether its output could be written (28).
const DOCKERFILE: &str = r#"FROM busybox AS shared
ARG ROUND
RUN yes shared-$ROUND | head -c 3000000 > /big && sleep 0.1
RUN --mount=type=cache,id=shared,target=/c echo $ROUND >> /c/log && tail -n1 /c/log > /dev/null && sleep 0.05
FROM busybox AS own
ARG ROUND
ARG WHO
RUN --mount=type=cache,id=locked,sharing=locked,target=/c own=$(cat /proc/sys/kernel/random/uuid); echo $own > /c/who || exit 1; sleep 0.1; [ $(cat /c/who) = $own ] || exit 77; yes $WHO-$ROUND | head -c 2000000 > /big
RUN --mount=type=cache,id=private,sharing=private,target=/c own=$(cat /proc/sys/kernel/random/uuid); echo $own > /c/who || exit 1; sleep 0.1; [ $(cat /c/who) = $own ] || exit 77; echo $WHO-$ROUND > /private
FROM busybox
COPY file /file
COPY --from=shared /big /shared
COPY --from=own /big /private /own/
RUN --mount=type=cache,id=shared,target=/c cat /file /shared /own/* | md5sum > /sum && [ -s /sum ] || exit 28; echo done >> /c/log
"#;

/// What one build said.
#[derive(Debug, Default)]
struct Heard {
    ok: bool,
    text: String,
    /// Steps that ran to their end, by their titles, and when that was heard.
    done: BTreeMap<String, Instant>,
    /// Steps that were found.
    cached: Vec<String>,
}

impl Heard {
    fn line(&mut self, line: &str, titles: &mut BTreeMap<String, String>) {
        self.text += line;
        self.text.push('\n');
        let Some((number, rest)) = line.split_once(' ').filter(|(number, _)| number.starts_with('#')) else {
            return;
        };
        let title = titles.get(number).cloned();
        match (title, rest) {
            (Some(title), "CACHED") => self.cached.push(title),
            (Some(title), rest) if rest.starts_with("DONE") => {
                self.done.insert(title, Instant::now());
            }
            (None, title) if title.starts_with('[') => {
                titles.insert(number.to_owned(), title.to_owned());
            }
            _ => {}
        }
    }
}

/// The context, and who builds it.
#[derive(Debug)]
struct Builders {
    context: PathBuf,
}

impl Builders {
    fn new(engine: &Engine) -> Self {
        let context = engine.path().join("context");
        fs::create_dir(&context).unwrap();
        fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
        fs::write(context.join("file"), "of the context\n").unwrap();
        Self { context }
    }

    /// One build, heard to its end.
    fn build(&self, engine: &Engine, (round, who): (u64, usize), more: &[&str]) -> Heard {
        let (tag, round, who) = (format!("built-{who}"), format!("ROUND={round}"), format!("WHO={who}"));
        let context = self.context.display().to_string();
        let fixed = ["build", "--progress=plain", "-t", &tag, "--build-arg", &round, "--build-arg", &who];
        let mut command = engine.yare(&[&fixed, more, &[&context]].concat()).into_command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut heard, mut titles) = (Heard::default(), BTreeMap::new());
        for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
            heard.line(&line, &mut titles);
        }
        heard.ok = child.wait().unwrap().success();
        assert!(!heard.text.contains("exit code: 77"), "two were in one cache:\n{}", heard.text);
        heard
    }

    /// All of them at once, and something beside them.
    fn all(&self, engine: &Engine, round: u64, beside: impl FnOnce()) -> Vec<Heard> {
        std::thread::scope(|scope| {
            let build = |who| scope.spawn(move || self.build(engine, (round, who), &[]));
            let running: Vec<_> = (0..BUILDERS).map(build).collect();
            beside();
            running.into_iter().map(|one| one.join().unwrap()).collect()
        })
    }

    /// Builds once more what was broken off: everything works, and steps that had ended before `promised` are
    /// found.
    fn finish(&self, engine: &Engine, round: u64, (heard, promised): (&[Heard], Option<Instant>)) {
        for (who, again) in self.all(engine, round, || ()).iter().enumerate() {
            assert!(again.ok, "round {round}, build {who} after it was broken off:\n{}", again.text);
            let steps =
                heard[who].done.iter().filter(|(step, _)| step.contains("RUN") || step.contains("COPY"));
            for (step, at) in steps.filter(|(step, _)| !again.cached.contains(step)) {
                let early = promised.and_then(|promised| promised.checked_duration_since(*at));
                assert!(
                    early.is_none(),
                    "round {round}, build {who}: {step} ran again, {early:?}\n{}\nbefore:\n{}",
                    again.text,
                    heard[who].text
                );
            }
        }
    }

    /// Removes everything that was built.
    fn forget(&self, engine: &Engine) {
        let tags: Vec<String> = (0..BUILDERS).map(|who| format!("built-{who}")).collect();
        // At first there is none.
        engine
            .yare(
                &[["rmi", "--force"].as_slice(), &tags.iter().map(String::as_str).collect::<Vec<_>>()]
                    .concat(),
            )
            .run();
        engine.yare(&["image", "prune", "--force"]).ok();
        engine.yare(&["builder", "prune", "--all", "--force"]).ok();
    }

    /// What was built from pieces is what a build without any cache gives.
    fn compare(&self, engine: &Engine, round: u64, who: usize) {
        let tag = format!("built-{who}");
        let id = || engine.yare(&["image", "inspect", "-f", "{{.Id}}", &tag]).ok();
        let look = "ls -lR --full-time /file /shared /own /sum; md5sum /file /shared /own/* /sum; cat /sum";
        let seen = || engine.yare(&["run", "--rm", &tag, "sh", "-c", look]).ok();
        let pieced = (id(), seen());
        let anew = self.build(engine, (round, who), &["--no-cache"]);
        assert!(anew.ok, "round {round}: {}", anew.text);
        let whole = (id(), seen());
        assert!(
            pieced == whole,
            "round {round}: build {who} is not what it should be:\n{}{}but\n{}{}",
            pieced.0,
            pieced.1,
            whole.0,
            whole.1
        );
    }
}

/// Waits until nothing is there of builds that are over.
fn settled(engine: &Engine, when: &str) {
    let (data, exec) = (engine.data_root(), engine.exec_root());
    let folders = [
        data.join("containers"),
        data.join("build/contexts"),
        data.join("snapshots/tmp"),
        data.join("snapshots/trash"),
        data.join("trash"),
        exec.join("containers"),
    ];
    let left = || folders.iter().flat_map(|folder| leaks::entries(folder)).collect::<Vec<_>>();
    eventually(&format!("nothing of a build is left, {when}"), SETTLE, || left().is_empty());
}

fn killed_again_and_again(rounds: u64) {
    let mut chance = Chance::new();
    let mut engine = Engine::start();
    engine.load_busybox();
    let builders = Builders::new(&engine);
    let begun = Instant::now();
    let first = builders.all(&engine, 0, || ());
    assert!(first.iter().all(|heard| heard.ok), "{first:?}");
    let takes = begun.elapsed().as_millis() as u64;
    for round in 1..=rounds {
        let pid = i32::try_from(engine.pid()).ok().and_then(Pid::from_raw).unwrap();
        let mut killed = Instant::now();
        let heard = builders.all(&engine, round, || {
            std::thread::sleep(chance.millis(0, takes + takes / 4));
            killed = Instant::now();
            kill_process(pid, Signal::KILL).unwrap();
        });
        engine.kill9();
        std::thread::sleep(chance.millis(0, 200));
        engine.restart();
        if chance.below(4) == 0 {
            // Before it has settled anything.
            std::thread::sleep(chance.millis(0, 100));
            engine.kill9();
            engine.restart();
        }
        // A step is on record a moment after its client heard of it; how long that is depends on the disk.
        builders.finish(&engine, round, (&heard, killed.checked_sub(Duration::from_millis(300 + takes / 2))));
        settled(&engine, &format!("round {round}"));
        builders.compare(&engine, round, chance.below(BUILDERS as u64) as usize);
    }
    leaks::assert_clean(engine);
}

/// Room in megabytes for what one round of builds makes, twice.
const ROOM: u64 = 60;

fn filled_again_and_again(rounds: u64) {
    let mut chance = Chance::new();
    let mut engine = engine_on_small_disk(ROOM);
    engine.load_busybox();
    let builders = Builders::new(&engine);
    let filler = engine.data_root().join("filler");
    let mut failed = 0;
    for round in 1..=rounds {
        // Each round has the disk for itself.
        builders.forget(&engine);
        let room = chance.below(24) << 20;
        let heard = builders.all(&engine, round, || {
            std::thread::sleep(chance.millis(0, 900));
            fill(&filler, room);
        });
        for one in heard.iter().filter(|one| !one.ok) {
            // The others are busybox's word for what a program could not write, and the last step's.
            let said = one.text.to_lowercase();
            let is_named =
                ["no space left", "i/o error", "exit code: 28"].iter().any(|word| said.contains(word));
            assert!(is_named, "round {round}: {}", one.text);
            failed += 1;
        }
        if chance.below(3) == 0 {
            // A full disk must not keep the next engine from its start.
            engine.kill9();
            engine.restart();
        }
        fs::remove_file(&filler).unwrap();
        builders.finish(&engine, round, (&heard, None));
        settled(&engine, &format!("round {round}"));
        builders.compare(&engine, round, chance.below(BUILDERS as u64) as usize);
    }
    eprintln!("{failed} of {} builds found the disk full", rounds * BUILDERS as u64);
    builders.forget(&engine);
    engine.yare(&["rmi", "busybox"]).ok();
    engine.stop();
    unmount(engine.data_root(), UnmountFlags::empty()).unwrap();
    engine.restart();
    leaks::assert_clean(engine);
}

/// Takes all space of a file system but `room` bytes.
fn fill(filler: &std::path::Path, room: u64) {
    let stat = rustix::fs::statvfs(filler.parent().unwrap()).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    let file = fs::File::create(filler).unwrap();
    let taken = free.saturating_sub(room);
    // Others take space meanwhile: what was free may be no more.
    let flags = rustix::fs::FallocateFlags::empty();
    let mut taken = (taken >> 16) << 16;
    while taken > 0 && rustix::fs::fallocate(&file, flags, 0, taken).is_err() {
        taken -= taken.min(1 << 20);
    }
}

#[test]
fn builds_survive_kills_of_the_engine() {
    if require_root("builds_survive_kills_of_the_engine") {
        killed_again_and_again(rounds(2, 100));
    }
}

#[test]
fn builds_survive_a_full_disk() {
    if require_root("builds_survive_a_full_disk") {
        filled_again_and_again(rounds(2, 100));
    }
}
