//! A user's state read from the very form in which it is written: most rows, for a fraction of what the general reader
//! costs.
//!
//! Every field in its order, no spaces, no escapes, at most three products. Whatever differs in anything is left to the general
//! reader, errors too, so that only the time it takes tells which of the two has read.

use user_state_domain::{ProductId, RECENT_PRODUCTS_MAX, RecentProducts};

use super::document::{Document, StoredTime};
use crate::jackson::json;
use crate::jackson::local_date_time::{self, Unreadable};

/// The document, where the bytes have that form.
pub(super) fn read(bytes: &[u8]) -> Option<Document<'_>> {
    let mut rest = Rest(str::from_utf8(bytes).ok()?);
    rest.skip("{\"mallId\":")?;
    let mall_id = rest.text()?;
    rest.skip(",\"userId\":")?;
    let user_id = rest.text()?;
    rest.skip(",\"lastLogin\":")?;
    let last_login = rest.time()?;
    rest.skip(",\"lastCartUsedTime\":")?;
    let last_cart_used_time = rest.time()?;
    rest.skip(",\"recentProducts\":[")?;
    let recent_products = rest.products()?;
    rest.skip(",\"marketingOptIn\":")?;
    let marketing_opt_in = rest.truth()?;
    rest.skip(",\"lastEventTime\":")?;
    let last_event_time = rest.time()?;
    (rest.0 == "}").then(|| Document {
        mall_id: Some(mall_id.into()),
        user_id: Some(user_id.into()),
        last_login,
        last_cart_used_time,
        recent_products: Some(recent_products.into()),
        marketing_opt_in: Some(marketing_opt_in),
        last_event_time,
    })
}

/// What is still to be read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, expected: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// A text that is stored as it is.
    fn text(&mut self) -> Option<&'a str> {
        self.skip("\"")?;
        let mut bytes = self.0.bytes();
        let end = bytes.position(|byte| !json::stands_for_itself(byte))?;
        let (text, behind) = self.0.split_at_checked(end)?;
        self.0 = behind;
        self.skip("\"")?;
        Some(text)
    }

    fn time(&mut self) -> Option<StoredTime> {
        if self.skip("null").is_some() {
            return Some(StoredTime::Absent);
        }
        // No time has a quote or an escape in it.
        let (text, behind) = self.0.strip_prefix('"')?.split_once('"')?;
        self.0 = behind;
        match local_date_time::parse(text) {
            Ok(local) => Some(StoredTime::Local(local)),
            Err(Unreadable::OutOfRange) => Some(StoredTime::OutOfRange),
            Err(Unreadable::Malformed) => None,
        }
    }

    /// The products and the end of their list.
    fn products(&mut self) -> Option<RecentProducts> {
        let mut products = RecentProducts::default();
        if self.skip("]").is_some() {
            return Some(products);
        }
        for _ in 0..RECENT_PRODUCTS_MAX {
            products.extend([ProductId::new(self.text()?)]);
            if self.skip("]").is_some() {
                return Some(products);
            }
            self.skip(",")?;
        }
        None
    }

    fn truth(&mut self) -> Option<bool> {
        if self.skip("true").is_some() {
            return Some(true);
        }
        self.skip("false").map(|()| false)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use chrono_tz::Tz;
    use proptest::prelude::*;
    use user_state_domain::UserState;

    use super::super::written::Written;
    use super::*;

    const USUAL: &str = r#"{"mallId":"m","userId":"u-1","lastLogin":"2025-03-04T05:06:07.5","lastCartUsedTime":null,"recentProducts":["a","상품","c"],"marketingOptIn":true,"lastEventTime":"2025-03-04T05:06:07"}"#;

    /// What the general reader makes of it; nothing where it refuses.
    fn general(json: &str) -> Option<Document<'_>> {
        json::read_object(json.as_bytes()).ok()
    }

    fn time() -> impl Strategy<Value = Option<DateTime<chrono::Utc>>> {
        let ends = DateTime::<chrono::Utc>::MIN_UTC.timestamp()
            ..=DateTime::<chrono::Utc>::MAX_UTC.timestamp();
        let seconds = prop_oneof![ends, 0..4_000_000_000_i64];
        let nanosecond = prop_oneof![Just(0), 0..1_000_000_000_u32];
        prop::option::of((seconds, nanosecond).prop_map(|(seconds, nanosecond)| {
            DateTime::from_timestamp(seconds, nanosecond).unwrap()
        }))
    }

    #[test]
    fn the_usual_form_is_read() {
        assert!(read(USUAL.as_bytes()) == general(USUAL) && general(USUAL).is_some());
    }

    #[test]
    fn what_differs_in_anything_is_left_to_the_general_reader() {
        for (usual, other) in [
            ("{\"mallId", " {\"mallId"),
            ("\"m\"", "null"),
            ("\"m\"", "\"\\u006d\""),
            ("\"u-1\"", "\"u-1\", \"extra\":1"),
            ("05:06:07.5\"", "05:06:07.5Z\""),
            ("05:06:07.5\"", "25:06:07.5\""),
            ("\"2025-03-04T05:06:07.5\"", "[2025,3,4,5,6]"),
            ("\"c\"]", "\"c\",\"d\"]"),
            ("\"c\"]", "\"c\",]"),
            ("[\"a\"", "[\"a\t\""),
            ("true", "null"),
            ("07\"}", "07\"} "),
            ("07\"}", "07\""),
        ] {
            let json = USUAL.replacen(usual, other, 1);
            assert_ne!(json, USUAL, "{usual}");
            assert!(read(json.as_bytes()).is_none(), "{other}");
        }
        assert!(read(b"{\"mallId\":\"\xff\"").is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_general_reader_reads_it(
            mall_id in any::<String>(),
            user_id in "[ -~가-힣]{0,20}",
            products in prop::collection::vec(prop_oneof!["[a-c]", any::<String>()], 0..5),
            (last_login, last_cart_used, last_event_at) in (time(), time(), time()),
            marketing_opt_in in any::<bool>(),
        ) {
            let recent_products = products.iter().map(|id| ProductId::new(id)).collect();
            let state = UserState { last_login, last_cart_used, recent_products, marketing_opt_in, last_event_at };
            let written = Written { mall_id: &mall_id, user_id: &user_id, state: &state, zone: Tz::UTC };
            let json = String::from_utf8(written.json().unwrap()).unwrap();
            let general = general(&json);
            prop_assert!(general.is_some());
            if json.contains('\\') {
                prop_assert!(read(json.as_bytes()).is_none());
            } else {
                prop_assert!(read(json.as_bytes()) == general);
            }
        }

        #[test]
        fn nothing_is_read_here_that_the_general_reader_reads_otherwise(
            at in 0..USUAL.len(),
            removed in 0..4_usize,
            put in prop_oneof!["", "[0-9a-z\"\\\\,:\\[\\]{} ]{0,3}"],
        ) {
            let end = (at + removed).min(USUAL.len());
            prop_assume!(USUAL.is_char_boundary(at) && USUAL.is_char_boundary(end));
            let json = [&USUAL[..at], &put, &USUAL[end..]].concat();
            if let Some(document) = read(json.as_bytes()) {
                prop_assert!(Some(document) == general(&json));
            }
        }
    }
}
