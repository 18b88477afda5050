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
        Self { architecture, os: system(os), variant, os_version: String::new(), os_features: Vec::new() }
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

    /// Whether an image of this platform serves a request for `wanted`: it is the same, or a lesser one whose
    /// programs run there, too.
    pub fn satisfies(&self, wanted: &Self) -> bool {
        self.rank(wanted).is_some()
    }

    /// How far an image of this platform is from `wanted`: 0 for the same, more for lesser ones whose programs
    /// run there, too; `None` when they do not. Of several images the one with the least is the best
    /// (containerd's `platforms.Only`).
    pub fn rank(&self, wanted: &Self) -> Option<usize> {
        let mine = Self::new(&self.os, &self.architecture, &self.variant);
        let fits = mine.os == system(&wanted.os) && self.system_fits(wanted);
        let mine = (mine.architecture, mine.variant);
        let place = served(&wanted.architecture, &wanted.variant).into_iter().position(|own| own == mine);
        place.filter(|_| fits)
    }

    /// Whether this is the platform `wanted` and no lesser one (containerd's `platforms.OnlyStrict`).
    pub fn is_exactly(&self, wanted: &Self) -> bool {
        self.rank(wanted) == Some(0)
    }

    /// Whether the operating system is new enough and has what the image needs. The version matters to
    /// Windows alone, where the first three numbers must be the same.
    fn system_fits(&self, wanted: &Self) -> bool {
        let build = |version: &str| version.split('.').take(3).map(str::to_owned).collect::<Vec<_>>();
        let is_open = self.os_version.is_empty() || wanted.os_version.is_empty();
        (is_open || build(&self.os_version) == build(&wanted.os_version))
            && self.os_features.iter().all(|feature| wanted.os_features.contains(feature))
    }
}

/// Architectures and variants whose programs a processor runs, the best first: its own variant, each that it
/// grew out of, and the 32-bit architecture beside it.
fn served(architecture: &str, variant: &str) -> Vec<(String, String)> {
    let (architecture, variant) = normalise(architecture, variant);
    let number = |text: &str| text.strip_prefix('v').and_then(|number| number.parse::<u8>().ok());
    let arm = |from: u8| (5..=from).rev().map(|version| ("arm".to_owned(), format!("v{version}")));
    let mut served = vec![(architecture.clone(), variant.clone())];
    let mut also = |variant: String| served.push(normalise(&architecture, &variant));
    match architecture.as_str() {
        "amd64" => {
            (1..number(&variant).unwrap_or(1)).rev().for_each(|level| also(format!("v{level}")));
            served.push(("386".to_owned(), String::new()));
        }
        "arm" => served.extend(arm(number(&variant).unwrap_or_default()).skip(1)),
        "arm64" => {
            let variant = if variant.is_empty() { "v8" } else { &variant };
            let (major, minor) = variant.split_once('.').unwrap_or((variant, "0"));
            if let (Some(major @ (8 | 9)), Ok(mut minor)) = (number(major), minor.parse::<u8>()) {
                if major == 9 {
                    (0..minor).rev().for_each(|minor| also(format!("v9.{minor}")));
                    // Version 9.0 has all of 8.5, 9.1 all of 8.6.
                    minor = minor.saturating_add(6);
                }
                (0..minor).rev().for_each(|minor| also(format!("v8.{minor}")));
                served.extend(arm(8));
            }
        }
        _ => {}
    }
    served
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

/// The name of an operating system in Go's words.
fn system(os: &str) -> String {
    match os.to_ascii_lowercase() {
        os if os == "macos" => "darwin".to_owned(),
        os => os,
    }
}

fn normalise(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", other) => ("amd64", other),
        ("i386" | "i486" | "i586" | "i686", _) => ("386", ""),
        ("aarch64" | "arm64", "" | "8" | "v8" | "8.0" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
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
            ("macOS/aarch64", "darwin/arm64"),
        ] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), printed, "{text}");
        }
        for bad in ["", "linux/", "a/b/c/d", "lin ux", "zzz"] {
            assert!(Platform::parse(bad).is_err(), "{bad}");
        }
    }

    /// What containerd's tests of `Only` have: for a platform those that serve it, best first, and others.
    #[test]
    fn lesser_platforms_serve_in_their_order() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "linux/amd64",
                &["linux/amd64", "linux/386"],
                &["linux/amd64/v2", "linux/arm64", "windows/amd64"],
            ),
            (
                "linux/amd64/v3",
                &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64/v1", "linux/386"],
                &["linux/amd64/v4", "linux/arm/v7"],
            ),
            ("linux/386", &["linux/386"], &["linux/amd64", "linux/arm/v7"]),
            (
                "linux/arm/v8",
                &["linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
                &["linux/arm/v4", "linux/arm64"],
            ),
            (
                "linux/arm",
                &["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
                &["linux/arm/v8", "linux/arm/v4"],
            ),
            ("linux/arm/v6", &["linux/arm/v6", "linux/arm/v5"], &["linux/arm", "linux/arm/v7"]),
            ("linux/arm/v5", &["linux/arm/v5"], &["linux/arm", "linux/arm/v4", "linux/arm/v6"]),
            ("linux/arm/v4", &["linux/arm/v4"], &["linux/arm", "linux/arm/v5"]),
            (
                "linux/arm64",
                &["linux/arm64/v8", "linux/arm/v8", "linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
                &["linux/arm64/v9", "linux/arm64/v8.1", "linux/arm/v4", "linux/arm/v9"],
            ),
            (
                "linux/arm64/v8.1",
                &["linux/arm64/v8.1", "linux/arm64", "linux/arm/v8", "linux/arm/v5"],
                &["linux/arm64/v8.2", "linux/arm64/v9", "linux/amd64"],
            ),
            (
                "linux/arm64/v9",
                &[
                    "linux/arm64/v9.0",
                    "linux/arm64/v8.5",
                    "linux/arm64/v8.1",
                    "linux/arm64/v8",
                    "linux/arm/v8",
                ],
                &["linux/arm64/v8.6", "linux/arm64/v9.1", "linux/arm/v4"],
            ),
            (
                "linux/arm64/v9.1",
                &["linux/arm64/v9.1", "linux/arm64/v9", "linux/arm64/v8.6", "linux/arm64", "linux/arm"],
                &["linux/arm64/v8.7", "linux/arm64/v9.2"],
            ),
            ("linux/riscv64", &["linux/riscv64"], &["linux/arm64", "linux/riscv64/rva23u64"]),
        ];
        for (wanted, served, others) in cases {
            let wanted = Platform::parse(wanted).unwrap();
            let rank = |text: &&str| Platform::parse(text).unwrap().rank(&wanted);
            let ranks: Vec<_> = served.iter().map(rank).collect();
            assert!(ranks.iter().all(Option::is_some) && ranks.is_sorted(), "{wanted}: {ranks:?}");
            assert_eq!(ranks[0], Some(0), "{wanted}");
            for exactly in &served[1..] {
                assert!(!Platform::parse(exactly).unwrap().is_exactly(&wanted), "{wanted}: {exactly}");
            }
            for other in *others {
                assert_eq!(rank(other), None, "{wanted}: {other}");
            }
        }
    }

    #[test]
    fn versions_and_features_of_the_system_count() {
        let windows = |version: &str, features: &[&str]| Platform {
            os_version: version.to_owned(),
            os_features: features.iter().map(|&feature| feature.to_owned()).collect(),
            ..Platform::new("windows", "amd64", "")
        };
        let wanted = windows("10.0.17763.1339", &["win32k"]);
        for serves in [windows("10.0.17763.1", &[]), windows("", &["win32k"]), windows("10.0.17763", &[])] {
            assert!(serves.is_exactly(&wanted), "{serves:?}");
        }
        for other in [windows("10.0.20348.1", &[]), windows("", &["other"])] {
            assert!(!other.satisfies(&wanted), "{other:?}");
        }
        assert!(windows("10.0.17763.1", &[]).satisfies(&windows("", &[])));
    }
}
