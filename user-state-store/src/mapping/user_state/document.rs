//! The document of a user's state, as it is read: JSON, CBOR or the tree that a migration leaves.

use std::borrow::Cow;
use std::fmt;

use chrono::NaiveDateTime;
use serde::de::{Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use user_state_domain::{RECENT_PRODUCTS_MAX, RecentProducts, UserKey};

use crate::jackson::local_date_time::{self, Unreadable};
use crate::persistence_id::PersistenceId;

/// The fields, absent ones as their defaults. Times stay local until the zone is applied, so that an error can name
/// the field.
#[derive(PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Document<'a> {
    #[serde(borrow)]
    pub(super) mall_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) user_id: Option<Text<'a>>,
    pub(super) last_login: StoredTime,
    pub(super) last_cart_used_time: StoredTime,
    pub(super) recent_products: Option<FirstProducts>,
    pub(super) marketing_opt_in: Option<bool>,
    pub(super) last_event_time: StoredTime,
}

impl Document<'_> {
    /// Whether the persistence id is a user's, and the stored ids are that user's.
    pub(super) fn is_of(&self, persistence_id: &PersistenceId) -> bool {
        let (Some(Text(mall_id)), Some(Text(user_id))) = (&self.mall_id, &self.user_id) else {
            return false;
        };
        UserKey::split(persistence_id.entity_id()) == Ok((mall_id, user_id))
    }
}

/// A text, borrowed from the payload where it stands there in one piece.
#[derive(PartialEq, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

/// A time as it is stored.
#[derive(Clone, Copy, PartialEq, Default)]
pub(super) enum StoredTime {
    /// Null, or not there.
    #[default]
    Absent,
    /// A local time of the mapping's zone.
    Local(NaiveDateTime),
    /// In a year beyond those that can be held.
    OutOfRange,
}

impl StoredTime {
    fn new<E: Error>(time: Result<NaiveDateTime, Unreadable>) -> Result<Self, E> {
        match time {
            Ok(local) => Ok(Self::Local(local)),
            Err(Unreadable::OutOfRange) => Ok(Self::OutOfRange),
            Err(Unreadable::Malformed) => Err(E::custom("not a local date-time")),
        }
    }
}

/// As Jackson's `LocalDateTimeDeserializer` reads: text, without spaces around it or a `Z` behind it, or numbers; nothing
/// where the text or the list is empty.
impl<'de> Deserialize<'de> for StoredTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumbers;

        impl<'de> Visitor<'de> for TextOrNumbers {
            type Value = StoredTime;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a local date-time, as text or as a list of numbers")
            }

            fn visit_unit<E: Error>(self) -> Result<StoredTime, E> {
                Ok(StoredTime::Absent)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<StoredTime, E> {
                let text = text.trim_matches(|character| character <= ' ');
                if text.is_empty() {
                    return Ok(StoredTime::Absent);
                }
                let text = text.strip_suffix('Z').unwrap_or(text);
                StoredTime::new(local_date_time::parse(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<StoredTime, A::Error> {
                let mut numbers = [0; local_date_time::NUMBERS_MAX];
                let mut given = 0;
                while let Some(number) = list.next_element()? {
                    let place = numbers.get_mut(given);
                    *place.ok_or_else(|| A::Error::custom("too many numbers"))? = number;
                    given += 1;
                }
                match numbers.get(..given) {
                    None | Some([]) => Ok(StoredTime::Absent),
                    Some(numbers) => StoredTime::new(local_date_time::from_numbers(numbers)),
                }
            }
        }

        deserializer.deserialize_any(TextOrNumbers)
    }
}

/// The first distinct products of a list; the rest is skipped without being kept.
#[derive(PartialEq, Default)]
pub(super) struct FirstProducts(RecentProducts);

impl From<RecentProducts> for FirstProducts {
    fn from(products: RecentProducts) -> Self {
        Self(products)
    }
}

impl From<FirstProducts> for RecentProducts {
    fn from(FirstProducts(products): FirstProducts) -> Self {
        products
    }
}

impl<'de> Deserialize<'de> for FirstProducts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = FirstProducts;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of product ids")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<FirstProducts, A::Error> {
                let mut products = RecentProducts::default();
                while products.len() < RECENT_PRODUCTS_MAX {
                    let Some(product) = list.next_element()? else {
                        break;
                    };
                    products.extend([product]);
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(FirstProducts(products))
            }
        }

        deserializer.deserialize_seq(List)
    }
}
