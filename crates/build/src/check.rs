//! What is doubtful in a Dockerfile, and what it offers: the calls of its frontend that build nothing, in the
//! field's form, and the warnings of a build.

use crate::failure::Failure;
use crate::lower;
use crate::progress::Progress;
use crate::request::Request;
use crate::solve::Tools;
use crate::{Error, Result};
use base64::Engine as _;
use serde_json::{Value, json};
use yare_api::build::{SourcePosition, SourceRange, VertexWarning};
use yare_dockerfile::lint::{self, Warning};
use yare_dockerfile::{CheckOptions, Dockerfile, outline};
use yare_oci::Digest;

/// Answers `check`, `outline` or `targets` without building.
///
/// # Errors
/// The Dockerfile cannot be read, its target is unknown, or there is no such call.
pub fn call(request: &Request, name: &str, tools: Tools<'_>) -> Result<Value, Failure> {
    let dockerfile = crate::build::parse(request)?;
    let answer = match name {
        "check" => return check(request, &dockerfile, tools),
        "outline" => outline::outline(&dockerfile, Some(&request.target))
            .map_err(Error::invalid)
            .map(|outline| with_sources(json!(outline), request)),
        "targets" => Ok(with_sources(json!(outline::targets(&dockerfile)), request)),
        other => Err(Error::invalid(format!("unknown call {other:?}"))
            .with_hint("the calls are check, outline and targets")),
    };
    answer.map_err(Failure::from)
}

/// What the rules say. What a build would fail with is part of the answer, so that a check says all it knows.
fn check(request: &Request, dockerfile: &Dockerfile, tools: Tools<'_>) -> Result<Value, Failure> {
    let options = options(dockerfile, request)?;
    let ignore = tools.contexts.open("").ok().and_then(|tree| tree.ignore);
    let lowered = lower::lower(dockerfile, request, tools.worker, ignore);
    let (found, failure) = match lowered {
        Ok(lowered) => (lowered.warnings, None),
        Err(failure) => (Vec::new(), Some(failure)),
    };
    let warnings = all(dockerfile, &options, found);
    let mut answer = json!({
        "warnings": warnings.iter().map(warning).collect::<Vec<_>>(),
        "sources": [source(request)],
    });
    if let Some(failure) = failure {
        answer["buildError"] = json!({
            "message": yare_errdefs::chain(&failure),
            "location": failure.lines.map(|lines| location(lines.0, lines.1)),
        });
    }
    Ok(answer)
}

/// The options of the rules: those of the command line in place of those of the file.
pub(crate) fn options(dockerfile: &Dockerfile, request: &Request) -> Result<CheckOptions> {
    match request.build_args.get("BUILDKIT_DOCKERFILE_CHECK").cloned().flatten() {
        Some(given) => CheckOptions::parse(&given).map_err(Error::invalid),
        None => Ok(dockerfile.directives.check.clone()),
    }
}

/// What the file alone and what its values say, ordered by place, each once: a stage that is built for
/// several platforms is as doubtful as one.
pub(crate) fn all(dockerfile: &Dockerfile, options: &CheckOptions, found: Vec<Warning>) -> Vec<Warning> {
    let mut warnings = lint::lint(dockerfile, options);
    for warning in found.into_iter().filter(|warning| warning.rule.enabled(options)) {
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    warnings.sort_by_key(|warning| (warning.span.line, warning.rule));
    warnings
}

/// Tells of warnings, and ends the build where they count as errors.
///
/// # Errors
/// `check=error=true` and there is one.
pub(crate) fn tell(warnings: &[Warning], options: &CheckOptions, progress: &Progress) -> Result<(), Failure> {
    for warning in warnings {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let position = |line: u32| SourcePosition { line: i64::from(line), character: 0 };
        progress.warning(VertexWarning {
            vertex: Digest::of("definition").to_string(),
            level: 1,
            short: encode(&format!("{}: {}", warning.rule.name(), warning.message)),
            detail: vec![encode(warning.rule.description())],
            url: warning.rule.url(),
            range: vec![SourceRange {
                start: position(warning.span.line),
                end: position(warning.span.end_line),
            }],
        });
    }
    match lint::violation(warnings).filter(|_| options.error) {
        Some(text) => {
            let lines = warnings.first().map_or((0, 0), |first| (first.span.line, first.span.end_line));
            let hint = "the Dockerfile or BUILDKIT_DOCKERFILE_CHECK says check=error=true";
            Err(Failure::from(Error::invalid(text).with_hint(hint)).at(lines))
        }
        None => Ok(()),
    }
}

fn warning(warning: &Warning) -> Value {
    json!({
        "ruleName": warning.rule.name(),
        "description": warning.rule.description(),
        "url": warning.rule.url(),
        "detail": warning.message,
        "location": location(warning.span.line, warning.span.end_line),
    })
}

fn location(first: u32, last: u32) -> Value {
    json!({ "ranges": [{ "start": { "line": first }, "end": { "line": last } }] })
}

fn source(request: &Request) -> Value {
    let data = base64::engine::general_purpose::STANDARD.encode(&request.dockerfile);
    json!({ "filename": request.dockerfile_name, "language": "Dockerfile", "data": data })
}

fn with_sources(mut answer: Value, request: &Request) -> Value {
    answer["sources"] = json!([source(request)]);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_end_a_build_where_they_count_as_errors() {
        let file = yare_dockerfile::parse(b"# check=error=true\nFROM scratch AS Base\n").unwrap();
        let warnings = all(&file, &file.directives.check, Vec::new());
        let failure = tell(&warnings, &file.directives.check, &Progress::none()).unwrap_err();
        assert_eq!(failure.to_string(), "lint violation found for rules: StageNameCasing");
        assert_eq!(failure.lines, Some((2, 2)));
        let request = Request {
            build_args: [("BUILDKIT_DOCKERFILE_CHECK".to_owned(), Some("skip=all".to_owned()))].into(),
            ..Request::default()
        };
        let options = options(&file, &request).unwrap();
        assert!(!options.error && all(&file, &options, Vec::new()).is_empty());
    }

    #[test]
    fn what_was_found_for_each_platform_is_told_once() {
        let file = yare_dockerfile::parse(b"FROM scratch\nENV TOKEN=x\n").unwrap();
        let found = lint::evaluated::secret_name(file.stages[0].steps[0].span, "ENV", "TOKEN");
        let found = vec![found.clone().unwrap(), found.unwrap()];
        assert_eq!(all(&file, &CheckOptions::default(), found).len(), 1);
    }
}
