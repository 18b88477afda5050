//! A stream of JSON documents, one after another, as pull, events and stats send it.

use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use serde::de::DeserializeOwned;

use crate::{Error, Response, Result};

/// Reads one document after another from a response.
#[derive(Debug)]
pub struct JsonLines<T> {
    response: Response,
    buffer: BytesMut,
    ended: bool,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> JsonLines<T> {
    pub(crate) fn new(response: Response) -> Self {
        Self { response, buffer: BytesMut::new(), ended: false, kind: PhantomData }
    }

    /// The next document; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks or something that is no such document arrives.
    pub async fn next(&mut self) -> Result<Option<T>> {
        loop {
            let mut documents = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<T>();
            match documents.next() {
                Some(Ok(document)) => {
                    let used = documents.byte_offset();
                    self.buffer.advance(used);
                    return Ok(Some(document));
                }
                Some(Err(error)) if !error.is_eof() || self.ended => {
                    return Err(self.response.decode_error(error.to_string()));
                }
                None if self.ended => return Ok(None),
                _ => {}
            }
            match self.response.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => self.ended = true,
            }
        }
    }
}

impl<T> JsonLines<T> {
    /// The response underneath.
    pub fn response(&self) -> &Response {
        &self.response
    }
}

/// The engine's error text from an error body: `{"message": …, "hint": …}` or plain text.
pub(crate) fn server_error(status: u16, body: &[u8], call: &str) -> Error {
    #[derive(serde::Deserialize)]
    struct Reply {
        message: String,
        hint: Option<String>,
    }
    let (message, hint) = match serde_json::from_slice::<Reply>(body) {
        Ok(reply) => (reply.message, reply.hint),
        Err(_) => (String::from_utf8_lossy(body).trim().to_owned(), None),
    };
    // For clients that know no hints, the engine repeats the hint in the text.
    let hint = hint.filter(|hint| !hint.is_empty());
    let message = match hint.as_deref().and_then(|hint| message.strip_suffix(hint)) {
        Some(bare) if bare.ends_with('\n') => bare.to_owned(),
        _ => message,
    };
    let message = if message.is_empty() {
        let reason = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        format!("request returned {status} {} for API route {call}", reason.unwrap_or_default())
    } else {
        message.trim().to_owned()
    };
    Error::Server { status, message, hint }
}
