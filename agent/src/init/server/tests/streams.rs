//! Tests of a container's standard streams.

use super::*;

#[test]
fn output_and_status_arrive() {
    let mut host = Host::new();
    host.run("echo out; echo err >&2; exit 7");
    assert_eq!(host.exit(), 7);
    assert_eq!(host.read(2), "out\n");
    assert_eq!(host.read(3), "err\n");
    host.hang_up();
}

#[test]
fn output_and_errors_that_are_one_stream_keep_their_order() {
    let mut host = Host::new();
    let streams = Streams {
        stdout: Some(1),
        stderr: Some(1),
        ..Streams::default()
    };
    let script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done";
    host.create_with("c", &["sh", "-c", script], streams)
        .unwrap();
    host.start("c").unwrap();
    assert_eq!(host.exit(), 0);
    let lines = host.read(1);
    assert_eq!(lines, "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n");
    host.hang_up();
}

#[test]
fn nothing_runs_before_the_start() {
    let mut host = Host::new();
    host.create("c", "echo out", 1).unwrap();
    let stdout = host.streams[&2].try_clone().unwrap();
    let timeout = Duration::from_millis(100);
    stdout.set_read_timeout(Some(timeout)).unwrap();
    let error = (&stdout).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    stdout.set_read_timeout(Some(SOON)).unwrap();
    host.start("c").unwrap();
    assert_eq!(host.exit(), 0);
    assert_eq!(host.read(2), "out\n");
    host.hang_up();
}

#[test]
fn input_and_its_end_reach_the_workload() {
    let mut host = Host::new();
    host.run("wc -c");
    let mut stdin = host.streams.remove(&1).unwrap();
    stdin.write_all(&vec![b'x'; 3_000_000]).unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    assert_eq!(host.exit(), 0);
    assert_eq!(host.read(2).trim(), "3000000");
    host.hang_up();
}

#[test]
fn the_exit_waits_for_the_output() {
    let mut host = Host::new();
    host.run("head -c 1000000 /dev/zero");
    host.control
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let early = protocol::receive::<Event>(&mut host.control);
    assert!(early.is_err(), "{early:?} before the output was read");
    host.control.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(host.read(2).len(), 1_000_000);
    assert_eq!(host.exit(), 0);
    host.hang_up();
}

#[test]
fn a_process_left_behind_does_not_hold_the_output_open() {
    let mut host = Host::new();
    host.run("sleep 1000 & echo $!; exit 3");
    assert_eq!(host.exit(), 3);
    let left: i32 = host.read(2).trim().parse().unwrap();
    kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
    host.hang_up();
}

#[test]
fn a_host_that_closes_a_stream_early_costs_only_that() {
    let mut host = Host::new();
    host.create("c", "yes; echo $? >&2", 1).unwrap();
    host.streams.remove(&2);
    host.start("c").unwrap();
    assert_eq!(host.exit(), 0);
    // `yes` dies of SIGPIPE, or of the error where that is ignored.
    let said = host.read(3);
    assert!(said.contains("141") || said.contains('1'), "{said}");
    host.hang_up();
}
