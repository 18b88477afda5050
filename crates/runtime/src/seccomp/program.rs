//! Pieces of classic BPF programs.

use super::{Comparison, Condition, Conditional, Instruction, Outcome};

/// Offset of the call number in `struct seccomp_data`.
pub(super) const NR_OFFSET: u32 = 0;
/// Offset of the architecture.
pub(super) const ARCH_OFFSET: u32 = 4;
const ARGS_OFFSET: u32 = 16;

const LOAD: u16 = 0x20;
const RETURN: u16 = 0x06;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
/// Jump if the accumulator equals the operand.
pub(super) const EQUAL: u16 = 0x15;
/// Jump if it is greater.
pub(super) const GREATER: u16 = 0x25;
/// Jump if it is greater or equal.
pub(super) const GREATER_OR_EQUAL: u16 = 0x35;

/// Loads a word of `struct seccomp_data` into the accumulator.
pub(super) fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, jt: 0, jf: 0, k: offset }
}

/// Ends with this action.
pub(super) fn ret(action: u32) -> Instruction {
    Instruction { code: RETURN, jt: 0, jf: 0, k: action }
}

/// A program written from its end to its start, so that every jump target is known when it is needed and
/// common endings are shared.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The last instruction first.
    reversed: Vec<Instruction>,
    /// The latest place that ends with an action.
    returns: Vec<(u32, Label)>,
}

/// A place in the program: its distance from the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

impl Assembler {
    /// The finished program.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }

    fn push(&mut self, instruction: Instruction) -> Label {
        self.reversed.push(instruction);
        Label(self.reversed.len() - 1)
    }

    /// How many instructions lie between the next one written and `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - 1 - label.0
    }

    /// A place that ends with this action: one that is near, or a new one.
    pub(super) fn ret(&mut self, action: u32) -> Label {
        let known = self.returns.iter().position(|(known, _)| *known == action);
        if let Some(known) = known {
            let label = self.returns[known].1;
            if self.distance(label) < 200 {
                return label;
            }
            self.returns.swap_remove(known);
        }
        let label = self.push(ret(action));
        self.returns.push((action, label));
        label
    }

    /// Goes on at `label` after loading a word.
    pub(super) fn load(&mut self, offset: u32, then: Label) -> Label {
        if self.distance(then) != 0 {
            let k = self.distance(then) as u32;
            self.push(Instruction { code: JUMP, jt: 0, jf: 0, k });
        }
        self.push(load(offset))
    }

    /// Goes on at `yes` or `no`.
    pub(super) fn test(&mut self, test: u16, operand: u32, yes: Label, no: Label) -> Label {
        let (yes, no) = (self.near(yes), self.near(no));
        // The second detour may have moved the first one out of reach by one instruction.
        let (jt, jf) = (self.distance(yes), self.distance(no));
        let byte = |distance: usize| u8::try_from(distance).expect("near() leaves room for a detour");
        self.push(Instruction { code: test, jt: byte(jt), jf: byte(jf), k: operand })
    }

    /// The label itself, or a detour to it that a conditional jump can reach.
    fn near(&mut self, label: Label) -> Label {
        if self.distance(label) < 250 {
            return label;
        }
        let k = self.distance(label) as u32;
        self.push(Instruction { code: JUMP, jt: 0, jf: 0, k })
    }

    /// Finds the range that holds the accumulator, by halves, and does what it says.
    pub(super) fn search(&mut self, ranges: &[(u32, Outcome)]) -> Label {
        match ranges {
            [(_, outcome)] => self.leaf(outcome),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let operand = high[0].0;
                let low = self.search(low);
                let high = self.search(high);
                self.test(GREATER_OR_EQUAL, operand, high, low)
            }
        }
    }

    fn leaf(&mut self, outcome: &Outcome) -> Label {
        let (rules, otherwise) = match outcome {
            Outcome::Return(action) => return self.ret(*action),
            Outcome::Check(rules, otherwise) => (rules, *otherwise),
        };
        let mut entry = self.push(ret(otherwise));
        for conditional in rules.iter().rev() {
            for instruction in rule(conditional).into_iter().rev() {
                entry = self.push(instruction);
            }
        }
        entry
    }
}

/// Where a test of a condition goes.
#[derive(Clone, Copy)]
enum To {
    /// The next instruction.
    Next,
    /// Past this condition: it holds.
    Holds,
    /// Past the whole rule.
    Fails,
}

enum Part {
    Plain(Instruction),
    Test { code: u16, k: u32, yes: To, no: To },
}

/// Falls through behind the block when a condition fails.
fn rule(rule: &Conditional) -> Vec<Instruction> {
    let conditions: Vec<Vec<Part>> = rule.conditions.iter().map(parts).collect();
    let length: usize = conditions.iter().map(Vec::len).sum::<usize>() + 1;
    let mut code = Vec::with_capacity(length);
    for parts in conditions {
        let holds = code.len() + parts.len();
        for part in parts {
            let next = code.len() + 1;
            let distance = |to: To| {
                let target = match to {
                    To::Next => next,
                    To::Holds => holds,
                    To::Fails => length,
                };
                u8::try_from(target - next).expect("six conditions are at most 30 instructions")
            };
            code.push(match part {
                Part::Plain(instruction) => instruction,
                Part::Test { code, k, yes, no } => {
                    Instruction { code, jt: distance(yes), jf: distance(no), k }
                }
            });
        }
    }
    code.push(ret(rule.action));
    code
}

/// Compares 64 bits with 32-bit instructions: the high half decides unless it is equal.
fn parts(condition: &Condition) -> Vec<Part> {
    use To::{Fails, Holds, Next};
    let low_offset = ARGS_OFFSET + condition.index * 8;
    let (low_offset, high_offset) =
        if cfg!(target_endian = "big") { (low_offset + 4, low_offset) } else { (low_offset, low_offset + 4) };
    let high = |value: u64| (value >> 32) as u32;
    let low = |value: u64| value as u32;
    let test = |code, k, yes, no| Part::Test { code, k, yes, no };
    let ordered = |value: u64, on_low: u16, greater: To, otherwise: To| {
        vec![
            Part::Plain(load(high_offset)),
            test(GREATER, high(value), greater, Next),
            test(EQUAL, high(value), Next, otherwise),
            Part::Plain(load(low_offset)),
            test(on_low, low(value), greater, otherwise),
        ]
    };
    match condition.comparison {
        Comparison::Equal(value) => vec![
            Part::Plain(load(high_offset)),
            test(EQUAL, high(value), Next, Fails),
            Part::Plain(load(low_offset)),
            test(EQUAL, low(value), Holds, Fails),
        ],
        Comparison::NotEqual(value) => vec![
            Part::Plain(load(high_offset)),
            test(EQUAL, high(value), Next, Holds),
            Part::Plain(load(low_offset)),
            test(EQUAL, low(value), Fails, Holds),
        ],
        Comparison::Greater(value) => ordered(value, GREATER, Holds, Fails),
        Comparison::GreaterOrEqual(value) => ordered(value, GREATER_OR_EQUAL, Holds, Fails),
        Comparison::LessOrEqual(value) => ordered(value, GREATER, Fails, Holds),
        Comparison::Less(value) => ordered(value, GREATER_OR_EQUAL, Fails, Holds),
        Comparison::MaskedEqual { mask, value } => {
            let and = |k| Part::Plain(Instruction { code: AND, jt: 0, jf: 0, k });
            vec![
                Part::Plain(load(high_offset)),
                and(high(mask)),
                test(EQUAL, high(value & mask), Next, Fails),
                Part::Plain(load(low_offset)),
                and(low(mask)),
                test(EQUAL, low(value & mask), Holds, Fails),
            ]
        }
    }
}
