//! `nacre exec`: one more process in a container.

mod given;
mod life;

use nacre_tests::{Case, Outcome, Test};

/// Returns all tests here; a test for one mode only says so.
pub(crate) fn tests() -> Vec<Test> {
    [life::tests(), given::tests()]
        .into_iter()
        .flatten()
        .collect()
}

/// Runs `nacre exec` with flags and a command.
fn exec(case: &Case, flags: &[&str], command: &[&str]) -> Outcome {
    let mut words = vec!["exec"];
    words.extend(flags);
    words.push(case.id());
    words.extend(command);
    case.command(&words)
}

/// Runs `nacre exec` with a shell script, which must succeed.
#[track_caller]
fn shell(case: &Case, flags: &[&str], script: &str) -> String {
    exec(case, flags, &["/bin/sh", "-c", script]).ok()
}
