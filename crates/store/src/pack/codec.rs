//! Compression of single objects, LZ4 or zstd, where it pays; bytes as they are where it doesn't.

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use zstd::bulk::{Compressor, Decompressor};

use crate::entry::Encoding;

/// zstd's level for what nobody waits for; see `docs/store-format.md`.
const LEVEL: i32 = 1;
/// Compression has to save at least one part in this many, or the bytes are stored as they are and need no expansion.
const LEAST_SAVING: usize = 32;

/// Compresses objects one after the other with one context.
pub(crate) struct Encoder {
    /// None before it is needed, and where there was no memory for a context: then the object is stored as it is.
    zstd: Option<Compressor<'static>>,
    lz4: CompressTable,
    buffer: Vec<u8>,
}

/// Expands objects one after the other with one context.
pub(crate) struct Decoder {
    context: Option<Decompressor<'static>>,
}

impl Encoder {
    pub(crate) fn new() -> Encoder {
        Encoder { zstd: None, lz4: CompressTable::large(), buffer: Vec::new() }
    }

    /// Returns the form in which `raw` is to be stored: in that encoding, or as it is.
    pub(crate) fn encode<'a>(&'a mut self, encoding: Encoding, raw: &'a [u8]) -> (Encoding, &'a [u8]) {
        let longest = raw.len() - raw.len().div_ceil(LEAST_SAVING);
        let compressed = match encoding {
            Encoding::Raw => None,
            Encoding::Zstd => self.zstd(raw, longest),
            Encoding::Lz4 => self.lz4(raw),
        };
        match compressed.filter(|len| *len <= longest).and_then(|len| self.buffer.get(..len)) {
            Some(stored) => (encoding, stored),
            None => (Encoding::Raw, raw),
        }
    }

    /// Fails when the compressed bytes are longer than `longest`.
    fn zstd(&mut self, raw: &[u8], longest: usize) -> Option<usize> {
        if self.zstd.is_none() {
            self.zstd = Compressor::new(LEVEL).ok();
        }
        let room = room(&mut self.buffer, longest);
        self.zstd.as_mut()?.compress_to_buffer(raw, room).ok()
    }

    fn lz4(&mut self, raw: &[u8]) -> Option<usize> {
        let room = room(&mut self.buffer, get_maximum_output_size(raw.len()));
        compress_into_with_table(raw, room, &mut self.lz4).ok()
    }
}

fn room(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    buffer.get_mut(..len).unwrap_or_default()
}

impl Decoder {
    pub(crate) fn new() -> Decoder {
        Decoder { context: Decompressor::new().ok() }
    }

    /// Fills `raw` with what `stored` expands to; says what is wrong when it is not exactly that long.
    pub(crate) fn decode(
        &mut self,
        encoding: Encoding,
        stored: &[u8],
        raw: &mut [u8],
    ) -> Result<(), &'static str> {
        let len = match (encoding, &mut self.context) {
            (Encoding::Raw, _) if stored.len() == raw.len() => {
                raw.copy_from_slice(stored);
                raw.len()
            }
            (Encoding::Raw, _) => stored.len(),
            (Encoding::Lz4, _) => decompress_into(stored, raw).map_err(|_| "it cannot be expanded")?,
            (Encoding::Zstd, Some(context)) => {
                context.decompress_to_buffer(stored, raw).map_err(|_| "it cannot be expanded")?
            }
            (Encoding::Zstd, None) => return Err("there is no memory to expand it"),
        };
        if len == raw.len() { Ok(()) } else { Err("its length is wrong") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    // What is read must be what was written, in each form, with contexts that have been used before.
    #[test]
    fn objects_come_back_in_the_form_that_pays() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let compressible = b"all work and no play ".repeat(3000);
        for wanted in [Encoding::Zstd, Encoding::Lz4, Encoding::Raw] {
            for (raw, expected) in [
                (compressible.clone(), wanted),
                (random(65536), Encoding::Raw),
                (vec![7], Encoding::Raw),
                (vec![7; 65536], wanted),
                (compressible.clone(), wanted),
                (random(100), Encoding::Raw),
            ] {
                let (encoding, stored) = encoder.encode(wanted, &raw);
                assert_eq!(encoding, expected, "{} bytes", raw.len());
                assert!(stored.len() < raw.len() || encoding == Encoding::Raw);
                let mut back = vec![0xee; raw.len()];
                decoder.decode(encoding, stored, &mut back).expect("it was encoded");
                assert!(back == raw);
            }
        }
    }

    // A length in a damaged directory must not let stale bytes of a buffer pass for content.
    #[test]
    fn a_wrong_length_is_refused() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let raw = vec![1; 8192];
        for wanted in [Encoding::Zstd, Encoding::Lz4] {
            let (encoding, stored) = encoder.encode(wanted, &raw);
            for len in [0, 8191, 8193, 65536] {
                assert!(decoder.decode(encoding, stored, &mut vec![0; len]).is_err(), "{wanted:?} {len}");
            }
            assert!(decoder.decode(wanted, &[0; 40], &mut [0; 64]).is_err());
        }
        assert!(decoder.decode(Encoding::Raw, &raw, &mut [0; 8191]).is_err());
    }

    // Payloads are not verified before they are expanded: whatever a disk makes of them, expanding is an error at worst.
    #[test]
    fn damaged_payloads_are_expanded_to_an_error_or_to_other_bytes() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let raw = [b"all work and no play ".repeat(40), random(200), vec![0; 900]].concat();
        for wanted in [Encoding::Zstd, Encoding::Lz4] {
            let (_, stored) = encoder.encode(wanted, &raw);
            let stored = stored.to_vec();
            for at in 0..stored.len() {
                for bit in 0..8 {
                    let mut damaged = stored.clone();
                    damaged[at] ^= 1 << bit;
                    let mut back = vec![0; raw.len()];
                    if decoder.decode(wanted, &damaged, &mut back).is_ok() {
                        assert_eq!(back.len(), raw.len());
                    }
                }
                assert!(
                    decoder.decode(wanted, &stored[..at], &mut vec![0; raw.len()]).is_err(),
                    "cut at {at}"
                );
            }
        }
    }
}
