//! Containers of an ordinary user.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nacre_agent::container::{
    Container, ExecOptions, Options, Stdio, config, describe, protect_executable,
};
use serde_json::json;

use crate::Skipped;
use crate::bundle::{Bundle, Outcome, has, mounted, text, wait_for_exit};
use crate::exec;
use crate::hostile::{Words, result_of_attack};

tests![
    what_runc_writes_for_it_runs,
    a_process_is_started_in_it,
    a_range_of_ids_is_mapped,
    ids_of_others_are_refused,
    without_the_helper_one_is_told,
    groups_that_cannot_be_set_are_refused,
    limits_that_cannot_be_set_are_refused,
    a_clock_is_set_off,
    the_engines_program_cannot_be_overwritten,
    what_it_has_no_right_to_is_told,
    what_is_read_only_for_the_user_stays_so,
];

/// The user's id, which has no entry anywhere.
const USER: u32 = 64_321;

/// The first of the user's subordinate ids, and how many there are.
const SUBORDINATE: (u32, u32) = (300_000, 1000);

/// Given in place of a script: leaves the container running.
const LEAVE: &str = "leave";

/// Runs a bundle to its end, and if asked a further process in it.
pub(crate) fn run_bundle(mut words: Words) -> ExitCode {
    protect_executable().unwrap();
    let bundle = PathBuf::from(words.next().unwrap());
    match try_run(&bundle, words.next()) {
        Ok(status) => ExitCode::from(status as u8),
        Err(error) => {
            eprintln!("engine: {error}");
            ExitCode::from(99)
        }
    }
}

fn try_run(bundle: &Path, script: Option<String>) -> Result<i32, String> {
    let text = |error: &dyn std::error::Error| describe(error);
    let config = fs::read(bundle.join("config.json")).unwrap();
    let mut spec = config::load(&config).map_err(|e| text(&e))?;
    config::resolve_paths(&mut spec, bundle);
    let options = Options::new("rootless", bundle, Stdio::inherit().unwrap());
    // SAFETY: the test's other threads change nothing that the child needs; if it hangs, the test fails.
    let mut container = unsafe { Container::create(&spec, options) }.map_err(|e| text(&e))?;
    assert!(container.cgroup().is_none());
    container.start().map_err(|e| text(&e))?;
    if script.as_deref() == Some(LEAVE) {
        return Ok(0);
    }
    if let Some(script) = script {
        let mut process = serde_json::to_value(spec.process()).unwrap();
        process["args"] = json!(["sh", "-c", script]);
        let process = serde_json::from_value(process).unwrap();
        let options = ExecOptions::new(Stdio::inherit().unwrap());
        // SAFETY: the test's other threads change nothing that the child needs; if it hangs, the test fails.
        let executed = unsafe { container.exec(&spec, &process, options) };
        let executed = executed.map_err(|e| text(&e))?;
        assert_eq!(exec::wait(&executed), 0);
    }
    let status = wait_for_exit(&container);
    container.destroy().map_err(|e| text(&e))?;
    Ok(status)
}

/// Makes a bundle like that of `runc spec --rootless`, for [`USER`].
fn bundle(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    let config = &mut bundle.config;
    let linux = config["linux"].as_object_mut().unwrap();
    linux.remove("resources");
    let namespaces = linux["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "network");
    namespaces.push(json!({"type": "user"}));
    for field in ["uidMappings", "gidMappings"] {
        linux.insert(
            field.into(),
            json!([{"containerID": 0, "hostID": USER, "size": 1}]),
        );
    }
    for mount in config["mounts"].as_array_mut().unwrap() {
        if mount["destination"] == "/sys" {
            *mount = json!({
                "destination": "/sys", "type": "none", "source": "/sys",
                "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
            });
        } else if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| !option.as_str().unwrap().starts_with("gid="));
        }
    }
    bundle
}

fn give(path: &Path) {
    lchown(path, Some(USER), Some(USER)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

/// Runs it as [`USER`], whom the files of this mount namespace define.
fn run(bundle: &Bundle, script: Option<&str>) -> Outcome {
    run_in(bundle, script, "/usr/sbin:/usr/bin:/sbin:/bin")
}

fn run_in(bundle: &Bundle, script: Option<&str>, path: &str) -> Outcome {
    let engine = bundle.beside("engine");
    if !engine.exists() {
        fs::copy(std::env::current_exe().unwrap(), &engine).unwrap();
        fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).unwrap();
    }
    bundle.write();
    give(&bundle.beside(""));
    let (first, count) = SUBORDINATE;
    for (name, line) in [
        ("passwd", format!("nacre-test:x:{USER}:{USER}::/:/bin/sh\n")),
        ("subuid", format!("nacre-test:{first}:{count}\n")),
        ("subgid", format!("nacre-test:{first}:{count}\n")),
    ] {
        fs::write(bundle.beside(name), line).unwrap();
    }
    let become_user = format!(
        "cd {0} && touch /etc/subuid /etc/subgid \
         && for f in passwd subuid subgid; do mount --bind $f /etc/$f || exit 98; done \
         && if [ -d locked ]; then \
                mount --bind locked locked && mount -o remount,bind,ro,nosuid locked || exit 97; \
            fi \
         && export PATH={path} \
         && exec /usr/bin/setpriv --reuid {USER} --regid {USER} --clear-groups \
                 {0}/engine --rootless {0} \"$@\"",
        text(&bundle.beside("")).trim_end_matches('/'),
    );
    let output = Command::new("/usr/bin/unshare")
        .args(["--mount", "/bin/sh", "-c", &become_user, "sh"])
        .args(script)
        .output()
        .unwrap();
    Outcome {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Skips the tests that can't be run here.
fn check() -> Result<(), Skipped> {
    if !Path::new("/usr/bin/setpriv").exists() || !Path::new("/usr/bin/unshare").exists() {
        return Err(Skipped(
            "it needs setpriv and unshare (Debian's util-linux)",
        ));
    }
    let denied = [
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
        ),
        ("/proc/sys/user/max_user_namespaces", "0"),
    ];
    let is = |(file, value): &(&str, &str)| {
        fs::read_to_string(file).is_ok_and(|found| found.trim() == *value)
    };
    if denied.iter().any(is) {
        Err(Skipped("ordinary users may have no user namespaces here"))
    } else {
        Ok(())
    }
}

fn output(bundle: &Bundle, script: Option<&str>) -> String {
    let outcome = run(bundle, script);
    assert_eq!(
        (outcome.status, outcome.stderr.as_str()),
        (0, ""),
        "{outcome:?}"
    );
    outcome.stdout
}

fn refusal(bundle: &Bundle) -> String {
    let outcome = run(bundle, None);
    assert_eq!(outcome.status, 99, "{outcome:?}");
    outcome.stderr
}

fn what_runc_writes_for_it_runs() -> Result<(), Skipped> {
    check()?;
    let script = "id -u; id -g; cat /proc/self/uid_map; touch /made && echo $$; \
                  echo x > /dev/null; ls /sys/fs | grep cgroup; ls /dev; exit 7";
    let bundle = bundle(script);
    let outcome = run(&bundle, None);
    assert_eq!(
        (outcome.status, outcome.stderr.as_str()),
        (7, ""),
        "{outcome:?}"
    );
    let words: Vec<&str> = outcome.stdout.split_whitespace().collect();
    assert_eq!(words[..7], ["0", "0", "0", "64321", "1", "1", "cgroup"]);
    for name in ["null", "zero", "pts", "shm", "stdout"] {
        assert!(words.contains(&name), "{words:?}");
    }
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(bundle.at("made")).unwrap().uid(), USER);
    // The image and its directories are used again, as the first run left them.
    assert_eq!(run(&bundle, None).status, 7);
    Ok(())
}

fn a_process_is_started_in_it() -> Result<(), Skipped> {
    check()?;
    let mut bundle = bundle("until [ -e /done ]; do sleep 0.01; done; readlink /proc/self/ns/user");
    bundle.config["process"]["oomScoreAdj"] = json!(500);
    let script = "id -u; cat /proc/self/oom_score_adj; readlink /proc/self/ns/user; touch /done";
    let output = output(&bundle, Some(script));
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..2], ["0", "500"]);
    assert_eq!(lines[2], lines[3]);
    Ok(())
}

fn with_range(script: &str) -> Bundle {
    let mut bundle = bundle(script);
    for field in ["uidMappings", "gidMappings"] {
        bundle.config["linux"][field] = json!([
            {"containerID": 0, "hostID": USER, "size": 1},
            {"containerID": 1, "hostID": SUBORDINATE.0, "size": SUBORDINATE.1},
        ]);
    }
    bundle
}

fn check_helper() -> Result<(), Skipped> {
    check()?;
    if Path::new("/usr/bin/newuidmap").exists() {
        Ok(())
    } else {
        Err(Skipped("it needs newuidmap (Debian's uidmap)"))
    }
}

fn a_range_of_ids_is_mapped() -> Result<(), Skipped> {
    check_helper()?;
    let mut bundle = with_range("id -u; id -G; touch /tmp/made");
    fs::create_dir(bundle.at("tmp")).unwrap();
    fs::set_permissions(bundle.at("tmp"), fs::Permissions::from_mode(0o777)).unwrap();
    bundle.config["process"]["user"] = json!({"uid": 5, "gid": 6, "additionalGids": [7]});
    assert_eq!(output(&bundle, None), "5\n6 7\n");
    use std::os::unix::fs::MetadataExt;
    let made = fs::metadata(bundle.at("tmp/made")).unwrap();
    assert_eq!(
        (made.uid(), made.gid()),
        (SUBORDINATE.0 + 4, SUBORDINATE.0 + 5)
    );
    Ok(())
}

fn ids_of_others_are_refused() -> Result<(), Skipped> {
    check_helper()?;
    let mut bundle = with_range("true");
    bundle.config["linux"]["uidMappings"][1]["hostID"] = json!(0);
    let message = refusal(&bundle);
    let expected = "engine: linux.uidMappings: newuidmap refused it (are the ids this user's by \
                    /etc/subuid?): ";
    assert!(message.starts_with(expected), "{message}");
    Ok(())
}

fn without_the_helper_one_is_told() -> Result<(), Skipped> {
    check()?;
    let bundle = with_range("true");
    let outcome = run_in(&bundle, None, "/nowhere");
    let expected = "engine: linux.gidMappings maps more than this user's own id, which takes \
                    newgidmap (of the package uidmap or shadow-utils): No such file";
    assert!(outcome.stderr.starts_with(expected), "{outcome:?}");
    Ok(())
}

fn groups_that_cannot_be_set_are_refused() -> Result<(), Skipped> {
    check()?;
    let mut bundle = bundle("true");
    bundle.config["process"]["user"]["additionalGids"] = json!([0]);
    let message = refusal(&bundle);
    assert!(
        message.starts_with("engine: process.user.additionalGids can't be set"),
        "{message}"
    );
    Ok(())
}

fn limits_that_cannot_be_set_are_refused() -> Result<(), Skipped> {
    check()?;
    let mut bundle = bundle("true");
    bundle.config["linux"]["resources"] = json!({"memory": {"limit": 1 << 30}});
    let message = refusal(&bundle);
    assert!(
        message.contains("linux.resources.memory.limit"),
        "{message}"
    );
    Ok(())
}

fn a_clock_is_set_off() -> Result<(), Skipped> {
    check()?;
    let mut bundle = bundle("cat /proc/uptime");
    bundle.namespace(json!({"type": "time"}));
    bundle.config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000_000}});
    let output = output(&bundle, None);
    let uptime: f64 = output.split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 1e9, "{output}");
    Ok(())
}

// CVE-2019-5736, where no mount can be made of the engine's program.
fn the_engines_program_cannot_be_overwritten() -> Result<(), Skipped> {
    check()?;
    let mut bundle = bundle("");
    fs::write(bundle.at("script"), "#!/proc/self/exe --attack\n").unwrap();
    fs::set_permissions(bundle.at("script"), fs::Permissions::from_mode(0o755)).unwrap();
    bundle.config["process"]["args"] = json!(["/script"]);
    run(&bundle, Some(LEAVE));
    let result = result_of_attack(&bundle);
    assert!(result.contains("Operation not permitted"), "{result}");
    let original = fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(fs::read(bundle.beside("engine")).unwrap() == original);
    Ok(())
}

fn what_it_has_no_right_to_is_told() -> Result<(), Skipped> {
    check()?;
    let mut bundle = bundle("true");
    let private = tempfile::tempdir().unwrap();
    fs::set_permissions(private.path(), fs::Permissions::from_mode(0o700)).unwrap();
    bundle.mount(json!({
        "destination": "/x", "source": text(&private.path().join("y")), "options": ["bind"],
    }));
    let message = refusal(&bundle);
    assert!(message.contains("at /x: can't bind"), "{message}");
    assert!(message.contains("Permission denied"), "{message}");
    Ok(())
}

fn what_is_read_only_for_the_user_stays_so() -> Result<(), Skipped> {
    check()?;
    let mut bundle = bundle("cat /x/file; grep ' /x ' /proc/self/mountinfo; touch /x/y || echo no");
    let locked = bundle.beside("locked");
    fs::create_dir(&locked).unwrap();
    fs::write(locked.join("file"), "seen\n").unwrap();
    // Clients write `rw` and `suid` for whatever isn't to be otherwise.
    bundle.mount(json!({
        "destination": "/x", "source": text(&locked), "options": ["bind", "rw", "suid", "noexec"],
    }));
    let outcome = run(&bundle, None);
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!((lines[0], lines[2]), ("seen", "no"), "{outcome:?}");
    let (options, _, _) = mounted(&outcome.stdout, "/x");
    for option in ["ro", "nosuid", "noexec"] {
        assert!(has(&options, option), "{options}");
    }
    Ok(())
}
