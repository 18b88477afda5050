//! `registry enable`, `disable`, `status`: the engine's images as a registry.

use std::path::PathBuf;

use yare_api::{RegistryOptions, RegistryStatus};
use yare_client::Request;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{Json, compile};
use crate::table::Outcome;

const PATH: &str = "/yare/registry";

/// `registry enable`
pub(crate) async fn enable(cx: &Context, given: &Given) -> Outcome {
    let config = match given.text("config") {
        "" => String::new(),
        file => {
            let path = PathBuf::from(&cx.cwd).join(file);
            std::fs::read_to_string(&path)
                .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?
        }
    };
    let listen = given.list("listen");
    let options = RegistryOptions { listen: (!listen.is_empty()).then_some(listen), config };
    let status: RegistryStatus = cx.client().json(Request::put(PATH).json(&options)).await?;
    told(cx, &status)
}

/// `registry disable`
pub(crate) async fn disable(cx: &Context, _: &Given) -> Outcome {
    cx.client().call(Request::delete(PATH)).await?;
    Ok(0)
}

/// `registry status`
pub(crate) async fn status(cx: &Context, given: &Given) -> Outcome {
    let status: RegistryStatus = cx.client().json(Request::get(PATH)).await?;
    match given.text("format") {
        "" => told(cx, &status),
        "json" => {
            cx.line(Json::of(&status).compact())?;
            Ok(0)
        }
        format => {
            let template = compile(format, false)
                .map_err(|why| Failure::new(format!("template parsing error: {why}")).with_code(64))?;
            let text = template.render(&Json::of(&status));
            cx.line(text.map_err(|why| format!("template parsing error: {why}"))?)?;
            Ok(0)
        }
    }
}

fn told(cx: &Context, status: &RegistryStatus) -> Outcome {
    if !status.enabled {
        cx.line("not served")?;
        return Ok(0);
    }
    if !status.problem.is_empty() {
        return Err(Failure::new(format!("enabled, and not served: {}", status.problem)));
    }
    let listen = status.listen.as_deref().unwrap_or_default();
    let scheme = if status.tls { "https" } else { "http" };
    for address in listen {
        cx.line(format!("served on {scheme}://{address}"))?;
    }
    if let Some(name) = status.names.iter().flatten().next() {
        cx.line(format!("push to it as {name}/NAME"))?;
    }
    if !status.auth && !listen.iter().all(|address| is_loopback(address)) {
        cx.warn("WARNING: everybody who reaches this address may pull all images and push others");
    }
    Ok(0)
}

fn is_loopback(address: &str) -> bool {
    address.parse::<std::net::SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}
