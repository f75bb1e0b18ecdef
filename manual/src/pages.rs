//! Writes the man pages: nacre's, each command's, and that of the configuration file.

use std::{fmt, fs, io, path::Path};

use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::{LINKS, markdown};

/// A day of the Gregorian calendar.
pub(crate) struct Date {
    year: u64,
    month: u64,
    day: u64,
}

impl Date {
    /// Returns the day in UTC that is this many seconds after the start of 1970.
    pub(crate) fn from_seconds(seconds: u64) -> Self {
        // A year from March to February has its leap day at its end, and months whose lengths follow
        // a rule; 719,468 days lie between March 1st of the year 0 and 1970.
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
        }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// Writes the pages into `man1` and `man5` of a directory.
pub(crate) fn write(command: &Command, date: &Date, directory: &Path) -> io::Result<()> {
    let [man1, man5] = ["man1", "man5"].map(|section| directory.join(section));
    fs::create_dir_all(&man1)?;
    fs::create_dir_all(&man5)?;
    fs::write(man1.join("nacre.1"), main_page(command, date)?)?;
    for link in LINKS {
        fs::write(man1.join(format!("{link}.1")), ".so man1/nacre.1\n")?;
    }
    for subcommand in command.get_subcommands() {
        let name = format!("nacre-{}", subcommand.get_name());
        fs::write(
            man1.join(format!("{name}.1")),
            command_page(&name, subcommand, date)?,
        )?;
    }
    fs::write(man5.join("nacre-config.toml.5"), configuration_page(date))
}

/// The page of nacre itself. What the command's help says at its end is in the configuration file's.
fn main_page(command: &Command, date: &Date) -> io::Result<String> {
    let man = page(command.clone().subcommand_help_heading("COMMANDS"), date);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_subcommands_section(&mut page)?;
    let mut rest = Roff::new();
    markdown::render(include_str!("nacre.md"), &mut rest);
    see_also(&mut rest, &[("nacre-config.toml", 5)]);
    page.extend(rest.to_roff().bytes());
    Ok(tidied(&page))
}

/// The page of one command, with its own options.
fn command_page(name: &str, command: &Command, date: &Date) -> io::Result<String> {
    let command = command
        .clone()
        .display_name(name)
        .bin_name(name.replacen('-', " ", 1));
    let man = page(command.clone(), date);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut rest = Roff::new();
    rest.control("PP", []);
    rest.text([
        roman("The options of "),
        bold("nacre"),
        roman("(1) can be given too."),
    ]);
    if let Some(notes) = command.get_after_help() {
        rest.control("SH", ["NOTES"]);
        markdown::verbatim(&notes.to_string(), &mut rest);
    }
    see_also(&mut rest, &[("nacre", 1), ("nacre-config.toml", 5)]);
    page.extend(rest.to_roff().bytes());
    Ok(tidied(&page))
}

/// Returns the page with one macro for the distance that `clap_mangen` makes of two breaks around an
/// empty line, and without spaces at ends of lines.
fn tidied(page: &[u8]) -> String {
    let page = String::from_utf8_lossy(page).replace("\n.br\n\n.br\n", "\n.sp\n");
    page.lines()
        .flat_map(|line| [line.trim_end(), "\n"])
        .collect()
}

fn page(command: Command, date: &Date) -> Man {
    Man::new(command)
        .date(date.to_string())
        .source(SOURCE)
        .manual(MANUAL)
}

const SOURCE: &str = concat!("nacre ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "nacre";

/// The configuration file's page: docs/configuration.md.
fn configuration_page(date: &Date) -> String {
    let mut page = Roff::new();
    let name = "nacre-config.toml";
    page.control("TH", [name, "5", &date.to_string(), SOURCE, MANUAL]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!(
        "{name} - the configuration file of nacre, and what overrides it"
    ))]);
    page.control("SH", ["DESCRIPTION"]);
    markdown::render(include_str!("../../docs/configuration.md"), &mut page);
    page.control("SH", ["FILES"]);
    page.text([bold("/etc/nacre/config.toml")]);
    see_also(&mut page, &[("nacre", 1)]);
    page.to_roff()
}

fn see_also(page: &mut Roff, pages: &[(&str, u8)]) {
    page.control("SH", ["SEE ALSO"]);
    let last = pages.len() - 1;
    for (index, (name, section)) in pages.iter().enumerate() {
        let end = if index == last { "" } else { "," };
        page.text([bold(*name), roman(format!("({section}){end}"))]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_the_days_in_utc() {
        for (seconds, day) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_709_251_199, "2024-02-29"),
            (1_735_689_599, "2024-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(Date::from_seconds(seconds).to_string(), day);
        }
    }
}
