//! What `nacre state` says of that which confines a container.

use nacre_tests::{Case, Isolation};
use nacre_vmm::Landlock;
use serde_json::{Value, json};

nacre_tests::tests![
    what_a_configuration_asks_for_is_in_the_state: Process,
    the_processes_of_a_vm_are_in_the_state: Vm,
];

/// What nothing of a VM's is in together with the host.
const OF_EACH: [&str; 4] = ["ipc", "mount", "network", "uts"];

fn has(namespaces: &Value, kind: &str) -> bool {
    let kinds = namespaces.as_array().unwrap();
    kinds.iter().any(|other| other == kind)
}

/// Fails unless a container that has ended is confined by nothing.
#[track_caller]
fn nothing_once_it_has_ended(case: &Case) {
    case.command(&["kill", case.id(), "KILL"]).ok();
    case.wait_for_status("stopped");
    assert_eq!(case.inspect().get("confinement"), None);
    case.remove_container();
}

fn what_a_configuration_asks_for_is_in_the_state(case: &Case) {
    let filter = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["reboot"], "action": "SCMP_ACT_ERRNO" },
    ]});
    let capabilities = json!({ "bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_KILL"] });
    let bundle = case
        .busybox()
        .args(["sleep", "1000"])
        .set("/process/user/uid", 1000)
        .set("/process/noNewPrivileges", true)
        .set("/process/capabilities", capabilities)
        .set("/linux/seccomp", filter)
        .remove("/hostname")
        .set(
            "/linux/namespaces",
            super::status::own_namespaces_but("uts"),
        );
    let pid = case.detach(&bundle);
    let confinement = case.inspect()["confinement"].take();
    let [init] = confinement.as_array().unwrap().as_slice() else {
        panic!("{confinement}");
    };
    // A program that isn't root's loses what it could use when it is executed.
    for (name, value) in [
        ("process", json!("init")),
        ("pid", json!(pid.as_raw())),
        ("uid", json!(1000)),
        ("noNewPrivileges", json!(true)),
        ("seccompFilters", json!(1)),
        (
            "capabilities",
            json!({ "bounding": ["CAP_CHOWN", "CAP_KILL"] }),
        ),
    ] {
        assert_eq!(init[name], value, "{name}: {init}");
    }
    for (kind, is_own) in [
        ("mount", true),
        ("pid", true),
        ("network", true),
        ("uts", false),
    ] {
        assert_eq!(has(&init["namespaces"], kind), is_own, "{kind}: {init}");
    }
    assert!(init["root"]["mounts"].as_u64().unwrap() > 1, "{init}");
    nothing_once_it_has_ended(case);

    // Nothing is claimed that nobody has asked for.
    assert_eq!(init.get("landlock"), None, "{init}");
    case.detach(
        &case
            .busybox()
            .args(["sleep", "1000"])
            .set("/process/noNewPrivileges", false),
    );
    let init = case.inspect()["confinement"][0].take();
    assert_eq!(init["noNewPrivileges"], false, "{init}");
    assert_eq!(init["seccompFilters"], 0, "{init}");
    case.remove_container();
}

fn the_processes_of_a_vm_are_in_the_state(case: &Case) {
    assert_eq!(case.isolation(), Isolation::Vm);
    let pid = case.idle();
    let confinement = case.inspect()["confinement"].take();
    let of = |part: &str| {
        let mut processes = confinement.as_array().unwrap().iter();
        processes.find(|process| process["process"] == part)
    };
    let mut parts = vec!["sandbox", "monitor", "file-server", "stand-in"];
    if case.is_emulated() {
        parts.push("qemu");
    }
    assert_eq!(confinement.as_array().unwrap().len(), parts.len());
    for part in parts {
        let process = of(part).unwrap_or_else(|| panic!("no {part}: {confinement}"));
        assert_eq!(process["noNewPrivileges"], true, "{process}");
        for kind in OF_EACH {
            assert!(has(&process["namespaces"], kind), "{kind}: {process}");
        }
        // QEMU has one of its own, too, and the sandbox process a narrower one once it has made the
        // container.
        let filters = match part {
            "monitor" | "file-server" => 1,
            "qemu" | "sandbox" => 2,
            _ => 0,
        };
        assert_eq!(process["seccompFilters"], filters, "{process}");
        let landlock = Landlock::find();
        let is_landlocked = match part {
            "monitor" => landlock.is_some(),
            "file-server" => landlock.is_some_and(Landlock::keeps_to_directories),
            _ => false,
        };
        assert_eq!(process["landlock"], is_landlocked, "{process}");
        let permitted = process["capabilities"].get("permitted");
        let has_any = ["sandbox", "file-server"].contains(&part);
        assert_eq!(permitted.is_some(), has_any, "{process}");
        assert_eq!(process["capabilities"].get("bounding"), None, "{process}");
        let is_its_own = process["uid"].as_u64().unwrap() > 0x6e00_0000;
        assert_eq!(is_its_own, ["monitor", "qemu"].contains(&part), "{process}");
    }
    assert_eq!(of("stand-in").unwrap()["pid"], pid.as_raw());
    let nothing = json!({ "fileSystem": "tmpfs", "readOnly": true, "mounts": 1 });
    assert_eq!(of("monitor").unwrap()["root"], nothing);
    nothing_once_it_has_ended(case);
}
