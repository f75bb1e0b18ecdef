//! The written man pages and completions, as man's and the shells' programs take them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tempfile::TempDir;

/// A test, and the program that it needs.
type Test = (&'static str, Option<&'static str>, fn());

const TESTS: [Test; 8] = [
    (
        "the_pages_are_well_formed",
        Some("mandoc"),
        the_pages_are_well_formed,
    ),
    (
        "every_option_is_on_its_commands_page",
        Some("mandoc"),
        every_option_is_on_its_commands_page,
    ),
    (
        "the_configuration_page_has_the_file",
        Some("mandoc"),
        the_configuration_page_has_the_file,
    ),
    (
        "whoever_writes_them_they_are_the_same",
        None,
        whoever_writes_them_they_are_the_same,
    ),
    (
        "they_are_written_over_older_ones",
        None,
        they_are_written_over_older_ones,
    ),
    ("bash_completes", Some("bash"), bash_completes),
    ("zsh_completes", Some("zsh"), zsh_completes),
    ("fish_completes", Some("fish"), fish_completes),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = TESTS.map(|(name, program, test)| {
        Trial::ignorable_test(name, move || match program {
            Some(program) if !is_there(program) => Ok(Completion::ignored_with(format!(
                "there is no {program} here"
            ))),
            _ => std::panic::catch_unwind(test)
                .map(|()| Completion::Completed)
                .map_err(|_| Failed::without_message()),
        })
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

fn is_there(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|path| path.join(program).exists())
}

fn writer() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nacre-manual"));
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    command
}

fn write_into(directory: &Path) {
    assert!(writer().arg(directory).status().unwrap().success());
}

fn written() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_into(directory.path());
    directory
}

/// Returns what a command prints on standard output; it must succeed and print nothing else.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}{text}");
    assert_eq!(errors, "", "{command:?}");
    text
}

/// Returns a page as it is read, its words one space apart.
fn read(page: &Path) -> String {
    let mut mandoc = Command::new("mandoc");
    let text = output(mandoc.args(["-T", "utf8", "-O", "width=500"]).arg(page));
    // Bold and underlined characters are printed over one another.
    let mut plain = String::new();
    for character in text.chars() {
        match character {
            '\u{8}' => drop(plain.pop()),
            character => plain.push(character),
        }
    }
    words(&plain)
}

fn words(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ")
}

/// Returns the directory's files, with their content.
fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            let content = fs::read(&path).unwrap();
            files.push((path, content));
        }
    }
    files.sort();
    files
}

fn the_pages_are_well_formed() {
    let share = written();
    let pages = files(&share.path().join("man"));
    assert!(pages.len() > 20, "{}", pages.len());
    for (page, content) in pages {
        // A page that is another's is only found from man's directory.
        if !content.starts_with(b".so ") {
            output(
                Command::new("mandoc")
                    .args(["-T", "lint", "-W", "warning"])
                    .arg(page),
            );
        }
    }
}

fn every_option_is_on_its_commands_page() {
    let share = written();
    let man1 = share.path().join("man/man1");
    let mut command = nacre::command_line();
    let main = read(&man1.join("nacre.1"));
    assert!(
        main.contains("--root <DIR> [default: /run/nacre]"),
        "{main}"
    );
    let mut pages = vec![(command.clone(), main)];
    for subcommand in command.get_subcommands_mut() {
        let page = read(&man1.join(format!("nacre-{}.1", subcommand.get_name())));
        pages.push((subcommand.clone(), page));
    }
    for (command, page) in pages {
        let about = words(&command.get_about().unwrap().to_string());
        assert!(page.contains(&about), "{about}: {page}");
        for argument in command.get_arguments() {
            let long = argument.get_long().map(|long| format!("--{long}"));
            let help = words(&argument.get_help().unwrap().to_string());
            for text in long.iter().chain([&help]) {
                assert!(page.contains(text), "{text}: {page}");
            }
        }
        let notes = command.get_after_help().map(ToString::to_string);
        for line in notes.iter().flat_map(|notes| notes.lines()) {
            assert!(page.contains(&words(line)), "{line}: {page}");
        }
    }
}

/// What the page in docs/ has is what nacre takes: that is tested there.
fn the_configuration_page_has_the_file() {
    let share = written();
    let page = read(&share.path().join("man/man5/nacre-config.toml.5"));
    let source = include_str!("../../docs/configuration.md");
    let (_, file) = source.split_once("```toml\n").unwrap();
    let (file, after) = file.split_once("```").unwrap();
    for line in file.lines() {
        assert!(page.contains(&words(line)), "{line}: {page}");
    }
    // The sections after it are there, too, up to the last one's end.
    for word in ["WITHOUT KVM", "THE SIZE OF THE VM", "dev.nacre.vm.cpus"] {
        assert!(page.contains(word), "{word}: {page}");
    }
    let last = words(after).replace('`', "");
    let end: String = last
        .chars()
        .rev()
        .take(30)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    assert!(page.contains(&end), "{end}: {page}");
}

fn whoever_writes_them_they_are_the_same() {
    let (one, other) = (written(), tempfile::tempdir().unwrap());
    let mut writer = writer();
    writer
        .arg(other.path())
        .env("XDG_RUNTIME_DIR", "/run/user/1000")
        .env("COLUMNS", "40")
        .env("LANG", "tr_TR.UTF-8")
        .env("TZ", "Pacific/Kiritimati");
    output(&mut writer);
    let [one, other] = [one, other].map(|directory| {
        let relative = |(path, content): (PathBuf, _)| {
            (
                path.strip_prefix(directory.path()).unwrap().to_owned(),
                content,
            )
        };
        files(directory.path())
            .into_iter()
            .map(relative)
            .collect::<Vec<_>>()
    });
    assert!(one == other);
    let (_, page) = one
        .iter()
        .find(|(path, _)| path.ends_with("nacre.1"))
        .unwrap();
    assert!(String::from_utf8_lossy(page).contains("2023-11-14"));
}

fn they_are_written_over_older_ones() {
    let share = written();
    let before = files(share.path());
    write_into(share.path());
    assert!(files(share.path()) == before);
}

fn bash_completes() {
    let share = written();
    for (name, line, expected) in [
        ("nacre", "nacre re", "restore resume"),
        ("nacre-vm", "nacre-vm re", "restore resume"),
        ("nacre", "nacre kill --a", "--all"),
        ("nacre", "nacre --isolation ", "process vm"),
    ] {
        let file = share.path().join("bash-completion/completions").join(name);
        let script = r#"
            . "$1"
            function_of() { while [[ $1 != -F ]]; do shift; done; echo "$2"; }
            COMP_WORDS=($3); [[ $3 = *' ' ]] && COMP_WORDS+=('')
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            $(function_of $(complete -p "$2")) "$2" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\n' "${COMPREPLY[@]}" | sort | xargs
        "#;
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", script, "bash"])
            .arg(file)
            .args([name, line]);
        assert_eq!(output(&mut bash).trim_end(), expected, "{line}");
    }
}

/// zsh completes only on a terminal of its own.
fn zsh_completes() {
    let share = written();
    for (line, expected) in [
        ("nacre resu", "nacre resume"),
        ("nacre-process resu", "nacre-process resume"),
        ("nacre kill --al", "nacre kill --all"),
    ] {
        let script = r#"
            zmodload zsh/zpty
            zpty shell env TERM=dumb zsh -f
            zpty -w shell "fpath=($1 \$fpath); PS1='pro''mpt:'; autoload -Uz compinit; compinit -u -D; echo rea''dy"
            # What is typed before the prompt is the terminal's to echo, not the shell's to read.
            zpty -r -m shell text '*ready*prompt:*' || exit
            zpty -n -w shell "$2"$'\t\C-a[\C-e]\n'
            zpty -r -m shell text '*\[*\]*'
            print -r -- "$text"
            zpty -d shell
        "#;
        let mut zsh = Command::new("zsh");
        let functions = share.path().join("zsh");
        zsh.args(["-f", "-c", script, "zsh"])
            .arg(functions)
            .arg(line);
        let text = output(&mut zsh);
        assert!(text.contains(expected), "{line}: {text:?}");
    }
}

fn fish_completes() {
    let share = written();
    let home = tempfile::tempdir().unwrap();
    // It completes programs that exist.
    for name in ["nacre", "nacre-vm"] {
        std::os::unix::fs::symlink("/bin/true", home.path().join(name)).unwrap();
    }
    let paths = std::env::var("PATH").unwrap();
    let paths = format!("{}:{paths}", home.path().display());
    for (line, expected) in [
        ("nacre resu", "resume"),
        ("nacre-vm resu", "resume"),
        ("nacre kill --al", "--all"),
    ] {
        let mut fish = Command::new("fish");
        fish.env("HOME", home.path())
            .env("PATH", &paths)
            .env("XDG_DATA_DIRS", share.path())
            .args([
                "--no-config",
                "-c",
                "set fish_complete_path $argv[1]; complete -C $argv[2]",
            ])
            .arg(share.path().join("fish/vendor_completions.d"))
            .arg(line);
        let text = output(&mut fish);
        let mut words = text.split('\t').next().unwrap().split_whitespace();
        assert_eq!(words.next(), Some(expected), "{line}: {text}");
    }
}
