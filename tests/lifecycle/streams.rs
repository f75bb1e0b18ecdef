//! Standard input, output and error.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nacre_tests::{Case, leftovers};

nacre_tests::tests![
    output_and_error_stay_apart,
    bytes_pass_unchanged,
    input_ends_when_it_ends,
    an_open_input_doesnt_keep_a_container_that_ended,
    a_hundred_megabytes_arrive,
    twenty_megabytes_go_through_both_ways,
    a_slow_reader_slows_the_writer_and_loses_nothing,
    a_reader_that_leaves_ends_the_writer,
    output_goes_to_a_file,
    output_of_a_fast_end_isnt_lost,
];

fn output_and_error_stay_apart(case: &Case) {
    let bundle = case
        .busybox()
        .shell("echo out; echo err >&2; echo out again; echo err again >&2");
    let outcome = case.run(&bundle);
    assert_eq!(outcome.expect(0), "out\nout again\n");
    assert_eq!(outcome.stderr, "err\nerr again\n");
}

fn bytes_pass_unchanged(case: &Case) {
    let all: Vec<u8> = (0..=255).cycle().take(1024).collect();
    let mut running = case.start(&case.busybox().args(["cat"]));
    running.stdin.take().unwrap().write_all(&all).unwrap();
    let outcome = running.finish();
    outcome.expect(0);
    assert!(outcome.stdout == all);
}

fn input_ends_when_it_ends(case: &Case) {
    let bundle = case.busybox().shell("wc -c; echo after the end");
    let mut running = case.start(&bundle);
    running.stdin.take().unwrap().write_all(b"12345").unwrap();
    assert_eq!(running.finish().ok(), "5\nafter the end\n");

    let mut command = case.nacre();
    command.args(["run", "--bundle"]).arg(bundle.write());
    command.arg(case.id()).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "0\nafter the end\n"
    );
}

fn an_open_input_doesnt_keep_a_container_that_ended(case: &Case) {
    let mut running = case.start(&case.busybox().shell("exit 3"));
    let input = running.stdin.take();
    running.finish().expect(3);
    drop(input);
}

fn a_hundred_megabytes_arrive(case: &Case) {
    const SIZE: usize = 100_000_000;
    let bundle = case
        .busybox()
        .shell("yes 'every byte of it' | head -c 100000000");
    let outcome = case.run(&bundle);
    outcome.expect(0);
    assert_eq!(outcome.stdout.len(), SIZE);
    let line = b"every byte of it\n";
    let wrong = outcome
        .stdout
        .chunks(line.len())
        .position(|chunk| chunk != &line[..chunk.len()]);
    assert_eq!(wrong, None, "the first wrong line");
}

fn twenty_megabytes_go_through_both_ways(case: &Case) {
    let sent = noise(20_000_000);
    let mut running = case.start(&case.busybox().args(["cat"]));
    let mut stdin = running.stdin.take().unwrap();
    let data = sent.clone();
    let writer = thread::spawn(move || stdin.write_all(&data).unwrap());
    let outcome = running.finish();
    writer.join().unwrap();
    outcome.expect(0);
    assert_eq!(outcome.stdout.len(), sent.len());
    assert!(outcome.stdout == sent, "the bytes differ");
}

/// Returns bytes without a pattern (xorshift64).
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

fn a_slow_reader_slows_the_writer_and_loses_nothing(case: &Case) {
    const SIZE: usize = 64_000_000;
    let bundle = case
        .busybox()
        .shell("echo ready; yes 0123456789abcde | head -c 64000000; echo written >&2; exit 5");
    let mut running = case.start(&bundle);
    running.wait_for_line("ready");
    thread::sleep(Duration::from_secs(3));
    // Counts the processes' private memory, which doesn't include the guest's memory.
    let resident: u64 = leftovers::processes_of_nacre(case.id())
        .iter()
        .map(|pid| anonymous_memory(pid.as_raw()))
        .sum();
    assert!(resident > 0);
    assert!(resident < 32 << 10, "{resident} KiB while nobody reads");
    assert!(running.is_running());

    let mut stdout = running.stdout.take().unwrap();
    let mut received: Vec<u8> = Vec::with_capacity(SIZE);
    let mut chunk = [0; 65536];
    loop {
        let n = stdout.read(&mut chunk).unwrap();
        if n == 0 {
            break;
        }
        received.extend(&chunk[..n]);
        if received.len() < 2 << 20 {
            thread::sleep(Duration::from_millis(20));
        }
    }
    assert_eq!(received.len(), SIZE);
    assert!(received.chunks(16).all(|line| line == b"0123456789abcde\n"));
    let outcome = running.finish();
    outcome.expect(5);
    assert_eq!(outcome.stderr, "written\n");
}

/// Returns a process's anonymous memory in KiB.
fn anonymous_memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn a_reader_that_leaves_ends_the_writer(case: &Case) {
    let bundle = case.busybox().shell("echo ready; yes; echo $? >&2");
    let mut running = case.start(&bundle);
    running.wait_for_line("ready");
    drop(running.stdout.take());
    let outcome = running.finish();
    // `yes` dies of SIGPIPE, or sees its write fail and exits with 1.
    assert!(
        ["141\n", "1\n"]
            .iter()
            .any(|status| outcome.stderr.ends_with(status)),
        "standard error: {}",
        outcome.stderr
    );
    outcome.expect(0);
}

fn output_goes_to_a_file(case: &Case) {
    let path = case.directory().join("output");
    let bundle = case.busybox().shell("echo in a file");
    let mut command = case.nacre();
    command.args(["run", "--bundle"]).arg(bundle.write());
    command.arg(case.id());
    let status = command
        .stdout(File::create(&path).unwrap())
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read_to_string(path).unwrap(), "in a file\n");
}

fn output_of_a_fast_end_isnt_lost(case: &Case) {
    // Writes a pipe's worth of output and ends right after it.
    let bundle = case
        .busybox()
        .shell("head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2");
    let outcome = case.run(&bundle);
    outcome.expect(0);
    assert_eq!(outcome.stdout.len(), 300_000);
    assert_eq!(outcome.stderr.len(), 300_000);
}
