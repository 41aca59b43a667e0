//! The JSON document of a user's state, as it is read.

use std::borrow::Cow;
use std::fmt;

use chrono::NaiveDateTime;
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use user_state_domain::{ProductId, RECENT_PRODUCTS_MAX, RecentProducts, UserKey};

use crate::jackson::local_date_time::{self, Unreadable};
use crate::persistence_id::PersistenceId;

/// The fields, absent ones as their defaults. Times stay local until the zone is applied, so that an error can name
/// the field.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Document<'a> {
    #[serde(borrow)]
    mall_id: Option<Text<'a>>,
    #[serde(borrow)]
    user_id: Option<Text<'a>>,
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
        let key = persistence_id.entity_id().parse::<UserKey>();
        key.is_ok_and(|key| key.mall_id().as_str() == mall_id && key.user_id().as_str() == user_id)
    }
}

/// A text, borrowed from the JSON where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A time as it is stored.
#[derive(Clone, Copy, Default)]
pub(super) enum StoredTime {
    /// Null, or not there.
    #[default]
    Absent,
    /// A local time of the mapping's zone.
    Local(NaiveDateTime),
    /// In a year beyond those that can be held.
    OutOfRange,
}

impl<'de> Deserialize<'de> for StoredTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(Text(text)) = Option::deserialize(deserializer)? else {
            return Ok(Self::Absent);
        };
        match local_date_time::parse(&text) {
            Ok(local) => Ok(Self::Local(local)),
            Err(Unreadable::OutOfRange) => Ok(Self::OutOfRange),
            Err(Unreadable::Malformed) => Err(D::Error::custom("not a local date-time")),
        }
    }
}

/// The first distinct products of a list; the rest is skipped without being kept.
#[derive(Default)]
pub(super) struct FirstProducts(RecentProducts);

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
                let mut products: Vec<ProductId> = Vec::with_capacity(RECENT_PRODUCTS_MAX);
                while products.len() < RECENT_PRODUCTS_MAX {
                    let Some(product) = list.next_element()? else {
                        break;
                    };
                    if !products.contains(&product) {
                        products.push(product);
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(FirstProducts(products.into()))
            }
        }

        deserializer.deserialize_seq(List)
    }
}
