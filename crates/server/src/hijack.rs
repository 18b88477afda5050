//! Taking a connection over: attach and exec, and HTTP/2 for builds.
//!
//! With `Upgrade` in the request the answer is `101 UPGRADED` and the socket becomes a pipe to the container,
//! bytes in both directions and half-closes included. Without it the answer is `200 OK` and a body that
//! lasts as long as the output; such a client has no way to send input, so input ends at once for it.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, StatusCode};
use hyper::ext::ReasonPhrase;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use yare_engine::system::full_text;
use yare_errdefs::{Error, Result};

use crate::reply::{self, Reply};
use crate::socket::Socket;
use crate::version::Version;

/// Bytes copied at once.
const CHUNK: usize = 64 << 10;
/// How long a client may go on sending after the output has ended.
const LINGER: Duration = Duration::from_secs(2);
/// How often to look whether a client that ended its input is still there.
const GLANCE: Duration = Duration::from_secs(1);

const RAW: HeaderValue = HeaderValue::from_static(yare_api::stream::RAW);

/// What is needed to take a connection over.
#[derive(Debug)]
pub(crate) struct Takeover {
    /// Present when the client asked for an upgrade.
    pub(crate) upgrade: Option<OnUpgrade>,
    /// The connection.
    pub(crate) socket: Socket,
    /// The API version of the request.
    pub(crate) version: Version,
}

/// The type of a stream of output: framed or raw, and how versions name it.
pub(crate) fn content_type(version: Version, tty: bool) -> HeaderValue {
    HeaderValue::from_static(yare_api::compat::stream_content_type(version, tty))
}

impl Takeover {
    /// Connects the client with `stream`, which is already wired to the container.
    pub(crate) fn connect<S>(self, tty: bool, stream: S) -> Reply
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Some(upgrade) = self.upgrade else { return one_way(self.socket, stream) };
        tokio::spawn(async move {
            match upgrade.await.map(taken) {
                Ok(Some((client, early))) => pump(client, early, stream).await,
                Ok(None) => tracing::warn!("an upgraded connection is of an unknown kind"),
                Err(error) => tracing::debug!(%error, "the client left before the upgrade"),
            }
        });
        switching(content_type(self.version, tty))
    }

    /// Hands the connection over to what speaks HTTP/2 on it, with what the client said already.
    pub(crate) fn switch<F>(
        self,
        headers: &HeaderMap,
        serve: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
    ) -> Result<Reply>
    where
        F: Future<Output = ()> + Send,
    {
        let protocol = headers.get(UPGRADE).map(HeaderValue::as_bytes).unwrap_or_default();
        let Some(upgrade) = self.upgrade.filter(|_| protocol.eq_ignore_ascii_case(b"h2c")) else {
            return Err(Error::invalid("this endpoint speaks HTTP/2 alone: the request needs Upgrade: h2c"));
        };
        tokio::spawn(async move {
            match upgrade.await {
                Ok(stream) => serve(TokioIo::new(stream)).await,
                Err(error) => tracing::debug!(%error, "the client left before the upgrade"),
            }
        });
        let mut reply = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        reply.headers_mut().insert(UPGRADE, HeaderValue::from_static("h2c"));
        Ok(reply)
    }

    /// Tells a failure through the stream, for clients that show nothing of a refused upgrade.
    pub(crate) fn connect_failed(self, tty: bool, error: &Error) -> Reply {
        let text = format!("{}\r\n", full_text(error));
        let mut bytes = Vec::new();
        match tty {
            true => bytes.extend_from_slice(text.as_bytes()),
            false => yare_api::stream::frame(yare_api::stream::Stream::Stdout, text.as_bytes(), &mut bytes),
        }
        let (near, far) = tokio::io::duplex(bytes.len().max(1));
        tokio::spawn(async move {
            let mut far = far;
            if far.write_all(&bytes).await.is_ok() {
                // The reader is the pump, which sees the end of the stream next.
                let _ = far.shutdown().await;
            }
        });
        self.connect(tty, near)
    }
}

/// `101 UPGRADED`, in Docker's spelling.
fn switching(content_type: HeaderValue) -> Reply {
    let mut reply = reply::typed(reply::empty(StatusCode::SWITCHING_PROTOCOLS), content_type);
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    reply.headers_mut().insert(UPGRADE, HeaderValue::from_static("tcp"));
    reply.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
    reply
}

/// The socket behind an upgraded connection and what was already read from it.
fn taken(upgraded: Upgraded) -> Option<(Socket, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<Socket>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

/// Output as a body, for a client that did not ask for an upgrade.
fn one_way<S>(socket: Socket, stream: S) -> Reply
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let parts = stream::unfold((stream, false), |(mut stream, input_ended)| async move {
        if !input_ended && stream.shutdown().await.is_err() {
            tracing::debug!("the container takes no input");
        }
        let part = read_some(&mut stream).await.transpose()?;
        Some((part, (stream, true)))
    });
    reply::follow(RAW, socket, parts)
}

/// The next bytes; `None` at the end.
async fn read_some(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Bytes>> {
    let mut bytes = BytesMut::with_capacity(16 << 10);
    match stream.read_buf(&mut bytes).await {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(bytes.freeze())),
        Err(error) => Err(Error::internal("the container's stream broke").caused_by(error)),
    }
}

/// Copies both ways until the output ends or the client is gone.
async fn pump<S>(client: Socket, early: Bytes, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (output, input) = tokio::io::split(stream);
    let mut writer = client.clone();
    let finished = tokio::select! {
        done = copy(output, &mut writer) => done.is_ok(),
        () = copy_input(client.clone(), early, input) => false,
    };
    if finished {
        part_with(client).await;
    }
}

/// Copies all of it. Flushed piece by piece: over TLS, what does not fit into the socket's buffer would else
/// wait for the next piece.
async fn copy(mut from: impl AsyncRead + Unpin, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    while from.read_buf(&mut buffer).await? > 0 {
        to.write_all(&buffer).await?;
        to.flush().await?;
        buffer.clear();
    }
    Ok(())
}

/// Copies input until the client is gone; that it ended its input alone is no reason to return.
async fn copy_input(mut client: Socket, early: Bytes, mut input: impl AsyncWrite + Unpin) {
    let mut accepted = input.write_all(&early).await.is_ok();
    drop(early);
    let mut buffer = BytesMut::with_capacity(16 << 10);
    loop {
        buffer.clear();
        match client.read_buf(&mut buffer).await {
            Ok(0) => break,
            // Flushed: what the detach keys held back, or the container had no room for, must not wait for the
            // next key.
            Ok(_) => {
                accepted = accepted && input.write_all(&buffer).await.is_ok() && input.flush().await.is_ok();
            }
            Err(_) => return,
        }
    }
    if input.shutdown().await.is_err() {
        tracing::debug!("the container takes no input");
    }
    while !client.hung_up() {
        tokio::time::sleep(GLANCE).await;
    }
}

/// Ends our half and reads what the client still sends: a socket closed with unread bytes in it is reset,
/// and the client would see an error in place of the end.
async fn part_with(mut client: Socket) {
    if client.shutdown().await.is_err() {
        return;
    }
    let mut nowhere = tokio::io::sink();
    let drained = tokio::io::copy(&mut client, &mut nowhere);
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, drained).await {
        tracing::debug!(%error, "the client left in a hurry");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    /// A pump between a client (first) and an engine's stream (second).
    fn pumped(early: &'static [u8]) -> (UnixStream, UnixStream) {
        let (client, server) = UnixStream::pair().expect("a pair");
        let (near, far) = UnixStream::pair().expect("a pair");
        tokio::spawn(pump(Socket::unix(server), Bytes::from_static(early), near));
        (client, far)
    }

    #[test]
    fn versions_name_the_streams() {
        let old = crate::version::negotiate(Some("1.41")).expect("served");
        assert_eq!(content_type(old, false), RAW);
        assert_eq!(content_type(Version::MAX, false), "application/vnd.docker.multiplexed-stream");
        assert_eq!(content_type(Version::MAX, true), RAW);
    }

    #[tokio::test]
    async fn half_closes_go_both_ways() {
        let (mut client, mut engine) = pumped(b"early ");
        client.write_all(b"late").await.expect("written");
        client.shutdown().await.expect("half closed");
        let mut input = String::new();
        engine.read_to_string(&mut input).await.expect("input ends");
        assert_eq!(input, "early late");
        engine.write_all(b"output").await.expect("written");
        drop(engine);
        let mut output = String::new();
        client.read_to_string(&mut output).await.expect("output ends");
        assert_eq!(output, "output");
    }

    #[tokio::test]
    async fn output_ends_while_input_is_open() {
        let (mut client, mut engine) = pumped(b"");
        engine.write_all(b"bye").await.expect("written");
        drop(engine);
        client.write_all(b"into the void").await.expect("written");
        let mut output = String::new();
        client.read_to_string(&mut output).await.expect("no reset");
        assert_eq!(output, "bye");
    }

    #[tokio::test]
    async fn a_client_that_is_gone_ends_it() {
        let (client, mut engine) = pumped(b"");
        drop(client);
        let mut input = Vec::new();
        engine.read_to_end(&mut input).await.expect("ends");
        assert!(input.is_empty());
        // The engine's half is closed as well, not only input.
        let gone = async { while engine.write_all(b"x").await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the stream is dropped");
    }

    #[tokio::test]
    async fn a_silent_container_does_not_hold_a_client_that_is_gone_later() {
        let (mut client, mut engine) = pumped(b"");
        client.shutdown().await.expect("half closed");
        let mut input = Vec::new();
        engine.read_to_end(&mut input).await.expect("input ends");
        engine.write_all(b"still there").await.expect("written");
        drop(client);
        let gone = async {
            while engine.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the stream is dropped");
    }
}
