//! `inspect` in all its forms.

use yare_client::Request;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{Json, compile};
use crate::opts;
use crate::table::Outcome;

/// What can be inspected: its name in `--type`, where it is, and in which order `inspect` looks.
const KINDS: &[(&str, &str, &str)] = &[
    ("container", "/containers/", "/json"),
    ("image", "/images/", "/json"),
    ("network", "/networks/", ""),
    ("volume", "/volumes/", ""),
    ("plugin", "/plugins/", "/json"),
];
/// Kinds that belong to a swarm.
const SWARM: &[&str] = &["node", "service", "task", "secret", "config"];

fn request(kind: &str, name: &str, query: &[(&'static str, String)]) -> Request {
    let (_, before, after) = KINDS.iter().find(|(known, _, _)| *known == kind).unwrap_or(&KINDS[0]);
    let mut request = Request::get(format!("{before}{}{after}", Request::segment(name)));
    for (name, value) in query {
        request = request.query(name, value);
    }
    request
}

/// `inspect`: whatever has that name.
pub(crate) async fn any(cx: &Context, given: &Given) -> Outcome {
    let kind = given.text("type");
    let mut query = Vec::new();
    if given.bool("size") && matches!(kind, "" | "container") {
        query.push(("size", "1".to_owned()));
    }
    if kind.is_empty() {
        return each(cx, given, async |name| first_of_any(cx, name, &query).await).await;
    }
    if SWARM.contains(&kind) {
        return Err(Failure::new(format!("{kind} objects belong to a swarm, which this engine has not")));
    }
    if !KINDS.iter().any(|(known, _, _)| *known == kind) {
        let text = "must be one of \"config\", \"container\", \"image\", \"network\", \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\"";
        return Err(Failure::new(format!("unknown type: {}: {text}", opts::quote(kind))));
    }
    each(cx, given, async |name| Ok(cx.client().json(request(kind, name, &query)).await?)).await
}

async fn first_of_any(cx: &Context, name: &str, size: &[(&'static str, String)]) -> Result<Json, Failure> {
    for (kind, _, _) in KINDS {
        let query = if *kind == "container" { size } else { &[] };
        match cx.client().json(request(kind, name, query)).await {
            Ok(document) => return Ok(document),
            // 501: a kind that this engine does not have.
            Err(error) if error.is_not_found() || error.status() == Some(501) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(format!("error: no such object: {name}")))
}

/// `container inspect`.
pub(crate) async fn containers(cx: &Context, given: &Given) -> Outcome {
    let query = if given.bool("size") { vec![("size", "1".to_owned())] } else { Vec::new() };
    each(cx, given, async |name| Ok(cx.client().json(request("container", name, &query)).await?)).await
}

/// `image inspect`.
pub(crate) async fn images(cx: &Context, given: &Given) -> Outcome {
    let platform = given.text_opt("platform").map(opts::platform::json).transpose()?;
    let query: Vec<_> = platform.map(|platform| ("platform", platform)).into_iter().collect();
    each(cx, given, async |name| Ok(cx.client().json(request("image", name, &query)).await?)).await
}

/// `network inspect`.
pub(crate) async fn networks(cx: &Context, given: &Given) -> Outcome {
    let query = if given.bool("verbose") { vec![("verbose", "true".to_owned())] } else { Vec::new() };
    each(cx, given, async |name| Ok(cx.client().json(request("network", name, &query)).await?)).await
}

/// `volume inspect`.
pub(crate) async fn volumes(cx: &Context, given: &Given) -> Outcome {
    each(cx, given, async |name| Ok(cx.client().json(request("volume", name, &[])).await?)).await
}

/// Prints what there is, then what is missing.
async fn each<'g, F, Fut>(cx: &Context, given: &'g Given, fetch: F) -> Outcome
where
    F: Fn(&'g str) -> Fut,
    Fut: Future<Output = Result<Json, Failure>>,
{
    let mut documents = Vec::new();
    let mut failures = Vec::new();
    for name in &given.arguments {
        match fetch(name).await {
            Ok(document) => documents.push(document),
            Err(failure) => failures.push(failure),
        }
    }
    cx.write(print(&documents, given.text("format"))?)?;
    for failure in &failures {
        cx.report(failure);
    }
    Ok(i32::from(!failures.is_empty()))
}

/// The documents as a list, a line each, or through a template.
pub(crate) fn print(documents: &[Json], format: &str) -> Result<String, Failure> {
    match format {
        "" => Ok(format!("{}\n", Json::List(documents.to_vec()).pretty("    "))),
        "json" => Ok(format!("{}\n", Json::List(documents.to_vec()).compact())),
        template => {
            let template = compile(template, false)
                .map_err(|why| Failure::new(format!("template parsing error: {why}")).with_code(64))?;
            let mut text = String::new();
            for document in documents {
                let one = template
                    .render(document)
                    .map_err(|why| Failure::new(format!("template parsing error: {why}")))?;
                text.push_str(&one);
                text.push('\n');
            }
            Ok(text)
        }
    }
}
