//! nacre's processes are killed, at any moment: `delete --force` removes what they leave.

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nacre_tests::{Case, Isolation, leftovers};
use nix::sys::signal::{Signal, kill};

nacre_tests::tests![
    create_is_killed,
    run_is_killed,
    start_is_killed,
    exec_is_killed,
    delete_is_killed,
    what_create_starts_is_killed,
    what_run_starts_is_killed,
];

/// Returns how often each process is killed. A VM takes much longer to come and go.
fn kills(case: &Case) -> u32 {
    match case.isolation() {
        Isolation::Process => 25,
        Isolation::Vm => 10,
    }
}

/// Makes a command of this test without streams: nothing waits for what outlives it.
fn command(case: &Case, words: &[&str]) -> Command {
    let mut command = case.nacre();
    command
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Returns how long a command takes when nothing kills it, the longest of a few runs.
fn duration(case: &Case, prepare: impl Fn(), words: &[&str]) -> Duration {
    (0..3)
        .map(|_| {
            prepare();
            let begin = Instant::now();
            let status = command(case, words).status().unwrap();
            let took = begin.elapsed();
            assert!(status.success(), "{words:?}: {status}");
            case.remove_container();
            took
        })
        .max()
        .unwrap()
}

/// Runs `prepare`, starts a command and lets `strike` kill, at moments from its start to its end
/// and a little beyond; then removes the container.
fn at_every_moment(case: &Case, prepare: impl Fn(), words: &[&str], strike: impl Fn(&mut Child)) {
    let end = duration(case, &prepare, words).mul_f64(1.2);
    let kills = kills(case);
    for step in 0..kills {
        let moment = end * step / kills;
        let what = format!("{} killed after {moment:?} of {end:?}", words[0]);
        prepare();
        let mut child = command(case, words).spawn().unwrap();
        sleep(moment);
        strike(&mut child);
        child.wait().unwrap();
        let removed = case.command(&["delete", "--force", case.id()]);
        assert_eq!(removed.status(), Some(0), "{what}: {}", removed.stderr);
        case.expect_nothing(&what);
    }
    // Everything can be made again.
    prepare();
    assert!(command(case, words).status().unwrap().success());
    case.remove_container();
}

/// Kills the command itself.
fn itself(child: &mut Child) {
    child.kill().unwrap();
}

/// Returns the bundle directory of a container that does nothing, with hooks, mounts and limits in
/// which it can be killed.
fn bundle(case: &Case) -> String {
    let hook = serde_json::json!([{ "path": "/bin/true" }]);
    let bundle = case
        .busybox()
        .set("/hooks/createRuntime", hook.clone())
        .set("/hooks/poststop", hook)
        .set("/linux/resources/pids", serde_json::json!({ "limit": 50 }))
        .mount("/made/for/it", "tmpfs", "tmpfs", &[])
        .args(["sleep", "1000"]);
    bundle.write().to_str().unwrap().to_owned()
}

fn create_is_killed(case: &Case) {
    let bundle = bundle(case);
    let words = ["create", "--bundle", &bundle, case.id()];
    at_every_moment(case, || (), &words, itself);
}

fn run_is_killed(case: &Case) {
    let bundle = bundle(case);
    let words = ["run", "--detach", "--bundle", &bundle, case.id()];
    at_every_moment(case, || (), &words, itself);
}

/// Creates a container.
fn create(case: &Case, bundle: &str) {
    let words = ["create", "--bundle", bundle, case.id()];
    assert!(command(case, &words).status().unwrap().success());
}

/// Starts a container.
fn run(case: &Case, bundle: &str) {
    let words = ["run", "--detach", "--bundle", bundle, case.id()];
    assert!(command(case, &words).status().unwrap().success());
}

fn start_is_killed(case: &Case) {
    let bundle = bundle(case);
    at_every_moment(
        case,
        || create(case, &bundle),
        &["start", case.id()],
        itself,
    );
}

fn exec_is_killed(case: &Case) {
    let bundle = bundle(case);
    let words = ["exec", case.id(), "true"];
    at_every_moment(case, || run(case, &bundle), &words, itself);
}

fn delete_is_killed(case: &Case) {
    let bundle = bundle(case);
    let words = ["delete", "--force", case.id()];
    at_every_moment(case, || run(case, &bundle), &words, itself);
}

/// Kills every process of this test but the command.
fn all_others(case: &Case, child: &Child) {
    for (pid, _) in leftovers::processes(case.id()) {
        if pid.as_raw() != child.id() as i32 {
            // The process may have ended meanwhile.
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn what_create_starts_is_killed(case: &Case) {
    let bundle = bundle(case);
    let words = ["create", "--bundle", &bundle, case.id()];
    at_every_moment(case, || (), &words, |child| all_others(case, child));
}

fn what_run_starts_is_killed(case: &Case) {
    let bundle = bundle(case);
    let words = ["run", "--bundle", &bundle, case.id()];
    // It ends only when it is killed, so there are moments of an idle container too.
    let begin = Instant::now();
    run(case, &bundle);
    let took = begin.elapsed();
    case.remove_container();
    let kills = kills(case);
    for step in 0..kills {
        let moment = took * step * 2 / kills;
        let what = format!("what run starts killed after {moment:?}");
        let mut child = command(case, &words).spawn().unwrap();
        sleep(moment);
        let end = Instant::now() + Duration::from_secs(60);
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "{what}: run doesn't end");
            all_others(case, &child);
        }
        case.remove_container();
        case.expect_nothing(&what);
    }
}
