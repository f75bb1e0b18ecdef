//! A container's life under Podman in a few commands, for where each takes long; and with systemd,
//! where that runs, as Podman uses it.

use std::fs;

use nacre_tests::Case;

use super::super::image::BUSYBOX;
use super::Podman;

nacre_tests::tests![
    a_volume_exec_and_stop,
    overlays_of_volumes_and_images,
    under_systemd
];

/// Ends when it is told to.
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

fn overlays_of_volumes_and_images(case: &Case) {
    let podman = Podman::new(case);
    if podman.driver != "overlay" {
        case.ignore("no overlay can be mounted here");
    }
    let data = case.directory().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("old"), "from the host\n").unwrap();
    let volume = format!("{}:/data:O", data.display());
    let image = format!("type=image,source={BUSYBOX},destination=/image,rw=true");
    let script = "cat /data/old && rm /data/old && echo new >/data/new && cat /data/new && \
                  /image/bin/busybox echo from the image && echo own >/image/own && cat /image/own";
    let outcome = podman.once(&["-v", &volume, "--mount", &image], &["sh", "-c", script]);
    assert_eq!(outcome.ok(), "from the host\nnew\nfrom the image\nown\n");
    // Everything was written in the container only.
    assert!(data.join("old").exists() && !data.join("new").exists());
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
