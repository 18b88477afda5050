//! Environment variables and files of them.

use std::path::Path;

use super::quote;
use crate::context::Environment;

/// Checks one `--env`.
pub(crate) fn check(value: &str) -> Result<(), String> {
    if value.is_empty() || value.starts_with('=') {
        return Err(format!("invalid environment variable: {value}"));
    }
    Ok(())
}

/// `NAME` with the value from our own environment when it has one.
fn fill(value: &str, environment: &Environment) -> String {
    if value.contains('=') {
        return value.to_owned();
    }
    match environment.text(value) {
        Some(found) => format!("{value}={found}"),
        None => value.to_owned(),
    }
}

/// The variables of `--env`: each name once with its last value, at the place where it came first.
pub(crate) fn variables(values: &[String], environment: &Environment) -> Vec<String> {
    let mut variables: Vec<String> = Vec::new();
    for value in values {
        let filled = fill(value, environment);
        let name = filled.split('=').next().unwrap_or_default();
        match variables.iter_mut().find(|known| known.split('=').next() == Some(name)) {
            Some(known) => *known = filled,
            None => variables.push(filled),
        }
    }
    variables
}

/// The variables of files and flags, the files' first.
pub(crate) fn collect(
    files: &[String],
    values: &[String],
    environment: &Environment,
) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for file in files {
        for line in lines(file)? {
            let name = line.split('=').next().unwrap_or_default();
            if name.is_empty() {
                return Err(format!("no variable name on line '{line}'"));
            }
            if name.contains([' ', '\t']) {
                return Err(format!("variable '{name}' contains whitespaces"));
            }
            if line.contains('=') {
                all.push(line);
            } else if let Some(found) = environment.text(name) {
                all.push(format!("{name}={found}"));
            }
        }
    }
    all.extend(variables(values, environment));
    Ok(all)
}

/// Labels of files and flags, the files' first.
pub(crate) fn labels(files: &[String], values: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for file in files {
        for line in lines(file)? {
            let name = line.split('=').next().unwrap_or_default();
            if name.trim().is_empty() {
                return Err(format!("no variable name on line '{line}'"));
            }
            if name.contains([' ', '\t']) {
                return Err(format!("variable '{name}' contains whitespaces"));
            }
            all.push(line);
        }
    }
    all.extend(values.iter().cloned());
    Ok(all)
}

/// The lines that say something: no comments, no empty ones, left side trimmed.
fn lines(file: &str) -> Result<Vec<String>, String> {
    let bytes = std::fs::read(Path::new(file)).map_err(|error| open_error(file, &error))?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut lines = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let text = std::str::from_utf8(line).map_err(|_| {
            format!("invalid env file ({file}): invalid utf8 bytes at line {}: {:?}", number + 1, line)
        })?;
        let text = text.strip_suffix('\r').unwrap_or(text).trim_start();
        if !text.is_empty() && !text.starts_with('#') {
            lines.push(text.to_owned());
        }
    }
    Ok(lines)
}

/// Go's text for a file that cannot be opened.
pub(crate) fn open_error(file: &str, error: &std::io::Error) -> String {
    let why = match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    };
    if file.is_empty() { format!("open {}: {why}", quote(file)) } else { format!("open {file}: {why}") }
}
