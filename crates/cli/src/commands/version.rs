//! `version`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use yare_api::SystemVersion;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{Json, compile};
use crate::table::Outcome;

/// The release of Docker's client whose syntax and output this one has.
const AS_DOCKER: &str = "28.2.2";

/// `--version`.
pub(crate) fn short(cx: &Context) -> Result<(), Failure> {
    if cx.program == "docker" {
        // Scripts read the number to know what they may use.
        return cx.line(format_args!("Docker version {AS_DOCKER}, build yare-{}", cx.version));
    }
    cx.line(format_args!("Yare version {}", cx.version))
}

/// Us, as `version` shows it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ClientVersion {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    pub version: String,
    pub api_version: String,
    #[serde(rename = "DefaultAPIVersion")]
    pub default_api_version: String,
    pub git_commit: String,
    pub go_version: String,
    pub os: String,
    pub arch: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub build_time: String,
    pub context: String,
}

/// Who made it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Platform {
    pub name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Both<'a> {
    client: &'a ClientVersion,
    server: Option<&'a SystemVersion>,
}

/// Go's name of the architecture that we run on.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// `version`.
pub(crate) async fn version(cx: &Context, given: &Given) -> Outcome {
    let server = cx.client().system_version().await;
    let mut client = ClientVersion {
        platform: None,
        version: cx.version.clone(),
        api_version: cx.client().version(),
        default_api_version: yare_client::NEWEST_API.to_owned(),
        os: std::env::consts::OS.to_owned(),
        arch: go_arch().to_owned(),
        context: cx.chosen.context.clone(),
        ..ClientVersion::default()
    };
    if cx.program == "docker" {
        client.version = AS_DOCKER.to_owned();
    }
    let shown = server.as_ref().ok();
    match given.text("format") {
        "" => cx.write(text(&client, shown))?,
        "json" => cx.line(document(&client, shown).compact())?,
        template => {
            // Templates name the members as Go's structs do, JSON spells this one otherwise.
            let template = compile(&template.replace(".APIVersion", ".ApiVersion"), false)
                .map_err(|why| Failure::new(format!("template parsing error: {why}")).with_code(64))?;
            // Without an engine, what a template asks of it cannot be answered: the reason is what to say.
            match template.render(&document(&client, shown)) {
                Ok(text) => cx.line(text)?,
                Err(why) if server.is_ok() => {
                    return Err(Failure::new(format!("template parsing error: {why}")));
                }
                Err(_) => {}
            }
        }
    }
    server?;
    Ok(0)
}

fn document(client: &ClientVersion, server: Option<&SystemVersion>) -> Json {
    Json::of(&Both { client, server })
}

fn field(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name:<19} {value}");
}

fn os_arch(os: &str, arch: &str) -> String {
    format!("{os}/{arch}")
}

/// The text for people.
pub(crate) fn text(client: &ClientVersion, server: Option<&SystemVersion>) -> String {
    let mut text = match &client.platform {
        Some(platform) => format!("Client: {}\n", platform.name),
        None => "Client:\n".to_owned(),
    };
    field(&mut text, " Version:", &client.version);
    let lowered = client.api_version != client.default_api_version;
    let downgraded =
        if lowered { format!(" (downgraded from {})", client.default_api_version) } else { String::new() };
    field(&mut text, " API version:", &format!("{}{downgraded}", client.api_version));
    for (name, value) in [
        (" Go version:", &client.go_version),
        (" Git commit:", &client.git_commit),
        (" Built:", &client.build_time),
    ] {
        if !value.is_empty() {
            field(&mut text, name, value);
        }
    }
    field(&mut text, " OS/Arch:", &os_arch(&client.os, &client.arch));
    field(&mut text, " Context:", &client.context);
    if let Some(server) = server {
        server_text(&mut text, server);
    }
    text
}

fn server_text(text: &mut String, server: &SystemVersion) {
    let name = &server.platform.name;
    let _ = write!(text, "\nServer:{}{name}\n", if name.is_empty() { "" } else { " " });
    for component in &server.components {
        let none = BTreeMap::new();
        let details = component.details.as_ref().unwrap_or(&none);
        let detail = |name: &str| details.get(name).map_or("", String::as_str);
        let _ = writeln!(text, " {}:", component.name);
        if component.name != "Engine" {
            field(text, "  Version:", &component.version);
            for (name, value) in details {
                field(text, &format!("  {name}:"), value);
            }
            continue;
        }
        field(text, "  Version:", &component.version);
        let api = format!("{} (minimum version {})", detail("ApiVersion"), detail("MinAPIVersion"));
        field(text, "  API version:", &api);
        for (title, name) in [("  Go version:", "GoVersion"), ("  Git commit:", "GitCommit")] {
            if !detail(name).is_empty() {
                field(text, title, detail(name));
            }
        }
        if !detail("BuildTime").is_empty() {
            field(text, "  Built:", &built(detail("BuildTime")));
        }
        field(text, "  OS/Arch:", &os_arch(detail("Os"), detail("Arch")));
        field(text, "  Experimental:", detail("Experimental"));
    }
}

/// A build time as C's `asctime` writes it.
fn built(time: &str) -> String {
    match time.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%a %b %e %H:%M:%S %Y").to_string(),
        Err(_) => time.to_owned(),
    }
}
