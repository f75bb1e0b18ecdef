//! The figures as bars (SVG 1.1).

use svg::{
    Document,
    node::{
        Value,
        element::{Group, Line, Rectangle, Text, Title},
    },
};

use crate::compare::{report::Figure, summary::Summary};
use crate::text::quantity;

/// All in the units of the view box, of which the chart is as wide as its place on the page allows.
const WIDTH: f64 = 720.0;
const NAMES: f64 = 250.0;
const VALUES: f64 = 90.0;
const BAR: f64 = 11.0;
const ROW: f64 = 40.0;

/// Draws what was measured in both modes, each figure to a scale of its own.
pub(super) fn chart(figures: &[Figure]) -> String {
    let rows: Vec<_> = drawn(figures).collect();
    let height = ROW * rows.len() as f64;
    let mut document = Document::new()
        .set("viewBox", (0, 0, WIDTH, height))
        .set("role", "img")
        .add(Title::new(
            "Cost in process mode and in a VM, each figure to its own scale",
        ));
    for (index, (figure, pair)) in rows.into_iter().enumerate() {
        let top = ROW * index as f64;
        let group = Group::new().set("transform", format!("translate(0 {top})"));
        document = document.add(row(group, figure, pair));
    }
    document.to_string()
}

fn row(group: Group, figure: &Figure, pair: [&Summary; 2]) -> Group {
    let most = pair[0].max.max(pair[1].max);
    let scale = (WIDTH - NAMES - VALUES) / most;
    let name = Text::new(figure.name.trim())
        .set("x", NAMES - 10.0)
        .set("y", 20)
        .set("text-anchor", "end");
    let mut group = group.add(name);
    for (index, (class, summary)) in ["process", "vm"].into_iter().zip(pair).enumerate() {
        let y = 4.0 + (BAR + 2.0) * index as f64;
        let middle = y + BAR / 2.0;
        let x = |value: f64| NAMES + value * scale;
        group = group
            .add(
                Rectangle::new()
                    .set("class", class)
                    .set("x", NAMES)
                    .set("y", y)
                    .set("width", (summary.median * scale).max(1.0))
                    .set("height", BAR),
            )
            .add(whisker(x(summary.min), x(summary.max), middle))
            .add(
                Text::new(quantity(summary.median, figure.unit))
                    .set("class", "value")
                    .set("x", x(summary.max) + 6.0)
                    .set("y", y + BAR - 1.0),
            );
    }
    group
}

/// Draws the line from the least to the most.
fn whisker(from: f64, to: f64, y: f64) -> Line {
    let ends: [(&str, Value); 4] = [
        ("x1", from.into()),
        ("x2", to.into()),
        ("y1", y.into()),
        ("y2", y.into()),
    ];
    let line = Line::new().set("class", "spread");
    ends.into_iter()
        .fold(line, |line, (name, value)| line.set(name, value))
}

/// Returns the figures that are drawn, with both sides.
fn drawn(figures: &[Figure]) -> impl Iterator<Item = (&Figure, [&Summary; 2])> {
    figures.iter().filter_map(|figure| {
        let pair = figure.pair()?;
        pair.iter().any(|it| it.max > 0.0).then_some((figure, pair))
    })
}

/// Whether there is nothing to draw.
pub(super) fn is_empty(figures: &[Figure]) -> bool {
    drawn(figures).next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compare::summary::Measured, text::Unit};

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let measured = |value| Measured::new([Some(value)], "");
        let figures = [
            Figure::new("a", "time <1>", Unit::Seconds, measured(1.0), measured(4.0)),
            Figure::new(
                "b",
                "none",
                Unit::Bytes,
                measured(1.0),
                Measured::Missing("x".into()),
            ),
        ];
        let chart = chart(&figures);
        let full = WIDTH - NAMES - VALUES;
        for width in [full, full / 4.0] {
            assert!(chart.contains(&format!("width=\"{width}\"")), "{chart}");
        }
        assert!(
            chart.contains("time &lt;1&gt;") && !chart.contains("none"),
            "{chart}"
        );
        assert!(!is_empty(&figures) && is_empty(&figures[1..]));
    }
}
