//! The small languages of `build`'s flags: outputs, caches, attestations, secrets, agents.

use std::collections::BTreeMap;

use yare_api::build::BuildOutput;

use crate::opts::{csv, quote};

/// `name=value` pairs of one flag.
pub(super) type Attributes = BTreeMap<String, String>;

/// Splits `a=b,c=d`; names are in lower case.
fn attributes(text: &str) -> Result<Attributes, String> {
    let mut found = Attributes::new();
    for field in csv(text)? {
        let Some((name, value)) = field.split_once('=') else {
            return Err(format!("invalid value {field}"));
        };
        found.insert(name.trim().to_lowercase(), value.to_owned());
    }
    Ok(found)
}

/// Where the bytes of an output go, when the engine sends them to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// Standard output.
    Stdout,
    /// A file at this path.
    File(String),
    /// A directory that a tar is unpacked into.
    Directory(String),
}

/// One `--output`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Output {
    /// What the engine is asked for, without a destination.
    pub wanted: BuildOutput,
    /// Where it goes; `None` when it stays with the engine or goes to a registry.
    pub destination: Option<Destination>,
}

/// Reads one `--output`: attributes, or a path for `type=local,dest=PATH`, or `-` for `type=tar,dest=-`.
/// `terminal` says that standard output is one.
pub(super) fn output(text: &str, terminal: bool) -> Result<Output, String> {
    let mut attributes = match csv(text)?.as_slice() {
        [only] if only == "-" => attributes_of(&[("type", "tar"), ("dest", "-")]),
        [only] if only == text && !only.starts_with("type=") => {
            attributes_of(&[("type", "local"), ("dest", only)])
        }
        _ => attributes(text)?,
    };
    let kind = attributes.remove("type").filter(|kind| !kind.is_empty());
    let mut kind = kind.ok_or("type is required for output")?;
    let dest = attributes.remove("dest").filter(|dest| !dest.is_empty());
    let as_directory = attributes.get("tar").map(String::as_str) == Some("false");
    let destination = match (kind.as_str(), dest) {
        ("local", None) => return Err("dest is required for local exporter".to_owned()),
        ("local", Some(dest)) if dest == "-" => {
            return Err("dest cannot be stdout for local exporter".to_owned());
        }
        ("local", Some(dest)) => Some(Destination::Directory(dest)),
        ("oci", Some(dest)) if as_directory => Some(Destination::Directory(dest)),
        ("docker", None) => {
            // Without a file it means: into the image store.
            kind = "image".to_owned();
            None
        }
        ("tar" | "oci" | "docker", Some(dest)) if dest != "-" => Some(Destination::File(dest)),
        ("tar" | "oci" | "docker", _) if terminal => {
            return Err(format!("dest file is required for {kind} exporter. refusing to write to console"));
        }
        ("tar" | "oci" | "docker", _) => Some(Destination::Stdout),
        ("image" | "registry", Some(_)) => return Err(format!("dest is not supported for {kind} exporter")),
        ("image" | "registry", None) => None,
        _ => return Err(format!("exporter {} could not be found", quote(&kind))),
    };
    Ok(Output { wanted: BuildOutput { kind, attributes }, destination })
}

fn attributes_of(pairs: &[(&str, &str)]) -> Attributes {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Reads one `--cache-from` or `--cache-to`; a bare name is a reference in a registry.
pub(super) fn cache(text: &str) -> Result<Attributes, String> {
    let fields = csv(text)?;
    if !fields.is_empty() && fields.iter().all(|field| !field.contains('=')) {
        let [reference] = fields.as_slice() else {
            return Err(format!("invalid value {text}"));
        };
        return Ok(attributes_of(&[("type", "registry"), ("ref", reference)]));
    }
    let found = attributes(text)?;
    match found.get("type") {
        Some(kind) if !kind.is_empty() => Ok(found),
        _ => Err(format!("type required form> {}", quote(text))),
    }
}

/// Adds one `--attest`, or what `--sbom` and `--provenance` stand for; `false` takes it out.
pub(super) fn attestation(
    all: &mut BTreeMap<String, Attributes>,
    kind: Option<&str>,
    text: &str,
) -> Result<(), String> {
    let mut found = match (kind, crate::flags::parse_bool(text)) {
        (Some(_), Some(true)) => Attributes::new(),
        (Some(_), Some(false)) => attributes_of(&[("disabled", "true")]),
        _ => attributes(text)?,
    };
    let named = found.remove("type");
    let kind = kind.map(str::to_owned).or(named).filter(|kind| !kind.is_empty());
    let kind = kind.ok_or("attestation type not specified")?;
    if !matches!(kind.as_str(), "sbom" | "provenance") {
        return Err(format!("unsupported attestation type {}", quote(&kind)));
    }
    if let Some(disabled) = found.remove("disabled") {
        match crate::flags::parse_bool(&disabled) {
            Some(true) => {
                all.remove(&kind);
                return Ok(());
            }
            Some(false) => {}
            None => return Err(format!("invalid value disabled={disabled}")),
        }
    }
    if all.contains_key(&kind) {
        return Err(format!("duplicate attestation field {kind}"));
    }
    all.insert(kind, found);
    Ok(())
}

/// Where a secret's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Secret {
    /// Its name in the build.
    pub id: String,
    /// The variable or file that holds it.
    pub source: SecretSource,
}

/// A variable or a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SecretSource {
    /// A variable of our environment; empty when it is not set.
    Variable(String),
    /// A file.
    File(String),
    /// The variable of the secret's own name when there is one, or else the file of that name.
    Either,
}

/// Reads one `--secret`.
pub(super) fn secret(text: &str) -> Result<Secret, String> {
    let fields = csv(text).map_err(|why| format!("failed to parse csv secret: {why}"))?;
    let (mut id, mut file, mut variable, mut kind) = (String::new(), None, None, String::new());
    for field in fields {
        let Some((name, value)) = field.split_once('=') else {
            return Err(format!("invalid field '{field}' must be a key=value pair"));
        };
        let value = value.to_owned();
        match name.to_lowercase().as_str() {
            "type" if matches!(value.as_str(), "file" | "env") => kind = value,
            "type" => return Err(format!("unsupported secret type {}", quote(&value))),
            "id" => id = value,
            "source" | "src" => file = Some(value).filter(|value| !value.is_empty()),
            "env" => variable = Some(value).filter(|value| !value.is_empty()),
            _ => return Err(format!("unexpected key '{}' in '{field}'", name.to_lowercase())),
        }
    }
    if id.is_empty() {
        return Err("secret missing ID".to_owned());
    }
    let source = match (variable, file, kind.as_str()) {
        (Some(variable), _, _) | (None, Some(variable), "env") => SecretSource::Variable(variable),
        (None, Some(file), _) => SecretSource::File(file),
        (None, None, _) => SecretSource::Either,
    };
    Ok(Secret { id, source })
}

/// Reads one `--ssh`: an id, and the agent's socket when it is not the one of our environment.
pub(super) fn agent(text: &str) -> (String, Option<String>) {
    match text.split_once('=') {
        Some((id, socket)) if !socket.is_empty() => (id.to_owned(), Some(socket.to_owned())),
        Some((id, _)) => (id.to_owned(), None),
        None => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        match output(text, false) {
            Ok(output) => format!(
                "{} {:?} {}",
                output.wanted.kind,
                output.wanted.attributes,
                match output.destination {
                    None => "stays".to_owned(),
                    Some(Destination::Stdout) => "-".to_owned(),
                    Some(Destination::File(path)) => format!("file {path}"),
                    Some(Destination::Directory(path)) => format!("directory {path}"),
                }
            ),
            Err(why) => why,
        }
    }

    #[test]
    fn outputs() {
        for (text, expected) in [
            ("out", "local {} directory out"),
            ("-", "tar {} -"),
            ("type=local,dest=out", "local {} directory out"),
            ("type=local", "dest is required for local exporter"),
            ("type=local,dest=-", "dest cannot be stdout for local exporter"),
            ("type=tar,dest=a.tar", "tar {} file a.tar"),
            ("type=tar", "tar {} -"),
            ("type=oci,dest=d,tar=false", "oci {\"tar\": \"false\"} directory d"),
            ("type=docker", "image {} stays"),
            ("type=docker,dest=-", "docker {} -"),
            ("type=image,name=a,push=true", "image {\"name\": \"a\", \"push\": \"true\"} stays"),
            ("type=oci,\"dest=a,b\",compression=zstd", "oci {\"compression\": \"zstd\"} file a,b"),
            ("dest=x", "local {} directory dest=x"),
            ("dest=x,name=y", "type is required for output"),
            ("type=oci,x", "invalid value x"),
            ("type=odd", "exporter \"odd\" could not be found"),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
        let why = output("-", true).unwrap_err();
        assert_eq!(why, "dest file is required for tar exporter. refusing to write to console");
    }

    #[test]
    fn caches() {
        assert_eq!(
            cache("user/app:cache").unwrap(),
            attributes_of(&[("type", "registry"), ("ref", "user/app:cache")])
        );
        assert_eq!(cache("type=local,src=d").unwrap(), attributes_of(&[("type", "local"), ("src", "d")]));
        assert_eq!(cache("src=d").unwrap_err(), "type required form> \"src=d\"");
        assert_eq!(cache("type=gha,x").unwrap_err(), "invalid value x");
    }

    #[test]
    fn attestations() {
        let mut all = BTreeMap::new();
        attestation(&mut all, None, "type=sbom,generator=x").unwrap();
        attestation(&mut all, Some("provenance"), "mode=max").unwrap();
        assert_eq!(all["sbom"], attributes_of(&[("generator", "x")]));
        assert_eq!(all["provenance"], attributes_of(&[("mode", "max")]));
        assert_eq!(
            attestation(&mut all, Some("sbom"), "true").unwrap_err(),
            "duplicate attestation field sbom"
        );
        attestation(&mut all, Some("sbom"), "false").unwrap();
        assert!(!all.contains_key("sbom"));
        assert_eq!(attestation(&mut all, None, "mode=x").unwrap_err(), "attestation type not specified");
    }

    #[test]
    fn secrets() {
        let read = |text: &str| secret(text).map(|secret| (secret.id, secret.source));
        let id = || "x".to_owned();
        assert_eq!(read("id=x"), Ok((id(), SecretSource::Either)));
        assert_eq!(read("id=x,src=f"), Ok((id(), SecretSource::File("f".into()))));
        assert_eq!(read("type=file,id=x,source=f"), Ok((id(), SecretSource::File("f".into()))));
        assert_eq!(read("id=x,env=E"), Ok((id(), SecretSource::Variable("E".into()))));
        assert_eq!(read("type=env,id=x,src=E"), Ok((id(), SecretSource::Variable("E".into()))));
        assert_eq!(read("src=f").unwrap_err(), "secret missing ID");
        assert_eq!(read("x").unwrap_err(), "invalid field 'x' must be a key=value pair");
        assert_eq!(read("id=x,To=y").unwrap_err(), "unexpected key 'to' in 'To=y'");
        assert_eq!(read("type=odd,id=x").unwrap_err(), "unsupported secret type \"odd\"");
    }
}
