//! The layers that docs/architecture.md draws, kept: no file uses what stands above it, and neither
//! files nor folders use each other in a circle.

mod circles;
mod modules;
mod picture;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use circles::{Graph, circles};
use modules::{Crate, Sources, Uses, uses};
use picture::Picture;

const CRATES: [Crate; 5] = [
    Crate {
        name: Some("nacre_vmm"),
        root: "vmm/src/lib.rs",
    },
    Crate {
        name: Some("nacre_agent"),
        root: "agent/src/lib.rs",
    },
    Crate {
        name: None,
        root: "agent/src/main.rs",
    },
    Crate {
        name: Some("nacre"),
        root: "runtime/src/lib.rs",
    },
    Crate {
        name: None,
        root: "runtime/src/main.rs",
    },
];

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read_all(folder: &Path, sources: &mut Sources) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(workspace()).unwrap().to_str().unwrap();
            sources.insert(name.to_owned(), fs::read_to_string(&path).unwrap());
        }
    }
}

fn workspace_uses() -> &'static Uses {
    static USES: OnceLock<Uses> = OnceLock::new();
    USES.get_or_init(|| {
        let mut sources = Sources::new();
        for name in ["vmm", "agent", "runtime"] {
            read_all(&workspace().join(name).join("src"), &mut sources);
        }
        uses(&sources, &CRATES)
    })
}

/// Returns a file and the folders it is in, outermost first, each with a `/` at its end.
fn with_folders(file: &str) -> Vec<String> {
    let ends = file.match_indices('/').map(|(at, _)| at + 1);
    ends.chain([file.len()])
        .map(|end| file[..end].to_owned())
        .collect()
}

/// Returns the graph of files; or that of folders, in which a file's use of another is one between
/// the first folders on their paths that differ.
fn graph(uses: &Uses, of_folders: bool) -> Graph {
    let mut graph = Graph::new();
    for (user, used) in uses.keys() {
        let mut pair = (user.clone(), used.clone());
        if of_folders {
            let mut pairs = with_folders(user).into_iter().zip(with_folders(used));
            pair = pairs
                .find(|(one, other)| one != other)
                .expect("two files differ");
            if !(pair.0.ends_with('/') && pair.1.ends_with('/')) {
                continue;
            }
        }
        graph.entry(pair.0).or_default().insert(pair.1);
    }
    graph
}

/// Returns circles as text, with each use in them.
fn described(circles: &[BTreeSet<String>], uses: &Uses) -> String {
    let mut text = String::new();
    for circle in circles {
        writeln!(text, "\ncircle of {}:", circle.len()).unwrap();
        let node = |file: &str| {
            with_folders(file)
                .into_iter()
                .find(|node| circle.contains(node))
        };
        for ((user, used), names) in uses {
            if let (Some(one), Some(other)) = (node(user), node(used))
                && one != other
            {
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                writeln!(text, "  {user} uses {used}: {}", names.join(", ")).unwrap();
            }
        }
    }
    text
}

fn upward(uses: &Uses, pictures: &[Picture]) -> String {
    let mut text = String::new();
    for ((user, used), names) in uses {
        for words in pictures
            .iter()
            .filter_map(|picture| picture.objection(user, used))
        {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            writeln!(
                text,
                "  {user} {words} {used}, and uses its {}",
                names.join(", ")
            )
            .unwrap();
        }
    }
    let files: BTreeSet<_> = uses.keys().flat_map(|(user, used)| [user, used]).collect();
    for file in files {
        if pictures.iter().any(|picture| picture.lacks(file)) {
            writeln!(text, "  {file} has no place in the picture").unwrap();
        }
    }
    text
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let uses = workspace_uses();
    let circles = circles(&graph(uses, false));
    assert!(circles.is_empty(), "{}", described(&circles, uses));
}

#[test]
fn no_folders_use_each_other_in_a_circle() {
    let uses = workspace_uses();
    let circles = circles(&graph(uses, true));
    assert!(circles.is_empty(), "{}", described(&circles, uses));
}

#[test]
fn no_file_uses_what_stands_above_it() {
    let page = fs::read_to_string(workspace().join("docs/architecture.md")).unwrap();
    let upward = upward(workspace_uses(), &Picture::all(&page));
    assert!(upward.is_empty(), "against docs/architecture.md:\n{upward}");
}

/// The check itself, on small trees.
mod check {
    use super::*;

    fn uses_of(files: &[(&str, &str)]) -> Uses {
        let sources = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        let crates = [Crate {
            name: None,
            root: "a/src/lib.rs",
        }];
        uses(&sources.collect(), &crates)
    }

    fn pairs(uses: &Uses) -> Vec<(&str, &str)> {
        uses.keys()
            .map(|(user, used)| {
                (
                    user.trim_start_matches("a/src/"),
                    used.trim_start_matches("a/src/"),
                )
            })
            .collect()
    }

    #[test]
    fn a_name_is_its_definers() {
        let uses = uses_of(&[
            (
                "a/src/lib.rs",
                "mod one; mod two; mod user; pub use one::One;",
            ),
            (
                "a/src/one.rs",
                "pub struct One; pub fn make() -> One { One }",
            ),
            (
                "a/src/two/mod.rs",
                "mod inner; pub use self::inner::{Two as Second, *};",
            ),
            ("a/src/two/inner.rs", "pub struct Two; pub fn globbed() {}"),
            (
                "a/src/user.rs",
                "use crate::{One, two};
                 use super::two::Second;
                 fn f(_: One, _: Second) { println!(\"{:?}\", two::globbed()); }",
            ),
        ]);
        assert_eq!(
            pairs(&uses),
            [("user.rs", "one.rs"), ("user.rs", "two/inner.rs")]
        );
        let names = &uses[&("a/src/user.rs".to_owned(), "a/src/two/inner.rs".to_owned())];
        assert_eq!(names.iter().collect::<Vec<_>>(), ["Second", "globbed"]);
    }

    #[test]
    fn tests_are_left_out() {
        let uses = uses_of(&[
            ("a/src/lib.rs", "mod one; mod two;"),
            (
                "a/src/one.rs",
                "pub fn one() {} #[cfg(test)] mod tests; #[cfg(test)] use crate::two::two;",
            ),
            (
                "a/src/two.rs",
                "pub fn two() {} #[cfg(all(test, unix))] mod tests { use crate::one::one; }
                 #[cfg(not(test))] fn f() { crate::one::one() }",
            ),
        ]);
        assert_eq!(pairs(&uses), [("two.rs", "one.rs")]);
    }

    #[test]
    fn circles_of_files_and_of_folders_are_found() {
        let uses = uses_of(&[
            ("a/src/lib.rs", "mod x; mod y; mod z;"),
            ("a/src/x/mod.rs", "pub mod high; pub mod low;"),
            ("a/src/x/high.rs", "pub fn f() { super::super::y::f() }"),
            ("a/src/x/low.rs", "pub fn f() { crate::z::f() }"),
            ("a/src/y/mod.rs", "mod inner; pub use inner::f;"),
            (
                "a/src/y/inner.rs",
                "use crate::x::low; pub fn f() { low::f() }",
            ),
            ("a/src/z.rs", "pub fn f() {}"),
        ]);
        assert!(circles(&graph(&uses, false)).is_empty());
        let found = circles(&graph(&uses, true));
        assert_eq!(
            found,
            [BTreeSet::from([
                "a/src/x/".to_owned(),
                "a/src/y/".to_owned()
            ])]
        );
        assert_eq!(
            described(&found, &uses),
            "\ncircle of 2:\n  a/src/x/high.rs uses a/src/y/inner.rs: f\n  a/src/y/inner.rs uses a/src/x/low.rs: f\n"
        );
        let uses = uses_of(&[
            ("a/src/lib.rs", "mod x; mod y; mod z;"),
            (
                "a/src/x.rs",
                "pub struct X; impl X { fn f() { let _ = super::y::Y; } }",
            ),
            (
                "a/src/y.rs",
                "pub struct Y; fn f() { use crate::z; z::f() }",
            ),
            ("a/src/z.rs", "pub fn f() { drop([crate::x::X]) }"),
        ]);
        assert_eq!(circles(&graph(&uses, false))[0].len(), 3);
    }

    #[test]
    fn the_picture_is_an_order() {
        let page = "# A\n\n## Layers\n\n```\na/src\n  x/ | y   words, with z\n  w v\n  x/low\n```\n\n## B\n\n```\nb\n```\n";
        let [picture] = &Picture::all(page)[..] else {
            panic!("one picture");
        };
        let objection = |user: &str, used: &str| {
            picture.objection(&format!("a/src/{user}.rs"), &format!("a/src/{used}.rs"))
        };
        assert_eq!(objection("lib", "v"), None);
        assert_eq!(objection("x/mod", "v"), None);
        assert_eq!(objection("x/mod", "x/low"), None);
        assert_eq!(objection("w", "v"), None);
        assert_eq!(objection("w", "lib"), Some("stands below"));
        assert_eq!(objection("x/low", "x/mod"), Some("stands below"));
        assert_eq!(objection("v", "y"), Some("stands below"));
        assert_eq!(objection("y", "x/any"), Some("stands beside"));
        assert!(picture.lacks("a/src/u.rs"));
        assert!(!picture.lacks("b/src/u.rs"));
        assert!(!picture.lacks("a/src/x/u.rs"));
    }
}
