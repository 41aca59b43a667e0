//! Between instants and the local times of a zone, as Java's `LocalDateTime.atZone` goes.
//!
//! Stored times are local and carry no zone. Where a zone sets its clock forward, the local times it skips are taken
//! as later by the length of the gap; where it sets it back, of the two instants that a repeated local time may mean
//! the earlier one is taken. Both are what the offset before the change gives.

use chrono::{DateTime, NaiveDateTime, Offset, TimeZone, Timelike, Utc};
use chrono_tz::{GapInfo, Tz};

/// The largest fraction of an ordinary second; Java has no leap seconds.
const NANOSECOND_LAST: u32 = 999_999_999;

/// The zone's local time at an instant; `None` beyond the times chrono can hold.
pub(super) fn local(zone: Tz, at: DateTime<Utc>) -> Option<NaiveDateTime> {
    let utc = at.naive_utc();
    let utc = utc.with_nanosecond(utc.nanosecond().min(NANOSECOND_LAST))?;
    if zone == Tz::UTC {
        return Some(utc);
    }
    local_by_rules(zone, utc)
}

fn local_by_rules(zone: Tz, utc: NaiveDateTime) -> Option<NaiveDateTime> {
    utc.checked_add_offset(zone.offset_from_utc_datetime(&utc).fix())
}

/// The instant of a local time; `None` beyond the times chrono can hold.
pub(super) fn instant(zone: Tz, local: NaiveDateTime) -> Option<DateTime<Utc>> {
    if zone == Tz::UTC {
        return Some(local.and_utc());
    }
    instant_by_rules(zone, local)
}

fn instant_by_rules(zone: Tz, local: NaiveDateTime) -> Option<DateTime<Utc>> {
    let offset = match zone.offset_from_local_datetime(&local) {
        chrono::MappedLocalTime::Single(offset) | chrono::MappedLocalTime::Ambiguous(offset, _) => {
            offset.fix()
        }
        chrono::MappedLocalTime::None => {
            let (_, before) = GapInfo::new(&local, &zone)?.begin?;
            before.fix()
        }
    };
    Some(local.checked_sub_offset(offset)?.and_utc())
}

#[cfg(test)]
mod tests {
    use chrono_tz::{America, Asia, Australia, Europe};
    use proptest::prelude::*;

    use super::*;

    fn instant_of(zone: Tz, text: &str) -> DateTime<Utc> {
        instant(zone, text.parse().unwrap()).unwrap()
    }

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_skipped_local_time_is_shifted_forward_by_the_gap() {
        let cases = [
            (
                Europe::Berlin,
                "2025-03-30T01:59:59.999999999",
                "2025-03-30T00:59:59.999999999Z",
            ),
            (
                Europe::Berlin,
                "2025-03-30T02:00:00",
                "2025-03-30T01:00:00Z",
            ),
            (
                Europe::Berlin,
                "2025-03-30T02:30:00",
                "2025-03-30T01:30:00Z",
            ),
            (
                Europe::Berlin,
                "2025-03-30T03:00:00",
                "2025-03-30T01:00:00Z",
            ),
            (
                America::New_York,
                "2025-03-09T02:30:00",
                "2025-03-09T07:30:00Z",
            ),
            (Asia::Seoul, "1987-05-10T02:30:00", "1987-05-09T17:30:00Z"),
            (Asia::Seoul, "1988-05-08T02:30:00", "1988-05-07T17:30:00Z"),
            (
                Australia::Lord_Howe,
                "2025-10-05T02:15:00",
                "2025-10-04T15:45:00Z",
            ),
        ];
        for (zone, text, expected) in cases {
            assert_eq!(instant_of(zone, text), utc(expected), "{zone} {text}");
        }
    }

    #[test]
    fn of_a_repeated_local_time_the_earlier_instant_is_taken() {
        let cases = [
            (
                Europe::Berlin,
                "2025-10-26T01:59:59",
                "2025-10-25T23:59:59Z",
            ),
            (
                Europe::Berlin,
                "2025-10-26T02:00:00",
                "2025-10-26T00:00:00Z",
            ),
            (
                Europe::Berlin,
                "2025-10-26T02:59:59",
                "2025-10-26T00:59:59Z",
            ),
            (
                Europe::Berlin,
                "2025-10-26T03:00:00",
                "2025-10-26T02:00:00Z",
            ),
            (
                America::New_York,
                "2025-11-02T01:30:00",
                "2025-11-02T05:30:00Z",
            ),
            (Asia::Seoul, "1987-10-11T02:30:00", "1987-10-10T16:30:00Z"),
            (Asia::Seoul, "1988-10-09T02:30:00", "1988-10-08T16:30:00Z"),
            (
                Australia::Lord_Howe,
                "2025-04-06T01:45:00",
                "2025-04-05T14:45:00Z",
            ),
        ];
        for (zone, text, expected) in cases {
            assert_eq!(instant_of(zone, text), utc(expected), "{zone} {text}");
        }
    }

    #[test]
    fn the_ends_of_time_are_refused_only_where_the_offset_leads_beyond_them() {
        let (min, max) = (DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC);
        assert_eq!(local(Tz::UTC, min), Some(min.naive_utc()));
        assert_eq!(local(Tz::UTC, max), Some(max.naive_utc()));
        assert_eq!(local(Asia::Seoul, max), None);
        assert_eq!(local(America::New_York, min), None);
        assert_eq!(instant(Asia::Seoul, NaiveDateTime::MIN), None);
        assert_eq!(instant(America::New_York, NaiveDateTime::MAX), None);
    }

    fn zones() -> impl Strategy<Value = Tz> {
        prop::sample::select(vec![
            Tz::UTC,
            Europe::Berlin,
            Europe::Dublin,
            America::New_York,
            Asia::Seoul,
            Australia::Lord_Howe,
            chrono_tz::Pacific::Apia,
        ])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_local_time_means_its_instant_or_one_earlier_by_an_overlap(
            zone in zones(),
            seconds in prop_oneof![-5_000_000_000..5_000_000_000_i64, 540_000_000..600_000_000_i64],
            nanosecond in 0..1_000_000_000_u32,
        ) {
            let at = DateTime::from_timestamp(seconds, nanosecond).unwrap();
            let local_time = local(zone, at).unwrap();
            let back = instant(zone, local_time).unwrap();
            match zone.from_local_datetime(&local_time) {
                chrono::MappedLocalTime::Single(_) => prop_assert_eq!(back, at),
                chrono::MappedLocalTime::Ambiguous(earlier, later) => {
                    prop_assert_eq!(back, earlier);
                    let overlap = later.to_utc() - earlier.to_utc();
                    prop_assert!(at == back || at - back == overlap);
                }
                chrono::MappedLocalTime::None => prop_assert!(false, "an instant's local time exists"),
            }
            prop_assert_eq!(local(zone, back), Some(local_time), "the stored text stays the same");
        }

        #[test]
        fn utc_is_what_its_rules_say(
            seconds in NaiveDateTime::MIN.and_utc().timestamp()..=NaiveDateTime::MAX.and_utc().timestamp(),
            nanosecond in 0..1_000_000_000_u32,
        ) {
            let at = DateTime::from_timestamp(seconds, nanosecond).unwrap();
            let time = at.naive_utc();
            prop_assert_eq!(local(Tz::UTC, at), local_by_rules(Tz::UTC, time));
            prop_assert_eq!(instant(Tz::UTC, time), instant_by_rules(Tz::UTC, time));
        }

        #[test]
        fn every_local_time_has_an_instant_and_no_panic(zone in zones(), seconds in any::<i64>()) {
            let ends = NaiveDateTime::MIN.and_utc().timestamp()..=NaiveDateTime::MAX.and_utc().timestamp();
            let seconds = seconds.clamp(*ends.start(), *ends.end());
            let local_time = DateTime::from_timestamp(seconds, 0).unwrap().naive_utc();
            let day = 86_400;
            let inside = seconds > ends.start() + day && seconds < ends.end() - day;
            prop_assert!(instant(zone, local_time).is_some() || !inside);
        }
    }
}
