//! Each step of each operation, with each fault: once, and every time.
//!
//! The tables say how it ends and how often the step was asked for. `ok` is success; `no` an answer that says
//! no (there is no such blob, nothing was mounted); the rest are errors by their class: `auth` unauthenticated,
//! `deny` permission denied, `none` not found, `away` unavailable, `bad` failed precondition. Every error says
//! what was asked of which host, and none says a secret, although this registry sends back all that it is shown.

use crate::fake::{Fake, Fault, settings};
use crate::open;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use http::Method;
use std::time::{Duration, Instant};
use yare_distribution::{Client, Content, Credentials, Name, Repository, Result, Resume, Settings};
use yare_errdefs::{Class, Classified, chain};
use yare_oci::{Descriptor, Digest, Hasher, MediaType};

const PASSWORD: &str = "hunter2-pass";
const TOKEN: &str = "eyJ-good-token";
/// As they are, and as they are sent.
const SECRETS: [&str; 3] = [PASSWORD, TOKEN, "dXNlcjpodW50ZXIyLXBhc3M="];
const IMAGE: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
const INDEX: &str = r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447","mediaType":"application/vnd.oci.image.manifest.v1+json","size":1}]}"#;
/// Bytes of a blob.
const SIZE: usize = 3000;

/// The first time only. What is tried again succeeds.
const ONCE: &str = "
fault      login token mhead mget  bhead bget  range start patch put   close mount mput  tags  refs
expired    ok2   auth1 ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2
401        auth1 auth1 ok1   auth1 auth1 auth1 auth1 auth1 auth1 auth1 auth1 no1   auth1 auth1 auth1
403        deny1 deny1 ok1   deny1 deny1 deny1 deny1 deny1 deny1 deny1 deny1 no1   deny1 deny1 deny1
404        none1 none1 ok1   none1 no1   none1 none1 ok2   none1 ok2   none1 no1   none1 none1 no1
429        ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2
429-in-1s  ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2
429-in-1h  away1 away1 away1 away1 away1 away1 away1 away1 away1 away1 away1 no1   away1 away1 away1
500        ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2
502        ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2
503        ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2
507        away1 away1 away1 away1 away1 away1 away1 away1 away1 away1 away1 no1   away1 away1 away1
html       ok1   bad1  ok1   bad1  no1   bad1  bad1  bad1  bad1  bad1  bad1  no1   bad1  bad1  bad1
headers    ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok1   ok2   ok2   ok2   ok2   ok2   ok2
short      ok1   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok1   ok2   ok2   ok2   ok2   ok2   ok2
silence    ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2
reset      ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2
kind       ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1
circle     ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2   ok2
inside     deny1 deny1 deny1 deny1 deny1 deny1 deny1 bad1  bad1  bad1  bad1  no1   bad1  deny1 deny1
";

/// Every time: nothing is tried for ever.
const ALWAYS: &str = "
fault      login token mhead mget  bhead bget  range start patch put   close mount mput  tags  refs
expired    auth2 auth1 ok2   auth2 auth2 auth2 auth2 auth2 auth3 auth3 auth3 no2   auth2 auth2 auth2
401        auth1 auth1 ok1   auth1 auth1 auth1 auth1 auth1 auth1 auth1 auth1 no1   auth1 auth1 auth1
403        deny1 deny1 ok1   deny1 deny1 deny1 deny1 deny1 deny1 deny1 deny1 no1   deny1 deny1 deny1
404        none1 none1 ok1   none1 no1   none1 none1 none2 none1 none2 none1 no1   none1 none1 no1
429        away4 away4 away4 away4 away4 away4 away4 away4 away3 away4 away4 no4   away4 away4 away4
429-in-1s  away4 away4 away4 away4 away4 away4 away4 away4 away3 away4 away4 no4   away4 away4 away4
429-in-1h  away1 away1 away1 away1 away1 away1 away1 away1 away1 away1 away1 no1   away1 away1 away1
500        away4 away4 away4 away4 away4 away4 away4 away4 away3 away4 away4 no4   away4 away4 away4
502        away4 away4 away4 away4 away4 away4 away4 away4 away3 away4 away4 no4   away4 away4 away4
503        away4 away4 away4 away4 away4 away4 away4 away4 away3 away4 away4 no4   away4 away4 away4
507        away1 away1 away1 away1 away1 away1 away1 away1 away1 away1 away1 no1   away1 away1 away1
html       ok1   bad1  ok1   bad1  no1   bad1  bad1  bad1  bad1  bad1  bad1  no1   bad1  bad1  bad1
headers    away4 away4 away4 away4 away4 away4 away4 away4 ok1   away4 away4 away4 away4 away4 away4
short      ok1   away4 away4 away4 away4 away4 away4 away4 ok1   away4 ok2   away4 away4 away4 away4
silence    away4 away4 away4 away4 away4 away4 away4 away4 away3 away4 away4 away4 away4 away4 away4
reset      away4 away4 away4 away4 away4 away4 away4 away4 away3 away4 away4 away4 away4 away4 away4
kind       ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1   ok1
circle     deny6 deny5 deny6 deny6 deny6 deny6 deny6 deny6 deny6 deny6 deny6 deny6 deny6 deny6 deny6
inside     deny1 deny1 deny1 deny1 deny1 deny1 deny1 bad1  bad1  bad1  bad1  no1   bad1  deny1 deny1
";

/// A registry with a token server, and someone who works with it.
struct Stage {
    registry: Fake,
    tokens: Fake,
    repository: Repository,
    settings: Settings,
    /// What is at the registry.
    there: Descriptor,
    /// What is not.
    new: Descriptor,
}

fn bytes(seed: u8) -> Bytes {
    (0..SIZE).map(|at| (at / 7) as u8 ^ seed).collect::<Vec<u8>>().into()
}

fn credentials() -> Credentials {
    Credentials::basic("user", PASSWORD)
}

impl Stage {
    async fn new() -> Self {
        let (registry, tokens) = (Fake::start().await, Fake::start().await);
        registry.guard(&format!("Bearer {TOKEN}"), &format!(r#"Bearer realm="{}""#, tokens.url("/token")));
        tokens.page("/token", &format!(r#"{{"token":"{TOKEN}"}}"#));
        registry.manifest("latest", MediaType::OCI_MANIFEST, IMAGE);
        registry.page("/v2/a/tags/list", r#"{"tags":["latest"]}"#);
        registry.page(&format!("/v2/a/referrers/{}", Digest::of(IMAGE)), INDEX);
        let there = registry.blob(bytes(1));
        let mut settings = Settings { roots: Vec::new(), ..settings() };
        settings.patience.connect = Duration::from_secs(3);
        settings.patience.commit = settings.patience.idle;
        settings.patience.document = Duration::from_secs(3);
        let repository = open(settings.clone(), &registry.name("a"), &credentials()).await;
        let new = Descriptor::of("application/octet-stream", &bytes(2));
        Self { registry, tokens, repository, settings, there, new }
    }

    async fn login(&self) -> Result<bool> {
        let client = Client::new(self.settings.clone());
        client.login(&self.registry.authority(), &credentials()).await.map(|_| true)
    }

    async fn resolve(&self) -> Result<bool> {
        self.repository.resolve(&Name::Tag("latest".to_owned())).await.map(|_| true)
    }

    async fn manifest(&self) -> Result<bool> {
        self.repository.manifest(&Name::Tag("latest".to_owned())).await.map(|_| true)
    }

    async fn look(&self) -> Result<bool> {
        self.repository.has_blob(&self.there).await
    }

    async fn fetch(&self, from: usize) -> Result<bool> {
        let (whole, mut hasher) = (bytes(1), Hasher::new());
        hasher.update(&whole[..from]);
        let resume = Resume { offset: from as u64, hasher };
        let mut stream = self.repository.blob(&self.there, resume)?;
        let mut got = whole[..from].to_vec();
        while let Some(chunk) = stream.chunk().await? {
            got.extend_from_slice(&chunk);
        }
        assert_eq!(got, whole, "other bytes came than are there");
        Ok(true)
    }

    async fn upload(&self) -> Result<bool> {
        let open =
            |offset: u64| -> Content { Box::pin(stream::iter([Ok(bytes(2).slice(offset as usize..))])) };
        self.repository.upload(&self.new, &open).await?;
        assert_eq!(
            self.registry.stored(&self.new.digest),
            Some(bytes(2)),
            "it was acknowledged and is not there"
        );
        Ok(true)
    }

    async fn put(&self) -> Result<bool> {
        let name = Name::Tag("v1".to_owned());
        self.repository.put_manifest(&name, MediaType::OCI_MANIFEST, IMAGE.as_bytes()).await?;
        assert!(self.registry.has_manifest("v1"), "it was acknowledged and is not there");
        Ok(true)
    }

    async fn referrers(&self) -> Result<bool> {
        self.repository.referrers(&Digest::of(IMAGE), None).await.map(|found| !found.is_empty())
    }
}

/// What is asked of whom, and what makes it be asked.
struct Step {
    name: &'static str,
    method: Method,
    /// What its target has in it.
    part: &'static str,
    /// What its error says is not possible.
    says: &'static str,
    run: fn(&Stage) -> BoxFuture<'_, Result<bool>>,
}

impl Step {
    fn is_of_tokens(&self) -> bool {
        self.name == "token"
    }

    fn server<'a>(&self, stage: &'a Stage) -> &'a Fake {
        if self.is_of_tokens() { &stage.tokens } else { &stage.registry }
    }

    /// How often it was asked for by someone who may.
    fn asked(&self, stage: &Stage) -> usize {
        let seen = self.server(stage).seen();
        let count = seen.iter().filter(|seen| {
            let may = self.is_of_tokens() || seen.header("authorization") == Some(&format!("Bearer {TOKEN}"));
            may && seen.method == self.method && seen.target.contains(self.part)
        });
        count.count() - usize::from(self.name == "close")
    }
}

fn steps() -> Vec<Step> {
    let step = |name, method, part, says, run| Step { name, method, part, says, run };
    vec![
        step("login", Method::GET, "/v2/", "use the login", |stage| stage.login().boxed()),
        step("token", Method::GET, "/token", "token", |stage| stage.manifest().boxed()),
        step("mhead", Method::HEAD, "manifests", "resolve latest", |stage| stage.resolve().boxed()),
        step("mget", Method::GET, "manifests", "fetch manifest latest", |stage| stage.manifest().boxed()),
        step("bhead", Method::HEAD, "blobs", "look for blob sha256:", |stage| stage.look().boxed()),
        step("bget", Method::GET, "blobs", "fetch blob sha256:", |stage| stage.fetch(0).boxed()),
        step("range", Method::GET, "blobs", "fetch blob sha256:", |stage| stage.fetch(1000).boxed()),
        step("start", Method::POST, "uploads", "upload blob sha256:", |stage| stage.upload().boxed()),
        step("patch", Method::PATCH, "uploads", "upload blob sha256:", |stage| stage.upload().boxed()),
        step("put", Method::PUT, "uploads", "upload blob sha256:", |stage| stage.upload().boxed()),
        step("close", Method::PUT, "uploads", "upload blob sha256:", |stage| stage.upload().boxed()),
        step("mount", Method::POST, "mount=", "mount blob sha256:", |stage| {
            stage.repository.mount(&stage.there.digest, "neighbour").boxed()
        }),
        step("mput", Method::PUT, "manifests", "put manifest v1", |stage| stage.put().boxed()),
        step("tags", Method::GET, "tags/list", "list the tags", |stage| {
            stage.repository.tags().map(|tags| tags.map(|_| true)).boxed()
        }),
        step("refs", Method::GET, "referrers", "list the referrers of sha256:", |stage| {
            stage.referrers().boxed()
        }),
    ]
}

fn faults() -> Vec<(&'static str, Fault)> {
    let says = format!(r#"{{"errors":[{{"code":"TESTED","message":"you sent {{shown}} and {PASSWORD}"}}]}}"#);
    let answer = |status, name: &'static str, value: &str| {
        Fault::Answer(status, vec![(name, value.to_owned())], says.clone())
    };
    let status = |status| answer(status, "x-nothing", "");
    let html = "<html>log in to the network of the hotel</html>".to_owned();
    vec![
        ("expired", Fault::Expired),
        ("401", status(401)),
        ("403", status(403)),
        ("404", status(404)),
        ("429", status(429)),
        ("429-in-1s", answer(429, "retry-after", "1")),
        ("429-in-1h", answer(429, "retry-after", "3600")),
        ("500", status(500)),
        ("502", status(502)),
        ("503", status(503)),
        ("507", status(507)),
        ("html", Fault::Answer(200, vec![("content-type", "text/html".to_owned())], html)),
        ("headers", Fault::Raw("HTTP/1.1 200 OK\r\nwhat is\0this\r\n\r\n")),
        ("short", Fault::Short),
        ("silence", Fault::Late(Duration::from_secs(3600))),
        ("reset", Fault::Drop),
        ("kind", Fault::Kind("text/html")),
        ("circle", answer(307, "location", "{target}")),
        ("inside", answer(307, "location", "http://169.254.169.254/latest")),
    ]
}

/// One cell of a table: `away4`.
async fn outcome(step: &Step, fault: &Fault, times: usize) -> String {
    let stage = Stage::new().await;
    // A registry that takes blobs in pieces only says so to the first that comes whole.
    let pieces = || stage.registry.answer(Method::PUT, "uploads", 1, 413, "");
    if step.name == "close" {
        pieces();
    }
    step.server(&stage).fault(step.method.clone(), step.part, times, fault.clone());
    if step.name == "patch" {
        pieces();
    }
    let word = match (step.run)(&stage).await {
        Ok(true) => "ok",
        Ok(false) => "no",
        Err(error) => {
            let text = chain(&error);
            assert!(text.contains(step.says), "{}: {text}", step.name);
            assert!(text.contains(&step.server(&stage).authority()), "{}: {text}", step.name);
            for secret in SECRETS {
                assert!(!text.contains(secret), "{}: {text}", step.name);
            }
            word(error.class())
        }
    };
    format!("{word}{}", step.asked(&stage))
}

fn word(class: Class) -> &'static str {
    match class {
        Class::Unauthenticated => "auth",
        Class::PermissionDenied => "deny",
        Class::NotFound => "none",
        Class::Unavailable => "away",
        Class::FailedPrecondition => "bad",
        Class::InvalidArgument => "inv",
        other => panic!("no class of a registry: {other:?}"),
    }
}

/// Fills in a table by trying, all cells at once.
async fn tried(times: usize) -> String {
    let (steps, faults) = (steps(), faults());
    let cells =
        faults.iter().flat_map(|(_, fault)| steps.iter().map(move |step| outcome(step, fault, times)));
    let cells: Vec<String> = stream::iter(cells).buffered(steps.len() * faults.len()).collect().await;
    let line = |name: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.map(|cell| format!("{cell:<5}")).collect();
        format!("{name:<10} {}", cells.join(" ")).trim_end().to_owned()
    };
    let mut lines = vec![line("fault", &mut steps.iter().map(|step| step.name))];
    for ((name, _), cells) in faults.iter().zip(cells.chunks(steps.len())) {
        lines.push(line(name, &mut cells.iter().map(String::as_str)));
    }
    lines.join("\n")
}

async fn check(times: usize, wanted: &str) {
    let begun = Instant::now();
    let found = tried(times).await;
    assert!(found == wanted.trim(), "another table than the one that is stated:\n{found}\n");
    // Waits are the shortest that the settings allow; nothing adds up beyond them.
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_fault_that_passes() {
    check(1, ONCE).await;
}

#[tokio::test]
async fn a_fault_that_stays() {
    check(usize::MAX, ALWAYS).await;
}
