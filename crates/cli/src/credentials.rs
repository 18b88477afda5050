//! Credentials of registries: in Docker's configuration file, or with the helper that it names.
//!
//! A helper is a program `docker-credential-NAME` on the search path. It is called with one word (`get`,
//! `store`, `erase`), reads the registry, or for `store` a JSON document, from its standard input, and for
//! `get` prints a JSON document (docker-credential-helpers). `credHelpers` names one per registry,
//! `credsStore` one for all others. A user name of `<token>` says that the secret is an identity token.
//!
//! The helper `yare` is this program itself: it is not started but asked directly (`vault`). Others start it
//! as `docker-credential-yare` ([`serve`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use yare_api::AuthConfig;

use crate::config::Config;
use crate::context::Environment;
use crate::failure::Failure;
use crate::vault::Vault;

/// The user name under which helpers keep identity tokens.
const TOKEN: &str = "<token>";
/// The helper that is this program.
const OURS: &str = "yare";
/// How every helper's answer begins that knows nothing of a registry.
const NOT_FOUND: &str = "credentials not found";
/// The largest answer of a helper, in bytes.
const LARGEST: u64 = 1 << 20;

/// What helpers are given and give.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The registry.
    #[serde(rename = "ServerURL", default)]
    pub server: String,
    /// The user, or [`TOKEN`].
    #[serde(rename = "Username", default)]
    pub username: String,
    /// Password or token.
    #[serde(rename = "Secret", default)]
    pub secret: String,
}

/// Where the credentials of a login went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// To a helper.
    Helper,
    /// Into this file, readable for everyone who gets it, perhaps for a reason that can be mended.
    Plain { file: String, why: Option<&'static str> },
}

/// The name under which files and helpers keep the credentials of Docker Hub.
const HUB: &str = "https://index.docker.io/v1/";

/// The name under which the credentials of a registry are kept, however it was written: a host of a
/// reference, an argument of `login`, or what old versions of Docker wrote (`https://host/v1/`).
pub(crate) fn key(registry: &str) -> String {
    let bare = registry.split_once("://").map_or(registry, |(_, bare)| bare);
    let host = bare.split('/').next().unwrap_or_default();
    match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    }
}

/// What a map has for a key: under the key itself, or under an old form of it.
fn of_key<'a, V>(entries: &'a BTreeMap<String, V>, wanted: &str) -> Option<&'a V> {
    let old = || entries.iter().find(|(name, _)| key(name) == wanted).map(|(_, value)| value);
    entries.get(wanted).or_else(old)
}

impl Config {
    /// The helper that keeps the credentials of a registry. An empty name for a registry means the file, also
    /// where there is a helper for all others.
    fn helper(&self, key: &str) -> Option<Helper<'_>> {
        let (name, member) = match of_key(&self.cred_helpers, key) {
            Some(own) => (own, "credHelpers"),
            None => (&self.creds_store, "credsStore"),
        };
        (!name.is_empty()).then_some(Helper { name, member, file: self.path(), vault: &self.vault })
    }

    /// What to show to a registry; nothing when nobody logged in there.
    ///
    /// # Errors
    /// When the helper does not work, or the entry of the file is none.
    pub(crate) fn credentials(&self, registry: &str) -> Result<Option<AuthConfig>, Failure> {
        let key = key(registry);
        if let Some(helper) = self.helper(&key) {
            return Ok(helper.get(&key)?.map(|kept| kept.into_auth(&key)));
        }
        // A login with a helper left an empty entry, which hides no older one.
        let full = self.auths.get(&key).filter(|auth| !auth.is_empty());
        let found = full.or_else(|| {
            let named = self.auths.iter().filter(|(name, _)| crate::credentials::key(name) == key);
            named.map(|(_, auth)| auth).find(|auth| !auth.is_empty())
        });
        let wrong = |why| Failure::new(format!("{}: auths: {key}: {why}", self.path().display()));
        found.map(|auth| auth.decode(&key)).transpose().map_err(wrong)
    }

    /// The credentials of every registry that anything is known of, as Docker's client sends them with a
    /// build: those of the file or of the helper for all, over them those of single registries' helpers. A
    /// helper that fails must not end a build that may not need it; why it failed is told.
    pub(crate) fn all_credentials(&self) -> (BTreeMap<String, AuthConfig>, Vec<Failure>) {
        let mut failures = Vec::new();
        let mut keys: BTreeSet<String> =
            self.auths.keys().chain(self.cred_helpers.keys()).map(|name| key(name)).collect();
        if !self.creds_store.is_empty() {
            let helper = Helper {
                name: &self.creds_store,
                member: "credsStore",
                file: self.path(),
                vault: &self.vault,
            };
            match helper.list() {
                Ok(known) => keys.extend(known.into_keys().map(|name| key(&name))),
                Err(failure) => failures.push(failure),
            }
        }
        let mut all = BTreeMap::new();
        for key in keys {
            match self.credentials(&key) {
                Ok(Some(auth)) => drop(all.insert(key, auth)),
                Ok(None) => {}
                Err(failure) => failures.push(failure),
            }
        }
        (all, failures)
    }

    /// Keeps the credentials of a login, encrypted where no helper is configured, and says where.
    ///
    /// # Errors
    /// When the helper does not work, or the file cannot be written.
    pub(crate) fn remember(&self, registry: &str, auth: &AuthConfig) -> Result<Place, Failure> {
        // Before a helper has something that no file tells of.
        self.intact()?;
        let key = key(registry);
        let failed = |why: String| Failure::new(format!("error saving credentials: {why}"));
        let plain = self.why_plain();
        let helper = self.helper(&key);
        let by_file = of_key(&self.cred_helpers, &key).is_some();
        let ours = (helper.is_none() && plain.is_none() && !by_file).then_some(OURS);
        let own = ours.map(|name| Helper { name, member: "", file: self.path(), vault: &self.vault });
        if let Some(helper) = helper.or(own) {
            helper.store(&key, auth).map_err(|failure| failed(failure.text))?;
            // Docker lists the registries it knows in the file, without secrets.
            self.put(&key, serde_json::json!({}), ours).map_err(failed)?;
            return Ok(Place::Helper);
        }
        self.put(&key, entry(auth), None).map_err(failed)?;
        Ok(Place::Plain { file: self.path().display().to_string(), why: plain.flatten() })
    }

    /// Forgets the credentials of a registry, under every name that they may have.
    ///
    /// # Errors
    /// When the helper does not work, or the file cannot be written.
    pub(crate) fn forget(&self, registry: &str) -> Result<(), Failure> {
        self.intact()?;
        let wanted = key(registry);
        if let Some(helper) = self.helper(&wanted) {
            helper.erase(&wanted)?;
        }
        let ours = of_key(&self.cred_helpers, &wanted).is_some_and(|name| name == OURS);
        if ours || of_key(&self.auths, &wanted).is_some() {
            self.drop_keys(|name| key(name) == wanted, OURS)
                .map_err(|why| Failure::new(format!("could not erase credentials: {why}")))?;
        }
        Ok(())
    }

    /// Why credentials are not encrypted where no helper is configured, if they are not; with a text when
    /// that can be mended. Docker's own command line must be able to read what this one writes.
    fn why_plain(&self) -> Option<Option<&'static str>> {
        if self.plugins.yare.credentials == "plain" {
            return Some(None);
        }
        let is_docker_here = self.programs.docker && !self.programs.helper;
        is_docker_here.then_some(Some(
            "They would be encrypted if docker could start docker-credential-yare: make a link of that name \
             to yare on the search path and log in again.",
        ))
    }

    /// Whether there may be credentials of a registry.
    pub(crate) fn knows(&self, registry: &str) -> bool {
        let key = key(registry);
        of_key(&self.auths, &key).is_some() || self.helper(&key).is_some()
    }
}

/// What the file keeps of a login.
fn entry(auth: &AuthConfig) -> serde_json::Value {
    let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    match auth.identitytoken.as_str() {
        "" => serde_json::json!({ "auth": encode(format!("{}:{}", auth.username, auth.password)) }),
        // The token is all that is needed from now on; the password is not kept.
        token => {
            serde_json::json!({ "auth": encode(format!("{}:", auth.username)), "identitytoken": token })
        }
    }
}

impl crate::config::Auth {
    fn is_empty(&self) -> bool {
        [&self.auth, &self.username, &self.password, &self.identitytoken, &self.registrytoken]
            .iter()
            .all(|member| member.is_empty())
    }

    fn decode(&self, key: &str) -> Result<AuthConfig, &'static str> {
        let (username, password) = match self.auth.as_str() {
            "" => (self.username.clone(), self.password.clone()),
            auth => {
                let decoded = base64::engine::general_purpose::STANDARD.decode(auth);
                let text = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let text = text.ok_or("auth is no base64")?;
                let (user, password) = text.split_once(':').ok_or("auth is no base64 of user:password")?;
                (user.to_owned(), password.trim_end_matches('\0').to_owned())
            }
        };
        Ok(AuthConfig {
            username,
            password,
            identitytoken: self.identitytoken.clone(),
            registrytoken: self.registrytoken.clone(),
            serveraddress: key.to_owned(),
            ..AuthConfig::default()
        })
    }
}

impl Kept {
    fn into_auth(self, registry: &str) -> AuthConfig {
        let serveraddress = registry.to_owned();
        match self.username.as_str() {
            TOKEN => AuthConfig { identitytoken: self.secret, serveraddress, ..AuthConfig::default() },
            _ => AuthConfig {
                username: self.username,
                password: self.secret,
                serveraddress,
                ..AuthConfig::default()
            },
        }
    }
}

struct Helper<'a> {
    name: &'a str,
    /// The member of the file that names it.
    member: &'static str,
    file: &'a Path,
    vault: &'a Vault,
}

impl Helper<'_> {
    fn get(&self, registry: &str) -> Result<Option<Kept>, Failure> {
        if self.name == OURS {
            return self.vault.get(registry);
        }
        let Some(answer) = self.call("get", registry.as_bytes())? else { return Ok(None) };
        let kept = serde_json::from_slice(&answer);
        kept.map(Some).map_err(|_| self.failed("get", "its answer is no credentials"))
    }

    /// Registries and user names.
    fn list(&self) -> Result<BTreeMap<String, String>, Failure> {
        if self.name == OURS {
            return self.vault.list();
        }
        let Some(answer) = self.call("list", &[])? else { return Ok(BTreeMap::new()) };
        serde_json::from_slice(&answer)
            .map_err(|_| self.failed("list", "its answer is no list of registries"))
    }

    fn store(&self, registry: &str, auth: &AuthConfig) -> Result<(), Failure> {
        let (username, secret) = match auth.identitytoken.as_str() {
            "" => (auth.username.clone(), auth.password.clone()),
            token => (TOKEN.to_owned(), token.to_owned()),
        };
        let kept = Kept { server: registry.to_owned(), username, secret };
        if self.name == OURS {
            return self.vault.store(&kept);
        }
        let document = serde_json::to_vec(&kept).map_err(|error| self.failed("store", &error.to_string()))?;
        self.call("store", &document).map(drop)
    }

    fn erase(&self, registry: &str) -> Result<(), Failure> {
        if self.name == OURS {
            return self.vault.erase(registry);
        }
        self.call("erase", registry.as_bytes()).map(drop)
    }

    fn failed(&self, action: &str, why: &str) -> Failure {
        Failure::new(format!("docker-credential-{} {action}: {why}", self.name)).with_hint(format!(
            "{} in {} names this credential helper",
            self.member,
            self.file.display()
        ))
    }

    /// Runs the helper; its answer, or `None` when it knows nothing of the registry. A name with a slash would
    /// be a path of somebody else's choosing.
    fn call(&self, action: &str, input: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        if self.name.contains('/') {
            return Err(self.failed(action, "the name of a credential helper has no slash"));
        }
        let io = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => self.failed(action, "no such program on the search path"),
            _ => self.failed(action, &error.to_string()),
        };
        let mut command = Command::new(format!("docker-credential-{}", self.name));
        command.arg(action).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = yare_sys::signal::unblocked(&mut command).spawn().map_err(io)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read its input says itself what is wrong.
            let _ = stdin.write_all(input);
        }
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(LARGEST).read_to_end(&mut answer).map_err(io)?;
        }
        let status = child.wait().map_err(io)?;
        if status.success() {
            return Ok(Some(answer));
        }
        let text = String::from_utf8_lossy(&answer);
        match text.trim() {
            // The one failure that is none; helpers of all makers have this text.
            text if text.contains(NOT_FOUND) => Ok(None),
            "" => Err(self.failed(action, &format!("it failed without a word ({status})"))),
            text => Err(self.failed(action, text)),
        }
    }
}

/// The program `docker-credential-yare`: answers one request, as helpers do, and returns the exit code. What
/// went wrong is printed to standard output, where callers look for it.
pub fn serve(
    action: &str,
    environment: &Environment,
    input: &mut dyn std::io::Read,
    output: &mut dyn Write,
) -> i32 {
    let outcome = answer(action, &Vault::of(environment), input);
    let (text, code) = match outcome {
        Ok(text) => (text, 0),
        Err(failure) => (format!("{}\n", failure.text), 1),
    };
    // A caller that does not read the answer has no use for it.
    let _ = output.write_all(text.as_bytes());
    code
}

fn answer(action: &str, vault: &Vault, input: &mut dyn std::io::Read) -> Result<String, Failure> {
    let mut read = || {
        let mut text = String::new();
        let read = input.take(LARGEST).read_to_string(&mut text);
        read.map_err(|error| Failure::new(format!("cannot read the request: {error}")))?;
        Ok::<_, Failure>(text.trim().to_owned())
    };
    let json = |value: Result<String, serde_json::Error>| {
        value.map_err(|error| Failure::new(format!("cannot write the answer: {error}")))
    };
    match action {
        "get" => {
            let registry = read()?;
            let missing = || Failure::new(format!("{NOT_FOUND} in native keychain"));
            json(serde_json::to_string(&vault.get(&registry)?.ok_or_else(missing)?))
        }
        "store" => {
            let kept: Kept = serde_json::from_str(&read()?)
                .map_err(|error| Failure::new(format!("the request is no credentials: {error}")))?;
            if kept.server.is_empty() || kept.username.is_empty() {
                return Err(Failure::new("no credentials server URL or username"));
            }
            vault.store(&kept).map(|()| String::new())
        }
        "erase" => vault.erase(&read()?).map(|()| String::new()),
        "list" => json(serde_json::to_string(&vault.list()?)),
        "version" => Ok(format!("docker-credential-yare {}\n", env!("CARGO_PKG_VERSION"))),
        other => {
            Err(Failure::new(format!("unknown action {other:?}: want get, store, erase, list or version")))
        }
    }
}
