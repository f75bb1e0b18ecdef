//! `process.terminal`.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixDatagram, UnixStream};

use nacre_agent::container::{CreateError, ExecError, ExecOptions, describe};
use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use nix::sys::wait::waitpid;
use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, null_stdio, text, wait_for_exit};
use crate::exec;

tests![
    the_workload_leads_a_session_at_its_terminal,
    the_console_is_the_terminal,
    the_master_goes_to_the_console_socket,
    a_process_started_later_has_a_terminal_of_its_own,
    a_socket_of_the_wrong_kind_gets_no_terminal,
    a_socket_without_a_terminal_is_refused,
    cve_2025_52565_a_dev_pts_of_the_image_makes_no_terminal,
    cve_2025_52565_a_dev_pts_of_the_workload_makes_no_terminal,
    cve_2025_52565_a_console_of_the_image_leads_nowhere,
];

fn bundle(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    bundle.config["process"]["terminal"] = json!(true);
    bundle
}

/// Runs it to its end with `input` typed at the start. Returns what its terminal shows.
fn run(bundle: &Bundle, input: &str) -> String {
    let mut container = bundle
        .create(null_stdio())
        .unwrap_or_else(|e| panic!("{}", describe(&e)));
    let mut master = File::from(container.take_terminal().unwrap());
    assert!(container.take_terminal().is_none());
    container.start().unwrap();
    master.write_all(input.as_bytes()).unwrap();
    let shown = read_all(master.as_fd());
    wait_for_exit(&container);
    container.destroy().unwrap();
    shown
}

/// Reads until the slave is closed everywhere.
pub(crate) fn read_all(master: impl AsFd) -> String {
    let mut master = File::from(master.as_fd().try_clone_to_owned().unwrap());
    let mut shown = Vec::new();
    loop {
        let mut fds = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(60_000_u16)).unwrap();
        assert_eq!(ready, 1, "{:?}", String::from_utf8_lossy(&shown));
        let mut some = [0; 1024];
        match master.read(&mut some) {
            Ok(count) => shown.extend(&some[..count]),
            // Terminals report this as EIO.
            Err(_) => break,
        }
    }
    String::from_utf8(shown).unwrap().replace("\r\n", "\n")
}

fn the_workload_leads_a_session_at_its_terminal() -> Result<(), Skipped> {
    let script = "for fd in 0 1 2; do readlink /proc/self/fd/$fd; done
        echo to the tty > /dev/tty
        read pid name state ppid group session tty foreground rest < /proc/self/stat
        test $$ = $session && test $group = $foreground && echo leader
        exec ls /proc/self/fd";
    let shown = run(&bundle(script), "");
    // The fourth is the descriptor of the directory being listed.
    assert_eq!(
        shown,
        "/dev/pts/0\n/dev/pts/0\n/dev/pts/0\nto the tty\nleader\n0  1  2  3\n"
    );
    Ok(())
}

fn the_console_is_the_terminal() -> Result<(), Skipped> {
    let script = "echo to the console > /dev/console
        stat -c '%F %t:%T' /dev/console /dev/pts/0
        grep -c ' /dev/console ' /proc/self/mountinfo";
    let device = "character special file 88:0\n";
    let expected = format!("to the console\n{device}{device}1\n");
    let mut bundle = bundle(script);
    assert_eq!(run(&bundle, ""), expected);
    // The console is made before anything becomes read-only.
    bundle.config["root"]["readonly"] = json!(true);
    assert_eq!(run(&bundle, ""), expected);
    Ok(())
}

fn the_master_goes_to_the_console_socket() -> Result<(), Skipped> {
    let bundle = bundle("echo hello");
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut container = bundle
        .create_with(null_stdio(), |o| o.console_socket = Some(theirs.into()))
        .unwrap();
    assert!(container.take_terminal().is_none());
    let master = receive_master(&ours);
    container.start().unwrap();
    assert_eq!(read_all(&master), "hello\n");
    wait_for_exit(&container);
    container.destroy().unwrap();
    Ok(())
}

fn a_process_started_later_has_a_terminal_of_its_own() -> Result<(), Skipped> {
    let bundle = bundle("sleep 60");
    let mut container = bundle.create(null_stdio()).unwrap();
    let first = container.take_terminal().unwrap();
    container.start().unwrap();
    let script = "tty; echo to the tty > /dev/tty; stty size; stat -c %u $(tty)";
    let mut process = bundle.config["process"].clone();
    process["args"] = json!(["sh", "-c", script]);
    process["user"] = json!({"uid": 1000, "gid": 1000});
    process["consoleSize"] = json!({"height": 33, "width": 101});
    let options = ExecOptions::new(null_stdio());
    let executed = exec::start(&bundle, &container, &process, options).unwrap();
    let shown = read_all(executed.terminal.as_ref().unwrap());
    assert_eq!(shown, "/dev/pts/1\nto the tty\n33 101\n1000\n");
    waitpid(executed.pid, None).unwrap();
    drop(executed);

    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut options = ExecOptions::new(null_stdio());
    options.console_socket = Some(theirs.into());
    let executed = exec::start(&bundle, &container, &process, options).unwrap();
    assert!(executed.terminal.is_none());
    let shown = read_all(receive_master(&ours));
    assert!(shown.starts_with("/dev/pts/1\n"), "{shown}");
    waitpid(executed.pid, None).unwrap();

    let mut options = ExecOptions::new(null_stdio());
    options.console_socket = Some(tempfile::tempfile().unwrap().into());
    let error = exec::start(&bundle, &container, &process, options).unwrap_err();
    assert!(matches!(error, ExecError::ConsoleSocket(_)), "{error}");
    container.destroy().unwrap();
    drop(first);
    Ok(())
}

/// Receives what was sent to a console socket.
fn receive_master(socket: &UnixStream) -> OwnedFd {
    let mut name = [0; 64];
    let mut parts = [IoSliceMut::new(&mut name)];
    let mut space = cmsg_space!([i32; 1]);
    let flags = MsgFlags::MSG_DONTWAIT;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags).unwrap();
    let Some(ControlMessageOwned::ScmRights(fds)) = received.cmsgs().unwrap().next() else {
        panic!("no descriptor came");
    };
    assert_eq!(fds.len(), 1);
    let length = received.bytes;
    assert_eq!(&name[..length], b"/dev/ptmx");
    // SAFETY: it was just received.
    unsafe { OwnedFd::from_raw_fd(fds[0]) }
}

fn error(bundle: &Bundle, socket: OwnedFd) -> String {
    let result = bundle.create_with(null_stdio(), |o| o.console_socket = Some(socket));
    let error = result.map(|container| container.destroy()).unwrap_err();
    assert!(matches!(error, CreateError::ConsoleSocket(_)), "{error}");
    describe(&error)
}

fn a_socket_of_the_wrong_kind_gets_no_terminal() -> Result<(), Skipped> {
    let bundle = bundle("true");
    let (unix, stream, none) = (AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty());
    let (packets, _other) = socketpair(unix, stream, None, none).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let datagrams = UnixDatagram::unbound().unwrap();
    for socket in [packets, tcp.into(), datagrams.into()] {
        let words = "the console socket is of the wrong kind: it must be an AF_UNIX socket";
        let message = error(&bundle, socket);
        assert!(message.starts_with(words), "{message}");
    }
    let file = tempfile::tempfile().unwrap();
    assert_eq!(
        error(&bundle, file.into()),
        "the console socket isn't a socket that can be used: Socket operation on non-socket (os error 88)"
    );
    // The socket's other end is closed.
    let (alone, _) = UnixStream::pair().unwrap();
    let message = error(&bundle, alone.into());
    assert!(message.contains("doesn't take the terminal"), "{message}");
    Ok(())
}

fn a_socket_without_a_terminal_is_refused() -> Result<(), Skipped> {
    let (socket, _other) = UnixStream::pair().unwrap();
    let message = error(&Bundle::new("true"), socket.into());
    assert_eq!(
        message,
        "the console socket has no use: process.terminal is false"
    );
    Ok(())
}

// CVE-2025-52565.
fn cve_2025_52565_a_dev_pts_of_the_image_makes_no_terminal() -> Result<(), Skipped> {
    let mut bundle = bundle("true");
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
    let dev = bundle.at("dev");
    fs::create_dir(&dev).unwrap();
    let fails = |bundle: &Bundle, words: &str| {
        let (message, _) = bundle.error();
        assert!(message.contains(words), "{message}");
    };
    fails(&bundle, "/dev/pts in the container");
    symlink("/proc", dev.join("pts")).unwrap();
    fails(&bundle, "isn't a devpts file system");
    fs::remove_file(dev.join("pts")).unwrap();
    fs::create_dir(dev.join("pts")).unwrap();
    fs::write(dev.join("pts/ptmx"), "").unwrap();
    fails(&bundle, "isn't a devpts file system");
    // A real devpts, in which something covers the device.
    let fake = bundle.beside("fake");
    fs::write(&fake, "").unwrap();
    bundle.mount(
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                        "options": ["newinstance", "ptmxmode=0666"]}),
    );
    bundle
        .mount(json!({"destination": "/dev/pts/ptmx", "source": text(&fake), "options": ["bind"]}));
    fails(&bundle, "\"/dev/pts/ptmx\" is there already");
    Ok(())
}

// CVE-2025-52565, for a process that is started later.
fn cve_2025_52565_a_dev_pts_of_the_workload_makes_no_terminal() -> Result<(), Skipped> {
    for (cover, words) in [
        (
            "mount -o bind /dev/null /dev/pts/ptmx",
            "\"/dev/pts/ptmx\" is there already",
        ),
        ("mount -t tmpfs t /dev/pts", "isn't a devpts file system"),
        ("umount /dev/pts", "isn't a devpts file system"),
    ] {
        let mut bundle = Bundle::new(&format!("{cover} && echo ready && sleep 60"));
        bundle.all_capabilities();
        let mut running = bundle.start();
        running.wait_for("ready");
        let mut process = bundle.config["process"].clone();
        process["terminal"] = json!(true);
        let options = ExecOptions::new(null_stdio());
        let error = exec::start(&bundle, running.container(), &process, options).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    Ok(())
}

// CVE-2025-52565.
fn cve_2025_52565_a_console_of_the_image_leads_nowhere() -> Result<(), Skipped> {
    let mut bundle = bundle("cat /secret; ls -l /dev/console");
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| m["destination"] != "/dev" && m["destination"] != "/dev/mqueue");
    fs::create_dir(bundle.at("dev")).unwrap();
    fs::write(bundle.at("secret"), "secret").unwrap();
    for target in ["/secret", "/new", "/proc/self/attr/current", "pts/0"] {
        symlink(target, bundle.at("dev/console")).unwrap();
        let (message, _) = bundle.error();
        let words = "process.terminal: /dev/console in the container is a symbolic link";
        assert_eq!(message, words);
        fs::remove_file(bundle.at("dev/console")).unwrap();
    }
    assert!(!bundle.at("new").exists());
    // A file there is covered, and stays as it was.
    fs::write(bundle.at("dev/console"), "as it was").unwrap();
    let shown = run(&bundle, "");
    assert!(shown.starts_with("secretcrw"), "{shown}");
    assert_eq!(fs::read(bundle.at("dev/console")).unwrap(), b"as it was");
    Ok(())
}
