//! Credentials at rest, encrypted: where they are when no other credential helper is configured.
//!
//! # On disk, version 1
//!
//! ```text
//! $XDG_DATA_HOME/yare/credentials.json    0600, beneath ~/.local/share when not set
//!   {"version": 1, "entries": {"<registry>": {"nonce": "<base64>", "sealed": "<base64>"}}}
//! $XDG_STATE_HOME/yare/credentials.key    0600, beneath ~/.local/state when not set: 32 random bytes
//! ```
//!
//! `sealed` is a helper's JSON document (user name and secret) in AES-256-GCM under the key, with a nonce of
//! its own and [`CONTEXT`] and the registry as associated data: an entry cannot be passed off as another
//! registry's. The key is apart from Docker's folder and from the secrets, so that neither a copy of one
//! folder nor a mount of it into a container has both. The key file is locked while anything changes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use yare_sys::fs::Durability;

use crate::context::Environment;
use crate::credentials::Kept;
use crate::failure::Failure;

const VERSION: u32 = 1;
/// The beginning of the associated data.
const CONTEXT: &str = "yare credentials 1\0";
/// Bytes of the key.
const KEY: usize = 32;
/// The largest file of secrets, in bytes.
const LARGEST: u64 = 16 << 20;

/// Encrypted credentials of one user.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vault {
    sealed: PathBuf,
    key: PathBuf,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    version: u32,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    nonce: String,
    sealed: String,
}

impl Vault {
    /// The one of the user that the environment tells of.
    pub(crate) fn of(environment: &Environment) -> Self {
        let home = PathBuf::from(environment.nonempty("HOME").unwrap_or_else(|| "/".to_owned()));
        let folder = |variable: &str, default: &str| {
            let named = environment.nonempty(variable).map(PathBuf::from).filter(|path| path.is_absolute());
            named.unwrap_or_else(|| home.join(default)).join("yare")
        };
        Self {
            sealed: folder("XDG_DATA_HOME", ".local/share").join("credentials.json"),
            key: folder("XDG_STATE_HOME", ".local/state").join("credentials.key"),
        }
    }

    /// The credentials of a registry.
    ///
    /// # Errors
    /// When the files cannot be read, others may read the key, or the key is not the one that sealed them.
    pub(crate) fn get(&self, registry: &str) -> Result<Option<Kept>, Failure> {
        let document = self.read()?;
        let Some(entry) = document.entries.get(registry) else { return Ok(None) };
        self.open(&self.key()?, registry, entry).map(Some)
    }

    /// Registries and user names.
    ///
    /// # Errors
    /// As [`Vault::get`].
    pub(crate) fn list(&self) -> Result<BTreeMap<String, String>, Failure> {
        let document = self.read()?;
        if document.entries.is_empty() {
            return Ok(BTreeMap::new());
        }
        let key = self.key()?;
        let opened = document.entries.iter();
        opened
            .map(|(registry, entry)| Ok((registry.clone(), self.open(&key, registry, entry)?.username)))
            .collect()
    }

    /// Keeps credentials, in place of those of the same registry.
    ///
    /// # Errors
    /// When the files cannot be written, or others may read the key.
    pub(crate) fn store(&self, kept: &Kept) -> Result<(), Failure> {
        let key = self.key()?;
        let mut document = self.read()?;
        document.version = VERSION;
        document.entries.insert(kept.server.clone(), self.seal(&key, kept)?);
        self.write(&document)
    }

    /// Forgets the credentials of a registry.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(crate) fn erase(&self, registry: &str) -> Result<(), Failure> {
        if !self.read()?.entries.contains_key(registry) {
            return Ok(());
        }
        let _key = self.key()?;
        let mut document = self.read()?;
        document.entries.remove(registry);
        self.write(&document)
    }

    fn seal(&self, key: &Key, kept: &Kept) -> Result<Entry, Failure> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| self.failed("the kernel gives no random numbers"))?;
        let mut text = serde_json::to_vec(kept).map_err(|error| self.failed(&error.to_string()))?;
        key.cipher
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), about(&kept.server), &mut text)
            .map_err(|_| self.failed("they cannot be encrypted"))?;
        Ok(Entry { nonce: BASE64.encode(nonce), sealed: BASE64.encode(text) })
    }

    fn open(&self, key: &Key, registry: &str, entry: &Entry) -> Result<Kept, Failure> {
        let opened = || {
            let nonce = BASE64.decode(&entry.nonce).ok()?;
            let nonce = Nonce::try_assume_unique_for_key(&nonce).ok()?;
            let mut sealed = BASE64.decode(&entry.sealed).ok()?;
            let text = key.cipher.open_in_place(nonce, about(registry), &mut sealed).ok()?;
            serde_json::from_slice(text).ok()
        };
        opened().ok_or_else(|| {
            self.failed(&format!("those of {registry} do not open with the key {}", self.key.display()))
                .with_hint(format!("log in again: yare login {registry}"))
        })
    }

    /// The key, made when there is none; its file stays locked as long as the key lives.
    fn key(&self) -> Result<Key, Failure> {
        let failed = |error: std::io::Error| self.failed(&format!("{}: {error}", self.key.display()));
        make_folder(&self.key).map_err(failed)?;
        let mut options = File::options();
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC).bits();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags.cast_signed());
        let mut file = options.open(&self.key).map_err(failed)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
            let why = format!("others may read the key {}", self.key.display());
            return Err(self.failed(&why).with_hint(format!("chmod 600 {}", self.key.display())));
        }
        let mut bytes = Vec::new();
        (&file).take(KEY as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.is_empty() {
            bytes = vec![0; KEY];
            SystemRandom::new()
                .fill(&mut bytes)
                .map_err(|_| self.failed("the kernel gives no random numbers"))?;
            file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        let key = UnboundKey::new(&AES_256_GCM, &bytes)
            .map_err(|_| self.failed(&format!("{} has not {KEY} bytes", self.key.display())))?;
        Ok(Key { cipher: LessSafeKey::new(key), _locked: file })
    }

    fn read(&self) -> Result<Document, Failure> {
        let file = match File::open(&self.sealed) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Document::default()),
            Err(error) => return Err(self.failed(&error.to_string())),
        };
        let mut text = Vec::new();
        file.take(LARGEST).read_to_end(&mut text).map_err(|error| self.failed(&error.to_string()))?;
        let document: Document = serde_json::from_slice(&text)
            .map_err(|error| self.failed(&format!("not understood: {error}")))?;
        match document.version {
            VERSION => Ok(document),
            other => Err(self.failed(&format!("version {other} is not known; a newer yare wrote them"))),
        }
    }

    fn write(&self, document: &Document) -> Result<(), Failure> {
        let failed = |error: std::io::Error| self.failed(&error.to_string());
        make_folder(&self.sealed).map_err(failed)?;
        let folder = self.sealed.parent().unwrap_or_else(|| Path::new("/"));
        let text = serde_json::to_vec(document).map_err(std::io::Error::from).map_err(failed)?;
        yare_sys::fs::atomic_write(folder, "credentials.json", &text, Durability::Synced).map_err(failed)
    }

    fn failed(&self, why: &str) -> Failure {
        Failure::new(format!("encrypted credentials {}: {why}", self.sealed.display()))
    }
}

/// The key, and the lock that goes with it.
struct Key {
    cipher: LessSafeKey,
    _locked: File,
}

fn about(registry: &str) -> Aad<Vec<u8>> {
    Aad::from([CONTEXT.as_bytes(), registry.as_bytes()].concat())
}

fn make_folder(file: &Path) -> std::io::Result<()> {
    let Some(folder) = file.parent() else { return Ok(()) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn vault(home: &Path) -> Vault {
        let home = home.to_owned();
        Vault::of(&Environment::new(move |name| (name == "HOME").then(|| home.clone().into())))
    }

    fn kept(server: &str, secret: &str) -> Kept {
        Kept { server: server.to_owned(), username: "alice".to_owned(), secret: secret.to_owned() }
    }

    #[test]
    fn secrets_come_back_and_are_not_in_the_files() {
        let home = tempfile::tempdir().unwrap();
        let vault = vault(home.path());
        assert!(vault.get("a.example").unwrap().is_none());
        assert!(!vault.key.exists(), "nothing is made by looking");
        vault.store(&kept("a.example", "hunter2")).unwrap();
        vault.store(&kept("b.example", "hunter3")).unwrap();
        assert_eq!(vault.get("a.example").unwrap().unwrap().secret, "hunter2");
        assert_eq!(vault.list().unwrap().into_iter().collect::<Vec<_>>().len(), 2);
        let text = std::fs::read_to_string(&vault.sealed).unwrap();
        assert!(!text.contains("hunter") && !text.contains(&BASE64.encode("alice:hunter2")));
        for file in [&vault.sealed, &vault.key] {
            assert_eq!(std::fs::metadata(file).unwrap().mode() & 0o777, 0o600, "{}", file.display());
        }
        vault.erase("a.example").unwrap();
        assert!(vault.get("a.example").unwrap().is_none());
        assert_eq!(vault.get("b.example").unwrap().unwrap().secret, "hunter3");
    }

    #[test]
    fn entries_are_bound_to_their_registry_and_key() {
        let home = tempfile::tempdir().unwrap();
        let vault = vault(home.path());
        vault.store(&kept("a.example", "one")).unwrap();
        vault.store(&kept("b.example", "two")).unwrap();
        let mut document = vault.read().unwrap();
        let stolen = document.entries.remove("a.example").unwrap();
        document.entries.insert("b.example".to_owned(), stolen);
        vault.write(&document).unwrap();
        assert!(vault.get("b.example").err().unwrap().text.contains("do not open"));
        // A new key does not open old entries; a new login mends that.
        std::fs::remove_file(&vault.key).unwrap();
        assert!(vault.get("b.example").is_err());
        vault.store(&kept("b.example", "three")).unwrap();
        assert_eq!(vault.get("b.example").unwrap().unwrap().secret, "three");
    }

    #[test]
    fn a_key_that_others_may_read_is_not_used() {
        let home = tempfile::tempdir().unwrap();
        let vault = vault(home.path());
        vault.store(&kept("a.example", "one")).unwrap();
        std::fs::set_permissions(&vault.key, std::fs::Permissions::from_mode(0o640)).unwrap();
        let failure = vault.get("a.example").err().unwrap();
        assert!(failure.text.contains("others may read") && failure.hint.is_some());
    }

    #[test]
    fn parallel_logins_lose_nothing() {
        let home = tempfile::tempdir().unwrap();
        let vault = vault(home.path());
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let vault = vault.clone();
                std::thread::spawn(move || vault.store(&kept(&format!("r{number}.example"), "x")).unwrap())
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(vault.list().unwrap().len(), 8);
    }
}
