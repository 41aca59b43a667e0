//! The chart: bars of rates on a logarithmic scale, for a README in light and in dark.

use crate::report::Row;
use crate::report::table::rate;

/// The works that are rates of the same kind of thing, and fit one picture.
const WORKS: [&str; 7] = [
    "write-1",
    "write-64",
    "write-1000",
    "mix",
    "hot",
    "read",
    "recover",
];

/// Contenders that are no choice, but a check of the load generator.
const LEFT_OUT: [&str; 1] = ["idle"];

const WIDTH: f64 = 860.0;
/// Where bars begin, and where the longest ends; names stand before and figures behind.
const BARS: std::ops::Range<f64> = 190.0..700.0;
const BAR_HEIGHT: f64 = 15.0;
const BAR_STEP: f64 = 18.0;
const HEADING_HEIGHT: f64 = 34.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 16.0;

/// The colours follow the reader's setting; each is told from both backgrounds.
const STYLE: &str = "\
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.work { font-weight: 600 }
.quiet { fill: #59636e }
.bar { fill: #8c959f }
.ours { fill: #0969da }
.grid { stroke: #d1d9e0 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc }
.quiet { fill: #9198a1 }
.bar { fill: #656c76 }
.ours { fill: #4493f8 }
.grid { stroke: #3d444d }
}";

/// The chart as SVG; only a title where none of the works in it was measured.
pub(crate) fn svg(rows: &[Row]) -> String {
    let shown: Vec<&Row> = WORKS
        .iter()
        .flat_map(|work| rows.iter().filter(move |row| row.work == *work))
        .filter(|row| !LEFT_OUT.contains(&row.contender) && row.per_second.is_some())
        .collect();
    let decades = decades(&shown);
    let mut body = String::new();
    let mut y = TOP;
    for block in shown.chunk_by(|row, next| row.is_beside(next)) {
        if let Some(first) = block.first() {
            y += HEADING_HEIGHT;
            let what = heading(first);
            body.push_str(&label(8.0, y - 10.0, "work", "start", &what));
        }
        for row in block {
            body.push_str(&bar(row, y, &decades));
            y += BAR_STEP;
        }
    }
    let height = y + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"Answers per second of user-state and its peers\">\n\
         <style>\n{STYLE}\n</style>\n"
    );
    let title = "Answers per second, logarithmic scale: longer is better";
    svg.push_str(&label(8.0, 22.0, "title", "start", title));
    if !shown.is_empty() {
        for decade in decades.clone() {
            let x = position(10_f64.powi(decade), &decades);
            svg.extend([format!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{y:.1}\"/>\n"
            )]);
            svg.push_str(&label(
                x,
                TOP - 4.0,
                "quiet",
                "middle",
                &rate(10_f64.powi(decade)),
            ));
        }
    }
    svg + &body + "</svg>\n"
}

/// The powers of ten around all rates, one more than needed where they are equal.
fn decades(rows: &[&Row]) -> std::ops::RangeInclusive<i32> {
    let rates = || {
        rows.iter()
            .filter_map(|row| row.per_second)
            .filter(|rate| *rate >= 1.0)
    };
    let below = |rate: f64| {
        (0..12)
            .rev()
            .find(|decade| 10_f64.powi(*decade) <= rate)
            .unwrap_or(0)
    };
    let least = rates().min_by(f64::total_cmp).map_or(0, below);
    let most = rates().max_by(f64::total_cmp).map_or(0, below);
    least..=most + 1
}

/// Where a rate stands on the scale.
fn position(rate: f64, decades: &std::ops::RangeInclusive<i32>) -> f64 {
    let (first, last) = (f64::from(*decades.start()), f64::from(*decades.end()));
    let part = (rate.max(1.0).log10() - first) / (last - first);
    BARS.start + part.clamp(0.0, 1.0) * (BARS.end - BARS.start)
}

fn heading(row: &Row) -> String {
    let Row {
        work,
        callers,
        users,
        ..
    } = row;
    let what = match *work {
        "mix" => "75 % reads, popular users more often",
        "hot" => "durable commands on few users",
        "read" => "reads of users",
        "recover" => "users recovered",
        _ => "durable commands",
    };
    let plural = if *callers == 1 { "" } else { "s" };
    format!("{what}: {callers} caller{plural}, {users} users")
}

fn bar(row: &Row, y: f64, decades: &std::ops::RangeInclusive<i32>) -> String {
    let per_second = row.per_second.unwrap_or_default();
    let end = position(per_second, decades);
    let class = if row.contender == "user-state" {
        "ours"
    } else {
        "bar"
    };
    let (start, width) = (BARS.start, (end - BARS.start).max(1.0));
    let base = y + BAR_HEIGHT - 3.5;
    label(start - 8.0, base, "", "end", row.contender)
        + &format!(
            "<rect class=\"{class}\" x=\"{start}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{BAR_HEIGHT}\" rx=\"2\"/>\n"
        )
        + &label(end + 6.0, base, "quiet", "start", &rate(per_second))
}

fn label(x: f64, y: f64, class: &str, anchor: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{row, row_not_run};

    #[test]
    fn bars_grow_with_the_rate_and_stay_inside() {
        let decades = 2..=5;
        let positions = [100.0, 1_000.0, 5_000.0, 100_000.0].map(|rate| position(rate, &decades));
        assert!(positions.is_sorted());
        assert!((positions[0] - BARS.start).abs() < 1e-9);
        assert!((positions[3] - BARS.end).abs() < 1e-9);
        assert!(position(1e9, &decades) <= BARS.end && position(0.0, &decades) >= BARS.start);
    }

    #[test]
    fn the_scale_reaches_from_the_least_rate_to_the_most() {
        let rows = [
            row("hot", "user-state", 1_860_000.0),
            row("hot", "raw-row", 14_000.0),
        ];
        assert_eq!(decades(&rows.iter().collect::<Vec<_>>()), 4..=7);
        assert_eq!(decades(&[]), 0..=1);
    }

    #[test]
    fn every_contender_that_was_run_has_a_bar_and_nobody_else() {
        let rows = [
            row("hot", "user-state", 1_000.0),
            row("hot", "raw-row", 10.0),
            row("hot", "idle", 5_000.0),
            row_not_run("hot", "pekko", "no plugin"),
        ];
        let svg = svg(&rows);
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains(">user-state<") && svg.contains(">raw-row<"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn without_figures_there_is_still_a_picture() {
        assert!(svg(&[]).ends_with("</svg>\n"));
    }
}
