//! Compression of payloads as Pekko's Jackson serializer does it.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::block;

use crate::error::DecodeError;

/// Payloads longer than this are compressed, one of just this length is not: Pekko's
/// `compression.compress-larger-than = 32 KiB`.
pub(super) const COMPRESS_LARGER_THAN_BYTES: usize = 32 * 1024;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What Pekko puts in front of an LZ4 block; the length of the plain form follows, the highest byte first.
const LZ4_MAGIC: [u8; 4] = [0x87, 0xd9, 0x6d, 0xf6];

/// No LZ4 block unpacks to more than this many times its length: a byte of a match's length stands for 255.
const LZ4_RATIO_MAX: usize = 255;

/// How long payloads are compressed when they are written: Pekko's `compression.algorithm`.
///
/// Reading needs no setting: the first bytes tell how a payload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    Off,
    /// As gzip: smaller than LZ4, and slower.
    Gzip,
    /// As one LZ4 block: faster than gzip, and larger.
    Lz4,
}

/// The bytes to store for this plain form: compressed where it is longer than the threshold, else as it is.
pub(super) fn compress(
    plain: Vec<u8>,
    compression: Compression,
    larger_than_bytes: usize,
) -> io::Result<Vec<u8>> {
    if plain.len() <= larger_than_bytes {
        return Ok(plain);
    }
    match compression {
        Compression::Off => Ok(plain),
        Compression::Gzip => gzip(&plain),
        Compression::Lz4 => lz4(&plain),
    }
}

/// The plain form in these stored bytes, at most `limit` bytes of it.
///
/// Unpacking stops at the limit, so a small payload cannot fill the memory.
pub(super) fn decompress(bytes: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, DecodeError> {
    if bytes.starts_with(&GZIP_MAGIC) {
        return gunzip(bytes, limit).map(Cow::Owned);
    }
    if let Some(behind) = bytes.strip_prefix(&LZ4_MAGIC) {
        return unlz4(behind, limit).map(Cow::Owned);
    }
    if bytes.len() > limit {
        return Err(DecodeError::TooLarge { limit });
    }
    Ok(Cow::Borrowed(bytes))
}

/// Whether these stored bytes are a compressed form, going by the first of them.
#[cfg(feature = "postgres")]
pub(crate) fn is_compressed(bytes: &[u8]) -> bool {
    bytes.starts_with(&GZIP_MAGIC) || bytes.starts_with(&LZ4_MAGIC)
}

fn gzip(plain: &[u8]) -> io::Result<Vec<u8>> {
    let target = Vec::with_capacity(plain.len() / 4);
    let mut encoder = GzEncoder::new(target, flate2::Compression::default());
    encoder.write_all(plain)?;
    encoder.finish()
}

fn gunzip(bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    // One byte beyond the limit tells "too large"; the reader then still sees the end, where the checksum is.
    let readable = u64::try_from(limit).map_or(u64::MAX, |limit| limit.saturating_add(1));
    let mut decoder = GzDecoder::new(bytes).take(readable);
    let mut plain = Vec::with_capacity(claimed_len(bytes).min(limit));
    decoder
        .read_to_end(&mut plain)
        .map_err(|_| DecodeError::DamagedCompression)?;
    if plain.len() > limit {
        return Err(DecodeError::TooLarge { limit });
    }
    let behind = decoder.into_inner().into_inner();
    if behind.is_empty() {
        Ok(plain)
    } else {
        Err(DecodeError::DamagedCompression)
    }
}

fn lz4(plain: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(plain.len()).map_err(io::Error::other)?;
    let block = block::compress(plain);
    Ok([&LZ4_MAGIC[..], &len.to_be_bytes(), &block].concat())
}

/// What follows the magic bytes, unpacked.
///
/// The length in front is believed only where the block could have it and the limit allows it, and then has to be
/// exactly that of the plain form, as Pekko demands too.
fn unlz4(bytes: &[u8], limit: usize) -> Result<Vec<u8>, DecodeError> {
    let (len, block) = bytes
        .split_first_chunk()
        .ok_or(DecodeError::DamagedCompression)?;
    let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
    if len > block.len().saturating_mul(LZ4_RATIO_MAX) {
        return Err(DecodeError::DamagedCompression);
    }
    if len > limit {
        return Err(DecodeError::TooLarge { limit });
    }
    let mut plain = vec![0; len];
    match block::decompress_into(block, &mut plain) {
        Ok(unpacked) if unpacked == len => Ok(plain),
        _ => Err(DecodeError::DamagedCompression),
    }
}

/// How long the unpacked form is by the last four bytes of gzip: a hint for the first allocation, no more.
fn claimed_len(bytes: &[u8]) -> usize {
    let claimed = bytes.last_chunk().copied().map_or(0, u32::from_le_bytes);
    usize::try_from(claimed).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1024 * 1024;

    fn compress(plain: Vec<u8>) -> Vec<u8> {
        packed(plain, Compression::Gzip)
    }

    fn packed(plain: Vec<u8>, compression: Compression) -> Vec<u8> {
        super::compress(plain, compression, COMPRESS_LARGER_THAN_BYTES).unwrap()
    }

    #[test]
    fn json_of_32_kib_stays_plain_and_a_byte_more_is_gzip_and_reads_back() {
        let plain = vec![b'x'; 32_768];
        assert_eq!(compress(plain.clone()), plain);

        let longer = vec![b'x'; 32_769];
        let stored = compress(longer.clone());
        assert!(stored.starts_with(&GZIP_MAGIC) && stored.len() < 1_000);
        assert_eq!(decompress(&stored, LIMIT).unwrap(), longer);
    }

    #[test]
    fn the_limit_includes_its_bound_with_and_without_compression() {
        let json = vec![b'x'; 40_000];
        for compression in [Compression::Off, Compression::Gzip, Compression::Lz4] {
            let stored = packed(json.clone(), compression);
            assert_eq!(decompress(&stored, 40_000).unwrap(), json);
            assert_eq!(
                decompress(&stored, 39_999),
                Err(DecodeError::TooLarge { limit: 39_999 })
            );
        }
    }

    /// Gzip of so many times 1 MiB of zeroes. Behind the first, the compressed form of each is the same, so that two are
    /// compressed and the second is repeated.
    fn bomb(mebibytes: u32) -> Vec<u8> {
        let zeroes = vec![0; 1024 * 1024];
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        let mut ends = [0; 2];
        let mut checksum = flate2::Crc::new();
        for end in &mut ends {
            encoder.write_all(&zeroes).unwrap();
            // What is compressed so far then ends with a whole byte.
            encoder.flush().unwrap();
            *end = encoder.get_ref().len();
            checksum.update(&zeroes);
        }
        let [first, second] = ends;
        let mut bomb = encoder.get_ref()[..second].to_vec();
        for _ in 2..mebibytes {
            bomb.extend_from_within(first..second);
            checksum.update(&zeroes);
        }
        // The last block, an empty one, and the end of the file (RFC 1951 3.2.6, RFC 1952 2.3.1).
        bomb.extend([0x03, 0x00]);
        bomb.extend(checksum.sum().to_le_bytes());
        bomb.extend(checksum.amount().to_le_bytes());
        bomb
    }

    #[test]
    fn a_bomb_unpacks_to_what_it_claims_where_the_limit_allows_it() {
        let plain = decompress(&bomb(3), 3 * LIMIT).unwrap().into_owned();
        assert!(plain == vec![0; 3 * LIMIT]);
    }

    #[test]
    fn a_bomb_is_unpacked_to_the_limit_and_no_further() {
        let bomb = bomb(64);
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
        let stored = compress(json);
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
    fn lz4_is_written_above_the_threshold_and_reads_back() {
        let plain = vec![b'x'; 32_768];
        assert_eq!(packed(plain.clone(), Compression::Lz4), plain);

        let longer = b"product-1\",\"".repeat(7_000);
        let stored = packed(longer.clone(), Compression::Lz4);
        assert_eq!(stored[..8], [0x87, 0xd9, 0x6d, 0xf6, 0, 1, 0x48, 0x20]);
        assert!(stored.len() < longer.len());
        assert_eq!(decompress(&stored, LIMIT).unwrap(), longer);
    }

    #[test]
    fn a_threshold_of_nothing_compresses_everything_but_the_empty_form() {
        for compression in [Compression::Gzip, Compression::Lz4] {
            assert_eq!(super::compress(Vec::new(), compression, 0).unwrap(), b"");
            let stored = super::compress(b"{}".to_vec(), compression, 0).unwrap();
            assert_ne!(stored, b"{}");
            assert_eq!(decompress(&stored, LIMIT).unwrap().as_ref(), b"{}");
        }
    }

    #[test]
    fn an_lz4_block_has_exactly_the_length_in_front_of_it() {
        let plain = vec![b'x'; 40_000];
        let stored = packed(plain.clone(), Compression::Lz4);
        for claimed in [0_u32, 39_999, 40_001] {
            let mut other = stored.clone();
            other[4..8].copy_from_slice(&claimed.to_be_bytes());
            assert_eq!(
                decompress(&other, LIMIT),
                Err(DecodeError::DamagedCompression),
                "{claimed}"
            );
        }
        for cut in [4, 7, 8, stored.len() - 1] {
            assert_eq!(
                decompress(&stored[..cut], LIMIT),
                Err(DecodeError::DamagedCompression),
                "{cut}"
            );
        }
    }

    #[test]
    fn a_length_that_no_block_of_this_size_has_reserves_no_memory() {
        let mut stored = [&LZ4_MAGIC[..], &u32::MAX.to_be_bytes(), &[0; 8]].concat();
        assert_eq!(
            decompress(&stored, usize::MAX),
            Err(DecodeError::DamagedCompression)
        );
        stored.resize(64 * 1024, 0);
        stored[4..8].copy_from_slice(&u32::to_be_bytes(10 * 1024 * 1024));
        assert_eq!(
            decompress(&stored, LIMIT),
            Err(DecodeError::TooLarge { limit: LIMIT })
        );
    }

    proptest! {
        #[test]
        fn no_bytes_unpack_to_more_than_the_limit_or_make_it_panic(
            magic in prop::sample::select(vec![&GZIP_MAGIC[..], &LZ4_MAGIC[..], &[]]),
            bytes in any::<Vec<u8>>(),
            len in 0..2_000_u32,
            limit in 0..1_000_usize,
        ) {
            let damaged = [magic, &len.to_be_bytes(), &bytes].concat();
            for stored in [[magic, &bytes].concat(), damaged] {
                if let Ok(plain) = decompress(&stored, limit) {
                    prop_assert!(plain.len() <= limit);
                }
            }
        }

        #[test]
        fn every_form_reads_back_whatever_the_compression(bytes in any::<Vec<u8>>()) {
            for compression in [Compression::Gzip, Compression::Lz4] {
                let stored = super::compress(bytes.clone(), compression, 0).unwrap();
                prop_assert_eq!(decompress(&stored, LIMIT).unwrap().into_owned(), bytes.clone());
            }
        }
    }
}
