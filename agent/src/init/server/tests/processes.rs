//! Tests of further processes in a container, and of terminals.

use nacre_agent::protocol::WindowSize;

use super::*;

#[test]
fn a_further_process_has_streams_and_a_status_of_its_own() {
    let mut host = Host::new();
    host.run("exec sleep 1000");
    let answer = host.exec(7, "cat; echo err >&2; exit 5", 4).unwrap();
    assert!(matches!(answer, Answer::Executed { pid } if pid > 1));
    host.exec(7, "true", 7).unwrap_err();
    let mut stdin = host.streams.remove(&4).unwrap();
    stdin.write_all(b"hello").unwrap();
    stdin.shutdown(Shutdown::Write).unwrap();
    assert_eq!(host.process_exit(), (7, 5));
    assert_eq!(host.read(5), "hello");
    assert_eq!(host.read(6), "err\n");
    host.signal(libc::SIGTERM, Target::Process(7)).unwrap_err();
    host.signal(libc::SIGKILL, Target::First).unwrap();
    assert_eq!(host.exit(), 137);
    host.hang_up();
}

#[test]
fn the_end_of_a_further_process_is_told_after_its_output() {
    let mut host = Host::new();
    host.run("exec sleep 1000");
    host.exec(1, "head -c 1000000 /dev/zero", 4).unwrap();
    thread::sleep(Duration::from_millis(100));
    // The answer comes first, since nobody has read the output.
    host.signal(libc::SIGKILL, Target::First).unwrap();
    assert_eq!(host.exit(), 137);
    assert_eq!(host.read(5).len(), 1_000_000);
    assert_eq!(host.process_exit(), (1, 0));
    host.hang_up();
}

#[test]
fn a_further_process_is_signalled_alone() {
    let mut host = Host::new();
    host.run("exec sleep 1000");
    for number in [1, 2] {
        let sleep = ["sleep", "1000"];
        host.exec_with(number, &sleep, Streams::default()).unwrap();
    }
    // A realtime signal too.
    host.signal(40, Target::Process(2)).unwrap();
    assert_eq!(host.process_exit(), (2, 168));
    host.signal(libc::SIGTERM, Target::Process(1)).unwrap();
    assert_eq!(host.process_exit(), (1, 143));
    host.signal(libc::SIGTERM, Target::Process(3)).unwrap_err();
    host.signal(libc::SIGTERM, Target::First).unwrap();
    assert_eq!(host.exit(), 143);
    host.hang_up();
}

#[test]
fn further_processes_need_a_container_and_a_program() {
    let mut host = Host::new();
    assert!(host.exec(1, "true", 1).is_err());
    host.run("exec sleep 1000");
    let missing = host.exec_with(1, &["/missing"], Streams::default());
    assert_eq!(missing.unwrap_err().status, 127);
    for number in 0..MAX_PROCESSES as u32 {
        let sleep = ["sleep", "1000"];
        host.exec_with(number, &sleep, Streams::default()).unwrap();
    }
    let one_more = host.exec_with(1000, &["true"], Streams::default());
    assert!(one_more.unwrap_err().message.contains("128 processes"));
    for number in 0..MAX_PROCESSES as u32 {
        let kill = Target::Process(number);
        host.signal(libc::SIGKILL, kill).unwrap();
        assert_eq!(host.process_exit(), (number, 137));
    }
    let one_more = host.exec_with(1000, &["true"], Streams::default());
    assert!(one_more.is_ok());
    assert_eq!(host.process_exit(), (1000, 0));
    host.signal(libc::SIGKILL, Target::First).unwrap();
    assert_eq!(host.exit(), 137);
    host.hang_up();
}

#[test]
fn a_terminal_is_typed_at_shown_and_resized() {
    let mut host = Host::new();
    host.run("exec sleep 1000");
    let streams = Streams {
        terminal: Some(4),
        ..Streams::default()
    };
    let script = "stty -echo; echo ready; read a; stty size; echo got $a; exit 3";
    host.exec_with(1, &["sh", "-c", script], streams).unwrap();
    let mut terminal = host.streams[&4].try_clone().unwrap();
    let mut ready = [0; 7];
    terminal.read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\r\n");
    let size = WindowSize {
        rows: 33,
        columns: 77,
    };
    let resize = |process| Request::Resize {
        id: "c".to_owned(),
        process,
        size,
    };
    host.ask(&resize(Some(1))).unwrap();
    host.ask(&resize(None)).unwrap_err();
    host.ask(&resize(Some(2))).unwrap_err();
    terminal.write_all(b"this\n").unwrap();
    assert_eq!(host.process_exit(), (1, 3));
    assert_eq!(host.read(4), "33 77\r\ngot this\r\n");
    host.signal(libc::SIGKILL, Target::First).unwrap();
    assert_eq!(host.exit(), 137);
    host.hang_up();
}

#[test]
fn a_host_that_closes_a_terminal_hangs_up() {
    let mut host = Host::new();
    host.run("exec sleep 1000");
    for (number, port, typed) in [(1, 4, 0), (2, 5, 1 << 20)] {
        let streams = Streams {
            terminal: Some(port),
            ..Streams::default()
        };
        // The terminal of a process that reads nothing of what is typed is full at some point.
        let script = "stty raw; echo x; exec sleep 1000";
        host.exec_with(number, &["sh", "-c", script], streams)
            .unwrap();
        let mut terminal = host.streams.remove(&port).unwrap();
        terminal.read_exact(&mut [0]).unwrap();
        terminal.set_nonblocking(true).unwrap();
        let mut left: usize = typed;
        let mut idle = 0;
        while left > 0 && idle < 50 {
            match terminal.write(&[b'x'; 4096]) {
                Ok(written) => left = left.saturating_sub(written),
                Err(_) => {
                    idle += 1;
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
        drop(terminal);
        let hung_up = 128 + libc::SIGHUP as u8;
        assert_eq!(host.process_exit(), (number, hung_up));
    }
    host.signal(libc::SIGKILL, Target::First).unwrap();
    assert_eq!(host.exit(), 137);
    host.hang_up();
}
