//! The page: a chart, and tables of everything.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::compare::{
    report::{Figure, Report, Verdict, Wall},
    summary::{Measured, Summary},
};
use crate::text::{Unit, quantity, words};

use super::chart::{chart, is_empty};

const STYLE: &str = include_str!("style.css");

/// Nothing may be loaded or run: what the workload printed is on the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// Writes the page.
pub(in crate::compare) fn page(report: &Report) -> String {
    let title = format!("{}: process or VM?", words(&report.arguments));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                (head(report))
                (cost(&report.cost))
                (wall(&report.wall))
                (same(report))
                footer { p.range { "nacre compare, nacre " (report.nacre) } }
            }
        }
    };
    page.into_string()
}

fn head(report: &Report) -> Markup {
    let host = &report.host;
    html! {
        p {
            (report.runs) " runs in each mode of the bundle " (report.bundle)
            ", on Linux " (host.kernel) ", " (host.cpus) " CPUs"
            @if let Some(load) = host.load { ", load " (format!("{load:.1}")) }
            "."
        }
        @if !report.notes.is_empty() {
            ul { @for note in &report.notes { li { (note) } } }
        }
    }
}

fn cost(figures: &[Figure]) -> Markup {
    html! {
        section id="cost" {
            h2 { "Cost" }
            @if !is_empty(figures) {
                p {
                    span.key.process {} "process" span.key.vm {} "VM"
                    span.range { " Medians, each figure to its own scale; the lines go from the least run to the most." }
                }
                div.scroll { (PreEscaped(chart(figures))) }
            }
            div.scroll {
                table {
                    tr { th { "" } th { "process" } th { "VM" } th { "VM / process" } }
                    @for figure in figures { (cost_row(figure)) }
                }
            }
        }
    }
}

fn cost_row(figure: &Figure) -> Markup {
    html! {
        tr id=(figure.key) {
            td class=[figure.name.starts_with(' ').then_some("part")] { (figure.name.trim()) }
            td { (measured(&figure.process, figure.unit)) }
            td { (measured(&figure.vm, figure.unit)) }
            td {
                @if let Some(ratio) = figure.ratio { (format!("{ratio:.2}")) }
                @else if let Some(doubt) = figure.withheld() {
                    span.doubt { "no verdict: " (doubt) }
                }
            }
        }
    }
}

fn measured(measured: &Measured, unit: Unit) -> Markup {
    match measured {
        Measured::Value(summary) => {
            html! { span.number { (quantity(summary.median, unit)) } " " (range(summary, unit)) }
        }
        Measured::Missing(why) => html! { span.doubt { "not measured: " (why) } },
    }
}

fn range(summary: &Summary, unit: Unit) -> Markup {
    html! {
        @if summary.min < summary.max {
            span.range.number { "(" (quantity(summary.min, unit)) " to " (quantity(summary.max, unit)) ")" }
        }
    }
}

fn wall(wall: &Result<Wall, String>) -> Markup {
    html! {
        section id="wall" {
            h2 { "Wall" }
            @match wall {
                Err(why) => p { "It couldn't be looked at: " (why) },
                Ok(wall) => (lines(wall)),
            }
        }
    }
}

fn lines(wall: &Wall) -> Markup {
    html! {
        p { "What the workload can reach, looked at from inside, by trying." }
        table.wide {
            tr { th { "" } th { "process" } th { "VM" } }
            @for line in &wall.lines {
                tr id=(line.key) {
                    td { (line.name) div.worth { (line.worth) } }
                    td { (line.process) }
                    td { (line.vm) }
                }
            }
        }
        h2 { "Who enforces config.json" }
        table.wide {
            tr { th { "" } th { "process" } th { "VM" } }
            @for enforced in &wall.enforced {
                tr { td { (enforced.what) div.worth { (enforced.field) } } td { (enforced.process) } td { (enforced.vm) } }
            }
        }
        h2 { "What an attack on the host's own kernel would meet" }
        table { @for fact in &wall.host { tr { td { (fact.name) } td { (fact.value) } } } }
    }
}

fn same(report: &Report) -> Markup {
    html! {
        section id="same" {
            h2 { "The same?" }
            table {
                @for likeness in &report.same {
                    tr id=(likeness.key) {
                        td { (likeness.name) }
                        td {
                            @match likeness.is {
                                Verdict::Same => "same",
                                Verdict::Different => span.different { "different" },
                                Verdict::Varies => "varies",
                            }
                        }
                        td { @for detail in &likeness.details { div { (detail) } } }
                    }
                }
            }
        }
    }
}
