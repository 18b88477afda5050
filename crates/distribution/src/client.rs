//! The client: settings and connections that all operations share.

use crate::credentials::{Credentials, Secret};
use crate::error::Asked;
use crate::listing;
use crate::refusal::legible;
use crate::repository::{Intent, Repository};
use crate::session::{Call, Session};
use crate::settings::Settings;
use crate::wire::Wire;
use crate::{Error, Result};
use http::Method;
use serde::Deserialize;
use std::fmt;
use std::sync::Arc;
use yare_oci::Reference;
use yare_oci::reference::DEFAULT_DOMAIN;

/// Where Docker Hub's search is; it is not part of the registry protocol.
const HUB_SEARCH: &str = "index.docker.io";

/// The largest answer to a search, in bytes.
const LARGEST_SEARCH: usize = 4 << 20;

/// A registry client. Cheap to clone; its connections are shared.
#[derive(Clone)]
pub struct Client(Arc<Wire>);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// What a registry said to a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// What to show at the next login in place of the password.
    pub identity: Option<Secret>,
}

/// A hit of a search.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Hit {
    /// The repository.
    #[serde(default)]
    pub name: String,
    /// What it is about.
    #[serde(default)]
    pub description: String,
    /// How many like it.
    #[serde(default)]
    pub star_count: i64,
    /// Whether it is curated by the registry.
    #[serde(default)]
    pub is_official: bool,
    /// Whether it is built by the registry.
    #[serde(default)]
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct Hits {
    #[serde(default)]
    results: Vec<Hit>,
}

impl Client {
    /// A client with these settings. Nothing is asked yet.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Wire::new(settings)))
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// A repository, for one operation of one caller.
    ///
    /// # Errors
    /// When the configuration of its registry is wrong.
    pub async fn repository(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        intent: Intent,
    ) -> Result<Repository> {
        Repository::open(&self.0, reference, credentials, intent).await
    }

    fn origin(&self, domain: &str, credentials: &Credentials) -> Result<Session> {
        let endpoints = self.0.settings.endpoints(domain)?;
        let origin = endpoints.into_iter().rfind(|endpoint| endpoint.is_origin);
        let origin =
            origin.ok_or_else(|| Error::Settings { what: format!("there is no endpoint for {domain}") })?;
        Session::new(Arc::clone(&self.0), origin, (domain, ""), credentials)
    }

    /// Whether a registry takes these credentials.
    ///
    /// # Errors
    /// Class unauthenticated when it does not; of the registry, when it cannot be reached.
    pub async fn login(&self, domain: &str, credentials: &Credentials) -> Result<Login> {
        let asked = Asked::new("use the login", domain);
        let session = self.origin(domain, credentials)?;
        session.keep_identity().await;
        // Docker asks for `/v2/`; the empty path below the base is just that.
        let call = Call::new(&asked, Method::GET, "", &[200]);
        session.send(&call).await?.drain(&asked).await;
        let (identity, _) = session.identity().await;
        Ok(Login { identity })
    }

    /// Gets an address that is no registry's: a file for a build.
    ///
    /// # Errors
    /// The server cannot be reached, or leads somewhere it must not.
    pub async fn download(&self, url: &str, headers: &[(http::HeaderName, String)]) -> Result<crate::Page> {
        crate::web::get(&self.0, url, headers).await
    }

    /// All repositories of a registry that the caller may see.
    ///
    /// # Errors
    /// Of the registry, when it does not tell.
    pub async fn catalog(&self, domain: &str, credentials: &Credentials) -> Result<Vec<String>> {
        let asked = Asked::new("list the repositories", domain);
        listing::catalog(&self.origin(domain, credentials)?, &asked).await
    }

    /// Repositories that have to do with a term: by Docker Hub's search, elsewhere by the old search of the
    /// registry, and where there is none, by name from its catalog.
    ///
    /// # Errors
    /// Of the registry, when it does not tell.
    pub async fn search(
        &self,
        domain: &str,
        term: &str,
        limit: usize,
        credentials: &Credentials,
    ) -> Result<Vec<Hit>> {
        let asked = Asked::new(format!("search for {term:?}"), domain);
        let is_hub = domain == DEFAULT_DOMAIN;
        let mut session = self.origin(if is_hub { HUB_SEARCH } else { domain }, credentials)?;
        session.endpoint.base = "/v1".to_owned();
        let path = format!("search?q={}&n={limit}", crate::address::encode(term));
        let call = Call::new(&asked, Method::GET, path, &[200]);
        match session.document(&call, LARGEST_SEARCH).await {
            Ok(answer) => {
                let hits: Hits = serde_json::from_slice(&answer.body).map_err(|error| {
                    let why = legible(&error.to_string());
                    Error::content(&asked, format!("the answer is no list of hits: {why}"))
                })?;
                Ok(hits.results.into_iter().take(limit).collect())
            }
            Err(error) if is_hub || error.status() != Some(http::StatusCode::NOT_FOUND) => Err(error),
            Err(_) => {
                let all = self.catalog(domain, credentials).await?;
                let named = all.into_iter().filter(|name| name.contains(term)).take(limit);
                Ok(named.map(|name| Hit { name, ..Hit::default() }).collect())
            }
        }
    }
}
