//! Renders the Markdown of the pages in docs/ as roff with the macros of man(7).

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// Appends the page to `roff`. Its title is left out, and each of its sections becomes one.
pub(crate) fn render(page: &str, roff: &mut Roff) {
    let mut renderer = Renderer {
        roff,
        text: Vec::new(),
        style: Style::Roman,
        block: Block::Text,
        first: true,
        columns: Vec::new(),
        cells: Vec::new(),
    };
    for event in Parser::new_ext(page, Options::ENABLE_TABLES) {
        renderer.event(event);
    }
}

/// Appends lines that stay as they are.
pub(crate) fn verbatim(text: &str, roff: &mut Roff) {
    roff.control("EX", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("EE", []);
}

#[derive(Clone, Copy)]
enum Style {
    Roman,
    Bold,
    Italic,
}

/// What text belongs to.
#[derive(PartialEq)]
enum Block {
    Text,
    Code,
    /// An item of a list, which has its paragraph's macro already.
    Item,
}

struct Renderer<'a> {
    roff: &'a mut Roff,
    /// What the current block or cell has so far.
    text: Vec<Inline>,
    style: Style,
    block: Block,
    /// Whether nothing came since the section's heading, after which there is no paragraph's macro.
    first: bool,
    /// A table's header.
    columns: Vec<Vec<Inline>>,
    /// A table's row so far.
    cells: Vec<Vec<Inline>>,
}

impl Renderer<'_> {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.block == Block::Code => self.text.push(roman(text.as_ref())),
            Event::Text(text) => self.text.push(match self.style {
                Style::Roman => roman(text.as_ref()),
                Style::Bold => bold(text.as_ref()),
                Style::Italic => italic(text.as_ref()),
            }),
            Event::Code(code) => self.text.push(bold(code.as_ref())),
            Event::SoftBreak => self.text.push(roman(" ")),
            other => unimplemented!("{other:?} in a page"),
        }
    }

    fn start(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::CodeBlock(_) => self.block = Block::Code,
            Tag::Item => {
                self.roff.control("IP", ["\\(bu", "2"]);
                self.block = Block::Item;
            }
            Tag::Strong => self.style = Style::Bold,
            Tag::Emphasis => self.style = Style::Italic,
            Tag::Heading { .. }
            | Tag::Paragraph
            | Tag::List(None)
            | Tag::Link { .. }
            | Tag::Table(_)
            | Tag::TableHead
            | Tag::TableRow
            | Tag::TableCell => {}
            other => unimplemented!("{other:?} in a page"),
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(HeadingLevel::H1) => self.text.clear(),
            TagEnd::Heading(_) => self.heading(),
            TagEnd::Paragraph => self.paragraph(),
            TagEnd::CodeBlock => self.code(),
            TagEnd::Item => {
                self.flush();
                self.block = Block::Text;
            }
            TagEnd::Strong | TagEnd::Emphasis => self.style = Style::Roman,
            TagEnd::TableCell => {
                let cell = std::mem::take(&mut self.text);
                self.cells.push(cell);
            }
            TagEnd::TableHead => self.columns = std::mem::take(&mut self.cells),
            TagEnd::TableRow => self.row(),
            _ => {}
        }
    }

    /// Writes what the current block has.
    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.roff.text(std::mem::take(&mut self.text));
        }
    }

    fn heading(&mut self) {
        let words: Vec<_> = self.text.drain(..).map(inner).collect();
        let heading = words.concat().to_uppercase();
        self.roff.control("SH", [heading.as_str()]);
        self.first = true;
    }

    fn paragraph(&mut self) {
        if self.block == Block::Text && !self.first {
            self.roff.control("PP", []);
        }
        self.first = false;
        self.flush();
    }

    fn code(&mut self) {
        let code: Vec<_> = self.text.drain(..).map(inner).collect();
        if !self.first {
            self.roff.control("PP", []);
        }
        verbatim(&code.concat(), self.roff);
        self.block = Block::Text;
        self.first = false;
    }

    /// Writes a table's row as what its first cell names, since no table of several columns of
    /// sentences fits a terminal.
    fn row(&mut self) {
        let mut cells = std::mem::take(&mut self.cells).into_iter();
        let name = cells.next().unwrap_or_default();
        if name.is_empty() {
            self.roff.control("IP", [""]);
        } else {
            self.roff.control("TP", []);
            self.roff.text(name);
        }
        let is_pair = cells.len() == 1;
        for (index, (cell, column)) in cells.zip(&self.columns[1..]).enumerate() {
            if index > 0 {
                self.roff.control("br", []);
            }
            let mut line = Vec::new();
            if !is_pair {
                line.extend(column.iter().cloned());
                line.push(roman(": "));
            }
            line.extend(cell);
            self.roff.text(line);
        }
        self.first = false;
    }
}

/// The text of a run, without its style.
fn inner(run: Inline) -> String {
    match run {
        Inline::Roman(text) | Inline::Bold(text) | Inline::Italic(text) => text,
        _ => String::new(),
    }
}
