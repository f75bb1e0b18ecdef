//! Builds a filter's program for the kernel's packet filter machine
//! ([seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html)).
//!
//! libseccomp could write it too, but takes 12 ms for Docker's default profile, more than all the
//! rest of a container's start. Its programs compare system call numbers one after the other, where
//! these use a binary search; the answers are the same, which a test makes sure of.

use std::collections::BTreeMap;

use libc::sock_filter;

use super::arch::{Abi, X32_BIT};

/// As in `linux/audit.h`.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const IF_NOT_LESS: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;

/// A filter's answer: one of `SECCOMP_RET_*`, with its data.
pub(super) type Answer = u32;

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// Equal in the bits of a mask.
    Masked(u64),
}

/// A condition on an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u32,
    pub(super) comparison: Comparison,
    pub(super) value: u64,
}

/// An answer that applies if all conditions are met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) answer: Answer,
}

/// The rules for one kind of system calls.
#[derive(Debug)]
pub(super) struct Table {
    abi: Abi,
    rules: BTreeMap<u32, Vec<Rule>>,
    /// The largest number that the profile names.
    last: Option<u32>,
}

impl Table {
    pub(super) fn new(abi: Abi) -> Self {
        Table {
            abi,
            rules: BTreeMap::new(),
            last: None,
        }
    }

    pub(super) fn abi(&self) -> Abi {
        self.abi
    }

    /// Records that the profile names a system call.
    pub(super) fn mention(&mut self, number: u32) {
        self.last = self.last.max(Some(number));
    }

    /// Adds a rule for a system call. As in libseccomp, a rule without conditions replaces those
    /// with conditions, and nothing replaces it. Of several rules whose conditions are met, the
    /// first counts.
    pub(super) fn add(&mut self, number: u32, rule: Rule) {
        let rules = self.rules.entry(number).or_default();
        if rules.last().is_some_and(|last| last.conditions.is_empty()) {
            return;
        }
        if rule.conditions.is_empty() {
            rules.clear();
        }
        rules.push(rule);
    }
}

/// The answers where no rule says otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    /// For any system call.
    pub(super) call: Answer,
    /// For one that is newer than all that the profile names.
    pub(super) newer: Answer,
    /// For all calls of a kind that isn't in the filter.
    pub(super) foreign: Answer,
}

/// Assembles the whole program. There must be a table of x86-64.
pub(super) fn assemble(tables: &[Table], defaults: Defaults) -> Vec<sock_filter> {
    let of = |abi| tables.iter().find(|table| table.abi == abi);
    // Both have the same architecture value, and differ only in the number.
    let mut long = Ranges::default();
    long.add_table(0, of(Abi::X86_64), defaults);
    long.add_table(X32_BIT, of(Abi::X32), defaults);
    // The number that a tracer sets to have a system call skipped.
    long.add(u32::MAX, Leaf::Answer(defaults.call));
    let mut program = branch(
        IF_EQUAL,
        AUDIT_ARCH_I386,
        match of(Abi::I386) {
            Some(_) => {
                let mut short = Ranges::default();
                short.add_table(0, of(Abi::I386), defaults);
                short.search()
            }
            None => vec![statement(RETURN, defaults.foreign)],
        },
        vec![statement(RETURN, defaults.foreign)],
    );
    program = branch(IF_EQUAL, AUDIT_ARCH_X86_64, long.search(), program);
    program.insert(0, statement(LOAD, ARCH));
    program
}

/// A system call that is let through: its number, and optionally a required argument and its value.
pub(crate) type AllowedCall = (u32, Option<(u32, u64)>);

/// Returns a program that allows `calls` of this machine's own kind if they come with `key` as
/// their sixth argument, and does as `program` for everything else.
pub(crate) fn let_through(
    calls: &[AllowedCall],
    key: u64,
    program: Vec<sock_filter>,
) -> Vec<sock_filter> {
    let equal = |argument, value| Condition {
        argument,
        comparison: Comparison::Equal,
        value,
    };
    let mut way = Vec::new();
    for (number, argument) in calls {
        let asked_for = argument.map(|(argument, value)| equal(argument, value));
        let rule = Rule {
            conditions: [equal(5, key)].into_iter().chain(asked_for).collect(),
            answer: libc::SECCOMP_RET_ALLOW,
        };
        let rule = rule_program(&rule, Abi::X86_64);
        way.push(statement(LOAD, NUMBER));
        way.push(jump(IF_EQUAL, *number, 0, rule.len() as u8));
        way.extend(rule);
    }
    let mut longer = vec![
        statement(LOAD, ARCH),
        jump(IF_EQUAL, AUDIT_ARCH_X86_64, 0, way.len() as u8),
    ];
    longer.extend(way);
    longer.extend(program);
    longer
}

/// The answer for a range of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf<'a> {
    Answer(Answer),
    /// The first rule that applies, or else the answer.
    Rules(&'a [Rule], Abi, Answer),
}

/// Ranges of numbers without gaps, by their first number.
#[derive(Default)]
struct Ranges<'a>(Vec<(u32, Leaf<'a>)>);

impl<'a> Ranges<'a> {
    /// Starts a range, which must be after all others.
    fn add(&mut self, first: u32, leaf: Leaf<'a>) {
        // It replaces one that turns out to be empty.
        self.0.pop_if(|(last, _)| *last == first);
        if self.0.last().is_none_or(|(_, last)| *last != leaf) {
            self.0.push((first, leaf));
        }
    }

    /// Adds the ranges of a table whose numbers start at `first`.
    fn add_table(&mut self, first: u32, table: Option<&'a Table>, defaults: Defaults) {
        let Some(table) = table else {
            return self.add(first, Leaf::Answer(defaults.foreign));
        };
        self.add(first, Leaf::Answer(defaults.call));
        for (number, rules) in &table.rules {
            let leaf = match &rules[..] {
                [rule] if rule.conditions.is_empty() => Leaf::Answer(rule.answer),
                rules => Leaf::Rules(rules, table.abi, defaults.call),
            };
            self.add(*number, leaf);
            self.add(number + 1, Leaf::Answer(defaults.call));
        }
        if let Some(last) = table.last {
            self.add(last + 1, Leaf::Answer(defaults.newer));
        }
    }

    fn search(&self) -> Vec<sock_filter> {
        let mut program = vec![statement(LOAD, NUMBER)];
        program.extend(search(&self.0));
        program
    }
}

/// Finds the range of the number in the accumulator, by binary search.
fn search(ranges: &[(u32, Leaf<'_>)]) -> Vec<sock_filter> {
    match ranges {
        [] => Vec::new(),
        [(_, leaf)] => answer(*leaf),
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let first = upper.first().map_or(0, |(first, _)| *first);
            branch(IF_NOT_LESS, first, search(upper), search(lower))
        }
    }
}

fn answer(leaf: Leaf<'_>) -> Vec<sock_filter> {
    match leaf {
        Leaf::Answer(answer) => vec![statement(RETURN, answer)],
        Leaf::Rules(rules, abi, otherwise) => {
            let mut program = Vec::new();
            for rule in rules {
                program.extend(rule_program(rule, abi));
            }
            program.push(statement(RETURN, otherwise));
            program
        }
    }
}

/// Returns instructions that answer if all conditions are met, and otherwise fall through.
fn rule_program(rule: &Rule, abi: Abi) -> Vec<sock_filter> {
    // Built from the end, so that the distance to it is known.
    let mut program = vec![statement(RETURN, rule.answer)];
    for condition in rule.conditions.iter().rev() {
        let mut longer = condition_program(condition, abi, program.len() as u8);
        longer.extend(program);
        program = longer;
    }
    program
}

/// Returns instructions that fall through if the condition is met, and otherwise skip `rest` more.
/// A rule has at most six conditions of six instructions, so no jump is too long.
fn condition_program(condition: &Condition, abi: Abi, rest: u8) -> Vec<sock_filter> {
    let Condition {
        argument,
        comparison,
        value,
    } = *condition;
    let low = ARGUMENTS + 8 * argument;
    // The machine is little-endian.
    let high = low + 4;
    let (value_low, value_high) = (value as u32, (value >> 32) as u32);
    // The lengths of jumps that have `left` more instructions of the condition after them.
    let (met, failed) = (|left: u8| left, |left: u8| left + rest);
    let wide = abi.has_wide_arguments();
    let mut program = Vec::new();
    if let Comparison::Masked(mask) = comparison {
        let word = |at, shift: u32, left| {
            let (mask, value) = ((mask >> shift) as u32, ((value & mask) >> shift) as u32);
            [
                statement(LOAD, at),
                statement(AND, mask),
                jump(IF_EQUAL, value, 0, failed(left)),
            ]
        };
        if wide {
            program.extend(word(high, 32, 3));
        }
        program.extend(word(low, 0, 0));
        return program;
    }
    if wide {
        program.push(statement(LOAD, high));
        match comparison {
            Comparison::Equal => program.push(jump(IF_EQUAL, value_high, 0, failed(2))),
            Comparison::NotEqual => program.push(jump(IF_EQUAL, value_high, 0, met(2))),
            Comparison::Greater | Comparison::GreaterOrEqual => {
                program.push(jump(IF_GREATER, value_high, met(3), 0));
                program.push(jump(IF_EQUAL, value_high, 0, failed(2)));
            }
            Comparison::Less | Comparison::LessOrEqual => {
                program.push(jump(IF_GREATER, value_high, failed(3), 0));
                program.push(jump(IF_EQUAL, value_high, 0, met(2)));
            }
            Comparison::Masked(_) => {}
        }
    }
    program.push(statement(LOAD, low));
    program.push(match comparison {
        Comparison::NotEqual => jump(IF_EQUAL, value_low, failed(0), 0),
        Comparison::Greater => jump(IF_GREATER, value_low, 0, failed(0)),
        Comparison::GreaterOrEqual => jump(IF_NOT_LESS, value_low, 0, failed(0)),
        Comparison::Less => jump(IF_NOT_LESS, value_low, failed(0), 0),
        Comparison::LessOrEqual => jump(IF_GREATER, value_low, failed(0), 0),
        Comparison::Equal | Comparison::Masked(_) => jump(IF_EQUAL, value_low, 0, failed(0)),
    });
    program
}

/// Branches on a test. Both branches must end in an answer.
fn branch(
    test: u16,
    value: u32,
    met: Vec<sock_filter>,
    otherwise: Vec<sock_filter>,
) -> Vec<sock_filter> {
    let mut program = Vec::with_capacity(met.len() + otherwise.len() + 2);
    match u8::try_from(otherwise.len()) {
        Ok(distance) => program.push(jump(test, value, distance, 0)),
        // Only an unconditional jump goes that far.
        Err(_) => {
            program.push(jump(test, value, 0, 1));
            program.push(statement(JUMP, otherwise.len() as u32));
        }
    }
    program.extend(otherwise);
    program.extend(met);
    program
}

fn statement(code: u16, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
pub(super) mod tests;
