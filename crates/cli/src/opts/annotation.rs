//! `--annotation`: `[TYPE[,TYPE][[PLATFORM]]:]KEY=VALUE`.

use yare_oci::Platform;

use super::quote;

/// One annotation of one kind of document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Annotation {
    /// `index`, `manifest`, `index-descriptor`, `manifest-descriptor`; empty where none was named.
    pub kind: String,
    /// The platform that it is for, as it was given; `None` for all.
    platform: Option<String>,
    /// Its key.
    pub key: String,
    /// What it says.
    pub value: String,
}

impl Annotation {
    /// The name by which the engine takes it: `TYPE[[PLATFORM]]:KEY`, and only `KEY` where no type is given.
    pub(crate) fn name(&self) -> String {
        match (&*self.kind, &self.platform) {
            ("", _) => self.key.clone(),
            (kind, None) => format!("{kind}:{}", self.key),
            (kind, Some(platform)) => format!("{kind}[{platform}]:{}", self.key),
        }
    }

    /// The platform that it is for; `None` for all.
    pub(crate) fn platform(&self) -> Option<Platform> {
        self.platform.as_deref().and_then(|text| Platform::parse(text).ok())
    }
}

/// Reads one flag, which is one annotation for each type that it names.
pub(crate) fn parse(text: &str) -> Result<Vec<Annotation>, String> {
    let Some((name, value)) = text.split_once('=') else {
        return Err(format!("invalid annotation {}, expected key=value", quote(text)));
    };
    let (types, key) = match name.split_once(':') {
        Some((types, key)) => (Some(types), key),
        None => (None, name),
    };
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(format!("invalid annotation {}: the key is empty or has spaces", quote(text)));
    }
    let one = |(kind, platform): (&str, Option<&str>)| Annotation {
        kind: kind.to_owned(),
        platform: platform.map(str::to_owned),
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let Some(types) = types else { return Ok(vec![one(("", None))]) };
    types.split(',').map(|kind| kind_of(kind, text).map(one)).collect()
}

/// `TYPE[[PLATFORM]]`, taken apart and checked.
fn kind_of<'k>(kind: &'k str, text: &str) -> Result<(&'k str, Option<&'k str>), String> {
    let (kind, platform) = match kind.split_once('[') {
        Some((kind, platform)) => {
            let platform = platform.strip_suffix(']');
            let platform = platform.ok_or_else(|| format!("invalid annotation {}", quote(text)))?;
            Platform::parse(platform)
                .map_err(|error| format!("invalid platform {}: {error}", quote(platform)))?;
            (kind, Some(platform))
        }
        None => (kind, None),
    };
    match kind {
        "index" | "index-descriptor" | "manifest" | "manifest-descriptor" => Ok((kind, platform)),
        "" => {
            Err("invalid annotation type \"\", expected type and optional platform in square brackets".into())
        }
        _ => Err(format!("unknown annotation type {}", quote(kind))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of buildx's own test.
    #[test]
    fn annotations_with_types_and_platforms() {
        let names = |text: &str| -> Result<Vec<String>, String> {
            Ok(parse(text)?.iter().map(|one| format!("{}={}", one.name(), one.value)).collect())
        };
        for (text, expected) in [
            ("a=b", &["a=b"] as &[_]),
            ("com.example=a", &["com.example=a"]),
            ("manifest:com.example=a", &["manifest:com.example=a"]),
            (
                "index,manifest[linux/arm64]:com.example=a",
                &["index:com.example=a", "manifest[linux/arm64]:com.example=a"],
            ),
        ] {
            assert_eq!(names(text).unwrap(), expected, "{text}");
        }
        for (text, why) in [
            ("bad:com.example=a", "unknown annotation type \"bad\""),
            ("index,:a=b", "invalid annotation type \"\", expected type and optional platform in square"),
            ("manifest[linux:a=b", "invalid annotation \"manifest[linux:a=b\""),
            ("manifest[x/y/z/0]:a=b", "invalid platform \"x/y/z/0\""),
            ("a", "invalid annotation \"a\", expected key=value"),
            ("=b", "the key is empty"),
            ("index:=b", "the key is empty"),
        ] {
            let error = names(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
