//! The order of layers, as docs/architecture.md draws it.
//!
//! A picture is a block that begins with the folder it is of. Each line below names files, without
//! `.rs`, and folders, with `/`; what is on it may use what stands on lines below it. On one line,
//! what `|` divides are neighbours that don't know each other. Two spaces end the names, and what
//! follows is said for the reader. The folder's own first file (`mod.rs`, `lib.rs`, `main.rs`)
//! stands above all, unless it is named.

/// The picture of a folder.
pub(crate) struct Picture {
    /// The folder's path from the workspace's root, with a `/` at its end.
    folder: String,
    lines: Vec<Vec<Vec<String>>>,
}

/// Where a file stands: the line, and which of its groups.
type Place = (usize, usize);

impl Picture {
    /// Reads the pictures below the heading "Layers".
    pub(crate) fn all(page: &str) -> Vec<Self> {
        let (_, section) = page
            .split_once("\n## Layers\n")
            .expect("a section on layers");
        let section = section
            .split("\n## ")
            .next()
            .expect("split gives something");
        let blocks = section.split("\n```").skip(1).step_by(2);
        blocks.map(Self::read).collect()
    }

    fn read(block: &str) -> Self {
        let mut lines = block.lines().filter(|line| !line.is_empty());
        let folder = lines.next().expect("a picture isn't empty").trim();
        let names = |group: &str| group.split_whitespace().map(str::to_owned).collect();
        let read = |line: &str| {
            let line = line.trim_start();
            let end = line.find("  ").unwrap_or(line.len());
            line[..end].split('|').map(names).collect()
        };
        Self {
            folder: format!("{folder}/"),
            lines: lines.map(read).collect(),
        }
    }

    /// Returns what is wrong with a file that uses another, as words to put between them.
    pub(crate) fn objection(&self, user: &str, used: &str) -> Option<&'static str> {
        let (above, below) = (self.place(user)??, self.place(used)??);
        match () {
            () if above.0 > below.0 => Some("stands below"),
            () if above.0 == below.0 && above.1 != below.1 => Some("stands beside"),
            () => None,
        }
    }

    /// Returns whether a file is of this folder, and has no place in its picture.
    pub(crate) fn lacks(&self, file: &str) -> bool {
        self.place(file) == Some(None)
    }

    /// Returns a file's place, if it has one, if it is of this folder.
    fn place(&self, file: &str) -> Option<Option<Place>> {
        let file = file.strip_prefix(&self.folder)?;
        let stem = file.strip_suffix(".rs").unwrap_or(file);
        let mut best: Option<(usize, Place)> = None;
        for (line, groups) in self.lines.iter().enumerate() {
            for (group, names) in groups.iter().enumerate() {
                for name in names {
                    let is_here = if name.ends_with('/') {
                        file.starts_with(name) || *name == format!("{stem}/")
                    } else {
                        stem == name
                    };
                    if is_here && best.is_none_or(|(length, _)| length < name.len()) {
                        best = Some((name.len(), (line + 1, group)));
                    }
                }
            }
        }
        let is_face = ["mod", "lib", "main"].contains(&stem);
        Some(best.map(|(_, place)| place).or(is_face.then_some((0, 0))))
    }
}
