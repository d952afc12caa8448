//! The numbers of the wire format, and a bounded reader over bytes that may still be incomplete.
//!
//! Everything is big-endian. Source: QEMU `migration/savevm.h`, `migration/savevm.c`, `migration/ram.c`.
#![deny(clippy::indexing_slicing)]

use super::error::Fault;

/// First word of a stream, `QEVM`.
pub(crate) const MAGIC: u32 = 0x5145_564d;
/// Second word of a stream: the only version since 2009.
pub(crate) const VERSION: u32 = 3;

/// What the first byte of a piece of the stream says it is.
pub(crate) mod tag {
    pub(crate) const EOF: u8 = 0x00;
    pub(crate) const SECTION_START: u8 = 0x01;
    pub(crate) const SECTION_PART: u8 = 0x02;
    pub(crate) const SECTION_END: u8 = 0x03;
    pub(crate) const SECTION_FULL: u8 = 0x04;
    pub(crate) const SUBSECTION: u8 = 0x05;
    pub(crate) const DESCRIPTION: u8 = 0x06;
    pub(crate) const CONFIGURATION: u8 = 0x07;
    pub(crate) const COMMAND: u8 = 0x08;
    pub(crate) const FOOTER: u8 = 0x7e;
}

/// Low twelve bits of a word in RAM data.
pub(crate) mod flag {
    pub(crate) const ZERO: u64 = 0x02;
    pub(crate) const MEM_SIZE: u64 = 0x04;
    pub(crate) const PAGE: u64 = 0x08;
    pub(crate) const EOS: u64 = 0x10;
    pub(crate) const CONTINUE: u64 = 0x20;
    /// All of them: what is left of a word is an offset or a length.
    pub(crate) const MASK: u64 = 0xfff;
}

/// Name and version of the one iterable section that is read.
pub(crate) const RAM: &str = "ram";
/// Version of the section `ram`, unchanged since QEMU 0.12.
pub(crate) const RAM_VERSION: u32 = 4;

/// Why a piece could not be read.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The piece is longer than the bytes at hand: at least so many, counted from its start, are needed.
    Need(usize),
    /// The piece is wrong, whatever may follow.
    Bad(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Bad(fault)
    }
}

/// Result of reading a piece that may be incomplete.
pub(crate) type Parsed<T> = Result<T, Stop>;

/// Reads one piece from the start of a slice, and says how much is missing when the slice ends early.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    used: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { rest: input, used: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Parsed<&'a [u8; N]> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(Stop::Need(self.used + N));
        };
        self.rest = rest;
        self.used += N;
        Ok(head)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            return Err(Stop::Need(self.used.saturating_add(count)));
        };
        self.rest = rest;
        self.used += count;
        Ok(head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Parsed<u8> {
        self.array::<1>().map(|&[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Parsed<u16> {
        self.array().map(|bytes| u16::from_be_bytes(*bytes))
    }

    pub(crate) fn u32(&mut self) -> Parsed<u32> {
        self.array().map(|bytes| u32::from_be_bytes(*bytes))
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Parsed<u64> {
        self.array().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// A length byte and so many bytes.
    pub(crate) fn short_bytes(&mut self) -> Parsed<&'a [u8]> {
        let len = self.u8()?;
        self.bytes(usize::from(len))
    }

    /// A length byte and so many bytes of UTF-8.
    pub(crate) fn short_text(&mut self, field: &'static str) -> Parsed<&'a str> {
        text(self.short_bytes()?, field)
    }

    /// The next byte, left where it is.
    pub(crate) fn peek_u8(&self) -> Parsed<u8> {
        self.rest.first().copied().ok_or(Stop::Need(self.used + 1))
    }

    /// The next word, left where it is.
    pub(crate) fn peek_u64(&self) -> Parsed<u64> {
        Reader { rest: self.rest, used: self.used }.u64()
    }
}

/// Names are ASCII in every QEMU; UTF-8 is what a `String` can hold.
pub(crate) fn text<'a>(bytes: &'a [u8], field: &'static str) -> Parsed<&'a str> {
    std::str::from_utf8(bytes).map_err(|_| Stop::Bad(Fault::NotText { field }))
}

/// Appends a length byte and the bytes; the callers' names are at most 255 bytes, as the decoder gave them out.
pub(crate) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    out.push(len);
    out.extend(bytes.iter().take(usize::from(len)));
}
