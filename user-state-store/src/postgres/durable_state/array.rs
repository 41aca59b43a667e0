//! Arrays to bind, in the server's binary form, straight from what they are made of: no vector for each column.
//!
//! Source: PostgreSQL's `array_recv`, and what the driver makes of a slice.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

const DIMENSIONS: i32 = 1;
const FLAGS: i32 = 0;
const LOWER_BOUND: i32 = 1;

/// What stands as its length before a NULL.
const NULL_LEN: i32 = -1;

/// A one-dimensional array of what an iterator gives.
pub(super) struct Array<I> {
    elements: I,
    room: usize,
}

impl<I> Array<I> {
    pub(super) fn new(elements: I) -> Self {
        Self { elements, room: 0 }
    }

    /// Makes room for so many bytes before it is written, for it and what is bound behind it.
    pub(super) fn with_room(self, room: usize) -> Self {
        Self { room, ..self }
    }
}

impl<I: Iterator<Item: PgHasArrayType>> Type<Postgres> for Array<I> {
    fn type_info() -> PgTypeInfo {
        I::Item::array_type_info()
    }
}

impl<'query, I> Encode<'query, Postgres> for Array<I>
where
    I: ExactSizeIterator<Item: Encode<'query, Postgres> + Type<Postgres>> + Clone,
{
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let element_type = I::Item::type_info()
            .oid()
            .ok_or("a type without a number")?;
        let elements = self.elements.clone();
        buffer.reserve(self.room);
        buffer.extend_from_slice(&DIMENSIONS.to_be_bytes());
        buffer.extend_from_slice(&FLAGS.to_be_bytes());
        buffer.extend_from_slice(&element_type.0.to_be_bytes());
        buffer.extend_from_slice(&i32::try_from(elements.len())?.to_be_bytes());
        buffer.extend_from_slice(&LOWER_BOUND.to_be_bytes());
        for element in elements {
            let start = buffer.len();
            buffer.extend_from_slice(&NULL_LEN.to_be_bytes());
            let behind = buffer.len();
            if let IsNull::No = element.encode_by_ref(buffer)? {
                let len = i32::try_from(buffer.len() - behind)?;
                if let Some(before) = buffer.get_mut(start..behind) {
                    before.copy_from_slice(&len.to_be_bytes());
                }
            }
        }
        Ok(IsNull::No)
    }
}
