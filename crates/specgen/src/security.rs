//! `--security-opt`.

use crate::check::Report;
use crate::facts::HostFacts;
use crate::logs::parse_bool;
use crate::plan::SeccompChoice;
use crate::seccomp::Profile;
use yare_errdefs::Error;

/// What the options say.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct SecurityOptions {
    /// Whether `execve` may add rights.
    pub(crate) no_new_privileges: bool,
    /// The system call filter, when one is named.
    pub(crate) seccomp: Option<SeccompChoice>,
    /// The AppArmor profile, when one is named.
    pub(crate) apparmor: Option<String>,
    /// The first SELinux label that is asked for; that there shall be none is no wish.
    pub(crate) label: Option<String>,
    /// Whether the container may write its cgroup files.
    pub(crate) writable_cgroups: bool,
}

/// The AppArmor profile of containers that name none.
pub const DEFAULT_APPARMOR_PROFILE: &str = "docker-default";

impl SecurityOptions {
    /// The AppArmor profile; empty for none. That a named one cannot be had is told.
    pub(crate) fn apparmor_profile(
        &self,
        privileged: bool,
        facts: &HostFacts,
        report: &mut Report,
    ) -> String {
        match self.apparmor.as_deref().filter(|profile| !profile.is_empty()) {
            Some(profile) if facts.apparmor => profile.to_owned(),
            Some("unconfined") => String::new(),
            Some(profile) => {
                report.warn(format!(
                    "Your kernel does not support AppArmor or AppArmor is off. Profile {profile} discarded."
                ));
                String::new()
            }
            None if privileged && facts.apparmor => "unconfined".to_owned(),
            None if facts.apparmor && facts.default_apparmor_profile => DEFAULT_APPARMOR_PROFILE.to_owned(),
            None => String::new(),
        }
    }

    /// Where SELinux is on, a label that is asked for must not be left out. Without it Docker ignores it too.
    pub(crate) fn check_label(&self, facts: &HostFacts) -> Result<(), Error> {
        match &self.label {
            Some(label) if facts.selinux => Err(Error::unimplemented(format!(
                "SELinux labels are not built into this Yare: --security-opt label={label}"
            ))
            .with_hint("leave the option out, or say label=disable: containers run unlabelled")),
            _ => Ok(()),
        }
    }
}

/// Reads the options: `name`, `name=value` or the old `name:value`.
///
/// # Errors
/// Docker's texts, class invalid argument.
pub(crate) fn parse(options: &[String]) -> Result<SecurityOptions, Error> {
    let mut parsed = SecurityOptions::default();
    for option in options {
        match option.as_str() {
            "no-new-privileges" => parsed.no_new_privileges = true,
            // The old form of label=disable.
            "disable" => {}
            _ => parse_pair(option, &mut parsed)?,
        }
    }
    Ok(parsed)
}

fn parse_pair(option: &str, parsed: &mut SecurityOptions) -> Result<(), Error> {
    let separator = if option.contains('=') { '=' } else { ':' };
    let (name, value) = option
        .split_once(separator)
        .ok_or_else(|| Error::invalid(format!("invalid --security-opt 1: {option:?}")))?;
    let wrong = || Error::invalid(format!("invalid --security-opt 2: {option:?}"));
    match name {
        "label" if value == "disable" => {}
        "label" => parsed.label = parsed.label.take().or_else(|| Some(value.to_owned())),
        "apparmor" => parsed.apparmor = Some(value.to_owned()),
        "seccomp" => parsed.seccomp = Some(seccomp(value)?),
        "no-new-privileges" => parsed.no_new_privileges = parse_bool(value).ok_or_else(wrong)?,
        "writable-cgroups" => parsed.writable_cgroups = parse_bool(value).ok_or_else(wrong)?,
        _ => return Err(wrong()),
    }
    Ok(())
}

fn seccomp(value: &str) -> Result<SeccompChoice, Error> {
    match value {
        "unconfined" => Ok(SeccompChoice::Unconfined),
        "builtin" | "" => Ok(SeccompChoice::Default),
        json => Profile::parse(json).map(|profile| SeccompChoice::Custom(Box::new(profile))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> Result<SecurityOptions, String> {
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        parse(&options).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_options() {
        assert!(parsed(&["no-new-privileges"]).unwrap().no_new_privileges);
        assert!(parsed(&["no-new-privileges:true"]).unwrap().no_new_privileges);
        assert!(!parsed(&["no-new-privileges=false"]).unwrap().no_new_privileges);
        for unconfined in ["seccomp=unconfined", "seccomp:unconfined"] {
            assert_eq!(parsed(&[unconfined]).unwrap().seccomp, Some(SeccompChoice::Unconfined));
        }
        assert_eq!(parsed(&["apparmor=foo", "label=disable"]).unwrap().apparmor.as_deref(), Some("foo"));
        let custom = parsed(&[r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW"}"#]).unwrap();
        assert!(matches!(custom.seccomp, Some(SeccompChoice::Custom(_))));
    }

    #[test]
    fn the_apparmor_profile_is_what_the_host_has() {
        let off = HostFacts::default();
        let bare = HostFacts { apparmor: true, ..off.clone() };
        let full = HostFacts { default_apparmor_profile: true, ..bare.clone() };
        let case = |option: &str, privileged: bool, facts: &HostFacts| {
            let options = parse(&[format!("apparmor={option}")]).unwrap();
            let mut report = Report::default();
            (options.apparmor_profile(privileged, facts, &mut report), report.warnings.len())
        };
        for (option, privileged, facts, profile, warnings) in [
            ("", false, &off, "", 0),
            ("", true, &off, "", 0),
            ("unconfined", false, &off, "", 0),
            ("mine", false, &off, "", 1),
            ("", false, &bare, "", 0),
            ("mine", false, &bare, "mine", 0),
            ("", false, &full, "docker-default", 0),
            ("", true, &full, "unconfined", 0),
            ("mine", true, &full, "mine", 0),
            ("unconfined", false, &full, "unconfined", 0),
        ] {
            assert_eq!(
                case(option, privileged, facts),
                (profile.to_owned(), warnings),
                "{option} {privileged}"
            );
        }
    }

    #[test]
    fn a_label_is_refused_where_it_would_mean_something() {
        let on = HostFacts { selinux: true, ..HostFacts::default() };
        let refused = |option: &str, facts: &HostFacts| {
            parse(&[option.to_owned()]).unwrap().check_label(facts).is_err()
        };
        assert!(refused("label=type:container_t", &on));
        assert!(refused("label:level:s0:c1", &on));
        assert!(!refused("label=disable", &on));
        assert!(!refused("disable", &on));
        assert!(!refused("label=type:container_t", &HostFacts::default()));
    }

    #[test]
    fn refuses_with_the_texts_of_docker() {
        assert_eq!(parsed(&["bogus"]).unwrap_err(), "invalid --security-opt 1: \"bogus\"");
        assert_eq!(parsed(&["bogus=1"]).unwrap_err(), "invalid --security-opt 2: \"bogus=1\"");
        assert_eq!(
            parsed(&["no-new-privileges=maybe"]).unwrap_err(),
            "invalid --security-opt 2: \"no-new-privileges=maybe\""
        );
        assert!(parsed(&["seccomp={"]).unwrap_err().starts_with("decoding seccomp profile failed"));
    }
}
