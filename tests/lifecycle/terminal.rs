//! `nacre run` at a terminal, which its container inherits as its standard streams.

use std::io::Write;

use nacre_tests::Case;
use nacre_tests::console::in_shell;

nacre_tests::tests![ctrl_c_arrives_once_and_the_terminal_comes_back];

fn ctrl_c_arrives_once_and_the_terminal_comes_back(case: &Case) {
    // Busybox's `read` doesn't notice a signal that comes right before it waits; the shell notices
    // it one second later.
    let bundle = case.busybox().shell(
        "n=0; trap 'n=$((n+1)); echo interrupted $n' INT
         echo ready
         until read -t 1 line; do :; done
         echo the line is $line; exit $n",
    );
    let mut nacre = case.nacre();
    nacre.args(["run", "--bundle"]).arg(bundle.write());
    nacre.arg(case.id());
    // Ctrl-C reaches the shell too: with its trap any shell goes on.
    let session = format!(
        "trap : INT; stty -onlcr -echo; {}; echo status $?; read line; echo the shell reads $line",
        in_shell(&nacre)
    );
    let mut running = case.at_a_terminal(&session);
    running.wait_for_line("ready");
    let mut keyboard = running.stdin.take().unwrap();
    keyboard.write_all(b"\x03").unwrap();
    running.wait_for_line("interrupted 1");
    keyboard.write_all(b"one\n").unwrap();
    running.wait_for_line("the line is one");
    running.wait_for_line("status 1");
    keyboard.write_all(b"two\n").unwrap();
    running.wait_for_line("the shell reads two");
    drop(keyboard);
    running.finish().expect(0);
}
