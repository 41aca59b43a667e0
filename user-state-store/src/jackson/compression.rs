//! Compression of payloads as Pekko's Jackson serializer does it.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;

use crate::error::DecodeError;

/// JSON longer than this is compressed, one of just this length is not: Pekko's
/// `compression.compress-larger-than = 32 KiB`.
const COMPRESS_LARGER_THAN_BYTES: usize = 32 * 1024;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What Pekko puts in front of an LZ4 block.
const LZ4_MAGIC: [u8; 4] = [0x87, 0xd9, 0x6d, 0xf6];

/// The bytes to store for this JSON: gzip where it is long, else as it is.
pub(super) fn compress(json: Vec<u8>) -> io::Result<Vec<u8>> {
    if json.len() <= COMPRESS_LARGER_THAN_BYTES {
        return Ok(json);
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 4), Compression::default());
    encoder.write_all(&json)?;
    encoder.finish()
}

/// The JSON in these stored bytes, at most `limit` bytes of it.
///
/// Unpacking stops at the limit, so a small payload cannot fill the memory.
pub(super) fn decompress(bytes: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, DecodeError> {
    if bytes.starts_with(&GZIP_MAGIC) {
        return gunzip(bytes, limit).map(Cow::Owned);
    }
    if bytes.starts_with(&LZ4_MAGIC) {
        return Err(DecodeError::UnsupportedCompression("LZ4"));
    }
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge { limit });
    }
    Ok(Cow::Borrowed(bytes))
}

fn gunzip(bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    // One byte beyond the limit tells "too large"; the reader then still sees the end, where the checksum is.
    let readable = u64::try_from(limit).map_or(u64::MAX, |limit| limit.saturating_add(1));
    let mut decoder = GzDecoder::new(bytes).take(readable);
    let mut json = Vec::with_capacity(claimed_len(bytes).min(limit));
    decoder
        .read_to_end(&mut json)
        .map_err(|_| DecodeError::DamagedCompression)?;
    if json.len() > limit {
        return Err(DecodeError::TooLarge { limit });
    }
    let behind = decoder.into_inner().into_inner();
    if behind.is_empty() {
        Ok(json)
    } else {
        Err(DecodeError::DamagedCompression)
    }
}

/// How long the unpacked form is by the last four bytes of gzip: a hint for the first allocation, no more.
fn claimed_len(bytes: &[u8]) -> usize {
    let claimed = bytes.last_chunk().copied().map_or(0, u32::from_le_bytes);
    usize::try_from(claimed).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1024 * 1024;

    #[test]
    fn json_of_32_kib_stays_plain_and_a_byte_more_is_gzip_and_reads_back() {
        let plain = vec![b'x'; 32_768];
        assert_eq!(compress(plain.clone()).unwrap(), plain);

        let longer = vec![b'x'; 32_769];
        let stored = compress(longer.clone()).unwrap();
        assert!(stored.starts_with(&GZIP_MAGIC) && stored.len() < 1_000);
        assert_eq!(decompress(&stored, LIMIT).unwrap(), longer);
    }

    #[test]
    fn the_limit_includes_its_bound_with_and_without_compression() {
        let json = vec![b'x'; 40_000];
        for stored in [json.clone(), compress(json.clone()).unwrap()] {
            assert_eq!(decompress(&stored, 40_000).unwrap(), json);
            assert_eq!(
                decompress(&stored, 39_999),
                Err(DecodeError::TooLarge { limit: 39_999 })
            );
        }
    }

    #[test]
    fn a_bomb_is_unpacked_to_the_limit_and_no_further() {
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        let zeroes = vec![0; 1024 * 1024];
        for _ in 0..64 {
            bomb.write_all(&zeroes).unwrap();
        }
        let bomb = bomb.finish().unwrap();
        assert!(bomb.len() < 100_000);
        // Damage behind the limit shows that nothing behind it is looked at.
        let cut = &bomb[..bomb.len() / 2];
        for stored in [&bomb[..], cut] {
            assert_eq!(
                decompress(stored, LIMIT),
                Err(DecodeError::TooLarge { limit: LIMIT })
            );
        }
    }

    #[test]
    fn damage_anywhere_in_a_compressed_payload_is_noticed() {
        let json: Vec<u8> = (0..40_000_u32).flat_map(u32::to_le_bytes).collect();
        let stored = compress(json).unwrap();
        let damaged = Err(DecodeError::DamagedCompression);
        assert_eq!(decompress(&stored[..stored.len() - 1], LIMIT), damaged);
        assert_eq!(decompress(&stored[..2], LIMIT), damaged);
        let mut checksum = stored.clone();
        checksum[stored.len() - 5] ^= 1;
        assert_eq!(decompress(&checksum, LIMIT), damaged);
        let mut longer = stored;
        longer.push(0);
        assert_eq!(decompress(&longer, LIMIT), damaged);
    }

    #[test]
    fn lz4_is_recognised_and_refused() {
        let stored = [0x87, 0xd9, 0x6d, 0xf6, 0, 0, 0, 1, 0x10, b'x'];
        assert_eq!(
            decompress(&stored, LIMIT),
            Err(DecodeError::UnsupportedCompression("LZ4"))
        );
    }
}
