//! The Debian package and the tarball that `make deb` and `make dist` make, as a user has them.
//!
//! `NACRE_PACKAGES` is the directory that they are in.

mod made;
mod system;
mod used;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use libtest_mimic::Arguments;
use nacre_tests::{Isolation, place, suite};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    if !arguments.list {
        for path in [package("deb"), package("tar.xz")] {
            if !path.exists() {
                let path = path.display();
                eprintln!("{path} isn't there; run make deb dist, and set NACRE_PACKAGES");
                return ExitCode::FAILURE;
            }
        }
        system::make_all();
    }
    let tests = [made::tests(), used::tests()];
    suite::run(
        &arguments,
        Isolation::Vm,
        tests.into_iter().flatten().collect(),
    )
}

/// Returns the directory of the packages, and of the tree that they were made of.
fn directory() -> PathBuf {
    std::env::var_os("NACRE_PACKAGES").map_or_else(
        || place::repository().join("target/packages"),
        PathBuf::from,
    )
}

/// Returns the path of the package of this kind, by the end of its name, which this commit has.
fn package(kind: &str) -> PathBuf {
    let version = Command::new(place::repository().join("packaging/version"))
        .output()
        .unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let version = version.trim_end();
    directory().join(match kind {
        "deb" => format!("nacre_{version}_amd64.deb"),
        _ => format!("nacre-{version}-x86_64-linux.{kind}"),
    })
}
