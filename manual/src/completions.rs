//! Writes the completions of bash, zsh and fish, for nacre and its links.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use clap::Command;
use clap_complete::{Shell, generate};

use crate::LINKS;

/// Writes them below `share` where each shell looks for them.
pub(crate) fn write(command: &Command, share: &Path) -> io::Result<()> {
    bash(command, &made(share, "bash-completion/completions")?)?;
    zsh(command, &made(share, "zsh")?)?;
    fish(command, &made(share, "fish/vendor_completions.d")?)
}

fn made(share: &Path, name: &str) -> io::Result<PathBuf> {
    let directory = share.join(name);
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn script(command: &Command, shell: Shell) -> String {
    let mut script = Vec::new();
    generate(shell, &mut command.clone(), "nacre", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// bash-completion loads the file that is named as the command is.
fn bash(command: &Command, directory: &Path) -> io::Result<()> {
    let names = format!(" nacre {}\n", LINKS.join(" "));
    let script =
        script(command, Shell::Bash).replace(" -o default nacre\n", &format!(" -o default{names}"));
    fs::write(directory.join("nacre"), script)?;
    for link in LINKS {
        link_anew("nacre", &directory.join(link))?;
    }
    Ok(())
}

/// The first line says which commands the file is for.
fn zsh(command: &Command, directory: &Path) -> io::Result<()> {
    let names = format!("#compdef nacre {}\n", LINKS.join(" "));
    let script = script(command, Shell::Zsh).replacen("#compdef nacre\n", &names, 1);
    fs::write(directory.join("_nacre"), script)
}

/// fish loads the file that is named as the command is.
fn fish(command: &Command, directory: &Path) -> io::Result<()> {
    fs::write(directory.join("nacre.fish"), script(command, Shell::Fish))?;
    for link in LINKS {
        let script = format!("complete -c {link} -w nacre\n");
        fs::write(directory.join(format!("{link}.fish")), script)?;
    }
    Ok(())
}

fn link_anew(target: &str, link: &Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => symlink(target, link),
    }
}
