//! `sockets` of the configuration file: where clients have less than all rights.

use serde::Deserialize;
use std::path::Path;
use yare_errdefs::{Error, Result};
use yare_server::{Grant, Listener, Policy};

/// A socket with a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Restricted {
    /// `unix://PATH` or `tcp://ADDRESS`.
    pub(super) host: String,
    pub(super) grants: Vec<Grant>,
    /// The group of the file; root's without.
    pub(super) group: Option<String>,
    /// Its mode.
    pub(super) mode: u32,
}

/// One member of the list, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    host: String,
    allow: Vec<String>,
    group: Option<String>,
    mode: Option<String>,
}

/// Reads the member's JSON.
pub(super) fn settings(text: &str) -> Result<Vec<Restricted>> {
    let written: Vec<Written> =
        serde_json::from_str(text).map_err(|error| Error::invalid(format!("invalid sockets: {error}")))?;
    written.into_iter().map(restricted).collect()
}

fn restricted(written: Written) -> Result<Restricted> {
    let Written { host, allow, group, mode } = written;
    let wrong = |why: String| Error::invalid(format!("invalid socket {host:?}: {why}"));
    let is_file = host.starts_with("unix:///");
    if !is_file && !host.starts_with("tcp://") {
        return Err(wrong("its host is neither unix:///PATH nor tcp://ADDRESS:PORT".to_owned()));
    }
    if !is_file && (group.is_some() || mode.is_some()) {
        return Err(wrong("group and mode are for unix sockets".to_owned()));
    }
    let grant = |name: &String| {
        let known = Grant::ALL.into_iter().find(|grant| grant.name() == name);
        let names = || Grant::ALL.map(Grant::name).join(", ");
        known.ok_or_else(|| wrong(format!("{name:?} cannot be allowed, there are: {}", names())))
    };
    let grants = allow.iter().map(grant).collect::<Result<Vec<_>>>()?;
    if grants.is_empty() {
        return Err(wrong("it allows nothing".to_owned()));
    }
    let mode = match mode {
        None => 0o660,
        Some(text) => u32::from_str_radix(&text, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .ok_or_else(|| wrong(format!("its mode {text:?} is not octal, such as 0660")))?,
    };
    Ok(Restricted { host, grants, group, mode })
}

impl Restricted {
    /// The path of a unix socket.
    pub(super) fn path(&self) -> Option<&Path> {
        self.host.strip_prefix("unix://").map(Path::new)
    }

    /// Whether somebody has bound it for us already.
    pub(super) fn is(&self, listener: &Listener) -> bool {
        let Listener::Unix(socket) = listener else { return false };
        let address = socket.local_addr().ok();
        self.path()
            .is_some_and(|path| address.as_ref().and_then(|address| address.as_pathname()) == Some(path))
    }

    pub(super) fn policy(&self) -> Policy {
        Policy::new(&self.host, &self.grants)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read_and_nothing_is_guessed() {
        let read = settings(
            r#"[{"host":"unix:///run/read.sock","allow":["read","logs"],"group":"web","mode":"0666"},
                {"host":"tcp://127.0.0.1:2377","allow":["operate"]}]"#,
        )
        .unwrap();
        assert_eq!(
            read[0],
            Restricted {
                host: "unix:///run/read.sock".into(),
                grants: vec![Grant::Read, Grant::Logs],
                group: Some("web".into()),
                mode: 0o666,
            }
        );
        assert_eq!((read[1].mode, read[1].path()), (0o660, None));
        for (text, reason) in [
            (r#"[{"host":"unix:///s","allow":["read"],"other":1}]"#, "unknown field"),
            (r#"[{"host":"unix:///s"}]"#, "missing field `allow`"),
            (r#"[{"host":"unix:///s","allow":[]}]"#, "it allows nothing"),
            (r#"[{"host":"unix:///s","allow":["all"]}]"#, "\"all\" cannot be allowed, there are: read, logs"),
            (r#"[{"host":"fd://","allow":["read"]}]"#, "neither unix:///PATH nor tcp://"),
            (r#"[{"host":"unix:///s","allow":["read"],"mode":"rw"}]"#, "is not octal"),
            (r#"[{"host":"tcp://:1","allow":["read"],"mode":"0660"}]"#, "for unix sockets"),
        ] {
            let error = settings(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_socket_that_was_handed_over_is_known_by_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let bound = Listener::Unix(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = |path: &Path| {
            settings(&format!(r#"[{{"host":"unix://{}","allow":["read"]}}]"#, path.display()))
                .unwrap()
                .remove(0)
        };
        assert!(socket(&path).is(&bound));
        assert!(!socket(&folder.path().join("t")).is(&bound));
    }
}
