//! A user's state as the bytes that Jackson writes for the class, straight into the payload.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use user_state_domain::UserState;

use crate::error::EncodeError;
use crate::jackson::{cbor, json, local_date_time};
use crate::mapping::zone;

/// The bytes of field names and punctuation, `false` included; CBOR has fewer.
const FRAME_BYTES: usize = 136;

/// What stands before or around each product: a comma and quotes, or a head.
const PRODUCT_FRAME_BYTES: usize = 3;

/// A state on its way into a payload.
pub(super) struct Written<'a> {
    pub(super) mall_id: &'a str,
    pub(super) user_id: &'a str,
    pub(super) state: &'a UserState,
    /// The zone that times are local to.
    pub(super) zone: Tz,
}

impl Written<'_> {
    /// # Errors
    /// [`EncodeError::TimeOutOfRange`].
    pub(super) fn json(&self) -> Result<Vec<u8>, EncodeError> {
        let state = self.state;
        let mut json = Vec::with_capacity(self.capacity());
        json.extend_from_slice(b"{\"mallId\":");
        json::write_text(&mut json, self.mall_id)?;
        json.extend_from_slice(b",\"userId\":");
        json::write_text(&mut json, self.user_id)?;
        json.extend_from_slice(b",\"lastLogin\":");
        self.json_time(&mut json, "lastLogin", state.last_login)?;
        json.extend_from_slice(b",\"lastCartUsedTime\":");
        self.json_time(&mut json, "lastCartUsedTime", state.last_cart_used)?;
        json.extend_from_slice(b",\"recentProducts\":[");
        for (index, product) in state.recent_products.iter().enumerate() {
            if index > 0 {
                json.push(b',');
            }
            json::write_text(&mut json, product.as_str())?;
        }
        json.extend_from_slice(b"],\"marketingOptIn\":");
        json.extend_from_slice(if state.marketing_opt_in {
            b"true"
        } else {
            b"false"
        });
        json.extend_from_slice(b",\"lastEventTime\":");
        self.json_time(&mut json, "lastEventTime", state.last_event_at)?;
        json.push(b'}');
        Ok(json)
    }

    fn json_time(
        &self,
        json: &mut Vec<u8>,
        field: &'static str,
        at: Option<DateTime<Utc>>,
    ) -> Result<(), EncodeError> {
        let Some(at) = at else {
            json.extend_from_slice(b"null");
            return Ok(());
        };
        let local = zone::local(self.zone, at).ok_or(EncodeError::TimeOutOfRange {
            field: field.into(),
        })?;
        json.push(b'"');
        local_date_time::write(json, local);
        json.push(b'"');
        Ok(())
    }

    /// # Errors
    /// [`EncodeError::TimeOutOfRange`].
    pub(super) fn cbor(&self) -> Result<Vec<u8>, EncodeError> {
        let state = self.state;
        let mut cbor = Vec::with_capacity(self.capacity());
        cbor.push(cbor::MAP_START);
        cbor::write_text(&mut cbor, "mallId");
        cbor::write_text(&mut cbor, self.mall_id);
        cbor::write_text(&mut cbor, "userId");
        cbor::write_text(&mut cbor, self.user_id);
        self.cbor_time(&mut cbor, "lastLogin", state.last_login)?;
        self.cbor_time(&mut cbor, "lastCartUsedTime", state.last_cart_used)?;
        cbor::write_text(&mut cbor, "recentProducts");
        cbor::write_array_head(&mut cbor, state.recent_products.iter().count());
        for product in state.recent_products.iter() {
            cbor::write_text(&mut cbor, product.as_str());
        }
        cbor::write_text(&mut cbor, "marketingOptIn");
        cbor.push(if state.marketing_opt_in {
            cbor::TRUE
        } else {
            cbor::FALSE
        });
        self.cbor_time(&mut cbor, "lastEventTime", state.last_event_at)?;
        cbor.push(cbor::BREAK);
        Ok(cbor)
    }

    fn cbor_time(
        &self,
        cbor: &mut Vec<u8>,
        field: &'static str,
        at: Option<DateTime<Utc>>,
    ) -> Result<(), EncodeError> {
        cbor::write_text(cbor, field);
        let Some(at) = at else {
            cbor.push(cbor::NULL);
            return Ok(());
        };
        let local = zone::local(self.zone, at).ok_or(EncodeError::TimeOutOfRange {
            field: field.into(),
        })?;
        let mut text = Vec::with_capacity(local_date_time::CHARACTERS_MAX);
        local_date_time::write(&mut text, local);
        cbor::write_piece(cbor, &text);
        Ok(())
    }

    /// How many bytes the form has at most, escapes aside.
    fn capacity(&self) -> usize {
        let products = self.state.recent_products.iter();
        let products = products.map(|product| product.as_str().len() + PRODUCT_FRAME_BYTES);
        FRAME_BYTES
            + self.mall_id.len()
            + self.user_id.len()
            + 3 * local_date_time::CHARACTERS_MAX
            + products.sum::<usize>()
    }
}
