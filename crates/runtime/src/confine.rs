//! From a process of ours to the process that the specification describes.

use crate::error::{Result, StartError, Step};
use crate::seccomp::{self, Arch, Instruction};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use yare_oci::kernel::CAPABILITIES;
use yare_oci::runtime::{Capabilities, Process, Seccomp};
use yare_sys::process as sys;

/// A compiled system call filter: a tenth of its profile's size, and nothing to compile for a further process.
///
/// As JSON it is one list of numbers: its flags, then an instruction each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<u64>", try_from = "Vec<u64>")]
pub struct Filter {
    program: Vec<Instruction>,
    flags: u32,
}

impl Filter {
    /// Compiles the profile, if there is one.
    ///
    /// # Errors
    /// The profile names something this program or the kernel does not know.
    pub fn compile(profile: Option<&Seccomp>) -> Result<Option<Self>> {
        let Some(profile) = profile else { return Ok(None) };
        let failed = |error: seccomp::SeccompError| StartError::invalid(Step::Spec, error.to_string());
        let program = seccomp::compile(profile, Arch::NATIVE).map_err(failed)?;
        Ok(Some(Self { program, flags: seccomp::flags(profile).map_err(failed)? }))
    }

    /// Most bytes that [`Filter::write`] appends.
    pub(crate) const LONGEST: usize = 4 + 8 * yare_sys::seccomp::MAX_LENGTH;

    /// Appends the form that crosses a socket between two halves of this program.
    pub(crate) fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.flags.to_ne_bytes());
        for instruction in &self.program {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_ne_bytes());
        }
    }

    /// Reads that form; `None` for no bytes.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (flags, program) = bytes.split_first_chunk::<4>()?;
        let program = program
            .chunks_exact(8)
            .map(|part| Instruction {
                code: u16::from_ne_bytes([part[0], part[1]]),
                jt: part[2],
                jf: part[3],
                k: u32::from_ne_bytes([part[4], part[5], part[6], part[7]]),
            })
            .collect();
        Some(Self { program, flags: u32::from_ne_bytes(*flags) })
    }
}

impl From<Filter> for Vec<u64> {
    fn from(filter: Filter) -> Self {
        let numbers = filter.program.iter().map(|instruction| {
            u64::from(instruction.code) << 48
                | u64::from(instruction.jt) << 40
                | u64::from(instruction.jf) << 32
                | u64::from(instruction.k)
        });
        std::iter::once(u64::from(filter.flags)).chain(numbers).collect()
    }
}

impl TryFrom<Vec<u64>> for Filter {
    type Error = &'static str;

    fn try_from(numbers: Vec<u64>) -> std::result::Result<Self, Self::Error> {
        let (flags, program) = numbers.split_first().ok_or("a filter without flags")?;
        let flags = u32::try_from(*flags).map_err(|_| "flags of a filter are out of range")?;
        let program = program
            .iter()
            .map(|number| Instruction {
                code: (number >> 48) as u16,
                jt: (number >> 40) as u8,
                jf: (number >> 32) as u8,
                k: *number as u32,
            })
            .collect();
        Ok(Self { program, flags })
    }
}

/// Capability sets in numbers. Inheritable and ambient stay empty, whatever the specification says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sets {
    bounding: u64,
    effective: u64,
    permitted: u64,
}

impl Sets {
    pub(crate) fn new(capabilities: Option<&Capabilities>) -> Self {
        let none = Capabilities::default();
        let capabilities = capabilities.unwrap_or(&none);
        let permitted = bits(&capabilities.permitted);
        Self {
            bounding: bits(&capabilities.bounding),
            // More effective than permitted is refused by the kernel.
            effective: bits(&capabilities.effective) & permitted,
            permitted,
        }
    }
}

impl Sets {
    /// Other users than root have none but what a file gives them. Exec would take the rest from them anyway,
    /// but with `no_new_privs` lets them keep what they have and the file names, and our init does not exec.
    fn of_user(self, uid: u32) -> Self {
        if uid == 0 { self } else { Self { effective: 0, permitted: 0, ..self } }
    }
}

fn bits(names: &[String]) -> u64 {
    names
        .iter()
        .filter_map(|name| CAPABILITIES.iter().position(|known| known.eq_ignore_ascii_case(name)))
        .fold(0, |bits, number| bits | 1 << number)
}

/// Everything about a process that is settled before it is confined.
#[derive(Debug)]
pub(crate) struct Confinement<'a> {
    pub(crate) process: &'a Process,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: &'a [u32],
    pub(crate) filter: Option<&'a Filter>,
}

/// Sets resource limits; what may not be raised here is a warning.
pub(crate) fn set_limits(process: &Process, warnings: &mut Vec<String>) -> Result<()> {
    for limit in &process.rlimits {
        if limit.soft > limit.hard {
            let text = format!("{}: the soft limit is above the hard limit", limit.kind);
            return Err(StartError::invalid(Step::Spec, text));
        }
        match sys::set_limit(&limit.kind, limit.soft, limit.hard) {
            None => {
                let text = format!("unknown resource limit {:?}", limit.kind);
                return Err(StartError::invalid(Step::Spec, text));
            }
            Some(Ok(())) => {}
            Some(Err(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                warnings.push(format!(
                    "not allowed to raise {} to {}; it stays as it is",
                    limit.kind, limit.hard
                ));
            }
            Some(Err(error)) => {
                return Err(StartError::io(Step::Confinement, format!("cannot set {}", limit.kind), error));
            }
        }
    }
    Ok(())
}

/// Sets the badness for the out-of-memory killer through a trusted procfs; lowering it may be refused.
pub(crate) fn set_oom_score(proc: BorrowedFd<'_>, score: i32, warnings: &mut Vec<String>) -> Result<()> {
    let failed = |error| StartError::io(Step::Confinement, "cannot set oom_score_adj", error);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, c"self/oom_score_adj", flags, Mode::empty()).map_err(failed)?;
    match rustix::io::write(&file, score.to_string().as_bytes()) {
        Ok(_) => Ok(()),
        Err(Errno::ACCESS | Errno::PERM) => {
            warnings.push(format!("not allowed to lower oom_score_adj to {score}; it stays as it is"));
            Ok(())
        }
        Err(error) => Err(failed(error)),
    }
}

/// The file through which this process takes an AppArmor profile without an `execve`; `None` where the
/// profile changes nothing.
pub(crate) fn open_own_apparmor(proc: BorrowedFd<'_>, profile: &str) -> Result<Option<OwnedFd>> {
    if profile.is_empty() || profile == "unconfined" {
        return Ok(None);
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(proc, c"self/attr/apparmor/current", flags, Mode::empty())
        .or_else(|_| rustix::fs::openat(proc, c"self/attr/current", flags, Mode::empty()))
        .map(Some)
        .map_err(|error| StartError::io(Step::Confinement, "cannot open the AppArmor attribute", error))
}

/// Puts this process into an AppArmor profile, through the file of [`open_own_apparmor`].
pub(crate) fn enter_apparmor(own: &Option<OwnedFd>, profile: &str) -> Result<()> {
    let Some(own) = own else { return Ok(()) };
    rustix::io::write(own, format!("changeprofile {profile}").as_bytes()).map_err(|error| {
        StartError::io(Step::Confinement, format!("cannot apply AppArmor profile {profile}"), error)
    })?;
    Ok(())
}

/// Has the kernel switch to an AppArmor profile at the next `execve`.
pub(crate) fn set_apparmor(proc: BorrowedFd<'_>, profile: &str) -> Result<()> {
    if profile.is_empty() || profile == "unconfined" {
        return Ok(());
    }
    let failed =
        |error| StartError::io(Step::Confinement, format!("cannot apply AppArmor profile {profile}"), error);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, c"self/attr/apparmor/exec", flags, Mode::empty())
        .or_else(|_| rustix::fs::openat(proc, c"self/attr/exec", flags, Mode::empty()))
        .map_err(failed)?;
    rustix::io::write(&file, format!("exec {profile}").as_bytes()).map_err(failed)?;
    Ok(())
}

/// Puts the streams at 0, 1 and 2, where the user may open them again.
pub(crate) fn place_streams(streams: [BorrowedFd<'_>; 3], uid: u32) -> Result<()> {
    let failed = |error| StartError::io(Step::Exec, "cannot place the standard streams", error);
    // Numbers below 3 may be in use by each other's sources.
    let mut copies: Vec<OwnedFd> = Vec::with_capacity(3);
    for stream in streams {
        copies.push(rustix::io::fcntl_dupfd_cloexec(stream, 3).map_err(|error| failed(error.into()))?);
    }
    for (number, copy) in copies.iter().enumerate() {
        sys::duplicate_to(copy, number as i32).map_err(failed)?;
        if uid != 0 {
            give_to(copy.as_fd(), uid);
        }
    }
    Ok(())
}

/// Best effort: pipes and terminals change owner, the null device and what refuses stay.
fn give_to(stream: BorrowedFd<'_>, uid: u32) {
    let Ok(stat) = rustix::fs::fstat(stream) else { return };
    let null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if !null && stat.st_uid != uid {
        let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None::<Gid>);
    }
}

impl Confinement<'_> {
    /// Drops privileges as far as loading the filter allows. [`Confinement::finish`] does the rest.
    pub(crate) fn begin(&self) -> Result<()> {
        let failed = |what: &'static str| move |error: Errno| StartError::io(Step::Confinement, what, error);
        let sets = Sets::new(self.process.capabilities.as_ref());
        drop_bounding(sets.bounding)?;
        if self.process.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(failed("cannot set no_new_privileges"))?;
        }
        rustix::thread::set_keep_capabilities(true).map_err(failed("cannot keep capabilities"))?;
        sys::become_user(self.uid, self.gid, self.groups)
            .map_err(|error| StartError::io(Step::User, format!("cannot become user {}", self.uid), error))?;
        rustix::thread::set_keep_capabilities(false).map_err(failed("cannot forget capabilities"))?;
        rustix::process::umask(Mode::from_raw_mode(self.process.user.umask.unwrap_or(0o022) & 0o777));
        match rustix::thread::clear_ambient_capability_set() {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(error) => Err(failed("cannot clear ambient capabilities")(error)),
        }
    }

    /// Loads the filter and sets the capabilities. After it only what the profile allows works.
    pub(crate) fn finish(&self) -> Result<()> {
        let failed = |error: Errno| StartError::io(Step::Confinement, "cannot set capabilities", error);
        let sets = Sets::new(self.process.capabilities.as_ref()).of_user(self.uid);
        // Without no_new_privs the filter needs CAP_SYS_ADMIN, so the capabilities go after it.
        let first = self.process.no_new_privileges;
        if first {
            set_capabilities(sets.effective, sets.permitted).map_err(failed)?;
        }
        if let Some(filter) = self.filter {
            if !first {
                let loading = sets.permitted | 1 << 21;
                set_capabilities(loading, loading).map_err(failed)?;
            }
            yare_sys::seccomp::load(&filter.program, filter.flags).map_err(|error| {
                StartError::io(Step::Confinement, "cannot load the seccomp filter", error)
            })?;
        }
        if first { Ok(()) } else { set_capabilities(sets.effective, sets.permitted).map_err(failed) }
    }
}

fn set_capabilities(effective: u64, permitted: u64) -> rustix::io::Result<()> {
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)
}

/// Drops what the specification does not list; numbers that this kernel does not know end the walk.
fn drop_bounding(keep: u64) -> Result<()> {
    for number in 0..64u32 {
        if keep & (1 << number) != 0 {
            continue;
        }
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(error) => {
                return Err(StartError::io(Step::Confinement, "cannot drop capabilities", error));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_bits_and_unknown_ones_nothing() {
        let names: Vec<String> = ["CAP_CHOWN", "cap_sys_admin", "CAP_FUTURE"].map(String::from).to_vec();
        assert_eq!(bits(&names), 1 | 1 << 21);
    }

    #[test]
    fn filters_cross_the_channel_unchanged() {
        let json = include_str!("../tests/data/default-seccomp-resolved.json");
        let filter = Filter::compile(Some(&serde_json::from_str(json).unwrap())).unwrap().unwrap();
        let mut bytes = Vec::new();
        filter.write(&mut bytes);
        assert_eq!(Filter::read(&bytes).as_ref(), Some(&filter));
        assert_eq!(Filter::read(&[]), None);
        let json = serde_json::to_string(&filter).unwrap();
        assert_eq!(serde_json::from_str::<Filter>(&json).unwrap(), filter);
        assert!(serde_json::from_str::<Filter>("[]").is_err());
    }

    #[test]
    fn inheritable_sets_of_the_specification_are_ignored() {
        let capabilities = Capabilities {
            inheritable: vec!["CAP_CHOWN".into()],
            effective: vec!["CAP_KILL".into()],
            ..Capabilities::default()
        };
        let sets = Sets::new(Some(&capabilities));
        assert_eq!((sets.permitted, sets.effective, sets.bounding), (0, 0, 0));
    }
}
