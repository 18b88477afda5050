//! The control socket, `<root>/control.sock`: how `yare registry gc` and `scrub` reach the process that has
//! the root open. Who can connect owns the root: its folder is 0700.

use super::query::Query;
use super::reply::{self, Reply};
use super::service::Service;
use crate::problem::{Code, Refusal, Result};
use crate::registry::fault;
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yare_errdefs::Error;

/// The most bytes of a socket's path; the kernel has room for one or two more.
const LONGEST: usize = 100;

/// The name of the socket below the root.
pub(crate) fn path(root: &Path) -> PathBuf {
    root.join("control.sock")
}

/// A path to the socket that is short enough, good while the descriptor is open.
pub(crate) fn short_path(root: &Path) -> std::io::Result<(Option<OwnedFd>, PathBuf)> {
    let path = path(root);
    if path.as_os_str().len() <= LONGEST {
        return Ok((None, path));
    }
    let folder = yare_sys::fs::open_dir(root)?;
    let path = Path::new(&yare_sys::fs::proc_path(folder.as_fd())).join("control.sock");
    Ok((Some(folder), path))
}

/// Answers what comes through the control socket.
pub(crate) async fn answer(
    service: &Arc<Service>,
    parts: &http::request::Parts,
    query: &Query,
) -> Result<Reply> {
    let dry_run = query.get("dry-run").is_some();
    match (&parts.method, parts.uri.path()) {
        (&Method::POST, "/gc") => {
            let service = Arc::clone(service);
            let collected = apart(async move {
                let collected = crate::collect::collect(&service.registry, dry_run).await?;
                service.metrics.collected(&collected);
                Ok(collected)
            });
            reply::json(&collected.await?, "application/json")
        }
        (&Method::POST, "/scrub") => {
            let service = Arc::clone(service);
            let scrubbed = apart(async move {
                let scrubbed = crate::scrub::run(&service.registry, dry_run).await?;
                service.metrics.scrubbed(&scrubbed);
                Ok(scrubbed)
            });
            reply::json(&scrubbed.await?, "application/json")
        }
        (&Method::POST, "/replicate") if dry_run => {
            let plan = crate::replicate::replication_plan(&service.registry).await?;
            reply::json(&plan, "application/json")
        }
        (&Method::POST, "/replicate") => {
            let asked = crate::replicate::ask_all(&service.registry).await?;
            reply::json(&asked, "application/json")
        }
        (&Method::POST, "/replicate/status") => {
            service.registry.records.catch_up().await?;
            let status = crate::replicate::replication_status(&service.registry)?;
            reply::json(&status, "application/json")
        }
        (&Method::POST, "/usage") => {
            reply::json(&crate::holdings::holdings(&service.registry).await?, "application/json")
        }
        (&Method::GET, "/metrics") => Ok(service.metrics_text()),
        _ => Err(Refusal::new(Code::Unsupported, "no such control").into()),
    }
}

/// Does something as a task of its own: a client that leaves must not stop it half way.
async fn apart<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(fault)?
}

/// Asks the process that has `root` open to do something; `None` when none has.
pub async fn ask(root: &Path, what: &str) -> yare_errdefs::Result<Option<Vec<u8>>> {
    let (_folder, socket) = match short_path(root) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stream = match tokio::net::UnixStream::connect(&socket).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(
                Error::unavailable(format!("cannot connect to {}", socket.display())).caused_by(error)
            );
        }
    };
    let failed = |error: hyper::Error| {
        Error::unavailable("the registry did not answer through its control socket").caused_by(error)
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let driving = tokio::spawn(connection);
    let request = Request::post(what).header(http::header::HOST, "control").body(String::new());
    let request = request.map_err(|error| Error::internal("cannot ask").caused_by(error))?;
    let reply = sender.send_request(request).await.map_err(failed)?;
    let status = reply.status();
    let body = reply.into_body().collect().await.map_err(failed)?.to_bytes();
    drop(sender);
    driving.abort();
    if status.is_success() {
        return Ok(Some(body.to_vec()));
    }
    Err(Error::internal(format!("the registry answered {status}: {}", String::from_utf8_lossy(&body))))
}
