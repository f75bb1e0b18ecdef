//! The modules of a crate, read from its source, and what each of its files uses of others.
//!
//! A path is followed through `crate`, `self`, `super`, imports and re-exports to the file that
//! defines what it names, so that a name which a `mod.rs` only passes on counts as its definer's.
//! What is compiled for tests only is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// Source files by their paths from the workspace's root.
pub(crate) type Sources = BTreeMap<String, String>;

/// What each file uses of each other one: names by (user, definer).
pub(crate) type Uses = BTreeMap<(String, String), BTreeSet<String>>;

/// A crate: what others call it, unless they can't, and the path of its first file.
pub(crate) struct Crate {
    pub(crate) name: Option<&'static str>,
    pub(crate) root: &'static str,
}

/// Returns what the files of these crates use of each other.
pub(crate) fn uses(sources: &Sources, crates: &[Crate]) -> Uses {
    let mut tree = Tree {
        sources,
        modules: Vec::new(),
        roots: BTreeMap::new(),
    };
    for one in crates {
        let root = tree.modules.len();
        let directory = one.root.rsplit_once('/').expect("a folder").0;
        let text = &sources[one.root];
        tree.add_file(None, one.root, directory, text);
        if let Some(name) = one.name {
            tree.roots.insert(name, root);
        }
    }
    tree.uses()
}

/// A module: of a file, or within one.
struct Module {
    file: String,
    parent: Option<usize>,
    modules: BTreeMap<String, usize>,
    items: BTreeSet<String>,
    /// What is imported under a name, here or in a function; more than one if a function and a
    /// module have it, or two functions each import another.
    imports: BTreeMap<String, Vec<Vec<String>>>,
    globs: Vec<Vec<String>>,
    /// The paths that its code has, and its own imports for itself.
    paths: BTreeSet<Vec<String>>,
}

/// What a path leads to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Module(usize),
    /// Something that this module defines.
    ItemOf(usize),
}

struct Tree<'a> {
    sources: &'a Sources,
    modules: Vec<Module>,
    roots: BTreeMap<&'static str, usize>,
}

impl Tree<'_> {
    /// Adds the module that a file is, with those below it, whose files are in `directory`.
    fn add_file(
        &mut self,
        parent: Option<usize>,
        file: &str,
        directory: &str,
        text: &str,
    ) -> usize {
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        self.add(parent, file, directory, &parsed.items)
    }

    fn add(&mut self, parent: Option<usize>, file: &str, directory: &str, items: &[Item]) -> usize {
        let mut reader = Reader::default();
        for item in items {
            reader.visit_item(item);
        }
        let id = self.modules.len();
        self.modules.push(Module {
            file: file.to_owned(),
            parent,
            modules: BTreeMap::new(),
            items: reader.items,
            imports: reader.imports,
            globs: reader.globs,
            paths: reader.paths,
        });
        for (name, content) in reader.modules {
            let below = format!("{directory}/{name}");
            let module = match content {
                Some(items) => self.add(Some(id), file, &below, items),
                None => {
                    let found = [format!("{below}.rs"), format!("{below}/mod.rs")];
                    let found = found
                        .iter()
                        .find_map(|path| self.sources.get_key_value(path));
                    let (path, text) = found.unwrap_or_else(|| panic!("no file for {below}"));
                    self.add_file(Some(id), path, &below, text)
                }
            };
            self.modules[id].modules.insert(name, module);
        }
        id
    }

    fn uses(&self) -> Uses {
        let mut uses = Uses::new();
        for (id, module) in self.modules.iter().enumerate() {
            for path in &module.paths {
                for target in self.resolve(id, path, &mut Vec::new()) {
                    let Target::ItemOf(definer) = target else {
                        continue;
                    };
                    let file = &self.modules[definer].file;
                    if *file != module.file {
                        let pair = (module.file.clone(), file.clone());
                        let name = path.last().expect("a path isn't empty").clone();
                        uses.entry(pair).or_default().insert(name);
                    }
                }
            }
        }
        uses
    }

    /// Returns all that a path may lead to, seen from a module; nothing if it leads to another
    /// crate, or to a local name. `seen` keeps imports in a ring from being followed for ever.
    fn resolve(
        &self,
        from: usize,
        path: &[String],
        seen: &mut Vec<(usize, String)>,
    ) -> BTreeSet<Target> {
        let (first, mut rest) = path.split_first().expect("a path isn't empty");
        let mut at = match first.as_str() {
            "crate" => BTreeSet::from([Target::Module(self.root_of(from))]),
            "self" => BTreeSet::from([Target::Module(from)]),
            "super" => self.parent_of(from),
            name => match self.roots.get(name) {
                Some(root) => BTreeSet::from([Target::Module(*root)]),
                None => self.look_up(from, name, seen),
            },
        };
        while let Some((name, after)) = rest.split_first() {
            at = at
                .into_iter()
                .flat_map(|target| match target {
                    Target::Module(module) if name == "super" => self.parent_of(module),
                    Target::Module(module) => self.look_up(module, name, seen),
                    // A variant or an associated item.
                    Target::ItemOf(_) => BTreeSet::from([target]),
                })
                .collect();
            rest = after;
        }
        at
    }

    /// Returns all that a module has under a name, of its own or imported.
    fn look_up(&self, id: usize, name: &str, seen: &mut Vec<(usize, String)>) -> BTreeSet<Target> {
        let mut found = BTreeSet::new();
        if seen.contains(&(id, name.to_owned())) {
            return found;
        }
        seen.push((id, name.to_owned()));
        let module = &self.modules[id];
        found.extend(
            module
                .modules
                .get(name)
                .map(|module| Target::Module(*module)),
        );
        if module.items.contains(name) {
            found.insert(Target::ItemOf(id));
        }
        for path in module.imports.get(name).into_iter().flatten() {
            found.extend(self.resolve(id, path, seen));
        }
        if found.is_empty() {
            for glob in &module.globs {
                for target in self.resolve(id, glob, seen) {
                    if let Target::Module(module) = target {
                        found.extend(self.look_up(module, name, seen));
                    }
                }
            }
        }
        seen.pop();
        found
    }

    fn root_of(&self, mut id: usize) -> usize {
        while let Some(parent) = self.modules[id].parent {
            id = parent;
        }
        id
    }

    fn parent_of(&self, id: usize) -> BTreeSet<Target> {
        self.modules[id]
            .parent
            .into_iter()
            .map(Target::Module)
            .collect()
    }
}

/// Collects what one module says, without the modules in it.
#[derive(Default)]
struct Reader<'ast> {
    /// Modules below this one, with their content unless they are in files of their own.
    modules: Vec<(String, Option<&'ast [Item]>)>,
    items: BTreeSet<String>,
    imports: BTreeMap<String, Vec<Vec<String>>>,
    globs: Vec<Vec<String>>,
    paths: BTreeSet<Vec<String>>,
    /// Whether this is within a function, whose items nobody else can name.
    is_inside: bool,
}

impl Reader<'_> {
    fn import(&mut self, tree: &UseTree, prefix: &[String], is_own: bool) {
        let with = |name: String| [prefix, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.import(&path.tree, &with(path.ident.to_string()), is_own),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, prefix, is_own);
                }
            }
            UseTree::Glob(_) => {
                self.globs.push(prefix.to_vec());
                // Of a type, whose variants it imports.
                self.paths.insert(prefix.to_vec());
            }
            UseTree::Name(name) => {
                self.import_as(name.ident.to_string(), with(name.ident.to_string()), is_own)
            }
            UseTree::Rename(rename) => {
                self.import_as(
                    rename.rename.to_string(),
                    with(rename.ident.to_string()),
                    is_own,
                );
            }
        }
    }

    fn import_as(&mut self, name: String, mut path: Vec<String>, is_own: bool) {
        // `use a::b::{self}`.
        let mut name = name;
        if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
            path.pop();
            if name == "self" {
                name = path.last().expect("it isn't empty").clone();
            }
        }
        if is_own {
            self.paths.insert(path.clone());
        }
        // `use dbus;` names a crate, and would lead to itself.
        if path != [name.clone()] {
            self.imports.entry(name).or_default().push(path);
        }
    }

    /// Reads the paths in a macro's arguments, whatever their syntax is.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        let mut is_member = false;
        for token in tokens {
            match &token {
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => {
                    path.push(ident.to_string());
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(punct)
                    if punct.as_char() == ':' && !path.is_empty() && colons < 2 =>
                {
                    colons += 1;
                    continue;
                }
                _ => {}
            }
            self.path(mem::take(&mut path));
            colons = 0;
            match token {
                TokenTree::Ident(ident) if !is_member => path.push(ident.to_string()),
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Punct(punct) => {
                    is_member = punct.as_char() == '.';
                    continue;
                }
                _ => {}
            }
            is_member = false;
        }
        self.path(path);
    }

    fn path(&mut self, path: Vec<String>) {
        if !path.is_empty() {
            self.paths.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'ast> {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name) = described(item);
        if attributes.iter().any(is_for_tests) {
            return;
        }
        if let Some(name) = name
            && !self.is_inside
        {
            self.items.insert(name);
        }
        match item {
            Item::Mod(module) => {
                let items = module.content.as_ref().map(|(_, items)| items.as_slice());
                self.modules.push((module.ident.to_string(), items));
            }
            Item::Use(import) if import.leading_colon.is_none() => {
                let is_own = matches!(import.vis, syn::Visibility::Inherited);
                self.import(&import.tree, &[], is_own);
            }
            _ => visit::visit_item(self, item),
        }
    }

    fn visit_block(&mut self, block: &'ast syn::Block) {
        let was = mem::replace(&mut self.is_inside, true);
        visit::visit_block(self, block);
        self.is_inside = was;
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !function.attrs.iter().any(is_for_tests) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let names = path
                .segments
                .iter()
                .map(|segment| segment.ident.to_string());
            self.paths.insert(names.collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone());
    }
}

/// Returns an item's attributes, and the name that it has for others.
fn described(item: &Item) -> (&[Attribute], Option<String>) {
    match item {
        Item::Const(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Enum(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Fn(item) => (&item.attrs, Some(item.sig.ident.to_string())),
        Item::Macro(item) => (&item.attrs, item.ident.as_ref().map(ToString::to_string)),
        Item::Static(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Struct(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Trait(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Type(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Union(item) => (&item.attrs, Some(item.ident.to_string())),
        Item::Impl(item) => (&item.attrs, None),
        Item::Mod(item) => (&item.attrs, None),
        Item::Use(item) => (&item.attrs, None),
        _ => (&[], None),
    }
}

/// Returns whether an attribute keeps what it is on for tests: `test`, or a `cfg` that asks for it.
fn is_for_tests(attribute: &Attribute) -> bool {
    if attribute.path().is_ident("test") {
        return true;
    }
    let Ok(list) = attribute.meta.require_list() else {
        return false;
    };
    let words: Vec<_> = list
        .tokens
        .clone()
        .into_iter()
        .map(|token| token.to_string())
        .collect();
    attribute.path().is_ident("cfg")
        && (words == ["test"]
            || words.first().is_some_and(|word| word == "all") && words[1].contains("test"))
}
