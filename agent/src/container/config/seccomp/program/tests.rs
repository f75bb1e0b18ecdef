use super::*;

/// Runs a program and returns its answer: the machine, as far as it is used.
pub(crate) fn run(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> Answer {
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
