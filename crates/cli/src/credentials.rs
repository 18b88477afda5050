//! Credentials of registries: in Docker's configuration file, or with the helper that it names.
//!
//! A helper is a program `docker-credential-NAME` on the search path. It is called with one word (`get`,
//! `store`, `erase`), reads the registry, or for `store` a JSON document, from its standard input, and for
//! `get` prints a JSON document (docker-credential-helpers). `credHelpers` names one per registry,
//! `credsStore` one for all others. A user name of `<token>` says that the secret is an identity token.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use yare_api::AuthConfig;

use crate::config::Config;
use crate::failure::Failure;

/// The user name under which helpers keep identity tokens.
const TOKEN: &str = "<token>";
/// The largest answer of a helper, in bytes.
const LARGEST: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(rename = "ServerURL", default)]
    server: String,
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

impl Config {
    /// The helper that keeps the credentials of a registry.
    fn helper(&self, registry: &str) -> Option<Helper<'_>> {
        let own = self.cred_helpers.get(registry).filter(|name| !name.is_empty());
        let name = own.or(Some(&self.creds_store).filter(|name| !name.is_empty()))?;
        Some(Helper { name })
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

    /// Keeps the credentials of a login. Says where, when that is a file that anyone could read who gets it.
    ///
    /// # Errors
    /// When the helper does not work, or the file cannot be written.
    pub(crate) fn remember(&self, registry: &str, auth: &AuthConfig) -> Result<Option<String>, Failure> {
        let failed = |why: String| Failure::new(format!("error saving credentials: {why}"));
        if let Some(helper) = self.helper(registry) {
            helper.store(registry, auth).map_err(|failure| failed(failure.text))?;
            // Docker lists the registries it knows in the file, without secrets.
            let entry = serde_json::json!({});
            self.store(registry, Some(entry)).map_err(|error| failed(error.to_string()))?;
            return Ok(None);
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
        self.store(registry, Some(entry)).map_err(|error| failed(error.to_string()))?;
        Ok(Some(self.path().display().to_string()))
    }

    /// Forgets the credentials of a registry.
    ///
    /// # Errors
    /// When the helper does not work, or the file cannot be written.
    pub(crate) fn forget(&self, registry: &str) -> Result<(), Failure> {
        if let Some(helper) = self.helper(registry) {
            helper.call("erase", registry.as_bytes())?;
        }
        if self.auths.contains_key(registry) {
            self.store(registry, None)
                .map_err(|error| Failure::new(format!("could not erase credentials: {error}")))?;
        }
        Ok(())
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
}

impl Helper<'_> {
    fn get(&self, registry: &str) -> Result<Option<Kept>, Failure> {
        let answer = match self.call("get", registry.as_bytes()) {
            Ok(answer) => answer,
            // The one failure that is none; helpers of all makers have this text.
            Err(failure) if failure.text.contains("credentials not found") => return Ok(None),
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
        let document = serde_json::to_vec(&kept).map_err(|error| self.failed(&error.to_string()))?;
        self.call("store", &document).map(drop)
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
        let mut child = Command::new(format!("docker-credential-{}", self.name))
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io)?;
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
