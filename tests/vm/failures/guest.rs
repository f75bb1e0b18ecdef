//! Guests that fail: their kernel panics, their agent ends or stands still, their memory is used up.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nacre_tests::{Bundle, Case, nacre};
use serde_json::json;

use super::failure;
use crate::lifecycle::status::own_namespaces_but;

nacre_tests::tests![
    a_guest_that_panics,
    a_guest_whose_agent_ends,
    a_guest_that_reboots,
    a_panic_is_in_the_state,
    a_panic_before_the_start,
    a_panic_during_an_exec,
    the_agent_cant_be_killed,
    the_guest_runs_out_of_memory,
    a_frozen_guest,
    a_frozen_guest_is_in_the_state,
];

/// Makes a bundle whose processes see the guest's init and may do anything to it and its kernel. The
/// guest is small: using all its memory takes long where KVM itself is emulated.
fn mighty(case: &Case) -> Bundle {
    let capabilities = json!(["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    case.busybox()
        .annotation("dev.nacre.vm.memory", "64M")
        .set("/linux/namespaces", own_namespaces_but("pid"))
        .set("/linux/maskedPaths", json!([]))
        .set("/linux/readonlyPaths", json!([]))
        .set("/process/capabilities/bounding", capabilities.clone())
        .set("/process/capabilities/permitted", capabilities.clone())
        .set("/process/capabilities/effective", capabilities)
}

/// Returns a script that overwrites all code in the memory of the guest's init with the output of
/// `what`. When the process that does it ends, init runs; it may also run at any time before, which
/// is why the end of its code is written first.
fn overwriting_init(what: &str) -> String {
    format!(
        "range=$(grep ' r-xp ' /proc/1/maps | head -n 1 | cut -d' ' -f1)
         from=$((0x${{range%-*}})); to=$((0x${{range#*-}})); size=$((to - from))
         {what} >/dev/shm/code
         at=$((size / 4096)); count=64
         while [ $at -gt 0 ]; do
             [ $at -ge $count ] || count=$at
             at=$((at - count))
             dd if=/dev/shm/code of=/proc/1/mem bs=4096 count=$count skip=$at \
                 seek=$((from / 4096 + at)) conv=notrunc 2>/dev/null
         done"
    )
}

/// Returns a script that overwrites init with no-ops, up to a jump to itself.
fn freezing_init() -> String {
    overwriting_init(r"{ head -c $((size - 2)) /dev/zero | tr '\0' '\220'; printf '\353\376'; }")
}

/// Returns a script that overwrites init with no-ops, up to `exit(3)`.
fn ending_init() -> String {
    overwriting_init(
        r"{ head -c $((size - 12)) /dev/zero | tr '\0' '\220'
            printf '\277\003\000\000\000\270\074\000\000\000\017\005'; }",
    )
}

/// Makes the kernel panic: it runs out of memory while it may not kill anything for that.
const PANICKING: &str =
    "echo 2 >/proc/sys/vm/panic_on_oom; dd if=/dev/zero of=/dev/null bs=1G count=1";

fn a_guest_that_panics(case: &Case) {
    let message = case.run(&mighty(case).shell(PANICKING)).refused(1);
    assert!(message.contains("Kernel panic - not syncing"), "{message}");
    assert!(message.contains("panic_on_oom"), "its reason: {message}");
}

/// The agent can't be killed, but it can be broken; its kernel panics then.
fn a_guest_whose_agent_ends(case: &Case) {
    for (script, status) in [
        (ending_init(), "exitcode=0x00000300"),
        (
            overwriting_init("head -c $size /dev/zero"),
            "exitcode=0x0000000b",
        ),
    ] {
        let message = case.run(&mighty(case).shell(&script)).refused(1);
        assert!(message.contains("Attempted to kill init"), "{message}");
        assert!(message.contains(status), "{message}");
    }
}

fn a_guest_that_reboots(case: &Case) {
    let capabilities = json!(["CAP_SYS_BOOT"]);
    let bundle = case
        .busybox()
        .set("/linux/namespaces", own_namespaces_but("pid"))
        .set("/process/capabilities/bounding", capabilities.clone())
        .set("/process/capabilities/permitted", capabilities.clone())
        .set("/process/capabilities/effective", capabilities)
        .shell("reboot -f; sleep 100");
    let message = case.run(&bundle).refused(1);
    assert!(message.contains("guest"), "{message}");
}

fn a_panic_is_in_the_state(case: &Case) {
    case.detach(&mighty(case).shell(PANICKING));
    let failure = failure(case);
    assert!(failure.contains("Kernel panic - not syncing"), "{failure}");
    let log = fs::read_to_string(case.log()).unwrap();
    assert!(log.contains("Kernel panic - not syncing"), "{log}");
}

/// Makes the guest's kernel panic through an exec in the container.
fn panic_by_exec(case: &Case) {
    let outcome = case.command(&["exec", case.id(), "sh", "-c", PANICKING]);
    // This is the status of whatever is killed with its container.
    outcome.expect(137);
}

fn a_panic_before_the_start(case: &Case) {
    case.create(&mighty(case).args(["sleep", "1000"]));
    panic_by_exec(case);
    case.wait_for_status("stopped");
    let message = case.command(&["start", case.id()]).refused(1);
    assert!(message.contains("stopped"), "{message}");
    let failure = failure(case);
    assert!(failure.contains("Kernel panic - not syncing"), "{failure}");
}

fn a_panic_during_an_exec(case: &Case) {
    case.detach(&mighty(case).args(["sleep", "1000"]));
    let mut command = case.nacre();
    command.args(["exec", case.id(), "sh", "-c", "echo ready; sleep 1000"]);
    let mut other = case.spawn(command);
    other.wait_for_line("ready");
    panic_by_exec(case);
    other.finish().expect(137);
    let failure = failure(case);
    assert!(failure.contains("Kernel panic - not syncing"), "{failure}");
}

/// A process that sees the agent and has all rights can't kill it.
fn the_agent_cant_be_killed(case: &Case) {
    let capabilities = json!(["CAP_KILL", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]);
    let bundle = case
        .busybox()
        .set("/linux/namespaces", own_namespaces_but("pid"))
        .set("/process/capabilities/bounding", capabilities.clone())
        .set("/process/capabilities/permitted", capabilities.clone())
        .set("/process/capabilities/effective", capabilities)
        .shell(
            "for signal in KILL STOP SEGV TERM; do kill -$signal 1; done; sleep 0.2
             cat /proc/1/comm; exit 9",
        );
    assert_eq!(case.run(&bundle).expect(9), "init\n");
}

/// The container has no limit: the kernel kills a process of the container, not the agent.
fn the_guest_runs_out_of_memory(case: &Case) {
    let bundle = case.busybox().shell(
        "dd if=/dev/zero of=/dev/null bs=1G count=1 2>/dev/null; echo $?
         i=0; while [ $i -lt 8 ]; do dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null &
         i=$((i+1)); done; wait; echo survived",
    );
    assert_eq!(case.run(&bundle).expect(0), "137\nsurvived\n");
}

/// Returns a command for a container whose guest has so many seconds to respond.
fn watched(case: &Case, words: &[&str], bundle: &Bundle, seconds: u32) -> Command {
    let lines = format!(
        "kernel = {:?}\nagent = {:?}\nboot-timeout = 120\nwatchdog = {seconds}",
        nacre::kernel(),
        nacre::binary("nacre-agent")
    );
    let path = case.directory().join("other.toml");
    fs::write(&path, format!("[vm]\n{lines}\n")).unwrap();
    let mut command = case.nacre_with(&path);
    command
        .args(words)
        .arg("--bundle")
        .arg(bundle.write())
        .arg(case.id());
    command
}

/// The guest's agent does nothing any more.
fn a_frozen_guest(case: &Case) {
    let bundle = mighty(case).shell(&freezing_init());
    let began = Instant::now();
    let command = watched(case, &["run"], &bundle, 4);
    let message = case.spawn(command).finish().refused(1);
    assert!(message.contains("the guest is frozen"), "{message}");
    let took = began.elapsed();
    assert!(
        took > Duration::from_secs(3) && took < Duration::from_secs(90),
        "{took:?}"
    );
}

fn a_frozen_guest_is_in_the_state(case: &Case) {
    let bundle = mighty(case).args(["sleep", "1000"]);
    let command = watched(case, &["run", "--detach"], &bundle, 4);
    assert_eq!(case.leave(command), 0, "{}", case.output());
    // The agent would answer once this has ended, at the latest.
    let freezing = freezing_init();
    let frozen = case.command(&["exec", case.id(), "sh", "-c", &freezing]);
    frozen.expect(137);
    let failure = failure(case);
    assert!(failure.contains("the guest is frozen"), "{failure}");
}
