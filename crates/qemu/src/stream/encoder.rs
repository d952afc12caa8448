//! Writes a migration stream from a capture and pages.
//!
//! An eager replay calls, in this order:
//! ```text
//! header, configuration, section_start,
//! ( begin_part, ( page | zero )*, end_part )*,
//! section_end, device_state
//! ```
//! A postcopy source takes the same pieces and puts [`Encoder::command`]s between them; a stream may be
//! given up at any border of these calls and taken up on another connection only with a new encoder, as
//! the destination forgets the block of the last page too.

use super::wire::{MAGIC, RAM, RAM_VERSION, VERSION, flag, put_short, tag};
use super::{Captured, PAGE_BYTES, PAGE_SIZE};

/// Misuse of an [`Encoder`], or pages that are not of the capture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// No block has this index.
    #[error("no RAM block {block}, there are {count}")]
    Block {
        /// The index given.
        block: usize,
        /// Number of blocks.
        count: usize,
    },
    /// The page is behind the end of its block.
    #[error("no page {page} in RAM block \"{block}\" of {count} pages")]
    Page {
        /// Name of the block.
        block: String,
        /// The page given.
        page: u64,
        /// Pages of the block.
        count: u64,
    },
    /// A page outside of a part, or a part within a part.
    #[error("{what} {place} a part of memory")]
    Order {
        /// What was to be written.
        what: &'static str,
        /// Where.
        place: &'static str,
    },
    /// The payload of a command has a length of 16 bits.
    #[error("command {id} with {len} bytes, at most 65535 are possible")]
    Command {
        /// Number of the command.
        id: u16,
        /// Length of its payload.
        len: usize,
    },
}

/// Appends the pieces of a stream to a buffer that the caller writes out and clears as it likes.
#[derive(Debug)]
pub struct Encoder<'a> {
    captured: &'a Captured,
    /// Block of the last page record; stays across parts, as the decoder's does.
    previous: Option<usize>,
    in_part: bool,
    page_sizes: bool,
}

impl<'a> Encoder<'a> {
    /// An encoder for one stream of this capture.
    pub fn new(captured: &'a Captured) -> Self {
        Self { captured, previous: None, in_part: false, page_sizes: false }
    }

    /// Writes magic and version.
    pub fn header(&mut self, out: &mut Vec<u8>) {
        out.extend(MAGIC.to_be_bytes());
        out.extend(VERSION.to_be_bytes());
    }

    /// Writes CONFIGURATION as it was captured.
    pub fn configuration(&mut self, out: &mut Vec<u8>) {
        out.push(tag::CONFIGURATION);
        out.extend(&self.captured.configuration);
    }

    /// Writes a command; `POSTCOPY_ADVISE` (3) also makes the block list tell page sizes other than 4096.
    ///
    /// # Errors
    /// The payload is too long, or a part is open.
    pub fn command(&mut self, out: &mut Vec<u8>, id: u16, payload: &[u8]) -> Result<(), EncodeError> {
        self.outside("a command")?;
        let len =
            u16::try_from(payload.len()).map_err(|_| EncodeError::Command { id, len: payload.len() })?;
        self.page_sizes |= id == 3 && len > 0;
        out.push(tag::COMMAND);
        out.extend(id.to_be_bytes());
        out.extend(len.to_be_bytes());
        out.extend(payload);
        Ok(())
    }

    /// Writes SECTION_START of memory, whole: the list of blocks, no pages.
    ///
    /// # Errors
    /// A part is open.
    pub fn section_start(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.outside("the start of memory")?;
        self.section(out, tag::SECTION_START);
        put_short(out, RAM.as_bytes());
        out.extend(0_u32.to_be_bytes());
        out.extend(RAM_VERSION.to_be_bytes());
        let sum = self.captured.blocks.iter().fold(0, |sum: u64, block| sum.saturating_add(block.len));
        out.extend((sum | flag::MEM_SIZE).to_be_bytes());
        for block in &self.captured.blocks {
            put_short(out, block.name.as_bytes());
            out.extend(block.len.to_be_bytes());
            if self.page_sizes && block.page_size != PAGE_BYTES {
                out.extend(block.page_size.to_be_bytes());
            }
            if let Some(address) = block.guest_address {
                out.extend(address.to_be_bytes());
            }
        }
        self.end_of_section(out);
        Ok(())
    }

    /// Opens a part of memory.
    ///
    /// # Errors
    /// One is open already.
    pub fn begin_part(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.outside("a part of memory")?;
        self.in_part = true;
        self.section(out, tag::SECTION_PART);
        Ok(())
    }

    /// Writes a page, at most 4360 bytes.
    ///
    /// # Errors
    /// No part is open, or the page is outside of the blocks; nothing is written then.
    pub fn page(
        &mut self,
        out: &mut Vec<u8>,
        block: usize,
        page: u64,
        data: &[u8; PAGE_SIZE],
    ) -> Result<(), EncodeError> {
        self.record(out, block, page, flag::PAGE)?;
        out.extend_from_slice(data);
        Ok(())
    }

    /// Writes a page of zeroes.
    ///
    /// # Errors
    /// As [`Encoder::page`].
    pub fn zero(&mut self, out: &mut Vec<u8>, block: usize, page: u64) -> Result<(), EncodeError> {
        self.record(out, block, page, flag::ZERO)?;
        out.push(0);
        Ok(())
    }

    /// Closes the part of memory.
    ///
    /// # Errors
    /// None is open.
    pub fn end_part(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.inside("the end of a part")?;
        self.in_part = false;
        self.end_of_section(out);
        Ok(())
    }

    /// Writes SECTION_END of memory, without pages.
    ///
    /// # Errors
    /// A part is open.
    pub fn section_end(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.outside("the end of memory")?;
        self.section(out, tag::SECTION_END);
        self.end_of_section(out);
        Ok(())
    }

    /// Writes the device state with end mark and description: the end of an eager stream.
    pub fn device_state(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.captured.device_state.bytes());
    }

    /// Writes an end mark alone: the end of a postcopy stream, whose device state went ahead in a package.
    pub fn eof(&mut self, out: &mut Vec<u8>) {
        out.push(tag::EOF);
    }

    fn section(&self, out: &mut Vec<u8>, tag: u8) {
        out.push(tag);
        out.extend(self.captured.ram_section_id.to_be_bytes());
    }

    fn end_of_section(&self, out: &mut Vec<u8>) {
        out.extend(flag::EOS.to_be_bytes());
        self.section(out, tag::FOOTER);
    }

    fn record(&mut self, out: &mut Vec<u8>, block: usize, page: u64, kind: u64) -> Result<(), EncodeError> {
        self.inside("a page")?;
        let blocks = &self.captured.blocks;
        let Some(found) = blocks.get(block) else {
            return Err(EncodeError::Block { block, count: blocks.len() });
        };
        if page >= found.pages() {
            return Err(EncodeError::Page { block: found.name.clone(), page, count: found.pages() });
        }
        let word = (page * PAGE_BYTES) | kind;
        if self.previous == Some(block) {
            out.extend((word | flag::CONTINUE).to_be_bytes());
        } else {
            out.extend(word.to_be_bytes());
            put_short(out, found.name.as_bytes());
        }
        self.previous = Some(block);
        Ok(())
    }

    fn inside(&self, what: &'static str) -> Result<(), EncodeError> {
        if self.in_part { Ok(()) } else { Err(EncodeError::Order { what, place: "outside of" }) }
    }

    fn outside(&self, what: &'static str) -> Result<(), EncodeError> {
        if self.in_part { Err(EncodeError::Order { what, place: "within" }) } else { Ok(()) }
    }
}
