//! The engine that the cases share, as they see it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// What listens on the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Yare,
    /// A dockerd, with its major version.
    Dockerd(u32),
}

/// A running engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) kind: Kind,
    /// Everything of it is beneath this.
    pub(crate) folder: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) data_root: PathBuf,
    pub(crate) log: PathBuf,
    /// Address of its bridge, without the prefix length.
    pub(crate) gateway: String,
    pub(crate) cgroup_parent: String,
    /// Its process id.
    pub(crate) pid: u32,
}

impl Host {
    pub(crate) fn to_json(&self) -> Value {
        let version = match self.kind {
            Kind::Yare => 0,
            Kind::Dockerd(major) => major,
        };
        json!({
            "dockerd": version, "folder": self.folder, "socket": self.socket, "data_root": self.data_root,
            "log": self.log, "gateway": self.gateway, "cgroup_parent": self.cgroup_parent, "pid": self.pid,
        })
    }

    pub(crate) fn of_json(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap().to_owned();
        let number = |name: &str| u32::try_from(value[name].as_u64().unwrap()).unwrap();
        Self {
            kind: match number("dockerd") {
                0 => Kind::Yare,
                major => Kind::Dockerd(major),
            },
            folder: text("folder").into(),
            socket: text("socket").into(),
            data_root: text("data_root").into(),
            log: text("log").into(),
            gateway: text("gateway"),
            cgroup_parent: text("cgroup_parent"),
            pid: number("pid"),
        }
    }

    /// An engine that a case started for itself.
    pub(crate) fn of_engine(engine: &yare_testkit::Engine) -> Self {
        Self {
            kind: Kind::Yare,
            folder: engine.path().to_owned(),
            socket: engine.socket(),
            data_root: engine.data_root(),
            log: engine.path().join("engine.log"),
            gateway: engine.bip().split('/').next().unwrap().to_owned(),
            cgroup_parent: engine.cgroup_parent(),
            pid: engine.pid(),
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub(crate) fn is_yare(&self) -> bool {
        self.kind == Kind::Yare
    }

    /// Where the log of a container is.
    pub(crate) fn container_folder(&self, id: &str) -> PathBuf {
        Path::new(&self.data_root).join("containers").join(id)
    }
}
