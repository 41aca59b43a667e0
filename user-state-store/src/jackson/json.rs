//! JSON text byte for byte as Jackson writes it, and reading with errors that hold no text.
//!
//! Jackson and `serde_json` agree on most of it: no spaces, `/` and everything from U+007F to U+FFFF as it is. They
//! differ where a character lies outside the basic plane (Jackson writes two `\uXXXX` escapes) and in the case of
//! escape digits (Jackson: upper).

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::Serializer;
use serde_json::error::Category;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

use crate::error::{DecodeError, EncodeError};

/// The first byte of UTF-8 sequences of characters outside the basic plane, and nothing lower is one.
const FOUR_BYTE_LEAD: u8 = 0xf0;

/// Appends a value as JSON.
///
/// # Errors
/// Where the value refuses to be serialized.
pub(crate) fn write<T>(bytes: &mut Vec<u8>, value: &T) -> Result<(), EncodeError>
where
    T: Serialize + ?Sized,
{
    value
        .serialize(&mut Serializer::with_formatter(bytes, JacksonFormatter))
        .map_err(|_| EncodeError::Serialize)
}

/// Appends a text as JSON. Nothing has to be escaped in most, and those are copied.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_text(bytes: &mut Vec<u8>, text: &str) -> Result<(), EncodeError> {
    if !text.bytes().all(stands_for_itself) {
        return write(bytes, text);
    }
    bytes.push(b'"');
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'"');
    Ok(())
}

/// Whether a byte of UTF-8 is written as it is.
pub(crate) fn stands_for_itself(byte: u8) -> bool {
    (b' '..FOUR_BYTE_LEAD).contains(&byte) && byte != b'"' && byte != b'\\'
}

/// Reads a value from JSON.
///
/// # Errors
/// [`DecodeError::Malformed`], with what `serde_json` says reduced to a category and a place: its messages quote
/// values.
pub(crate) fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, DecodeError> {
    // Of a text that is checked as a whole, `serde_json` does not check every string again.
    let value = match str::from_utf8(json) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(json),
    };
    value.map_err(|error| DecodeError::Malformed {
        problem: match error.classify() {
            Category::Eof => "the text ends too early".into(),
            Category::Data => "a value is not of the form its field has".into(),
            Category::Syntax | Category::Io => "the text is not JSON".into(),
        },
        offset: offset(json, error.line(), error.column()),
    })
}

/// Reads a value from a JSON object. `serde` would take the fields from an array too, by their order.
///
/// # Errors
/// As [`read`], and for anything but an object.
pub(crate) fn read_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, DecodeError> {
    match json.iter().position(|byte| !b" \t\r\n".contains(byte)) {
        Some(offset) if json.get(offset) != Some(&b'{') => Err(DecodeError::Malformed {
            problem: "the text is not a JSON object".into(),
            offset,
        }),
        _ => read(json),
    }
}

struct JacksonFormatter;

impl Formatter for JacksonFormatter {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        let mut rest = fragment;
        while let Some(at) = rest.bytes().position(|byte| byte >= FOUR_BYTE_LEAD) {
            let (before, from) = rest.split_at(at);
            writer.write_all(before.as_bytes())?;
            let mut characters = from.chars();
            if let Some(character) = characters.next() {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04X}")?;
                }
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        match escape {
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04X}"),
            short => CompactFormatter.write_char_escape(writer, short),
        }
    }
}

/// The place of a line and column, both counted from 1, as an offset from 0.
fn offset(json: &[u8], line: usize, column: usize) -> usize {
    let lines_before = line.saturating_sub(1);
    let before: usize = json
        .split_inclusive(|byte| *byte == b'\n')
        .take(lines_before)
        .map(<[u8]>::len)
        .sum();
    before + column.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn written<T: Serialize + ?Sized>(value: &T) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes, value).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_is_escaped_exactly_as_jackson_does() {
        let cases = [
            ("", r#""""#),
            ("a\"b\\c/d<e>&'", r#""a\"b\\c/d<e>&'""#),
            ("\t\n\r\u{8}\u{c}", r#""\t\n\r\b\f""#),
            ("\0\u{1}\u{b}\u{1f}", r#""\u0000\u0001\u000B\u001F""#),
            (
                "\u{7f}\u{85}\u{2028}\u{2029}\u{feff}\u{ffff}",
                "\"\u{7f}\u{85}\u{2028}\u{2029}\u{feff}\u{ffff}\"",
            ),
            ("상품-1", "\"상품-1\""),
            (
                "a\u{10000}b\u{1f600}\u{10ffff}",
                r#""a\uD800\uDC00b\uD83D\uDE00\uDBFF\uDFFF""#,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(written(text), expected, "{text:?}");
        }
    }

    #[test]
    fn keys_and_values_of_documents_are_written_alike_and_without_spaces() {
        let document = BTreeMap::from([("k\u{1f600}\u{1}", vec![Some(1), None])]);
        assert_eq!(written(&document), r#"{"k\uD83D\uDE00\u0001":[1,null]}"#);
    }

    #[test]
    fn an_error_tells_the_kind_and_the_place_and_no_text() {
        let cases: [(&[u8], &str, usize); 5] = [
            (b"", "the text ends too early", 0),
            (b"[1,\n 2", "the text ends too early", 5),
            (b"[1,\n 2;", "the text is not JSON", 6),
            (
                b"[\"SECRET\"]",
                "a value is not of the form its field has",
                8,
            ),
            (b"[1] SECRET", "the text is not JSON", 4),
        ];
        for (json, problem, offset) in cases {
            assert_eq!(
                read::<Vec<u8>>(json),
                Err(DecodeError::Malformed {
                    problem: problem.into(),
                    offset
                }),
                "{json:?}"
            );
        }
    }

    #[test]
    fn every_character_is_copied_only_where_it_would_be_written_as_it_is() {
        for character in '\0'..=char::MAX {
            let text = character.encode_utf8(&mut [0; 4]).to_owned();
            let mut bytes = Vec::new();
            write_text(&mut bytes, &text).unwrap();
            assert_eq!(bytes, written(&text).as_bytes(), "{character:?}");
        }
    }

    proptest! {
        #[test]
        fn a_text_is_written_the_same_whether_it_is_copied_or_escaped(text in any::<String>()) {
            let mut bytes = Vec::new();
            write_text(&mut bytes, &text).unwrap();
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), written(&text));
        }

        // Of bytes that are text throughout nothing is checked twice; both readers have to say the same of them.
        #[test]
        fn what_is_read_does_not_depend_on_where_the_text_was_checked(
            text in prop_oneof![any::<String>(), "[\\[\\]{}:,\"\\\\u0-9a-f \n가😀]{0,24}"],
        ) {
            let quoted = format!("\"{text}\"");
            for json in [text.as_str(), &quoted] {
                let of_text: serde_json::Result<serde_json::Value> = serde_json::from_str(json);
                let of_bytes: serde_json::Result<serde_json::Value> = serde_json::from_slice(json.as_bytes());
                match (of_text, of_bytes) {
                    (Ok(of_text), Ok(of_bytes)) => prop_assert_eq!(of_text, of_bytes),
                    (Err(of_text), Err(of_bytes)) => prop_assert_eq!(of_text.to_string(), of_bytes.to_string()),
                    _ => prop_assert!(false, "one of them refuses the text"),
                }
            }
        }

        #[test]
        fn any_text_reads_back_the_same_and_has_no_character_outside_the_basic_plane(
            text in any::<String>(),
        ) {
            let json = written(&text);
            let mut characters = json.chars();
            let inside = characters.all(|character| (' '..='\u{ffff}').contains(&character));
            prop_assert!(inside);
            prop_assert_eq!(read::<String>(json.as_bytes()).unwrap(), text);
        }
    }
}
