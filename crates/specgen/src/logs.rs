//! Where a container's output goes.
//!
//! Docker's default never rotates and fills disks; here the default is 10 MB in 3 files, the older ones
//! compressed. `max-size=-1` asks for Docker's.

use crate::HostFacts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use yare_api::LogConfig;
use yare_errdefs::Error;

/// Bytes of a log file before it is rotated, when nobody says.
pub const DEFAULT_MAX_SIZE: u64 = 10_000_000;
/// Log files kept, when nobody says.
pub const DEFAULT_MAX_FILE: u32 = 3;

/// Where output goes and how it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogPlan {
    /// `json-file` or `none`.
    pub driver: String,
    /// Bytes after which a file is rotated; `None` never is.
    pub max_size: Option<u64>,
    /// Files kept, the current one included; at least 1.
    pub max_file: u32,
    /// Whether rotated files are compressed.
    pub compress: bool,
    /// Written with each entry: what `labels`, `env` and `tag` pick.
    pub attrs: BTreeMap<String, String>,
}

const JSON_FILE_OPTIONS: [&str; 10] = [
    "max-file",
    "max-size",
    "compress",
    "labels",
    "labels-regex",
    "env",
    "env-regex",
    "tag",
    "mode",
    "max-buffer-size",
];

/// Drivers Docker has and Yare has not yet.
const KNOWN: [&str; 9] =
    ["local", "awslogs", "fluentd", "gcplogs", "gelf", "journald", "splunk", "syslog", "etwlogs"];

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

/// Checks the options. `labels` and `env` are the container's, for those options that pick of them.
///
/// # Errors
/// Docker's texts, class invalid argument; [`yare_errdefs::Class::Unimplemented`] for a driver of Docker's
/// that is not built.
pub fn plan(config: &LogConfig, labels: &BTreeMap<String, String>, env: &[String]) -> Result<LogPlan, Error> {
    let empty = BTreeMap::new();
    let options = config.config.as_ref().unwrap_or(&empty);
    match config.r#type.as_str() {
        "none" => Ok(LogPlan { driver: "none".to_owned(), max_file: 1, ..LogPlan::default() }),
        "json-file" => json_file(options, labels, env),
        known if KNOWN.contains(&known) => {
            Err(Error::unimplemented(format!("log driver {known:?} is not built into this Yare yet"))
                .with_hint("use --log-driver json-file or none"))
        }
        unknown => Err(Error::invalid(format!("logger: no log driver named '{unknown}' is registered"))),
    }
}

fn json_file(
    options: &BTreeMap<String, String>,
    labels: &BTreeMap<String, String>,
    env: &[String],
) -> Result<LogPlan, Error> {
    if let Some(unknown) = options.keys().find(|name| !JSON_FILE_OPTIONS.contains(&name.as_str())) {
        return Err(Error::invalid(format!("unknown log opt '{unknown}' for json-file log driver")));
    }
    check_mode(options)?;
    let max_size = max_size(options.get("max-size"))?;
    let max_file = match options.get("max-file") {
        None if options.contains_key("max-size") => 1,
        None => DEFAULT_MAX_FILE,
        Some(text) => parse_max_file(text)?,
    };
    let compress = match options.get("compress") {
        None => max_size.is_some() && max_file > 1 && !options.contains_key("max-size"),
        Some(text) => parse_bool(text)
            .ok_or_else(|| Error::invalid(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")))?,
    };
    if compress && (max_file < 2 || max_size.is_none()) {
        return Err(Error::invalid(
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ));
    }
    Ok(LogPlan {
        driver: "json-file".to_owned(),
        max_size,
        max_file,
        compress,
        attrs: attributes(options, labels, env),
    })
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
) -> BTreeMap<String, String> {
    let mut attrs = BTreeMap::new();
    let picks = |name: &str| options.get(name).map(String::as_str).unwrap_or_default().to_owned();
    for name in picks("labels").split(',').filter(|name| !name.is_empty()) {
        if let Some(value) = labels.get(name) {
            attrs.insert(name.to_owned(), value.clone());
        }
    }
    for name in picks("env").split(',').filter(|name| !name.is_empty()) {
        let value = env.iter().find_map(|entry| entry.split_once('=').filter(|(key, _)| *key == name));
        if let Some((_, value)) = value {
            attrs.insert(name.to_owned(), value.to_owned());
        }
    }
    // Templates in tags are not known here: a tag is taken as it is.
    if let Some(tag) = options.get("tag").filter(|tag| !tag.is_empty() && !tag.contains("{{")) {
        attrs.insert("tag".to_owned(), tag.clone());
    }
    attrs
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
            ("syslog", &[], "log driver \"syslog\" is not built into this Yare yet"),
        ] {
            assert_eq!(planned(driver, options).unwrap_err(), text);
        }
    }
}
