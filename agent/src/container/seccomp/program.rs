//! A filter's program for the kernel's packet filter machine
//! ([seccomp(2)](https://man7.org/linux/man-pages/man2/seccomp.2.html)).
//!
//! libseccomp could write it too, but takes 12 ms for Docker's default profile, more than all
//! the rest of a container's start. Its programs look at one system call's number after the
//! other, where these search by halves; what they answer is the same, which a test makes sure
//! of.

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

/// What a filter answers: one of `SECCOMP_RET_*`, with its data.
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

/// What must be so of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u32,
    pub(super) comparison: Comparison,
    pub(super) value: u64,
}

/// An answer, if all conditions are met.
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
    /// The largest number that was spoken of.
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

    /// Notes that the profile knows of a system call.
    pub(super) fn mention(&mut self, number: u32) {
        self.last = self.last.max(Some(number));
    }

    /// Adds a rule for a system call. As libseccomp has it, one without conditions takes the
    /// place of those with conditions, and nothing takes its place. Of several whose
    /// conditions are met, the first counts.
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
    /// For one that is newer than all that the profile speaks of.
    pub(super) newer: Answer,
    /// For all of a kind that isn't in the filter.
    pub(super) foreign: Answer,
}

/// The whole program. There must be a table of x86-64.
pub(super) fn assemble(tables: &[Table], defaults: Defaults) -> Vec<sock_filter> {
    let of = |abi| tables.iter().find(|table| table.abi == abi);
    // Both have the same mark, and are told apart by the number alone.
    let mut long = Ranges::default();
    long.add_table(0, of(Abi::X86_64), defaults);
    long.add_table(X32_BIT, of(Abi::X32), defaults);
    // What a tracer replaces a system call by to have it skipped.
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

/// A system call that is let through: its number, and perhaps what one of its arguments must be.
pub(in super::super) type Call = (u32, Option<(u32, u64)>);

/// A program that allows `calls` of this machine's own kind if they come with `key` as their sixth
/// argument, and does as `program` for all else.
pub(in super::super) fn let_through(
    calls: &[Call],
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

/// What is answered for a range of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf<'a> {
    Answer(Answer),
    /// The first that applies, or else an answer.
    Rules(&'a [Rule], Abi, Answer),
}

/// Ranges of numbers without gaps, by their first.
#[derive(Default)]
struct Ranges<'a>(Vec<(u32, Leaf<'a>)>);

impl<'a> Ranges<'a> {
    /// Begins a range, which must be after all others.
    fn add(&mut self, first: u32, leaf: Leaf<'a>) {
        // It takes the place of one that turns out to be empty.
        self.0.pop_if(|(last, _)| *last == first);
        if self.0.last().is_none_or(|(_, last)| *last != leaf) {
            self.0.push((first, leaf));
        }
    }

    /// The ranges of a table whose numbers begin at `first`.
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

/// Finds the range that the number in the accumulator lies in, by halves.
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

/// Answers if all conditions are met, and goes on behind itself if not.
fn rule_program(rule: &Rule, abi: Abi) -> Vec<sock_filter> {
    // From the end, so that it is known how far away that is.
    let mut program = vec![statement(RETURN, rule.answer)];
    for condition in rule.conditions.iter().rev() {
        let mut longer = condition_program(condition, abi, program.len() as u8);
        longer.extend(program);
        program = longer;
    }
    program
}

/// Goes on behind itself if the condition is met, and `rest` instructions further if not.
/// There are at most six conditions of six instructions to a rule, so that no jump is too far.
fn condition_program(condition: &Condition, abi: Abi, rest: u8) -> Vec<sock_filter> {
    let Condition {
        argument,
        comparison,
        value,
    } = *condition;
    let low = ARGUMENTS + 8 * argument;
    // The machine is a little-endian one.
    let high = low + 4;
    let (value_low, value_high) = (value as u32, (value >> 32) as u32);
    // Where a jump goes that has `left` more instructions of the condition behind it.
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

/// Goes one way or the other. Both must end in an answer.
fn branch(
    test: u16,
    value: u32,
    met: Vec<sock_filter>,
    otherwise: Vec<sock_filter>,
) -> Vec<sock_filter> {
    let mut program = Vec::with_capacity(met.len() + otherwise.len() + 2);
    match u8::try_from(otherwise.len()) {
        Ok(distance) => program.push(jump(test, value, distance, 0)),
        // Only a jump without a condition goes that far.
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
pub(super) mod tests {
    use super::*;

    /// What a program answers: the machine, as far as it is used.
    pub(in super::super) fn run(
        program: &[sock_filter],
        arch: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> Answer {
        let mut data = vec![number, arch, 0, 0];
        data.extend(arguments.iter().flat_map(|a| [*a as u32, (a >> 32) as u32]));
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let test = |met| usize::from(if met { jt } else { jf });
            match code {
                LOAD => accumulator = data[k as usize / 4],
                AND => accumulator &= k,
                JUMP => at += k as usize,
                IF_EQUAL => at += test(accumulator == k),
                IF_GREATER => at += test(accumulator > k),
                IF_NOT_LESS => at += test(accumulator >= k),
                RETURN => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    const DEFAULTS: Defaults = Defaults {
        call: 1,
        newer: 2,
        foreign: 3,
    };

    fn plain(answer: Answer) -> Rule {
        Rule {
            conditions: Vec::new(),
            answer,
        }
    }

    #[test]
    fn every_number_gets_its_answer() {
        let mut table = Table::new(Abi::X86_64);
        // Many and far apart, so that there are jumps over more than 255 instructions.
        for number in (0..2000).step_by(2) {
            table.add(number, plain(100 + number));
            table.mention(number);
        }
        let program = assemble(&[table], DEFAULTS);
        let answer = |number| run(&program, AUDIT_ARCH_X86_64, number, [0; 6]);
        for number in (0..2000).step_by(2) {
            assert_eq!(answer(number), 100 + number);
        }
        assert_eq!(answer(1), 1);
        assert_eq!(answer(1997), 1);
        assert_eq!(answer(1999), 2);
        assert_eq!(answer(X32_BIT - 1), 2);
        assert_eq!(answer(X32_BIT), 3);
        assert_eq!(answer(u32::MAX - 1), 3);
        assert_eq!(answer(u32::MAX), 1, "a tracer's");
        assert_eq!(run(&program, AUDIT_ARCH_I386, 4, [0; 6]), 3);
        assert_eq!(run(&program, 0xc000_00b7, 4, [0; 6]), 3);
    }

    #[test]
    fn only_who_has_the_key_gets_through() {
        let key = 0x1234_5678_9abc_def0;
        let calls = [(7, None), (9, Some((1, 1 << 32))), (300, Some((0, 0)))];
        let program = assemble(&[Table::new(Abi::X86_64)], DEFAULTS);
        let program = let_through(&calls, key, program);
        let answer = |arch, number, key| run(&program, arch, number, [0, 1 << 32, 0, 0, 0, key]);
        for (number, _) in calls {
            assert_eq!(
                answer(AUDIT_ARCH_X86_64, number, key),
                libc::SECCOMP_RET_ALLOW
            );
            for wrong in [0, key + 1, key ^ 1 << 32, key as u32 as u64] {
                assert_eq!(answer(AUDIT_ARCH_X86_64, number, wrong), DEFAULTS.call);
            }
            assert_eq!(answer(AUDIT_ARCH_I386, number, key), DEFAULTS.foreign);
        }
        assert_eq!(answer(AUDIT_ARCH_X86_64, 8, key), DEFAULTS.call);
        for (number, arguments) in [(9, [0, 0]), (9, [1 << 32, 0]), (300, [1, 1 << 32])] {
            let arguments = [arguments[0], arguments[1], 0, 0, 0, key];
            let answer = run(&program, AUDIT_ARCH_X86_64, number, arguments);
            assert_eq!(answer, DEFAULTS.call, "{number} with other arguments");
        }
    }

    #[test]
    fn a_few_ranges_make_a_short_program() {
        let mut table = Table::new(Abi::X86_64);
        for number in 0..300 {
            table.add(number, plain(7));
        }
        // Two to load, one to tell the machine, five ranges and four tests, two foreign ones.
        assert!(assemble(&[table], DEFAULTS).len() <= 16);
    }

    #[test]
    fn comparisons_are_of_whole_words() {
        use Comparison::*;
        let words = [
            0,
            1,
            0x7fff_ffff,
            0xffff_ffff,
            0x1_0000_0000,
            0x1_0000_0001,
            0xffff_ffff_0000_0000,
            u64::MAX,
        ];
        for comparison in [
            NotEqual,
            Less,
            LessOrEqual,
            Equal,
            GreaterOrEqual,
            Greater,
            Masked(0x1_0000_0001),
            Masked(u64::MAX),
        ] {
            for abi in [Abi::X86_64, Abi::I386] {
                for value in words {
                    let mut tables = [Table::new(Abi::X86_64), Table::new(Abi::I386)];
                    let condition = |argument| Condition {
                        argument,
                        comparison,
                        value,
                    };
                    let rule = Rule {
                        conditions: (0..6).map(condition).collect(),
                        answer: 9,
                    };
                    for table in &mut tables {
                        table.add(5, rule.clone());
                    }
                    let program = assemble(&tables, DEFAULTS);
                    let (arch, width) = match abi {
                        Abi::I386 => (AUDIT_ARCH_I386, u64::from(u32::MAX)),
                        _ => (AUDIT_ARCH_X86_64, u64::MAX),
                    };
                    for argument in words.map(|w| w & width) {
                        let value = value & width;
                        let met = match comparison {
                            NotEqual => argument != value,
                            Less => argument < value,
                            LessOrEqual => argument <= value,
                            Equal => argument == value,
                            GreaterOrEqual => argument >= value,
                            Greater => argument > value,
                            Masked(mask) => argument & mask & width == value & mask,
                        };
                        let answer = run(&program, arch, 5, [argument; 6]);
                        let expected = if met { 9 } else { 1 };
                        assert_eq!(
                            answer, expected,
                            "{comparison:?} {value:#x} {argument:#x} {abi:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn of_several_rules_the_first_that_is_met_counts() {
        let rule = |argument, value, answer| Rule {
            conditions: vec![Condition {
                argument,
                comparison: Comparison::Equal,
                value,
            }],
            answer,
        };
        let mut table = Table::new(Abi::X86_64);
        table.add(5, rule(0, 1, 10));
        table.add(5, rule(1, 1, 11));
        let program = assemble(&[table], DEFAULTS);
        let answer = |a, b| run(&program, AUDIT_ARCH_X86_64, 5, [a, b, 0, 0, 0, 0]);
        assert_eq!(
            [answer(1, 1), answer(1, 0), answer(0, 1), answer(0, 0)],
            [10, 10, 11, 1]
        );

        let mut table = Table::new(Abi::X86_64);
        for rule in [rule(0, 1, 10), plain(11), rule(0, 1, 12), plain(13)] {
            table.add(5, rule);
        }
        let program = assemble(&[table], DEFAULTS);
        let answer = |a| run(&program, AUDIT_ARCH_X86_64, 5, [a; 6]);
        assert_eq!([answer(1), answer(0)], [11, 11]);
    }
}
