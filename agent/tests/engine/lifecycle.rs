//! Create, start, signal, destroy.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nacre_agent::container::{StartError, Stdio, describe};
use nix::unistd::pipe;
use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, null_stdio, text, wait_for_exit};

tests![
    what_runc_writes_runs,
    the_status_is_the_workloads,
    streams_are_passed_through,
    nothing_runs_before_start,
    what_is_created_can_be_destroyed,
    what_runs_can_be_destroyed,
    a_container_starts_once,
    signals_arrive,
    a_program_that_is_not_there_fails_at_create,
    a_file_that_is_no_program_fails_at_start,
    a_root_that_is_none_is_refused,
    a_cgroup_in_use_is_refused,
    an_init_that_is_killed_is_told_of,
    destroy_takes_every_process_with_it,
];

fn what_runc_writes_runs() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("");
    bundle.config["root"]["readonly"] = json!(true);
    bundle.config["process"]["args"] = json!(["echo", "hello"]);
    assert_eq!(bundle.output(), "hello\n");
    Ok(())
}

fn the_status_is_the_workloads() -> Result<(), Skipped> {
    assert_eq!(Bundle::new("exit 0").run().status, 0);
    assert_eq!(Bundle::new("exit 42").run().status, 42);
    let bundle = Bundle::new("sleep 60");
    let mut killed = bundle.start();
    killed.container().signal(libc::SIGKILL).unwrap();
    assert_eq!(killed.wait().status, 137);
    Ok(())
}

fn streams_are_passed_through() -> Result<(), Skipped> {
    let bundle = Bundle::new("cat; echo error >&2");
    let (stdin, mut to) = pipe().map(|(r, w)| (r, File::from(w))).unwrap();
    let (mut from, stdout) = pipe().map(|(r, w)| (File::from(r), w)).unwrap();
    let (mut errors, stderr) = pipe().map(|(r, w)| (File::from(r), w)).unwrap();
    let stdio = Stdio {
        stdin,
        stdout,
        stderr,
    };
    let mut container = bundle.create(stdio).unwrap();
    container.start().unwrap();
    to.write_all(b"through").unwrap();
    drop(to);
    let (mut out, mut err) = (String::new(), String::new());
    // Ends only if nobody else holds the other end.
    from.read_to_string(&mut out).unwrap();
    errors.read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("through", "error\n"));
    assert_eq!(wait_for_exit(&container), 0);
    container.destroy().unwrap();
    Ok(())
}

fn nothing_runs_before_start() -> Result<(), Skipped> {
    let bundle = Bundle::new("echo ran");
    let mut created = bundle.created();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(created.stdout(), "");
    created.container().start().unwrap();
    assert_eq!(created.wait().stdout, "ran\n");
    Ok(())
}

fn what_is_created_can_be_destroyed() -> Result<(), Skipped> {
    let bundle = Bundle::new("touch /ran");
    bundle.create(null_stdio()).unwrap().destroy().unwrap();
    assert!(!bundle.at("ran").exists());
    Ok(())
}

fn what_runs_can_be_destroyed() -> Result<(), Skipped> {
    let bundle = Bundle::new("sleep 60");
    let mut container = bundle.create(null_stdio()).unwrap();
    container.start().unwrap();
    let begun = Instant::now();
    container.destroy().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    Ok(())
}

fn a_container_starts_once() -> Result<(), Skipped> {
    let bundle = Bundle::new("sleep 60");
    let mut running = bundle.start();
    let again = running.container().start();
    assert!(
        matches!(again, Err(StartError::AlreadyStarted)),
        "{again:?}"
    );
    Ok(())
}

fn signals_arrive() -> Result<(), Skipped> {
    let script = "trap 'echo got; exit 7' USR1; echo ready; while :; do sleep 0.01; done";
    let bundle = Bundle::new(script);
    let mut running = bundle.start();
    running.wait_for("ready");
    running.container().signal(libc::SIGUSR1).unwrap();
    running.wait_for("got");
    assert!(running.container().signal(1000).is_err());
    assert_eq!(running.wait().status, 7);
    Ok(())
}

fn a_program_that_is_not_there_fails_at_create() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("");
    fs::write(bundle.at("data"), "data").unwrap();
    for (program, message, status) in [
        (
            "nothing",
            r#"exec: "nothing": executable file not found in $PATH"#,
            127,
        ),
        (
            "/no/such",
            r#"exec: "/no/such": no such file or directory"#,
            127,
        ),
        ("/data", r#"exec: "/data": permission denied"#, 126),
        ("/bin", r#"exec: "/bin": is a directory"#, 126),
    ] {
        bundle.config["process"]["args"] = json!([program]);
        assert_eq!(bundle.error(), (message.to_owned(), status));
    }
    Ok(())
}

fn a_file_that_is_no_program_fails_at_start() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("");
    for (program, contents, message, status) in [
        (
            "/garbage",
            "garbage",
            r#"exec: "/garbage": exec format error"#,
            126,
        ),
        (
            "/script",
            "#!/no/such\n",
            r#"exec: "/script": no such file or directory"#,
            127,
        ),
    ] {
        fs::write(bundle.at(&program[1..]), contents).unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(bundle.at(&program[1..]), executable).unwrap();
        bundle.config["process"]["args"] = json!([program]);
        let mut container = bundle.create(null_stdio()).unwrap();
        let error = container.start().unwrap_err();
        assert_eq!(
            (describe(&error), error.exit_status()),
            (message.to_owned(), status)
        );
        container.destroy().unwrap();
    }
    Ok(())
}

fn a_root_that_is_none_is_refused() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("");
    fs::write(bundle.beside("file"), "").unwrap();
    bundle.config["root"]["path"] = json!("nowhere");
    let (message, _) = bundle.error();
    assert!(
        message.starts_with("root.path /") && message.contains("nowhere: No such"),
        "{message}"
    );
    bundle.config["root"]["path"] = json!("file");
    let (message, _) = bundle.error();
    assert!(message.contains("file: not a directory"), "{message}");
    Ok(())
}

fn a_cgroup_in_use_is_refused() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("sleep 60");
    let path = format!("/nacre-test-shared-{}", std::process::id());
    bundle.config["linux"]["cgroupsPath"] = json!(path);
    let running = bundle.start();
    let (message, _) = bundle.error();
    assert!(message.contains("is in use already"), "{message}");
    drop(running);
    assert_eq!(Bundle::new("exit 3").run().status, 3);
    Ok(())
}

fn an_init_that_is_killed_is_told_of() -> Result<(), Skipped> {
    let own = std::process::id();
    let children = format!("/proc/{own}/task/{own}/children");
    if !Path::new(&children).exists() {
        return Err(Skipped("the kernel doesn't list a process's children"));
    }
    // Takes the init long enough for it to be found.
    let mut bundle = Bundle::new("true");
    for i in 0..1000 {
        let source = text(&bundle.at("bin")).to_owned();
        bundle
            .mount(json!({"destination": format!("/m{i}"), "source": source, "options": ["bind"]}));
    }
    // It ends with this process, at the latest.
    let script = format!(
        "echo ready
         while [ -e {children} ]; do
             read -r children < {children}
             for c in $children; do [ $c != $$ ] && kill -9 $c && exit; done
         done"
    );
    let mut killer = Command::new("/bin/busybox")
        .args(["sh", "-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    let mut says = killer.stdout.take().unwrap();
    says.read_exact(&mut ready).unwrap();
    let (message, status) = bundle.error();
    // If it came too late, it mustn't find the next test's.
    killer.kill().unwrap();
    killer.wait().unwrap();
    assert_eq!(
        message,
        "the container's init ended before it was ready: killed by SIGKILL"
    );
    assert_eq!(status, 1);
    Ok(())
}

fn destroy_takes_every_process_with_it() -> Result<(), Skipped> {
    // Without a pid namespace, nothing but the cgroup holds them together.
    let mut bundle = Bundle::new("sleep 61 & sleep 62 & echo $! started; exit 5");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != "pid");
    let outcome = bundle.run();
    assert_eq!(outcome.status, 5);
    let pid = outcome.stdout.split(' ').next().unwrap();
    // An orphan is someone else's to reap, so that a zombie may be left for a moment.
    let gone = || {
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        status.is_empty() || status.contains(") Z ")
    };
    assert!(gone());
    Ok(())
}
