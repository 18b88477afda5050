//! `--security-opt`.

use crate::opts::quote;

/// What `--security-opt` comes to.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Security {
    /// What goes to the engine.
    pub options: Option<Vec<String>>,
    /// `systempaths=unconfined` was among them: nothing is masked or read-only.
    pub plain_system_paths: bool,
}

/// Reads the options; a seccomp profile's file is read and sent in full.
pub(crate) fn parse(options: &[String]) -> Result<Security, String> {
    if options.is_empty() {
        return Ok(Security::default());
    }
    let mut security = Security { options: Some(Vec::new()), plain_system_paths: false };
    let kept = security.options.get_or_insert_default();
    for option in options {
        if option == "systempaths=unconfined" {
            security.plain_system_paths = true;
            continue;
        }
        if option == "no-new-privileges" || option == "writable-cgroups" {
            kept.push(option.clone());
            continue;
        }
        let split = option.split_once('=').or_else(|| option.split_once(':'));
        let (name, value) = split.ok_or_else(|| format!("Invalid --security-opt: {}", quote(option)))?;
        if name == "seccomp" && value != "unconfined" && value != "builtin" {
            kept.push(format!("seccomp={}", profile(value)?));
        } else {
            kept.push(option.clone());
        }
    }
    Ok(security)
}

/// A seccomp profile without its white space.
fn profile(file: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        format!("opening seccomp profile ({file}) failed: {}", super::env::open_error(file, &error))
    })?;
    crate::format::json::compact(&text)
        .map_err(|why| format!("compacting json for seccomp profile ({file}) failed: {why}"))
}
