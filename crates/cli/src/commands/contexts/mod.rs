//! `context`: names for engines, in the store that Docker's client has, too. Texts are those of docker CLI 28.2.

mod archive;
mod endpoint;

use serde_json::Value;

use crate::address::DEFAULT;
use crate::context::{Context, each};
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{Json, Layout, Row, ellipsis, natural_order, write_list};
use crate::opts::quote;
use crate::store::{DEFAULT_NAME, Store, Stored, TlsFiles};
use crate::table::Outcome;

pub(crate) use archive::{export, import};

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

/// How much of an error a row shows.
const MOST: usize = 45;

fn store(cx: &Context) -> Store {
    Store::of(&cx.config_directory)
}

/// The context `default`, as if it were stored.
fn default_context(cx: &Context) -> Stored {
    let mut context = Stored { name: DEFAULT_NAME.to_owned(), ..Stored::default() };
    let host = cx.chosen.host.clone().unwrap_or_else(|| format!("unix://{DEFAULT}"));
    context.lead_to(&host, cx.chosen.tls.as_ref().is_some_and(|tls| tls.trusts_anybody));
    context
}

/// The context of this name, stored or not, and the files of its engine.
fn resolve(cx: &Context, name: &str) -> Result<(Stored, TlsFiles), Failure> {
    if name != DEFAULT_NAME {
        let store = store(cx);
        return Ok((store.get(name)?, store.tls_files(name)?));
    }
    let tls = cx.chosen.tls.clone().unwrap_or_default();
    let files = [("ca.pem", tls.authority), ("cert.pem", tls.certificate), ("key.pem", tls.key)];
    let files = files.into_iter().filter_map(|(name, pem)| Some((name.to_owned(), pem?.text)));
    let mut context = default_context(cx);
    context.describe(DEFAULT_DESCRIPTION);
    Ok((context, files.collect()))
}

const DEFAULT_DESCRIPTION: &str = "Current DOCKER_HOST based configuration";

/// Refuses names that cannot be, with Docker's pattern.
fn check_name(name: &str) -> Result<(), Failure> {
    if name.is_empty() {
        return Err("context name cannot be empty".into());
    }
    if name == DEFAULT_NAME {
        return Err(format!("{} is a reserved context name", quote(name)).into());
    }
    let (first, rest) = name.split_at(name.chars().next().map_or(0, char::len_utf8));
    let is_inner = |letter: char| letter.is_ascii_alphanumeric() || "_.+-".contains(letter);
    if first.chars().all(|letter| letter.is_ascii_alphanumeric())
        && !rest.is_empty()
        && rest.chars().all(is_inner)
    {
        return Ok(());
    }
    Err(format!(
        "context name {} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\"",
        quote(name)
    )
    .into())
}

/// Refuses names that cannot be, or are taken.
fn check_new(cx: &Context, name: &str) -> Result<(), Failure> {
    check_name(name)?;
    if store(cx).has(name) {
        return Err(format!("context {} already exists", quote(name)).into());
    }
    Ok(())
}

fn done(cx: &Context, name: &str, what: &str) -> Outcome {
    cx.line(name)?;
    cx.warn(format_args!("Successfully {what} context {}", quote(name)));
    Ok(0)
}

/// `context create`.
pub(crate) async fn create(cx: &Context, given: &Given) -> Outcome {
    let name = given.argument(0);
    check_new(cx, name)?;
    let (from, settings) = (given.text("from"), endpoint::settings(given)?);
    if !from.is_empty() && given.has("docker") {
        return Err("cannot use --docker flag when --from is set".into());
    }
    let (mut context, files) = if given.has("docker") {
        let mut context = Stored::default();
        let files = endpoint::apply(cx, &settings, &mut context)?;
        (context, files)
    } else {
        resolve(cx, if from.is_empty() { &cx.chosen.context } else { from })?
    };
    name.clone_into(&mut context.name);
    if given.has("description") || given.has("docker") {
        context.describe(given.text("description"));
    }
    store(cx).put(&context, &files)?;
    done(cx, name, "created")
}

/// `context update`.
pub(crate) async fn update(cx: &Context, given: &Given) -> Outcome {
    let name = given.argument(0);
    check_name(name)?;
    let store = store(cx);
    let mut context = store.get(name)?;
    let files = match given.has("docker") {
        true => endpoint::apply(cx, &endpoint::settings(given)?, &mut context)?,
        false => store.tls_files(name)?,
    };
    if given.has("description") {
        context.describe(given.text("description"));
    }
    store.put(&context, &files)?;
    done(cx, name, "updated")
}

/// `context rm`.
pub(crate) async fn remove(cx: &Context, given: &Given) -> Outcome {
    let force = given.bool("force");
    each(cx, &given.arguments, async |name| {
        if name == DEFAULT_NAME {
            return Err("context \"default\" cannot be removed".into());
        }
        if name == cx.chosen.context {
            if !force {
                let text = format!("context {} is in use, set -f flag to force remove", quote(name));
                return Err(text.into());
            }
            cx.config().use_context("")?;
        }
        if !force && !store(cx).has(name) {
            return Err(format!("context {} does not exist", quote(name)).into());
        }
        store(cx).remove(name)?;
        Ok(Some(name.to_owned()))
    })
    .await
}

/// `context use`.
pub(crate) async fn use_context(cx: &Context, given: &Given) -> Outcome {
    let name = given.argument(0);
    if name != DEFAULT_NAME {
        check_name(name)?;
        store(cx).get(name)?;
    }
    cx.config().use_context(if name == DEFAULT_NAME { "" } else { name })?;
    cx.line(name)?;
    cx.warn(format_args!("Current context is now {}", quote(name)));
    if name != DEFAULT_NAME
        && let Some(variable) = overriding(cx)
    {
        cx.warn(format_args!(
            "Warning: {variable} environment variable overrides the active context. To use {}, either set the global \
             --context flag, or unset {variable} environment variable.",
            quote(name)
        ));
    }
    Ok(0)
}

/// The variable that names an engine, whatever context is in use.
fn overriding(cx: &Context) -> Option<&'static str> {
    ["YARE_HOST", "DOCKER_HOST"].into_iter().find(|name| cx.environment.nonempty(name).is_some())
}

/// `context show`.
pub(crate) async fn show(cx: &Context, _given: &Given) -> Outcome {
    cx.line(&cx.chosen.context)?;
    Ok(0)
}

/// `context ls`.
pub(crate) async fn list(cx: &Context, given: &Given) -> Outcome {
    let current = &cx.chosen.context;
    let mut contexts = store(cx).list();
    let mut default = default_context(cx);
    default.describe(DEFAULT_DESCRIPTION);
    contexts.push(default);
    // A current one that is not there is shown, with the reason.
    let missing = (!contexts.iter().any(|context| context.name == *current))
        .then(|| store(cx).get(current).err().map_or_else(String::new, |failure| failure.text));
    if missing.is_some() {
        contexts.push(Stored { name: current.clone(), ..Stored::default() });
    }
    contexts.sort_by(|a, b| natural_order(&a.name, &b.name));
    if given.bool("quiet") {
        for context in &contexts {
            cx.line(&context.name)?;
        }
        return Ok(0);
    }
    let format = given.text("format");
    let in_table = matches!(format.split(' ').next(), Some("" | "table"));
    let row = |context: &Stored| {
        let is_current = context.name == *current;
        let mark = if is_current && in_table { " *" } else { "" };
        let error = missing.as_deref().filter(|_| is_current).unwrap_or_default();
        Row::new()
            .with("Name", format!("{}{mark}", context.name))
            .with("Description", context.description())
            .with("DockerEndpoint", context.host())
            .with("Error", ellipsis(error, MOST))
            .with("Current", Json::Bool(is_current))
    };
    write_list(cx, format, &LAYOUT, contexts.iter().map(row))?;
    if let Some(variable) = overriding(cx) {
        cx.warn(format_args!(
            "Warning: {variable} environment variable overrides the active context. To use a context, either set the \
             global --context flag, or unset {variable} environment variable."
        ));
    }
    Ok(0)
}

/// `context inspect`.
pub(crate) async fn inspect(cx: &Context, given: &Given) -> Outcome {
    let names = match given.arguments.as_slice() {
        [] => std::slice::from_ref(&cx.chosen.context),
        names => names,
    };
    let (mut documents, mut failure) = (Vec::new(), None);
    for name in names {
        match document(cx, name) {
            Ok(document) => documents.push(document),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    cx.write(super::inspect::print(&documents, given.text("format"))?)?;
    failure.map_or(Ok(0), Err)
}

fn document(cx: &Context, name: &str) -> Result<Json, Failure> {
    let (mut context, files) = resolve(cx, name)?;
    let (mut meta, mut tls) = ("<IN MEMORY>".to_owned(), "<IN MEMORY>".to_owned());
    if name == DEFAULT_NAME {
        context.describe("");
    } else {
        let store = store(cx);
        meta = store.meta_folder(name).display().to_string();
        tls = store.tls_folder(name).display().to_string();
    }
    let names: Vec<Value> = files.into_keys().map(Value::from).collect();
    let material =
        if names.is_empty() { serde_json::json!({}) } else { serde_json::json!({ "docker": names }) };
    let endpoints: serde_json::Map<String, Value> = context.endpoints.into_iter().collect();
    Ok(Json::Object(vec![
        ("Name".to_owned(), context.name.as_str().into()),
        ("Metadata".to_owned(), Value::Object(context.metadata).into()),
        ("Endpoints".to_owned(), Value::Object(endpoints).into()),
        ("TLSMaterial".to_owned(), material.into()),
        ("Storage".to_owned(), serde_json::json!({"MetadataPath": meta, "TLSPath": tls}).into()),
    ]))
}
