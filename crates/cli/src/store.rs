//! Stored contexts, in the folders and the form of Docker's client, which uses the same ones.
//!
//! ```text
//! <config directory>/contexts/meta/<SHA-256 of the name>/meta.json     name, description, endpoints
//! <config directory>/contexts/tls/<SHA-256 of the name>/docker/{ca,cert,key}.pem
//! ```

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use yare_client::{Pem, Tls};
use yare_oci::Digest;

use crate::failure::Failure;
use crate::format::natural_order;
use crate::opts::env::open_error;
use crate::opts::quote;

/// The context that is always there and stored nowhere: flags, environment and defaults.
pub(crate) const DEFAULT_NAME: &str = "default";
/// The endpoint that is an engine.
const DOCKER: &str = "docker";

/// Contents of the files of an endpoint, by name.
pub(crate) type TlsFiles = BTreeMap<String, Vec<u8>>;

/// A stored context. Members and endpoints of others are kept as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Stored {
    /// Its name.
    pub name: String,
    /// The description, and what others note.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// Addresses, by kind of endpoint.
    #[serde(default)]
    pub endpoints: BTreeMap<String, Value>,
}

impl Stored {
    /// What the user says about it.
    pub(crate) fn description(&self) -> &str {
        self.metadata.get("Description").and_then(Value::as_str).unwrap_or_default()
    }

    /// Notes, or takes away, what the user says about it.
    pub(crate) fn describe(&mut self, description: &str) {
        match description {
            "" => drop(self.metadata.remove("Description")),
            _ => drop(self.metadata.insert("Description".to_owned(), description.into())),
        }
    }

    /// The engine's address.
    pub(crate) fn host(&self) -> &str {
        self.docker().and_then(|docker| docker.get("Host")?.as_str()).unwrap_or_default()
    }

    /// Whether any certificate of the engine will do.
    pub(crate) fn trusts_anybody(&self) -> bool {
        self.docker().is_some_and(|docker| docker.get("SkipTLSVerify") == Some(&Value::Bool(true)))
    }

    /// Notes the engine's address.
    pub(crate) fn lead_to(&mut self, host: &str, trusts_anybody: bool) {
        let endpoint = json!({ "Host": host, "SkipTLSVerify": trusts_anybody });
        self.endpoints.insert(DOCKER.to_owned(), endpoint);
    }

    fn docker(&self) -> Option<&Value> {
        self.endpoints.get(DOCKER)
    }
}

/// What an endpoint's files are good for.
pub(crate) fn tls_of(files: &TlsFiles, trusts_anybody: bool) -> Option<Tls> {
    let pem = |name: &str| files.get(name).map(|text| Pem { name: name.to_owned(), text: text.clone() });
    (trusts_anybody || !files.is_empty()).then(|| Tls {
        authority: pem("ca.pem"),
        certificate: pem("cert.pem"),
        key: pem("key.pem"),
        trusts_anybody,
    })
}

/// The folder of all contexts.
#[derive(Debug)]
pub(crate) struct Store(PathBuf);

impl Store {
    /// The one in this configuration directory.
    pub(crate) fn of(config_directory: &Path) -> Self {
        Self(config_directory.join("contexts"))
    }

    /// The folder of what is no secret of a context.
    pub(crate) fn meta_folder(&self, name: &str) -> PathBuf {
        self.0.join("meta").join(folder(name))
    }

    /// The folder of a context's certificates and keys.
    pub(crate) fn tls_folder(&self, name: &str) -> PathBuf {
        self.0.join("tls").join(folder(name))
    }

    /// All contexts, by name. What cannot be read is none.
    pub(crate) fn list(&self) -> Vec<Stored> {
        let Ok(entries) = fs::read_dir(self.0.join("meta")) else { return Vec::new() };
        let mut contexts: Vec<Stored> = entries
            .flatten()
            .filter_map(|entry| fs::read(entry.path().join("meta.json")).ok())
            .filter_map(|bytes| serde_json::from_slice(&bytes).ok())
            .collect();
        contexts.sort_by(|a, b| natural_order(&a.name, &b.name));
        contexts
    }

    /// Whether there is one of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.meta_folder(name).join("meta.json").exists()
    }

    /// The context of this name.
    pub(crate) fn get(&self, name: &str) -> Result<Stored, Failure> {
        let path = self.meta_folder(name).join("meta.json");
        let failed = |why: String| Failure::new(format!("context {}: {why}", quote(name)));
        let text = fs::read(&path).map_err(|error| {
            let missing = if error.kind() == io::ErrorKind::NotFound { "context not found: " } else { "" };
            failed(format!("{missing}{}", open_error(&path.display().to_string(), &error)))
        })?;
        serde_json::from_slice(&text).map_err(|error| failed(format!("parsing {}: {error}", path.display())))
    }

    /// The files of a context's engine.
    pub(crate) fn tls_files(&self, name: &str) -> Result<TlsFiles, Failure> {
        let folder = self.tls_folder(name).join(DOCKER);
        let failed =
            |path: &Path, error: &io::Error| Failure::new(open_error(&path.display().to_string(), error));
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(TlsFiles::new()),
            Err(error) => return Err(failed(&folder, &error)),
        };
        let mut files = TlsFiles::new();
        for entry in entries {
            let path = entry.map_err(|error| failed(&folder, &error))?.path();
            let text = fs::read(&path).map_err(|error| failed(&path, &error))?;
            files.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned(), text);
        }
        Ok(files)
    }

    /// What it takes to speak TLS with a context's engine.
    pub(crate) fn tls(&self, context: &Stored) -> Result<Option<Tls>, Failure> {
        Ok(tls_of(&self.tls_files(&context.name)?, context.trusts_anybody()))
    }

    /// Writes a context and the files of its engine in place of what there was. The secrets come first: a
    /// context is there when its `meta.json` is.
    pub(crate) fn put(&self, context: &Stored, files: &TlsFiles) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            let tls = self.tls_folder(&context.name);
            remove(&tls.join(DOCKER))?;
            if !files.is_empty() {
                let folder = tls.join(DOCKER);
                DirBuilder::new().recursive(true).mode(0o755).create(&self.0)?;
                DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
                for (name, text) in files {
                    write_new(&folder.join(name), text, 0o600)?;
                }
            }
            let meta = self.meta_folder(&context.name);
            DirBuilder::new().recursive(true).mode(0o755).create(&meta)?;
            let draft = meta.join(format!(".meta.json-{}", std::process::id()));
            remove(&draft)?;
            write_new(&draft, &serde_json::to_vec(context)?, 0o644)?;
            fs::rename(&draft, meta.join("meta.json"))
        };
        write().map_err(|error| {
            Failure::new(format!(
                "cannot write context {} in {}: {error}",
                quote(&context.name),
                self.0.display()
            ))
        })
    }

    /// Removes a context and its files.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Failure> {
        let failed =
            |error: io::Error| Failure::new(format!("failed to remove context {}: {error}", quote(name)));
        remove(&self.meta_folder(name)).and_then(|()| remove(&self.tls_folder(name))).map_err(failed)
    }
}

/// The name of a context's folders.
fn folder(name: &str) -> String {
    Digest::of(name).hex()
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file that must not be there.
pub(crate) fn write_new(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    io::Write::write_all(&mut file, text)
}
