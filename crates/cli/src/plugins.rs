//! Plugins of Docker's command line: programs `docker-NAME` in known folders, which are commands of ours, too.
//!
//! A plugin is told by its environment what called it, and by `DOCKER_HOST` where our engine is, unless the
//! user has named another. It then takes this process's place: its exit code, its signals and its terminal are
//! its own.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::address;
use crate::context::Context;
use crate::failure::Failure;
use crate::opts::quote;
use crate::store::DEFAULT_NAME;
use crate::table;

/// Where distributions put plugins.
const SYSTEM: &[&str] = &[
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];
/// What the names of their programs begin with.
const PREFIX: &str = "docker-";
/// The argument that has a plugin describe itself.
const DESCRIBE: &str = "docker-cli-plugin-metadata";
/// The form of descriptions.
const SCHEMA: &str = "0.1.0";
/// Tells a plugin which program called it.
const CALLER: &str = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND";

/// Groups of ours that stand in for a plugin where it is not installed.
const STAND_INS: &[&str] = &["buildx"];

/// What a plugin says about itself.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Metadata {
    /// The form of this description.
    pub schema_version: String,
    /// Who made it.
    pub vendor: String,
    /// Its version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// What it does, in a few words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub short_description: String,
    /// Where there is more about it.
    #[serde(rename = "URL", skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Whether help leaves it out.
    #[serde(skip_serializing)]
    pub hidden: bool,
}

/// An installed plugin.
#[derive(Debug)]
pub(crate) struct Plugin {
    /// The command that it is.
    pub name: String,
    /// Its program.
    pub path: PathBuf,
    /// What it says about itself, or why it is of no use.
    pub metadata: Result<Metadata, String>,
}

impl Plugin {
    fn at(name: &str, path: PathBuf) -> Self {
        let is_ours = table::find(name).is_some() || table::group(name).is_some();
        let metadata = if is_ours && !STAND_INS.contains(&name) {
            Err(format!("plugin {} duplicates builtin command", quote(name)))
        } else {
            describe(&path)
        };
        Self { name: name.to_owned(), path, metadata }
    }
}

fn describe(path: &PathBuf) -> Result<Metadata, String> {
    let output = Command::new(path).arg(DESCRIBE).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = output.map_err(|error| format!("failed to fetch metadata: {error}"))?;
    if !output.status.success() {
        return Err(format!("failed to fetch metadata: {}", output.status));
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("invalid metadata: {error}"))?;
    if metadata.schema_version != SCHEMA {
        let version = quote(&metadata.schema_version);
        return Err(format!("plugin SchemaVersion {version} is not valid, must be {SCHEMA}"));
    }
    if metadata.vendor.is_empty() {
        return Err("plugin metadata does not define a vendor".to_owned());
    }
    Ok(metadata)
}

/// The folders of plugins, those that win first.
fn folders(cx: &Context) -> impl Iterator<Item = PathBuf> {
    let named = cx.config().cli_plugins_extra_dirs.iter().map(PathBuf::from);
    let own = std::iter::once(cx.config_directory.join("cli-plugins"));
    named.chain(own).chain(SYSTEM.iter().map(PathBuf::from))
}

/// Whether a plugin can be called so.
fn is_name(name: &str) -> bool {
    name.starts_with(|letter: char| letter.is_ascii_lowercase())
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
}

/// All plugins, by name.
pub(crate) fn list(cx: &Context) -> Vec<Plugin> {
    let mut paths = BTreeMap::new();
    for entry in folders(cx).filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        if let Some(name) = name.strip_prefix(PREFIX).filter(|name| is_name(name)) {
            paths.entry(name.to_owned()).or_insert_with(|| entry.path());
        }
    }
    paths.into_iter().map(|(name, path)| Plugin::at(&name, path)).collect()
}

/// The plugin of this name.
fn find(cx: &Context, name: &str) -> Option<Plugin> {
    let program = format!("{PREFIX}{name}");
    let path =
        folders(cx).filter(|_| is_name(name)).map(|folder| folder.join(&program)).find(|path| path.exists());
    path.map(|path| Plugin::at(name, path))
}

/// Becomes the plugin of this name; comes back with what is wrong, or with nothing when there is none.
pub(crate) fn run(cx: &mut Context, name: &str) -> Option<Failure> {
    let plugin = find(cx, name)?;
    Some(become_it(cx, &plugin).unwrap_or_else(|failure| failure))
}

/// Becomes the plugin for which we would stand in; comes back when there is none that is of use.
pub(crate) fn run_instead(cx: &mut Context, name: &str) -> Option<Failure> {
    if !STAND_INS.contains(&name) {
        return None;
    }
    let plugin = find(cx, name).filter(|plugin| plugin.metadata.is_ok())?;
    Some(become_it(cx, &plugin).unwrap_or_else(|failure| failure))
}

fn become_it(cx: &mut Context, plugin: &Plugin) -> Result<Failure, Failure> {
    let path = plugin.path.display();
    if let Err(why) = &plugin.metadata {
        return Err(Failure::new(format!("plugin {path} is not valid: {why}")));
    }
    let (caller, arguments) = cx.arguments.split_first().ok_or("the program was called without a name")?;
    let mut command = Command::new(&plugin.path);
    command.args(arguments).env(CALLER, caller);
    // What is named among the arguments, or by a context, the plugin finds by itself.
    if cx.chosen.context == DEFAULT_NAME && !cx.chosen.is_named {
        address::settle(cx, None)?;
        command.env("DOCKER_HOST", cx.address.to_string());
    }
    cx.flush()?;
    Ok(Failure::new(format!("cannot run the plugin {path}: {}", command.exec())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn plugin(folder: &Path, name: &str, says: &str) {
        std::fs::create_dir_all(folder).unwrap();
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn plugins_are_found_and_their_descriptions_checked() {
        let home = tempfile::tempdir().unwrap();
        let (extra, own) = (home.path().join("extra"), home.path().join("cli-plugins"));
        let good = |description: &str| {
            format!(
                r#"{{"SchemaVersion":"0.1.0","Vendor":"Me","Version":"v1","ShortDescription":"{description}"}}"#
            )
        };
        plugin(&own, "docker-zzgood", &good("shadowed"));
        plugin(&extra, "docker-zzgood", &good("Does good"));
        plugin(&own, "docker-ps", &good("a command of ours"));
        plugin(&own, "docker-zzjunk", "junk");
        plugin(&own, "docker-zzvendor", r#"{"SchemaVersion":"0.1.0"}"#);
        plugin(&own, "docker-zzschema", r#"{"SchemaVersion":"9","Vendor":"v"}"#);
        plugin(&own, "docker-ZZname", &good("a name that cannot be"));
        let config = format!(r#"{{"cliPluginsExtraDirs":["{}"]}}"#, extra.display());
        std::fs::write(home.path().join("config.json"), config).unwrap();
        let mut cx = crate::tests::context();
        cx.config_directory = home.path().to_owned();
        let found: BTreeMap<_, _> = list(&cx)
            .into_iter()
            .filter(|plugin| plugin.name.starts_with("zz") || plugin.name == "ps")
            .map(|plugin| (plugin.name, plugin.metadata))
            .collect();
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["ps", "zzgood", "zzjunk", "zzschema", "zzvendor"]);
        assert_eq!(found["zzgood"].as_ref().unwrap().short_description, "Does good");
        let wrong = |name: &str| found[name].clone().unwrap_err();
        assert_eq!(wrong("ps"), "plugin \"ps\" duplicates builtin command");
        assert_eq!(wrong("zzvendor"), "plugin metadata does not define a vendor");
        assert_eq!(wrong("zzschema"), "plugin SchemaVersion \"9\" is not valid, must be 0.1.0");
        assert!(wrong("zzjunk").starts_with("invalid metadata"));
        let refused = run(&mut cx, "zzjunk").unwrap().text;
        assert!(refused.contains("docker-zzjunk is not valid: invalid metadata"), "{refused}");
        assert!(run(&mut cx, "zznone").is_none() && run(&mut cx, "../zzgood").is_none());
    }
}
