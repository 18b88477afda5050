//! `login`, `logout`, `search`.

use yare_api::{AuthConfig, ImageSearchResponseItem, SystemAuthResponse};
use yare_client::Request;

use crate::context::Context;
use crate::credentials::{self, Place};
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{Layout, Row, ellipsis, write_list};
use crate::opts;
use crate::session::Input;
use crate::table::Outcome;

const LAYOUT: Layout = Layout {
    headings: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
        ("IsAutomated", "AUTOMATED"),
    ],
    table: &["Name", "Description", "StarCount", "IsOfficial"],
    raw: "",
};

/// One line of standard input.
async fn read_line(cx: &Context) -> Result<String, Failure> {
    let mut input = Input::new(cx.stdio.input);
    let mut line = Vec::new();
    let mut byte = [0];
    while input.read(&mut byte).await? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned())
}

/// `login`.
pub(crate) async fn login(cx: &Context, given: &Given) -> Outcome {
    // Before a password is asked for, or shown to anybody.
    cx.config().intact()?;
    let server = credentials::key(given.argument(0));
    let mut username = given.text("username").to_owned();
    let mut password = given.text("password").to_owned();
    if !password.is_empty() {
        if given.bool("password-stdin") {
            return Err("--password and --password-stdin are mutually exclusive".into());
        }
        cx.warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
    }
    if given.bool("password-stdin") {
        if username.is_empty() {
            return Err("Must provide --username with --password-stdin".into());
        }
        password = read_line(cx).await?;
    }
    if username.is_empty() || password.is_empty() {
        if !rustix::termios::isatty(cx.stdio.input) {
            return Err("Error: Cannot perform an interactive login from a non TTY device".into());
        }
        (username, password) = ask(cx, &username, &password).await?;
    }
    let auth = AuthConfig {
        username: username.clone(),
        password: password.clone(),
        serveraddress: server.clone(),
        ..AuthConfig::default()
    };
    let reply: SystemAuthResponse = cx.client().json(Request::post("/auth").json(&auth)).await?;
    let auth = AuthConfig { identitytoken: reply.identity_token, ..auth };
    if let Place::Plain { file, why } = cx.config().remember(&server, &auth)? {
        cx.warn(format_args!(
            "WARNING! Your credentials are stored unencrypted in '{file}'.\nConfigure a credential helper to remove this warning. See\nhttps://docs.docker.com/go/credential-store/\n"
        ));
        if let Some(why) = why {
            cx.warn(why);
        }
    }
    if !reply.status.is_empty() {
        cx.line(reply.status)?;
    }
    Ok(0)
}

/// Asks for what was not given; the password is not shown.
async fn ask(cx: &Context, username: &str, password: &str) -> Result<(String, String), Failure> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let mut username = username.to_owned();
    if username.is_empty() {
        cx.write("Username: ")?;
        cx.flush()?;
        username = read_line(cx).await?.trim().to_owned();
    }
    if username.is_empty() {
        return Err("username is required".into());
    }
    let mut password = password.to_owned();
    if password.is_empty() {
        cx.write("Password: ")?;
        cx.flush()?;
        let before = tcgetattr(cx.stdio.input).map_err(std::io::Error::from)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(cx.stdio.input, OptionalActions::Now, &quiet).map_err(std::io::Error::from)?;
        let line = read_line(cx).await;
        tcsetattr(cx.stdio.input, OptionalActions::Now, &before).map_err(std::io::Error::from)?;
        cx.write("\n")?;
        password = line?;
    }
    if password.is_empty() {
        return Err("password is required".into());
    }
    Ok((username, password))
}

/// `logout`: nothing is asked of the engine.
pub(crate) async fn logout(cx: &Context, given: &Given) -> Outcome {
    cx.config().intact()?;
    let server = credentials::key(given.argument(0));
    if !given.argument(0).is_empty() && !cx.config().knows(&server) {
        cx.line(format_args!("Not logged in to {server}"))?;
        return Ok(0);
    }
    cx.line(format_args!("Removing login credentials for {server}"))?;
    cx.config().forget(&server)?;
    Ok(0)
}

/// `search`.
pub(crate) async fn search(cx: &Context, given: &Given) -> Outcome {
    let filters = opts::filters(&given.list("filter"), &[]);
    let registry = match given.argument(0).split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "",
    };
    let request = Request::get("/images/search")
        .query_opt("filters", (!filters.is_empty()).then_some(filters))
        .query_opt("limit", given.int("limit").filter(|limit| *limit > 0).map(|limit| limit.to_string()))
        .query("term", given.argument(0))
        .header(
            "x-registry-auth",
            yare_api::auth::encode(&cx.config().credentials(registry)?.unwrap_or_default()),
        );
    let results: Vec<ImageSearchResponseItem> = cx.client().json(request).await?;
    let whole = given.bool("no-trunc");
    let rows = results.iter().map(|result| {
        let description = result.description.replace(['\n', '\r'], " ");
        Row::new()
            .with("Name", result.name.clone())
            .with("Description", if whole { description } else { ellipsis(&description, 45) })
            .with("StarCount", result.star_count.to_string())
            .with("IsOfficial", if result.is_official { "[OK]" } else { "" })
            .with("IsAutomated", if result.is_automated { "[OK]" } else { "" })
    });
    write_list(cx, given.text("format"), &LAYOUT, rows)?;
    Ok(0)
}
