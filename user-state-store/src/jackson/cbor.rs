//! CBOR byte for byte as Jackson writes it, and reading with errors that hold no text.
//!
//! **Written**: maps and structs as maps of indefinite length with text keys, lists of a known size with their
//! length, numbers in the fewest bytes, `f32` and `f64` as they are, text of up to 3,996 UTF-16 units in one piece and longer
//! text in chunks of that size. Jackson differs in two places: keys of a `Map<Integer, …>` are numbers there and text
//! here (Jackson reads both), and numbers above 2⁶³ - 1 are big numbers there and plain ones here (likewise).
//!
//! **Read**: any well-formed CBOR that Jackson reads into the same fields, with two bounds of our own: nesting, and
//! nothing behind the value. Map keys that are numbers or byte strings count as text, `undefined` as null, tags are skipped
//! except those of big integers. String references and decimal fractions are refused where a field holds one.
//!
//! Source: `CBORGenerator` and `CBORParser` of jackson-dataformat-cbor 2.17.3, by what they write and read.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{DecodeError, EncodeError};

mod key;
mod reader;
mod text;
mod writer;

use reader::{Numbers, Reader};
pub(crate) use text::{write_piece, write_text};
use writer::Writer;
pub(crate) use writer::write_array_head;

pub(crate) const FALSE: u8 = 0xf4;
pub(crate) const TRUE: u8 = 0xf5;
pub(crate) const NULL: u8 = 0xf6;
/// The start of a map of indefinite length.
pub(crate) const MAP_START: u8 = 0xbf;
/// The end of anything of indefinite length.
pub(crate) const BREAK: u8 = 0xff;

/// Appends a value as CBOR.
///
/// # Errors
/// Where the value refuses to be serialized, or has no form in CBOR.
pub(crate) fn write<T>(bytes: &mut Vec<u8>, value: &T) -> Result<(), EncodeError>
where
    T: Serialize + ?Sized,
{
    value
        .serialize(Writer(bytes))
        .map_err(|_| EncodeError::Serialize)
}

/// Reads a value from CBOR.
///
/// # Errors
/// [`DecodeError::Malformed`], with a place and no text.
pub(crate) fn read<'a, T: Deserialize<'a>>(cbor: &'a [u8]) -> Result<T, DecodeError> {
    read_with(Reader::new(cbor, Numbers::All))
}

/// Reads a value from a CBOR map. `serde` would take the fields from an array too, by their order.
///
/// # Errors
/// As [`read`], and for anything but a map.
pub(crate) fn read_object<'a, T: Deserialize<'a>>(cbor: &'a [u8]) -> Result<T, DecodeError> {
    let mut reader = Reader::new(cbor, Numbers::All);
    if !cbor.is_empty() && !reader.is_at_map() {
        return Err(DecodeError::Malformed {
            problem: "the value is not a CBOR map".into(),
            offset: 0,
        });
    }
    read_with(reader)
}

/// Reads CBOR as the tree that its JSON would give; a byte string is a list of numbers there.
///
/// # Errors
/// As [`read`], and for numbers that JSON does not have.
pub(crate) fn read_tree(cbor: &[u8]) -> Result<Value, DecodeError> {
    read_with(Reader::new(cbor, Numbers::Json))
}

fn read_with<'a, T: Deserialize<'a>>(mut reader: Reader<'a>) -> Result<T, DecodeError> {
    let value = T::deserialize(&mut reader).and_then(|value| {
        reader.end()?;
        Ok(value)
    });
    value.map_err(|error| DecodeError::Malformed {
        problem: error.problem.into(),
        offset: error.offset.unwrap_or_else(|| reader.offset()),
    })
}

#[cfg(test)]
mod tests;
