//! The return path: what the QEMU that is filled sends back.
//!
//! ```text
//! be16 kind | be16 length | payload
//!  1 SHUT          be32 status, 0: all is there
//!  2 PONG          be32 number of the PING
//!  3 REQ_PAGES_ID  be64 start | be32 length | u8 length, name of the block
//!  4 REQ_PAGES     be64 start | be32 length                     same block as the last REQ_PAGES_ID
//!  5 RECV_BITMAP   u8 length, name   then, outside of the length: be64 bytes | bitmap | be64 end mark
//!  6 RESUME_ACK    be32 1
//! ```
//! Bit `n` of a bitmap is bit `n % 8` of byte `n / 8`: page `n` was received. It is padded to whole 8 bytes.
//! Source: QEMU `migration/migration.c`, `source_return_path_thread`; `migration/ram.c`, `ramblock_recv_bitmap_send`.
#![deny(clippy::indexing_slicing)]

use std::collections::HashMap;
use std::ops::Range;

use super::error::{ReturnFault, SourceError};
use crate::stream::wire::{Reader, Stop};
use crate::stream::{PAGE_BYTES, RamBlock};

const BITMAP_END: u64 = 0x0123_4567_89ab_cdef;

/// One message of QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The migration is over.
    Shut {
        /// Whether QEMU met an error.
        failed: bool,
    },
    /// Answer to a PING.
    Pong(u32),
    /// Pages that are needed.
    Request {
        /// Of which block.
        block: usize,
        /// Which pages, at least one.
        pages: Range<u64>,
    },
    /// Which pages of a block were received.
    Bitmap {
        /// Of which block.
        block: usize,
        /// One bit for each page, lowest first, padded.
        received: Vec<u8>,
    },
    /// The migration can be resumed.
    ResumeAck,
}

/// Decodes a return path that comes in pieces.
///
/// Guarantees: the pieces' sizes make no difference; no input makes it panic; no more is kept than one message, whose
/// length is bounded by that of the blocks.
#[derive(Debug)]
pub struct ReturnPath {
    blocks: Vec<RamBlock>,
    index: HashMap<String, usize>,
    previous: Option<usize>,
    /// What came and is not decoded yet.
    pending: Vec<u8>,
    /// Where `pending` begins.
    offset: u64,
    failed: bool,
}

impl ReturnPath {
    /// A return path for these blocks.
    pub fn new(blocks: &[RamBlock]) -> Self {
        let index = blocks.iter().enumerate().map(|(at, block)| (block.name.clone(), at)).collect();
        let blocks = blocks.to_vec();
        Self { blocks, index, previous: None, pending: Vec::new(), offset: 0, failed: false }
    }

    /// Takes bytes in and gives the messages that are whole.
    ///
    /// # Errors
    /// [`SourceError::ReturnPath`]; nothing can be decoded after it.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Message>, SourceError> {
        if self.failed {
            return Err(self.fail(ReturnFault::Failed));
        }
        self.pending.extend_from_slice(bytes);
        let mut messages = Vec::new();
        let mut used = 0;
        loop {
            match self.message(self.pending.get(used..).unwrap_or_default()) {
                Ok((message, count)) => {
                    if let Message::Request { block, .. } = &message {
                        self.previous = Some(*block);
                    }
                    messages.push(message);
                    used += count;
                    self.offset += count as u64;
                }
                Err(Wrong::Short) => break,
                Err(Wrong::Fault(fault)) => return Err(self.fail(fault)),
            }
        }
        self.pending.drain(..used);
        Ok(messages)
    }

    fn fail(&mut self, fault: ReturnFault) -> SourceError {
        self.failed = true;
        self.pending = Vec::new();
        SourceError::ReturnPath { offset: self.offset, fault }
    }

    /// Decodes the message at the start of `input`; gives the bytes used.
    fn message(&self, input: &[u8]) -> Result<(Message, usize), Wrong> {
        let mut reader = Reader::new(input);
        let (kind, len) = (reader.u16()?, reader.u16()?);
        let bounds = match kind {
            1 => (4..=4, "SHUT"),
            2 => (4..=4, "PONG"),
            3 => (14..=13 + u16::from(u8::MAX), "REQ_PAGES_ID"),
            4 => (12..=12, "REQ_PAGES"),
            5 => (2..=1 + u16::from(u8::MAX), "RECV_BITMAP"),
            6 => (4..=4, "RESUME_ACK"),
            _ => return Err(ReturnFault::Kind { kind }.into()),
        };
        let (range, field) = bounds;
        if !range.contains(&len) {
            return Err(ReturnFault::Length { field, len }.into());
        }
        let mut payload = Reader::new(reader.bytes(usize::from(len))?);
        let message = match kind {
            1 => Message::Shut { failed: payload.u32()? != 0 },
            2 => Message::Pong(payload.u32()?),
            3 | 4 => {
                let (start, bytes) = (payload.u64()?, payload.u32()?);
                let block = match (kind, self.previous) {
                    (3, _) => self.named(&mut payload)?,
                    (_, Some(block)) => block,
                    _ => return Err(ReturnFault::NoPreviousBlock.into()),
                };
                Message::Request { block, pages: self.pages(block, start, bytes)? }
            }
            5 => {
                let block = self.named(&mut payload)?;
                Message::Bitmap { block, received: self.bitmap(block, &mut reader)? }
            }
            _ => match payload.u32()? {
                1 => Message::ResumeAck,
                value => return Err(ReturnFault::ResumeAnswer { value }.into()),
            },
        };
        if payload.used() != usize::from(len) {
            return Err(ReturnFault::Length { field, len }.into());
        }
        Ok((message, reader.used()))
    }

    fn named(&self, payload: &mut Reader<'_>) -> Result<usize, Wrong> {
        // The payload is there whole: a name that is longer than it is at fault, not incomplete.
        let name = payload.short_bytes().map_err(|_| ReturnFault::UnknownBlock { name: String::new() })?;
        let found = std::str::from_utf8(name).ok().and_then(|name| self.index.get(name));
        let unknown =
            || ReturnFault::UnknownBlock { name: String::from_utf8_lossy(name).escape_debug().to_string() };
        found.copied().ok_or_else(|| unknown().into())
    }

    fn pages(&self, block: usize, start: u64, len: u32) -> Result<Range<u64>, Wrong> {
        let (name, whole) = self.blocks.get(block).map_or(("", 0), |block| (&*block.name, block.len));
        let end = start.checked_add(u64::from(len)).filter(|end| *end <= whole);
        match end {
            Some(end) if len > 0 && start.is_multiple_of(PAGE_BYTES) && end.is_multiple_of(PAGE_BYTES) => {
                Ok(start / PAGE_BYTES..end / PAGE_BYTES)
            }
            _ => Err(ReturnFault::Range { block: name.to_owned(), start, len }.into()),
        }
    }

    fn bitmap(&self, block: usize, reader: &mut Reader<'_>) -> Result<Vec<u8>, Wrong> {
        let block = self.blocks.get(block);
        let name = || block.map(|block| block.name.clone()).unwrap_or_default();
        let found = reader.u64()?;
        let expected = block.map_or(0, bitmap_bytes);
        let count = usize::try_from(found).ok().filter(|_| found == expected);
        let Some(count) = count else {
            return Err(ReturnFault::BitmapLength { block: name(), found, expected }.into());
        };
        let received = reader.bytes(count)?.to_vec();
        if reader.u64()? != BITMAP_END {
            return Err(ReturnFault::BitmapEnd { block: name() }.into());
        }
        Ok(received)
    }
}

/// Bytes of a block's bitmap on the wire.
fn bitmap_bytes(block: &RamBlock) -> u64 {
    block.pages().div_ceil(8).next_multiple_of(8)
}

/// Why there is no message.
enum Wrong {
    /// It is not whole yet.
    Short,
    Fault(ReturnFault),
}

impl From<ReturnFault> for Wrong {
    fn from(fault: ReturnFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Stop> for Wrong {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Need(_) => Self::Short,
            Stop::Bad(_) => Self::Fault(ReturnFault::Failed),
        }
    }
}
