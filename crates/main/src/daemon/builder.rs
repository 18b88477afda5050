//! `builder` of the configuration file, in dockerd's form: how much the build cache keeps.

use serde_json::{Map, Value};
use yare_engine::{BuildCacheRule, BuildCacheSettings};

type Result<T> = std::result::Result<T, String>;

/// Reads the member's JSON; what has no effect is an error.
pub(super) fn settings(text: &str) -> Result<BuildCacheSettings> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut settings = BuildCacheSettings::default();
    for (key, value) in object(&value, "builder")? {
        match key.as_str() {
            "gc" => collecting(object(value, "builder.gc")?, &mut settings)?,
            _ => return Err(format!("builder.{key} is not known: builder has gc")),
        }
    }
    Ok(settings)
}

fn collecting(written: &Map<String, Value>, settings: &mut BuildCacheSettings) -> Result<()> {
    for (key, value) in written {
        match key.as_str() {
            "enabled" => {
                settings.is_on = value.as_bool().ok_or("builder.gc.enabled must be true or false")?;
            }
            "defaultKeepStorage" | "defaultReservedSpace" => settings.reserved = size(key, value)?,
            "defaultMaxUsedSpace" => settings.max_used = size(key, value)?,
            "defaultMinFreeSpace" => settings.min_free = size(key, value)?,
            "policy" => {
                let rules = value.as_array().ok_or("builder.gc.policy must be a list")?;
                settings.rules = rules.iter().map(rule).collect::<Result<_>>()?;
            }
            _ => return Err(format!("builder.gc.{key} is not known")),
        }
    }
    Ok(())
}

fn rule(value: &Value) -> Result<BuildCacheRule> {
    let mut rule = BuildCacheRule::default();
    for (key, value) in object(value, "a rule of builder.gc.policy")? {
        match key.as_str() {
            "all" => rule.all = value.as_bool().ok_or("all of a rule must be true or false")?,
            "keepStorage" | "reservedSpace" => rule.reserved = size(key, value)?,
            "maxUsedSpace" => rule.max_used = size(key, value)?,
            "minFreeSpace" => rule.min_free = size(key, value)?,
            "filter" => rule.filters = filters(value)?,
            _ => return Err(format!("{key} of a rule of builder.gc.policy is not known")),
        }
    }
    Ok(rule)
}

/// A list of `name=value`, or `{"name":{"value":true}}`.
fn filters(value: &Value) -> Result<Vec<String>> {
    const WRONG: &str = "filter of a rule must be a list of name=value";
    match value {
        Value::Array(list) => {
            list.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(|| WRONG.to_owned())).collect()
        }
        Value::Object(map) => {
            let mut all = Vec::new();
            for (name, values) in map {
                let values = values.as_object().ok_or(WRONG)?;
                all.extend(values.keys().map(|value| format!("{name}={value}")));
            }
            Ok(all)
        }
        _ => Err(WRONG.to_owned()),
    }
}

/// Bytes; 0 and nothing are no bound.
fn size(key: &str, value: &Value) -> Result<Option<u64>> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(format!("{key} must be a size such as 10GB")),
    };
    bytes(&text).ok_or_else(|| format!("invalid size {text:?} of {key}: want a size such as 10GB"))
}

/// A size in Docker's units; 0 is no bound.
pub(super) fn bytes(text: &str) -> Option<Option<u64>> {
    let bytes = u64::try_from(super::bytes(text)?).ok()?;
    Some(Some(bytes).filter(|bytes| *bytes > 0))
}

fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>> {
    value.as_object().ok_or_else(|| format!("{what} must be an object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockerds_forms_are_read() {
        let read = settings(
            r#"{"gc":{"enabled":true,"defaultKeepStorage":"20GB","policy":[
                {"keepStorage":"10GB","filter":["unused-for=2200h"]},
                {"maxUsedSpace":"50GB","minFreeSpace":1024,"filter":{"type":{"regular":true}},"all":true}]}}"#,
        );
        let read = read.unwrap();
        assert_eq!((read.is_on, read.reserved), (true, Some(20 << 30)));
        assert_eq!(read.rules[0].reserved, Some(10 << 30));
        assert_eq!(read.rules[0].filters, ["unused-for=2200h"]);
        assert_eq!((read.rules[1].min_free, read.rules[1].all), (Some(1024), true));
        assert_eq!(read.rules[1].filters, ["type=regular"]);
        assert!(!settings(r#"{"gc":{"enabled":false}}"#).unwrap().is_on);
        assert_eq!(settings(r#"{"gc":{"defaultMaxUsedSpace":"0"}}"#).unwrap().max_used, None);
    }

    #[test]
    fn what_would_have_no_effect_is_refused() {
        for bad in [
            "[]",
            r#"{"entitlements":{}}"#,
            r#"{"gc":{"enabled":"yes"}}"#,
            r#"{"gc":{"defaultKeepStorage":"much"}}"#,
            r#"{"gc":{"policy":[{"keep":1}]}}"#,
            r#"{"gc":{"policy":[{"filter":"unused-for=1h"}]}}"#,
        ] {
            assert!(settings(bad).is_err(), "{bad}");
        }
    }
}
