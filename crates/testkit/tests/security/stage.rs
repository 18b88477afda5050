//! What every row needs: an engine, a canary outside of every container, images that mean harm, and a probe.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tar::{Archive, Builder, EntryType, Header};
use tempfile::TempDir;
use yare_testkit::{Engine, Invocation, Outcome, busybox_rootfs_tar};

/// An engine and the things around it.
pub(crate) struct Stage {
    pub(crate) engine: Engine,
    canary: TempDir,
    before: BTreeMap<PathBuf, Trace>,
}

/// What shows that a file was touched.
type Trace = (u32, u64, i64, i64, Vec<u8>);

/// One entry of an image above busybox's.
pub(crate) enum Entry {
    Link(&'static str, String),
    Folder(&'static str),
    File(&'static str, &'static str),
}

impl Stage {
    /// An engine with busybox, and a canary.
    pub(crate) fn new() -> Self {
        let engine = Engine::start();
        engine.load_busybox();
        let canary = tempfile::Builder::new().prefix("yare-canary-").tempdir().unwrap();
        fs::set_permissions(canary.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(canary.path().join("CANARY"), "sings\n").unwrap();
        fs::create_dir(canary.path().join("folder")).unwrap();
        let before = traces(canary.path());
        Self { engine, canary, before }
    }

    /// The folder that nothing from a container may see or change.
    pub(crate) fn canary(&self) -> &Path {
        self.canary.path()
    }

    /// Asserts that the canary is as it was.
    pub(crate) fn assert_canary_sings(&self, when: &str) {
        assert_eq!(traces(self.canary()), self.before, "{when}: the canary was touched");
    }

    /// Checks the canary and that the engine leaves nothing.
    pub(crate) fn finish(self) {
        self.assert_canary_sings("at the end");
        self.engine.finish();
    }

    /// Runs `yare run --rm` with these flags and the probe at `/probe`.
    pub(crate) fn run(&self, flags: &[&str], image_and_command: &[&str]) -> Outcome {
        let probe = format!("{}:/probe:ro", probe().display());
        let head = ["run", "--rm", "-v", &probe];
        self.engine.yare(&[head.as_slice(), flags, image_and_command].concat()).run()
    }

    /// What a container from busybox says with these flags; it must succeed.
    pub(crate) fn says(&self, flags: &[&str], command: &[&str]) -> String {
        let outcome = self.run(flags, &[&["busybox"], command].concat());
        assert_eq!(outcome.code, 0, "{flags:?} {command:?}: {outcome:?}");
        outcome.stdout.trim_end().to_owned()
    }

    /// Starts a container in the background, with the probe.
    pub(crate) fn start(&self, flags: &[&str], image_and_command: &[&str]) -> String {
        let probe = format!("{}:/probe:ro", probe().display());
        let head = ["run", "-d", "-v", &probe];
        self.engine.yare(&[head.as_slice(), flags, image_and_command].concat()).ok().trim().to_owned()
    }

    pub(crate) fn exec(&self, flags: &[&str], id: &str, command: &[&str]) -> Outcome {
        self.engine.yare(&[["exec"].as_slice(), flags, &[id], command].concat()).run()
    }

    /// Imports an image: busybox without what is at or beneath `without`, and with `entries`.
    pub(crate) fn image(&self, name: &str, without: &[&str], entries: &[Entry]) {
        let tar = altered_busybox(without, entries);
        self.engine.yare(&["import", "--change", "CMD [\"sh\"]", "-", name]).input(tar).ok();
    }
}

fn traces(folder: &Path) -> BTreeMap<PathBuf, Trace> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let metadata = entry.path().symlink_metadata().unwrap();
            let content = if metadata.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
            let trace = (metadata.mode(), metadata.nlink(), metadata.mtime(), metadata.ctime_nsec(), content);
            found.insert(entry.path(), trace);
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found
}

fn altered_busybox(without: &[&str], entries: &[Entry]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for entry in Archive::new(busybox_rootfs_tar()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        if without.iter().any(|gone| path.starts_with(gone)) {
            continue;
        }
        let mut header = entry.header().clone();
        match entry.link_name().unwrap() {
            Some(target) => tar.append_link(&mut header, &path, target).unwrap(),
            None => tar.append_data(&mut header, &path, &mut entry).unwrap(),
        }
    }
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_mode(0o755);
        header.set_size(0);
        match entry {
            Entry::Link(path, target) => {
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, path, target).unwrap();
            }
            Entry::Folder(path) => {
                header.set_entry_type(EntryType::Directory);
                tar.append_data(&mut header, path, std::io::empty()).unwrap();
            }
            Entry::File(path, content) => {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, content.as_bytes()).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

/// The probe, compiled once for a run of these tests.
pub(crate) fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        // Beside this test, where the build may write; it stays for the next run.
        let probe = std::env::current_exe().unwrap().with_file_name("yare-security-probe");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/security/probe.c");
        let fresh = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
        if fresh(&probe) < fresh(&source) || fresh(&probe).is_none() {
            let made = probe.with_extension(std::process::id().to_string());
            let paths = [made.to_str().unwrap(), source.to_str().unwrap()];
            Invocation::new("gcc", &["-static", "-O1", "-Wall", "-o", paths[0], paths[1]]).ok();
            fs::rename(&made, &probe).unwrap();
        }
        probe
    })
}
