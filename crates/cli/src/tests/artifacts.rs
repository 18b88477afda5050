//! Artifacts between two users and our registry.

use std::path::Path;
use std::sync::Arc;

use yare_registry::Registry;

use super::{leaked, parse, with_streams};
use crate::context::Environment;
use crate::session::Stdio;

/// A registry that serves until it is dropped.
pub(super) struct Served {
    pub(super) address: String,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    pub(super) fn new(root: &Path) -> Self {
        let mut config = yare_registry::Config::parse("").unwrap();
        config.root = root.to_owned();
        config.limits.reserve = 0;
        let listener = yare_registry::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            let registry: Arc<Registry> = Registry::open(config).unwrap();
            let ended = async {
                let _ = stopped.await;
            };
            runtime.block_on(yare_registry::serve(registry, vec![listener], ended)).unwrap();
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

/// A user with a home and what his commands print.
pub(super) struct User(tempfile::TempDir);

impl User {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn home(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn run(&self, line: &str) -> Result<String, String> {
        let output = self.home().join("output");
        let null = || leaked(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap());
        let file = leaked(std::fs::File::create(&output).unwrap());
        let mut cx = with_streams(Stdio { input: null(), output: file, errors: null() });
        let home = self.home().to_owned();
        cx.environment = Environment::new(move |name| (name == "HOME").then(|| home.clone().into()));
        cx.cwd = self.home().to_string_lossy().into_owned();
        let (command, given) = parse(&mut cx, line)?;
        crate::start(&cx, command, &given).map_err(|failure| failure.text)?;
        cx.flush().unwrap();
        Ok(std::fs::read_to_string(output).unwrap())
    }
}

#[test]
fn an_artifact_travels_from_one_user_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::new(&folder.path().join("registry"));
    let (alice, bob) = (User::new(), User::new());
    std::fs::write(alice.home().join("model.bin"), vec![7; 600_000]).unwrap();
    std::fs::write(alice.home().join("readme.md"), "read me").unwrap();
    let name = format!("{}/team/model:v1", served.address);
    let line = format!("artifact add --type application/x.model --annotation a=b {name} model.bin readme.md");
    let digest = alice.run(&line).unwrap();
    assert!(digest.starts_with("sha256:"));
    let listed = alice.run("artifact ls").unwrap();
    assert!(listed.contains("application/x.model") && listed.contains("600kB"), "{listed}");
    assert!(
        alice.run(&format!("artifact push {name}")).unwrap().ends_with(&format!("3 blobs sent\n{digest}"))
    );
    assert!(alice.run(&format!("artifact push {name}")).unwrap().contains(": 0 blobs sent\n"));

    assert_eq!(bob.run(&format!("artifact pull {name}")).unwrap(), digest);
    let inspected = bob.run(&format!("artifact inspect {name}")).unwrap();
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected[0]["Digest"], digest.trim());
    assert_eq!(inspected[0]["Manifest"]["annotations"]["a"], "b");
    bob.run(&format!("artifact extract {name}")).unwrap();
    assert_eq!(std::fs::read(bob.home().join("model.bin")).unwrap(), vec![7; 600_000]);
    assert_eq!(std::fs::read_to_string(bob.home().join("readme.md")).unwrap(), "read me");
    let again = bob.run(&format!("artifact extract {name}")).unwrap_err();
    assert!(again.contains("exists"), "{again}");

    assert_eq!(bob.run(&format!("artifact rm {name}")).unwrap(), digest);
    assert!(bob.run(&format!("artifact inspect {name}")).unwrap_err().contains("no such artifact"));
    let blobs = bob.home().join(".local/share/yare/artifacts/blobs/sha256");
    assert_eq!(std::fs::read_dir(blobs).unwrap().count(), 0);
    assert!(bob.run(&format!("artifact pull {}/team/none", served.address)).is_err());
}
