//! `save` and `export`: a tar to a file or to standard output.

use std::io::Write as _;

use yare_client::Request;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::opts;
use crate::table::Outcome;

/// `save`.
pub(crate) async fn save(cx: &Context, given: &Given) -> Outcome {
    let mut request = Request::get("/images/get");
    for name in &given.arguments {
        request = request.query("names", name);
    }
    for platform in opts::platform::json_list(&given.comma_list("platform"))? {
        request = request.query("platform", platform);
    }
    fetch(cx, request, given.text("output"), ("save", "image")).await
}

/// `export`.
pub(crate) async fn export(cx: &Context, given: &Given) -> Outcome {
    let request = Request::get(format!("/containers/{}/export", Request::segment(given.argument(0))));
    fetch(cx, request, given.text("output"), ("export", "container")).await
}

/// Writes the reply to a file (whole or not at all) or to standard output.
pub(super) async fn fetch(cx: &Context, request: Request, path: &str, (verb, what): (&str, &str)) -> Outcome {
    if path.is_empty() {
        if cx.terminal {
            return Err(Failure::new(format!(
                "cowardly refusing to {verb} to a terminal. Use the -o flag or redirect"
            ))
            .with_hint("name the file: -o file.tar"));
        }
        let mut response = cx.client().send(request).await?;
        while let Some(chunk) = response.chunk().await? {
            cx.write(chunk)?;
        }
        return Ok(0);
    }
    if std::fs::metadata(path).is_ok_and(|existing| !existing.is_file()) {
        return Err(Failure::new(format!(
            "invalid output path: {} must be a regular file",
            opts::quote(path)
        )));
    }
    let problem = |error: std::io::Error| {
        Failure::new(format!("failed to {verb} {what}: {}", opts::env::open_error(path, &error)))
    };
    let mut response = cx.client().send(request).await?;
    let draft = format!("{path}.{}.tmp", std::process::id());
    let written = async {
        let mut file = std::fs::File::create(&draft).map_err(problem)?;
        while let Some(chunk) = response.chunk().await? {
            file.write_all(&chunk).map_err(problem)?;
        }
        std::fs::rename(&draft, path).map_err(problem)
    }
    .await;
    if written.is_err() {
        drop(std::fs::remove_file(&draft));
    }
    written.map(|()| 0)
}
