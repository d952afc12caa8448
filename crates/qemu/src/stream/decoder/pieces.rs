//! The pieces of a stream, one function each: reads a piece, checks it against what came before, moves on.
#![deny(clippy::indexing_slicing)]

use super::{Decoder, Ram, Stage};
use crate::stream::error::Fault;
use crate::stream::wire::{MAGIC, RAM, RAM_VERSION, Reader, Stop, VERSION, flag, tag};
use crate::stream::{PAGE_BYTES, PAGE_SIZE, Sink};

/// Why a piece was not taken.
pub(super) enum Halt<E> {
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
    /// Reads one piece from the start of `input`, which is not empty; returns the bytes used.
    pub(super) fn piece<S: Sink>(&mut self, input: &[u8], sink: &mut S) -> Result<usize, Halt<S::Error>> {
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
        self.fields.guest_address = self.configuration.ignore_shared;
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
                // Not before the record is whole: one that is split is read again from its start.
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
        // QEMU ends each section with its number: one that is another's means that records were taken for what they are not.
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
