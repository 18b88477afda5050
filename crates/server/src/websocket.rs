//! A container's streams over a WebSocket (RFC 6455), for clients that can speak nothing else.
//!
//! Output of both kinds comes as messages without Docker's frames around it. What a client sends is input;
//! closing the connection ends the attachment and leaves the container alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, StatusCode};
use hyper_util::rt::TokioIo;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use yare_api::stream::Demultiplexer;
use yare_errdefs::{Error, Result};

use crate::hijack::Takeover;
use crate::reply::{self, Reply};

/// The most bytes that one frame of a client may have.
const LARGEST: u64 = 1 << 20;
/// Bytes of output that are read at once.
const CHUNK: usize = 16 << 10;
/// What the protocol adds to a client's key.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Kinds of frames.
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Why a connection is closed.
const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
const TOO_BIG: u16 = 1009;

/// Connects the client with `stream`, which is already wired to the container; framed unless it is a
/// terminal's. Old clients expect text. `accept` is what [`accept`] gave.
pub(crate) fn connect<S>(
    takeover: Takeover,
    accept: HeaderValue,
    (tty, text): (bool, bool),
    stream: S,
) -> Result<Reply>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let upgrade = takeover.upgrade.ok_or_else(no_websocket)?;
    let kind = if text { TEXT } else { BINARY };
    tokio::spawn(async move {
        match upgrade.await {
            Ok(client) => pump(TokioIo::new(client), stream, tty, kind).await,
            Err(error) => tracing::debug!(%error, "the client left before the upgrade"),
        }
    });
    let mut reply = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    reply.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    reply.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(reply)
}

fn no_websocket() -> Error {
    Error::invalid("this endpoint speaks WebSocket alone: the request needs Upgrade: websocket")
}

/// Checks a client's handshake; gives what proves that it was understood.
pub(crate) fn accept(headers: &HeaderMap) -> Result<HeaderValue> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !text(UPGRADE).eq_ignore_ascii_case("websocket") {
        return Err(no_websocket());
    }
    if text(SEC_WEBSOCKET_VERSION) != "13" {
        return Err(Error::invalid("only version 13 of WebSocket is spoken here"));
    }
    let key = text(SEC_WEBSOCKET_KEY);
    if !STANDARD.decode(key).is_ok_and(|key| key.len() == 16) {
        return Err(Error::invalid("the request's Sec-WebSocket-Key is no 16 bytes in base64"));
    }
    let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{KEY_SUFFIX}").as_bytes());
    let proof = STANDARD.encode(proof);
    HeaderValue::from_str(&proof).map_err(|error| Error::internal("cannot encode the reply").caused_by(error))
}

/// Copies both ways until the output ends or the client closes.
async fn pump<C, S>(client: C, stream: S, tty: bool, kind: u8)
where
    C: AsyncRead + AsyncWrite,
    S: AsyncRead + AsyncWrite,
{
    let (reader, writer) = tokio::io::split(client);
    let (output, input) = tokio::io::split(stream);
    // Answers to a client's frames, which are few.
    let (answers, to_send) = mpsc::channel(4);
    let outgoing = send(output, writer, to_send, (tty, kind));
    let incoming = receive(reader, input, answers);
    tokio::pin!(outgoing, incoming);
    tokio::select! {
        () = &mut outgoing => {}
        // What it answered last is still sent.
        () = &mut incoming => outgoing.await,
    }
}

/// Sends output and answers. Ends with the output, or when the last of the answers is a farewell.
async fn send(
    mut output: impl AsyncRead + Unpin,
    mut client: impl AsyncWrite + Unpin,
    mut answers: mpsc::Receiver<Bytes>,
    (tty, kind): (bool, u8),
) {
    let mut frames = (!tty).then(Demultiplexer::new);
    let mut bytes = BytesMut::with_capacity(CHUNK);
    let mut farewell = farewell(NORMAL);
    loop {
        bytes.reserve(CHUNK);
        let message = tokio::select! {
            answer = answers.recv() => match answer {
                Some(answer) if answer.first() == Some(&(0x80 | CLOSE)) => {
                    farewell = answer;
                    break;
                }
                Some(answer) => answer,
                None => break,
            },
            read = output.read_buf(&mut bytes) => match read {
                Ok(0) | Err(_) => break,
                Ok(_) => match unframed(frames.as_mut(), bytes.split().freeze()) {
                    Some(payload) if payload.is_empty() => continue,
                    Some(payload) => frame(kind, &payload),
                    None => break,
                },
            },
        };
        if client.write_all(&message).await.is_err() || client.flush().await.is_err() {
            return;
        }
    }
    let parted = async {
        client.write_all(&farewell).await?;
        client.shutdown().await
    };
    if let Err(error) = parted.await {
        tracing::debug!(%error, "the client left without a farewell");
    }
}

/// Output without Docker's frames; `None` when it cannot be understood.
fn unframed(frames: Option<&mut Demultiplexer>, bytes: Bytes) -> Option<Bytes> {
    let Some(frames) = frames else { return Some(bytes) };
    let mut payload = Vec::with_capacity(bytes.len());
    frames.feed(&bytes, |_, part| payload.extend_from_slice(part)).ok()?;
    Some(payload.into())
}

/// Takes what the client sends until it closes or breaks the rules.
async fn receive(
    mut client: impl AsyncRead + Unpin,
    mut input: impl AsyncWrite + Unpin,
    answers: mpsc::Sender<Bytes>,
) {
    let mut received = BytesMut::with_capacity(CHUNK);
    let mut accepted = true;
    let reason = 'connection: loop {
        loop {
            match parse(&mut received) {
                Ok(None) => break,
                Ok(Some((PING, payload))) => {
                    if answers.send(frame(PONG, &payload)).await.is_err() {
                        return;
                    }
                }
                Ok(Some((PONG, _))) => {}
                Ok(Some((CLOSE, _))) => break 'connection NORMAL,
                Ok(Some((_, payload))) => {
                    accepted =
                        accepted && input.write_all(&payload).await.is_ok() && input.flush().await.is_ok();
                }
                Err(reason) => break 'connection reason,
            }
        }
        match client.read_buf(&mut received).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    };
    // Nobody is there to send it if the output has ended.
    let _ = answers.send(farewell(reason)).await;
}

/// Takes one whole frame off the front: its kind and payload. An error is the reason to close.
fn parse(received: &mut BytesMut) -> Result<Option<(u8, Bytes)>, u16> {
    let [first, second, ..] = received[..] else { return Ok(None) };
    let (is_last, kind) = (first & 0x80 != 0, first & 0x0f);
    let is_known = matches!(kind, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG);
    let is_masked = second & 0x80 != 0;
    if first & 0x70 != 0 || !is_known || !is_masked {
        return Err(PROTOCOL_ERROR);
    }
    let (length, header) = match second & 0x7f {
        126 => match received.get(2..4) {
            Some(bytes) => (bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)), 4),
            None => return Ok(None),
        },
        127 => match received.get(2..10) {
            Some(bytes) => (bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)), 10),
            None => return Ok(None),
        },
        short => (u64::from(short), 2),
    };
    if kind >= CLOSE && (!is_last || header != 2) {
        return Err(PROTOCOL_ERROR);
    }
    if length > LARGEST {
        return Err(TOO_BIG);
    }
    // At most LARGEST.
    let (payload, whole) = (header + 4, header + 4 + length as usize);
    if received.len() < whole {
        received.reserve(whole - received.len());
        return Ok(None);
    }
    let mut frame = received.split_to(whole);
    let mask = [frame[header], frame[header + 1], frame[header + 2], frame[header + 3]];
    frame.advance(payload);
    frame.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok(Some((kind, frame.freeze())))
}

/// A whole message as one frame.
fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut frame = vec![0x80 | kind];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.push(length as u8),
        Ok(length) => {
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            frame.push(127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame.into()
}

fn farewell(reason: u16) -> Bytes {
    frame(CLOSE, &reason.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::UnixStream;

    /// A frame as a client sends it.
    fn masked(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x12, 0x34, 0x56, 0x78];
        let mut frame = frame(kind, payload).to_vec();
        frame[1] |= 0x80;
        let header = frame.len() - payload.len();
        frame.truncate(header);
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    #[test]
    fn the_handshake_of_the_standard() {
        let mut headers = HeaderMap::new();
        headers.insert(UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        assert!(accept(&headers).is_err(), "without a key");
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept(&headers).expect("a handshake"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        assert!(accept(&headers).is_err(), "another version");
        headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
        assert!(accept(&headers).is_err(), "another protocol");
    }

    #[test]
    fn frames_are_taken_as_they_come() {
        for length in [0, 1, 125, 126, 65_535, 65_536, LARGEST as usize] {
            let payload = vec![7; length];
            let sent = masked(BINARY, &payload);
            let mut received = BytesMut::new();
            for (number, byte) in sent.iter().enumerate().take(20) {
                received.extend_from_slice(&[*byte]);
                assert!(number + 1 == sent.len() || parse(&mut received) == Ok(None), "{length} {number}");
            }
            received.extend_from_slice(&sent[sent.len().min(20)..]);
            received.extend_from_slice(&masked(PING, b"next"));
            assert_eq!(parse(&mut received), Ok(Some((BINARY, payload.into()))));
            assert_eq!(parse(&mut received), Ok(Some((PING, Bytes::from_static(b"next")))));
            assert!(received.is_empty());
        }
    }

    #[test]
    fn broken_frames_end_it() {
        let reason = |bytes: &[u8]| parse(&mut BytesMut::from(bytes)).expect_err("broken");
        assert_eq!(reason(&[0x82, 0x01, 0]), PROTOCOL_ERROR, "not masked");
        assert_eq!(reason(&[0xc2, 0x81]), PROTOCOL_ERROR, "compressed");
        assert_eq!(reason(&[0x83, 0x81]), PROTOCOL_ERROR, "an unknown kind");
        assert_eq!(reason(&[0x09, 0x81]), PROTOCOL_ERROR, "a ping in parts");
        assert_eq!(reason(&[0x89, 0xfe, 0, 200]), PROTOCOL_ERROR, "a long ping");
        assert_eq!(reason(&[0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 1]), TOO_BIG);
        assert_eq!(reason(&[0x82, 0xff, 0xff, 0, 0, 0, 0, 0x10, 0, 1]), TOO_BIG);
    }

    /// A pump between a client (first) and an engine's stream (second).
    fn pumped(tty: bool) -> (UnixStream, UnixStream) {
        let (client, server) = UnixStream::pair().expect("a pair");
        let (near, far) = UnixStream::pair().expect("a pair");
        tokio::spawn(pump(server, near, tty, BINARY));
        (client, far)
    }

    async fn read(stream: &mut UnixStream, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut bytes));
        read.await.expect("in time").expect("read");
        bytes
    }

    #[tokio::test]
    async fn messages_go_both_ways_and_pings_are_answered() {
        let (mut client, mut engine) = pumped(false);
        client.write_all(&masked(TEXT, b"in")).await.expect("sent");
        assert_eq!(read(&mut engine, 2).await, b"in");
        engine.write_all(b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\x01e").await.expect("sent");
        assert_eq!(read(&mut client, 6).await, b"\x82\x04oute");
        client.write_all(&masked(PING, b"p")).await.expect("sent");
        assert_eq!(read(&mut client, 3).await, b"\x8a\x01p");
        drop(engine);
        assert_eq!(read(&mut client, 4).await, b"\x88\x02\x03\xe8", "the output's end closes");
    }

    #[tokio::test]
    async fn a_client_may_close_and_may_not_break_the_rules() {
        for (sent, answer) in
            [(masked(CLOSE, b""), *b"\x88\x02\x03\xe8"), (vec![0x82, 1, 0], *b"\x88\x02\x03\xea")]
        {
            let (mut client, mut engine) = pumped(true);
            client.write_all(&sent).await.expect("sent");
            assert_eq!(read(&mut client, 4).await, answer);
            let mut rest = Vec::new();
            engine.read_to_end(&mut rest).await.expect("the attachment ends");
            assert!(rest.is_empty());
        }
    }

    #[tokio::test]
    async fn who_does_not_read_keeps_nobody_from_writing() {
        let (mut client, mut engine) = pumped(true);
        let input = vec![b'x'; 4 << 20];
        let sending = tokio::spawn(async move {
            for part in input.chunks(60_000) {
                client.write_all(&masked(BINARY, part)).await.expect("sent");
            }
            client
        });
        // The engine reads all of it although nobody takes what it has said.
        engine.write_all(&[b'y'; 100_000]).await.expect("written");
        assert_eq!(read(&mut engine, 4 << 20).await.len(), 4 << 20);
        drop(sending.await);
    }
}
