//! One repository of one registry, as one caller sees it.

use crate::credentials::Credentials;
use crate::error::Asked;
use crate::manifest::Name;
use crate::session::Session;
use crate::settings::Endpoint;
use crate::wire::Wire;
use crate::{Error, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use yare_oci::Reference;

/// What the caller is going to do; one token serves it all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Read.
    Pull,
    /// Read and write.
    Push,
    /// Read, write and delete.
    Manage,
}

/// A repository: its mirrors and its registry, with what was learnt about how to speak with them.
///
/// Share it between the parallel transfers of an image: they then share the token, too.
#[derive(Clone)]
pub struct Repository {
    domain: String,
    path: String,
    sessions: Arc<[Arc<Session>]>,
    /// For borrowing from neighbours, by their names at the endpoint: all blobs share the token.
    lenders: Arc<Mutex<BTreeMap<String, Arc<Session>>>>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repository({self})")
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)
    }
}

/// What an endpoint must be able to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Access<'a> {
    /// Say what a name stands for; a digest is content like any other.
    Resolve(&'a Name),
    /// Give content.
    Pull,
}

impl Access<'_> {
    fn is_given_by(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Resolve(Name::Tag(_)) => endpoint.resolves,
            Self::Resolve(Name::Digest(_)) | Self::Pull => endpoint.pulls,
        }
    }
}

impl Repository {
    pub(crate) async fn open(
        wire: &Arc<Wire>,
        reference: &Reference,
        credentials: &Credentials,
        intent: Intent,
    ) -> Result<Self> {
        let (domain, path) = (reference.domain(), reference.path());
        let actions = match intent {
            Intent::Pull => "pull",
            Intent::Push => "pull,push",
            Intent::Manage => "pull,push,delete",
        };
        let mut sessions = Vec::new();
        for endpoint in wire.settings.endpoints(domain)? {
            let session = Session::new(Arc::clone(wire), endpoint, (domain, path), credentials)?;
            // The right is for what the endpoint calls it.
            session.want(format!("repository:{}:{actions}", session.repository)).await;
            sessions.push(Arc::new(session));
        }
        Ok(Self {
            domain: domain.to_owned(),
            path: path.to_owned(),
            sessions: sessions.into(),
            lenders: Arc::default(),
        })
    }

    /// The registry: `docker.io`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository in it: `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn asked(&self, action: impl Into<String>) -> Asked {
        Asked::new(action, self.to_string())
    }

    /// The endpoints that can do this, in the order in which to ask them.
    pub(crate) fn sessions(&self, access: Access<'_>) -> Vec<Arc<Session>> {
        self.sessions.iter().filter(|session| access.is_given_by(&session.endpoint)).cloned().collect()
    }

    /// The endpoint that takes what is pushed: the registry itself.
    pub(crate) fn push_session(&self, asked: &Asked) -> Result<&Arc<Session>> {
        let found =
            self.sessions.iter().rfind(|session| session.endpoint.pushes && session.endpoint.is_origin);
        found.ok_or_else(|| Error::refused(asked, "hosts.toml of the registry does not allow pushes"))
    }

    /// The same for taking over what a neighbour has, which needs the right to read that one; both have the
    /// names that the endpoint gives them.
    pub(crate) async fn mount_session(&self, asked: &Asked, neighbour: &str) -> Result<Arc<Session>> {
        let known = self.lenders.lock().get(neighbour).cloned();
        if let Some(session) = known {
            return Ok(session);
        }
        let scope = format!("repository:{neighbour}:pull");
        let session = Arc::new(self.push_session(asked)?.beside(scope).await);
        // Somebody may have been faster; then all take that one.
        Ok(Arc::clone(self.lenders.lock().entry(neighbour.to_owned()).or_insert(session)))
    }
}

/// What failed so far, from mirror to mirror.
pub(crate) struct Tries {
    asked: Asked,
    errors: Vec<Error>,
}

impl Tries {
    pub(crate) fn new(asked: &Asked) -> Self {
        Self { asked: asked.clone(), errors: Vec::new() }
    }

    pub(crate) fn failed(&mut self, error: Error) {
        tracing::debug!(error = %yare_errdefs::chain(&error), "an endpoint of a registry failed");
        self.errors.push(error);
    }

    /// The account of all of them.
    pub(crate) fn error(mut self) -> Error {
        match (self.errors.pop(), self.errors.is_empty()) {
            (None, _) => {
                Error::refused(&self.asked, "no endpoint in hosts.toml of the registry may be asked for that")
            }
            (Some(only), true) => only,
            (Some(last), false) => Error::Everywhere { mirrors: self.errors, last: Box::new(last) },
        }
    }
}
