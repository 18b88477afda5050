//! AppArmor: whether this host has it, and the profile of containers that name none.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use yare_errdefs::{Error, Result};
use yare_specgen::DEFAULT_APPARMOR_PROFILE;
use yare_sys::privilege::Privilege;

/// What the host offers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Whether the kernel confines by AppArmor.
    pub(crate) is_on: bool,
    /// Whether containers that name no profile get the default one.
    pub(crate) has_default: bool,
    /// What the user should know.
    pub(crate) warning: Option<String>,
}

/// What this engine can make of the host's AppArmor: without root it may neither load profiles nor give them.
pub(crate) fn survey() -> Survey {
    let found = AppArmor::host();
    match Privilege::current() {
        Privilege::Host => found.survey(),
        _ if found.is_on() => Survey {
            warning: Some(
                "AppArmor does not confine containers of an engine that runs without root".to_owned(),
            ),
            ..Survey::default()
        },
        _ => Survey::default(),
    }
}

/// Where AppArmor is looked for.
#[derive(Debug)]
pub(crate) struct AppArmor {
    parameter: PathBuf,
    /// The kernel's files, in securityfs.
    kernel: PathBuf,
    /// The profile of this process.
    own: PathBuf,
    parsers: Vec<PathBuf>,
    /// There when the parser knows this version of the language.
    abi: PathBuf,
}

impl AppArmor {
    /// That of this host.
    pub(crate) fn host() -> Self {
        let parsers = ["/sbin", "/usr/sbin", "/usr/local/sbin", "/usr/bin"];
        Self {
            parameter: "/sys/module/apparmor/parameters/enabled".into(),
            kernel: "/sys/kernel/security/apparmor".into(),
            own: "/proc/self/attr/apparmor/current".into(),
            parsers: parsers.map(|folder| Path::new(folder).join("apparmor_parser")).to_vec(),
            abi: "/etc/apparmor.d/abi/3.0".into(),
        }
    }

    /// Finds out what there is, and loads the default profile.
    pub(crate) fn survey(&self) -> Survey {
        if !self.is_on() {
            return Survey::default();
        }
        if !self.kernel.is_dir() {
            let warning = format!(
                "AppArmor is on, but {} is not there: containers run without it. Mount securityfs.",
                self.kernel.display()
            );
            return Survey { warning: Some(warning), ..Survey::default() };
        }
        let (has_default, warning) = match self.ensure_default() {
            Ok(true) => (true, None),
            Ok(false) => (
                false,
                Some(format!(
                    "AppArmor is on, but apparmor_parser is not there to load the profile \
                     {DEFAULT_APPARMOR_PROFILE}: containers that name no profile run without one. \
                     Install apparmor and restart the engine."
                )),
            ),
            // The parser is there, so the next start may have more luck; until then none goes without.
            Err(error) => (true, Some(yare_errdefs::chain(&error))),
        };
        Survey { is_on: true, has_default, warning }
    }

    /// Loads the default profile unless it is loaded: updates of the host's profiles unload it now and then.
    /// `false` when there is no parser.
    ///
    /// # Errors
    /// Docker's text, with the words of the parser.
    pub(crate) fn ensure_default(&self) -> Result<bool> {
        if self.is_loaded() {
            return Ok(true);
        }
        let Some(parser) = self.parsers.iter().find(|path| path.is_file()) else { return Ok(false) };
        let text = profile(DEFAULT_APPARMOR_PROFILE, &self.own_profile(), self.abi.is_file());
        load(parser, &text).map_err(|why| {
            Error::internal(format!(
                "AppArmor enabled on system but the {DEFAULT_APPARMOR_PROFILE} profile could not be loaded"
            ))
            .caused_by(Error::internal(format!("{}: {why}", parser.display())))
        })?;
        Ok(true)
    }

    fn is_on(&self) -> bool {
        std::fs::read_to_string(&self.parameter).is_ok_and(|text| text.starts_with('Y'))
    }

    fn is_loaded(&self) -> bool {
        let loaded = std::fs::read_to_string(self.kernel.join("profiles")).unwrap_or_default();
        loaded.lines().any(|line| line.split(" (").next() == Some(DEFAULT_APPARMOR_PROFILE))
    }

    /// What confines this engine, and so its launcher, whose signals containers must take.
    fn own_profile(&self) -> String {
        let text = std::fs::read_to_string(&self.own).unwrap_or_default();
        match text.split(" (").next().unwrap_or_default().trim() {
            "" => "unconfined".to_owned(),
            name => name.to_owned(),
        }
    }
}

/// Has the parser replace the profile, past its cache. The error is its own words.
fn load(parser: &Path, text: &str) -> std::result::Result<(), String> {
    let mut child = Command::new(parser)
        .arg("-Kr")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start it: {error}"))?;
    // One that ends early says why; the broken pipe says nothing.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(|error| format!("cannot wait for it: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// A profile in AppArmor's language that allows what containers do, and keeps them from the host's kernel
/// where namespaces and capabilities do not.
fn profile(name: &str, engine: &str, has_abi: bool) -> String {
    let abi = if has_abi { "abi <abi/3.0>,\n" } else { "" };
    format!(
        r#"{abi}profile "{name}" flags=(attach_disconnected,mediate_deleted) {{
  network,
  # The kernel's ciphers, which no container needs and which have had holes.
  deny network alg,
  capability,
  file,
  umount,
  deny mount,

  # From the host, from OCI runtimes with profiles of their own, from the engine, and among themselves.
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (receive) peer="{engine}",
  signal (send,receive) peer="{name}",
  ptrace (trace,tracedby,read,readby) peer="{name}",

  # Of /proc only what belongs to a process, and of /proc/sys only kernel/shm*, may be written.
  deny /proc/* w,
  deny /proc/{{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}}/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,

  # Of /sys only cgroups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A host whose parser is a script: `$kernel` and `$fed` are paths.
    fn host(folder: &Path, script: Option<&str>) -> AppArmor {
        let path = |name: &str| folder.join(name);
        std::fs::create_dir(path("kernel")).unwrap();
        std::fs::write(path("kernel/profiles"), "docker-default-2 (enforce)\n/usr/bin/man (enforce)\n")
            .unwrap();
        std::fs::write(path("enabled"), "Y\n").unwrap();
        std::fs::write(path("current"), "engine (enforce)\n").unwrap();
        if let Some(script) = script {
            let text = format!(
                "#!/bin/sh\nkernel={}\nfed={}\n{script}\n",
                path("kernel").display(),
                path("fed").display()
            );
            std::fs::write(path("parser"), text).unwrap();
            std::fs::set_permissions(path("parser"), PermissionsExt::from_mode(0o755)).unwrap();
        }
        AppArmor {
            parameter: path("enabled"),
            kernel: path("kernel"),
            own: path("current"),
            parsers: vec![path("missing"), path("parser")],
            abi: path("abi"),
        }
    }

    const LOADS: &str =
        r#"test "$1" = -Kr || exit 9; cat >>"$fed"; echo 'docker-default (enforce)' >>"$kernel/profiles""#;

    #[test]
    fn the_default_profile_is_loaded_once_and_again_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let host = host(folder.path(), Some(LOADS));
        assert_eq!(host.survey(), Survey { is_on: true, has_default: true, warning: None });
        let fed = || std::fs::read_to_string(folder.path().join("fed")).unwrap();
        assert!(fed().contains("profile \"docker-default\""));
        assert!(fed().contains("signal (receive) peer=\"engine\""));
        assert!(host.ensure_default().unwrap());
        assert_eq!(fed().matches("profile \"").count(), 1, "it was loaded already");
        std::fs::write(folder.path().join("kernel/profiles"), "").unwrap();
        assert!(host.ensure_default().unwrap());
        assert_eq!(fed().matches("profile \"").count(), 2);
    }

    #[test]
    fn without_a_parser_containers_go_without_and_the_user_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let survey = host(folder.path(), None).survey();
        assert!(survey.is_on && !survey.has_default);
        assert!(survey.warning.unwrap().contains("apparmor_parser is not there"));
    }

    #[test]
    fn a_parser_that_fails_is_quoted_and_nothing_goes_unconfined() {
        let folder = tempfile::tempdir().unwrap();
        let host = host(folder.path(), Some("echo 'syntax error, line 7' >&2; exit 1"));
        let error = yare_errdefs::chain(&host.ensure_default().unwrap_err());
        assert!(
            error
                .starts_with("AppArmor enabled on system but the docker-default profile could not be loaded")
        );
        assert!(error.contains("exit status: 1: syntax error, line 7"), "{error}");
        let survey = host.survey();
        assert!(survey.is_on && survey.has_default);
        assert_eq!(survey.warning, Some(error));
    }

    #[test]
    fn a_host_without_it_has_nothing_and_one_without_securityfs_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let host = host(folder.path(), Some(LOADS));
        std::fs::remove_dir_all(&host.kernel).unwrap();
        let survey = host.survey();
        assert!(!survey.is_on && survey.warning.unwrap().contains("Mount securityfs"));
        for off in ["N\n", ""] {
            std::fs::write(&host.parameter, off).unwrap();
            assert_eq!(host.survey(), Survey::default());
        }
    }

    #[test]
    fn the_profile_has_balanced_braces_and_the_version_when_it_is_known() {
        let text = profile("p", "unconfined", true);
        assert!(text.starts_with("abi <abi/3.0>,\nprofile \"p\" "));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
        assert!(profile("p", "unconfined", false).starts_with("profile "));
    }
}
