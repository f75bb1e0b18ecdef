//! Create, start, signal, destroy.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nacre_agent::container::StartError;
use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, text};

tests![
    a_container_starts_once,
    a_file_that_is_no_program_ends_as_in_a_shell,
    a_root_that_is_none_is_refused,
    a_cgroup_in_use_is_refused,
    an_init_that_is_killed_is_told_of,
    destroy_takes_every_process_with_it,
];

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

fn a_file_that_is_no_program_ends_as_in_a_shell() -> Result<(), Skipped> {
    let mut bundle = Bundle::new("");
    for (name, contents) in [("garbage", "garbage"), ("script", "#!/no/such\n")] {
        fs::write(bundle.at(name), contents).unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(bundle.at(name), executable).unwrap();
    }
    symlink("loop", bundle.at("loop")).unwrap();
    let long = format!("/{}", "a".repeat(300));
    for (program, why, status) in [
        ("/garbage", "exec format error", 126),
        ("/script", "no such file or directory", 127),
        ("/garbage/x", "not a directory", 127),
        ("/loop", "too many symbolic links encountered", 126),
        (&long, "file name too long", 126),
    ] {
        bundle.config["process"]["args"] = json!([program]);
        let outcome = bundle.run();
        assert_eq!(outcome.stderr, format!("exec {program}: {why}\n"));
        assert_eq!(outcome.status, status, "{program}");
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
    // These mounts keep the init busy long enough for it to be found.
    let mut bundle = Bundle::new("true");
    for i in 0..1000 {
        let source = text(&bundle.at("bin")).to_owned();
        bundle
            .mount(json!({"destination": format!("/m{i}"), "source": source, "options": ["bind"]}));
    }
    // The killer ends with this process, at the latest.
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
    // If it came too late, it mustn't kill the next test's init.
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
    // Without a pid namespace, only the cgroup holds them together.
    let mut bundle = Bundle::new("sleep 61 & sleep 62 & echo $! started; exit 5");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|n| n["type"] != "pid");
    let outcome = bundle.run();
    assert_eq!(outcome.status, 5);
    let pid = outcome.stdout.split(' ').next().unwrap();
    // An orphan is reaped by somebody else, so it may stay a zombie for a moment.
    let gone = || {
        let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        status.is_empty() || status.contains(") Z ")
    };
    assert!(gone());
    Ok(())
}
