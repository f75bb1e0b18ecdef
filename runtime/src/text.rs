//! Quantities and words as people write them, and text that others wrote for a terminal.

use serde::Serialize;

/// What a quantity is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    Seconds,
    Bytes,
    Count,
}

/// Whether a terminal shows a character and does nothing else for it.
pub(crate) fn is_shown(c: char) -> bool {
    // Those that turn the direction of what follows would show another order.
    let is_turn = |c| matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !is_turn(c)
}

/// Replaces what isn't text: an image or a guest says what it likes, and a terminal obeys.
pub(crate) fn harmless(text: &str) -> String {
    let is_text = |c: char| matches!(c, '\n' | '\t') || is_shown(c);
    let chars = text
        .chars()
        .map(|c| if is_text(c) { c } else { '\u{fffd}' });
    chars.collect()
}

/// Does the same, and leaves one line.
pub(crate) fn one_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], "\u{fffd}")
}

/// Returns arguments as one would type them.
pub(crate) fn words(arguments: &serde_json::Value) -> String {
    let words = arguments.as_array().into_iter().flatten();
    let words = words.filter_map(|word| word.as_str()).map(|word| {
        let is_plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) {
            word.to_owned()
        } else {
            format!("{word:?}")
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Returns a quantity with a unit of a fitting size.
pub(crate) fn quantity(value: f64, unit: Unit) -> String {
    let scales: &[(f64, &str)] = match unit {
        Unit::Seconds => &[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")],
        Unit::Bytes => &[
            ((1u64 << 30) as f64, "GiB"),
            ((1u64 << 20) as f64, "MiB"),
            (1024.0, "KiB"),
            (1.0, "B"),
        ],
        Unit::Count => &[],
    };
    if value == 0.0 || unit == Unit::Count {
        return format!("{value:.0}");
    }
    let (scale, name) = scales
        .iter()
        .find(|(scale, _)| value >= *scale)
        .or(scales.last())
        .copied()
        .unwrap_or((1.0, ""));
    let scaled = value / scale;
    match scaled {
        _ if name == "B" => format!("{scaled:.0} {name}"),
        ..10.0 => format!("{scaled:.2} {name}"),
        ..100.0 => format!("{scaled:.1} {name}"),
        _ => format!("{scaled:.0} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_fitting_units() {
        for (value, unit, expected) in [
            (0.0, Unit::Seconds, "0"),
            (12.345, Unit::Seconds, "12.3 s"),
            (0.1234, Unit::Seconds, "123 ms"),
            (0.000_004_2, Unit::Seconds, "4.20 µs"),
            (1e-9, Unit::Seconds, "0.00 µs"),
            (12_345.0, Unit::Count, "12345"),
            (17.0, Unit::Bytes, "17 B"),
            (1536.0, Unit::Bytes, "1.50 KiB"),
            (3.0 * 1024.0 * 1024.0 * 1024.0, Unit::Bytes, "3.00 GiB"),
        ] {
            assert_eq!(quantity(value, unit), expected);
        }
    }

    #[test]
    fn a_terminal_obeys_none_of_it() {
        assert_eq!(
            harmless("a\tb\n\x1b[2Jc\r\u{9b}d\u{202e}"),
            "a\tb\n\u{fffd}[2Jc\u{fffd}\u{fffd}d\u{fffd}"
        );
        assert_eq!(one_line("a\nb"), "a\u{fffd}b");
    }

    #[test]
    fn arguments_are_as_one_would_type_them() {
        let arguments = serde_json::json!(["make", "-j2", "a b", ""]);
        assert_eq!(words(&arguments), r#"make -j2 "a b" """#);
    }
}
