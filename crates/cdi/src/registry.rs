//! The devices of all files, and which of two with one name counts.

use crate::edits;
use crate::spec::{ContainerEdits, Device, Spec};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use yare_errdefs::{Error, Result};
use yare_oci::runtime;

/// The largest file that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// Everything that some folders describe, as it was when they were read.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    files: Vec<File>,
    /// Places of devices, the file's and the one in it, by qualified name.
    devices: BTreeMap<String, (usize, usize)>,
    faults: BTreeMap<PathBuf, Vec<String>>,
    has_folders: bool,
}

/// A file without fault.
#[derive(Debug, Clone)]
struct File {
    path: PathBuf,
    /// Place of its folder; the highest wins.
    priority: usize,
    spec: Spec,
}

impl Registry {
    /// Reads the `.json` and `.yaml` files of folders; those of a later folder win over those of an earlier one.
    ///
    /// A folder that is not there is empty. Two devices of one name in the same folder are in conflict, and
    /// neither is there.
    pub fn read(folders: &[PathBuf]) -> Self {
        let mut registry = Self { has_folders: !folders.is_empty(), ..Self::default() };
        for (priority, folder) in folders.iter().enumerate() {
            for path in files(folder, &mut registry.faults) {
                match load(&path) {
                    Ok(spec) => registry.files.push(File { path, priority, spec }),
                    Err(error) => registry.fault(&path, format!("failed to load CDI Spec {error}")),
                }
            }
        }
        registry.index();
        registry
    }

    fn index(&mut self) {
        let mut conflicts = BTreeSet::new();
        let mut faults = Vec::new();
        for (place, file) in self.files.iter().enumerate() {
            for (index, device) in file.spec.devices.iter().enumerate() {
                let name = format!("{}={}", file.spec.kind, device.name);
                if let Some((other, _)) = self.devices.get(&name) {
                    let other = &self.files[*other];
                    if other.priority == file.priority {
                        let (path, earlier) = (&file.path, &other.path);
                        let text = format!("conflicting device {name:?} (specs {path:?}, {earlier:?})");
                        faults.extend([(path.clone(), text.clone()), (earlier.clone(), text)]);
                        conflicts.insert(name);
                        continue;
                    }
                    conflicts.remove(&name);
                }
                self.devices.insert(name, (place, index));
            }
        }
        self.devices.retain(|name, _| !conflicts.contains(name));
        faults.into_iter().for_each(|(path, text)| self.fault(&path, text));
    }

    fn fault(&mut self, path: &Path, text: String) {
        self.faults.entry(path.to_owned()).or_default().push(text);
    }

    /// Qualified names of the devices, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.keys().map(String::as_str)
    }

    /// Whether there is a device of this kind, `vendor/class`.
    pub fn has_kind(&self, kind: &str) -> bool {
        self.files.iter().any(|file| file.spec.kind == kind)
    }

    /// What is wrong with files and folders, by path.
    pub fn faults(&self) -> &BTreeMap<PathBuf, Vec<String>> {
        &self.faults
    }

    /// Annotations of a device: its file's, and over them its own.
    pub fn annotations(&self, name: &str) -> BTreeMap<String, String> {
        let Some((file, device)) = self.device(name) else { return BTreeMap::new() };
        let mut all = file.spec.annotations.clone();
        all.extend(device.annotations.clone());
        all
    }

    fn device(&self, name: &str) -> Option<(&File, &Device)> {
        let (file, device) = self.devices.get(name)?;
        let file = &self.files[*file];
        Some((file, &file.spec.devices[*device]))
    }

    /// Edits a runtime spec so that its container has these devices.
    ///
    /// # Errors
    /// One of them is not there, its node is not on this host, or it asks for what cannot be given here.
    pub fn inject(&self, names: &[String], spec: &mut runtime::Spec) -> Result<()> {
        if !self.has_folders {
            return Err(Error::invalid("no CDI specification directories specified"));
        }
        let missing: Vec<&str> =
            names.iter().map(String::as_str).filter(|name| self.device(name).is_none()).collect();
        if !missing.is_empty() {
            return Err(self.unresolvable(&missing));
        }
        edits::apply(&self.edits(names), spec).map_err(|error| Error::wrap("failed to inject devices", error))
    }

    /// Where in a container something is mounted for these devices.
    pub fn mount_points(&self, names: &[String]) -> Vec<String> {
        let mounts = self.edits(names).into_iter().flat_map(|edits| &edits.mounts);
        mounts.map(|mount| mount.container_path.clone()).collect()
    }

    /// The edits of these devices, those of a file before those of its first device.
    fn edits(&self, names: &[String]) -> Vec<&ContainerEdits> {
        let mut seen = BTreeSet::new();
        let mut edits = Vec::new();
        for (file, device) in names.iter().filter_map(|name| self.device(name)) {
            if seen.insert(&file.path) {
                edits.push(&file.spec.container_edits);
            }
            edits.push(&device.container_edits);
        }
        edits
    }

    fn unresolvable(&self, names: &[&str]) -> Error {
        let error = Error::not_found(format!("unresolvable CDI devices {}", names.join(", ")));
        match self.faults.iter().next() {
            Some((path, faults)) => error.with_hint(format!("{}: {}", path.display(), faults.join("; "))),
            None => error,
        }
    }
}

/// Spec files of a folder by name, those of folders in it not.
fn files(folder: &Path, faults: &mut BTreeMap<PathBuf, Vec<String>>) -> Vec<PathBuf> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            faults.entry(folder.to_owned()).or_default().push(format!("cannot read the folder: {error}"));
            return Vec::new();
        }
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let is_spec = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "json" || extension == "yaml") && !path.is_dir()
    };
    let mut paths: Vec<PathBuf> = paths.filter(is_spec).collect();
    paths.sort();
    paths
}

fn load(path: &Path) -> Result<Spec, String> {
    let unread = |error: std::io::Error| format!("failed to read CDI Spec {path:?}: {error}");
    // What is no file is not waited for.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let file =
        rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|error| unread(error.into()))?;
    let mut text = String::new();
    std::fs::File::from(file).take(LONGEST + 1).read_to_string(&mut text).map_err(unread)?;
    if text.len() as u64 > LONGEST {
        return Err(format!("failed to read CDI Spec {path:?}: it is larger than {LONGEST} bytes"));
    }
    let spec = Spec::parse(&text).map_err(|error| format!("failed to parse CDI Spec {path:?}: {error}"))?;
    spec.check().map_err(|error| format!("invalid CDI Spec: {error}"))?;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, env: &str) -> String {
        format!("{{name: {name}, containerEdits: {{env: [{env}]}}}}")
    }

    fn file(kind: &str, devices: &[String]) -> String {
        format!("cdiVersion: 0.6.0\nkind: {kind}\ndevices: [{}]\n", devices.join(", "))
    }

    /// Folders with these files, the first with the lowest priority.
    fn registry(folders: &[&[(&str, String)]]) -> (tempfile::TempDir, Registry) {
        let root = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for (place, files) in folders.iter().enumerate() {
            let folder = root.path().join(place.to_string());
            std::fs::create_dir(&folder).unwrap();
            for (name, text) in *files {
                std::fs::write(folder.join(name), text).unwrap();
            }
            paths.push(folder);
        }
        let registry = Registry::read(&paths);
        (root, registry)
    }

    fn env(registry: &Registry, names: &[&str]) -> Result<Vec<String>> {
        let process = Some(runtime::Process::default());
        let mut spec = runtime::Spec { process, ..runtime::Spec::default() };
        registry.inject(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &mut spec)?;
        Ok(spec.process.unwrap().env)
    }

    #[test]
    fn a_later_folder_wins() {
        let low = file("v.com/c", &[device("a", "X=low"), device("b", "Y=low")]);
        let high = file("v.com/c", &[device("a", "X=high")]);
        let (_root, registry) = registry(&[&[("x.yaml", low)], &[("y.json", high)]]);
        assert_eq!(registry.names().collect::<Vec<_>>(), ["v.com/c=a", "v.com/c=b"]);
        assert_eq!(env(&registry, &["v.com/c=a", "v.com/c=b"]).unwrap(), ["X=high", "Y=low"]);
        assert!(registry.faults().is_empty());
    }

    #[test]
    fn equals_are_in_conflict_until_a_later_folder_decides() {
        let one = file("v.com/c", &[device("a", "X=1"), device("b", "Y=1")]);
        let two = file("v.com/c", &[device("a", "X=2")]);
        let pair = [("x.yaml", one), ("y.yaml", two)];
        let (_root, torn) = registry(&[&pair]);
        assert_eq!(torn.names().collect::<Vec<_>>(), ["v.com/c=b"]);
        assert_eq!(torn.faults().len(), 2);
        let error = env(&torn, &["v.com/c=a", "v.com/c=b", "v.com/c=z"]).unwrap_err();
        assert_eq!(error.to_string(), "unresolvable CDI devices v.com/c=a, v.com/c=z");
        let decided = file("v.com/c", &[device("a", "X=3")]);
        let (_root, settled) = registry(&[&pair, &[("z.yaml", decided)]]);
        assert_eq!(env(&settled, &["v.com/c=a"]).unwrap(), ["X=3"]);
    }

    #[test]
    fn one_bad_file_hides_nothing_else() {
        let good = file("v.com/c", &[device("a", "X=1")]);
        let (root, registry) = registry(&[&[
            ("good.yaml", good),
            ("bad.json", "{".to_owned()),
            ("notes.txt", "no spec".to_owned()),
        ]]);
        assert_eq!(registry.names().collect::<Vec<_>>(), ["v.com/c=a"]);
        let bad = &registry.faults()[&root.path().join("0/bad.json")];
        assert!(bad[0].contains("failed to parse CDI Spec"), "{bad:?}");
        assert!(registry.has_kind("v.com/c") && !registry.has_kind("v.com"));
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x.json");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let registry = Registry::read(&[root.path().to_owned(), root.path().join("missing")]);
        assert_eq!(registry.faults().keys().collect::<Vec<_>>(), [&path]);
    }

    #[test]
    fn annotations_of_the_device_lie_over_those_of_its_file() {
        let text = "cdiVersion: 0.6.0\nkind: v.com/c\nannotations: {a: file, b: file}\ndevices: [{name: d, annotations: {b: device}, containerEdits: {env: [A=1]}}]\n";
        let (_root, registry) = registry(&[&[("x.yaml", text.to_owned())]]);
        let found = registry.annotations("v.com/c=d");
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("a".to_owned(), "file".to_owned()), ("b".to_owned(), "device".to_owned())]
        );
        assert!(registry.annotations("v.com/c=none").is_empty());
    }

    #[test]
    fn without_folders_there_is_no_cdi() {
        let error = env(&Registry::read(&[]), &["v.com/c=a"]).unwrap_err();
        assert_eq!(error.to_string(), "no CDI specification directories specified");
    }
}
