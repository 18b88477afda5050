//! Sockets to listen on: made here, or inherited from systemd.

use super::sockets::Restricted;
use super::tls::Tls;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};
use yare_errdefs::{Error, Result};
use yare_server::{Door, Grant, Listener, Policy};

/// The first descriptor that systemd hands over (sd_listen_fds(3)).
const FIRST_INHERITED: i32 = 3;

/// Where to listen.
#[derive(Debug)]
pub(super) struct Places<'a> {
    /// Where clients have all rights.
    pub(super) hosts: &'a [String],
    /// The group of their sockets; `docker`, where that exists, if none is named.
    pub(super) group: Option<&'a str>,
    /// Whether the engine is of a user without root, whose sockets are for nobody else.
    pub(super) sole_user: bool,
    /// Where they have less.
    pub(super) sockets: &'a [Restricted],
    /// An address where the figures are, and nothing else.
    pub(super) metrics: Option<&'a str>,
    pub(super) tls: &'a Tls,
    /// Open to root alone: a socket in it makes it passable for the socket's group.
    pub(super) exec_root: &'a Path,
}

/// Opens all listeners.
pub(super) fn open(places: &Places<'_>) -> Result<Vec<Door>> {
    let tls = places.tls;
    let mut doors = Vec::new();
    let mut handed_over = Vec::new();
    for host in places.hosts {
        let own = |path: &str| Ok::<Door, Error>(Listener::Unix(unix(Path::new(path), places)?).into());
        match host.split_once("://") {
            Some(("unix", path)) => doors.push(own(path)?),
            Some(("tcp", address)) => doors.push(tls.listen(address)?.into()),
            Some(("fd", _)) => {
                for listener in inherited(tls)? {
                    let restricted = places.sockets.iter().find(|socket| socket.is(&listener));
                    handed_over.extend(restricted.map(|socket| &socket.host));
                    doors.push(Door { listener, policy: restricted.map(Restricted::policy) });
                }
            }
            None if host.starts_with('/') => doors.push(own(host)?),
            None if !host.is_empty() => doors.push(tls.listen(host)?.into()),
            _ => {
                return Err(Error::invalid(format!("invalid bind address format: {host}"))
                    .with_hint("use unix://PATH, tcp://ADDRESS:PORT or fd://"));
            }
        }
    }
    for socket in places.sockets.iter().filter(|socket| !handed_over.contains(&&socket.host)) {
        let listener = match socket.path() {
            Some(path) => Listener::Unix(restricted(path, socket, places)?),
            None => tls.listen(socket.host.trim_start_matches("tcp://"))?,
        };
        doors.push(Door { listener, policy: Some(socket.policy()) });
    }
    if let Some(address) = places.metrics {
        let socket = TcpListener::bind(address).map_err(|error| {
            Error::invalid(format!("cannot listen on {address} for metrics (--metrics-addr)"))
                .caused_by(error)
        })?;
        let policy = Policy::new(format!("tcp://{address}"), &[Grant::Metrics]);
        doors.push(Door { listener: Listener::Tcp(socket), policy: Some(policy) });
    }
    Ok(doors)
}

/// The socket of a policy. It does not make the exec root passable: that is for those who have all rights.
fn restricted(path: &Path, socket: &Restricted, places: &Places<'_>) -> Result<UnixListener> {
    let exec_root = places.exec_root;
    if places.sole_user {
        no_group(socket.group.as_deref())?;
    }
    let group = socket.group.as_deref().map(known_group).transpose()?;
    if path.parent() == Some(exec_root) {
        let passable = std::fs::metadata(exec_root).map_or(0, |folder| folder.gid());
        if socket.mode & 0o007 != 0 || group.is_some_and(|group| group != passable) {
            let folder = exec_root.display();
            return Err(Error::invalid(format!(
                "the socket {} cannot be reached by whom it is for: {folder} is closed to them",
                path.display()
            ))
            .with_hint(format!("put it into a folder of its own, such as {folder}-read")));
        }
    }
    bind(path, group, socket.mode)
}

/// How long a socket may outlive its engine: a child that an engine was making when it was killed has its
/// descriptors until it has become another program.
const LINGERING: Duration = Duration::from_secs(1);

fn unix(path: &Path, places: &Places<'_>) -> Result<UnixListener> {
    let exec_root = places.exec_root;
    if places.sole_user {
        no_group(places.group)?;
        return bind(path, None, 0o600);
    }
    let gid = match places.group {
        Some(name) => Some(known_group(name)?),
        None => group_id("docker"),
    };
    let listener = bind(path, gid, 0o660)?;
    if let Some(gid) = gid.filter(|_| path.parent() == Some(exec_root)) {
        std::os::unix::fs::chown(exec_root, Some(0), Some(gid)).map_err(|error| {
            Error::internal(format!("cannot make {} passable", exec_root.display())).caused_by(error)
        })?;
    }
    Ok(listener)
}

fn bind(path: &Path, group: Option<u32>, mode: u32) -> Result<UnixListener> {
    let failed = |error: std::io::Error| {
        Error::internal(format!("cannot listen on {}", path.display())).caused_by(error)
    };
    let begun = Instant::now();
    while std::os::unix::net::UnixStream::connect(path).is_ok() {
        if begun.elapsed() > LINGERING {
            return Err(Error::conflict(format!("somebody listens on {} already", path.display()))
                .with_hint("stop that engine, or give this one another -H"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // Nobody may connect between bind and chmod.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = listener.map_err(failed)?;
    if let Some(gid) = group {
        std::os::unix::fs::chown(path, Some(0), Some(gid)).map_err(failed)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}

/// Refuses a group for a socket of an engine without root: in its namespace the numbers of the host's groups are
/// those of others.
fn no_group(group: Option<&str>) -> Result<()> {
    group.map_or(Ok(()), |name| {
        Err(Error::invalid(format!("group {name}: an engine without root gives its sockets to no group"))
            .with_hint("its sockets are for its user; leave the group out"))
    })
}

fn known_group(name: &str) -> Result<u32> {
    group_id(name).ok_or_else(|| Error::invalid(format!("group {name} not found")))
}

/// A group's number, by name or as it is. The C library is not asked: a static one cannot load the host's
/// name services.
fn group_id(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// Sockets handed over by systemd: `LISTEN_PID` must be us, `LISTEN_FDS` says how many.
fn inherited(tls: &Tls) -> Result<Vec<Listener>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<i32>().ok());
    let count = match number("LISTEN_PID") {
        Some(pid) if u32::try_from(pid) == Ok(std::process::id()) => number("LISTEN_FDS").unwrap_or(0),
        _ => 0,
    };
    if count == 0 {
        return Err(Error::invalid(
            "no sockets found via socket activation: make sure the service was started by systemd",
        ));
    }
    (FIRST_INHERITED..FIRST_INHERITED + count)
        .map(|number| {
            let socket = yare_sys::inherit::descriptor(number);
            listener(
                socket.map_err(|error| Error::internal("cannot use a socket of systemd").caused_by(error))?,
                tls,
            )
        })
        .collect()
}

fn listener(socket: OwnedFd, tls: &Tls) -> Result<Listener> {
    match rustix::net::getsockname(&socket).map(|address| address.address_family()) {
        Ok(rustix::net::AddressFamily::UNIX) => Ok(Listener::Unix(socket.into())),
        _ => tls.inherited(socket.into()),
    }
}

/// Tells systemd that the engine answers (sd_notify(3)).
pub(super) fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        match path.as_bytes().strip_prefix(b"@") {
            Some(name) => {
                socket.send_to_addr(b"READY=1", &std::os::unix::net::SocketAddr::from_abstract_name(name)?)
            }
            None => socket.send_to(b"READY=1", &path),
        }
    });
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot tell systemd that the engine is ready");
    }
}
