//! The answers to `--check` and `--call`.

use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::format::json::pretty;
use crate::table::Outcome;

/// Prints an answer; a check that found something exits with 1.
pub(super) fn print(cx: &Context, call: &str, answer: &Value, as_json: bool) -> Outcome {
    let warnings = answer["warnings"].as_array().map_or(&[][..], Vec::as_slice);
    if as_json || call != "check" {
        cx.line(pretty(answer, "  "))?;
    } else {
        cx.write(checked(warnings))?;
    }
    // The rest of the file was not looked at.
    if let Some(message) = answer["buildError"]["message"].as_str() {
        let line = answer["buildError"]["location"]["ranges"][0]["start"]["line"].as_u64();
        let place = line.map_or_else(String::new, |line| format!(" (line {line})"));
        return Err(Failure::new(format!("{message}{place}")));
    }
    Ok(i32::from(call == "check" && !warnings.is_empty()))
}

/// What a check found, as Buildx prints it.
fn checked(warnings: &[Value]) -> String {
    let mut text = match warnings.len() {
        0 => return "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        count => format!("Check complete, {count} warnings have been found!\n"),
    };
    for warning in warnings {
        let member = |name: &str| warning[name].as_str().unwrap_or_default();
        text.push_str(&format!("\nWARNING: {}", member("ruleName")));
        if !member("url").is_empty() {
            text.push_str(&format!(" - {}", member("url")));
        }
        text.push('\n');
        let what = if member("detail").is_empty() { member("description") } else { member("detail") };
        text.push_str(&format!("{what}\n"));
        if let Some(line) = warning["location"]["ranges"][0]["start"]["line"].as_u64() {
            text.push_str(&format!("Dockerfile:{line}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_check_found() {
        assert_eq!(checked(&[]), "Check complete, no warnings found.\n");
        let warning = json!({
            "ruleName": "JSONArgsRecommended", "description": "general", "url": "https://example.com/r",
            "detail": "JSON arguments recommended for CMD", "location": { "ranges": [{ "start": { "line": 3 } }] }
        });
        assert_eq!(
            checked(&[warning]),
            "Check complete, 1 warning has been found!\n\nWARNING: JSONArgsRecommended - https://example.com/r\n\
             JSON arguments recommended for CMD\nDockerfile:3\n"
        );
    }
}
