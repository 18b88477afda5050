//! Where a container's output goes.
//!
//! Docker's default never rotates and fills disks; here the default is 10 MB in 3 files, the older ones
//! compressed. `max-size=-1` asks for Docker's. Of what a driver sends elsewhere a copy is kept for readers,
//! with the limits of Docker's driver `local` (its "cache").

mod tag;

pub use tag::{TagFields, render as render_tag};

use crate::HostFacts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use yare_api::{LogConfig, Pattern};
use yare_errdefs::Error;
use yare_logs::Target;

/// Bytes of a log file before it is rotated, when nobody says.
pub const DEFAULT_MAX_SIZE: u64 = 10_000_000;
/// Log files kept, when nobody says.
pub const DEFAULT_MAX_FILE: u32 = 3;
/// The same of the driver `local`.
const LOCAL_MAX_SIZE: u64 = 20 << 20;
const LOCAL_MAX_FILE: u32 = 5;
/// Bytes of output that wait for a driver with `mode=non-blocking`, when nobody says.
const DEFAULT_BUFFER: u64 = 1_000_000;

/// Where output goes and how it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogPlan {
    /// `json-file`, `local`, `none`, or one that sends.
    pub driver: String,
    /// Bytes after which a file is rotated; `None` never is.
    pub max_size: Option<u64>,
    /// Files kept, the current one included; at least 1.
    pub max_file: u32,
    /// Whether rotated files are compressed.
    pub compress: bool,
    /// Written with each entry: what `labels` and `env` pick.
    pub attrs: BTreeMap<String, String>,
    /// Template of a tag, see [`render_tag`]; empty without.
    pub tag: String,
    /// Bytes of output that wait while the driver is slow, before some is thrown away. Without it the container
    /// waits.
    pub buffer: Option<u64>,
    /// Where entries are sent.
    pub target: Option<Target>,
    /// Whether of what is sent nothing is kept for readers.
    pub unread: bool,
}

const PICKING: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];
const FILE: [&str; 3] = ["max-file", "max-size", "compress"];
const CACHE: &str = "cache-";

/// Drivers Docker has and Yare has not.
const KNOWN: [&str; 4] = ["awslogs", "gcplogs", "splunk", "etwlogs"];

/// Fills in the engine's defaults, as inspect shows them.
pub fn with_defaults(config: &mut LogConfig, facts: &HostFacts) {
    if config.r#type.is_empty() {
        config.r#type.clone_from(&facts.log_driver);
    }
    let options = config.config.get_or_insert_default();
    if config.r#type == facts.log_driver {
        for (name, value) in &facts.log_opts {
            options.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// Checks what an engine is to give to containers that say nothing.
///
/// # Errors
/// As for [`plan`].
pub fn check_defaults(driver: &str, options: &BTreeMap<String, String>) -> Result<(), Error> {
    let config = LogConfig { r#type: driver.to_owned(), config: Some(options.clone()) };
    plan(&config, &BTreeMap::new(), &[])
        .map(drop)
        .map_err(|error| Error::wrap("failed to set log opts", error))
}

/// Checks the options. `labels` and `env` are the container's, for those options that pick of them.
///
/// # Errors
/// Docker's texts, class invalid argument; [`yare_errdefs::Class::Unimplemented`] for what Docker has and is
/// not built.
pub fn plan(config: &LogConfig, labels: &BTreeMap<String, String>, env: &[String]) -> Result<LogPlan, Error> {
    let mut options = config.config.clone().unwrap_or_default();
    let driver = config.r#type.as_str();
    if driver == "none" {
        return Ok(LogPlan { driver: "none".to_owned(), max_file: 1, ..LogPlan::default() });
    }
    let buffer = take_mode(&mut options)?;
    let kept = match driver {
        "json-file" => json_file(&options)?,
        "local" => local(&options)?,
        "syslog" | "journald" | "gelf" | "fluentd" => {
            let cache = take_cache(&mut options)?;
            LogPlan { target: Target::parse(driver, &options)?, ..cache }
        }
        known if KNOWN.contains(&known) => {
            return Err(Error::unimplemented(format!("log driver {known:?} is not built into Yare"))
                .with_hint("use --log-driver json-file, local, syslog, journald, gelf, fluentd or none"));
        }
        unknown => {
            return Err(Error::invalid(format!("logger: no log driver named '{unknown}' is registered")));
        }
    };
    let tag = options.get("tag").cloned().unwrap_or_default();
    render_tag(&tag, &TagFields::default())?;
    let attrs = attributes(&options, labels, env)?;
    Ok(LogPlan { driver: driver.to_owned(), attrs, tag, buffer, ..kept })
}

fn json_file(options: &BTreeMap<String, String>) -> Result<LogPlan, Error> {
    let known = |name: &str| FILE.contains(&name) || PICKING.contains(&name);
    if let Some(unknown) = options.keys().find(|name| !known(name)) {
        return Err(Error::invalid(format!("unknown log opt '{unknown}' for json-file log driver")));
    }
    let max_size = max_size(options.get("max-size"))?;
    let max_file = match options.get("max-file") {
        None if options.contains_key("max-size") => 1,
        None => DEFAULT_MAX_FILE,
        Some(text) => parse_max_file(text)?,
    };
    let compress = match options.get("compress") {
        None => max_size.is_some() && max_file > 1 && !options.contains_key("max-size"),
        Some(text) => checked_bool(text)?,
    };
    if compress && (max_file < 2 || max_size.is_none()) {
        return Err(Error::invalid(
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ));
    }
    Ok(LogPlan { max_size, max_file, compress, ..LogPlan::default() })
}

fn local(options: &BTreeMap<String, String>) -> Result<LogPlan, Error> {
    if let Some(unknown) = options.keys().find(|name| !FILE.contains(&name.as_str())) {
        return Err(Error::invalid(format!("unknown log opt '{unknown}' for log driver local")));
    }
    let max_size = match options.get("max-size") {
        None => LOCAL_MAX_SIZE,
        Some(text) => {
            let wrong = |why: &str| Error::invalid(format!("invalid value for max-size: {text}: {why}"));
            let bytes = yare_api::units::ram_in_bytes(text).map_err(|error| wrong(&error.to_string()))?;
            u64::try_from(bytes)
                .ok()
                .filter(|bytes| *bytes > 0)
                .ok_or_else(|| wrong("it must be positive"))?
        }
    };
    let max_file = options.get("max-file").map_or(Ok(LOCAL_MAX_FILE), |text| parse_max_file(text))?;
    let compress = options.get("compress").map_or(Ok(true), |text| {
        checked_bool(text).map_err(|error| Error::wrap("error reading compress log option", error))
    })?;
    if compress && max_file < 2 {
        return Err(Error::invalid("compression cannot be enabled when max file count is 1"));
    }
    Ok(LogPlan { max_size: Some(max_size), max_file, compress, ..LogPlan::default() })
}

/// Takes the options of the copy for readers out.
fn take_cache(options: &mut BTreeMap<String, String>) -> Result<LogPlan, Error> {
    let names: Vec<String> = options.keys().filter(|name| name.starts_with(CACHE)).cloned().collect();
    let mut cache: BTreeMap<String, String> = names
        .into_iter()
        .filter_map(|name| options.remove(&name).map(|value| (name[CACHE.len()..].to_owned(), value)))
        .collect();
    let unread = match cache.remove("disabled") {
        None => false,
        Some(text) => parse_bool(&text)
            .ok_or_else(|| Error::invalid(format!("invalid value for option cache-disabled: {text}")))?,
    };
    if let Some(unknown) = cache.keys().find(|name| !FILE.contains(&name.as_str())) {
        return Err(Error::invalid(format!("unknown log opt '{CACHE}{unknown}'")));
    }
    Ok(LogPlan { unread, ..local(&cache)? })
}

/// Takes the options of how the container and its driver wait for each other out.
fn take_mode(options: &mut BTreeMap<String, String>) -> Result<Option<u64>, Error> {
    check_mode(options)?;
    let size = options.remove("max-buffer-size");
    if options.remove("mode").is_none_or(|mode| mode != "non-blocking") {
        return Ok(None);
    }
    let Some(text) = size else { return Ok(Some(DEFAULT_BUFFER)) };
    let wrong = |why: String| Error::invalid(format!("error parsing option max-buffer-size: {why}"));
    let bytes = yare_api::units::ram_in_bytes(&text).map_err(|error| wrong(error.to_string()))?;
    u64::try_from(bytes).map(Some).map_err(|_| wrong(format!("{text} is negative")))
}

fn check_mode(options: &BTreeMap<String, String>) -> Result<(), Error> {
    match options.get("mode").map(String::as_str) {
        None | Some("" | "blocking") if options.contains_key("max-buffer-size") => {
            Err(Error::invalid("logger: max-buffer-size option is only supported with 'mode=non-blocking'"))
        }
        None | Some("" | "blocking" | "non-blocking") => Ok(()),
        Some(mode) => Err(Error::invalid(format!("logger: logging mode not supported: {mode}"))),
    }
}

fn max_size(option: Option<&String>) -> Result<Option<u64>, Error> {
    match option.map(String::as_str) {
        None => Ok(Some(DEFAULT_MAX_SIZE)),
        Some("-1") => Ok(None),
        Some(text) => {
            let bytes =
                yare_api::units::from_human_size(text).map_err(|error| Error::invalid(error.to_string()))?;
            let bytes = u64::try_from(bytes).unwrap_or(0);
            if bytes == 0 {
                return Err(Error::invalid("max-size must be a positive number"));
            }
            Ok(Some(bytes))
        }
    }
}

fn parse_max_file(text: &str) -> Result<u32, Error> {
    let number: i64 = text
        .parse()
        .map_err(|_| Error::invalid(format!("strconv.Atoi: parsing {text:?}: invalid syntax")))?;
    match u32::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(Error::invalid("max-file cannot be less than 1")),
    }
}

fn checked_bool(text: &str) -> Result<bool, Error> {
    parse_bool(text)
        .ok_or_else(|| Error::invalid(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")))
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn attributes(
    options: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
    env: &[String],
) -> Result<BTreeMap<String, String>, Error> {
    let labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let env = env.iter().filter_map(|entry| entry.split_once('='));
    let picked_labels = picks(options, "labels", "labels-regex")?;
    let picked_env = picks(options, "env", "env-regex")?;
    let labels = labels.filter(|(key, _)| picked_labels.take(key));
    Ok(labels
        .chain(env.filter(|(key, _)| picked_env.take(key)))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

/// Which labels or variables are picked.
struct Picks {
    names: Vec<String>,
    pattern: Option<Pattern>,
}

impl Picks {
    fn take(&self, key: &str) -> bool {
        self.names.iter().any(|name| name == key)
            || self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(key))
    }
}

fn picks(options: &BTreeMap<String, String>, names: &str, pattern: &str) -> Result<Picks, Error> {
    let given = options.get(names).map(String::as_str).unwrap_or_default();
    let names = given.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let pattern = match options.get(pattern).filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(Pattern::parse(text).ok_or_else(|| {
            Error::invalid(format!("log opt '{pattern}': cannot read the expression {text:?}"))
        })?),
    };
    Ok(Picks { names, pattern })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(driver: &str, options: &[(&str, &str)]) -> Result<LogPlan, String> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut config = LogConfig { r#type: driver.to_owned(), config: Some(options) };
        with_defaults(&mut config, &HostFacts::default());
        let labels = BTreeMap::from([("l".to_owned(), "1".to_owned())]);
        plan(&config, &labels, &["E=2".to_owned()]).map_err(|error| error.to_string())
    }

    #[test]
    fn rotates_by_default() {
        let log = planned("", &[]).unwrap();
        assert_eq!((log.max_size, log.max_file, log.compress), (Some(10_000_000), 3, true));
        let never = planned("json-file", &[("max-size", "-1")]).unwrap();
        assert_eq!((never.max_size, never.compress), (None, false));
        let own =
            planned("json-file", &[("max-size", "1m"), ("max-file", "2"), ("labels", "l,x"), ("env", "E")]);
        let own = own.unwrap();
        assert_eq!((own.max_size, own.max_file, own.compress), (Some(1_000_000), 2, false));
        assert_eq!(own.attrs.len(), 2);
        assert_eq!(planned("none", &[("x", "y")]).unwrap().driver, "none");
    }

    #[test]
    fn refuses_with_the_texts_of_docker() {
        for (driver, options, text) in [
            ("bogus", &[][..], "logger: no log driver named 'bogus' is registered"),
            ("json-file", &[("x", "")], "unknown log opt 'x' for json-file log driver"),
            ("json-file", &[("max-size", "0")], "max-size must be a positive number"),
            ("json-file", &[("max-file", "0")], "max-file cannot be less than 1"),
            (
                "json-file",
                &[("max-size", "1m"), ("compress", "true")],
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
            ("json-file", &[("mode", "x")], "logger: logging mode not supported: x"),
            ("splunk", &[], "log driver \"splunk\" is not built into Yare"),
            ("local", &[("foo", "bar")], "unknown log opt 'foo' for log driver local"),
            ("local", &[("max-size", "-1")], "invalid value for max-size: -1: invalid size: '-1'"),
            ("local", &[("max-file", "1")], "compression cannot be enabled when max file count is 1"),
            (
                "json-file",
                &[("max-buffer-size", "1m")],
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            (
                "json-file",
                &[("mode", "non-blocking"), ("max-buffer-size", "xx")],
                "error parsing option max-buffer-size: invalid size: 'xx'",
            ),
            ("json-file", &[("env-regex", "(")], "log opt 'env-regex': cannot read the expression \"(\""),
            ("syslog", &[("foo", "bar")], "unknown log opt 'foo' for syslog log driver"),
            ("syslog", &[("cache-disabled", "maybe")], "invalid value for option cache-disabled: maybe"),
            ("gelf", &[("cache-max-size", "1m")], "gelf-address is a required parameter"),
        ] {
            assert_eq!(planned(driver, options).unwrap_err(), text);
        }
    }

    #[test]
    fn drivers_have_their_limits() {
        let local = planned("local", &[]).unwrap();
        assert_eq!((local.max_size, local.max_file, local.compress), (Some(20 << 20), 5, true));
        let sent = planned("journald", &[("cache-max-size", "1m"), ("tag", "{{.Name}}")]).unwrap();
        assert_eq!((sent.max_size, sent.target, sent.unread), (Some(1 << 20), Some(Target::Journald), false));
        assert!(planned("syslog", &[("cache-disabled", "true")]).unwrap().unread);
    }

    #[test]
    fn what_waits_is_bounded_on_request() {
        let buffer = |options: &[(&str, &str)]| planned("json-file", options).unwrap().buffer;
        assert_eq!(buffer(&[("mode", "blocking")]), None);
        assert_eq!(buffer(&[("mode", "non-blocking")]), Some(1_000_000));
        assert_eq!(buffer(&[("mode", "non-blocking"), ("max-buffer-size", "2m")]), Some(2 << 20));
    }

    #[test]
    fn expressions_pick_by_name() {
        let attrs = |options: &[(&str, &str)]| planned("json-file", options).unwrap().attrs;
        assert_eq!(attrs(&[("labels-regex", "^(l|x)$"), ("env-regex", "^N")]).len(), 1);
        assert_eq!(attrs(&[("env-regex", "^E"), ("labels", "l")]).len(), 2);
    }

    #[test]
    fn an_engines_defaults_are_checked() {
        let options = BTreeMap::from([("x".to_owned(), String::new())]);
        let error = check_defaults("json-file", &options).unwrap_err();
        let text = yare_errdefs::chain(&error);
        assert_eq!(text, "failed to set log opts: unknown log opt 'x' for json-file log driver");
        check_defaults("local", &BTreeMap::new()).unwrap();
    }
}
