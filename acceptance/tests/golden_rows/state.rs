//! The states that lines stand for, in forms that can be compared.

use std::collections::HashSet;

use chrono::{DateTime, NaiveDateTime, TimeZone as _, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use user_state_domain::{ProductId, UserState};
use user_state_store::{Tags, Tz, UserStateMapping};

use crate::TestResult;
use crate::fixture::{Line, Row};

/// The class that the rows are of, as the manifest names it.
pub(crate) const CLASS: &str = "com.example.persistdurable.model.UserState";

/// The stored form in the mapping's place: all fields of the class as they are, every product of the list included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Document {
    pub(crate) mall_id: String,
    pub(crate) user_id: String,
    pub(crate) last_login: Option<String>,
    pub(crate) last_cart_used_time: Option<String>,
    pub(crate) recent_products: Vec<String>,
    pub(crate) marketing_opt_in: bool,
    pub(crate) last_event_time: Option<String>,
}

impl Document {
    /// The document of a JSON object of the fixtures.
    pub(crate) fn of(object: &Value) -> TestResult<Self> {
        Ok(serde_json::from_value(object.clone())?)
    }
}

/// The user's state that a JSON object of the fixtures stands for; of the products the first three distinct ones.
pub(crate) fn user_state(object: &Value, zone: Tz) -> UserState {
    let at = |field: &str| -> Option<DateTime<Utc>> {
        let local = object[field].as_str()?.parse::<NaiveDateTime>().unwrap();
        // As Java's `LocalDateTime.atZone`: the earlier instant of two.
        let at = zone.from_local_datetime(&local).earliest();
        Some(at.expect("the zone has this time").to_utc())
    };
    let products = object["recentProducts"].as_array().unwrap();
    let mut seen = HashSet::new();
    let distinct: Vec<ProductId> = products
        .iter()
        .map(|product| product.as_str().unwrap())
        .filter(|product| seen.insert(*product))
        .take(3)
        .map(ProductId::from)
        .collect();
    UserState {
        last_login: at("lastLogin"),
        last_cart_used: at("lastCartUsedTime"),
        recent_products: distinct.into(),
        marketing_opt_in: object["marketingOptIn"].as_bool().unwrap(),
        last_event_at: at("lastEventTime"),
    }
}

/// Whether a user's state holds everything the object does.
pub(crate) fn is_whole(object: &Value) -> bool {
    let products = object["recentProducts"].as_array().unwrap();
    let distinct: HashSet<&Value> = products.iter().collect();
    products.len() <= 3 && distinct.len() == products.len()
}

/// The tags of a row, which has none or one.
pub(crate) fn tags(row: &Row) -> Tags {
    Tags::new(row.tags.iter().flatten().map(String::as_str))
}

/// The mapping that a program beside the writer of the line would use.
pub(crate) fn mapping(line: &Line) -> UserStateMapping {
    let tag = line.row.as_ref().and_then(|row| row.tags.as_ref());
    let tag = tag.map_or("", |tags| tags[0].as_str());
    UserStateMapping::new()
        .zone(line.zone.0)
        .tagged(Tags::one(tag))
}
