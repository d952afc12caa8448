//! Compression of single objects: zstd level 1 where it pays, bytes as they are where it doesn't.

use zstd::bulk::{Compressor, Decompressor};

use super::Encoding;

/// The level with the best balance of speed and size for memory; see `docs/format.md`.
const LEVEL: i32 = 1;
/// Compression has to save at least one part in this many, or the bytes are stored as they are and need no expansion.
const LEAST_SAVING: usize = 32;

/// Compresses objects one after the other with one context.
pub(crate) struct Encoder {
    /// None where there was no memory for a context: then everything is stored as it is.
    context: Option<Compressor<'static>>,
    buffer: Vec<u8>,
}

/// Expands objects one after the other with one context.
pub(crate) struct Decoder {
    context: Option<Decompressor<'static>>,
}

impl Encoder {
    pub(crate) fn new() -> Encoder {
        Encoder { context: Compressor::new(LEVEL).ok(), buffer: Vec::new() }
    }

    /// Returns the form in which `raw` is to be stored.
    pub(crate) fn encode<'a>(&'a mut self, raw: &'a [u8]) -> (Encoding, &'a [u8]) {
        let longest = raw.len() - raw.len().div_ceil(LEAST_SAVING);
        if self.buffer.len() < longest {
            self.buffer.resize(longest, 0);
        }
        let room = self.buffer.get_mut(..longest).unwrap_or_default();
        // It fails when the compressed bytes have no room.
        let compressed = self.context.as_mut().and_then(|context| context.compress_to_buffer(raw, room).ok());
        match compressed.and_then(|len| self.buffer.get(..len)) {
            Some(stored) => (Encoding::Zstd, stored),
            None => (Encoding::Raw, raw),
        }
    }
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

    // What is read must be what was written, in both forms, with contexts that have been used before.
    #[test]
    fn objects_come_back_in_the_form_that_pays() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let compressible = b"all work and no play ".repeat(3000);
        for (raw, expected) in [
            (compressible.clone(), Encoding::Zstd),
            (random(65536), Encoding::Raw),
            (vec![7], Encoding::Raw),
            (compressible, Encoding::Zstd),
            (random(100), Encoding::Raw),
        ] {
            let (encoding, stored) = encoder.encode(&raw);
            assert_eq!(encoding, expected, "{} bytes", raw.len());
            assert!(stored.len() < raw.len() || encoding == Encoding::Raw);
            let mut back = vec![0xee; raw.len()];
            decoder.decode(encoding, stored, &mut back).expect("it was encoded");
            assert!(back == raw);
        }
    }

    // A length in a damaged directory must not let stale bytes of a buffer pass for content.
    #[test]
    fn a_wrong_length_is_refused() {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let raw = vec![1; 8192];
        let (encoding, stored) = encoder.encode(&raw);
        for len in [0, 8191, 8193, 65536] {
            assert!(decoder.decode(encoding, stored, &mut vec![0; len]).is_err(), "{len}");
        }
        assert!(decoder.decode(Encoding::Raw, &raw, &mut [0; 8191]).is_err());
        assert!(decoder.decode(Encoding::Zstd, &[0; 40], &mut [0; 64]).is_err());
    }
}
