//! Where nacre finds what a VM needs if no configuration file says where.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nacre_tests::{Case, nacre};
use serde_json::json;

nacre_tests::tests![
    files_beside_the_binary_are_found: Vm,
    files_of_the_binarys_prefix_are_found: Vm,
];

/// Prints what the environment tells hooks and containers.
const TELL: &str = "tr '\\0' '\\n' </proc/self/environ | grep NACRE_BINARY; echo told";

fn files_beside_the_binary_are_found(case: &Case) {
    let directory = case.directory().join("installed");
    files_are_found(case, &directory, &directory);
}

fn files_of_the_binarys_prefix_are_found(case: &Case) {
    let prefix = case.directory().join("local");
    files_are_found(case, &prefix.join("bin"), &prefix.join("lib/nacre"));
}

/// Installs the binary in one directory and what it needs in the other, and runs a container.
fn files_are_found(case: &Case, program: &Path, library: &Path) {
    for directory in [program, library] {
        fs::create_dir_all(directory).unwrap();
    }
    let program = program.join("nacre");
    fs::copy(nacre::binary("nacre"), &program).unwrap();
    fs::copy(nacre::binary("nacre-agent"), library.join("nacre-agent")).unwrap();
    symlink(nacre::kernel(), library.join("vmlinux")).unwrap();
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
    let mut command = case.mark(Command::new(program));
    command.args(usual.get_args());
    command.args(["run", "--bundle"]).arg(bundle.write());
    command.arg(case.id());
    assert_eq!(case.spawn(command).finish().ok(), "told\n");
    assert_eq!(fs::read_to_string(hook).unwrap(), "told\n");
}
