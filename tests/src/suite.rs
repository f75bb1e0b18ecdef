//! Runs tests, each within its time limit, and checks that nothing is left behind.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::case::{Case, Ignored};
use crate::nacre::Isolation;
use crate::place::{self, Place};
use crate::{fixtures, leftovers, testbeds};

/// Returns how long a test may take. A VM's start takes about two seconds in the testbed.
fn limit(isolation: Isolation) -> Duration {
    Duration::from_secs(match isolation {
        Isolation::Vm => 300,
        // The testbed itself is emulated.
        Isolation::Process if place::in_testbed() => 300,
        Isolation::Process => 120,
    })
}

/// A test and its name.
pub struct Test {
    /// The module it is in, from `module_path!()`.
    pub module: &'static str,
    /// The test's name.
    pub name: &'static str,
    /// The only isolation that the test makes sense for, unless it does for both.
    pub only: Option<Isolation>,
    /// Whether it shows the same on every hypervisor.
    pub on_any_hypervisor: bool,
    /// The test's body, which panics if the test fails.
    pub run: fn(&Case),
}

impl Test {
    /// Returns the test's name with its modules, from the target down.
    fn path(&self) -> String {
        let mut modules: Vec<&str> = self.module.split("::").skip(1).collect();
        modules.retain(|module| !["lifecycle", "clients"].contains(module));
        modules.push(self.name);
        modules.join("::")
    }
}

/// Lists a module's tests, as `tests()`. A test that makes sense for one isolation only has that
/// after its name: `name: Vm`.
#[macro_export]
macro_rules! tests {
    (@only) => { None };
    (@only $isolation:ident) => { Some($crate::Isolation::$isolation) };
    ($($name:ident $(: $isolation:ident)?),* $(,)?) => {
        pub(crate) fn tests() -> Vec<$crate::Test> {
            vec![$($crate::Test {
                module: module_path!(),
                name: stringify!($name),
                only: $crate::tests!(@only $($isolation)?),
                on_any_hypervisor: false,
                run: $name,
            }),*]
        }
    };
}

thread_local! {
    /// Where and why this thread panicked.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Marks tests of behaviour that doesn't depend on the hypervisor. Their run in VMs is left to the
/// emulated ones where KVM is emulated too, in the testbed.
pub fn on_any_hypervisor(tests: Vec<Test>) -> Vec<Test> {
    on_any_hypervisor_but(&[], tests)
}

/// Marks all but the tests with these names, which represent the others in the testbed.
///
/// # Panics
///
/// If there is no test with one of the names.
pub fn on_any_hypervisor_but(names: &[&str], mut tests: Vec<Test>) -> Vec<Test> {
    for name in names {
        assert!(tests.iter().any(|test| test.name == *name), "no {name}");
    }
    for test in &mut tests {
        test.on_any_hypervisor = !names.contains(&test.name);
    }
    tests
}

/// Does the same work for each item at once.
///
/// # Panics
///
/// If the work panics for one, with that panic: a scoped thread's own would only say that there was
/// one.
pub fn side_by_side<T: Sync>(all: &[T], work: impl Fn(&T) + Sync) {
    let attempt = |one| {
        let done = panic::catch_unwind(AssertUnwindSafe(|| work(one)));
        done.map_err(|_| PANIC.take().unwrap_or_default())
    };
    let attempt = &attempt;
    thread::scope(|scope| {
        let spawn = |one| scope.spawn(move || attempt(one));
        let threads: Vec<_> = all.iter().map(spawn).collect();
        for thread in threads {
            if let Ok(Err(message)) = thread.join() {
                panic!("{message}");
            }
        }
    });
}

/// Serves as a target's `main`: runs those of its tests, by module, that the command line selects,
/// in their place.
pub fn main<const N: usize>(place: Place, isolation: Isolation, tests: [Vec<Test>; N]) -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list {
        if let Err(code) = place.prepare() {
            return code;
        }
        fixtures::mount_all();
    }
    run(&arguments, isolation, tests.into_iter().flatten().collect())
}

/// Runs the tests that the arguments select, with this isolation. Something left behind when all
/// are done fails the run too.
#[expect(
    clippy::print_stdout,
    reason = "the lines of tests have all been printed"
)]
pub fn run(arguments: &Arguments, isolation: Isolation, mut tests: Vec<Test>) -> ExitCode {
    // Under nohup(1) this is ignored, and would be by all that tests start.
    // SAFETY: no handler is installed.
    unsafe { signal(Signal::SIGHUP, SigHandler::SigDfl) }.expect("SIGHUP has a default action");
    panic::set_hook(Box::new(|info| {
        PANIC.set(Some(info.to_string()));
    }));
    tests.retain(|test| test.only.is_none_or(|only| only == isolation));
    let tests = among(tests);
    let before = leftovers::system();
    let trials = testbeds::part(tests, Test::path)
        .into_iter()
        .map(|test| Trial::ignorable_test(test.path(), move || timed(&test, isolation)))
        .collect();
    let conclusion = libtest_mimic::run(arguments, trials);
    let left = leftovers::since(&before, &leftovers::system());
    if !left.is_empty() {
        println!("left behind by the whole run:\n{}", left.join("\n"));
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Returns the tests whose names begin with one of the words in `NACRE_TESTS_AMONG`, if that is set:
/// a testbed boots once for all of them, and the command line takes one filter.
///
/// # Panics
///
/// If no test's name begins with one of the words.
fn among(tests: Vec<Test>) -> Vec<Test> {
    let Ok(words) = std::env::var("NACRE_TESTS_AMONG") else {
        return tests;
    };
    let words: Vec<&str> = words.split_whitespace().collect();
    let begins = |test: &Test, word: &str| test.path().starts_with(word);
    for word in &words {
        assert!(tests.iter().any(|test| begins(test, word)), "no {word}");
    }
    let mut tests = tests;
    tests.retain(|test| words.iter().any(|word| begins(test, word)));
    tests
}

/// Runs a test, and with `NACRE_TIMES` says on standard error how long it took.
fn timed(test: &Test, isolation: Isolation) -> Result<Completion, Failed> {
    let began = Instant::now();
    let result = one(test, isolation);
    if std::env::var_os("NACRE_TIMES").is_some() {
        let seconds = began.elapsed().as_secs_f64();
        eprintln!("{seconds:7.1} s {}", test.path());
    }
    result
}

fn one(test: &Test, isolation: Isolation) -> Result<Completion, Failed> {
    if test.on_any_hypervisor && isolation == Isolation::Vm && place::in_testbed() {
        return Ok(Completion::ignored_with(
            "KVM has no part in it, and is slow here: --test emulated runs it",
        ));
    }
    let case = Case::new(test.name, isolation);
    let (done, outcome) = mpsc::channel();
    let run = test.run;
    let theirs = case.clone();
    thread::spawn(move || {
        let result = panic::catch_unwind(AssertUnwindSafe(|| run(&theirs)));
        // Nobody receives after a timeout.
        let _ = done.send(result.map_err(reason));
    });
    let limit = limit(isolation);
    let result = outcome.recv_timeout(limit).unwrap_or_else(|_| {
        let limit = limit.as_secs();
        let killed = case.kill_all().join("\n");
        // Its processes are gone, so it should end; what it says may help.
        let last = match outcome.recv_timeout(Duration::from_secs(5)) {
            Ok(Err(Stop::Failed(message))) => message,
            _ => String::new(),
        };
        Err(Stop::Failed(format!(
            "took longer than {limit} s; killed:\n{killed}\n{last}"
        )))
    });
    let left = case.leftovers();
    case.remove();
    match result {
        Ok(()) if left.is_empty() => Ok(Completion::Completed),
        Ok(()) => Err(format!("left behind:\n{}", left.join("\n")).into()),
        Err(Stop::Ignored(why)) => Ok(Completion::ignored_with(why)),
        Err(Stop::Failed(message)) if left.is_empty() => Err(message.into()),
        Err(Stop::Failed(message)) => {
            Err(format!("{message}\nleft behind:\n{}", left.join("\n")).into())
        }
    }
}

/// Why a test didn't pass.
enum Stop {
    Ignored(String),
    Failed(String),
}

fn reason(payload: Box<dyn Any + Send>) -> Stop {
    let payload = match payload.downcast::<Ignored>() {
        Ok(ignored) => return Stop::Ignored(ignored.0),
        Err(payload) => payload,
    };
    // A panic without a location comes from a thread that was joined.
    let message = PANIC
        .take()
        .or_else(|| payload.downcast_ref::<String>().cloned());
    Stop::Failed(message.unwrap_or_else(|| "panicked".into()))
}
