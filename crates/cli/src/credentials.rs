//! Credentials of registries: in Docker's configuration file, or with the helper that it names.
//!
//! A helper is a program `docker-credential-NAME` on the search path. It is called with one word (`get`,
//! `store`, `erase`), reads the registry, or for `store` a JSON document, from its standard input, and for
//! `get` prints a JSON document (docker-credential-helpers). `credHelpers` names one per registry,
//! `credsStore` one for all others. A user name of `<token>` says that the secret is an identity token.
//!
//! The helper `yare` is this program itself: it is not started but asked directly (`vault`). Others start it
//! as `docker-credential-yare` ([`serve`]).

use std::io::{Read, Write};
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

impl Config {
    /// The helper that keeps the credentials of a registry.
    fn helper(&self, registry: &str) -> Option<Helper<'_>> {
        let own = self.cred_helpers.get(registry).filter(|name| !name.is_empty());
        let name = own.or(Some(&self.creds_store).filter(|name| !name.is_empty()))?;
        Some(Helper { name, vault: &self.vault })
    }

    /// What to show to a registry; nothing when nobody logged in there.
    ///
    /// # Errors
    /// When the helper does not work.
    pub(crate) fn credentials(&self, registry: &str) -> Result<Option<AuthConfig>, Failure> {
        match self.helper(registry) {
            Some(helper) => Ok(helper.get(registry)?.map(|kept| kept.into_auth(registry))),
            None => Ok(self.auths.get(registry).and_then(|auth| auth.decode(registry))),
        }
    }

    /// Keeps the credentials of a login, encrypted where no helper is configured, and says where.
    ///
    /// # Errors
    /// When the helper does not work, or the file cannot be written.
    pub(crate) fn remember(&self, registry: &str, auth: &AuthConfig) -> Result<Place, Failure> {
        let failed = |why: String| Failure::new(format!("error saving credentials: {why}"));
        let plain = self.why_plain();
        let helper = self.helper(registry);
        let ours = (helper.is_none() && plain.is_none()).then_some(OURS);
        if let Some(helper) = helper.or(ours.map(|name| Helper { name, vault: &self.vault })) {
            helper.store(registry, auth).map_err(|failure| failed(failure.text))?;
            // Docker lists the registries it knows in the file, without secrets.
            let entry = serde_json::json!({});
            self.store(registry, Some(entry), ours).map_err(|error| failed(error.to_string()))?;
            return Ok(Place::Helper);
        }
        let pair = format!("{}:{}", auth.username, auth.password);
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        let entry = match auth.identitytoken.is_empty() {
            true => serde_json::json!({ "auth": encoded }),
            // The token is all that is needed from now on; the password is not kept.
            false => {
                let name = base64::engine::general_purpose::STANDARD.encode(format!("{}:", auth.username));
                serde_json::json!({ "auth": name, "identitytoken": auth.identitytoken })
            }
        };
        self.store(registry, Some(entry), None).map_err(|error| failed(error.to_string()))?;
        Ok(Place::Plain { file: self.path().display().to_string(), why: plain.flatten() })
    }

    /// Forgets the credentials of a registry.
    ///
    /// # Errors
    /// When the helper does not work, or the file cannot be written.
    pub(crate) fn forget(&self, registry: &str) -> Result<(), Failure> {
        if let Some(helper) = self.helper(registry) {
            helper.erase(registry)?;
        }
        if self.auths.contains_key(registry)
            || self.cred_helpers.get(registry).is_some_and(|name| name == OURS)
        {
            self.store(registry, None, None)
                .map_err(|error| Failure::new(format!("could not erase credentials: {error}")))?;
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
        self.auths.contains_key(registry) || self.helper(registry).is_some()
    }
}

impl crate::config::Auth {
    fn decode(&self, registry: &str) -> Option<AuthConfig> {
        let decoded = base64::engine::general_purpose::STANDARD.decode(&self.auth).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (username, password) = text.split_once(':').unwrap_or((&text, ""));
        Some(AuthConfig {
            username: username.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
            identitytoken: self.identitytoken.clone(),
            serveraddress: registry.to_owned(),
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
    vault: &'a Vault,
}

impl Helper<'_> {
    fn get(&self, registry: &str) -> Result<Option<Kept>, Failure> {
        if self.name == OURS {
            return self.vault.get(registry);
        }
        let answer = match self.call("get", registry.as_bytes()) {
            Ok(answer) => answer,
            // The one failure that is none; helpers of all makers have this text.
            Err(failure) if failure.text.contains(NOT_FOUND) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let kept = serde_json::from_slice(&answer);
        kept.map(Some).map_err(|_| self.failed("its answer is no credentials"))
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
        let document = serde_json::to_vec(&kept).map_err(|error| self.failed(&error.to_string()))?;
        self.call("store", &document).map(drop)
    }

    fn erase(&self, registry: &str) -> Result<(), Failure> {
        if self.name == OURS {
            return self.vault.erase(registry);
        }
        self.call("erase", registry.as_bytes()).map(drop)
    }

    fn failed(&self, why: &str) -> Failure {
        Failure::new(format!("docker-credential-{}: {why}", self.name))
    }

    /// Runs the helper; its answer. A name with a slash would be a path of somebody else's choosing.
    fn call(&self, action: &str, input: &[u8]) -> Result<Vec<u8>, Failure> {
        if self.name.contains('/') {
            return Err(self.failed("the name of a credential helper has no slash"));
        }
        let io = |error: std::io::Error| self.failed(&error.to_string());
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
        if child.wait().map_err(io)?.success() {
            return Ok(answer);
        }
        Err(self.failed(String::from_utf8_lossy(&answer).trim()))
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
