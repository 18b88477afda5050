//! Query strings as plain values: what each route asks for, before anything happens.
//!
//! Texts of refusals are Docker's. What an option means, and whether two go together, is the engine's
//! business.

use jiff::Timestamp;
use yare_api::filters::Filters;
use yare_engine::containers::{AttachOptions, LogsOptions, RemoveOptions};
use yare_engine::events::Window;
use yare_engine::{containers, images};
use yare_errdefs::{Error, Result};
use yare_oci::Platform;

use crate::query::{Query, quoted};

/// `filters`, in either of its forms.
pub(crate) fn filters(query: &Query) -> Result<Filters> {
    Filters::parse(query.first("filters").unwrap_or_default())
}

/// `GET /containers/json`.
pub(crate) fn container_list(query: &Query) -> Result<containers::ListOptions> {
    let limit = query.number::<i64>("limit")?.filter(|limit| *limit > 0);
    Ok(containers::ListOptions {
        all: query.flag("all"),
        limit: limit.and_then(|limit| usize::try_from(limit).ok()),
        size: query.flag("size"),
        filters: filters(query)?,
    })
}

/// `DELETE /containers/{id}`.
pub(crate) fn container_remove(query: &Query) -> RemoveOptions {
    RemoveOptions { force: query.flag("force"), volumes: query.flag("v"), link: query.flag("link") }
}

/// `GET /containers/{id}/stats`. Missing, `stream` is true.
pub(crate) fn container_stats(query: &Query) -> Result<containers::StatsOptions> {
    let stream = query.first("stream").is_none() || query.flag("stream");
    let one_shot = query.flag("one-shot");
    if stream && one_shot {
        return Err(Error::invalid("cannot have stream=true and one-shot=true"));
    }
    Ok(containers::StatsOptions { stream, one_shot })
}

/// `POST /commit`. Missing, `pause` is true.
pub(crate) fn commit(query: &Query) -> Result<containers::CommitRequest> {
    Ok(containers::CommitRequest {
        container: query.or_empty("container"),
        repository: query.or_empty("repo"),
        tag: query.or_empty("tag"),
        comment: query.or_empty("comment"),
        author: query.or_empty("author"),
        pause: query.first("pause").is_none() || query.flag("pause"),
        changes: query.all("changes"),
        config: None,
    })
}

/// `GET /containers/{id}/logs`.
pub(crate) fn container_logs(query: &Query) -> Result<LogsOptions> {
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    Ok(LogsOptions {
        stdout,
        stderr,
        follow: query.flag("follow"),
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
        since: moment(query, "since")?,
        until: moment(query, "until")?,
        tail: query.first("tail").and_then(|tail| tail.parse().ok()),
    })
}

/// `POST /containers/{id}/attach`.
pub(crate) fn container_attach(query: &Query) -> AttachOptions {
    AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
        detach_keys: query.or_empty("detachKeys"),
    }
}

/// The signal and the patience of `stop` and `restart`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) signal: Option<String>,
    /// Seconds; negative is for ever.
    pub(crate) timeout: Option<i64>,
}

/// `POST /containers/{id}/stop` and `restart`.
pub(crate) fn container_stop(query: &Query) -> Result<Stop> {
    Ok(Stop { signal: query.text("signal"), timeout: query.number("t")? })
}

/// The size of a terminal, in characters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) height: u16,
    pub(crate) width: u16,
}

/// `POST /containers/{id}/resize` and `/exec/{id}/resize`.
pub(crate) fn resize(query: &Query) -> Result<Size> {
    let side = |key: &str, name: &str| {
        let text = query.first(key).unwrap_or_default();
        text.parse().map_err(|_| {
            let text = quoted(text);
            Error::invalid(format!("invalid resize {name} {text}: it must be a number from 0 to 65535"))
        })
    };
    Ok(Size { height: side("h", "height")?, width: side("w", "width")? })
}

/// `platform` of the form `linux/arm64/v8`.
pub(crate) fn platform(query: &Query) -> Result<Option<Platform>> {
    let text = query.text("platform");
    text.map(|text| Platform::parse(&text).map_err(Error::invalid)).transpose()
}

/// `GET /events`.
pub(crate) fn events(query: &Query) -> Result<(Window, Filters)> {
    let window = Window { since: moment(query, "since")?, until: moment(query, "until")? };
    if let (Some(since), Some(until)) = (window.since, window.until)
        && since > until
    {
        return Err(Error::invalid(format!("`since` time ({since}) cannot be after `until` time ({until})")));
    }
    Ok((window, filters(query)?))
}

/// Seconds since 1970 with an optional fraction; missing, empty and 0 are no moment.
fn moment(query: &Query, key: &str) -> Result<Option<Timestamp>> {
    let Some(text) = query.text(key).filter(|text| text != "0") else { return Ok(None) };
    let (seconds, nanos) = yare_api::time::parse_unix(&text)?;
    let moment = Timestamp::new(seconds, nanos);
    moment.map(Some).map_err(|_| Error::invalid(format!("the time {} is out of range", quoted(&text))))
}

/// `GET /images/json`.
pub(crate) fn image_list(query: &Query) -> Result<images::ListOptions> {
    Ok(images::ListOptions {
        all: query.flag("all"),
        shared_size: query.flag("shared-size"),
        manifests: query.flag("manifests"),
        filters: filters(query)?,
    })
}

/// What `POST /images/create` is asked for.
#[derive(Debug)]
pub(crate) enum ImageCreate {
    /// An image of a registry.
    Pull {
        /// Name, with a tag or digest when one was given.
        reference: String,
        /// For which platform.
        platform: Option<Platform>,
        /// For every platform: an addition of Yare.
        all_platforms: bool,
    },
    /// A tar in the request body, or at an address.
    Import(images::ImportRequest),
}

/// `POST /images/create`.
pub(crate) fn image_create(query: &Query) -> Result<ImageCreate> {
    if let Some(image) = query.text("fromImage") {
        let reference = match query.text("tag") {
            None => image,
            Some(digest) if digest.contains(':') => format!("{image}@{digest}"),
            Some(tag) => format!("{image}:{tag}"),
        };
        let all_platforms = query.flag("allPlatforms");
        return Ok(ImageCreate::Pull { reference, platform: platform(query)?, all_platforms });
    }
    match query.text("fromSrc").as_deref() {
        Some(source) => Ok(ImageCreate::Import(images::ImportRequest {
            url: Some(source).filter(|source| *source != "-").map(str::to_owned),
            repository: query.or_empty("repo"),
            tag: query.or_empty("tag"),
            message: query.or_empty("message"),
            changes: query.all("changes"),
            platform: platform(query)?,
        })),
        None => Err(Error::invalid("one of fromImage and fromSrc must be given")),
    }
}

/// What to search for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ImageSearch {
    pub(crate) term: String,
    pub(crate) limit: usize,
    pub(crate) filters: Filters,
}

/// `GET /images/search`.
pub(crate) fn image_search(query: &Query) -> Result<ImageSearch> {
    let limit = match query.text("limit") {
        None => 25,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=100).contains(limit))
            .ok_or_else(|| Error::invalid(format!("limit {text} is outside the range of [1, 100]")))?,
    };
    Ok(ImageSearch { term: query.or_empty("term"), limit, filters: filters(query)? })
}

/// A platform as JSON, as clients of API 1.46 and later send it.
pub(crate) fn json_platform(query: &Query) -> Result<Option<Platform>> {
    query.text("platform").map(|text| parse_platform(&text)).transpose()
}

/// Platforms as JSON, one a value.
pub(crate) fn json_platforms(query: &Query, key: &str) -> Result<Vec<Platform>> {
    let texts = query.all(key);
    texts.iter().filter(|text| !text.is_empty()).map(|text| parse_platform(text)).collect()
}

fn parse_platform(text: &str) -> Result<Platform> {
    let platform: Platform = serde_json::from_str(text)
        .map_err(|_| Error::invalid(format!("{text:?} is an invalid platform: not JSON")))?;
    Ok(Platform::new(&platform.os, &platform.architecture, &platform.variant))
}

/// How to remove an image.
#[derive(Debug)]
pub(crate) struct ImageRemove {
    pub(crate) options: images::RemoveOptions,
    pub(crate) platforms: Vec<Platform>,
}

/// `DELETE /images/{name}`.
pub(crate) fn image_remove(query: &Query) -> Result<ImageRemove> {
    let options = images::RemoveOptions { force: query.flag("force"), no_prune: query.flag("noprune") };
    Ok(ImageRemove { options, platforms: json_platforms(query, "platforms")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    fn query(text: &str) -> Query {
        Query::parse(Some(text)).expect("a query")
    }

    #[test]
    fn lists_are_limited_by_positive_numbers_only() {
        let limit = |text: &str| container_list(&query(text)).expect("decoded").limit;
        assert_eq!(limit("limit=5"), Some(5));
        assert_eq!(limit("limit=0"), None);
        assert_eq!(limit("limit=-1"), None);
        assert_eq!(limit(""), None);
        assert!(container_list(&query("limit=x")).is_err());
        let error = container_list(&query("filters=nope")).expect_err("no filter");
        assert_eq!(error.to_string(), "invalid filter");
    }

    #[test]
    fn logs_need_a_stream() {
        let error = container_logs(&query("follow=1")).expect_err("no stream");
        assert_eq!(error.to_string(), "Bad parameters: you must choose at least one stream");
        let logs = container_logs(&query("stderr=1&tail=5&since=1577836800.000000001&timestamps=1"));
        let logs = logs.expect("decoded");
        assert!(logs.stderr && !logs.stdout && logs.timestamps && !logs.follow);
        assert_eq!(logs.tail, Some(5));
        assert_eq!(logs.since.map(Timestamp::as_nanosecond), Some(1_577_836_800_000_000_001));
        for all in ["stdout=1&tail=all", "stdout=1&tail=x", "stdout=1", "stdout=1&tail=-1"] {
            assert_eq!(container_logs(&query(all)).expect("decoded").tail, None, "{all}");
        }
    }

    #[test]
    fn stops_may_wait_for_ever() {
        let stop = container_stop(&query("signal=INT&t=-1")).expect("decoded");
        assert_eq!(stop, Stop { signal: Some("INT".to_owned()), timeout: Some(-1) });
        let plain = container_stop(&query("")).expect("decoded");
        assert_eq!(plain, Stop { signal: None, timeout: None });
    }

    #[test]
    fn sizes_must_be_numbers() {
        assert_eq!(resize(&query("h=30&w=100")).expect("decoded"), Size { height: 30, width: 100 });
        for bad in ["", "h=1", "h=1&w=", "h=-1&w=1", "h=1&w=99999"] {
            assert!(resize(&query(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn creating_is_pulling_or_importing() {
        let pulled = |text: &str| match image_create(&query(text)).expect("decoded") {
            ImageCreate::Pull { reference, .. } => reference,
            ImageCreate::Import(_) => panic!("{text} is no import"),
        };
        assert_eq!(pulled("fromImage=docker.io%2Flibrary%2Fx&tag=1"), "docker.io/library/x:1");
        assert_eq!(pulled("fromImage=x&tag=sha256%3Aabc"), "x@sha256:abc");
        assert_eq!(pulled("fromImage=x"), "x");
        let import = "changes=CMD+x&changes=ENV+a&fromSrc=-&message=msg&platform=linux%2Farm64&repo=r%3At";
        let Ok(ImageCreate::Import(request)) = image_create(&query(import)) else { panic!("no import") };
        assert_eq!(request.changes, ["CMD x", "ENV a"]);
        assert_eq!((request.repository.as_str(), request.message.as_str()), ("r:t", "msg"));
        assert_eq!(request.platform.map(|platform| platform.architecture).as_deref(), Some("arm64"));
        assert_eq!(request.url, None);
        let Ok(ImageCreate::Import(request)) = image_create(&query("fromSrc=http%3A%2F%2Fx")) else {
            panic!("no import")
        };
        assert_eq!(request.url.as_deref(), Some("http://x"));
        assert!(image_create(&query("")).is_err());
    }

    #[test]
    fn windows_of_events_must_not_be_reversed() {
        assert!(events(&query("since=2&until=1")).is_err());
        let (window, filters) = events(&query("since=1&until=2&filters=%7B%7D")).expect("decoded");
        assert_eq!(window.since.map(Timestamp::as_second), Some(1));
        assert!(filters.is_empty());
        assert!(events(&query("since=yesterday")).is_err());
    }

    /// Decodes what the route of this request decodes.
    fn decode(method: &Method, path: &str) -> Option<Result<()>> {
        use crate::route::{Operation, find, split_version};
        let (path, text) = path.split_once('?').unwrap_or((path, ""));
        let path = percent_encoding::percent_decode_str(path).decode_utf8().expect("UTF-8");
        let query = query(text);
        let operation = find(method, split_version(&path).1).expect("known").route().operation;
        Some(match operation {
            Operation::ContainerList => container_list(&query).map(drop),
            Operation::ContainerLogs => container_logs(&query).map(drop),
            Operation::ContainerStop | Operation::ContainerRestart => container_stop(&query).map(drop),
            Operation::ContainerCreate => platform(&query).map(drop),
            Operation::ImageCreate => image_create(&query).map(drop),
            Operation::ImageList => image_list(&query).map(drop),
            Operation::Events => events(&query).map(drop),
            Operation::ContainerPrune
            | Operation::ImagePrune
            | Operation::VolumePrune
            | Operation::VolumeList
            | Operation::NetworkList
            | Operation::BuildPrune => filters(&query).map(drop),
            _ => return None,
        })
    }

    #[test]
    fn everything_the_docker_cli_sends_is_decoded() {
        let text = include_str!("../tests/data/docker-cli-28.2.2-requests.json");
        let vectors: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let commands = vectors["other"].as_array().expect("a list");
        let requests = commands.iter().filter_map(|command| command["requests"].as_array()).flatten();
        let mut decoded = 0;
        for request in requests {
            let (method, path) = (request["m"].as_str().expect("m"), request["p"].as_str().expect("p"));
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            if let Some(result) = decode(&method, path) {
                result.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
                decoded += 1;
            }
        }
        assert!(decoded > 20, "only {decoded}");
    }
}
