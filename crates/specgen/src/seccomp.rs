//! System call filters: Docker's profile format, and what is left of a profile for one container.
//!
//! A profile has rules that hold only with certain capabilities, on certain architectures or from a certain
//! kernel on. Resolving picks those that hold.

use serde::{Deserialize, Serialize};
use std::sync::OnceLock;
use yare_errdefs::Error;
use yare_oci::runtime::{Seccomp, SyscallArg, SyscallRule};

/// Docker's default profile (moby/profiles).
const DEFAULT: &str = include_str!("seccomp-default.json");

/// A profile as users write it. Unknown members are ignored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Profile {
    /// Action where no rule matches.
    pub default_action: String,
    /// Error number of that action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// `SCMP_ARCH_…`, instead of `arch_map`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// Which architectures go together with the native one.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub arch_map: Vec<Architecture>,
    /// `SECCOMP_FILTER_FLAG_…`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    /// The rules.
    #[serde(deserialize_with = "null_default")]
    pub syscalls: Vec<Rule>,
}

/// An architecture and those whose programs it also runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Architecture {
    /// `SCMP_ARCH_…`.
    pub architecture: String,
    /// `SCMP_ARCH_…`.
    #[serde(deserialize_with = "null_default")]
    pub sub_architectures: Vec<String>,
}

/// One rule of a profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// One system call, instead of `names`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// System calls.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// `SCMP_ACT_…`.
    pub action: String,
    /// Error number of the action.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Conditions on arguments.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<SyscallArg>,
    /// When the rule holds.
    #[serde(deserialize_with = "null_default")]
    pub includes: Condition,
    /// When it does not.
    #[serde(deserialize_with = "null_default")]
    pub excludes: Condition,
}

/// What a rule's validity depends on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Capabilities.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<String>,
    /// Architectures in Go's words.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub arches: Vec<String>,
    /// `major.minor`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub min_kernel: String,
}

fn null_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl Profile {
    /// Reads a profile of a user.
    ///
    /// # Errors
    /// Docker's texts, class invalid argument.
    pub fn parse(json: &str) -> Result<Self, Error> {
        let profile: Self = serde_json::from_str(json)
            .map_err(|error| Error::invalid(format!("decoding seccomp profile failed: {error}")))?;
        if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
            return Err(Error::invalid(
                "both 'architectures' and 'archMap' are specified in the seccomp profile, use either \
                 'architectures' or 'archMap'",
            ));
        }
        if profile.syscalls.iter().any(|rule| !rule.name.is_empty() && !rule.names.is_empty()) {
            return Err(Error::invalid(
                "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'",
            ));
        }
        Ok(profile)
    }

    /// The built-in profile.
    pub fn built_in() -> &'static Self {
        static PROFILE: OnceLock<Profile> = OnceLock::new();
        PROFILE
            .get_or_init(|| serde_json::from_str(DEFAULT).expect("the built-in profile is checked by a test"))
    }

    /// What of it holds for a container with these capabilities on this kernel and architecture.
    pub fn resolve(&self, capabilities: &[String], kernel: (u32, u32), architecture: &str) -> Seccomp {
        let mut architectures = self.architectures.clone();
        let native = native(architecture);
        for entry in self.arch_map.iter().filter(|entry| entry.architecture == native) {
            architectures.push(entry.architecture.clone());
            architectures.extend(entry.sub_architectures.iter().cloned());
        }
        let holds = |rule: &&Rule| holds(rule, capabilities, kernel, architecture);
        Seccomp {
            default_action: self.default_action.clone(),
            default_errno_ret: self.default_errno_ret,
            architectures,
            flags: self.flags.clone(),
            syscalls: self.syscalls.iter().filter(holds).map(resolved).collect(),
        }
    }
}

fn resolved(rule: &Rule) -> SyscallRule {
    let names = if rule.name.is_empty() { rule.names.clone() } else { vec![rule.name.clone()] };
    SyscallRule { names, action: rule.action.clone(), errno_ret: rule.errno_ret, args: rule.args.clone() }
}

fn holds(rule: &Rule, capabilities: &[String], kernel: (u32, u32), architecture: &str) -> bool {
    let (includes, excludes) = (&rule.includes, &rule.excludes);
    let at_least = |version: &str| version.is_empty() || kernel >= parse_kernel(version);
    let excluded = excludes.caps.iter().any(|name| capabilities.contains(name))
        || excludes.arches.iter().any(|name| name == architecture)
        || (!excludes.min_kernel.is_empty() && at_least(&excludes.min_kernel));
    let included = includes.caps.iter().all(|name| capabilities.contains(name))
        && (includes.arches.is_empty() || includes.arches.iter().any(|name| name == architecture))
        && at_least(&includes.min_kernel);
    included && !excluded
}

fn parse_kernel(text: &str) -> (u32, u32) {
    let mut numbers = text.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// `SCMP_ARCH_…` for an architecture in Go's words.
fn native(architecture: &str) -> &'static str {
    match architecture {
        "amd64" => "SCMP_ARCH_X86_64",
        "386" => "SCMP_ARCH_X86",
        "arm64" => "SCMP_ARCH_AARCH64",
        "arm" => "SCMP_ARCH_ARM",
        "ppc64le" => "SCMP_ARCH_PPC64LE",
        "s390x" => "SCMP_ARCH_S390X",
        "riscv64" => "SCMP_ARCH_RISCV64",
        "loong64" => "SCMP_ARCH_LOONGARCH64",
        "mips64" => "SCMP_ARCH_MIPS64",
        "mips64le" => "SCMP_ARCH_MIPSEL64",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_profile_reads() {
        let profile = Profile::built_in();
        assert_eq!((profile.default_action.as_str(), profile.default_errno_ret), ("SCMP_ACT_ERRNO", Some(1)));
        assert!(profile.syscalls.len() > 30);
    }

    #[test]
    fn rules_depend_on_capabilities_kernel_and_architecture() {
        let text = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["chmod"],"action":"SCMP_ACT_ALLOW"},
            {"name":"syslog","action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYSLOG"]}},
            {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]},"args":null},
            {"names":["new"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"5.10","arches":["amd64"]}}]}"#;
        let profile = Profile::parse(text).unwrap();
        let names = |caps: &[&str], kernel, architecture: &str| {
            let caps: Vec<_> = caps.iter().map(|cap| (*cap).to_owned()).collect();
            let filter = profile.resolve(&caps, kernel, architecture);
            filter.syscalls.into_iter().flat_map(|rule| rule.names).collect::<Vec<_>>()
        };
        assert_eq!(names(&[], (5, 9), "amd64"), ["chmod", "ptrace"]);
        assert_eq!(names(&["CAP_SYSLOG", "CAP_SYS_ADMIN"], (6, 0), "amd64"), ["chmod", "syslog", "new"]);
        assert_eq!(names(&[], (6, 0), "arm64"), ["chmod", "ptrace"]);
    }

    #[test]
    fn refuses_contradictions() {
        for bad in [
            "{",
            r#"{"architectures":["a"],"archMap":[{"architecture":"b"}]}"#,
            r#"{"syscalls":[{"name":"a","names":["b"]}]}"#,
        ] {
            assert!(Profile::parse(bad).is_err(), "{bad}");
        }
    }
}
