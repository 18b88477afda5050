//! `--gpus`.

use std::collections::BTreeMap;

use yare_api::DeviceRequest;

/// Reads `all`, a count, or `device=…,driver=…,capabilities=…,options=…`.
pub(crate) fn parse(value: &str) -> Result<DeviceRequest, String> {
    let fields = super::csv(value)?;
    let mut request = DeviceRequest::default();
    let mut seen: Vec<String> = Vec::new();
    let mut counted = false;
    for (index, field) in fields.iter().enumerate() {
        let (name, value) = match field.split_once('=') {
            Some((name, value)) => (name, value),
            None if index == 0 => ("count", field.as_str()),
            None => (field.as_str(), ""),
        };
        if seen.iter().any(|known| known == name) {
            return Err(format!("gpu request key '{name}' can be specified only once"));
        }
        seen.push(name.to_owned());
        match name {
            "driver" => value.clone_into(&mut request.driver),
            "count" => {
                request.count = count(value)?;
                counted = true;
            }
            "device" => request.device_ids = Some(split(value)),
            "capabilities" => {
                let mut capabilities = split(value);
                capabilities.push("gpu".to_owned());
                request.capabilities = Some(vec![capabilities]);
            }
            "options" => request.options = Some(options(value)?),
            _ => return Err(format!("unexpected key '{name}' in '{field}'")),
        }
    }
    if !counted && request.device_ids.is_none() {
        request.count = 1;
    }
    request.options.get_or_insert_with(BTreeMap::new);
    request.capabilities.get_or_insert_with(|| vec![vec!["gpu".to_owned()]]);
    Ok(request)
}

fn split(value: &str) -> Vec<String> {
    value.split(',').map(str::to_owned).collect()
}

fn count(value: &str) -> Result<i64, String> {
    if value == "all" {
        return Ok(-1);
    }
    value.parse().map_err(|_| {
        format!("invalid count ({value}): value must be either \"all\" or an integer: invalid syntax")
    })
}

fn options(value: &str) -> Result<BTreeMap<String, String>, String> {
    Ok(super::key_values(&super::csv(value)?))
}
