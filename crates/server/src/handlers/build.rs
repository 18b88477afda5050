//! Building images.

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_api::AuthConfig;
use yare_api::build::{self as api, BuildContext, BuildRequest, MAX_REQUEST};
use yare_buildkit::{BuildKit, Offer};
use yare_engine::Engine;
use yare_engine::build::{self, Ask, Form, Prune};
use yare_engine::images::Body;
use yare_errdefs::{Error, Result};

use crate::decode;
use crate::edge::Call;
use crate::query::Query;
use crate::reply::{self, JSON, Reply};

/// `POST /build`: the classic query, or a request of our own client in the body.
pub(super) async fn build(engine: &Arc<Engine>, call: Call) -> Result<Reply> {
    let auths = registry_config(&call.headers);
    let own =
        call.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == api::CONTENT_TYPE.as_bytes());
    let socket = call.socket();
    let (request, form, body) = if own {
        let (request, body) = own_request(call.body.into_parts().boxed()).await?;
        (request, Form::Messages, body)
    } else {
        let form = if call.query.flag("q") { Form::Quiet } else { Form::Classic };
        (classic(&call.query)?, form, call.body.into_parts().boxed())
    };
    // A step may be silent for hours: the build ends when its client leaves, not when that is noticed.
    let output = tokio::select! {
        output = build::build(engine, Ask { request, auths, form }, body) => output?,
        () = socket.gone() => return Err(Error::cancelled("the client left before the build began")),
    };
    Ok(reply::follow(JSON, socket, reply::parts(output)))
}

/// Credentials for every registry, in base64: what Docker's clients send with a build. A header that cannot
/// be read counts as none, as in Docker.
fn registry_config(headers: &HeaderMap) -> BTreeMap<String, AuthConfig> {
    let Some(text) = headers.get("x-registry-config") else { return BTreeMap::new() };
    let padded = base64::engine::general_purpose::URL_SAFE;
    let json = padded.decode(text.as_bytes()).ok();
    let auths =
        json.and_then(|json| serde_json::from_slice::<Option<BTreeMap<String, AuthConfig>>>(&json).ok());
    auths.flatten().unwrap_or_default()
}

/// `POST /build/prune`.
pub(super) async fn prune(engine: &Arc<Engine>, call: &Call) -> Result<Reply> {
    let keep = ["reserved-space", "keep-storage", "max-used-space"];
    let keep = keep.iter().map(|key| call.query.number::<i64>(key)).collect::<Result<Vec<_>>>()?;
    let prune = Prune {
        all: call.query.flag("all"),
        keep: keep.into_iter().flatten().max().unwrap_or_default(),
        filters: decode::filters(&call.query)?,
    };
    reply::json(StatusCode::OK, &build::prune(engine, prune).await?)
}

/// `POST /build/cancel`: a build ends with its client's connection; there is none that has an id.
pub(super) fn cancel(call: &Call) -> Result<Reply> {
    if call.query.text("id").is_none() {
        return Err(Error::invalid("build ID not provided"));
    }
    Ok(reply::empty(StatusCode::OK))
}

/// `POST /grpc`: BuildKit's services on the connection.
pub(super) fn buildkit(buildkit: &BuildKit, call: Call) -> Result<Reply> {
    let buildkit = buildkit.clone();
    call.takeover.switch(&call.headers, move |stream| async move { buildkit.serve(stream).await })
}

/// `POST /session`: the connection of a client that answers calls.
pub(super) fn session(buildkit: &BuildKit, call: Call) -> Result<Reply> {
    let (buildkit, offer) = (buildkit.clone(), Offer::of_headers(&call.headers));
    if offer.id.is_empty() {
        return Err(Error::invalid("a session needs an id: X-Docker-Expose-Session-Uuid"));
    }
    call.takeover.switch(&call.headers, move |stream| async move { buildkit.session(offer, stream).await })
}

/// Takes the JSON document off the front of a body.
async fn own_request(mut body: Body) -> Result<(BuildRequest, Body)> {
    let mut buffer = BytesMut::new();
    let mut length = None;
    loop {
        if length.is_none()
            && let Some(head) = buffer.first_chunk::<4>()
        {
            let told = u32::from_be_bytes(*head) as usize;
            if told > MAX_REQUEST {
                return Err(Error::invalid(format!(
                    "the build request has {told} bytes, and {MAX_REQUEST} is the most"
                )));
            }
            length = Some(told + 4);
        }
        if let Some(end) = length.filter(|end| buffer.len() >= *end) {
            let rest: Bytes = buffer.split_off(end).freeze();
            let request = serde_json::from_slice(&buffer[4..]).map_err(|error| {
                Error::invalid("the build request is no JSON document of the form wanted").caused_by(error)
            })?;
            let front = futures_util::stream::iter((!rest.is_empty()).then_some(Ok(rest)));
            return Ok((request, front.chain(body).boxed()));
        }
        match body.next().await {
            Some(piece) => buffer.extend_from_slice(&piece.map_err(Error::from)?),
            None => return Err(Error::invalid("the build request ends before its length")),
        }
    }
}

/// The query that Docker's classic clients send.
fn classic(query: &Query) -> Result<BuildRequest> {
    if query.text("version").is_some_and(|version| version == "2") {
        return Err(Error::unimplemented(
            "building with BuildKit through this endpoint is not built into this Yare",
        )
        .with_hint("install docker buildx, which builds with Yare, or set DOCKER_BUILDKIT=0"));
    }
    let number = |key: &str| query.number::<i64>(key).map(Option::unwrap_or_default);
    let remote = query.text("remote");
    Ok(BuildRequest {
        context: remote.as_deref().map(remote_context),
        dockerfile: query.or_empty("dockerfile"),
        tags: query.all("t"),
        build_args: json(query, "buildargs")?,
        target: query.or_empty("target"),
        platforms: query.text("platform").into_iter().collect(),
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        labels: json(query, "labels")?,
        network_mode: query.or_empty("networkmode"),
        extra_hosts: extra_hosts(query)?,
        shm_size: number("shmsize")?,
        ulimits: ulimits(query)?,
        cgroup_parent: query.or_empty("cgroupparent"),
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: number("cpushares")?,
        cpu_period: number("cpuperiod")?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: query.or_empty("cpusetcpus"),
        cpuset_mems: query.or_empty("cpusetmems"),
        squash: query.flag("squash"),
        cache_from: images(query, "cachefrom")?,
        ..BuildRequest::default()
    })
}

fn remote_context(remote: &str) -> BuildContext {
    let path = remote.split(['#', '?']).next().unwrap_or_default();
    let web = remote.starts_with("http://") || remote.starts_with("https://");
    let kind = if web && !path.ends_with(".git") { "http" } else { "git" };
    BuildContext { kind: kind.to_owned(), value: remote.to_owned(), ..BuildContext::default() }
}

fn json<T: serde::de::DeserializeOwned + Default>(query: &Query, key: &str) -> Result<BTreeMap<String, T>> {
    let Some(text) = query.text(key) else { return Ok(BTreeMap::new()) };
    serde_json::from_str::<Option<BTreeMap<String, T>>>(&text)
        .map(Option::unwrap_or_default)
        .map_err(|error| Error::invalid(format!("error reading {key}")).caused_by(error))
}

/// Images whose steps may be taken: a JSON list of names.
fn images(query: &Query, key: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let Some(text) = query.text(key) else { return Ok(Vec::new()) };
    let names: Option<Vec<String>> = serde_json::from_str(&text)
        .map_err(|error| Error::invalid(format!("error reading {key}")).caused_by(error))?;
    let entry =
        |name: String| BTreeMap::from([("type".to_owned(), "image".to_owned()), ("ref".to_owned(), name)]);
    Ok(names.unwrap_or_default().into_iter().filter(|name| !name.is_empty()).map(entry).collect())
}

fn ulimits(query: &Query) -> Result<Vec<String>> {
    let Some(text) = query.text("ulimits") else { return Ok(Vec::new()) };
    let list: Option<Vec<yare_api::Ulimit>> = serde_json::from_str(&text)
        .map_err(|error| Error::invalid("error reading ulimit settings").caused_by(error))?;
    let list = list.unwrap_or_default();
    Ok(list.iter().map(|limit| format!("{}={}:{}", limit.name, limit.soft, limit.hard)).collect())
}

/// A JSON list, or names and addresses one after the other.
fn extra_hosts(query: &Query) -> Result<Vec<String>> {
    let mut hosts = Vec::new();
    for text in query.all("extrahosts").into_iter().filter(|text| !text.is_empty()) {
        if text.starts_with('[') {
            let list: Vec<String> = serde_json::from_str(&text)
                .map_err(|error| Error::invalid("error reading extra hosts").caused_by(error))?;
            hosts.extend(list);
        } else {
            hosts.push(text);
        }
    }
    Ok(hosts)
}

/// Encodes as the requests of our own client have it; for tests of the whole way.
#[cfg(test)]
pub(crate) fn encoded(request: &BuildRequest) -> Vec<u8> {
    let text = serde_json::to_vec(request).unwrap();
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], &text].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(pieces: Vec<Vec<u8>>) -> Body {
        futures_util::stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece)))).boxed()
    }

    #[tokio::test]
    async fn the_document_ends_where_its_length_says() {
        let request = BuildRequest { tags: vec!["a".to_owned()], ..BuildRequest::default() };
        let mut bytes = encoded(&request);
        bytes.extend_from_slice(b"tar");
        for at in 0..bytes.len() {
            let (front, back) = bytes.split_at(at);
            let (read, rest) = own_request(body(vec![front.to_vec(), back.to_vec()])).await.unwrap();
            assert_eq!(read, request);
            let rest: Vec<u8> = rest.map(|piece| piece.unwrap().to_vec()).concat().await;
            assert_eq!(rest, b"tar", "{at}");
        }
        assert!(own_request(body(vec![vec![255; 4]])).await.is_err());
        assert!(own_request(body(vec![bytes[..7].to_vec()])).await.is_err());
    }

    #[test]
    fn a_classic_query_is_read() {
        let text = "t=a&t=b%3A1&buildargs=%7B%22X%22%3A%221%22%2C%22Y%22%3Anull%7D&labels=null&ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Soft%22%3A1%2C%22Hard%22%3A2%7D%5D&memory=5&extrahosts=%5B%22h%3A1.2.3.4%22%5D&nocache=1&cachefrom=%5B%22c%3A1%22%5D";
        let read = classic(&Query::parse(Some(text)).unwrap()).unwrap();
        assert_eq!(read.tags, ["a", "b:1"]);
        assert_eq!(read.build_args["X"].as_deref(), Some("1"));
        assert_eq!(read.build_args["Y"], None);
        assert_eq!((read.ulimits, read.memory, read.no_cache), (vec!["nofile=1:2".to_owned()], 5, true));
        assert_eq!(read.extra_hosts, ["h:1.2.3.4"]);
        assert_eq!(
            (read.cache_from[0]["type"].as_str(), read.cache_from[0]["ref"].as_str()),
            ("image", "c:1")
        );
        assert!(classic(&Query::parse(Some("cachefrom=x")).unwrap()).is_err());
        assert_eq!(remote_context("https://h/x.git#main").kind, "git");
        assert_eq!(remote_context("https://h/x.tar").kind, "http");
    }
}
