//! Kernel parameters of a container's own namespaces.

use crate::error::{Result, StartError, Step};
use rustix::fd::BorrowedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use yare_oci::runtime::{Linux, Spec};

/// System V and message queue parameters that belong to an ipc namespace.
const IPC: [&str; 9] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
    "kernel/msg_next_id",
];

/// Writes the parameters through a procfs of our own: nothing mounted over it or linked in it is followed.
pub(crate) fn apply(proc: BorrowedFd<'_>, spec: &Spec) -> Result<()> {
    let Some(linux) = &spec.linux else { return Ok(()) };
    for (name, value) in &linux.sysctl {
        let path = path_of(name);
        check(name, &path, linux)?;
        write(proc, &path, value).map_err(|error| match error {
            Errno::NOENT => StartError::invalid(Step::Sysctl, format!("there is no kernel parameter {name}")),
            Errno::INVAL => {
                StartError::invalid(Step::Sysctl, format!("the kernel refused {value:?} for {name}"))
            }
            error => StartError::io(Step::Sysctl, format!("cannot set kernel parameter {name}"), error),
        })?;
    }
    Ok(())
}

/// `net.ipv4.x` or `net/ipv4/x` to a path: the first separator decides, as for sysctl(8).
fn path_of(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'.') => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_string(),
    }
}

/// Only parameters of a namespace that is the container's own.
fn check(name: &str, path: &str, linux: &Linux) -> Result<()> {
    let own = |kind: &str| linux.namespaces.iter().any(|namespace| namespace.kind == kind);
    let allowed = if path.starts_with("net/") {
        own("network")
    } else if IPC.contains(&path) || path.starts_with("fs/mqueue/") {
        own("ipc")
    } else if matches!(path, "kernel/domainname" | "kernel/hostname") {
        own("uts")
    } else {
        path.starts_with("user/") && own("user")
    };
    let clean = !path.split('/').any(|part| matches!(part, "" | "." | ".."));
    if allowed && clean {
        return Ok(());
    }
    Err(StartError::invalid(Step::Sysctl, format!("sysctl {name:?} is not in a separate kernel namespace"))
        .with_hint("only parameters of a namespace that the container does not share can be set"))
}

fn write(proc: BorrowedFd<'_>, path: &str, value: &str) -> rustix::io::Result<()> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat2(proc, format!("sys/{path}"), flags, Mode::empty(), resolve)?;
    rustix::io::write(&file, value.as_bytes()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_oci::runtime::Namespace;

    #[test]
    fn names_become_paths() {
        assert_eq!(path_of("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path_of("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(path_of("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }

    #[test]
    fn only_parameters_of_own_namespaces() {
        let network = Namespace { kind: "network".into(), path: String::new() };
        let linux = Linux { namespaces: vec![network], ..Linux::default() };
        assert!(check("x", "net/ipv4/ip_forward", &linux).is_ok());
        assert!(check("x", "kernel/shmmax", &linux).is_err());
        assert!(check("x", "kernel/core_pattern", &linux).is_err());
        assert!(check("x", "net/../kernel/core_pattern", &linux).is_err());
    }
}
