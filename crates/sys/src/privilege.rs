//! What this process may do to the host.

use std::sync::OnceLock;

/// Whose root this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Root of the host.
    Host,
    /// Root of a user namespace: master of its mounts, networks and containers, and on the host no more than the
    /// user who made it.
    Namespace,
    /// Nobody's.
    User,
}

impl Privilege {
    /// That of this process: found when it is first asked for, and the same from then on. A process that is going to
    /// enter a user namespace must not ask before it has executed itself there.
    pub fn current() -> Self {
        static CURRENT: OnceLock<Privilege> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
            Self::of(rustix::process::geteuid().is_root(), &map)
        })
    }

    /// By the text of `/proc/self/uid_map`. Without one (no `/proc`, or a kernel that has no user namespaces) root is
    /// root.
    fn of(is_root: bool, uid_map: &str) -> Self {
        let whole = u64::from(u32::MAX).to_string();
        let is_initial = uid_map.is_empty() || uid_map.split_whitespace().eq(["0", "0", whole.as_str()]);
        match (is_root, is_initial) {
            (false, _) => Self::User,
            (true, true) => Self::Host,
            (true, false) => Self::Namespace,
        }
    }

    /// Whether nodes of devices can be made; a whiteout, which is none, can be made by anybody.
    pub fn makes_devices(self) -> bool {
        self == Self::Host
    }

    /// The attribute in which overlay notes that a directory hides what the layers below have in it.
    pub fn opaque_xattr(self) -> &'static str {
        match self {
            Self::Host => "trusted.overlay.opaque",
            Self::Namespace | Self::User => "user.overlay.opaque",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_of_a_namespace_is_told_from_root_of_the_host() {
        let host = "         0          0 4294967295\n";
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        for (is_root, map, expected) in [
            (true, host, Privilege::Host),
            (true, "", Privilege::Host),
            (true, rootless, Privilege::Namespace),
            // All numbers but one, as a container's map may be.
            (true, "0 0 4294967294\n", Privilege::Namespace),
            (false, host, Privilege::User),
            (false, "1000 1000 1\n", Privilege::User),
        ] {
            assert_eq!(Privilege::of(is_root, map), expected, "{map:?}");
        }
    }

    #[test]
    fn only_root_of_the_host_has_overlays_own_attributes() {
        assert_eq!(Privilege::Host.opaque_xattr(), "trusted.overlay.opaque");
        assert_eq!(Privilege::Namespace.opaque_xattr(), "user.overlay.opaque");
        assert!(!Privilege::Namespace.makes_devices());
    }
}
