//! Which namespaces are the container's own, the host's or another container's.

use serde::{Deserialize, Serialize};
use yare_errdefs::Error;

/// Network of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// The default bridge.
    #[default]
    Bridge,
    /// A loopback interface alone.
    None,
    /// The host's.
    Host,
    /// That of another container, by name or id.
    Container(String),
    /// A user's network, by name or id.
    Network(String),
}

impl NetworkMode {
    /// Reads `HostConfig.NetworkMode`; empty and `default` are the bridge.
    ///
    /// # Errors
    /// Docker's text for `container:` without a name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "" | "default" | "bridge" => Self::Bridge,
            "none" => Self::None,
            "host" => Self::Host,
            _ => match text.split_once(':') {
                Some(("container", "")) => return Err(bad_container("network")),
                Some(("container", name)) => Self::Container(name.to_owned()),
                _ if text == "container" => return Err(bad_container("network")),
                _ => Self::Network(text.to_owned()),
            },
        })
    }

    /// Whether the container has a network namespace of its own.
    pub fn is_private(&self) -> bool {
        matches!(self, Self::Bridge | Self::None | Self::Network(_))
    }
}

fn bad_container(kind: &str) -> Error {
    Error::invalid(format!("invalid {kind} mode: invalid container format container:<name|id>"))
}

/// Process ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Those of another container.
    Container(String),
}

impl PidMode {
    /// Reads `HostConfig.PidMode`.
    ///
    /// # Errors
    /// Docker's text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match (text, text.split_once(':')) {
            ("" | "private", _) => Ok(Self::Private),
            ("host", _) => Ok(Self::Host),
            (_, Some(("container", name))) if !name.is_empty() => Ok(Self::Container(name.to_owned())),
            _ => Err(Error::invalid(format!("invalid PID mode: {text}"))),
        }
    }
}

/// System V and POSIX objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcMode {
    /// Its own.
    #[default]
    Private,
    /// Its own, without `/dev/shm`.
    None,
    /// Its own, and others may join.
    Shareable,
    /// The host's.
    Host,
    /// Those of another container.
    Container(String),
}

impl IpcMode {
    /// Reads `HostConfig.IpcMode`.
    ///
    /// # Errors
    /// Docker's text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match (text, text.split_once(':')) {
            ("" | "private", _) => Ok(Self::Private),
            ("none", _) => Ok(Self::None),
            ("shareable", _) => Ok(Self::Shareable),
            ("host", _) => Ok(Self::Host),
            (_, Some(("container", name))) if !name.is_empty() => Ok(Self::Container(name.to_owned())),
            _ => Err(Error::invalid(format!("invalid IPC mode: {text}"))),
        }
    }
}

/// Host name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UtsMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
}

impl UtsMode {
    /// Reads `HostConfig.UTSMode`.
    ///
    /// # Errors
    /// Docker's text.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "" => Ok(Self::Private),
            "host" => Ok(Self::Host),
            _ => Err(Error::invalid(format!("invalid UTS mode: {text}"))),
        }
    }
}

/// View of the cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CgroupnsMode {
    /// Its own cgroup is the root.
    #[default]
    Private,
    /// The host's.
    Host,
}

impl CgroupnsMode {
    /// Reads `HostConfig.CgroupnsMode`; empty is private on cgroup v2 and the host's on v1.
    ///
    /// # Errors
    /// Docker's text.
    pub fn parse(text: &str, cgroup_version: u8) -> Result<Self, Error> {
        match text {
            "" if cgroup_version >= 2 => Ok(Self::Private),
            "" | "host" => Ok(Self::Host),
            "private" => Ok(Self::Private),
            _ => Err(Error::invalid(format!("invalid cgroup namespace mode: {text}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_modes() {
        assert_eq!(NetworkMode::parse("default").unwrap(), NetworkMode::Bridge);
        assert_eq!(NetworkMode::parse("container:a").unwrap(), NetworkMode::Container("a".into()));
        assert_eq!(NetworkMode::parse("mine").unwrap(), NetworkMode::Network("mine".into()));
        assert_eq!(IpcMode::parse("shareable").unwrap(), IpcMode::Shareable);
        assert_eq!(CgroupnsMode::parse("", 1).unwrap(), CgroupnsMode::Host);
        assert_eq!(CgroupnsMode::parse("", 2).unwrap(), CgroupnsMode::Private);
    }

    #[test]
    fn refuses_with_the_texts_of_docker() {
        let text = |error: Error| error.to_string();
        assert_eq!(text(PidMode::parse("bogus").unwrap_err()), "invalid PID mode: bogus");
        assert_eq!(text(IpcMode::parse("container:").unwrap_err()), "invalid IPC mode: container:");
        assert_eq!(text(UtsMode::parse("x").unwrap_err()), "invalid UTS mode: x");
        assert_eq!(text(CgroupnsMode::parse("x", 2).unwrap_err()), "invalid cgroup namespace mode: x");
        assert_eq!(
            text(NetworkMode::parse("container:").unwrap_err()),
            "invalid network mode: invalid container format container:<name|id>"
        );
    }
}
