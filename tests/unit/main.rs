//! Runs the tests beside the code of all crates, each in a process of its own.
//!
//! What a machine may lack (KVM, QEMU, cgroups, root's rights) only the test itself can find out,
//! and libtest can't skip a test that runs. So one that needs such a thing is marked with
//! `#[ignore = "needs …"]`, which plain `cargo test` reports, and panics with "skipped: " and the
//! reason where it is missing. Here such tests run, too, and that panic counts as ignored.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::Value;

/// What a panic's message begins with if a test can't run here.
const SKIPPED: &str = "skipped: ";

/// The tests of one library or program, built.
#[derive(Clone)]
struct Binary {
    /// The library's or program's name.
    name: String,
    executable: PathBuf,
    /// The directory that cargo runs it in.
    package: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let binaries = match build() {
        Ok(binaries) => binaries,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let trials = binaries.iter().flat_map(Binary::trials).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Builds the tests, and returns what cargo says that it has built.
fn build() -> Result<Vec<Binary>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "test",
            "--locked",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ])
        .args(["--workspace", "--lib", "--bins"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo failed: {}", output.status));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    Ok(messages.lines().filter_map(Binary::of_message).collect())
}

impl Binary {
    /// Reads one of cargo's messages; returns nothing if it is about anything else.
    fn of_message(message: &str) -> Option<Self> {
        let message: Value = serde_json::from_str(message).ok()?;
        message["profile"]["test"].as_bool().filter(|is| *is)?;
        let manifest = Path::new(message["manifest_path"].as_str()?);
        Some(Self {
            name: message["target"]["name"].as_str()?.to_owned(),
            executable: message["executable"].as_str()?.into(),
            package: manifest.parent()?.to_owned(),
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command.current_dir(&self.package).stdin(Stdio::null());
        command
    }

    /// Returns the names of its tests, with these arguments.
    fn list(&self, arguments: &[&str]) -> Vec<String> {
        let mut command = self.command();
        command.args(["--list", "--format=terse"]).args(arguments);
        let output = command.output().expect("what was built can be run");
        let output = String::from_utf8(output.stdout).expect("a list is text");
        let names = output
            .lines()
            .filter_map(|line| line.strip_suffix(": test"));
        names.map(str::to_owned).collect()
    }

    fn trials(&self) -> Vec<Trial> {
        let may_skip = self.list(&["--ignored"]);
        let trial = |test: String| {
            let (binary, may_skip) = (self.clone(), may_skip.contains(&test));
            Trial::ignorable_test(format!("{}::{test}", self.name), move || {
                binary.run(&test, may_skip)
            })
        };
        self.list(&[]).into_iter().map(trial).collect()
    }

    fn run(&self, test: &str, may_skip: bool) -> Result<Completion, Failed> {
        let mut command = self.command();
        command.args(["--exact", "--include-ignored", "--color=never", test]);
        let output = command.output()?;
        if output.status.success() {
            return Ok(Completion::Completed);
        }
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        match said.lines().find_map(|line| line.strip_prefix(SKIPPED)) {
            Some(why) if may_skip => Ok(Completion::ignored_with(why)),
            _ => Err(format!("{}\n{said}", output.status).into()),
        }
    }
}
