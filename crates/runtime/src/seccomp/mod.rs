//! Seccomp profiles to classic BPF programs: pure.
//!
//! Per architecture the system call numbers become ranges with one outcome each, searched by halves; rules
//! with conditions on arguments become small blocks at the leaves. Rules are tried in order, all conditions
//! of a rule must hold, and what no rule matches takes the default action. As in runc, names that an
//! architecture does not have are ignored, and calls newer than every call the profile mentions give ENOSYS
//! instead of a refusal, so that C libraries fall back to older calls.

mod program;
mod table;

use program::{ARCH_OFFSET, Assembler, NR_OFFSET};
use yare_oci::runtime::{Seccomp, SyscallArg, SyscallRule};
pub use yare_sys::seccomp::Instruction;

/// A processor architecture that filters can be made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// 64-bit x86, optionally with its 32-bit and x32 forms.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Arch {
    /// The one this program runs on.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };
}

/// A profile that cannot become a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// Not an action, or one that needs a listener.
    #[error("unsupported seccomp action {0:?}")]
    Action(String),
    /// Not a comparison.
    #[error("unknown seccomp comparison {0:?}")]
    Comparison(String),
    /// There are arguments 0 to 5.
    #[error("seccomp argument index {0} is out of range")]
    Index(u32),
    /// Not a flag of the kernel.
    #[error("unknown seccomp flag {0:?}")]
    Flag(String),
    /// Longer than the kernel takes.
    #[error("the seccomp filter has {0} instructions, the kernel takes 4096")]
    TooLong(usize),
}

/// One calling convention of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
}

const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_X86: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
/// Set in the numbers of x32 calls.
const X32_BIT: u32 = 0x4000_0000;

const KILL_PROCESS: u32 = 0x8000_0000;
const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const ERRNO: u32 = 0x0005_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// What happens to a call: at once, or depending on its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Return(u32),
    /// Conditional rules in order, then the action when none matches.
    Check(Vec<Conditional>, u32),
}

/// A rule whose conditions must all hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Conditional {
    conditions: Vec<Condition>,
    action: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    index: u32,
    comparison: Comparison,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    MaskedEqual { mask: u64, value: u64 },
}

/// Compiles a profile for a machine of architecture `arch`.
///
/// The machine's own calling convention is always handled; others on it when the profile lists them, and
/// otherwise kill the process.
pub fn compile(profile: &Seccomp, arch: Arch) -> Result<Vec<Instruction>, SeccompError> {
    let rules = resolve(profile)?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let lists = |name: &str| profile.architectures.iter().any(|listed| listed == name);
    let mut code = Assembler::default();
    let kill = code.ret(KILL_PROCESS);
    let search = |code: &mut Assembler, abi: Abi| code.search(&ranges(abi, &rules, default));
    let entry = match arch {
        Arch::X86_64 => {
            let mut foreign = kill;
            if lists("SCMP_ARCH_X86") {
                let x86 = search(&mut code, Abi::X86);
                let x86 = code.load(NR_OFFSET, x86);
                foreign = code.test(program::EQUAL, AUDIT_X86, x86, kill);
            }
            let x32 = if lists("SCMP_ARCH_X32") { search(&mut code, Abi::X32) } else { kill };
            let native = search(&mut code, Abi::X86_64);
            let native = code.test(program::GREATER_OR_EQUAL, X32_BIT, x32, native);
            let native = code.load(NR_OFFSET, native);
            code.test(program::EQUAL, AUDIT_X86_64, native, foreign)
        }
        Arch::Aarch64 => {
            let native = search(&mut code, Abi::Aarch64);
            let native = code.load(NR_OFFSET, native);
            code.test(program::EQUAL, AUDIT_AARCH64, native, kill)
        }
    };
    code.load(ARCH_OFFSET, entry);
    let code = code.finish();
    if code.len() > yare_sys::seccomp::MAX_LENGTH {
        return Err(SeccompError::TooLong(code.len()));
    }
    Ok(code)
}

/// The flags for loading the filter of a profile, as `SECCOMP_FILTER_FLAG_…` bits.
///
/// TSYNC is left out (one thread loads it), and without any flag speculation is allowed, as in runc.
pub fn flags(profile: &Seccomp) -> Result<u32, SeccompError> {
    const SPEC_ALLOW: u32 = 4;
    if profile.flags.is_empty() {
        return Ok(SPEC_ALLOW);
    }
    profile.flags.iter().try_fold(0, |bits, flag| match flag.as_str() {
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(bits),
        "SECCOMP_FILTER_FLAG_LOG" => Ok(bits | 2),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(bits | SPEC_ALLOW),
        other => Err(SeccompError::Flag(other.to_string())),
    })
}

/// A rule in numbers.
struct Rule {
    /// The calls it names that exist somewhere.
    rows: Vec<&'static table::Row>,
    /// 32-bit x86 only: the multiplexers behind which some of them are, and the call numbers there.
    multiplexed: Vec<(u32, u64)>,
    conditions: Vec<Condition>,
    action: u32,
}

fn resolve(profile: &Seccomp) -> Result<Vec<Rule>, SeccompError> {
    let x86 = profile.architectures.iter().any(|arch| arch == "SCMP_ARCH_X86");
    profile.syscalls.iter().map(|rule| resolve_rule(rule, x86)).collect()
}

fn resolve_rule(rule: &SyscallRule, x86: bool) -> Result<Rule, SeccompError> {
    let names = || rule.names.iter().map(String::as_str);
    Ok(Rule {
        rows: names().filter_map(row_of).collect(),
        multiplexed: if x86 { names().filter_map(multiplexed).collect() } else { Vec::new() },
        conditions: rule.args.iter().map(condition).collect::<Result<_, _>>()?,
        action: action(&rule.action, rule.errno_ret)?,
    })
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, SeccompError> {
    let data = errno.unwrap_or(EPERM) & 0xffff;
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_ERRNO" => ERRNO | data,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_ALLOW" => ALLOW,
        other => return Err(SeccompError::Action(other.to_string())),
    })
}

fn condition(arg: &SyscallArg) -> Result<Condition, SeccompError> {
    if arg.index > 5 {
        return Err(SeccompError::Index(arg.index));
    }
    let comparison = match arg.op.as_str() {
        "SCMP_CMP_EQ" => Comparison::Equal(arg.value),
        "SCMP_CMP_NE" => Comparison::NotEqual(arg.value),
        "SCMP_CMP_LT" => Comparison::Less(arg.value),
        "SCMP_CMP_LE" => Comparison::LessOrEqual(arg.value),
        "SCMP_CMP_GT" => Comparison::Greater(arg.value),
        "SCMP_CMP_GE" => Comparison::GreaterOrEqual(arg.value),
        "SCMP_CMP_MASKED_EQ" => Comparison::MaskedEqual { mask: arg.value, value: arg.value_two },
        other => return Err(SeccompError::Comparison(other.to_string())),
    };
    Ok(Condition { index: arg.index, comparison })
}

fn row_of(name: &str) -> Option<&'static table::Row> {
    table::TABLE.binary_search_by(|row| row.0.cmp(name)).ok().map(|at| &table::TABLE[at])
}

/// The number of a call, if this calling convention has it.
fn number(abi: Abi, row: &table::Row) -> Option<u32> {
    let (number, bit) = match abi {
        Abi::X86_64 => (row.1, 0),
        Abi::X86 => (row.2, 0),
        Abi::X32 => (row.3, X32_BIT),
        Abi::Aarch64 => (row.4, 0),
    };
    u32::try_from(number).ok().map(|number| number | bit)
}

const SOCKETCALL: u32 = 102;
const IPC: u32 = 117;

/// 32-bit programs reach these calls through one number too. Sorted by name.
const MULTIPLEXED: [(&str, u32, u64); 32] = [
    ("accept", SOCKETCALL, 5),
    ("accept4", SOCKETCALL, 18),
    ("bind", SOCKETCALL, 2),
    ("connect", SOCKETCALL, 3),
    ("getpeername", SOCKETCALL, 7),
    ("getsockname", SOCKETCALL, 6),
    ("getsockopt", SOCKETCALL, 15),
    ("listen", SOCKETCALL, 4),
    ("msgctl", IPC, 14),
    ("msgget", IPC, 13),
    ("msgrcv", IPC, 12),
    ("msgsnd", IPC, 11),
    ("recv", SOCKETCALL, 10),
    ("recvfrom", SOCKETCALL, 12),
    ("recvmmsg", SOCKETCALL, 19),
    ("recvmsg", SOCKETCALL, 17),
    ("semctl", IPC, 3),
    ("semget", IPC, 2),
    ("semop", IPC, 1),
    ("semtimedop", IPC, 4),
    ("send", SOCKETCALL, 9),
    ("sendmmsg", SOCKETCALL, 20),
    ("sendmsg", SOCKETCALL, 16),
    ("sendto", SOCKETCALL, 11),
    ("setsockopt", SOCKETCALL, 14),
    ("shmat", IPC, 21),
    ("shmctl", IPC, 24),
    ("shmdt", IPC, 22),
    ("shmget", IPC, 23),
    ("shutdown", SOCKETCALL, 13),
    ("socket", SOCKETCALL, 1),
    ("socketpair", SOCKETCALL, 8),
];

fn multiplexed(name: &str) -> Option<(u32, u64)> {
    let at = MULTIPLEXED.binary_search_by(|entry| entry.0.cmp(name)).ok()?;
    Some((MULTIPLEXED[at].1, MULTIPLEXED[at].2))
}

/// A rule's word about one number: its place in the order, and for a multiplexer the call within.
struct Mention {
    number: u32,
    order: usize,
    call: Option<u64>,
}

/// Every mention of every number, by number and order.
fn mentions(abi: Abi, rules: &[Rule]) -> Vec<Mention> {
    let mut mentions = Vec::with_capacity(512);
    for (order, rule) in rules.iter().enumerate() {
        let numbers = rule.rows.iter().filter_map(|row| number(abi, row));
        mentions.extend(numbers.map(|number| Mention { number, order, call: None }));
        if abi == Abi::X86 {
            // Rules about a multiplexer itself come before those derived from the calls behind it.
            let order = order + rules.len();
            let derived = rule.multiplexed.iter();
            mentions.extend(derived.map(|(number, call)| Mention {
                number: *number,
                order,
                call: Some(*call),
            }));
        }
    }
    mentions.sort_by_key(|mention| (mention.number, mention.order));
    mentions
}

/// What the mentions of one number come to: conditional rules up to the first without conditions.
fn outcome(mentions: &[Mention], rules: &[Rule], default: u32) -> Outcome {
    let mut conditional: Vec<Conditional> = Vec::new();
    let mut otherwise = default;
    for mention in mentions {
        let rule = &rules[mention.order % rules.len()];
        let conditions = match mention.call {
            // What lies behind the pointer cannot be seen: only the call within counts.
            Some(call) => vec![Condition { index: 0, comparison: Comparison::Equal(call) }],
            None => rule.conditions.clone(),
        };
        if conditions.is_empty() {
            otherwise = rule.action;
            break;
        }
        conditional.push(Conditional { conditions, action: rule.action });
    }
    while conditional.last().is_some_and(|rule| rule.action == otherwise) {
        conditional.pop();
    }
    if conditional.is_empty() { Outcome::Return(otherwise) } else { Outcome::Check(conditional, otherwise) }
}

/// Ranges of numbers, by their first, with one outcome each; the first range begins at 0.
fn ranges(abi: Abi, rules: &[Rule], default: u32) -> Vec<(u32, Outcome)> {
    let mentions = mentions(abi, rules);
    let newer = if matches!(default, ALLOW | LOG) { default } else { ERRNO | ENOSYS };
    let mut ranges: Vec<(u32, Outcome)> = vec![(0, Outcome::Return(default))];
    let mut push = |from: u32, outcome: Outcome| {
        let last = ranges.len() - 1;
        if ranges[last].0 == from {
            ranges[last].1 = outcome;
            if last > 0 && ranges[last - 1].1 == ranges[last].1 {
                ranges.pop();
            }
        } else if ranges[last].1 != outcome {
            ranges.push((from, outcome));
        }
    };
    for same in mentions.chunk_by(|a, b| a.number == b.number) {
        push(same[0].number, outcome(same, rules, default));
        push(same[0].number + 1, Outcome::Return(default));
    }
    push(mentions.last().map_or(0, |highest| highest.number + 1), Outcome::Return(newer));
    ranges
}

#[cfg(test)]
mod tests;
