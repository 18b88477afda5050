//! Platforms: `os/arch[/variant]`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What an image was built for (image-spec, image-index.md, `platform`). The order of the members is the one
/// in which Go's programs write them, so that an index of the same entries has the same digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// CPU architecture in Go's words: `amd64`, `arm64`, …
    pub architecture: String,
    /// Operating system in Go's words: `linux`.
    pub os: String,
    /// Version of the operating system (Windows only).
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Required features of the operating system.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the architecture: `v7`, `v8`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Platform {
    /// The platform this binary runs on.
    pub fn host() -> Self {
        Self::new("linux", go_arch(std::env::consts::ARCH), "")
    }

    /// A platform from its three usual parts, normalised.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = normalise(architecture, variant);
        Self {
            architecture,
            os: os.to_ascii_lowercase(),
            variant,
            os_version: String::new(),
            os_features: Vec::new(),
        }
    }

    /// Parses `os`, `arch`, `os/arch` or `os/arch/variant`, as `--platform` takes it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| Err(format!("{text:?} is an invalid platform specifier: {why}"));
        if text.is_empty() {
            return bad("it is empty");
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte)) {
            return bad("only letters, digits and -_./ are allowed");
        }
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            [one] if is_os(one) => Ok(Self::new(one, go_arch(std::env::consts::ARCH), "")),
            [one] if is_arch(one) => Ok(Self::new("linux", one, "")),
            [_] => bad("it names neither a known operating system nor a known architecture"),
            [os, arch] if !os.is_empty() && !arch.is_empty() => Ok(Self::new(os, arch, "")),
            [os, arch, variant] if !os.is_empty() && !arch.is_empty() => Ok(Self::new(os, arch, variant)),
            _ => bad("the form is os[/arch[/variant]]"),
        }
    }

    /// Whether an image of this platform serves a request for `wanted`.
    pub fn satisfies(&self, wanted: &Self) -> bool {
        let (mine, asked) = (
            Self::new(&self.os, &self.architecture, &self.variant),
            Self::new(&wanted.os, &wanted.architecture, &wanted.variant),
        );
        mine.os == asked.os
            && mine.architecture == asked.architecture
            && (asked.variant.is_empty() || mine.variant.is_empty() || mine.variant == asked.variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

fn go_arch(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", other) => ("amd64", other),
        ("i386" | "i486" | "i586" | "i686", _) => ("386", ""),
        ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
        ("aarch64", other) => ("arm64", other),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        (arch, variant) => (arch, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

fn is_os(text: &str) -> bool {
    matches!(text, "linux" | "windows" | "darwin" | "freebsd" | "macos")
}

fn is_arch(text: &str) -> bool {
    matches!(
        text,
        "amd64"
            | "x86_64"
            | "x86-64"
            | "386"
            | "i386"
            | "arm64"
            | "aarch64"
            | "arm"
            | "armhf"
            | "armel"
            | "ppc64le"
            | "s390x"
            | "riscv64"
            | "mips64le"
            | "loong64"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_forms_of_the_flag() {
        for (text, printed) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("aarch64", "linux/arm64"),
            ("linux/x86_64", "linux/amd64"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), printed, "{text}");
        }
        for bad in ["", "linux/", "a/b/c/d", "lin ux", "zzz"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }
}
