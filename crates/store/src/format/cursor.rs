//! Takes fields off the front of a byte slice.
#![deny(clippy::indexing_slicing)]

use super::{Flaw, MAX_NAME_LEN};
use crate::error::Part;

/// Reads fields in order; every failure names the field and its offset.
pub(super) struct Cursor<'a> {
    part: Part,
    len: usize,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(part: Part, bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { part, len: bytes.len(), rest: bytes }
    }

    /// Returns the offset of the next field.
    pub(super) fn offset(&self) -> usize {
        self.len - self.rest.len()
    }

    /// Returns how many bytes are left.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Makes a flaw at the present offset.
    pub(super) fn flaw(&self, what: impl std::fmt::Display) -> Flaw {
        Flaw::new(self.part, format!("before byte {}: {what}", self.offset()))
    }

    pub(super) fn bytes(&mut self, len: usize, field: &str) -> Result<&'a [u8], Flaw> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.flaw(format_args!("{field} is cut off")));
        };
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Flaw> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.flaw(format_args!("{field} is cut off")));
        };
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self, field: &str) -> Result<u8, Flaw> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u16(&mut self, field: &str) -> Result<u16, Flaw> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32, Flaw> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64, Flaw> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// Takes bytes that mean nothing and are zero.
    pub(super) fn zero(&mut self, len: usize) -> Result<(), Flaw> {
        if self.bytes(len, "unused bytes")?.iter().any(|byte| *byte != 0) {
            return Err(self.flaw("unused bytes are not zero"));
        }
        Ok(())
    }

    /// Takes a count that is at most `max`, and that the remaining bytes have room for at `item_len` bytes each.
    pub(super) fn count(&mut self, max: u32, item_len: usize, field: &str) -> Result<usize, Flaw> {
        let count = self.u32(field)?;
        let items = count as usize;
        if count > max || items.checked_mul(item_len).is_none_or(|bytes| bytes > self.remaining()) {
            return Err(self.flaw(format_args!("{field} of {count} is too large")));
        }
        Ok(items)
    }

    /// Takes a name with its length in front.
    pub(super) fn name(&mut self, field: &str) -> Result<&'a str, Flaw> {
        let len = usize::from(self.u16(field)?);
        if len == 0 || len > MAX_NAME_LEN {
            return Err(self.flaw(format_args!("{field} has a length of {len}")));
        }
        let bytes = self.bytes(len, field)?;
        std::str::from_utf8(bytes).map_err(|_| self.flaw(format_args!("{field} is not UTF-8")))
    }

    /// Checks that everything was taken.
    pub(super) fn end(&self) -> Result<(), Flaw> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(self.flaw(format_args!("{left} bytes too many"))),
        }
    }
}
