//! The text of Java's `LocalDateTime`.
//!
//! Written as Jackson does with dates as text (`DateTimeFormatter.ISO_LOCAL_DATE_TIME`): seconds always, of the
//! fraction as many digits as needed, years with at least four digits, `+` from 10000 on, `-` before 0. Read as that
//! formatter reads: seconds may be absent, a fraction has 0 to 9 digits, `T` may be small, days must exist.

use chrono::{Datelike, NaiveDate, NaiveDateTime, Timelike};

/// The most characters a written time has: a sign, six digits of a year, and `-12-31T23:59:59.123456789`.
pub(crate) const CHARACTERS_MAX: usize = 32;

/// The digits of a year from which on Java writes and demands a sign.
const YEAR_DIGITS_UNSIGNED: usize = 4;

/// The most digits that Java reads in a year.
const YEAR_DIGITS_MAX: usize = 10;

/// How many numbers Jackson demands of a time: up to the minute.
const NUMBERS_MIN: usize = 5;

/// The most numbers that a time has: up to the nanosecond.
pub(crate) const NUMBERS_MAX: usize = 7;

/// The last year of Java's `LocalDateTime`, and without its sign the first one.
const JAVA_YEAR_MAX: u32 = 999_999_999;

const NANOSECOND_LAST: u32 = 999_999_999;

/// Why a text is no time that can be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It is not the text of a `LocalDateTime`.
    Malformed,
    /// It is one, in a year beyond those chrono has.
    OutOfRange,
}

/// Appends the text of a time. A leap-second fraction counts as the end of its second.
pub(crate) fn write(bytes: &mut Vec<u8>, time: NaiveDateTime) {
    write_year(bytes, time.year());
    let [month_tens, month] = two_digits(time.month());
    let [day_tens, day] = two_digits(time.day());
    let [hour_tens, hour] = two_digits(time.hour());
    let [minute_tens, minute] = two_digits(time.minute());
    let [second_tens, second] = two_digits(time.second());
    bytes.extend_from_slice(&[
        b'-',
        month_tens,
        month,
        b'-',
        day_tens,
        day, // the date
        b'T',
        hour_tens,
        hour,
        b':',
        minute_tens,
        minute,
        b':',
        second_tens,
        second,
    ]);
    let mut fraction = time.nanosecond().min(NANOSECOND_LAST);
    if fraction == 0 {
        return;
    }
    bytes.push(b'.');
    let mut digits = [0; 9];
    for place in digits.iter_mut().rev() {
        *place = digit(fraction);
        fraction /= 10;
    }
    let zeroes = digits.iter().rev().take_while(|digit| **digit == b'0');
    let used = digits.len() - zeroes.count();
    bytes.extend_from_slice(digits.get(..used).unwrap_or(&digits));
}

/// The time that a text stands for.
pub(crate) fn parse(text: &str) -> Result<NaiveDateTime, Unreadable> {
    let mut rest = Rest(text.as_bytes());
    let fields = rest.date_time().filter(|_| rest.0.is_empty());
    fields.ok_or(Unreadable::Malformed)?.resolve()
}

/// The time that Jackson's numbers stand for: year, month, day, hour, minute, and second and nanosecond where they are not 0.
/// With dates as timestamps Jackson writes times so; it reads them always.
pub(crate) fn from_numbers(numbers: &[i32]) -> Result<NaiveDateTime, Unreadable> {
    let (year, rest) = numbers.split_first().ok_or(Unreadable::Malformed)?;
    let mut parts = [0; NUMBERS_MAX - 1];
    let given = parts.get_mut(..rest.len());
    for (part, number) in given.ok_or(Unreadable::Malformed)?.iter_mut().zip(rest) {
        *part = u32::try_from(*number).map_err(|_| Unreadable::Malformed)?;
    }
    if numbers.len() < NUMBERS_MIN || year.unsigned_abs() > JAVA_YEAR_MAX {
        return Err(Unreadable::Malformed);
    }
    let [month, day, hour, minute, second, nanosecond] = parts;
    // chrono takes a larger fraction in the last second of a minute for a leap second.
    if nanosecond > NANOSECOND_LAST {
        return Err(Unreadable::Malformed);
    }
    let year = i64::from(*year);
    let fields = Fields {
        year,
        month,
        day,
        hour,
        minute,
        second,
        nanosecond,
    };
    fields.resolve()
}

/// The numbers of a date and time, each within its digits.
struct Fields {
    year: i64,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    nanosecond: u32,
}

impl Fields {
    fn resolve(&self) -> Result<NaiveDateTime, Unreadable> {
        let year = i32::try_from(self.year).ok();
        if let Some(time) = year.and_then(|year| self.in_year(year)) {
            return Ok(time);
        }
        // The calendar repeats every 400 years, so whether the day exists shows in a year near 2000 too.
        let near = i32::try_from(2000 + self.year.rem_euclid(400)).ok();
        Err(match near.and_then(|year| self.in_year(year)) {
            Some(_) => Unreadable::OutOfRange,
            None => Unreadable::Malformed,
        })
    }

    fn in_year(&self, year: i32) -> Option<NaiveDateTime> {
        NaiveDate::from_ymd_opt(year, self.month, self.day)?.and_hms_nano_opt(
            self.hour,
            self.minute,
            self.second,
            self.nanosecond,
        )
    }
}

/// What of a text is still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn date_time(&mut self) -> Option<Fields> {
        let year = self.year()?;
        self.one(b'-')?;
        let month = self.two_digits()?;
        self.one(b'-')?;
        let day = self.two_digits()?;
        self.next_if(|byte| matches!(byte, b'T' | b't'))?;
        let hour = self.two_digits()?;
        self.one(b':')?;
        let minute = self.two_digits()?;
        let (mut second, mut nanosecond) = (0, 0);
        if self.one(b':').is_some() {
            second = self.two_digits()?;
            if self.one(b'.').is_some() {
                nanosecond = self.fraction()?;
            }
        }
        Some(Fields {
            year,
            month,
            day,
            hour,
            minute,
            second,
            nanosecond,
        })
    }

    /// A year as Java's `SignStyle.EXCEEDS_PAD` reads it: `+` where, and only where, there are more than four
    /// digits; `-` with any number of them, but no minus zero.
    fn year(&mut self) -> Option<i64> {
        let Some(sign) = self.next_if(|byte| matches!(byte, b'+' | b'-')) else {
            let century = self.two_digits()?;
            return Some(i64::from(century * 100 + self.two_digits()?));
        };
        let (digits, year) = self.digits(YEAR_DIGITS_MAX);
        let year = i64::try_from(year).ok()?;
        if sign == b'-' {
            (digits >= YEAR_DIGITS_UNSIGNED && year != 0).then_some(-year)
        } else {
            (digits > YEAR_DIGITS_UNSIGNED).then_some(year)
        }
    }

    fn two_digits(&mut self) -> Option<u32> {
        let ([tens, ones], behind) = self.0.split_first_chunk()?;
        if !(tens.is_ascii_digit() && ones.is_ascii_digit()) {
            return None;
        }
        self.0 = behind;
        Some(u32::from((tens - b'0') * 10 + (ones - b'0')))
    }

    fn fraction(&mut self) -> Option<u32> {
        let (digits, mut nanosecond) = self.digits(9);
        for _ in digits..9 {
            nanosecond *= 10;
        }
        u32::try_from(nanosecond).ok()
    }

    /// At most this many digits: how many there were, and their number.
    fn digits(&mut self, digits_max: usize) -> (usize, u64) {
        let mut number = 0;
        for count in 0..digits_max {
            let Some(digit) = self.digit() else {
                return (count, number);
            };
            number = number * 10 + u64::from(digit);
        }
        (digits_max, number)
    }

    fn digit(&mut self) -> Option<u8> {
        let digit = self.next_if(|byte| byte.is_ascii_digit())?;
        Some(digit - b'0')
    }

    fn one(&mut self, expected: u8) -> Option<u8> {
        self.next_if(|byte| byte == expected)
    }

    /// The next byte, where it is one of those wanted; else nothing is taken.
    fn next_if(&mut self, wanted: impl Fn(u8) -> bool) -> Option<u8> {
        let (first, behind) = self.0.split_first()?;
        if !wanted(*first) {
            return None;
        }
        self.0 = behind;
        Some(*first)
    }
}

fn write_year(bytes: &mut Vec<u8>, year: i32) {
    let number = year.unsigned_abs();
    if year < 0 {
        bytes.push(b'-');
    } else if year > 9_999 {
        bytes.push(b'+');
    }
    if number > 9_999 {
        bytes.extend_from_slice(number.to_string().as_bytes());
        return;
    }
    let [thousands, hundreds] = two_digits(number / 100);
    let [tens, ones] = two_digits(number);
    bytes.extend_from_slice(&[thousands, hundreds, tens, ones]);
}

/// The last two digits of a number.
fn two_digits(number: u32) -> [u8; 2] {
    [digit(number / 10), digit(number)]
}

/// The last digit of a number.
fn digit(number: u32) -> u8 {
    u8::try_from(number % 10).map_or(b'0', |digit| b'0' + digit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(time: NaiveDateTime) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes, time);
        String::from_utf8(bytes).unwrap()
    }

    fn time(year: i32, month: u32, day: u32, second_of_day: u32, nanosecond: u32) -> NaiveDateTime {
        let midnight = chrono::NaiveTime::from_num_seconds_from_midnight_opt;
        NaiveDate::from_ymd_opt(year, month, day)
            .unwrap()
            .and_time(midnight(second_of_day, nanosecond).unwrap())
    }

    #[test]
    fn a_time_is_written_as_jackson_writes_it() {
        let cases = [
            (time(2025, 3, 4, 0, 0), "2025-03-04T00:00:00"),
            (time(2025, 3, 4, 18_367, 1), "2025-03-04T05:06:07.000000001"),
            (
                time(2025, 3, 4, 18_367, 500_000_000),
                "2025-03-04T05:06:07.5",
            ),
            (
                time(2025, 3, 4, 18_367, 120_000),
                "2025-03-04T05:06:07.00012",
            ),
            (time(1, 1, 1, 0, 0), "0001-01-01T00:00:00"),
            (time(9999, 12, 31, 86_399, 0), "9999-12-31T23:59:59"),
            (time(10_000, 1, 1, 0, 0), "+10000-01-01T00:00:00"),
            (time(0, 1, 1, 0, 0), "0000-01-01T00:00:00"),
            (time(-1, 1, 1, 0, 0), "-0001-01-01T00:00:00"),
            (time(-12_345, 1, 1, 0, 0), "-12345-01-01T00:00:00"),
            (
                time(2016, 12, 31, 86_399, 1_500_000_000),
                "2016-12-31T23:59:59.999999999",
            ),
        ];
        for (time, expected) in cases {
            assert_eq!(written(time), expected);
        }
    }

    #[test]
    fn every_year_has_its_sign_and_at_least_four_digits_and_reads_back() {
        for year in NaiveDate::MIN.year()..=NaiveDate::MAX.year() {
            let sign = if year > 9_999 { "+" } else { "" };
            let width = if year < 0 { 5 } else { 4 };
            let expected = format!("{sign}{year:0width$}-12-31T00:00:00");
            let Some(day) = NaiveDate::from_ymd_opt(year, 12, 31) else {
                continue;
            };
            let time = day.and_time(chrono::NaiveTime::MIN);
            assert_eq!(written(time), expected);
            assert_eq!(parse(&expected), Ok(time));
        }
    }

    #[test]
    fn whatever_java_reads_is_read() {
        let cases = [
            ("2025-03-04T05:06", time(2025, 3, 4, 18_360, 0)),
            ("2025-03-04t05:06:07", time(2025, 3, 4, 18_367, 0)),
            ("2025-03-04T05:06:07.", time(2025, 3, 4, 18_367, 0)),
            (
                "2025-03-04T05:06:07.10",
                time(2025, 3, 4, 18_367, 100_000_000),
            ),
            (
                "2025-03-04T05:06:07.123456789",
                time(2025, 3, 4, 18_367, 123_456_789),
            ),
            ("2024-02-29T00:00:00", time(2024, 2, 29, 0, 0)),
            ("-0004-02-29T00:00:00", time(-4, 2, 29, 0, 0)),
            ("+012345-01-01T00:00:00", time(12_345, 1, 1, 0, 0)),
            ("-000012345-01-01T00:00:00", time(-12_345, 1, 1, 0, 0)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_java_refuses_is_malformed() {
        for text in [
            "",
            "2025",
            "2025-03-04",
            "2025-03-04 05:06:07",
            "2025-03-04T05",
            "2025-03-04T05:6:07",
            "2025-03-04T05:06:07Z",
            "2025-03-04T05:06:07+09:00",
            "2025-03-04T05:06:07.1234567890",
            "2025-03-04T05:06.5",
            "2025-03-04T05:06:",
            " 2025-03-04T05:06:07",
            "2025-3-04T05:06:07",
            "2025-02-29T05:06:07",
            "2025-13-01T05:06:07",
            "2025-00-01T05:06:07",
            "2025-03-04T24:00:00",
            "2025-03-04T23:59:60",
            "2025-03-04T05:60:00",
            "225-03-04T05:06:07",
            "+2025-03-04T05:06:07",
            "12025-03-04T05:06:07",
            "-0000-03-04T05:06:07",
            "+12345678901-03-04T05:06:07",
            "--2025-03-04T05:06:07",
            "٢٠٢٥-03-04T05:06:07",
            "+300000-02-30T05:06:07",
        ] {
            assert_eq!(parse(text), Err(Unreadable::Malformed), "{text}");
        }
    }

    #[test]
    fn years_beyond_those_that_can_be_held_are_told_from_nonsense() {
        for text in [
            "+999999999-12-31T23:59:59.999999999",
            "-999999999-01-01T00:00:00",
            "+262143-01-01T00:00:00",
            "-9999999999-01-01T00:00:00",
        ] {
            assert_eq!(parse(text), Err(Unreadable::OutOfRange), "{text}");
        }
        assert_eq!(parse(&written(NaiveDateTime::MAX)), Ok(NaiveDateTime::MAX));
        assert_eq!(parse(&written(NaiveDateTime::MIN)), Ok(NaiveDateTime::MIN));
        assert!(written(NaiveDateTime::MIN).len() <= CHARACTERS_MAX);
    }

    #[test]
    fn numbers_are_read_as_jackson_reads_them() {
        let cases: [(&[i32], NaiveDateTime); 7] = [
            (&[2025, 3, 4, 5, 6], time(2025, 3, 4, 18_360, 0)),
            (&[2025, 3, 4, 5, 6, 7], time(2025, 3, 4, 18_367, 0)),
            (&[2025, 3, 4, 5, 6, 7, 8], time(2025, 3, 4, 18_367, 8)),
            (
                &[2025, 3, 4, 5, 6, 7, 999_999_999],
                time(2025, 3, 4, 18_367, 999_999_999),
            ),
            (&[2024, 2, 29, 0, 0], time(2024, 2, 29, 0, 0)),
            (&[10_000, 3, 4, 5, 6], time(10_000, 3, 4, 18_360, 0)),
            (&[-5, 3, 4, 5, 6], time(-5, 3, 4, 18_360, 0)),
        ];
        for (numbers, expected) in cases {
            assert_eq!(from_numbers(numbers), Ok(expected), "{numbers:?}");
        }
    }

    #[test]
    fn numbers_that_jackson_refuses_are_malformed() {
        let cases: [&[i32]; 13] = [
            &[],
            &[2025],
            &[2025, 3, 4, 5],
            &[2025, 3, 4, 5, 6, 7, 8, 9],
            &[2025, 2, 29, 5, 6],
            &[2025, 13, 4, 5, 6],
            &[2025, 0, 4, 5, 6],
            &[2025, 3, 4, 24, 0],
            &[2025, 3, 4, 5, 60],
            &[2025, 3, 4, 5, -1],
            &[2025, 3, 4, 5, 6, 59, 1_000_000_000],
            &[1_000_000_000, 3, 4, 5, 6],
            &[i32::MIN, 3, 4, 5, 6],
        ];
        for numbers in cases {
            assert_eq!(
                from_numbers(numbers),
                Err(Unreadable::Malformed),
                "{numbers:?}"
            );
        }
        assert_eq!(
            from_numbers(&[999_999_999, 3, 4, 5, 6]),
            Err(Unreadable::OutOfRange)
        );
    }

    proptest! {
        #[test]
        fn no_numbers_make_the_reader_panic(numbers in prop::collection::vec(any::<i32>(), 0..9), near in prop::collection::vec(-1..62, 4..8)) {
            for numbers in [numbers, near] {
                if let Ok(time) = from_numbers(&numbers) {
                    prop_assert_eq!(parse(&written(time)), Ok(time));
                }
            }
        }

        #[test]
        fn every_time_reads_back_the_same(
            seconds in NaiveDateTime::MIN.and_utc().timestamp()..=NaiveDateTime::MAX.and_utc().timestamp(),
            nanosecond in prop_oneof![0..10_u32, 0..1_000_000_000_u32],
        ) {
            let time = chrono::DateTime::from_timestamp(seconds, nanosecond).unwrap().naive_utc();
            let text = written(time);
            prop_assert!(text.len() <= CHARACTERS_MAX);
            prop_assert_eq!(parse(&text), Ok(time));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>(), near in "[+-]?[0-9]{0,11}-[0-9]{1,2}-[0-9]{2}[Tt][0-9:.]{0,20}") {
            for text in [text, near] {
                if let Ok(time) = parse(&text) {
                    prop_assert_eq!(parse(&written(time)), Ok(time));
                }
            }
        }
    }
}
