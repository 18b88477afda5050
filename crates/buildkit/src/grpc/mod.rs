//! gRPC over HTTP/2: messages with a length before them, and an outcome after them.
//!
//! Both sides are hostile. A message's length is checked before its bytes are taken, a peer that does not
//! read stops whoever writes to it, and nothing is kept for a peer beyond one message and HTTP/2's window.

pub(crate) mod client;
pub(crate) mod server;
mod status;

pub(crate) use status::{Code, Status};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::HeaderMap;
use prost::Message;
use std::future::{Future, poll_fn};
use std::time::Duration;

/// Most bytes of a message, as BuildKit's own limit.
const LONGEST: usize = 16 << 20;
/// Bytes that a peer may send unread: of one call, and of all.
const WINDOW: u32 = 1 << 20;
const WINDOW_OF_ALL: u32 = 4 << 20;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Bytes handed to HTTP/2 at once.
const PIECE: usize = 64 << 10;

/// How often a peer is asked whether it is there, and how long it may take to say so.
const PULSE: Pulse = Pulse { pause: Duration::from_secs(15), patience: Duration::from_secs(60) };

/// Notices that a peer is gone where no packet says so, as over TCP.
#[derive(Debug, Clone, Copy)]
struct Pulse {
    pause: Duration,
    patience: Duration,
}

impl Pulse {
    /// Drives a connection until it ends, or until its peer does not answer any more.
    async fn keep<T>(
        self,
        ping: Option<PingPong>,
        connection: impl Future<Output = Result<T, h2::Error>>,
    ) -> Result<T, h2::Error> {
        let Some(mut ping) = ping else { return connection.await };
        let silent = async {
            loop {
                tokio::time::sleep(self.pause).await;
                match tokio::time::timeout(self.patience, ping.ping(Ping::opaque())).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return error,
                    Err(_) => return h2::Reason::CANCEL.into(),
                }
            }
        };
        tokio::select! {
            ended = connection => ended,
            error = silent => Err(error),
        }
    }
}

/// The messages that a peer sends.
#[derive(Debug)]
pub(crate) struct Inbound {
    stream: RecvStream,
    buffer: BytesMut,
}

impl Inbound {
    fn new(stream: RecvStream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// The next message; `None` at the end.
    pub(crate) async fn message<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let Some(bytes) = self.bytes().await? else { return Ok(None) };
        M::decode(bytes)
            .map(Some)
            .map_err(|error| Status::new(Code::InvalidArgument, format!("a message cannot be read: {error}")))
    }

    async fn bytes(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(length) = announced(&self.buffer)?
                && self.buffer.len() >= PREFIX + length
            {
                self.buffer.advance(PREFIX);
                return Ok(Some(self.buffer.split_to(length).freeze()));
            }
            match self.stream.data().await {
                Some(Ok(piece)) => {
                    // The window opens as bytes are taken; what is taken is bounded by the longest message.
                    self.stream.flow_control().release_capacity(piece.len()).map_err(Status::from)?;
                    self.buffer.extend_from_slice(&piece);
                }
                Some(Err(error)) => return Err(error.into()),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::new(Code::Internal, "the peer broke off within a message")),
            }
        }
    }

    /// What the peer says when it is done.
    async fn outcome(&mut self) -> Result<(), Status> {
        match self.stream.trailers().await.map_err(Status::from)? {
            Some(trailers) => Status::of_headers(&trailers).unwrap_or(Ok(())),
            None => Err(Status::new(Code::Internal, "the peer ended a call without an outcome")),
        }
    }
}

/// The length of the message at the front, when that much is there.
fn announced(buffer: &[u8]) -> Result<Option<usize>, Status> {
    let Some(prefix) = buffer.first_chunk::<PREFIX>() else { return Ok(None) };
    if prefix[0] != 0 {
        return Err(Status::new(Code::Unimplemented, "compressed messages are not understood"));
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if length > LONGEST {
        let text = format!("a message of {length} bytes is too long: {LONGEST} is the most");
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    Ok(Some(length))
}

/// The messages that go to a peer.
#[derive(Debug)]
pub(crate) struct Outbound(SendStream<Bytes>);

impl Outbound {
    /// Sends a message, as fast as the peer reads.
    pub(crate) async fn send(&mut self, message: &impl Message) -> Result<(), Status> {
        let length = message.encoded_len();
        let told = u32::try_from(length)
            .map_err(|_| Status::new(Code::ResourceExhausted, "a message of more than 4 GB"))?;
        let mut bytes = BytesMut::with_capacity(PREFIX + length);
        bytes.put_u8(0);
        bytes.put_u32(told);
        message.encode(&mut bytes).map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        self.write(bytes.freeze()).await
    }

    async fn write(&mut self, mut bytes: Bytes) -> Result<(), Status> {
        while !bytes.is_empty() {
            self.0.reserve_capacity(bytes.len().min(PIECE));
            let granted = match poll_fn(|context| self.0.poll_capacity(context)).await {
                Some(granted) => granted.map_err(Status::from)?,
                None => return Err(Status::gone()),
            };
            let piece = bytes.split_to(granted.min(bytes.len()));
            self.0.send_data(piece, false).map_err(Status::from)?;
        }
        Ok(())
    }

    /// A caller's last word.
    pub(crate) fn close(&mut self) -> Result<(), Status> {
        self.0.send_data(Bytes::new(), true).map_err(Status::from)
    }

    fn finish(&mut self, outcome: &HeaderMap) -> Result<(), Status> {
        self.0.send_trailers(outcome.clone()).map_err(Status::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::grpc::server::Call;
    use crate::proto::session::{BytesMessage, NamedRequest};
    use http::HeaderMap;

    /// Answers with what it was asked, or never.
    async fn answer(call: Call) {
        let answered = match call.path.as_str() {
            "/echo" => call.unary(|question: NamedRequest| async move { Ok(question) }).await,
            "/never" => call.unary(|_: NamedRequest| std::future::pending::<Result<NamedRequest, _>>()).await,
            _ => call.unknown(),
        };
        assert!(answered.is_ok(), "{answered:?}");
    }

    async fn peer() -> client::Client {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(server::serve(theirs, answer));
        let (client, connection) = client::connect(ours).await.expect("connected");
        tokio::spawn(connection);
        client
    }

    #[tokio::test]
    async fn calls_are_answered() {
        let peer = peer().await;
        let question = NamedRequest { id: "x".repeat(3 << 20) };
        let answer: NamedRequest = peer.unary("/echo", &question).await.expect("answered");
        assert!(answer == question, "messages longer than any window pass");
        let refused = peer.unary::<NamedRequest>("/nothing", &question).await;
        assert_eq!(refused.expect_err("refused").code, Code::Unimplemented);
    }

    #[tokio::test]
    async fn messages_that_are_too_long_are_refused_unread() {
        let mut exchange = peer().await.call("/echo", HeaderMap::new()).await.expect("begun");
        // The announcement alone; nothing of the 100 MB follows.
        exchange.outbound.write(Bytes::from_static(&[0, 6, 64, 0, 0])).await.expect("written");
        let refused = exchange.message::<NamedRequest>().await.expect_err("refused");
        assert_eq!(refused.code, Code::ResourceExhausted);
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        for bytes in [&[0, 0, 0, 0, 2, 0xff, 0xff][..], &[0, 0, 0, 0, 9, 1], &[7, 0, 0, 0, 0]] {
            let mut exchange = peer().await.call("/echo", HeaderMap::new()).await.expect("begun");
            exchange.outbound.write(Bytes::copy_from_slice(bytes)).await.expect("written");
            // It may be refused before this.
            let _ = exchange.outbound.close();
            assert!(exchange.message::<NamedRequest>().await.is_err(), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_drops_its_calls() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let served = tokio::spawn(server::serve(theirs, answer));
        let (client, connection) = client::connect(ours).await.expect("connected");
        let driver = tokio::spawn(connection);
        let mut exchange = client.call("/never", HeaderMap::new()).await.expect("begun");
        exchange.outbound.send(&BytesMessage::default()).await.expect("sent");
        driver.abort();
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), served).await;
        ended.expect("the server notices").expect("no panic").ok();
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_without_a_word_is_noticed() {
        let pulse = Pulse { pause: Duration::from_millis(10), patience: Duration::from_secs(2) };
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (client, mut connection) =
            h2::client::Builder::new().handshake::<_, Bytes>(ours).await.expect("begun");
        let ping = connection.ping_pong();
        // The other end takes everything and says nothing.
        tokio::spawn(async move { tokio::io::copy(&mut theirs, &mut tokio::io::sink()).await });
        let ended = tokio::time::timeout(Duration::from_secs(30), pulse.keep(ping, connection)).await;
        assert!(ended.expect("noticed").is_err());
        drop(client);
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(server::serve(theirs, answer));
        let (client, mut connection) =
            h2::client::Builder::new().handshake::<_, Bytes>(ours).await.expect("begun");
        let ping = connection.ping_pong();
        let kept = tokio::time::timeout(Duration::from_secs(5), pulse.keep(ping, connection)).await;
        assert!(kept.is_err(), "one that answers stays");
        drop(client);
    }

    #[test]
    fn lengths_are_checked_before_anything_is_kept() {
        assert_eq!(announced(&[0, 0, 0]).expect("too short to say"), None);
        assert_eq!(announced(&[0, 0, 0, 0, 7, 1]).expect("fits"), Some(7));
        assert_eq!(announced(&[0, 6, 64, 0, 0]).expect_err("100 MB").code, Code::ResourceExhausted);
        assert_eq!(announced(&[1, 0, 0, 0, 7]).expect_err("compressed").code, Code::Unimplemented);
    }
}
