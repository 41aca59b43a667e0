//! The writes of a batch as columns: one array per column, whatever the number of rows.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use crate::connect::PayloadColumn;
use crate::payload::SerializerId;
use crate::postgres::durable_state::array::Array;
use crate::postgres::durable_state::payload_column;
use crate::postgres::durable_state::row::Micros;
use crate::store::{Change, Write};
use crate::tags::Tags;

/// The bytes of a write's numbers, and of the lengths before its values: 9 values at most.
const ROW_BYTES: usize = 72;

/// More than stands before the values of a statement's arrays: 24 bytes each.
const HEAD_BYTES: usize = 256;

/// The arrays to bind. All have one element per write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns<'batch> {
    writes: &'batch [&'batch Write],
}

/// One value of each write.
pub(super) trait Values<T>: ExactSizeIterator<Item = T> + Clone {}

impl<T, I: ExactSizeIterator<Item = T> + Clone> Values<T> for I {}

impl<'batch> Columns<'batch> {
    pub(super) fn of(writes: &'batch [&'batch Write]) -> Self {
        Self { writes }
    }

    /// About how many bytes all arrays of a statement take.
    pub(super) fn bytes(self) -> usize {
        let bytes = self.writes.iter().map(|write| {
            let change = match &write.change {
                Change::Put { payload, tags, .. } => {
                    let tags: usize = tags.iter().map(|tag| tag.len() + 3).sum();
                    payload.bytes.len() + payload.manifest.as_str().len() + tags
                }
                Change::Mark | Change::Erase => 0,
            };
            ROW_BYTES + write.persistence_id.as_str().len() + change
        });
        HEAD_BYTES + bytes.sum::<usize>()
    }

    pub(super) fn slice(self) -> Array<impl Values<i32>> {
        self.array(|write| i32::from(write.persistence_id.slice().get()))
    }

    pub(super) fn entity_type(self) -> Array<impl Values<&'batch str>> {
        self.array(|write| write.persistence_id.entity_type())
    }

    pub(super) fn persistence_id(self) -> Array<impl Values<&'batch str>> {
        self.array(|write| write.persistence_id.as_str())
    }

    pub(super) fn expected(self) -> Array<impl Values<i64>> {
        self.array(|write| write.expected.get())
    }

    pub(super) fn expected_at(self) -> Array<impl Values<Option<Micros>>> {
        self.array(|write| write.expected_at.map(Micros::from))
    }

    pub(super) fn revision(self) -> Array<impl Values<i64>> {
        self.array(|write| write.new_revision().get())
    }

    pub(super) fn state_ser_id(self) -> Array<impl Values<i32>> {
        self.array(|write| {
            write
                .payload()
                .map_or(SerializerId::NULL, |payload| payload.serializer_id)
                .0
        })
    }

    pub(super) fn state_ser_manifest(self) -> Array<impl Values<&'batch str>> {
        self.array(|write| {
            write
                .payload()
                .map_or("", |payload| payload.manifest.as_str())
        })
    }

    pub(super) fn state_payload(
        self,
        payload_column: PayloadColumn,
    ) -> Array<impl Values<&'batch [u8]>> {
        let marker = payload_column::marker(payload_column);
        self.array(move |write| write.payload().map_or(marker, |payload| &payload.bytes))
    }

    /// Arrays cannot be ragged, so the tags of a row are one array literal, cast back by the server.
    pub(super) fn tags(self) -> Array<impl Values<Literal<'batch>>> {
        self.array(|write| match &write.change {
            Change::Put { tags, .. } => Literal(tags),
            Change::Mark | Change::Erase => Literal(&Tags::NONE),
        })
    }

    pub(super) fn keeps_tags(self) -> Array<impl Values<bool>> {
        self.array(|write| !matches!(write.change, Change::Put { .. }))
    }

    fn array<T>(self, value: impl Fn(&'batch Write) -> T + Clone) -> Array<impl Values<T>> {
        Array::new(self.writes.iter().map(move |write| value(write)))
    }
}

/// Tags as PostgreSQL's text form of a text array, or NULL without any (as Pekko writes).
///
/// Every element is quoted, so that only the quote and the backslash have a meaning inside.
/// Source: PostgreSQL's documentation, "Array Input and Output Syntax".
#[derive(Debug, Clone, Copy)]
pub(super) struct Literal<'batch>(&'batch Tags);

impl Literal<'_> {
    fn write(self, literal: &mut Vec<u8>) -> IsNull {
        if self.0.is_empty() {
            return IsNull::Yes;
        }
        literal.push(b'{');
        for (index, tag) in self.0.iter().enumerate() {
            if index > 0 {
                literal.push(b',');
            }
            literal.push(b'"');
            // Neither is ever a part of another character.
            let is_special = |byte: &u8| matches!(byte, b'"' | b'\\');
            if tag.as_bytes().iter().any(is_special) {
                for byte in tag.as_bytes() {
                    if is_special(byte) {
                        literal.push(b'\\');
                    }
                    literal.push(*byte);
                }
            } else {
                literal.extend_from_slice(tag.as_bytes());
            }
            literal.push(b'"');
        }
        literal.push(b'}');
        IsNull::No
    }
}

impl Type<Postgres> for Literal<'_> {
    fn type_info() -> PgTypeInfo {
        <&str as Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for Literal<'_> {
    fn array_type_info() -> PgTypeInfo {
        <&str as PgHasArrayType>::array_type_info()
    }
}

impl Encode<'_, Postgres> for Literal<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Ok(self.write(buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads an array literal by PostgreSQL's rules, for literals whose elements are all quoted.
    fn read(literal: &str) -> Vec<String> {
        let mut characters = literal
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap()
            .chars();
        let mut elements = Vec::new();
        loop {
            assert_eq!(characters.next(), Some('"'), "{literal}");
            let mut element = String::new();
            loop {
                match characters.next().unwrap() {
                    '"' => break,
                    '\\' => element.push(characters.next().unwrap()),
                    other => element.push(other),
                }
            }
            elements.push(element);
            match characters.next() {
                Some(',') => {}
                None => return elements,
                Some(other) => panic!("{other} in {literal}"),
            }
        }
    }

    proptest! {
        #[test]
        fn any_tags_come_out_of_their_literal_unchanged(
            tags in proptest::collection::vec("[\\PC\"\\\\{}, ']{0,12}|NULL", 1..6),
        ) {
            let written = Tags::new(tags.iter().map(String::as_str));
            let mut literal = Vec::new();
            prop_assert!(!Literal(&written).write(&mut literal).is_null());
            prop_assert_eq!(read(&String::from_utf8(literal).unwrap()), tags);
        }
    }

    #[test]
    fn no_tags_are_no_literal() {
        let mut literal = Vec::new();
        assert!(Literal(&Tags::NONE).write(&mut literal).is_null());
        assert_eq!(literal, b"");
    }
}
