//! What a container inherits from the caller of nacre, and what it doesn't (docs/inherited.md has
//! the list).

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nacre_tests::{Case, Isolation, leftovers};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

nacre_tests::tests![a_caller_with_unusual_properties];

const CPUS: &str = "Cpus_allowed_list:\t";

/// Prints what a container has inherited, one line each.
const SAY: &str = r#"
     of() { cut -d " " -f "$1" /proc/self/stat; }
     line() { grep "^$1:" /proc/self/status | tr -d '\t'; }
     echo "nice $(of 19), policy $(of 41), $(ionice), oom $(cat /proc/self/oom_score_adj)"
     echo "slack $(cat /proc/self/timerslack_ns), personality $(cat /proc/self/personality)"
     echo "umask $(umask), $(line SigBlk), $(line SigIgn)"
     line THP_enabled; echo "core $(ulimit -c)"; grep ^Cpus_allowed_list /proc/self/status; echo said"#;

/// Gives the process that a command becomes attributes that few callers have.
fn make_unusual(command: &mut Command) {
    // SAFETY: only system calls are made, before the exec.
    unsafe { command.pre_exec(be_unusual) };
}

fn be_unusual() -> io::Result<()> {
    let done = |result: i64| match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    let batch = libc::sched_param { sched_priority: 0 };
    let core = libc::rlimit {
        rlim_cur: 3 << 10,
        rlim_max: libc::RLIM_INFINITY,
    };
    let best_effort_6 = 2 << 13 | 6;
    // SAFETY: all calls are passed numbers, or structures that outlive the call.
    unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&cpus), &raw mut cpus);
        let is_in = |cpu: &usize| libc::CPU_ISSET(*cpu, &cpus);
        let first = (0..8 * size_of_val(&cpus)).find(is_in).unwrap_or(0);
        libc::CPU_ZERO(&mut cpus);
        libc::CPU_SET(first, &mut cpus);
        done(libc::sched_setaffinity(0, size_of_val(&cpus), &raw const cpus).into())?;
        done(libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const batch).into())?;
        done(libc::setpriority(libc::PRIO_PROCESS, 0, 7).into())?;
        done(libc::syscall(libc::SYS_ioprio_set, 1, 0, best_effort_6))?;
        done(libc::personality(libc::ADDR_NO_RANDOMIZE as u64).into())?;
        done(libc::setrlimit(libc::RLIMIT_CORE, &raw const core).into())?;
        libc::umask(0o135);
        for (option, value) in [
            (libc::PR_SET_TIMERSLACK, 1_234_567),
            (libc::PR_SET_THP_DISABLE, 1),
            (libc::PR_SET_DUMPABLE, 0),
            (libc::PR_SET_CHILD_SUBREAPER, 1),
            (libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64),
        ] {
            done(libc::prctl(option, value, 0_u64, 0_u64, 0_u64).into())?;
        }
        libc::signal(libc::SIGUSR1, libc::SIG_IGN);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::signal(libc::SIGRTMAX(), libc::SIG_IGN);
    }
    let blocked = SigSet::from_iter([Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGCHLD]);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)?;
    fs::write("/proc/self/oom_score_adj", "321")
}

/// Returns the CPUs that a thread may run on.
fn cpus(status: &str) -> String {
    let status = fs::read_to_string(status).unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix(CPUS));
    list.unwrap().to_owned()
}

fn a_caller_with_unusual_properties(case: &Case) {
    let own = cpus("/proc/self/status");
    if own.parse::<u32>().is_ok() {
        case.ignore("this process may run on a single CPU");
    }
    let bundle = case.busybox().shell(&format!("{SAY}; sleep 1000"));
    let mut run = case.nacre();
    run.args(["run", "--detach", "--bundle"])
        .arg(bundle.write());
    make_unusual(run.arg(case.id()));
    assert_eq!(case.leave(run), 0, "{}", case.output());
    case.wait_for_output("said\n");
    let of_the_containers = "umask 0022, SigBlk:0000000000000000, SigIgn:0000000000000000\n";
    let (expected, thp, core, expected_cpus) = match case.isolation() {
        Isolation::Process => (
            "nice 7, policy 3, best-effort: prio 6, oom 321\n\
             slack 1234567, personality 00040000\n",
            "THP_enabled:0\n",
            "core 6\n",
            own.as_str(),
        ),
        Isolation::Vm => (
            "nice 0, policy 0, none: prio 0, oom 0\nslack 50000, personality 00000000\n",
            "",
            "core ",
            "0",
        ),
    };
    let said = case.output();
    assert!(said.contains(expected), "{said}");
    assert!(said.contains(of_the_containers), "{said}");
    assert!(said.contains(thp) && said.contains(core), "{said}");
    assert!(said.contains(&format!("{CPUS}{expected_cpus}\n")), "{said}");
    // These include a VM's processes, and none has died with its maker.
    let mut threads = 0;
    for (pid, process) in leftovers::processes(case.id()) {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
            let status = thread.path().join("status");
            assert_eq!(cpus(status.to_str().unwrap()), own, "{process}");
            threads += 1;
        }
    }
    assert!(threads > 0);
    // The same holds for a process that is started in the container.
    let mut exec = case.nacre();
    exec.args(["exec", case.id(), "sh", "-c", SAY]);
    make_unusual(&mut exec);
    let said = case.spawn(exec).finish().ok();
    assert!(
        said.contains(expected) && said.contains(of_the_containers),
        "{said}"
    );
    assert!(said.contains(&format!("{CPUS}{expected_cpus}\n")), "{said}");
    assert_eq!(case.status(), "running");
    case.remove_container();
}
