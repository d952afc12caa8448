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
use super::{Captured, Sink};

mod pieces;

use pieces::Halt;

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
            // A piece can ask for more once its head is there: a record does, for the name of its block.
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
}
