//! Java's text of a local time, made with chrono's formatting and not with that of the product.

use chrono::{NaiveDateTime, Timelike};

/// The text that Java's `ISO_LOCAL_DATE_TIME` has for a time.
pub(crate) fn java_text(time: NaiveDateTime) -> String {
    let fraction = format!("{:09}", time.nanosecond());
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    // chrono writes years of more than four digits with a sign, as Java does.
    format!("{}{point}{fraction}", time.format("%Y-%m-%dT%H:%M:%S"))
}
