//! Options of the local driver: volumes that are a mount (memory, a directory elsewhere, a file server).
//!
//! Such a volume is mounted at its folder in the engine's own namespace when the first container that uses it
//! starts (or a client copies to or from one), and unmounted after the last. The kernel's table of mounts is
//! the truth: a next engine finds what is mounted, asks which containers run, and lets go of the rest.

use super::folder;
use crate::Engine;
use crate::container::Record;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::mount::UnmountFlags;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use yare_errdefs::{Error, Result};
use yare_oci::runtime::Mount;

type Options = BTreeMap<String, String>;

/// Checks the options of a new volume, with dockerd's texts.
pub(super) fn check(name: &str, options: &Options) -> Result<()> {
    let wrong = |why: String| Error::invalid(format!("create {name}: {why}"));
    if let Some(unknown) = options.keys().find(|key| !["type", "o", "device", "size"].contains(&key.as_str()))
    {
        return Err(wrong(format!("invalid option: {unknown:?}")));
    }
    if let Some(size) = options.get("size") {
        let bytes = yare_api::units::ram_in_bytes(size).map_err(|error| wrong(error.to_string()))?;
        if bytes > 0 {
            return Err(wrong("quota size requested but no quota support".to_owned())
                .with_hint("a volume in memory takes its size as a mount option: -o type=tmpfs -o device=tmpfs -o o=size=10m"));
        }
    }
    for (given, needed) in [("device", "type"), ("type", "device"), ("o", "device"), ("o", "type")] {
        if options.contains_key(given) && !options.contains_key(needed) {
            return Err(wrong(format!("missing required option: {needed:?}")));
        }
    }
    Ok(())
}

/// What is mounted at a volume's folder; `None` for one that is a plain folder.
fn mount_of(options: &Options, resolve: &dyn Fn(&str) -> std::io::Result<IpAddr>) -> Result<Option<Mount>> {
    let option = |name: &str| options.get(name).map(String::as_str).unwrap_or_default();
    let (kind, device) = (option("type"), option("device"));
    if kind.is_empty() && device.is_empty() {
        return Ok(None);
    }
    let mut words: Vec<String> =
        option("o").split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    if kind.starts_with("nfs") || matches!(kind, "cifs" | "smb3") {
        name_by_number(kind, device, &mut words, resolve)?;
    }
    Ok(Some(Mount { kind: kind.to_owned(), source: device.to_owned(), options: words, ..Mount::default() }))
}

/// The kernel knows servers by number only; what `mount.nfs` and `mount.cifs` do about it is done here.
fn name_by_number(
    kind: &str,
    device: &str,
    words: &mut Vec<String>,
    resolve: &dyn Fn(&str) -> std::io::Result<IpAddr>,
) -> Result<()> {
    let number = |host: &str| {
        resolve(host).map_err(|error| {
            Error::unavailable(format!(
                "error resolving passed in network volume address: lookup {host}: {error}"
            ))
        })
    };
    let named =
        words.iter_mut().find_map(|word| word.strip_prefix("addr=").map(str::to_owned).zip(Some(word)));
    match named {
        Some((host, word)) => *word = format!("addr={}", number(&host)?),
        None if !kind.starts_with("nfs") => {
            let host = device.trim_start_matches(['/', '\\']).split(['/', '\\']).next().unwrap_or_default();
            words.push(format!("addr={}", number(host)?));
        }
        // With NFS the kernel asks for it by itself.
        None => {}
    }
    Ok(())
}

fn lookup(host: &str) -> std::io::Result<IpAddr> {
    let found = (host, 0).to_socket_addrs()?.next();
    found.map(|address| address.ip()).ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

/// Who uses the volumes that are mounts.
#[derive(Debug, Default)]
pub(crate) struct Mounted {
    /// Locked for each by itself: a file server that does not answer holds up its own volume only.
    users: Mutex<HashMap<String, Arc<Mutex<BTreeSet<String>>>>>,
}

impl Mounted {
    fn of(&self, name: &str) -> Arc<Mutex<BTreeSet<String>>> {
        Arc::clone(self.users.lock().entry(name.to_owned()).or_default())
    }
}

/// Volumes that stay mounted for a user as long as this lives.
#[derive(Debug)]
pub(crate) struct Uses<'a> {
    engine: &'a Engine,
    user: String,
    names: Vec<String>,
}

impl Uses<'_> {
    /// Leaves them mounted until [`release`] is called for the user.
    pub(crate) fn keep(mut self) {
        self.names.clear();
    }
}

impl Drop for Uses<'_> {
    fn drop(&mut self) {
        self.names.iter().for_each(|name| let_go(self.engine, name, &self.user));
    }
}

/// Mounts those volumes of a container that are mounts. Blocks.
pub(crate) fn use_all<'a>(engine: &'a Engine, record: &Record, user: &str) -> Result<Uses<'a>> {
    use_named(engine, crate::volumes_of(record).map(|point| point.name.as_str()), user)
}

/// Mounts those of these volumes that are mounts. Blocks.
pub(crate) fn use_named<'a, 'n>(
    engine: &'a Engine,
    names: impl Iterator<Item = &'n str>,
    user: &str,
) -> Result<Uses<'a>> {
    let mut uses = Uses { engine, user: user.to_owned(), names: Vec::new() };
    for name in names {
        let Some(volume) = engine.volumes.find(name).filter(|volume| !volume.options.is_empty()) else {
            continue;
        };
        let users = engine.volumes.mounted.of(name);
        let mut users = users.lock();
        let folder = folder(engine, name);
        if !is_mount(&folder) {
            mount(&folder, &volume.options)?;
        }
        users.insert(user.to_owned());
        uses.names.push(name.to_owned());
    }
    Ok(uses)
}

/// A container's run is over: volumes that it was the last to use are unmounted.
pub(crate) fn release(engine: &Engine, record: &Record) {
    for point in crate::volumes_of(record) {
        if engine.volumes.find(&point.name).is_some_and(|volume| !volume.options.is_empty()) {
            let_go(engine, &point.name, &record.id);
        }
    }
}

fn let_go(engine: &Engine, name: &str, user: &str) {
    let users = engine.volumes.mounted.of(name);
    let mut users = users.lock();
    if users.remove(user)
        && users.is_empty()
        && let Err(error) = unmount(&folder(engine, name))
    {
        tracing::warn!(volume = name, error = yare_errdefs::chain(&error), "it stays mounted");
    }
}

/// Brings what is mounted and what runs together, once all containers are known.
pub(crate) fn restore(engine: &Engine) {
    for container in engine.containers.all() {
        let record = container.record();
        if record.state.status.has_process() {
            for point in crate::volumes_of(&record) {
                engine.volumes.mounted.of(&point.name).lock().insert(record.id.clone());
            }
        }
    }
    for volume in engine.volumes.all().iter().filter(|volume| !volume.options.is_empty()) {
        let users = engine.volumes.mounted.of(&volume.name);
        if users.lock().is_empty()
            && let Err(error) = unmount(&folder(engine, &volume.name))
        {
            tracing::warn!(volume = volume.name, error = yare_errdefs::chain(&error), "it stays mounted");
        }
    }
}

/// Whether a start has to look for it in the host's namespace of mounts.
pub(crate) fn is_mount(folder: &Path) -> bool {
    // A server is not asked: it may not answer.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(CWD, folder, flags, StatxFlags::empty());
    stat.is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn mount(folder: &Path, options: &Options) -> Result<()> {
    let path = folder.display();
    let cannot = || format!("error while mounting volume '{path}'");
    let mount = mount_of(options, &lookup).map_err(|error| Error::wrap(cannot(), error))?;
    let Some(mount) = mount else { return Ok(()) };
    let place = yare_sys::fs::open_dir(folder)
        .map_err(|error| Error::new(yare_errdefs::class_of_io(&error), cannot()).caused_by(error))?;
    yare_runtime::mount_at(&mount, &place).map_err(|error| {
        let data = match mount.options.as_slice() {
            [] => String::new(),
            words => format!(", data: {}", shown(words)),
        };
        let text = format!(
            "{}: failed to mount local volume: mount {}:{path}{data}: {error}",
            cannot(),
            mount.source
        );
        Error::new(yare_errdefs::Classified::class(&error), text)
    })
}

/// Options as messages have them, which more people see than the volume: with dockerd's stars for passwords.
fn shown(words: &[String]) -> String {
    let (mut shown, mut in_password) = (Vec::new(), false);
    for word in words {
        match word.split_once('=') {
            Some((name, _)) if name.starts_with("pass") => {
                in_password = true;
                shown.push(format!("{name}=********"));
            }
            // What stands behind a comma may be the rest of one.
            None if in_password => {}
            _ => {
                in_password = false;
                shown.push(word.clone());
            }
        }
    }
    shown.join(",")
}

/// Takes whatever is mounted at a volume's folder off it. What is busy goes when it is not any more.
pub(super) fn unmount(folder: &Path) -> Result<()> {
    while is_mount(folder) {
        rustix::mount::unmount(folder, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(|error| {
            Error::internal(format!("cannot unmount {}", folder.display()))
                .caused_by(std::io::Error::from(error))
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_are_checked_with_the_texts_of_docker() {
        for (pairs, text) in [
            (&[("x", "y")][..], "create v1: invalid option: \"x\""),
            (&[("type", "tmpfs")], "create v1: missing required option: \"device\""),
            (&[("device", "/x")], "create v1: missing required option: \"type\""),
            (&[("o", "size=1")], "create v1: missing required option: \"device\""),
            (&[("size", "10m")], "create v1: quota size requested but no quota support"),
            (&[("size", "zz")], "create v1: invalid size: 'zz'"),
            (&[("type", "")], "create v1: missing required option: \"device\""),
        ] {
            assert_eq!(check("v1", &options(pairs)).unwrap_err().to_string(), text);
        }
        check("v1", &options(&[("type", "none"), ("device", "/x"), ("o", "bind"), ("size", "0")])).unwrap();
    }

    fn words(pairs: &[(&str, &str)]) -> Result<String, String> {
        let resolve = |host: &str| match host.parse() {
            Ok(number) => Ok(number),
            Err(_) if host == "files.example" => Ok(IpAddr::from([192, 0, 2, 7])),
            Err(_) => Err(std::io::ErrorKind::NotFound.into()),
        };
        let mount = mount_of(&options(pairs), &resolve).map_err(|error| error.to_string())?;
        Ok(mount.map(|mount| mount.options.join(",")).unwrap_or_default())
    }

    #[test]
    fn servers_are_named_by_number() {
        let nfs = |addr: &str| words(&[("type", "nfs4"), ("device", ":/x"), ("o", addr)]);
        assert_eq!(nfs("rw,addr=files.example,soft").unwrap(), "rw,addr=192.0.2.7,soft");
        assert_eq!(nfs("addr=10.0.0.1").unwrap(), "addr=10.0.0.1");
        let text = nfs("addr=nosuch").unwrap_err();
        assert!(
            text.starts_with("error resolving passed in network volume address: lookup nosuch: "),
            "{text}"
        );
        let cifs = words(&[("type", "cifs"), ("device", "//files.example/share"), ("o", "user=me")]);
        assert_eq!(cifs.unwrap(), "user=me,addr=192.0.2.7");
    }

    #[test]
    fn messages_have_no_passwords() {
        let folder = tempfile::tempdir().unwrap();
        let cifs = |o: &str| options(&[("type", "nosuchfs"), ("device", "//x/y"), ("o", o)]);
        let text = mount(folder.path(), &cifs("username=me,password=sec,,ret,ro=1,pass=secret"))
            .unwrap_err()
            .to_string();
        assert!(text.contains("data: username=me,password=********,ro=1,pass=********: "), "{text}");
        assert!(!text.contains("ret"), "{text}");
    }
}
