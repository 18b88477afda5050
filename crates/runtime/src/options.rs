//! Mount options in the words of `mount(8)`: pure.

use rustix::mount::MountAttrFlags;
use yare_oci::runtime::Mount;
use yare_sys::mount::{Attributes, Propagation};

/// All bits of the access time setting, which is one value.
const ATIME: u32 = 0x70;
const NOATIME: u32 = 0x10;
const STRICTATIME: u32 = 0x20;
const NODIRATIME: u32 = 0x80;
const RDONLY: u32 = 0x1;
const NOSUID: u32 = 0x2;
const NODEV: u32 = 0x4;
const NOEXEC: u32 = 0x8;
const NOSYMFOLLOW: u32 = 0x20_0000;

/// A mount's options, sorted by what they act on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `bind` or `rbind` was given.
    pub(crate) bind: bool,
    /// A bind takes the mounts beneath along.
    pub(crate) recursive: bool,
    /// Attributes of the mount itself.
    pub(crate) own: Bits,
    /// Attributes of the mount and all beneath it.
    pub(crate) all: Bits,
    /// Propagation, and whether it is for all mounts beneath too.
    pub(crate) propagation: Option<(Propagation, bool)>,
    /// `idmap` or, with the mounts beneath it, `ridmap` was given.
    pub(crate) id_map: Option<Depth>,
    /// For the filesystem.
    pub(crate) data: Vec<(String, Option<String>)>,
}

/// How far something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The mount itself.
    Top,
    /// Mounts beneath it, too.
    All,
}

/// Bits to set and to clear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bits {
    set: u32,
    clear: u32,
}

impl Bits {
    fn set(&mut self, bits: u32) {
        self.set |= bits;
        self.clear &= !bits;
    }

    fn clear(&mut self, bits: u32) {
        self.clear |= bits;
        self.set &= !bits;
    }

    fn atime(&mut self, value: u32) {
        self.set = self.set & !ATIME | value;
        self.clear |= ATIME;
    }

    /// For a new mount.
    pub(crate) fn flags(self) -> MountAttrFlags {
        MountAttrFlags::from_bits_retain(self.set)
    }

    /// For an existing mount.
    pub(crate) fn attributes(self) -> Attributes {
        Attributes { set: u64::from(self.set), clear: u64::from(self.clear), propagation: None }
    }

    pub(crate) fn is_readonly(self) -> bool {
        self.set & RDONLY != 0
    }
}

/// Sorts the options of a mount. The error is a sentence.
pub(crate) fn parse(mount: &Mount) -> Result<Options, String> {
    let mut options = Options { bind: mount.kind == "bind", ..Options::default() };
    for option in &mount.options {
        if !structural(&mut options, option)
            && !attribute(&mut options.own, option)
            && !option.strip_prefix('r').is_some_and(|rest| attribute(&mut options.all, rest))
        {
            filesystem(&mut options, option)?;
        }
    }
    Ok(options)
}

fn structural(options: &mut Options, option: &str) -> bool {
    match option {
        "bind" => options.bind = true,
        "rbind" => {
            options.bind = true;
            options.recursive = true;
        }
        "private" => options.propagation = Some((Propagation::Private, false)),
        "rprivate" => options.propagation = Some((Propagation::Private, true)),
        "slave" => options.propagation = Some((Propagation::Slave, false)),
        "rslave" => options.propagation = Some((Propagation::Slave, true)),
        "shared" => options.propagation = Some((Propagation::Shared, false)),
        "rshared" => options.propagation = Some((Propagation::Shared, true)),
        "unbindable" => options.propagation = Some((Propagation::Unbindable, false)),
        "runbindable" => options.propagation = Some((Propagation::Unbindable, true)),
        "idmap" => options.id_map = Some(Depth::Top),
        "ridmap" => options.id_map = Some(Depth::All),
        "defaults" | "silent" | "loud" | "" => {}
        _ => return false,
    }
    true
}

fn attribute(bits: &mut Bits, option: &str) -> bool {
    match option {
        "ro" => bits.set(RDONLY),
        "rw" => bits.clear(RDONLY),
        "nosuid" => bits.set(NOSUID),
        "suid" => bits.clear(NOSUID),
        "nodev" => bits.set(NODEV),
        "dev" => bits.clear(NODEV),
        "noexec" => bits.set(NOEXEC),
        "exec" => bits.clear(NOEXEC),
        "nodiratime" => bits.set(NODIRATIME),
        "diratime" => bits.clear(NODIRATIME),
        "nosymfollow" => bits.set(NOSYMFOLLOW),
        "symfollow" => bits.clear(NOSYMFOLLOW),
        "noatime" => bits.atime(NOATIME),
        "strictatime" => bits.atime(STRICTATIME),
        "relatime" | "norelatime" | "nostrictatime" | "atime" => bits.atime(0),
        _ => return false,
    }
    true
}

fn filesystem(options: &mut Options, option: &str) -> Result<(), String> {
    match option {
        "remount" => return Err("the mount option \"remount\" is not supported".to_string()),
        "tmpcopyup" => return Err(format!("the mount option {option:?} is not supported")),
        "async" | "nomand" | "nolazytime" | "noiversion" | "nostrictatime" => {}
        _ => {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(value.to_string())),
                None => (option, None),
            };
            options.data.push((key.to_string(), value));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, options: &[&str]) -> Options {
        let options = options.iter().map(|option| option.to_string()).collect();
        parse(&Mount { kind: kind.into(), options, ..Mount::default() }).unwrap()
    }

    #[test]
    fn dockers_dev_mount() {
        let options = mount("tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]);
        assert_eq!(options.own.flags().bits(), NOSUID | STRICTATIME);
        assert_eq!(options.data[1], ("size".to_string(), Some("65536k".to_string())));
        assert!(!options.bind);
    }

    #[test]
    fn binds_and_propagation() {
        let options = mount("bind", &["rbind", "rprivate", "ro"]);
        assert!(options.bind && options.recursive && options.own.is_readonly());
        assert_eq!(options.propagation, Some((Propagation::Private, true)));
        assert_eq!(options.all, Bits::default());
        assert!(mount("none", &["bind"]).bind);
    }

    #[test]
    fn recursive_attributes_are_kept_apart() {
        let options = mount("bind", &["rbind", "rro", "relatime"]);
        assert!(options.all.is_readonly() && !options.own.is_readonly());
        assert!(options.data.is_empty());
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        let options = mount("tmpfs", &["ro", "rw", "noatime", "relatime"]);
        assert_eq!(options.own.attributes().set, 0);
        assert!(!options.own.is_readonly());
    }
}
