//! Device rules: settled first (pure), then v1 lines or a v2 program (pure).

use crate::error::{CgroupError, Result};
use yare_oci::runtime::DeviceRule;
use yare_sys::bpf::Instruction;

/// A rule in numbers; `None` matches all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    allow: bool,
    /// `b'a'`, `b'b'` or `b'c'`.
    kind: u8,
    major: Option<u32>,
    minor: Option<u32>,
    /// `ACCESS_…` bits.
    access: u8,
}

const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// What every container may use, whatever its rules: null, zero, full, tty, random, urandom, ptmx, pts, and
/// making nodes (without opening them).
const ALWAYS: [Rule; 10] = {
    const fn character(major: u32, minor: Option<u32>) -> Rule {
        Rule { allow: true, kind: b'c', major: Some(major), minor, access: ALL }
    }
    [
        Rule { allow: true, kind: b'c', major: None, minor: None, access: MKNOD },
        Rule { allow: true, kind: b'b', major: None, minor: None, access: MKNOD },
        character(1, Some(3)),
        character(1, Some(5)),
        character(1, Some(7)),
        character(1, Some(8)),
        character(1, Some(9)),
        character(5, Some(0)),
        character(5, Some(2)),
        character(136, None),
    ]
};

impl Rule {
    fn parse(rule: &DeviceRule) -> Result<Self> {
        let kind = match rule.kind.as_str() {
            "" | "a" => b'a',
            "b" => b'b',
            "c" | "u" => b'c',
            other => return Err(CgroupError::invalid("devices", format!("unknown device type {other:?}"))),
        };
        let mut access = 0;
        for letter in rule.access.bytes() {
            access |= match letter {
                b'r' => READ,
                b'w' => WRITE,
                b'm' => MKNOD,
                _ => {
                    let reason = format!("unknown access {:?}", rule.access);
                    return Err(CgroupError::invalid("devices", reason));
                }
            };
        }
        if access == 0 {
            access = ALL;
        }
        let number = |value: Option<i64>| match value {
            None | Some(-1) => Ok(None),
            Some(value) => u32::try_from(value)
                .map(Some)
                .map_err(|_| CgroupError::invalid("devices", format!("{value} is not a device number"))),
        };
        Ok(Self { allow: rule.allow, kind, major: number(rule.major)?, minor: number(rule.minor)?, access })
    }

    fn covers_all(&self) -> bool {
        self.major.is_none() && self.minor.is_none() && self.access == ALL && self.kind == b'a'
    }

    /// The line for `devices.allow` or `devices.deny`.
    pub(crate) fn line(&self) -> String {
        let number = |value: Option<u32>| value.map_or("*".to_string(), |value| value.to_string());
        let mut line = format!("{} {}:{} ", char::from(self.kind), number(self.major), number(self.minor));
        for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
            if self.access & bit != 0 {
                line.push(letter);
            }
        }
        line
    }

    pub(crate) fn allows(&self) -> bool {
        self.allow
    }
}

/// The rules with what cannot matter taken out: the last match wins, so a rule about everything makes all
/// before it void. Empty when there is nothing to enforce.
pub(crate) fn settle(rules: &[DeviceRule]) -> Result<Vec<Rule>> {
    let mut settled: Vec<Rule> = Vec::new();
    for rule in rules {
        let rule = Rule::parse(rule)?;
        if rule.covers_all() {
            settled.clear();
        }
        settled.retain(|known| Rule { allow: rule.allow, ..*known } != rule);
        settled.push(rule);
    }
    if settled.iter().all(|rule| rule.allow) {
        return Ok(Vec::new());
    }
    for rule in ALWAYS {
        settled.retain(|known| *known != rule);
        settled.push(rule);
    }
    // Denying what the leading "deny all" denies already changes nothing.
    let denies_all = settled.first().is_some_and(|first| first.covers_all() && !first.allow);
    let mut index = 0;
    settled.retain(|rule| {
        index += 1;
        index == 1 || rule.allow || !denies_all || rule.major.is_none()
    });
    Ok(settled)
}

const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers, offset, immediate }
}

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const AND_NUMBER: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNEQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// The program for `BPF_PROG_TYPE_CGROUP_DEVICE`: the last matching rule decides, no match is a denial.
///
/// Registers: 2 type, 3 access, 4 major, 5 minor, 6 scratch.
pub(crate) fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, 0x12, 0, 0),
        instruction(MOVE, 0x23, 0, 0),
        instruction(AND_NUMBER, 0x02, 0, 0xffff),
        instruction(SHIFT_RIGHT, 0x03, 0, 16),
        instruction(LOAD_WORD, 0x14, 4, 0),
        instruction(LOAD_WORD, 0x15, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(block(rule));
        if rule.covers_all() {
            // Always decides: the verifier refuses what cannot be reached.
            return program;
        }
    }
    program.push(instruction(MOVE_NUMBER, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0));
    program
}

fn block(rule: &Rule) -> Vec<Instruction> {
    const BLOCK: i32 = 1;
    const CHARACTER: i32 = 2;
    let mut tests: Vec<Instruction> = Vec::new();
    match rule.kind {
        b'b' => tests.push(instruction(JUMP_UNEQUAL, 0x02, 0, BLOCK)),
        b'c' => tests.push(instruction(JUMP_UNEQUAL, 0x02, 0, CHARACTER)),
        _ => {}
    }
    if rule.access != ALL {
        // Matches when nothing beyond the rule's access is wanted; a denial matches any overlap.
        let (mask, code) = if rule.allow { (!rule.access & ALL, JUMP_UNEQUAL) } else { (rule.access, 0x15) };
        tests.push(instruction(MOVE, 0x36, 0, 0));
        tests.push(instruction(AND_NUMBER, 0x06, 0, i32::from(mask)));
        tests.push(instruction(code, 0x06, 0, 0));
    }
    if let Some(major) = rule.major {
        tests.push(instruction(JUMP_UNEQUAL, 0x04, 0, major.cast_signed()));
    }
    if let Some(minor) = rule.minor {
        tests.push(instruction(JUMP_UNEQUAL, 0x05, 0, minor.cast_signed()));
    }
    let length = tests.len() + 2;
    for (index, test) in tests.iter_mut().enumerate() {
        if test.code == JUMP_UNEQUAL || test.code == 0x15 {
            test.offset = (length - index - 1) as i16;
        }
    }
    tests.push(instruction(MOVE_NUMBER, 0, 0, i32::from(rule.allow)));
    tests.push(instruction(EXIT, 0, 0, 0));
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>) -> DeviceRule {
        DeviceRule { allow, kind: kind.into(), major, minor, access: "rwm".into() }
    }

    fn docker() -> Vec<DeviceRule> {
        let mut rules = vec![rule(false, "", None, None)];
        for minor in [5, 3, 9, 8] {
            rules.push(rule(true, "c", Some(1), Some(minor)));
        }
        rules.push(rule(true, "c", Some(5), Some(0)));
        rules.push(rule(true, "c", Some(5), Some(1)));
        rules.push(rule(false, "c", Some(10), Some(229)));
        let twice = rules.clone();
        rules.extend(twice);
        rules
    }

    /// A tiny interpreter of the instructions used.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [kind | access << 16, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let now = program[at];
            let (to, from) = (usize::from(now.registers & 15), usize::from(now.registers >> 4));
            let number = u64::from(now.immediate.cast_unsigned());
            at += 1;
            match now.code {
                LOAD_WORD => registers[to] = u64::from(context[now.offset as usize / 4]),
                MOVE => registers[to] = registers[from],
                MOVE_NUMBER => registers[to] = number,
                AND_NUMBER => registers[to] &= number,
                SHIFT_RIGHT => registers[to] >>= number,
                JUMP_UNEQUAL if registers[to] != number => at += now.offset as usize,
                0x15 if registers[to] == number => at += now.offset as usize,
                JUMP_UNEQUAL | 0x15 => {}
                EXIT => return registers[0] != 0,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn docker_rules_settle_to_one_denial_and_the_allowed() {
        let settled = settle(&docker()).unwrap();
        let lines: Vec<_> = settled.iter().map(Rule::line).collect();
        assert_eq!(lines[0], "a *:* rwm");
        assert!(settled[1..].iter().all(Rule::allows), "{lines:?}");
        assert!(lines.contains(&"c 136:* rwm".to_string()));
        assert_eq!(lines.iter().filter(|line| *line == "c 1:3 rwm").count(), 1);
    }

    #[test]
    fn allowing_everything_needs_no_rules() {
        assert!(settle(&[rule(true, "a", None, None)]).unwrap().is_empty());
        assert!(settle(&[rule(false, "a", None, None), rule(true, "a", None, None)]).unwrap().is_empty());
    }

    #[test]
    fn the_program_decides_as_the_rules_say() {
        let program = program(&settle(&docker()).unwrap());
        let (block, character) = (1, 2);
        let all = u32::from(ALL);
        assert!(run(&program, character, all, 1, 3));
        assert!(run(&program, character, all, 136, 7));
        assert!(!run(&program, character, all, 10, 229));
        assert!(!run(&program, block, u32::from(READ), 8, 0));
        assert!(run(&program, block, u32::from(MKNOD), 8, 0));
        assert!(!run(&program, character, u32::from(READ | MKNOD), 1, 1));
    }

    #[test]
    fn read_only_access_is_not_write_access() {
        let mut rules = docker();
        rules.push(DeviceRule {
            allow: true,
            kind: "b".into(),
            major: Some(8),
            minor: Some(0),
            access: "r".into(),
        });
        let program = program(&settle(&rules).unwrap());
        assert!(run(&program, 1, u32::from(READ), 8, 0));
        assert!(!run(&program, 1, u32::from(READ | WRITE), 8, 0));
    }

    #[test]
    fn the_kernel_takes_the_program() {
        let name = "the_kernel_takes_the_program";
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none(), "{name} needs root");
            println!("SKIP {name}: needs root");
            return;
        }
        let mut rules = docker();
        rules.push(DeviceRule { access: "r".into(), ..rule(true, "b", Some(8), None) });
        rules.push(DeviceRule { access: "w".into(), ..rule(false, "b", Some(8), Some(1)) });
        yare_sys::bpf::load_device_program(&program(&settle(&rules).unwrap())).unwrap();
    }

    #[test]
    fn nonsense_is_refused() {
        let bad = DeviceRule { access: "x".into(), ..rule(true, "c", Some(1), Some(1)) };
        assert!(settle(&[bad]).is_err());
        assert!(settle(&[rule(true, "q", None, None)]).is_err());
        assert!(settle(&[rule(true, "c", Some(1 << 40), None)]).is_err());
    }
}
