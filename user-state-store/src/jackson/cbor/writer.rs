//! serde's view of a value, written as Jackson writes it.

use std::fmt;

use serde::ser::{
    Error as _, Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct,
    SerializeStructVariant, SerializeTuple, SerializeTupleStruct, SerializeTupleVariant,
    Serializer,
};

use super::key::KeyText;
use super::{BREAK, FALSE, MAP_START, NULL, TRUE, write_text};

const UNSIGNED: u8 = 0x00;
const NEGATIVE: u8 = 0x20;
const BYTES: u8 = 0x40;
const ARRAY: u8 = 0x80;
const ARRAY_START: u8 = 0x9f;
const FLOAT: u8 = 0xfa;
const DOUBLE: u8 = 0xfb;

/// Appends to these bytes.
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

/// Why a value was not written: it refused, or CBOR has no form for it. Its text is dropped.
#[derive(Debug)]
pub(super) struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the value refused to be serialized")
    }
}

impl std::error::Error for Refused {}

impl serde::ser::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Appends the head of a list of this many elements.
pub(crate) fn write_array_head(bytes: &mut Vec<u8>, len: usize) {
    write_head(bytes, ARRAY, len);
}

/// Appends the head of something that has a length.
pub(super) fn write_head(bytes: &mut Vec<u8>, major: u8, len: usize) {
    write_number(bytes, major, u64::try_from(len).unwrap_or(u64::MAX));
}

/// Appends a type with its number in the fewest bytes.
fn write_number(bytes: &mut Vec<u8>, major: u8, number: u64) {
    let wide = number.to_be_bytes();
    let [.., b4, b5, b6, b7] = wide;
    match number {
        0..=0x17 => bytes.push(major | b7),
        0x18..=0xff => bytes.extend_from_slice(&[major | 0x18, b7]),
        0x100..=0xffff => bytes.extend_from_slice(&[major | 0x19, b6, b7]),
        0x1_0000..=0xffff_ffff => bytes.extend_from_slice(&[major | 0x1a, b4, b5, b6, b7]),
        _ => {
            bytes.push(major | 0x1b);
            bytes.extend_from_slice(&wide);
        }
    }
}

impl<'a> Writer<'a> {
    fn byte(self, byte: u8) {
        self.0.push(byte);
    }

    fn list(self, len: Option<usize>) -> List<'a> {
        match len {
            Some(len) => write_array_head(self.0, len),
            None => self.0.push(ARRAY_START),
        }
        List {
            bytes: self.0,
            announced: len,
            written: 0,
            closing: None,
        }
    }

    /// The map of one entry, named by the variant, that holds an enum's data.
    fn variant(&mut self, variant: &str) {
        self.0.push(MAP_START);
        write_text(self.0, variant);
    }
}

impl<'a> Serializer for Writer<'a> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = List<'a>;
    type SerializeTuple = List<'a>;
    type SerializeTupleStruct = List<'a>;
    type SerializeTupleVariant = List<'a>;
    type SerializeMap = Entries<'a>;
    type SerializeStruct = Entries<'a>;
    type SerializeStructVariant = Entries<'a>;

    fn serialize_bool(self, value: bool) -> Result<(), Refused> {
        self.byte(if value { TRUE } else { FALSE });
        Ok(())
    }

    fn serialize_i8(self, value: i8) -> Result<(), Refused> {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), Refused> {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Refused> {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Refused> {
        match u64::try_from(value) {
            Ok(value) => write_number(self.0, UNSIGNED, value),
            // All bits turned round, a negative number n is -1 - n.
            Err(_) => write_number(self.0, NEGATIVE, (!value).unsigned_abs()),
        }
        Ok(())
    }

    fn serialize_i128(self, value: i128) -> Result<(), Refused> {
        if let Ok(value) = u64::try_from(value) {
            self.serialize_u64(value)
        } else {
            self.serialize_i64(value.try_into().map_err(Refused::custom)?)
        }
    }

    fn serialize_u8(self, value: u8) -> Result<(), Refused> {
        self.serialize_u64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), Refused> {
        self.serialize_u64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), Refused> {
        self.serialize_u64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), Refused> {
        write_number(self.0, UNSIGNED, value);
        Ok(())
    }

    fn serialize_u128(self, value: u128) -> Result<(), Refused> {
        self.serialize_u64(value.try_into().map_err(Refused::custom)?)
    }

    fn serialize_f32(self, value: f32) -> Result<(), Refused> {
        self.0.push(FLOAT);
        self.0.extend_from_slice(&value.to_be_bytes());
        Ok(())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Refused> {
        self.0.push(DOUBLE);
        self.0.extend_from_slice(&value.to_be_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), Refused> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Refused> {
        write_text(self.0, value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Refused> {
        write_head(self.0, BYTES, value.len());
        self.0.extend_from_slice(value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), Refused> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Refused> {
        self.byte(NULL);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Refused> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Refused> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        self.variant(variant);
        value.serialize(Writer(self.0))?;
        self.byte(BREAK);
        Ok(())
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<List<'a>, Refused> {
        Ok(self.list(len))
    }

    fn serialize_tuple(self, len: usize) -> Result<List<'a>, Refused> {
        Ok(self.list(Some(len)))
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<List<'a>, Refused> {
        Ok(self.list(Some(len)))
    }

    fn serialize_tuple_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<List<'a>, Refused> {
        self.variant(variant);
        Ok(List {
            closing: Some(BREAK),
            ..self.list(Some(len))
        })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'a>, Refused> {
        self.0.push(MAP_START);
        Ok(Entries {
            bytes: self.0,
            closing: &[BREAK],
        })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Entries<'a>, Refused> {
        self.serialize_map(None)
    }

    fn serialize_struct_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Entries<'a>, Refused> {
        self.variant(variant);
        Ok(Entries {
            closing: &[BREAK, BREAK],
            ..self.serialize_map(None)?
        })
    }
}

/// A list under way.
pub(super) struct List<'a> {
    bytes: &'a mut Vec<u8>,
    /// The length in the head. A value that then has another number of elements would not be readable.
    announced: Option<usize>,
    written: usize,
    closing: Option<u8>,
}

impl SerializeSeq for List<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.written += 1;
        value.serialize(Writer(self.bytes))
    }

    fn end(self) -> Result<(), Refused> {
        match self.announced {
            Some(announced) if announced != self.written => return Err(Refused),
            Some(_) => {}
            None => self.bytes.push(BREAK),
        }
        self.bytes.extend(self.closing);
        Ok(())
    }
}

impl SerializeTuple for List<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<(), Refused> {
        SerializeSeq::end(self)
    }
}

impl SerializeTupleStruct for List<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<(), Refused> {
        SerializeSeq::end(self)
    }
}

impl SerializeTupleVariant for List<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        SerializeSeq::serialize_element(self, value)
    }

    fn end(self) -> Result<(), Refused> {
        SerializeSeq::end(self)
    }
}

/// The entries of a map or struct under way.
pub(super) struct Entries<'a> {
    bytes: &'a mut Vec<u8>,
    closing: &'static [u8],
}

impl SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        key.serialize(KeyText(self.bytes))
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(Writer(self.bytes))
    }

    fn end(self) -> Result<(), Refused> {
        self.bytes.extend_from_slice(self.closing);
        Ok(())
    }
}

impl SerializeStruct for Entries<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        write_text(self.bytes, name);
        value.serialize(Writer(self.bytes))
    }

    fn end(self) -> Result<(), Refused> {
        SerializeMap::end(self)
    }
}

impl SerializeStructVariant for Entries<'_> {
    type Ok = ();
    type Error = Refused;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        SerializeStruct::serialize_field(self, name, value)
    }

    fn end(self) -> Result<(), Refused> {
        SerializeMap::end(self)
    }
}

/// What a key cannot be.
pub(super) type NoKey = Impossible<(), Refused>;
