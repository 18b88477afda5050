//! The request on its way: what the engine is told, and what is sent along.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Poller, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use yare_api::build::{BuildContext, BuildOutput, BuildRequest, CONTENT_TYPE, MAX_REQUEST};
use yare_client::{Address, Body, Request, Response};

use super::attributes::{Destination, Output};
use super::pack::{self, Packing, Selection};
use super::source::{Source, local};
use crate::commands::transfer::InputReader;
use crate::context::Context;
use crate::failure::Failure;
use crate::session::Input;

/// The status of an engine that does not see the files that its client does.
const OTHER_FILES: u16 = 412;

/// The engine's answer.
pub(super) struct Sent {
    /// Its head; the messages are still to be read.
    pub reply: Response,
    /// Where its output bytes go, by the outputs' places in the request.
    pub destinations: Vec<Option<Destination>>,
}

/// Sends a request with its context.
///
/// A directory is named, not sent, to an engine that is on this host: it reads the files in place. One that
/// turns out not to see them (in a container, behind a forwarded socket) says so, and gets a tar.
pub(super) async fn send(
    cx: &Context,
    mut request: BuildRequest,
    outputs: &[Output],
    source: Source,
    upload: &Upload,
) -> Result<Sent, Failure> {
    let elsewhere = !matches!(cx.address, Address::Unix(_));
    let prefix: Vec<u8> = match source {
        Source::Directory(directory) => {
            if !elsewhere && let Some(sent) = in_place(cx, &mut request, outputs, &directory).await? {
                return Ok(sent);
            }
            return packed(cx, request, outputs, directory, upload).await;
        }
        Source::Archive(head) => head,
        Source::Remote(context) => {
            request.context = Some(context);
            Vec::new()
        }
        Source::Nothing => {
            request.context = Some(BuildContext { kind: "none".to_owned(), ..BuildContext::default() });
            Vec::new()
        }
    };
    if elsewhere {
        check_elsewhere(&request)?;
    }
    let destinations = by_message(&mut request, outputs);
    let mut bytes = framed(&request)?;
    let body = if prefix.is_empty() {
        Body::bytes(bytes)
    } else {
        bytes.extend_from_slice(&prefix);
        Body::reader(io::Cursor::new(bytes).chain(InputReader(Input::new(cx.stdio.input))))
    };
    match post(cx, body).await {
        Ok(reply) => Ok(Sent { reply, destinations }),
        Err(error) => {
            // The main context is no directory here, so what it does not see is a named one.
            if error.status() == Some(OTHER_FILES) {
                check_elsewhere(&request)?;
            }
            Err(error.into())
        }
    }
}

/// Has the engine read the directory; `None` when it does not see it.
async fn in_place(
    cx: &Context,
    request: &mut BuildRequest,
    outputs: &[Output],
    directory: &std::path::Path,
) -> Result<Option<Sent>, Failure> {
    request.context = Some(local(directory)?);
    // What the engine writes belongs to root; so only root lets it write, others get the bytes.
    let destinations = match rustix::process::geteuid().is_root() {
        true => by_engine(cx, request, outputs),
        false => by_message(request, outputs),
    };
    match post(cx, Body::bytes(framed(request)?)).await {
        Ok(reply) => Ok(Some(Sent { reply, destinations })),
        Err(error) if error.status() == Some(OTHER_FILES) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sends the directory as a tar behind the request.
async fn packed(
    cx: &Context,
    mut request: BuildRequest,
    outputs: &[Output],
    directory: PathBuf,
    upload: &Upload,
) -> Result<Sent, Failure> {
    check_elsewhere(&request)?;
    request.context = None;
    let destinations = by_message(&mut request, outputs);
    let beside = request.ignore_inline.as_deref().and_then(|text| STANDARD.decode(text).ok());
    let selection = Selection::of(&directory, &request.dockerfile, beside.as_deref())?;
    let (stream, packing) = pack::stream(directory, selection)?;
    let tar = Checked { stream, packing, upload: upload.clone() };
    let body = Body::reader(io::Cursor::new(framed(&request)?).chain(tar));
    match post(cx, body).await {
        Ok(reply) => Ok(Sent { reply, destinations }),
        Err(error) => Err(upload.fault().unwrap_or_else(|| error.into())),
    }
}

/// What cannot be asked of an engine that does not see our files.
fn check_elsewhere(request: &BuildRequest) -> Result<(), Failure> {
    if let Some((name, _)) = request.contexts.iter().find(|(_, context)| context.kind == "local") {
        return Err(Failure::new(format!(
            "the engine does not see the files of this host, so build context {name} cannot be a directory"
        ))
        .with_hint("give an image, a git repository or a URL, or build on the engine's host"));
    }
    if let Some(id) = request.ssh.keys().next() {
        return Err(Failure::new(format!(
            "the engine does not see the sockets of this host, so it cannot use the SSH agent {id}"
        ))
        .with_hint("build on the engine's host"));
    }
    Ok(())
}

/// Leaves the writing to the engine, but for standard output.
fn by_engine(cx: &Context, request: &mut BuildRequest, outputs: &[Output]) -> Vec<Option<Destination>> {
    let told = outputs.iter().map(|output| match &output.destination {
        // A layout as a folder is a tar that we take apart.
        Some(Destination::Directory(_)) if output.wanted.kind != "local" => {
            (output.wanted.clone(), output.destination.clone())
        }
        Some(Destination::File(path) | Destination::Directory(path)) => {
            let mut wanted = output.wanted.clone();
            wanted.attributes.insert("dest".to_owned(), cx.absolute(path));
            (wanted, None)
        }
        other => (output.wanted.clone(), other.clone()),
    });
    let (wanted, destinations): (Vec<BuildOutput>, _) = told.unzip();
    request.outputs = wanted;
    destinations
}

/// Has the engine send what goes into files.
fn by_message(request: &mut BuildRequest, outputs: &[Output]) -> Vec<Option<Destination>> {
    request.outputs = outputs.iter().map(|output| output.wanted.clone()).collect();
    outputs.iter().map(|output| output.destination.clone()).collect()
}

/// The length and the document.
fn framed(request: &BuildRequest) -> Result<Vec<u8>, Failure> {
    let document = serde_json::to_vec(request).map_err(|error| Failure::new(error.to_string()))?;
    let length = u32::try_from(document.len()).ok().filter(|_| document.len() <= MAX_REQUEST);
    let Some(length) = length else {
        return Err(Failure::new(format!(
            "the request has {} bytes, more than the {MAX_REQUEST} that an engine takes",
            document.len()
        ))
        .with_hint("the Dockerfile, its ignore file and all secrets are in it"));
    };
    Ok([&length.to_be_bytes(), document.as_slice()].concat())
}

/// The credentials of every registry, as the header takes them.
fn registry_config(cx: &Context) -> String {
    let (all, failures) = cx.config().all_credentials();
    for failure in failures {
        cx.warn(format_args!("WARNING: credentials are missing in this build: {}", failure.text));
    }
    yare_api::auth::encode_all(&all)
}

async fn post(cx: &Context, body: Body) -> Result<Response, yare_client::Error> {
    let request = Request::post("/build").header("x-registry-config", registry_config(cx));
    cx.client().send(request.body(CONTENT_TYPE, body)).await
}

/// A context on its way, as the display and whoever waits for the answer see it.
#[derive(Debug, Clone, Default)]
pub(super) struct Upload(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    ended: bool,
    fault: Option<Failure>,
}

impl Upload {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes have been sent, and whether these are all.
    pub(super) fn progress(&self) -> (u64, bool) {
        let state = self.state();
        (state.bytes, state.ended)
    }

    /// Why the context could not be read, once; the connection only knows that it was broken off.
    pub(super) fn fault(&self) -> Option<Failure> {
        self.state().fault.take()
    }
}

/// A tar that ends with an error when it is not whole, so that the engine does not take it for whole.
struct Checked {
    stream: tokio::net::UnixStream,
    packing: Packing,
    upload: Upload,
}

impl AsyncRead for Checked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let count = buffer.filled().len() - before;
        if count > 0 || buffer.remaining() == 0 {
            self.upload.state().bytes += count as u64;
            return Poll::Ready(Ok(()));
        }
        let outcome = ready!(self.packing.poll(cx));
        let mut state = self.upload.state();
        state.ended = true;
        Poll::Ready(outcome.map_err(|failure| {
            let text = failure.text.clone();
            state.fault = Some(failure);
            io::Error::other(text)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_framed() {
        let request = BuildRequest { target: "x".to_owned(), ..BuildRequest::default() };
        assert_eq!(framed(&request).unwrap(), b"\0\0\0\x0e{\"target\":\"x\"}");
        let large = BuildRequest { target: "x".repeat(MAX_REQUEST), ..BuildRequest::default() };
        assert!(framed(&large).unwrap_err().text.contains("more than the"));
    }

    #[test]
    fn a_context_that_cannot_be_read_ends_with_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let (stream, packing) =
                pack::stream(PathBuf::from("/nowhere/context"), Selection::default()).unwrap();
            let upload = Upload::default();
            let mut tar = Checked { stream, packing, upload: upload.clone() };
            let mut bytes = Vec::new();
            assert!(tar.read_to_end(&mut bytes).await.is_err(), "an end would make it look whole");
            let failure = upload.fault().unwrap();
            let expected =
                "failed to read the build context: open /nowhere/context: no such file or directory";
            assert_eq!(failure.text, expected);
        });
    }
}
