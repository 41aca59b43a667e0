//! The writes of a batch as columns: one array per column, whatever the number of rows.

use chrono::{DateTime, Utc};

use crate::connect::PayloadColumn;
use crate::payload::SerializerId;
use crate::postgres::durable_state::payload_column;
use crate::store::{Change, Write};
use crate::tags::Tags;

/// The arrays to bind. All have one element per write.
#[derive(Debug, Default)]
pub(super) struct Columns<'write> {
    pub(super) slice: Vec<i32>,
    pub(super) entity_type: Vec<&'write str>,
    pub(super) persistence_id: Vec<&'write str>,
    pub(super) expected: Vec<i64>,
    pub(super) expected_at: Vec<Option<DateTime<Utc>>>,
    pub(super) revision: Vec<i64>,
    pub(super) state_ser_id: Vec<i32>,
    pub(super) state_ser_manifest: Vec<&'write str>,
    pub(super) state_payload: Vec<&'write [u8]>,
    /// Arrays cannot be ragged, so the tags of a row are one array literal, cast back by the server.
    pub(super) tags: Vec<Option<String>>,
    pub(super) keeps_tags: Vec<bool>,
}

impl<'write> Columns<'write> {
    pub(super) fn of(writes: &[&'write Write], payload_column: PayloadColumn) -> Self {
        let mut columns = Self::default();
        let marker = payload_column::marker(payload_column);
        for write in writes {
            columns.push(write, marker);
        }
        columns
    }

    fn push(&mut self, write: &'write Write, marker: &'static [u8]) {
        self.slice
            .push(i32::from(write.persistence_id.slice().get()));
        self.entity_type.push(write.persistence_id.entity_type());
        self.persistence_id.push(write.persistence_id.as_str());
        self.expected.push(write.expected.get());
        self.expected_at.push(write.expected_at);
        self.revision.push(write.new_revision().get());
        if let Change::Put { payload, tags, .. } = &write.change {
            self.state_ser_id.push(payload.serializer_id.0);
            self.state_ser_manifest.push(payload.manifest.as_str());
            self.state_payload.push(&payload.bytes);
            self.tags.push(array_literal(tags));
            self.keeps_tags.push(false);
        } else {
            // Pekko 2.0's delete marker.
            self.state_ser_id.push(SerializerId::NULL.0);
            self.state_ser_manifest.push("");
            self.state_payload.push(marker);
            self.tags.push(None);
            self.keeps_tags.push(true);
        }
    }
}

/// The tags as PostgreSQL's text form of a text array, or `None` without any (a NULL column, as Pekko writes).
///
/// Every element is quoted, so that only the quote and the backslash have a meaning inside.
/// Source: PostgreSQL's documentation, "Array Input and Output Syntax".
fn array_literal(tags: &Tags) -> Option<String> {
    if tags.is_empty() {
        return None;
    }
    let mut literal = String::from("{");
    for (index, tag) in tags.iter().enumerate() {
        literal.push_str(if index == 0 { "\"" } else { ",\"" });
        for character in tag.chars() {
            if matches!(character, '"' | '\\') {
                literal.push('\\');
            }
            literal.push(character);
        }
        literal.push('"');
    }
    literal.push('}');
    Some(literal)
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
            let literal = array_literal(&Tags::new(tags.iter().map(String::as_str))).unwrap();
            prop_assert_eq!(read(&literal), tags);
        }
    }

    #[test]
    fn no_tags_are_no_literal() {
        assert_eq!(array_literal(&Tags::NONE), None);
    }
}
