//! CBOR as serde sees it.

use std::borrow::Cow;
use std::fmt;

use minicbor::Decoder;
use minicbor::data::Type;
use serde::de::value::{CowStrDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::key::Key;

/// How deep lists and maps may be nested: as deep as `serde_json` allows in JSON, so that no payload exhausts the stack.
const DEPTH_MAX: usize = 128;

const TAG_BIG_UNSIGNED: u64 = 2;
const TAG_BIG_NEGATIVE: u64 = 3;
const TAG_DECIMAL_FRACTION: u64 = 4;
const TAG_STRING_REFERENCE: u64 = 25;
const TAG_STRING_REFERENCES: u64 = 256;

const ENDS_EARLY: &str = "the bytes end too early";
const NOT_CBOR: &str = "the bytes are not CBOR";
const WRONG_FORM: &str = "a value is not of the form its field has";

/// What is wrong, and where, if the place is another than the one reached. Holds no part of the payload.
#[derive(Debug)]
pub(super) struct Malformed {
    pub(super) problem: &'static str,
    pub(super) offset: Option<usize>,
}

impl Malformed {
    fn new(problem: &'static str) -> Self {
        Self {
            problem,
            offset: None,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.problem)
    }
}

impl std::error::Error for Malformed {}

impl serde::de::Error for Malformed {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::new(WRONG_FORM)
    }
}

impl From<minicbor::decode::Error> for Malformed {
    fn from(error: minicbor::decode::Error) -> Self {
        Self {
            problem: if error.is_end_of_input() {
                ENDS_EARLY
            } else {
                NOT_CBOR
            },
            offset: error.position(),
        }
    }
}

/// Which values are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbers {
    /// All that CBOR has.
    All,
    /// Those that JSON has too; byte strings are lists of numbers.
    Json,
}

/// Reads one value after the other.
pub(super) struct Reader<'de> {
    cbor: Decoder<'de>,
    numbers: Numbers,
    depth: usize,
}

impl<'de> Reader<'de> {
    pub(super) fn new(cbor: &'de [u8], numbers: Numbers) -> Self {
        Self {
            cbor: Decoder::new(cbor),
            numbers,
            depth: 0,
        }
    }

    /// The place reached, in bytes from 0.
    pub(super) fn offset(&self) -> usize {
        self.cbor.position()
    }

    /// Whether a map comes next, tags aside.
    pub(super) fn is_at_map(&mut self) -> bool {
        let mut ahead = Self::new(self.cbor.input(), self.numbers);
        let next = ahead.skip_tags();
        next.is_ok_and(|(_, next)| matches!(next, Type::Map | Type::MapIndef))
    }

    /// # Errors
    /// Where bytes are left.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.left() == 0 {
            Ok(())
        } else {
            Err(Malformed::new("more bytes follow the value"))
        }
    }

    fn left(&self) -> usize {
        self.cbor.input().len().saturating_sub(self.cbor.position())
    }

    /// The last tag before the next value, and the type of that value.
    fn skip_tags(&mut self) -> Result<(Option<u64>, Type), Malformed> {
        let mut tag = None;
        loop {
            match self.cbor.datatype()? {
                Type::Tag => tag = Some(self.cbor.tag()?.as_u64()),
                other => return Ok((tag, other)),
            }
        }
    }

    /// The type of the next value that is to be read, behind its tags.
    fn next(&mut self) -> Result<(Option<u64>, Type), Malformed> {
        let next = self.skip_tags()?;
        match next.0 {
            Some(TAG_DECIMAL_FRACTION) => Err(Malformed::new("decimal fractions are not read")),
            Some(TAG_STRING_REFERENCE | TAG_STRING_REFERENCES) => {
                Err(Malformed::new("string references are not read"))
            }
            _ => Ok(next),
        }
    }

    fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<T, Malformed> {
        if self.depth == DEPTH_MAX {
            return Err(Malformed::new("the value is nested too deep"));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn text(&mut self, kind: Type) -> Result<Cow<'de, str>, Malformed> {
        if kind == Type::String {
            return Ok(Cow::Borrowed(self.cbor.str()?));
        }
        let mut text = String::new();
        for chunk in self.cbor.str_iter()? {
            text.push_str(chunk?);
        }
        Ok(Cow::Owned(text))
    }

    fn bytes(&mut self, kind: Type) -> Result<Cow<'de, [u8]>, Malformed> {
        if kind == Type::Bytes {
            return Ok(Cow::Borrowed(self.cbor.bytes()?));
        }
        let mut bytes = Vec::new();
        for chunk in self.cbor.bytes_iter()? {
            bytes.extend_from_slice(chunk?);
        }
        Ok(Cow::Owned(bytes))
    }

    fn key(&mut self) -> Result<Key<'de>, Malformed> {
        let (_, kind) = self.next()?;
        let text = match kind {
            Type::String | Type::StringIndef => self.text(kind)?,
            Type::Bytes | Type::BytesIndef => match self.bytes(kind)? {
                Cow::Borrowed(bytes) => str::from_utf8(bytes).map(Cow::Borrowed).ok(),
                Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).ok(),
            }
            .ok_or(Malformed::new("the key of a map is not text"))?,
            kind if is_integer(kind) => Cow::Owned(i128::from(self.cbor.int()?).to_string()),
            _ => return Err(Malformed::new("the key of a map is not text")),
        };
        Ok(Key(text))
    }

    fn integer<V: Visitor<'de>>(number: i128, visitor: V) -> Result<V::Value, Malformed> {
        if let Ok(number) = u64::try_from(number) {
            visitor.visit_u64(number)
        } else if let Ok(number) = i64::try_from(number) {
            visitor.visit_i64(number)
        } else {
            visitor.visit_i128(number)
        }
    }

    /// An integer as bytes, the highest first.
    fn big_integer<V: Visitor<'de>>(
        &mut self,
        kind: Type,
        negative: bool,
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        let too_large = || Malformed::new("an integer is too large");
        let bytes = self.bytes(kind)?;
        let zeroes = bytes.iter().take_while(|byte| **byte == 0).count();
        let digits = bytes.get(zeroes..).unwrap_or_default();
        let mut wide = [0; size_of::<i128>()];
        let start = wide.len().checked_sub(digits.len());
        let place = start.and_then(|start| wide.get_mut(start..));
        place.ok_or_else(too_large)?.copy_from_slice(digits);
        let number = i128::from_be_bytes(wide);
        if number < 0 {
            return Err(too_large());
        }
        // All bits turned round, n is -1 - n.
        Self::integer(if negative { !number } else { number }, visitor)
    }

    fn float<V: Visitor<'de>>(&mut self, kind: Type, visitor: V) -> Result<V::Value, Malformed> {
        let number = match kind {
            Type::F16 => self.half()?,
            Type::F32 => self.cbor.f32()?.into(),
            _ => self.cbor.f64()?,
        };
        if self.numbers == Numbers::Json && !number.is_finite() {
            return Err(Malformed::new("a number that JSON does not have"));
        }
        visitor.visit_f64(number)
    }

    /// A number in half precision, which the decoder reads only with another crate.
    fn half(&mut self) -> Result<f64, Malformed> {
        let start = self.cbor.position();
        let bytes = self.cbor.input().get(start..);
        let Some([_, high, low, ..]) = bytes else {
            return Err(Malformed::new(ENDS_EARLY));
        };
        self.cbor.set_position(start + 3);
        let bits = u16::from_be_bytes([*high, *low]);
        let exponent = i32::from(bits >> 10 & 0x1f);
        let fraction = f64::from(bits & 0x3ff);
        let size = match exponent {
            0 => fraction * 2_f64.powi(-24),
            0x1f if fraction == 0.0 => f64::INFINITY,
            0x1f => f64::NAN,
            _ => (fraction + 1024.0) * 2_f64.powi(exponent - 25),
        };
        Ok(if bits >> 15 == 0 { size } else { -size })
    }

    fn list<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Malformed> {
        self.nested(|reader| {
            let left = reader.cbor.array()?;
            let mut items = Items { reader, left };
            let value = visitor.visit_seq(&mut items)?;
            items.end()?;
            Ok(value)
        })
    }

    fn map<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Malformed> {
        self.nested(|reader| {
            let left = reader.cbor.map()?;
            let mut items = Items { reader, left };
            let value = visitor.visit_map(&mut items)?;
            items.end()?;
            Ok(value)
        })
    }

    /// A byte string, as the list of its numbers.
    fn bytes_as_list<V: Visitor<'de>>(
        &mut self,
        kind: Type,
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        let bytes = self.bytes(kind)?;
        let mut list = SeqDeserializer::<_, Malformed>::new(bytes.iter().copied());
        let value = visitor.visit_seq(&mut list)?;
        list.end()?;
        Ok(value)
    }

    /// Passes a value of any kind, which has to be well-formed.
    fn skip(&mut self) -> Result<(), Malformed> {
        let (_, kind) = self.skip_tags()?;
        match kind {
            Type::Array | Type::ArrayIndef => self.nested(|reader| {
                let left = reader.cbor.array()?;
                Items { reader, left }.skip_each(Self::skip)
            }),
            Type::Map | Type::MapIndef => self.nested(|reader| {
                let left = reader.cbor.map()?;
                Items { reader, left }.skip_each(|reader| {
                    reader.key()?;
                    reader.skip()
                })
            }),
            Type::Break | Type::Unknown(_) => Err(Malformed::new(NOT_CBOR)),
            _ => Ok(self.cbor.skip()?),
        }
    }
}

fn is_integer(kind: Type) -> bool {
    matches!(
        kind,
        Type::U8
            | Type::U16
            | Type::U32
            | Type::U64
            | Type::I8
            | Type::I16
            | Type::I32
            | Type::I64
            | Type::Int
    )
}

impl<'de> Deserializer<'de> for &mut Reader<'de> {
    type Error = Malformed;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        let (tag, kind) = self.next()?;
        match kind {
            Type::Null => {
                self.cbor.null()?;
                visitor.visit_unit()
            }
            Type::Undefined => {
                self.cbor.undefined()?;
                visitor.visit_unit()
            }
            Type::Bool => visitor.visit_bool(self.cbor.bool()?),
            Type::F16 | Type::F32 | Type::F64 => self.float(kind, visitor),
            // Jackson reads the numbers of unassigned simple values.
            Type::Simple => visitor.visit_u8(self.cbor.simple()?),
            Type::String | Type::StringIndef => match self.text(kind)? {
                Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
                Cow::Owned(text) => visitor.visit_string(text),
            },
            Type::Bytes | Type::BytesIndef => match tag {
                Some(TAG_BIG_UNSIGNED) => self.big_integer(kind, false, visitor),
                Some(TAG_BIG_NEGATIVE) => self.big_integer(kind, true, visitor),
                _ if self.numbers == Numbers::Json => self.bytes_as_list(kind, visitor),
                _ => match self.bytes(kind)? {
                    Cow::Borrowed(bytes) => visitor.visit_borrowed_bytes(bytes),
                    Cow::Owned(bytes) => visitor.visit_byte_buf(bytes),
                },
            },
            Type::Array | Type::ArrayIndef => self.list(visitor),
            Type::Map | Type::MapIndef => self.map(visitor),
            kind if is_integer(kind) => Reader::integer(self.cbor.int()?.into(), visitor),
            _ => Err(Malformed::new(NOT_CBOR)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        let start = self.cbor.position();
        if matches!(self.next()?, (_, Type::Null | Type::Undefined)) {
            self.cbor.skip()?;
            return visitor.visit_none();
        }
        // The value's tags may tell what it is.
        self.cbor.set_position(start);
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        match self.next()? {
            (_, kind @ (Type::Bytes | Type::BytesIndef)) => self.bytes_as_list(kind, visitor),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        match self.next()? {
            (_, kind @ (Type::String | Type::StringIndef)) => {
                visitor.visit_enum(CowStrDeserializer::new(self.text(kind)?))
            }
            (_, Type::Map | Type::MapIndef) => self.nested(|reader| {
                let left = reader.cbor.map()?;
                let mut items = Items { reader, left };
                if !items.advance()? {
                    return Err(Malformed::new(WRONG_FORM));
                }
                let value = visitor.visit_enum(Variant(&mut *items.reader))?;
                items.end()?;
                Ok(value)
            }),
            _ => Err(Malformed::new(WRONG_FORM)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        self.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        tuple_struct map struct identifier
    }
}

/// The items of a list, or the entries of a map, that are still to be read; without a number, up to a break.
struct Items<'r, 'de> {
    reader: &'r mut Reader<'de>,
    left: Option<u64>,
}

impl<'de> Items<'_, 'de> {
    /// Whether one more follows. A break is passed.
    fn advance(&mut self) -> Result<bool, Malformed> {
        match &mut self.left {
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None if self.reader.cbor.datatype()? == Type::Break => {
                let behind = self.reader.cbor.position() + 1;
                self.reader.cbor.set_position(behind);
                self.left = Some(0);
                Ok(false)
            }
            None => Ok(true),
        }
    }

    fn skip_each(
        mut self,
        skip: impl Fn(&mut Reader<'de>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        while self.advance()? {
            skip(self.reader)?;
        }
        Ok(())
    }

    /// # Errors
    /// Where the visitor stopped before the end.
    fn end(mut self) -> Result<(), Malformed> {
        if self.advance()? {
            Err(Malformed::new(WRONG_FORM))
        } else {
            Ok(())
        }
    }

    /// Each item has at least a byte, so that a length beyond the payload reserves no memory.
    fn hint(&self) -> Option<usize> {
        let left = usize::try_from(self.left?).unwrap_or(usize::MAX);
        Some(left.min(self.reader.left()))
    }
}

impl<'de> SeqAccess<'de> for &mut Items<'_, 'de> {
    type Error = Malformed;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Malformed> {
        if self.advance()? {
            seed.deserialize(&mut *self.reader).map(Some)
        } else {
            Ok(None)
        }
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

impl<'de> MapAccess<'de> for &mut Items<'_, 'de> {
    type Error = Malformed;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Malformed> {
        if self.advance()? {
            seed.deserialize(self.reader.key()?).map(Some)
        } else {
            Ok(None)
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Malformed> {
        seed.deserialize(&mut *self.reader)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint()
    }
}

/// The only entry of the map that is an enum's value.
struct Variant<'r, 'de>(&'r mut Reader<'de>);

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Malformed;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Malformed> {
        let variant = seed.deserialize(self.0.key()?)?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Malformed;

    fn unit_variant(self) -> Result<(), Malformed> {
        serde::Deserialize::deserialize(self.0)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Malformed> {
        seed.deserialize(self.0)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Malformed> {
        self.0.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Malformed> {
        self.0.deserialize_any(visitor)
    }
}
