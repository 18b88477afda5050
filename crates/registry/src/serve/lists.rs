//! Lists: tags, repositories, referrers.

use super::reply::{FILTERS, Reply, json, set};
use super::service::Call;
use crate::access::Action;
use crate::listing::{self, PAGE, Wanted};
use crate::manifests::no_repository;
use crate::name::RepositoryName;
use crate::problem::Result;
use crate::registry::Registry;
use http::header::LINK;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::value::RawValue;
use yare_oci::{ContentDigest, MediaType};

fn wanted(call: &Call) -> Result<Wanted> {
    Ok(Wanted::parse(call.query.get("n"), call.query.get("last").map(str::to_owned))?)
}

/// Tells where the next page is.
fn link(reply: &mut Reply, call: &Call, wanted: &Wanted, next: Option<&str>, more: &str) {
    let Some(next) = next else { return };
    let last = utf8_percent_encode(next, NON_ALPHANUMERIC);
    let (path, count) = (call.parts.uri.path(), wanted.count.unwrap_or(PAGE));
    set(reply.headers_mut(), LINK, &format!("<{path}?last={last}&n={count}{more}>; rel=\"next\""));
}

/// `GET /v2/<name>/tags/list`
pub(crate) fn tags(registry: &Registry, call: &Call, name: &RepositoryName) -> Result<Reply> {
    let wanted = wanted(call)?;
    let page = listing::tags(&registry.records.view()?, name.as_str(), &wanted)?;
    let more = registry.images.as_ref().map(|images| images.tags(name.as_str())).unwrap_or_default();
    let page = match page {
        None if more.is_empty() => return Err(no_repository(name.as_str()).into()),
        page => page.unwrap_or_default().with(more, &wanted, str::to_lowercase),
    };
    let value = serde_json::json!({ "name": name.as_str(), "tags": page.entries });
    let mut reply = json(&value, "application/json")?;
    link(&mut reply, call, &wanted, page.next.as_deref(), "");
    Ok(reply)
}

/// `GET /v2/_catalog`: the repositories that the caller may pull from.
pub(crate) fn catalog(registry: &Registry, call: &Call) -> Result<Reply> {
    let wanted = wanted(call)?;
    let may_see = |name: &str| call.may_list(name) || call.allows(name, Action::Pull);
    let page = listing::repositories(&registry.records.view()?, &wanted, may_see)?;
    let mut more = registry.images.as_ref().map(|images| images.repositories()).unwrap_or_default();
    more.retain(|name| may_see(name));
    let page = page.with(more, &wanted, str::to_owned);
    let mut reply = json(&serde_json::json!({ "repositories": page.entries }), "application/json")?;
    link(&mut reply, call, &wanted, page.next.as_deref(), "");
    Ok(reply)
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: &'a [Box<RawValue>],
}

/// `GET /v2/<name>/referrers/<digest>`: an index, empty where there is nothing.
pub(crate) fn referrers(
    registry: &Registry,
    call: &Call,
    name: &RepositoryName,
    digest: &ContentDigest,
) -> Result<Reply> {
    let wanted = wanted(call)?;
    let kind = call.query.get("artifactType").filter(|kind| !kind.is_empty());
    let view = registry.records.view()?;
    let page = listing::referrers(&view, (name.as_str(), digest), kind, &wanted)?;
    let index = Index { schema_version: 2, media_type: MediaType::OCI_INDEX, manifests: &page.entries };
    let mut reply = json(&index, MediaType::OCI_INDEX)?;
    if kind.is_some() {
        set(reply.headers_mut(), FILTERS, "artifactType");
    }
    let more = kind.map(|kind| format!("&artifactType={}", utf8_percent_encode(kind, NON_ALPHANUMERIC)));
    link(&mut reply, call, &wanted, page.next.as_deref(), &more.unwrap_or_default());
    Ok(reply)
}
