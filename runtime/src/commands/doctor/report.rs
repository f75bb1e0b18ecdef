//! `nacre doctor`: checks whether this host can run containers, and says what to do if it can't.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    cli::{Doctor, Global, ReportFormat},
    commands::{
        error::Error,
        output::{print, print_json},
    },
    config::{Config, Isolation},
};

use super::{
    finding::{Finding, Level},
    process, vm,
};

/// The findings about one kind of isolation.
struct Group {
    isolation: Isolation,
    findings: Vec<Finding>,
}

impl Group {
    /// Returns whether that isolation is available.
    fn is_possible(&self) -> bool {
        self.findings.iter().all(|f| f.level != Level::Error)
    }
}

pub(in crate::commands) fn doctor(global: &Global, arguments: &Doctor) -> Result<u8, Error> {
    let config = Config::load(global.config.as_deref())?;
    let chosen = global
        .isolation
        .or(config.isolation)
        .unwrap_or(Isolation::Vm);
    let groups = [
        Group {
            isolation: Isolation::Vm,
            findings: vm::examine(&config, global.hypervisor),
        },
        Group {
            isolation: Isolation::Process,
            findings: process::examine(),
        },
    ];
    match arguments.format {
        ReportFormat::Text => print(&text(&groups, chosen))?,
        ReportFormat::Json => print_json(&document(&groups, chosen))?,
    }
    let possible = groups
        .iter()
        .any(|group| group.isolation == chosen && group.is_possible());
    Ok(u8::from(!possible))
}

fn text(groups: &[Group], chosen: Isolation) -> String {
    let mut text = String::new();
    for group in groups {
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "isolation {}{}: {}",
            group.isolation.name(),
            if group.isolation == chosen {
                " (chosen)"
            } else {
                ""
            },
            if group.is_possible() {
                "can be had"
            } else {
                "can't be had"
            }
        );
        for finding in &group.findings {
            let mark = match finding.level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Error => "error",
            };
            let _ = writeln!(text, "  {mark:8}{}", finding.message);
            if let Some(remedy) = finding.remedy {
                let _ = writeln!(text, "          to do: {remedy}");
            }
        }
    }
    text
}

fn document(groups: &[Group], chosen: Isolation) -> Value {
    let isolations: serde_json::Map<String, Value> = groups
        .iter()
        .map(|group| {
            let document = json!({
                "possible": group.is_possible(),
                "findings": group.findings,
            });
            (group.isolation.name().to_owned(), document)
        })
        .collect();
    json!({"chosen": chosen, "isolation": isolations})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(findings: Vec<Finding>) -> Group {
        Group {
            isolation: Isolation::Vm,
            findings,
        }
    }

    #[test]
    fn an_error_makes_an_isolation_impossible_and_a_warning_does_not() {
        let fine = || Finding::ok("a", "");
        assert!(group(vec![fine(), Finding::warning("b", "", "")]).is_possible());
        assert!(!group(vec![fine(), Finding::error("c", "", "")]).is_possible());
    }

    #[test]
    fn both_forms_say_the_same() {
        let groups = [group(vec![Finding::error("toy", "it is a toy", "buy one")])];
        assert_eq!(
            text(&groups, Isolation::Vm),
            "isolation vm (chosen): can't be had\n  error   it is a toy\n          to do: buy one\n"
        );
        let document = document(&groups, Isolation::Vm);
        assert_eq!(document["chosen"], "vm");
        let vm = &document["isolation"]["vm"];
        assert_eq!(vm["possible"], false);
        let finding = json!({
            "name": "toy", "level": "error", "message": "it is a toy", "remedy": "buy one",
        });
        assert_eq!(vm["findings"], json!([finding]));
    }
}
