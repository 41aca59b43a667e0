//! The table: a block for each case, a line for each contender.

use crate::report::Row;

/// What ratios are of.
const REFERENCES: [&str; 3] = ["raw-row", "raw-batch", "raw-sqlite"];

const COLUMNS: usize = 10;

const HEADINGS: [&str; COLUMNS] = [
    "contender",
    "per second",
    "spread",
    "x raw-row",
    "x raw-batch",
    "x raw-sqlite",
    "p50",
    "p99",
    "p99.9",
    "errors",
];

/// The whole table as text.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    for block in rows.chunk_by(Row::is_beside) {
        if let Some(first) = block.first() {
            let Row {
                work,
                callers,
                users,
                ..
            } = first;
            text.extend([format!("\n{work}: {users} users, {callers} callers\n")]);
        }
        let lines: Vec<[String; COLUMNS]> = block.iter().map(|row| line(row, block)).collect();
        let headings = HEADINGS.map(str::to_owned);
        let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
            let cells = lines.iter().chain([&headings]);
            let widths = cells.filter_map(|cells| cells.get(column)).map(String::len);
            widths.max().unwrap_or_default()
        });
        write_line(&mut text, &headings, &widths, "");
        for (row, cells) in block.iter().zip(&lines) {
            write_line(&mut text, cells, &widths, &remark(row));
        }
    }
    text
}

fn line(row: &Row, block: &[Row]) -> [String; COLUMNS] {
    let [to_row, to_batch, to_sqlite] = REFERENCES.map(|reference| {
        let ratio = row.ratio_to(reference, block);
        ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
    });
    [
        row.contender.to_owned(),
        row.per_second.map_or_else(|| "-".to_owned(), rate),
        row.spread
            .map_or_else(String::new, |spread| format!("{:.0} %", spread * 100.0)),
        to_row,
        to_batch,
        to_sqlite,
        row.p50_us.map_or_else(String::new, time),
        row.p99_us.map_or_else(String::new, time),
        row.p999_us.map_or_else(String::new, time),
        if row.not_run.is_some() {
            String::new()
        } else {
            row.errors.to_string()
        },
    ]
}

/// What is told behind the columns.
fn remark(row: &Row) -> String {
    if let Some(reason) = &row.not_run {
        return format!("not run: {reason}");
    }
    let figures = row.extras.iter().map(|(name, figure)| {
        let figure = if *figure < 100.0 {
            format!("{figure:.2}")
        } else {
            rate(*figure)
        };
        format!("{name} {figure}")
    });
    figures.collect::<Vec<_>>().join(", ")
}

/// The first column to the left, the others to the right, the remark behind them.
fn write_line(
    text: &mut String,
    cells: &[String; COLUMNS],
    widths: &[usize; COLUMNS],
    remark: &str,
) {
    let mut line = String::from(" ");
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        line.extend([if column == 0 {
            format!(" {cell:<width$}")
        } else {
            format!("  {cell:>width$}")
        }]);
    }
    line.push_str("  ");
    line.push_str(remark);
    text.push_str(line.trim_end());
    text.push('\n');
}

/// A rate with commas between thousands.
pub(crate) fn rate(rate: f64) -> String {
    let digits = format!("{:.0}", rate.max(0.0));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time, given in microseconds, in the unit that suits it.
fn time(micros: f64) -> String {
    match micros {
        micros if micros < 1_000.0 => format!("{micros:.0} us"),
        micros if micros < 100_000.0 => format!("{:.1} ms", micros / 1e3),
        micros if micros < 1e6 => format!("{:.0} ms", micros / 1e3),
        micros => format!("{:.1} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{row, row_not_run};

    #[test]
    fn figures_are_told_as_people_read_them() {
        assert_eq!(rate(1_860_000.4), "1,860,000");
        assert_eq!(rate(999.6), "1,000");
        assert_eq!(rate(0.0), "0");
        assert_eq!(
            [41.0, 1_800.0, 467_000.0, 2e6].map(time),
            ["41 us", "1.8 ms", "467 ms", "2.0 s"]
        );
    }

    #[test]
    fn a_block_has_every_contender_with_its_ratios_and_says_who_was_not_run() {
        let rows = [
            row("hot", "user-state", 130_000.0),
            row("hot", "raw-row", 1_000.0),
            row_not_run("hot", "pekko", "no plugin"),
            row("read", "user-state", 500.0),
        ];
        let text = text(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "hot: 100 users, 10000 callers");
        assert!(
            lines[3].contains("user-state") && lines[3].contains("130,000"),
            "{text}"
        );
        assert!(lines[3].contains("1.5 ms  20.0 ms  30.0 ms"), "{text}");
        assert!(lines[3].contains("130.00"), "{text}");
        assert!(lines[5].ends_with("not run: no plugin"), "{text}");
        assert!(lines[7].starts_with("read: "), "{text}");
        assert!(lines.iter().all(|line| *line == line.trim_end()), "{text}");
    }
}
