//! The `X-Docker-Container-Path-Stat` header of archive requests: [`ContainerPathStat`] as JSON in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use yare_errdefs::Error;

/// What a path in a container is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPathStat {
    /// Last component of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Kind and permissions in the bits of Go's `FileMode`, see [`go_file_mode`].
    pub mode: u32,
    /// Time of last change of the content, RFC 3339.
    pub mtime: String,
    /// Where a symbolic link leads, as an absolute path in the container; empty for others.
    #[serde(rename = "linkTarget")]
    pub link_target: String,
}

impl ContainerPathStat {
    /// The value of the header.
    pub fn encode(&self) -> String {
        STANDARD.encode(serde_json::to_vec(self).expect("texts and numbers are always JSON"))
    }

    /// Reads the value of the header.
    ///
    /// # Errors
    /// Class invalid argument.
    pub fn decode(header: &str) -> Result<Self, Error> {
        let wrong = || Error::invalid("unable to decode container path stat header");
        let bytes = STANDARD.decode(header).map_err(|_| wrong())?;
        serde_json::from_slice(&bytes).map_err(|_| wrong())
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.mode & GO_DIR != 0
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.mode & GO_SYMLINK != 0
    }
}

const GO_DIR: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;

/// The bits of Go's `FileMode` for those of `st_mode`.
pub fn go_file_mode(st_mode: u32) -> u32 {
    let kind = match st_mode & 0o170000 {
        0o040000 => GO_DIR,
        0o120000 => GO_SYMLINK,
        0o060000 => 1 << 26,
        0o020000 => 1 << 26 | 1 << 21,
        0o010000 => 1 << 25,
        0o140000 => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(unix, _)| st_mode & unix != 0).fold(0, |all, (_, go)| all | go);
    kind | special | st_mode & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_dockerd() {
        let header = "eyJuYW1lIjoiaG9zdG5hbWUiLCJzaXplIjoxMywibW9kZSI6NDIwLCJtdGltZSI6IjIwMjYtMTEtMjNUMTQ6NDM6MjEuNzkyMzkwMTkzWiIsImxpbmtUYXJnZXQiOiIifQ==";
        let stat = ContainerPathStat::decode(header).unwrap();
        assert_eq!((stat.name.as_str(), stat.size, stat.mode), ("hostname", 13, 0o644));
        assert_eq!(stat.encode(), header);
    }

    #[test]
    fn modes_are_those_of_go() {
        assert_eq!(go_file_mode(0o100644), 0o644);
        assert_eq!(go_file_mode(0o041777), GO_DIR | 1 << 20 | 0o777);
        assert_eq!(go_file_mode(0o104755), 1 << 23 | 0o755);
        assert_eq!(go_file_mode(0o020666), 1 << 26 | 1 << 21 | 0o666);
    }
}
