//! A container's life under Podman in few words, for where each command takes long; and with
//! systemd, as Podman has it where that runs.

use std::fs;

use nacre_tests::Case;

use super::super::image::BUSYBOX;
use super::Podman;

nacre_tests::tests![a_volume_exec_and_stop, under_systemd];

/// Ends as it is told.
const SCRIPT: &str = "echo started; trap 'exit 5' TERM; while :; do sleep 0.05; done";

fn a_volume_exec_and_stop(case: &Case) {
    let podman = Podman::new(case);
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    podman.detach(&["-v", &format!("{}:/data", data.display())], SCRIPT);
    podman.wait_for_log("started");
    let outcome = podman.run(&["exec", "c", "sh", "-c", "echo new >/data/new; exit 3"]);
    outcome.expect(3);
    assert_eq!(fs::read_to_string(data.join("new")).unwrap(), "new\n");
    podman.ok(&["stop", "c"]);
    assert_eq!(podman.inspect("{{.State.ExitCode}}"), "5");
    podman.clear();
}

fn under_systemd(case: &Case) {
    let podman = Podman::under_systemd(case);
    let systemd = podman.systemd.as_ref().unwrap();
    let run = ["run", "--detach", "--name", "c", "--memory", "128m"];
    podman.ok(&[&run[..], &[BUSYBOX, "sh", "-c", SCRIPT]].concat());
    podman.wait_for_log("started");
    let scope = format!("libpod-{}.scope", podman.inspect("{{.Id}}"));
    assert_eq!(systemd.property(&scope, "ActiveState"), "active");
    assert_eq!(systemd.property(&scope, "Slice"), "machine.slice");
    assert_eq!(podman.ok(&["exec", "c", "echo", "inside"]), "inside\n");
    podman.ok(&["pause", "c"]);
    assert_eq!(podman.inspect("{{.State.Status}}"), "paused");
    podman.ok(&["unpause", "c"]);
    podman.ok(&["stop", "c"]);
    assert_eq!(podman.inspect("{{.State.ExitCode}}"), "5");
    case.wait_for("the end of the scope", || {
        systemd.property(&scope, "LoadState") == "not-found"
    });
    podman.clear();
}
