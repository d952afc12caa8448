//! The push parser: bytes in, pages out.
//!
//! A *piece* (a header, one entry of the block list, one page record, ...) is read only when all of it is there.
//! Pieces that lie whole in the chunk are read where they are, pages are passed on by reference; only a piece
//! split across chunks is copied, once, into `carry`. The payload of commands and the device state are not
//! pieces but are taken as they come.
#![deny(clippy::indexing_slicing)]

use super::blocks::{BlockList, Fields};
use super::configuration::Configuration;
use super::device::DeviceState;
use super::error::{DecodeError, Fault, StreamError};
use super::wire::{MAGIC, RAM, RAM_VERSION, Reader, Stop, VERSION, flag, tag};
use super::{Captured, PAGE_BYTES, PAGE_SIZE, Sink};

/// Bounds on what a stream may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// RAM blocks in the list.
    pub max_blocks: usize,
    /// Sum of their lengths, in bytes.
    pub max_ram: u64,
    /// CONFIGURATION, in bytes.
    pub max_configuration: usize,
    /// Device state with its description, in bytes; it is kept in memory.
    pub max_device_state: usize,
    /// Refuses a stream without the description of devices at its end. Only `-machine suppress-vmdesc=on`
    /// leaves it out; anywhere else its lack means that the stream was cut off behind the state of the devices.
    pub require_description: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_blocks: 4096,
            max_ram: 1 << 46,
            max_configuration: 64 << 10,
            max_device_state: 1 << 30,
            require_description: true,
        }
    }
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Header,
    MachineType,
    ConfigurationParts,
    Between,
    Skip { left: u16 },
    Blocks,
    Records,
    Footer,
    Device,
    Failed,
}

/// Where the section `ram` has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ram {
    Awaited,
    Started { id: u32 },
    Ended { id: u32 },
}

/// Decodes one migration stream.
///
/// Feed it what comes from the socket, then call [`Decoder::finish`] at its end. After an error it is of no use.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    stage: Stage,
    /// The start of a piece that is not all there, and how many bytes of it are needed to go on.
    carry: Vec<u8>,
    wanted: usize,
    /// Bytes of all pieces read.
    position: u64,
    bytes_seen: u64,
    configuration: Configuration,
    configuration_bytes: Vec<u8>,
    ram: Ram,
    fields: Fields,
    list: BlockList,
    /// Block of the last page record; stays across sections, as QEMU's CONTINUE flag does.
    previous: Option<usize>,
    pages: u64,
    zero_pages: u64,
    device_start: u64,
    device: Vec<u8>,
}

/// Why a piece was not taken.
enum Halt<E> {
    Need(usize),
    Bad(Fault),
    Sink(E),
}

impl<E> From<Stop> for Halt<E> {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Need(wanted) => Self::Need(wanted),
            Stop::Bad(fault) => Self::Bad(fault),
        }
    }
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            stage: Stage::Header,
            carry: Vec::new(),
            wanted: 1,
            position: 0,
            bytes_seen: 0,
            configuration: Configuration::default(),
            configuration_bytes: Vec::new(),
            ram: Ram::Awaited,
            fields: Fields::default(),
            list: BlockList::default(),
            previous: None,
            pages: 0,
            zero_pages: 0,
            device_start: 0,
            device: Vec::new(),
        }
    }

    /// Takes the next bytes of the stream and hands on what is complete.
    ///
    /// # Errors
    /// The stream is faulty or unsupported, or the sink failed. Nothing of this stream should be used then.
    pub fn feed<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<(), DecodeError<S::Error>> {
        self.bytes_seen = self.bytes_seen.saturating_add(bytes.len() as u64);
        let result = self.take(bytes, sink);
        if result.is_err() {
            self.stage = Stage::Failed;
        }
        result
    }

    /// Whether a page record has been read. In a background snapshot QEMU has saved the state of the devices and
    /// protected memory by then, so that the guest may go on.
    pub fn first_page_seen(&self) -> bool {
        self.pages + self.zero_pages > 0
    }

    /// Whether all memory has been read; what comes is device state.
    pub fn ram_done(&self) -> bool {
        self.stage == Stage::Device
    }

    /// Bytes fed.
    pub fn bytes_seen(&self) -> u64 {
        self.bytes_seen
    }

    /// Records of pages with data, repeats included.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Records of zero pages, repeats included.
    pub fn zero_pages(&self) -> u64 {
        self.zero_pages
    }

    /// Ends the decoding at the end of the stream.
    ///
    /// # Errors
    /// The stream is cut off, has trailing bytes, or has no (complete) device state.
    pub fn finish(self) -> Result<Captured, StreamError> {
        if self.stage != Stage::Device {
            return Err(StreamError { offset: self.bytes_seen, fault: self.truncation() });
        }
        let id = match self.ram {
            Ram::Started { id } | Ram::Ended { id } => id,
            Ram::Awaited => return Err(StreamError { offset: self.bytes_seen, fault: Fault::NoRam }),
        };
        let start = self.device_start;
        let device_state = DeviceState::parse_with(self.device, self.limits.require_description)
            .map_err(|error| StreamError { offset: start + error.offset, ..error })?;
        Ok(Captured {
            machine_type: self.configuration.machine_type,
            configuration: self.configuration_bytes,
            ram_section_id: id,
            blocks: self.list.into_blocks(),
            device_state,
        })
    }

    fn truncation(&self) -> Fault {
        let field = match self.stage {
            Stage::Header => "the header",
            Stage::MachineType | Stage::ConfigurationParts => "the configuration",
            Stage::Skip { .. } => "a command",
            Stage::Blocks => "the list of RAM blocks",
            Stage::Records => "memory",
            Stage::Footer => "a section footer",
            Stage::Between | Stage::Device => "the sections, ahead of the device state",
            Stage::Failed => return Fault::Failed,
        };
        Fault::Truncated { field }
    }

    /// Finishes the piece in `carry`, then reads the chunk in place and keeps its incomplete end.
    fn take<S: Sink>(&mut self, mut bytes: &[u8], sink: &mut S) -> Result<(), DecodeError<S::Error>> {
        while !self.carry.is_empty() {
            let missing = self.wanted.saturating_sub(self.carry.len()).min(bytes.len());
            let (head, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
            self.carry.extend_from_slice(head);
            bytes = rest;
            if self.carry.len() < self.wanted {
                return Ok(());
            }
            let mut carry = std::mem::take(&mut self.carry);
            let used = self.pieces(&carry, sink)?;
            carry.drain(..used.min(carry.len()));
            self.carry = carry;
        }
        let used = self.pieces(bytes, sink)?;
        self.carry.extend_from_slice(bytes.get(used..).unwrap_or_default());
        Ok(())
    }

    /// Reads all pieces that are complete in `input`; returns the bytes used and sets `wanted` for the rest.
    fn pieces<S: Sink>(&mut self, input: &[u8], sink: &mut S) -> Result<usize, DecodeError<S::Error>> {
        let mut at = 0;
        loop {
            let rest = input.get(at..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(at);
            }
            match self.piece(rest, sink) {
                Ok(used) => {
                    at += used;
                    self.position += used as u64;
                }
                Err(Halt::Need(wanted)) => {
                    self.wanted = wanted;
                    return Ok(at);
                }
                Err(Halt::Bad(fault)) => {
                    return Err(DecodeError::Stream(StreamError { offset: self.position, fault }));
                }
                Err(Halt::Sink(error)) => return Err(DecodeError::Sink(error)),
            }
        }
    }

    /// Reads one piece from the start of `input`, which is not empty; returns the bytes used.
    fn piece<S: Sink>(&mut self, input: &[u8], sink: &mut S) -> Result<usize, Halt<S::Error>> {
        match self.stage {
            Stage::Records => self.record(input, sink),
            Stage::Header => Ok(self.header(input)?),
            Stage::MachineType | Stage::ConfigurationParts => Ok(self.configuration(input)?),
            Stage::Between => Ok(self.between(input)?),
            Stage::Skip { left } => Ok(self.skip(input, left)),
            Stage::Blocks => self.block(input, sink),
            Stage::Footer => Ok(self.footer(input)?),
            Stage::Device => Ok(self.device(input)?),
            Stage::Failed => Err(Halt::Bad(Fault::Failed)),
        }
    }

    fn header(&mut self, input: &[u8]) -> Result<usize, Stop> {
        let mut reader = Reader::new(input);
        let magic = reader.u32()?;
        if magic != MAGIC {
            return Err(Fault::Magic { magic }.into());
        }
        let version = reader.u32()?;
        if version != VERSION {
            return Err(Fault::Version { version }.into());
        }
        let tag = reader.u8()?;
        if tag != tag::CONFIGURATION {
            return Err(Fault::NoConfiguration { tag }.into());
        }
        self.stage = Stage::MachineType;
        Ok(reader.used())
    }

    fn configuration(&mut self, input: &[u8]) -> Result<usize, Stop> {
        let used = if self.stage == Stage::MachineType {
            self.configuration.machine_type(input)?
        } else {
            self.configuration.part(input)?
        };
        let part = input.get(..used).unwrap_or_default();
        let limit = self.limits.max_configuration;
        if self.configuration_bytes.len() + part.len() > limit {
            let value = (self.configuration_bytes.len() + part.len()) as u64;
            let field = "length of the configuration";
            return Err(Fault::TooMuch { field, value, limit: limit as u64 }.into());
        }
        self.configuration_bytes.extend_from_slice(part);
        self.stage = if used == 0 { Stage::Between } else { Stage::ConfigurationParts };
        Ok(used)
    }

    /// Reads what opens a section or a command.
    fn between(&mut self, input: &[u8]) -> Result<usize, Stop> {
        let mut reader = Reader::new(input);
        match reader.u8()? {
            tag::SECTION_START => self.section_start(&mut reader)?,
            tag @ (tag::SECTION_PART | tag::SECTION_END) => self.section_part(&mut reader, tag)?,
            tag::COMMAND => self.command(&mut reader)?,
            tag::SECTION_FULL if self.ram == Ram::Awaited => {
                reader.u32()?;
                let name = reader.short_text("name of a section")?.to_owned();
                return Err(Fault::EarlySection { name }.into());
            }
            tag::SECTION_FULL | tag::EOF if self.ram != Ram::Awaited => {
                self.stage = Stage::Device;
                self.device_start = self.position;
                return Ok(0);
            }
            tag::EOF => return Err(Fault::NoRam.into()),
            tag => return Err(Fault::Tag { tag }.into()),
        }
        Ok(reader.used())
    }

    fn section_start(&mut self, reader: &mut Reader<'_>) -> Result<(), Stop> {
        let id = reader.u32()?;
        let name = reader.short_text("name of a section")?;
        if name != RAM {
            return Err(Fault::IterableSection { name: name.to_owned() }.into());
        }
        if self.ram != Ram::Awaited {
            return Err(Fault::RamRepeated.into());
        }
        let (instance, version) = (reader.u32()?, reader.u32()?);
        if (instance, version) != (0, RAM_VERSION) {
            return Err(Fault::RamVersion { instance, version }.into());
        }
        self.ram = Ram::Started { id };
        self.stage = Stage::Records;
        Ok(())
    }

    fn section_part(&mut self, reader: &mut Reader<'_>, tag: u8) -> Result<(), Stop> {
        let found = reader.u32()?;
        let expected = match self.ram {
            Ram::Started { id } => id,
            Ram::Awaited => return Err(Fault::NoRam.into()),
            Ram::Ended { .. } => return Err(Fault::RamEnded.into()),
        };
        if found != expected {
            return Err(Fault::SectionId { expected, found }.into());
        }
        if tag == tag::SECTION_END {
            self.ram = Ram::Ended { id: expected };
        }
        self.stage = Stage::Records;
        Ok(())
    }

    /// Reads the head of a command; what it says matters to a destination, not to a capture.
    fn command(&mut self, reader: &mut Reader<'_>) -> Result<(), Stop> {
        const POSTCOPY_ADVISE: u16 = 3;
        const LISTEN_RUN_DISCARD_PACKAGED: std::ops::RangeInclusive<u16> = 4..=7;
        let (id, left) = (reader.u16()?, reader.u16()?);
        if LISTEN_RUN_DISCARD_PACKAGED.contains(&id) {
            return Err(Fault::Command { id }.into());
        }
        // Advice without payload announces postcopy of dirty bitmaps only.
        self.fields.page_size |= id == POSTCOPY_ADVISE && left > 0;
        self.stage = if left == 0 { Stage::Between } else { Stage::Skip { left } };
        Ok(())
    }

    fn skip(&mut self, input: &[u8], left: u16) -> usize {
        let taken = u16::try_from(input.len()).unwrap_or(u16::MAX).min(left);
        let left = left - taken;
        self.stage = if left == 0 { Stage::Between } else { Stage::Skip { left } };
        usize::from(taken)
    }

    fn block<S: Sink>(&mut self, input: &[u8], sink: &mut S) -> Result<usize, Halt<S::Error>> {
        let used = self.list.entry(input, self.fields, &self.limits)?;
        self.blocks_if_complete(sink)?;
        Ok(used)
    }

    fn blocks_if_complete<S: Sink>(&mut self, sink: &mut S) -> Result<(), Halt<S::Error>> {
        self.stage = Stage::Blocks;
        if self.list.complete() {
            self.stage = Stage::Records;
            sink.blocks(self.list.blocks()).map_err(Halt::Sink)?;
        }
        Ok(())
    }

    /// Reads one word of RAM data and what belongs to it.
    #[inline]
    fn record<S: Sink>(&mut self, input: &[u8], sink: &mut S) -> Result<usize, Halt<S::Error>> {
        const PAGE_AGAIN: u64 = flag::PAGE | flag::CONTINUE;
        const ZERO_AGAIN: u64 = flag::ZERO | flag::CONTINUE;
        let mut reader = Reader::new(input);
        let word = reader.u64()?;
        let (value, flags) = (word & !flag::MASK, word & flag::MASK);
        if !self.list.announced()
            && matches!(flags, PAGE_AGAIN | ZERO_AGAIN | flag::PAGE | flag::ZERO | flag::EOS)
        {
            return Err(Halt::Bad(Fault::NoBlockList));
        }
        match flags {
            flag::PAGE | PAGE_AGAIN => {
                let block = self.block_of(&mut reader, flags)?;
                let page = self.page_number(block, value)?;
                let data: &[u8; PAGE_SIZE] = reader.array()?;
                sink.page(block, page, data).map_err(Halt::Sink)?;
                self.previous = Some(block);
                self.pages += 1;
            }
            flag::ZERO | ZERO_AGAIN => {
                let block = self.block_of(&mut reader, flags)?;
                let page = self.page_number(block, value)?;
                let byte = reader.u8()?;
                if byte != 0 {
                    return Err(Halt::Bad(Fault::ZeroFill { byte }));
                }
                sink.zero(block, page).map_err(Halt::Sink)?;
                self.previous = Some(block);
                self.zero_pages += 1;
            }
            flag::EOS if value == 0 => self.stage = Stage::Footer,
            flag::MEM_SIZE => {
                self.list.announce(value, &self.limits).map_err(Halt::Bad)?;
                self.blocks_if_complete(sink)?;
            }
            _ => return Err(Halt::Bad(Fault::Flags { flags })),
        }
        Ok(reader.used())
    }

    /// The block of a page record: named in it, or that of the record before.
    #[inline]
    fn block_of(&self, reader: &mut Reader<'_>, flags: u64) -> Result<usize, Stop> {
        if flags & flag::CONTINUE != 0 {
            return self.previous.ok_or(Stop::Bad(Fault::NoPreviousBlock));
        }
        let name = reader.short_bytes()?;
        self.list.find(name).ok_or_else(|| {
            Stop::Bad(Fault::UnknownBlock { name: String::from_utf8_lossy(name).into_owned() })
        })
    }

    #[inline]
    fn page_number(&self, block: usize, page_offset: u64) -> Result<u64, Stop> {
        match self.list.blocks().get(block) {
            Some(block) if page_offset < block.len => Ok(page_offset / PAGE_BYTES),
            found => {
                let block = found.map(|block| block.name.clone()).unwrap_or_default();
                Err(Fault::PageOffset { block, page_offset }.into())
            }
        }
    }

    fn footer(&mut self, input: &[u8]) -> Result<usize, Stop> {
        let mut reader = Reader::new(input);
        let tag = reader.u8()?;
        if tag != tag::FOOTER {
            return Err(Fault::NoFooter { tag }.into());
        }
        let found = reader.u32()?;
        match self.ram {
            Ram::Started { id } | Ram::Ended { id } if id == found => self.stage = Stage::Between,
            Ram::Started { id: expected } | Ram::Ended { id: expected } => {
                return Err(Fault::SectionId { expected, found }.into());
            }
            Ram::Awaited => return Err(Fault::NoRam.into()),
        }
        Ok(reader.used())
    }

    /// Keeps device state as it comes, up to the limit.
    fn device(&mut self, input: &[u8]) -> Result<usize, Stop> {
        let limit = self.limits.max_device_state;
        let room = limit.saturating_sub(self.device.len());
        if room == 0 {
            let limit = limit as u64;
            return Err(
                Fault::TooMuch { field: "length of the device state", value: limit + 1, limit }.into()
            );
        }
        let taken = input.get(..room).unwrap_or(input);
        self.device.extend_from_slice(taken);
        Ok(taken.len())
    }
}
