//! `port`.

use std::collections::BTreeMap;

use yare_api::PortBinding;

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::natural_order;
use crate::table::Outcome;

/// `port`.
pub(crate) async fn port(cx: &Context, given: &Given) -> Outcome {
    let container = cx.client().container_inspect(given.argument(0)).await?;
    let lines = lines(
        &container.network_settings.ports,
        given.argument(0),
        given.arguments.get(1).map(String::as_str),
    );
    for line in lines? {
        cx.line(line)?;
    }
    Ok(0)
}

/// What is published, all of it or of one port.
pub(crate) fn lines(
    ports: &BTreeMap<String, Option<Vec<PortBinding>>>,
    name: &str,
    wanted: Option<&str>,
) -> Result<Vec<String>, Failure> {
    let host = |binding: &PortBinding| match binding.host_ip.contains(':') {
        true => format!("[{}]:{}", binding.host_ip, binding.host_port),
        false => format!("{}:{}", binding.host_ip, binding.host_port),
    };
    if let Some(wanted) = wanted {
        let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        let protocol = if protocol.is_empty() { "tcp" } else { protocol };
        if number.parse::<u16>().is_err() {
            return Err(Failure::new(format!(
                "Error: invalid port ({number}): must be a number between 0 and 65535"
            )));
        }
        let bindings = ports
            .get(&format!("{number}/{protocol}"))
            .and_then(Option::as_ref)
            .filter(|list| !list.is_empty());
        let Some(bindings) = bindings else {
            return Err(Failure::new(format!("Error: No public port '{wanted}' published for {name}")));
        };
        return Ok(bindings.iter().map(host).collect());
    }
    let mut lines: Vec<String> = ports
        .iter()
        .flat_map(|(port, bindings)| {
            bindings.iter().flatten().map(move |binding| format!("{port} -> {}", host(binding)))
        })
        .collect();
    lines.sort_by(|a, b| natural_order(a, b));
    Ok(lines)
}
