//! What the engine asks registries beside pull and push: logins, searches, what a name stands for.

use super::parse;
use crate::Engine;
use std::sync::Arc;
use yare_api::AuthConfig;
use yare_distribution::{Credentials, Hit, Intent, Name, Secret, Told};
use yare_errdefs::{Class, Classified, Error, Result};
use yare_oci::{Descriptor, Index, MediaType, Platform, Reference};

/// What a registry said to a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    /// To be kept in place of the password; empty when the registry gives none.
    pub identity: String,
}

/// What a name stands for, and the platforms it is there for.
#[derive(Debug, Clone)]
pub struct Distribution {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// Its platforms.
    pub platforms: Vec<Platform>,
}

/// What a client handed over, in the client's words.
pub(crate) fn credentials(auth: &AuthConfig) -> Credentials {
    if !auth.registrytoken.is_empty() {
        return Credentials::Token(Secret::new(auth.registrytoken.clone()));
    }
    if !auth.identitytoken.is_empty() {
        return Credentials::Identity(Secret::new(auth.identitytoken.clone()));
    }
    if !auth.username.is_empty() {
        return Credentials::basic(auth.username.clone(), auth.password.clone());
    }
    // The form of the configuration file: user and password as one base64 text.
    use base64::Engine as _;
    let pair = base64::engine::general_purpose::STANDARD.decode(&auth.auth).ok();
    let pair = pair.and_then(|bytes| String::from_utf8(bytes).ok());
    match pair.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((username, password)) => Credentials::basic(username, password.trim_end_matches('\0')),
        None => Credentials::Anonymous,
    }
}

/// An error of a registry in the words that Docker's clients know, where there are such.
pub(crate) fn failed(reference: &Reference, error: yare_distribution::Error) -> Error {
    let told = error.told().first().cloned();
    let name = reference.clone().or_latest();
    match (error.class(), told) {
        (Class::NotFound, Some(told)) if told.code == "MANIFEST_UNKNOWN" => {
            let message = &told.message;
            Error::not_found(format!(
                "manifest for {} not found: manifest unknown: {message}",
                name.familiar()
            ))
        }
        (Class::NotFound, Some(told)) if told.code == "NAME_UNKNOWN" => {
            Error::not_found(format!("repository {} not found: {}", name.familiar_name(), told.message))
        }
        (Class::Unauthenticated | Class::PermissionDenied, Some(told)) if told.code == "DENIED" => {
            Error::not_found(format!(
                "pull access denied for {}, repository does not exist or may require 'docker login': {}",
                name.familiar_name(),
                denied(&told)
            ))
        }
        // As 401 it would make docker's command line ask for a password, and hang where nobody types one.
        (Class::Unauthenticated, _) => {
            let hint = error.hint().unwrap_or_default();
            Error::denied(error.to_string()).with_hint(hint)
        }
        _ => Error::wrap(error.to_string(), error),
    }
}

/// The same for what was to be pushed: who may not is told so in the registry's words alone.
pub(crate) fn not_pushed(reference: &Reference, error: yare_distribution::Error) -> Error {
    match (error.class(), error.told().first()) {
        (Class::Unauthenticated | Class::PermissionDenied, Some(told)) if told.code == "DENIED" => {
            Error::denied(denied(told))
        }
        _ => failed(reference, error),
    }
}

/// `DENIED` as Docker prints it: with what the code means where the registry does not say more.
fn denied(told: &Told) -> String {
    let message = match told.message.as_str() {
        "" => "requested access to the resource is denied",
        message => message,
    };
    format!("denied: {message}")
}

/// The registry of a server address as clients write it: `https://index.docker.io/v1/`, `host:5000`.
pub(crate) fn domain(server: &str) -> String {
    let bare = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    let host = bare.split('/').next().unwrap_or_default();
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" => yare_oci::reference::DEFAULT_DOMAIN.to_owned(),
        host => host.to_owned(),
    }
}

/// Asks a registry whether it takes these credentials.
pub async fn login(engine: &Arc<Engine>, auth: &AuthConfig) -> Result<LoggedIn> {
    let domain = domain(&auth.serveraddress);
    // It is a host in a reference: its grammar keeps paths and worse away.
    Reference::parse(&format!("{domain}/x"))
        .map_err(|_| Error::invalid(format!("{:?} is no registry", auth.serveraddress)))?;
    let login = engine.transfers.client.login(&domain, &credentials(auth)).await;
    let login = login.map_err(|error| {
        let text = format!("login attempt to {domain} failed: {error}");
        Error::new(error.class(), text)
    })?;
    let identity = login.identity.map(|secret| secret.expose().to_owned()).unwrap_or_default();
    Ok(LoggedIn { identity })
}

/// Repositories that have to do with a term; `host/term` asks another registry than Docker Hub.
pub async fn search(engine: &Arc<Engine>, term: &str, limit: usize, auth: &AuthConfig) -> Result<Vec<Hit>> {
    let (domain, term) = match term.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => (yare_oci::reference::DEFAULT_DOMAIN, term),
    };
    let found = engine.transfers.client.search(domain, term, limit, &credentials(auth)).await;
    let mut found = found.map_err(|error| Error::wrap(error.to_string(), error))?;
    if domain != yare_oci::reference::DEFAULT_DOMAIN {
        // As it must be typed to pull it.
        found.iter_mut().for_each(|hit| hit.name = format!("{domain}/{}", hit.name));
    }
    Ok(found)
}

/// What a name stands for at its registry.
pub async fn inspect(engine: &Arc<Engine>, name: &str, auth: &AuthConfig) -> Result<Distribution> {
    let reference = parse(name)?.or_latest();
    let failed = |error| failed(&reference, error);
    let client = &engine.transfers.client;
    let repository = client.repository(&reference, &credentials(auth), Intent::Pull).await.map_err(failed)?;
    let wanted = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => Name::from(digest),
        (None, tag) => Name::Tag(tag.unwrap_or("latest").to_owned()),
    };
    let document = repository.manifest(&wanted).await.map_err(failed)?;
    let platforms = if MediaType::is_index(&document.descriptor.media_type) {
        let index: Index = serde_json::from_slice(&document.bytes)
            .map_err(|error| Error::precondition("the index cannot be read").caused_by(error))?;
        index.manifests.into_iter().filter_map(|entry| entry.platform).collect()
    } else {
        image_platform(&repository, &document.bytes).await.map_err(failed)?.into_iter().collect()
    };
    Ok(Distribution { descriptor: document.descriptor, platforms })
}

/// The platform of a single image: its config says it.
async fn image_platform(
    repository: &yare_distribution::Repository,
    manifest: &[u8],
) -> yare_distribution::Result<Option<Platform>> {
    const LARGEST: u64 = 8 << 20;
    let Ok(manifest) = serde_json::from_slice::<yare_oci::Manifest>(manifest) else { return Ok(None) };
    if manifest.config.size > LARGEST {
        return Ok(None);
    }
    let mut stream = repository.blob(&manifest.config, yare_distribution::Resume::default())?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        bytes.extend_from_slice(&chunk);
    }
    let config: Option<yare_oci::ImageConfig> = serde_json::from_slice(&bytes).ok();
    Ok(config.map(|config| config.platform()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_addresses_are_registries() {
        for (server, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("http://reg.example/v2/", "reg.example"),
        ] {
            assert_eq!(domain(server), registry, "{server}");
        }
    }

    #[test]
    fn a_denial_is_told_in_dockers_words() {
        let told = |message: &str| Told { code: "DENIED".to_owned(), message: message.to_owned() };
        assert_eq!(denied(&told("")), "denied: requested access to the resource is denied");
        assert_eq!(denied(&told("read only")), "denied: read only");
    }

    #[test]
    fn credentials_of_every_form() {
        let auth = |auth: &str| AuthConfig { auth: auth.to_owned(), ..AuthConfig::default() };
        assert_eq!(credentials(&auth("dTpwOnE=")), Credentials::basic("u", "p:q"));
        assert_eq!(credentials(&auth("%%")), Credentials::Anonymous);
        let token = AuthConfig { identitytoken: "t".into(), username: "u".into(), ..AuthConfig::default() };
        assert_eq!(credentials(&token), Credentials::Identity(Secret::new("t")));
    }
}
