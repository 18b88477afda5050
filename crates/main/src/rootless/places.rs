//! Where an engine of a user without root keeps things.

use super::ids::User;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use yare_errdefs::{Error, Result};

/// Folders of a user's engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    /// Images, containers and volumes.
    pub(crate) data_root: PathBuf,
    /// State of what runs, and the socket.
    pub(crate) exec_root: PathBuf,
    /// Configuration: `daemon.json`, `certs.d`.
    pub(crate) settings: PathBuf,
    /// The same of Docker.
    pub(crate) dockers: PathBuf,
    /// Units of systemd.
    pub(crate) units: PathBuf,
}

impl Places {
    /// By the environment, as the XDG base directory specification has it.
    ///
    /// # Errors
    /// There is no folder for what runs, or no home.
    pub(crate) fn of_user(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let uid = real_uid();
        let folder = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let beneath_home = |name: &str, default: &str| {
            let found = folder(name).or_else(|| Some(folder("HOME")?.join(default)));
            found.ok_or_else(|| Error::precondition(format!("neither {name} nor HOME is set")))
        };
        let runtime = folder("XDG_RUNTIME_DIR").or_else(|| {
            let usual = PathBuf::from(format!("/run/user/{uid}"));
            std::fs::metadata(&usual).is_ok_and(|found| found.uid() == uid).then_some(usual)
        });
        let runtime = runtime.ok_or_else(|| {
            Error::precondition("XDG_RUNTIME_DIR is not set: there is no folder for the state of what runs")
                .with_hint(
                    "log in by ssh, at the console or with machinectl shell (su and sudo make none), or set it to a \
                     folder of your own that is emptied at every boot",
                )
        })?;
        let settings = beneath_home("XDG_CONFIG_HOME", ".config")?;
        Ok(Self {
            data_root: beneath_home("XDG_DATA_HOME", ".local/share")?.join("yare"),
            exec_root: runtime.join("yare"),
            dockers: settings.join("docker"),
            units: settings.join("systemd/user"),
            settings: settings.join("yare"),
        })
    }

    /// Refuses a folder for what runs in which others could make what the engine and its clients look for there.
    ///
    /// # Errors
    /// It is not there, not the user's, or others may write to it.
    pub(crate) fn checked(self) -> Result<Self> {
        let folder = self.exec_root.parent().unwrap_or(Path::new("/"));
        let shown = folder.display();
        let found = std::fs::metadata(folder).map_err(|error| {
            Error::precondition(format!("cannot use XDG_RUNTIME_DIR {shown}")).caused_by(error)
        })?;
        // As this process sees it: in its namespaces the user is root.
        if found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0 {
            return Ok(self);
        }
        Err(Error::precondition(format!(
            "XDG_RUNTIME_DIR is {shown}, which is not yours or which others may write to"
        ))
        .with_hint("set it to a folder of mode 700 of your own that is emptied at every boot"))
    }

    /// Where folders per registry are looked for, those that count first.
    pub(crate) fn certs_d(&self) -> Vec<PathBuf> {
        [&self.settings, &self.dockers].map(|folder| folder.join("certs.d")).to_vec()
    }
}

/// The user's number on the host; inside of a namespace as the map has it for its root.
fn real_uid() -> u32 {
    let own = rustix::process::geteuid().as_raw();
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let root = map.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    if own == 0 { root.unwrap_or(own) } else { own }
}

/// Who this process is. Who has no line in the file is known by number.
pub(super) fn user() -> User {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let passwd = std::fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    // Those of a directory service are known to the host's C library alone; this program has its own.
    let asked = || {
        let output =
            std::process::Command::new("id").arg("-un").stderr(std::process::Stdio::null()).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !name.is_empty()).then_some(name)
    };
    User { name: name_of(uid, &passwd).or_else(asked).unwrap_or_else(|| uid.to_string()), uid, gid }
}

fn name_of(uid: u32, passwd: &str) -> Option<String> {
    let is_it = |line: &&str| line.split(':').nth(2) == Some(uid.to_string().as_str());
    passwd.lines().find(is_it)?.split(':').next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(variables: &[(&str, &str)]) -> Result<Places> {
        let variables: Vec<(String, OsString)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        Places::of_user(&move |name| {
            variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn folders_are_where_users_have_theirs() {
        let usual = places(&[("HOME", "/home/ann"), ("XDG_RUNTIME_DIR", "/run/user/7")]).unwrap();
        assert_eq!(usual.data_root, Path::new("/home/ann/.local/share/yare"));
        assert_eq!(usual.exec_root, Path::new("/run/user/7/yare"));
        assert_eq!(usual.settings, Path::new("/home/ann/.config/yare"));
        let own = [("XDG_DATA_HOME", "/d"), ("XDG_CONFIG_HOME", "/c"), ("XDG_RUNTIME_DIR", "/r")];
        let own = places(&own).unwrap();
        assert_eq!(own.data_root, Path::new("/d/yare"));
        assert_eq!(own.certs_d(), [Path::new("/c/yare/certs.d"), Path::new("/c/docker/certs.d")]);
        let error = places(&[("XDG_RUNTIME_DIR", "/r"), ("HOME", "relative")]).unwrap_err();
        assert_eq!(error.to_string(), "neither XDG_CONFIG_HOME nor HOME is set");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        let checked = |mode: u32| {
            std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            places(&[("XDG_RUNTIME_DIR", &path), ("HOME", "/h")]).unwrap().checked()
        };
        checked(0o700).unwrap();
        let error = checked(0o777).unwrap_err().to_string();
        assert!(error.ends_with("which is not yours or which others may write to"), "{error}");
        assert!(checked(0o770).is_err());
    }

    #[test]
    fn names_come_from_the_file_of_users() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\n";
        assert_eq!(name_of(1000, passwd).as_deref(), Some("ann"));
        assert_eq!(name_of(100, passwd), None);
    }
}
