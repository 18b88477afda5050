//! `--docker host=…,ca=…`: where a context leads.

use std::collections::BTreeMap;

use yare_client::Address;

use super::resolve;
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::{Given, parse_bool};
use crate::opts::env::open_error;
use crate::opts::quote;
use crate::store::{Stored, TlsFiles, tls_of};

/// The keys that there are.
const KEYS: &[&str] = &["from", "host", "ca", "cert", "key", "skip-tls-verify"];

fn failed(why: impl std::fmt::Display) -> Failure {
    Failure::new(format!("unable to create docker endpoint config: {why}"))
}

/// What the flag says, by key.
pub(super) fn settings(given: &Given) -> Result<BTreeMap<String, String>, Failure> {
    let pairs = given.comma_list("docker");
    let settings: BTreeMap<String, String> = pairs
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let unknown: Vec<String> = settings
        .keys()
        .filter(|key| !KEYS.contains(&key.as_str()))
        .map(|key| format!("unrecognized config key: {key}"))
        .collect();
    if unknown.is_empty() { Ok(settings) } else { Err(failed(unknown.join("\n"))) }
}

/// Has a context lead where the settings say; gives the files that its engine needs.
pub(super) fn apply(
    cx: &Context,
    settings: &BTreeMap<String, String>,
    context: &mut Stored,
) -> Result<TlsFiles, Failure> {
    if let Some(from) = settings.get("from") {
        let (other, files) = resolve(cx, from).map_err(|failure| failed(failure.text))?;
        context.lead_to(other.host(), other.trusts_anybody());
        return Ok(files);
    }
    let trusts_anybody = match settings.get("skip-tls-verify") {
        None => false,
        Some(text) => parse_bool(text)
            .ok_or_else(|| failed(format!("skip-tls-verify: parsing {}: invalid syntax", quote(text))))?,
    };
    let mut files = TlsFiles::new();
    for (key, name) in [("ca", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem")] {
        let Some(path) = settings.get(key).filter(|path| !path.is_empty()) else { continue };
        let text = std::fs::read(cx.absolute(path)).map_err(|error| failed(open_error(path, &error)))?;
        files.insert(name.to_owned(), text);
    }
    let host = settings.get("host").map_or("", String::as_str);
    check(host, &files, trusts_anybody)
        .map_err(|error| failed(format!("invalid docker endpoint options: {error}")))?;
    context.lead_to(host, trusts_anybody);
    Ok(files)
}

/// What is wrong with an endpoint is said now, not when it is used first.
fn check(host: &str, files: &TlsFiles, trusts_anybody: bool) -> Result<(), yare_client::Error> {
    let address = Address::parse(host)?;
    match tls_of(files, trusts_anybody) {
        Some(tls) if matches!(address, Address::Tcp { .. }) => tls.settings().map(drop),
        _ => Ok(()),
    }
}
