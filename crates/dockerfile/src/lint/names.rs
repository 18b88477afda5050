//! Rules about names and `FROM`.

use super::{Rule, Warning};
use crate::args::PLATFORM;
use crate::expand::expand;
use crate::suggest::nearest;
use crate::{Dockerfile, Stage};
use std::collections::{BTreeMap, BTreeSet};
use yare_gotext::quote;
use yare_oci::{Platform, Reference};

/// Names that mean something else where a stage could stand.
const RESERVED: &[&str] = &["context", "scratch"];

/// With so many declared names a wrong one is compared.
const COMPARED: usize = 1000;

pub(super) fn check(dockerfile: &Dockerfile, warnings: &mut Vec<Warning>) {
    let defaults = defaults(dockerfile);
    let declared: BTreeSet<&str> = dockerfile
        .global_args
        .iter()
        .flat_map(|global| global.arg.0.iter().map(|arg| arg.name.as_str()))
        .chain(PLATFORM.iter().copied())
        .collect();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for stage in &dockerfile.stages {
        casing(stage, warnings);
        if let Some(name) = stage.name() {
            if RESERVED.contains(&name) {
                let message =
                    format!("Stage name should not use the same name as reserved stage {}", quote(name));
                warnings.push(Warning::new(Rule::ReservedStageName, stage.span, message));
            }
            if !seen.insert(name) {
                let message = format!("Duplicate stage name {}, stage names should be unique", quote(name));
                warnings.push(Warning::new(Rule::DuplicateStageName, stage.span, message));
            }
        }
        base(dockerfile, stage, &declared, &defaults, warnings);
        platform(dockerfile, stage, warnings);
    }
}

fn casing(stage: &Stage, warnings: &mut Vec<Warning>) {
    let from = &stage.from;
    if let Some(name) = from.written_name.as_ref().filter(|name| **name != name.to_lowercase()) {
        let message = format!("Stage name '{name}' should be lowercase");
        warnings.push(Warning::new(Rule::StageNameCasing, stage.span, message));
    }
    let (keyword, Some(written)) = (&stage.keyword, &from.written_as) else { return };
    let lower = *keyword == keyword.to_lowercase();
    let upper = *keyword == keyword.to_uppercase();
    let same = (lower && *written == written.to_lowercase()) || (upper && *written == written.to_uppercase());
    // A FROM of mixed case is another rule's.
    if (lower || upper) && !same {
        let message = format!("'{written}' and '{keyword}' keywords' casing do not match");
        warnings.push(Warning::new(Rule::FromAsCasing, stage.span, message));
    }
}

/// Global arguments without any build argument. Those of platforms have what is usual.
pub(crate) fn defaults(dockerfile: &Dockerfile) -> BTreeMap<String, String> {
    let host = Platform::host();
    let mut values = BTreeMap::new();
    for side in ["BUILD", "TARGET"] {
        values.insert(format!("{side}PLATFORM"), host.to_string());
        values.insert(format!("{side}OS"), host.os.clone());
        values.insert(format!("{side}ARCH"), host.architecture.clone());
        values.insert(format!("{side}VARIANT"), host.variant.clone());
        values.insert(format!("{side}OSVERSION"), String::new());
    }
    values.insert("TARGETSTAGE".into(), "default".into());
    for arg in dockerfile.global_args.iter().flat_map(|global| &global.arg.0) {
        let Some(default) = &arg.default else { continue };
        let lookup = |name: &str| values.get(name).cloned();
        if let Ok(expanded) = expand(default, &lookup, dockerfile.escape()) {
            values.insert(arg.name.clone(), expanded.text);
        }
    }
    values
}

/// What a `FROM` has as its base.
fn base(
    dockerfile: &Dockerfile,
    stage: &Stage,
    declared: &BTreeSet<&str>,
    defaults: &BTreeMap<String, String>,
    warnings: &mut Vec<Warning>,
) {
    let lookup = |name: &str| defaults.get(name).cloned();
    let Ok(expanded) = expand(&stage.from.base, &lookup, dockerfile.escape()) else { return };
    for name in expanded.undefined.iter().filter(|name| !declared.contains(name.as_str())) {
        let near = crate::suggest::parenthesis(nearest(name, declared.iter().copied().take(COMPARED)));
        let message = format!("FROM argument '{name}' is not declared{near}");
        warnings.push(Warning::new(Rule::UndefinedArgInFrom, stage.span, message));
    }
    let is_stage = dockerfile.stage_named(&expanded.text, stage.index).is_some();
    if !is_stage && Reference::parse(&expanded.text).is_err() {
        let message =
            format!("Default value for ARG {} results in empty or invalid base image name", stage.from.base);
        warnings.push(Warning::new(Rule::InvalidDefaultArgInFrom, stage.span, message));
    }
}

fn platform(dockerfile: &Dockerfile, stage: &Stage, warnings: &mut Vec<Warning>) {
    let Some(written) = &stage.from.platform else { return };
    // Every variable has its own name as its value, so that what is left shows which ones there are.
    let lookup = |name: &str| Some(format!("${name}"));
    let Ok(expanded) = expand(written, &lookup, dockerfile.escape()) else { return };
    if expanded.text == "$TARGETPLATFORM" {
        let message = format!(
            "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
        );
        warnings.push(Warning::new(Rule::RedundantTargetPlatform, stage.span, message));
    }
    let Ok(platform) = Platform::parse(&expanded.text) else { return };
    let name = stage.name().unwrap_or_default();
    let told = name.contains(&platform.os) || name.contains(&platform.architecture);
    if expanded.used.is_empty() && !told {
        let message = format!("FROM --platform flag should not use constant value {}", quote(&expanded.text));
        warnings.push(Warning::new(Rule::FromPlatformFlagConstDisallowed, stage.span, message));
    }
}
