//! Calling what a peer offers.

use super::{Code, Inbound, Outbound, PULSE, Status, WINDOW, WINDOW_OF_ALL};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use prost::Message;
use std::future::Future;
use tokio::io::{AsyncRead, AsyncWrite};

/// Messages of a peer that are dropped on the way to its outcome.
const LEFTOVERS: usize = 1000;

/// A connection to a peer that answers calls. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Client(SendRequest<Bytes>);

/// Speaks first on a connection. The second part drives it and returns when it ended.
pub(crate) async fn connect<S>(
    stream: S,
) -> Result<(Client, impl Future<Output = Result<(), h2::Error>>), Status>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (client, mut connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW_OF_ALL)
        .max_header_list_size(64 << 10)
        .enable_push(false)
        .handshake(stream)
        .await?;
    let ping = connection.ping_pong();
    Ok((Client(client), PULSE.keep(ping, connection)))
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// What goes to the peer.
    pub(crate) outbound: Outbound,
    incoming: Incoming,
}

/// What comes from the peer of a call.
#[derive(Debug)]
pub(crate) struct Incoming(Answer);

#[derive(Debug)]
enum Answer {
    Waiting(ResponseFuture),
    Coming(Inbound),
}

impl Client {
    /// Begins a call.
    pub(crate) async fn call(&self, path: &str, metadata: HeaderMap) -> Result<Exchange, Status> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::builder()
            .scheme("http")
            .authority("localhost")
            .path_and_query(path)
            .build()
            .map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        *request.headers_mut() = metadata;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        let mut ready = self.0.clone().ready().await?;
        let (response, outbound) = ready.send_request(request, false)?;
        Ok(Exchange { outbound: Outbound(outbound), incoming: Incoming(Answer::Waiting(response)) })
    }

    /// One message for one message.
    pub(crate) async fn unary<A: Message + Default>(
        &self,
        path: &str,
        question: &impl Message,
    ) -> Result<A, Status> {
        let mut exchange = self.call(path, HeaderMap::new()).await?;
        let sent = async {
            exchange.outbound.send(question).await?;
            exchange.outbound.close()
        };
        if let Err(status) = sent.await {
            // A peer may refuse before it has read; what it says then is the answer.
            tracing::debug!(path, message = status.message, "a peer did not wait for the question");
        }
        let answer = exchange.message().await?;
        answer.ok_or_else(|| Status::new(Code::Internal, format!("{path} answered nothing")))
    }
}

impl Exchange {
    /// Sends a message. When the peer takes none any more, the error is what it says of the reason.
    pub(crate) async fn send<A: Message + Default>(&mut self, message: &impl Message) -> Result<(), Status> {
        let Err(unsent) = self.outbound.send(message).await else { return Ok(()) };
        // What is on its way still, up to the end of the call.
        for _ in 0..LEFTOVERS {
            match self.message::<A>().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(status) => return Err(status),
            }
        }
        Err(unsent)
    }

    /// The two directions, for whoever speaks and listens at once.
    pub(crate) fn split(self) -> (Outbound, Incoming) {
        (self.outbound, self.incoming)
    }

    /// The next message; `None` when the peer is done and all went well.
    pub(crate) async fn message<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        self.incoming.message().await
    }
}

impl Incoming {
    /// The next message; `None` when the peer is done and all went well.
    pub(crate) async fn message<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        if let Answer::Waiting(response) = &mut self.0 {
            let (head, body) = response.await?.into_parts();
            if head.status != StatusCode::OK {
                return Err(Status::new(Code::Internal, format!("the peer answered {}", head.status)));
            }
            // An outcome in the head is the whole answer.
            if let Some(outcome) = Status::of_headers(&head.headers) {
                return outcome.map(|()| None);
            }
            self.0 = Answer::Coming(Inbound::new(body));
        }
        let Answer::Coming(inbound) = &mut self.0 else { return Ok(None) };
        match inbound.message().await? {
            Some(message) => Ok(Some(message)),
            None => inbound.outcome().await.map(|()| None),
        }
    }
}
