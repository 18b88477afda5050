//! Sessions: what clients offer to the builds that they ask for.
//!
//! A client opens a connection of its own for a session and answers calls on it: its files, secrets, agents.
//! A request names its session by id, and may arrive before it; so a look-up waits a little. An id is no
//! secret: whoever may speak to the engine may join any session.

use crate::grpc::client::{self, Client, Exchange};
use crate::grpc::{Code, Status};
use http::HeaderMap;
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

/// How long a request waits for the session that it names.
const PATIENCE: Duration = Duration::from_secs(5);
/// What builds ask of a session beside files and agents.
pub(crate) const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
pub(crate) const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
pub(crate) const KEYS: [&str; 2] = [GET_SECRET, CREDENTIALS];
/// Sessions at once.
const MOST: usize = 1000;

/// What a client says of its session in the headers of `POST /session`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offer {
    /// Names it.
    pub id: String,
    /// Builds with the same key have the same files, more or less.
    pub shared_key: String,
    /// The methods it answers: `/package.Service/Method`.
    pub methods: HashSet<String>,
}

impl Offer {
    /// Reads the headers of a request.
    pub fn of_headers(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let methods = headers.get_all("x-docker-expose-session-grpc-method").iter();
        Self {
            id: text("x-docker-expose-session-uuid").to_owned(),
            shared_key: text("x-docker-expose-session-sharedkey").to_owned(),
            methods: methods.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect(),
        }
    }
}

/// A client's session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) offer: Offer,
    client: Client,
}

impl Session {
    /// Whether the client answers a method. One that lists none is asked.
    pub(crate) fn offers(&self, method: &str) -> bool {
        self.offer.methods.is_empty() || self.offer.methods.contains(method)
    }

    /// Begins a call.
    pub(crate) async fn call(&self, method: &str, metadata: HeaderMap) -> Result<Exchange, Status> {
        self.check(method)?;
        self.client.call(method, metadata).await
    }

    /// One message for one message.
    pub(crate) async fn unary<A: Message + Default>(
        &self,
        method: &str,
        question: &impl Message,
    ) -> Result<A, Status> {
        self.check(method)?;
        self.client.unary(method, question).await
    }

    fn check(&self, method: &str) -> Result<(), Status> {
        if self.offers(method) {
            return Ok(());
        }
        Err(Status::new(Code::Unimplemented, format!("the client's session does not offer {method}")))
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    known: Mutex<HashMap<String, Arc<Session>>>,
    changed: Notify,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a session until its connection ends.
    pub(crate) async fn serve<S>(&self, offer: Offer, stream: S) -> Result<(), Status>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (client, connection) = client::connect(stream).await?;
        let id = offer.id.clone();
        let session = Arc::new(Session { offer, client });
        let _kept = self.keep(id, session)?;
        self.changed.notify_waiters();
        connection.await.map_err(Status::from)
    }

    fn keep(&self, id: String, session: Arc<Session>) -> Result<Kept<'_>, Status> {
        let mut known = self.lock();
        if id.is_empty() {
            return Err(Status::new(Code::InvalidArgument, "a session needs an id"));
        }
        if known.contains_key(&id) {
            return Err(Status::new(Code::AlreadyExists, format!("there is a session {id} already")));
        }
        if known.len() >= MOST {
            return Err(Status::new(Code::ResourceExhausted, format!("{MOST} sessions are open already")));
        }
        known.insert(id.clone(), session);
        Ok(Kept { sessions: self, id })
    }

    /// Finds a session, waiting for it a little.
    pub(crate) async fn find(&self, id: &str) -> Result<Arc<Session>, Status> {
        self.find_within(id, PATIENCE).await
    }

    async fn find_within(&self, id: &str, patience: Duration) -> Result<Arc<Session>, Status> {
        if id.is_empty() {
            return Err(Status::new(Code::InvalidArgument, "the request names no session"));
        }
        let waited = tokio::time::timeout(patience, async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(session) = self.lock().get(id) {
                    return Arc::clone(session);
                }
                changed.await;
            }
        });
        waited.await.map_err(|_| Status::new(Code::Unavailable, format!("no active session for {id}")))
    }
}

/// A session in the list.
struct Kept<'a> {
    sessions: &'a Sessions,
    id: String,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_may_come_before_its_session() {
        let sessions = Arc::new(Sessions::default());
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let server = tokio::spawn(async move { crate::grpc::server::serve(theirs, |_| async {}).await });
        let waiting = {
            let sessions = Arc::clone(&sessions);
            tokio::spawn(async move { sessions.find("a").await })
        };
        tokio::task::yield_now().await;
        let kept = {
            let sessions = Arc::clone(&sessions);
            let offer = Offer { id: "a".to_owned(), ..Offer::default() };
            tokio::spawn(async move { sessions.serve(offer, ours).await })
        };
        assert_eq!(waiting.await.expect("no panic").expect("found").offer.id, "a");
        server.abort();
        drop(kept.await.expect("no panic"));
        assert!(sessions.lock().is_empty(), "a session ends with its connection");
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let error = Sessions::default().find_within("nobody", Duration::ZERO).await.expect_err("not there");
        assert_eq!(error.code, Code::Unavailable);
    }
}
