//! Answering calls.

use super::{Code, Inbound, Outbound, PIECE, PULSE, Status, WINDOW, WINDOW_OF_ALL};
use crate::proto::session::BytesMessage;
use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use prost::Message;
use std::future::{Future, poll_fn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;

/// Calls that one client may have open.
const CALLS: u32 = 250;
/// Bytes that wait for a client that does not read, of one call.
const UNSENT: usize = 256 << 10;

/// A call to be answered.
#[derive(Debug)]
pub(crate) struct Call {
    /// `/package.Service/Method`.
    pub(crate) path: String,
    /// What came with it.
    pub(crate) metadata: HeaderMap,
    inbound: Inbound,
    respond: SendResponse<Bytes>,
}

/// Answers the calls of a connection until it ends; calls that are open then are dropped.
pub(crate) async fn serve<S, H, F>(stream: S, handler: H) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Call) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connection = h2::server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW_OF_ALL)
        .max_concurrent_streams(CALLS)
        .max_header_list_size(64 << 10)
        .max_send_buffer_size(UNSENT)
        .handshake(stream)
        .await?;
    let ping = connection.ping_pong();
    let answering = async {
        let mut calls = JoinSet::new();
        while let Some(accepted) = connection.accept().await {
            let (request, respond) = accepted?;
            let (head, body) = request.into_parts();
            let call = Call {
                path: head.uri.path().to_owned(),
                metadata: head.headers,
                inbound: Inbound::new(body),
                respond,
            };
            calls.spawn(handler(call));
            while calls.try_join_next().is_some() {}
        }
        Ok(())
    };
    PULSE.keep(ping, answering).await
}

fn head() -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::OK;
    head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head
}

impl Call {
    /// The text of a metadata value; empty when it is not there.
    pub(crate) fn metadata(&self, name: &str) -> String {
        self.metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    }

    /// Answers one message with one message. What `answer` does ends when the client drops the call.
    pub(crate) async fn unary<Q, A, F>(mut self, answer: impl FnOnce(Q) -> F) -> Result<(), Status>
    where
        Q: Message + Default,
        A: Message,
        F: Future<Output = Result<A, Status>>,
    {
        let answered = {
            let Self { inbound, respond, .. } = &mut self;
            let work = async {
                let question = inbound.message().await?.unwrap_or_default();
                answer(question).await
            };
            tokio::select! {
                answered = work => answered,
                reason = poll_fn(|context| respond.poll_reset(context)) => {
                    tracing::debug!(path = self.path, ?reason, "a client dropped its call");
                    return Ok(());
                }
            }
        };
        match answered {
            Ok(message) => {
                let mut outbound = self.open()?;
                outbound.send(&message).await?;
                outbound.finish(&Status::success())
            }
            Err(status) => self.refuse(&status),
        }
    }

    /// Answers one message with as many as `answer` sends.
    pub(crate) async fn stream<Q, F>(mut self, answer: impl FnOnce(Q, Reply) -> F) -> Result<(), Status>
    where
        Q: Message + Default,
        F: Future<Output = Result<Reply, (Reply, Status)>>,
    {
        let question = match self.inbound.message().await {
            Ok(question) => question.unwrap_or_default(),
            Err(status) => return self.refuse(&status),
        };
        let reply = Reply(self.open()?);
        match answer(question, reply).await {
            Ok(mut reply) => reply.0.finish(&Status::success()),
            Err((mut reply, status)) => {
                tracing::debug!(path = self.path, message = status.message, "a call failed");
                reply.0.finish(&status.trailers())
            }
        }
    }

    /// Answers messages with messages, in whatever order. What `answer` does ends when the client drops the call.
    pub(crate) async fn exchange<F>(mut self, answer: impl FnOnce(Incoming, Reply) -> F) -> Result<(), Status>
    where
        F: Future<Output = Result<Reply, (Reply, Status)>>,
    {
        let reply = Reply(self.open()?);
        match answer(Incoming(self.inbound), reply).await {
            Ok(mut reply) => reply.0.finish(&Status::success()),
            Err((mut reply, status)) => {
                tracing::debug!(path = self.path, message = status.message, "a call failed");
                reply.0.finish(&status.trailers())
            }
        }
    }

    /// Answers by carrying a connection of bytes.
    pub(crate) fn open_tunnel(mut self) -> Result<Tunnel, Status> {
        let outbound = self.open()?;
        Ok(Tunnel { inbound: self.inbound, outbound })
    }

    fn open(&mut self) -> Result<Outbound, Status> {
        Ok(Outbound(self.respond.send_response(head(), false).map_err(Status::from)?))
    }

    /// Answers with an error alone.
    pub(crate) fn refuse(mut self, status: &Status) -> Result<(), Status> {
        tracing::debug!(path = self.path, message = status.message, "a call failed");
        let mut outbound = self.open()?;
        outbound.finish(&status.trailers())
    }

    /// Answers that there is no such method.
    pub(crate) fn unknown(self) -> Result<(), Status> {
        let status =
            Status::new(Code::Unimplemented, format!("{} is not built into this Yare yet", self.path));
        self.refuse(&status)
    }
}

/// A call that carries a connection: each message is a piece of it.
#[derive(Debug)]
pub(crate) struct Tunnel {
    inbound: Inbound,
    outbound: Outbound,
}

impl Tunnel {
    /// Carries bytes both ways until both ends are done, or one is broken.
    pub(crate) async fn carry(self, stream: impl AsyncRead + AsyncWrite) -> Result<(), Status> {
        let Self { mut inbound, mut outbound } = self;
        let (mut reader, mut writer) = tokio::io::split(stream);
        let broken = |error: std::io::Error| Status::new(Code::Unavailable, error.to_string());
        let up = async {
            while let Some(message) = inbound.message::<BytesMessage>().await? {
                writer.write_all(&message.data).await.map_err(broken)?;
            }
            writer.shutdown().await.map_err(broken)
        };
        let down = async {
            let mut buffer = BytesMut::with_capacity(PIECE);
            while reader.read_buf(&mut buffer).await.map_err(broken)? > 0 {
                outbound.send(&BytesMessage { data: buffer.split().freeze() }).await?;
                buffer.reserve(PIECE);
            }
            outbound.finish(&Status::success())
        };
        tokio::try_join!(up, down).map(|_| ())
    }
}

/// Messages of a client that come while it is answered.
#[derive(Debug)]
pub(crate) struct Incoming(Inbound);

impl Incoming {
    /// The next one; `None` when the client sends no more.
    pub(crate) async fn message<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        self.0.message().await
    }
}

/// An answer of many messages.
#[derive(Debug)]
pub(crate) struct Reply(Outbound);

#[cfg(test)]
impl Call {
    /// The answer of a peer in a test, which talks while it listens.
    pub(crate) fn reply(&mut self) -> Result<Reply, Status> {
        self.open().map(Reply)
    }

    /// What the caller sends next.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        self.inbound.message().await
    }
}

impl Reply {
    /// Ends it well.
    #[cfg(test)]
    pub(crate) fn finish(mut self) -> Result<(), Status> {
        self.0.finish(&Status::success())
    }

    /// Sends one, as fast as the client reads.
    pub(crate) async fn send(&mut self, message: &impl Message) -> Result<(), Status> {
        self.0.send(message).await
    }
}
