//! Text as Jackson cuts it.

use super::writer::write_head;

const TEXT: u8 = 0x60;
const TEXT_IN_CHUNKS: u8 = 0x7f;

/// The most UTF-16 units that Jackson writes in one piece (`MAX_LONG_STRING_CHARS` of its `CBORGenerator`).
pub(super) const CHUNK_UNITS_MAX: usize = 3_996;

/// Appends a text: in one piece, or in chunks where it is longer than Jackson's buffer.
pub(crate) fn write_text(bytes: &mut Vec<u8>, text: &str) {
    // A character has no more UTF-16 units than UTF-8 bytes, so that short texts need no counting.
    if text.len() <= CHUNK_UNITS_MAX || text.encode_utf16().count() <= CHUNK_UNITS_MAX {
        write_piece(bytes, text.as_bytes());
        return;
    }
    bytes.push(TEXT_IN_CHUNKS);
    let mut rest = text;
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(chunk_len(rest));
        write_piece(bytes, chunk.as_bytes());
        rest = behind;
    }
    bytes.push(super::BREAK);
}

/// Appends a text that is written in one piece, as the bytes of its UTF-8.
pub(crate) fn write_piece(bytes: &mut Vec<u8>, text: &[u8]) {
    write_head(bytes, TEXT, text.len());
    bytes.extend_from_slice(text);
}

/// How many bytes of a text are its next chunk: as many characters as fit, surrogate pairs undivided.
fn chunk_len(text: &str) -> usize {
    let mut units = 0;
    let first_behind = text.char_indices().find(|(_, character)| {
        units += character.len_utf16();
        units > CHUNK_UNITS_MAX
    });
    first_behind.map_or(text.len(), |(offset, _)| offset)
}
