//! `context ls`, `show`, `inspect`, `use`: contexts that Docker's client has stored are read, none is made.

use crate::address::{DEFAULT, Stored, stored};
use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{Json, Layout, Row, write_list};
use crate::opts;
use crate::table::Outcome;

const LAYOUT: Layout = Layout {
    headings: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("DockerEndpoint", "DOCKER ENDPOINT"),
        ("Error", "ERROR"),
    ],
    table: &["Name", "Description", "DockerEndpoint", "Error"],
    raw: "",
};

/// The name of the context in use.
fn current(cx: &Context) -> String {
    if cx.environment.nonempty("DOCKER_HOST").is_some() || cx.environment.nonempty("YARE_HOST").is_some() {
        return "default".to_owned();
    }
    let name =
        cx.environment.nonempty("DOCKER_CONTEXT").unwrap_or_else(|| cx.config().current_context.clone());
    if name.is_empty() { "default".to_owned() } else { name }
}

/// The address that `default` stands for.
fn default_host(cx: &Context) -> String {
    cx.environment
        .nonempty("YARE_HOST")
        .or_else(|| cx.environment.nonempty("DOCKER_HOST"))
        .unwrap_or_else(|| format!("unix://{DEFAULT}"))
}

/// `context ls`.
pub(crate) async fn list(cx: &Context, given: &Given) -> Outcome {
    let current = current(cx);
    let contexts = stored(&cx.config_directory);
    if given.bool("quiet") {
        cx.line("default")?;
        for context in &contexts {
            cx.line(&context.name)?;
        }
        return Ok(0);
    }
    let row = |name: &str, description: &str, host: &str| {
        let marked = if name == current { format!("{name} *") } else { name.to_owned() };
        let json = given.text("format").contains("json");
        Row::new()
            .with("Name", if json { name.to_owned() } else { marked })
            .with("Description", description)
            .with("DockerEndpoint", host)
            .with("Error", "")
            .with("Current", Json::Bool(name == current))
    };
    let about = "Current DOCKER_HOST based configuration";
    let mut rows = vec![row("default", about, &default_host(cx))];
    rows.extend(contexts.iter().map(|context| row(&context.name, "", context.host())));
    write_list(cx, given.text("format"), &LAYOUT, rows.into_iter())?;
    Ok(0)
}

/// `context show`.
pub(crate) async fn show(cx: &Context, _given: &Given) -> Outcome {
    cx.line(current(cx))?;
    Ok(0)
}

/// `context inspect`.
pub(crate) async fn inspect(cx: &Context, given: &Given) -> Outcome {
    let names = if given.arguments.is_empty() { vec![current(cx)] } else { given.arguments.clone() };
    let contexts = stored(&cx.config_directory);
    let mut documents = Vec::new();
    for name in &names {
        let known = |context: &&Stored| context.name == *name;
        let host = match contexts.iter().find(known) {
            Some(context) => context.host().to_owned(),
            None if name == "default" => default_host(cx),
            None => return Err(Failure::new(format!("context {}: context not found", opts::quote(name)))),
        };
        documents.push(Json::Object(vec![
            ("Name".to_owned(), name.as_str().into()),
            ("Metadata".to_owned(), Json::Object(Vec::new())),
            (
                "Endpoints".to_owned(),
                serde_json::json!({"docker": {"Host": host, "SkipTLSVerify": false}}).into(),
            ),
            ("TLSMaterial".to_owned(), Json::Object(Vec::new())),
            (
                "Storage".to_owned(),
                serde_json::json!({"MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>"}).into(),
            ),
        ]));
    }
    cx.write(super::inspect::print(&documents, given.text("format"))?)?;
    Ok(0)
}

/// `context use`: only `default`, which is what there is without any.
pub(crate) async fn use_context(cx: &Context, given: &Given) -> Outcome {
    match given.argument(0) {
        "default" => {
            cx.line("default")?;
            Ok(0)
        }
        name => Err(Failure::new(format!(
            "context {}: choosing contexts is not built into this client",
            opts::quote(name)
        ))
        .with_hint("use -H, DOCKER_HOST or DOCKER_CONTEXT")),
    }
}
