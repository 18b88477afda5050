//! `commit`.

use yare_api::IDResponse;
use yare_client::Request;

use crate::context::Context;
use crate::flags::Given;
use crate::opts;
use crate::table::Outcome;

/// `commit`.
pub(crate) async fn commit(cx: &Context, given: &Given) -> Outcome {
    let (mut repository, mut tag) = (String::new(), String::new());
    if let Some(target) = given.arguments.get(1).filter(|target| !target.is_empty()) {
        let named = opts::reference::named(target, true)?;
        if named.is_digest {
            return Err("refusing to create a tag with a digest reference".into());
        }
        (repository, tag) = (named.repository, named.tag);
    }
    let mut request = Request::post("/commit")
        .query("author", given.text("author"))
        .query("comment", given.text("message"))
        .query("container", given.argument(0))
        .query("repo", repository)
        .query("tag", tag);
    for change in given.list("change") {
        request = request.query("changes", change);
    }
    if !given.bool_or("pause", true) {
        request = request.query("pause", "0");
    }
    let image: IDResponse = cx.client().json(request).await?;
    cx.line(image.id)?;
    Ok(0)
}
