//! Where nacre finds what a VM needs, if no configuration file says it.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use nacre_tests::{Case, nacre};
use serde_json::json;

nacre_tests::tests![
    files_beside_the_binary_are_found: Vm,
];

/// What a process of this environment has told, for hooks and containers.
const TELL: &str = "tr '\\0' '\\n' </proc/self/environ | grep NACRE_BINARY; echo told";

fn files_beside_the_binary_are_found(case: &Case) {
    let installed = case.directory().join("installed");
    fs::create_dir(&installed).unwrap();
    for name in ["nacre", "nacre-agent"] {
        fs::copy(nacre::binary(name), installed.join(name)).unwrap();
    }
    symlink(nacre::kernel(), installed.join("vmlinux")).unwrap();
    let disks = std::env::temp_dir();
    let configuration = case.directory().join("bare.toml");
    let text = format!("[vm]\nboot-timeout = 120\ndisk-directory = {disks:?}\n");
    fs::write(&configuration, text).unwrap();

    let hook = case.directory().join("hook");
    let args = ["sh", "-c", &format!("exec >{}; {TELL}", hook.display())];
    let bundle = case.busybox().shell(TELL).push(
        "/hooks/createRuntime",
        json!({ "path": "/bin/sh", "args": args }),
    );
    let usual = case.nacre_with(&configuration);
    let mut command = case.mark(Command::new(installed.join("nacre")));
    command.args(usual.get_args());
    command.args(["run", "--bundle"]).arg(bundle.write());
    command.arg(case.id());
    assert_eq!(case.spawn(command).finish().ok(), "told\n");
    assert_eq!(fs::read_to_string(hook).unwrap(), "told\n");
}
