//! What a user does with the packages.

use std::fs;
use std::process::Command;

use nacre_tests::{Bundle, Case};
use serde_json::Value;

use crate::package;
use crate::system::System;

nacre_tests::tests![
    the_debian_package_on_bookworm,
    the_debian_package_on_trixie,
    the_tarball_on_bookworm,
    the_tarball_on_trixie,
    a_vm_of_the_tarballs,
];

fn the_debian_package_on_bookworm(case: &Case) {
    debian_package(case, "bookworm");
}

fn the_debian_package_on_trixie(case: &Case) {
    debian_package(case, "trixie");
}

/// Installs it, uses it and removes it.
fn debian_package(case: &Case, suite: &str) {
    let system = System::fresh(case, suite);
    fs::copy(package("deb"), system.root().join("tmp/nacre.deb")).unwrap();
    let before = system.files();
    system
        .run(case, "apt-get install -qy /tmp/nacre.deb")
        .expect(0);
    assert_eq!(system.run(case, "dpkg --verify nacre").ok(), "");
    use_it(case, &system, "/usr");
    system.run(case, "apt-get remove -qy nacre").expect(0);
    let after = system.files();
    let left: Vec<_> = after
        .iter()
        .filter(|file| before.get(file.0) != Some(file.1))
        .collect();
    assert!(left.is_empty(), "left behind or changed: {left:?}");
    assert_eq!(before.len(), after.len(), "something else was removed");
    // Without conffiles nothing is left to be purged.
    let known = system.run(case, "dpkg-query -W -f '${db:Status-Status}' nacre");
    assert_ne!(known.status(), Some(0), "{}", known.text());
}

fn the_tarball_on_bookworm(case: &Case) {
    tarball(case, "bookworm");
}

fn the_tarball_on_trixie(case: &Case) {
    tarball(case, "trixie");
}

/// Unpacks it where it isn't in the way of Debian's own files.
fn tarball(case: &Case, suite: &str) {
    let system = System::fresh(case, suite);
    unpack(&system.root().join("usr/local"));
    use_it(case, &system, "/usr/local");
}

fn unpack(prefix: &std::path::Path) {
    fs::create_dir_all(prefix).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(package("tar.xz")).arg("-C").arg(prefix);
    assert!(tar.arg("--strip-components=1").status().unwrap().success());
}

/// Tries what is installed below `prefix` in the system.
fn use_it(case: &Case, system: &System, prefix: &str) {
    for name in ["nacre", "nacre-vm", "nacre-process"] {
        let version = system.run(case, &format!("{name} --version")).ok();
        assert!(version.starts_with("nacre version "), "{name}: {version}");
    }

    let report = system
        .run(case, "nacre doctor --format json || test $? = 1")
        .ok();
    let report: Value = serde_json::from_str(&report).unwrap();
    let process = &report["isolation"]["process"];
    assert_eq!(process["possible"], true, "{report:#}");
    let findings = report["isolation"]["vm"]["findings"].as_array().unwrap();
    for (name, file) in [("guest-kernel", "vmlinux"), ("agent", "nacre-agent")] {
        let finding = findings.iter().find(|finding| finding["name"] == name);
        let finding = finding.unwrap_or_else(|| panic!("no {name} in {report:#}"));
        assert_eq!(finding["level"], "ok", "{finding}");
        let path = format!("{prefix}/lib/nacre/{file}");
        assert!(
            finding["message"].as_str().unwrap().contains(&path),
            "{finding}"
        );
    }

    for (page, words) in [
        ("nacre", "--isolation"),
        ("nacre-vm", "--isolation"),
        ("nacre-run", "--bundle"),
        ("nacre-config.toml", "boot-timeout = 30"),
    ] {
        let text = system.run(case, &format!("man {page}")).ok();
        assert!(text.contains(words), "{page}: {text}");
    }

    let bundle = system.root().join("tmp/bundle");
    fs::create_dir(&bundle).unwrap();
    let workload = "echo out; echo err >&2; exit 7";
    let bundle = Bundle::busybox(&bundle).shell(workload);
    bundle.write();
    let run = format!(
        "nacre --isolation=process run --bundle /tmp/bundle {}",
        case.id()
    );
    let outcome = system.run(case, &run);
    assert_eq!(outcome.expect(7), "out\n");
    assert_eq!(outcome.stderr, "err\n");
}

/// Where it is unpacked, it finds its kernel and agent by itself. Emulated, so that it runs anywhere.
fn a_vm_of_the_tarballs(case: &Case) {
    if let Err(why) = nacre_vmm::Qemu::at(nacre_vmm::qemu::DEFAULT_PATH).check() {
        case.ignore(&why.to_string());
    }
    let prefix = case.directory().join("nacre");
    unpack(&prefix);
    let configuration = case.directory().join("bare.toml");
    fs::write(&configuration, "[vm]\nboot-timeout = 120\n").unwrap();
    let bundle = case.busybox().shell("uname -r");
    let mut command = case.mark(Command::new(prefix.join("bin/nacre-vm")));
    command
        .arg("--root")
        .arg(case.state())
        .arg("--config")
        .arg(configuration)
        .args(["--hypervisor=qemu", "run", "--bundle"])
        .arg(bundle.write())
        .arg(case.id());
    let kernel = case.spawn(command).finish().ok();
    assert!(kernel.trim_end().ends_with("-nacre"), "{kernel}");
}
