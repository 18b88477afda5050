use super::*;

/// Runs a program as the kernel would.
fn run(program: &[Instruction], nr: u32, arch: u32, args: [u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => nr,
        4 => arch,
        8 | 12 => 0,
        _ => {
            let arg = args[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
        }
    };
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let now = program[at];
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { now.jt } else { now.jf });
        match now.code {
            0x20 => accumulator = word(now.k),
            0x54 => accumulator &= now.k,
            0x05 => at += now.k as usize,
            0x15 => jump(accumulator == now.k),
            0x25 => jump(accumulator > now.k),
            0x35 => jump(accumulator >= now.k),
            0x06 => return now.k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

fn holds(arg: &SyscallArg, args: [u64; 6]) -> bool {
    let value = args[arg.index as usize];
    match arg.op.as_str() {
        "SCMP_CMP_EQ" => value == arg.value,
        "SCMP_CMP_NE" => value != arg.value,
        "SCMP_CMP_LT" => value < arg.value,
        "SCMP_CMP_LE" => value <= arg.value,
        "SCMP_CMP_GT" => value > arg.value,
        "SCMP_CMP_GE" => value >= arg.value,
        "SCMP_CMP_MASKED_EQ" => value & arg.value == arg.value_two & arg.value,
        other => panic!("{other}"),
    }
}

fn numbers(abi: Abi, name: &str) -> (Option<u32>, Option<(u32, u64)>) {
    let behind = if abi == Abi::X86 { multiplexed(name) } else { None };
    (row_of(name).and_then(|row| number(abi, row)), behind)
}

/// The rules read straightforwardly.
fn evaluate(profile: &Seccomp, abi: Abi, nr: u32, args: [u64; 6]) -> u32 {
    let default = action(&profile.default_action, profile.default_errno_ret).unwrap();
    let mut highest = 0;
    let mut derived = None;
    for rule in &profile.syscalls {
        for name in &rule.names {
            let (number, multiplexed) = numbers(abi, name);
            highest = highest.max(number.unwrap_or(0)).max(multiplexed.map_or(0, |(number, _)| number));
            let result = action(&rule.action, rule.errno_ret).unwrap();
            if number == Some(nr) && rule.args.iter().all(|arg| holds(arg, args)) {
                return result;
            }
            if multiplexed == Some((nr, args[0])) {
                derived.get_or_insert(result);
            }
        }
    }
    match derived {
        Some(result) => result,
        None if nr > highest && default != ALLOW => ERRNO | ENOSYS,
        None => default,
    }
}

fn check(profile: &Seccomp) -> usize {
    let program = compile(profile, Arch::X86_64).unwrap();
    let mut values = vec![0, 1, 8, 38, 39, 40, 41, 0x20000, 0x20008, 0xffff_ffff, u64::MAX];
    for rule in &profile.syscalls {
        for arg in &rule.args {
            for base in [arg.value, arg.value_two] {
                values.extend([base, base.wrapping_add(1), base.wrapping_sub(1), base | 1 << 40]);
            }
        }
    }
    values.sort_unstable();
    values.dedup();
    for (abi, audit) in [(Abi::X86_64, AUDIT_X86_64), (Abi::X86, AUDIT_X86), (Abi::X32, AUDIT_X86_64)] {
        let base = if abi == Abi::X32 { X32_BIT } else { 0 };
        let conditional: Vec<Option<u32>> = profile
            .syscalls
            .iter()
            .filter(|rule| !rule.args.is_empty())
            .flat_map(|rule| rule.names.iter().map(|name| numbers(abi, name).0))
            .chain([Some(102), Some(117)])
            .collect();
        for nr in (base..base + 600).chain([base + 0x3fff_ffff]) {
            let samples = if conditional.contains(&Some(nr)) { values.len() } else { 1 };
            for value in &values[..samples] {
                for index in 0..3 {
                    let mut args = [7; 6];
                    args[index] = *value;
                    let expected = evaluate(profile, abi, nr, args);
                    let real = run(&program, nr, audit, args);
                    assert_eq!(real, expected, "{abi:?} call {nr} with {args:x?}");
                }
            }
        }
    }
    program.len()
}

fn read(json: &str) -> Seccomp {
    serde_json::from_str(json).unwrap()
}

#[test]
fn dockers_profile_does_what_its_rules_say() {
    let length = check(&read(include_str!("../../tests/data/default-seccomp-resolved.json")));
    assert!(length < 450, "{length} instructions");
}

#[test]
fn dockers_profile_with_all_capabilities_does_what_its_rules_say() {
    check(&read(include_str!("../../tests/data/cap-add-ALL-seccomp-resolved.json")));
}

#[test]
fn every_comparison_and_their_conjunction() {
    let arg = |index, op: &str, value, value_two| SyscallArg { index, op: op.into(), value, value_two };
    let mut profile = Seccomp {
        default_action: "SCMP_ACT_ALLOW".into(),
        architectures: vec!["SCMP_ARCH_X86".into(), "SCMP_ARCH_X32".into()],
        ..Seccomp::default()
    };
    let big = 0x5_0000_0007;
    let ops = ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"];
    for (at, op) in ops.iter().enumerate() {
        let names = [["read", "write", "open", "close", "stat", "fstat", "lstat"][at].to_string()];
        for (errno, value) in [(5, big), (6, 9)] {
            profile.syscalls.push(SyscallRule {
                names: names.to_vec(),
                action: "SCMP_ACT_ERRNO".into(),
                errno_ret: Some(errno + at as u32),
                args: vec![arg(0, &format!("SCMP_CMP_{op}"), value, value & 5), arg(1, "SCMP_CMP_NE", 40, 0)],
            });
        }
    }
    profile.syscalls.push(SyscallRule {
        names: vec!["read".into(), "no_such_call".into()],
        action: "SCMP_ACT_LOG".into(),
        ..SyscallRule::default()
    });
    check(&profile);
}

#[test]
fn every_action_has_its_number() {
    let of = |name: &str| action(name, Some(7)).unwrap();
    assert_eq!(of("SCMP_ACT_KILL"), 0);
    assert_eq!(of("SCMP_ACT_KILL_PROCESS"), 0x8000_0000);
    assert_eq!(of("SCMP_ACT_TRAP"), 0x30000);
    assert_eq!(of("SCMP_ACT_ERRNO"), 0x50007);
    assert_eq!(of("SCMP_ACT_TRACE"), 0x7ff0_0007);
    assert_eq!(of("SCMP_ACT_LOG"), 0x7ffc_0000);
    assert!(action("SCMP_ACT_NOTIFY", None).is_err());
}

#[test]
fn foreign_calling_conventions_kill_unless_listed() {
    let mut profile = Seccomp { default_action: "SCMP_ACT_ALLOW".into(), ..Seccomp::default() };
    let program = compile(&profile, Arch::X86_64).unwrap();
    assert_eq!(run(&program, 1, AUDIT_X86, [0; 6]), KILL_PROCESS);
    assert_eq!(run(&program, 1 | X32_BIT, AUDIT_X86_64, [0; 6]), KILL_PROCESS);
    assert_eq!(run(&program, 1, AUDIT_AARCH64, [0; 6]), KILL_PROCESS);
    assert_eq!(run(&program, 1, AUDIT_X86_64, [0; 6]), ALLOW);
    profile.architectures = vec!["SCMP_ARCH_X86".into()];
    let program = compile(&profile, Arch::X86_64).unwrap();
    assert_eq!(run(&program, 1, AUDIT_X86, [0; 6]), ALLOW);
    let arm = compile(&profile, Arch::Aarch64).unwrap();
    assert_eq!(run(&arm, 1, AUDIT_AARCH64, [0; 6]), ALLOW);
    assert_eq!(run(&arm, 1, AUDIT_X86_64, [0; 6]), KILL_PROCESS);
}

#[test]
fn an_unconditional_rule_ends_the_list() {
    let rule = |action: &str, args: Vec<SyscallArg>| SyscallRule {
        names: vec!["read".into()],
        action: action.into(),
        errno_ret: None,
        args,
    };
    let one = SyscallArg { index: 0, value: 1, value_two: 0, op: "SCMP_CMP_EQ".into() };
    let profile = Seccomp {
        default_action: "SCMP_ACT_ERRNO".into(),
        syscalls: vec![
            rule("SCMP_ACT_LOG", vec![one.clone()]),
            rule("SCMP_ACT_ALLOW", vec![]),
            rule("SCMP_ACT_TRAP", vec![SyscallArg { value: 2, ..one }]),
        ],
        ..Seccomp::default()
    };
    let program = compile(&profile, Arch::X86_64).unwrap();
    let result = |value| run(&program, 0, AUDIT_X86_64, [value, 0, 0, 0, 0, 0]);
    assert_eq!([result(1), result(2), result(3)], [LOG, ALLOW, ALLOW]);
}

#[test]
fn the_tables_are_sorted() {
    assert!(MULTIPLEXED.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(table::TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(numbers(Abi::X86_64, "openat2").0, Some(437));
    assert_eq!(numbers(Abi::X86, "socketcall").0, Some(102));
    assert_eq!(numbers(Abi::X32, "execve").0, Some(520 | X32_BIT));
    assert_eq!(numbers(Abi::Aarch64, "execve").0, Some(221));
}
