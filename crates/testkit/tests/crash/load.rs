//! Clients that do what clients do, all at once, and note what was promised to them.

use std::collections::BTreeMap;
use std::io::Result;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use yare_testkit::{Engine, Invocation};

use crate::api::Api;
use crate::chance::Chance;

/// How far a request came. What was asked for and not acknowledged may have happened or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    No,
    Unanswered,
    Acknowledged,
}

/// A container whose creation was acknowledged, and what may be expected of it.
#[derive(Debug, Clone)]
pub(crate) struct Promised {
    /// It removes itself at its end.
    pub(crate) auto_remove: bool,
    /// It runs until somebody ends it.
    pub(crate) lasting: bool,
    /// The exit code of its program when nobody disturbs it.
    pub(crate) code: i64,
    pub(crate) started: Asked,
    /// Somebody stopped or killed it.
    pub(crate) disturbed: bool,
    pub(crate) removed: Asked,
}

/// All that was promised, by container id.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<BTreeMap<String, Promised>>);

impl Book {
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Promised>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn note(&self, id: &str, change: impl FnOnce(&mut Promised)) {
        if let Some(promised) = self.lock().get_mut(id) {
            change(promised);
        }
    }

    /// Ids of containers that nobody removed.
    fn present(&self) -> Vec<String> {
        let all = self.lock();
        all.iter().filter(|(_, promised)| promised.removed == Asked::No).map(|(id, _)| id.clone()).collect()
    }
}

/// Whether a request was answered, and with success.
fn fate(answer: &Result<crate::api::Answer>) -> Asked {
    match answer {
        Ok(answer) if answer.status < 400 => Asked::Acknowledged,
        // A refusal is a promise that nothing was done, but another client may be at the same container.
        _ => Asked::Unanswered,
    }
}

/// One client.
pub(crate) struct Client<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) api: Api,
    pub(crate) book: &'a Book,
    pub(crate) chance: Chance,
    /// Containers that run all the time.
    pub(crate) steady: &'a [String],
    /// The files of a small image.
    pub(crate) tar: &'a [u8],
}

impl Client<'_> {
    /// Works until told to stop. Errors are expected: the engine dies meanwhile.
    pub(crate) fn work(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            // The book has what was acknowledged; all else may fail.
            let _ = self.step();
        }
    }

    fn step(&mut self) -> Result<()> {
        match self.chance.below(22) {
            0..=4 => self.run(false),
            5..=7 => self.run(true),
            8 => self.create_only(false),
            9 => self.create_only(true),
            10 => self.run_attached(),
            11 | 12 => self.exec(),
            13 | 14 => self.disturb(),
            15 | 16 => self.remove(),
            17 | 18 => self.import(),
            19 | 20 => self.build(),
            _ => self.look(),
        }
    }

    fn create(&mut self, auto_remove: bool) -> Result<Option<String>> {
        let code = self.chance.below(100) as i64;
        let lasting = self.chance.below(6) == 0;
        let pause = if lasting { 1_000_000 } else { self.chance.below(600) };
        let program = format!("echo begin; usleep {pause}000; echo end; exit {code}");
        let mut body = json!({
            "Image": "busybox",
            "Cmd": ["sh", "-c", program],
            "HostConfig": {"AutoRemove": auto_remove},
        });
        match self.chance.below(6) {
            0 => {
                body["HostConfig"]["PortBindings"] =
                    json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]})
            }
            1 => body["HostConfig"]["NetworkMode"] = json!("none"),
            2 => body["Volumes"] = json!({"/volume": {}}),
            3 => body["HostConfig"]["Memory"] = json!(64 << 20),
            _ => {}
        }
        let answer = self.api.post("/containers/create", &body)?;
        if answer.status != 201 {
            return Ok(None);
        }
        let id = answer.json()["Id"].as_str().unwrap_or_default().to_owned();
        let (started, removed) = (Asked::No, Asked::No);
        let promised = Promised { auto_remove, lasting, code, started, disturbed: false, removed };
        self.book.lock().insert(id.clone(), promised);
        Ok(Some(id))
    }

    fn create_only(&mut self, auto_remove: bool) -> Result<()> {
        self.create(auto_remove).map(drop)
    }

    fn run(&mut self, auto_remove: bool) -> Result<()> {
        let Some(id) = self.create(auto_remove)? else { return Ok(()) };
        self.start(&id)
    }

    fn start(&mut self, id: &str) -> Result<()> {
        self.book.note(id, |promised| promised.started = promised.started.max(Asked::Unanswered));
        let answer = self.api.post(&format!("/containers/{id}/start"), &Value::Null);
        let fate = fate(&answer);
        self.book.note(id, |promised| promised.started = promised.started.max(fate));
        answer.map(drop)
    }

    /// The whole way of `run --rm`, with a client that must not hang when the engine dies.
    fn run_attached(&mut self) -> Result<()> {
        let args = ["run", "--rm", "busybox", "echo", "hi"];
        let client: Invocation =
            if self.chance.below(4) == 0 { self.engine.docker(&args) } else { self.engine.yare(&args) };
        let outcome = client.patience(Duration::from_secs(60)).run();
        // When the engine dies between the end of the program and the last of its output, the client cannot
        // know; as long as the engine lives, all must be there.
        let alive = self.api.get("/_ping").is_ok();
        let whole = outcome.code != 0 || outcome.stdout == "hi\n";
        assert!(whole || !alive, "run --rm has lost output: {outcome:?}");
        Ok(())
    }

    fn exec(&mut self) -> Result<()> {
        let Some(id) = self.chance.pick(self.steady).cloned() else { return Ok(()) };
        let body = json!({"AttachStdout": true, "Cmd": ["sh", "-c", "usleep 20000; echo here"]});
        let made = self.api.post(&format!("/containers/{id}/exec"), &body)?;
        let Some(exec) = made.json()["Id"].as_str().map(str::to_owned) else { return Ok(()) };
        self.api.post(&format!("/exec/{exec}/start"), &json!({"Detach": false, "Tty": false})).map(drop)
    }

    fn disturb(&mut self) -> Result<()> {
        let Some(id) = self.chance.pick(&self.book.present()).cloned() else { return Ok(()) };
        self.book.note(&id, |promised| promised.disturbed = true);
        let path = match self.chance.below(4) {
            0 => format!("/containers/{id}/kill"),
            1 => format!("/containers/{id}/restart?t=1"),
            _ => format!("/containers/{id}/stop?t=1"),
        };
        if path.contains("restart") {
            self.book.note(&id, |promised| promised.started = promised.started.max(Asked::Unanswered));
        }
        self.api.post(&path, &Value::Null).map(drop)
    }

    fn remove(&mut self) -> Result<()> {
        let Some(id) = self.chance.pick(&self.book.present()).cloned() else { return Ok(()) };
        self.book.note(&id, |promised| promised.removed = Asked::Unanswered);
        let answer = self.api.delete(&format!("/containers/{id}?force=1&v=1"));
        // 404 and 409 too mean that it is gone or going; only success is a promise.
        let fate = fate(&answer);
        self.book.note(&id, |promised| promised.removed = fate);
        answer.map(drop)
    }

    fn import(&mut self) -> Result<()> {
        let name = format!("load{}", self.chance.below(6));
        if self.chance.below(3) == 0 {
            return self.api.delete(&format!("/images/{name}?force=1")).map(drop);
        }
        // Each is another image: the last bytes of the tar are its padding and may be anything.
        let mut tar = self.tar.to_vec();
        tar.extend_from_slice(&self.chance.next().to_be_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
        let answer = self.api.post_tar(&format!("/images/create?fromSrc=-&repo={name}"), &tar)?;
        let made = answer.status == 200 && !answer.text().contains("error");
        if made && self.chance.below(2) == 0 {
            let body = json!({"Image": name, "Cmd": ["/bin/true"]});
            self.api.post("/containers/create", &body)?;
        }
        Ok(())
    }

    /// Few different steps, so that builds share what is under way, and find what others finished or left.
    fn build(&mut self) -> Result<()> {
        let (name, step, pause) = (self.chance.below(4), self.chance.below(5), self.chance.below(300));
        let dockerfile = format!(
            "FROM busybox AS a\nRUN usleep {pause}000; echo {step} > /f\nFROM busybox\nCOPY --from=a /f /f\n\
             RUN --mount=type=cache,target=/c,sharing=locked echo {step} >> /c/f; cat /f\n"
        );
        let answer = self.api.post_tar(&format!("/build?t=built{name}"), dockerfile.as_bytes())?;
        let made = answer.status == 200 && answer.text().contains("Successfully tagged");
        // Where shims and launchers are killed, those of a step may be among them, and the build says so.
        let shim_killed =
            ["the shim of a step", "cannot reach the launcher", "cannot launch", "exit code: 137"];
        let made = made || shim_killed.iter().any(|words| answer.text().contains(words));
        assert!(made, "a build failed, and the engine lived to say it: {}", answer.text());
        if self.chance.below(3) == 0 {
            self.api.delete(&format!("/images/built{name}?force=1"))?;
        }
        if self.chance.below(8) == 0 {
            self.api.post("/build/prune?all=1", &Value::Null)?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<()> {
        for path in ["/containers/json?all=1&size=1", "/images/json", "/system/df", "/info"] {
            let answer = self.api.get(path)?;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        }
        Ok(())
    }
}
