//! `import`, `load`, `pull`, `push`.

use serde_json::Value;
use tokio::io::{AsyncRead, ReadBuf};
use yare_client::{Body, Request};

use super::progress::{self, Target};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::opts::{self, env::open_error};
use crate::session::Input;
use crate::table::Outcome;

/// Standard input as the body of a request.
pub(super) fn standard_input(cx: &Context) -> Body {
    Body::reader(InputReader(Input::new(cx.stdio.input)))
}

/// Our input, for a body that is sent while it is read.
pub(super) struct InputReader(pub Input);

impl AsyncRead for InputReader {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        match std::task::ready!(self.0.poll_read(cx, buffer.initialize_unfilled())) {
            Ok(count) => {
                buffer.advance(count);
                std::task::Poll::Ready(Ok(()))
            }
            Err(error) => std::task::Poll::Ready(Err(error)),
        }
    }
}

pub(super) async fn file(path: &str) -> Result<Body, Failure> {
    match tokio::fs::File::open(path).await {
        Ok(file) => Ok(Body::reader(file)),
        Err(error) => Err(Failure::new(open_error(path, &error))),
    }
}

/// `import`.
pub(crate) async fn import(cx: &Context, given: &Given) -> Outcome {
    let source = given.argument(0);
    let is_url = source.starts_with("http://") || source.starts_with("https://");
    let body = match source {
        "-" => standard_input(cx),
        _ if is_url => Body::empty(),
        _ => file(source).await?,
    };
    let mut request = Request::post("/images/create")
        .query("fromSrc", if is_url { source } else { "-" })
        .query("message", given.text("message"))
        .query("repo", given.arguments.get(1).map_or("", String::as_str))
        .query_opt("platform", given.text_opt("platform"));
    for change in given.list("change") {
        request = request.query("changes", change);
    }
    let stream = cx.client().stream(request.body("text/plain", body)).await?;
    progress::show(cx, Target::Output, stream, |_| {}).await?;
    Ok(0)
}

/// `load`.
pub(crate) async fn load(cx: &Context, given: &Given) -> Outcome {
    let input = given.text("input");
    let body = if !input.is_empty() {
        file(input).await?
    } else if rustix::termios::isatty(cx.stdio.input) {
        return Err("requested load from stdin, but stdin is empty".into());
    } else {
        standard_input(cx)
    };
    let quiet = given.bool("quiet") || !cx.terminal;
    let platforms = given.comma_list("platform");
    let mut request = Request::post("/images/load").query("quiet", if quiet { "1" } else { "0" });
    for platform in opts::platform::json_list(&platforms)? {
        request = request.query("platform", platform);
    }
    let mut response = cx.client().send(request.body("application/x-tar", body)).await?;
    if response.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
        progress::show(cx, Target::Output, response.into_json_lines(), |_| {}).await?;
        return Ok(0);
    }
    while let Some(chunk) = response.chunk().await? {
        cx.write(chunk)?;
    }
    Ok(0)
}

/// Credentials for the registry of an image, as the header takes them.
fn registry_auth(cx: &Context, repository: &str) -> Result<String, Failure> {
    let domain = repository.split('/').next().unwrap_or_default();
    Ok(yare_api::auth::encode(&cx.config().credentials(domain)?.unwrap_or_default()))
}

fn pull_request(
    cx: &Context,
    named: &opts::reference::Named,
    platform: Option<&str>,
    all: bool,
) -> Result<Request, Failure> {
    Ok(Request::post("/images/create")
        .query("fromImage", named.repository.clone())
        .query_opt("platform", platform.filter(|platform| !platform.is_empty()))
        .query_opt("tag", (!all).then(|| named.tag.clone()))
        .header("x-registry-auth", registry_auth(cx, &named.repository)?))
}

/// `pull`.
pub(crate) async fn pull(cx: &Context, given: &Given) -> Outcome {
    let (all, quiet, name) = (given.bool("all-tags"), given.bool("quiet"), given.argument(0));
    let bare = opts::reference::named(name, false)?;
    if all && !bare.tag.is_empty() {
        return Err("tag can't be used with --all-tags/-a".into());
    }
    let named = opts::reference::named(name, !all)?;
    if !all && bare.tag.is_empty() && !quiet {
        cx.line(format_args!("Using default tag: {}", named.tag))?;
    }
    let every = given.bool("all-platforms").then(|| "1".to_owned());
    let request = pull_request(cx, &named, given.text_opt("platform"), all)?.query_opt("allPlatforms", every);
    let stream = cx.client().stream(request).await?;
    progress::show(cx, if quiet { Target::Quiet } else { Target::Output }, stream, |_| {}).await?;
    let separator = if named.is_digest { '@' } else { ':' };
    match named.tag.as_str() {
        "" => cx.line(&named.repository)?,
        tag => cx.line(format_args!("{}{separator}{tag}", named.repository))?,
    }
    Ok(0)
}

/// The pull that `run` makes for an image that is not there.
pub(crate) async fn pull_for_run(
    cx: &Context,
    image: &str,
    platform: &str,
    quiet: bool,
) -> Result<(), Failure> {
    let named = opts::reference::named(image, true)?;
    let request = pull_request(cx, &named, Some(platform), false)?;
    let stream = cx.client().stream(request).await?;
    progress::show(cx, if quiet { Target::Quiet } else { Target::Errors }, stream, |_| {}).await
}

/// `push`.
pub(crate) async fn push(cx: &Context, given: &Given) -> Outcome {
    let (all, quiet) = (given.bool("all-tags"), given.bool("quiet"));
    let bare = opts::reference::named(given.argument(0), false)?;
    if all && !bare.tag.is_empty() {
        return Err("tag can't be used with --all-tags/-a".into());
    }
    let named = opts::reference::named(given.argument(0), !all)?;
    if !all && bare.tag.is_empty() && !quiet {
        cx.line(format_args!("Using default tag: {}", named.tag))?;
    }
    let platform = given.text_opt("platform").map(opts::platform::json).transpose()?;
    let request = Request::post(format!("/images/{}/push", Request::segment(&named.repository)))
        .query_opt("platform", platform)
        .query_opt("tag", (!all).then(|| named.tag.clone()))
        .header("x-registry-auth", registry_auth(cx, &named.repository)?);
    let stream = cx.client().stream(request).await?;
    progress::show(cx, if quiet { Target::Quiet } else { Target::Output }, stream, |_: Value| {}).await?;
    if quiet {
        cx.line(format_args!("{}:{}", named.repository, named.tag))?;
    }
    Ok(0)
}
