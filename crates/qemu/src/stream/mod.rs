//! The QEMU migration stream, both ways, without I/O.
//!
//! [`Decoder`] takes the bytes that `migrate` sends, in chunks of any size, and hands each page of memory to a
//! [`Sink`]; what is left at the end is a [`Captured`]. [`Encoder`] turns a `Captured` and pages back into
//! bytes that `migrate-incoming` accepts.
//!
//! ```text
//! 'QEVM' | be32 3 | 0x07 CONFIGURATION
//! ( 0x01 SECTION_START "ram" | 0x02 SECTION_PART | 0x03 SECTION_END | 0x08 COMMAND )*      memory
//! ( 0x04 SECTION_FULL ... )*  0x00 EOF  [0x06 description]                                 device state
//!
//! Header --> MachineType --> ConfigurationParts --> Between <--> Blocks, Records --> Footer --> Between
//!                                                      |  <--> Skip (payload of a COMMAND)
//!                                                      +--> Device --> (end of the socket) Captured
//! ```
//!
//! Guarantees: any chunking gives the same result; every length is bounded ([`Limits`]) before anything is
//! allocated; no input makes it panic; truncated streams and trailing bytes are errors, and so is everything
//! that is not understood, with its place in the stream. The one thing that is not looked into is the state of
//! devices, an opaque blob ([`DeviceState`]).
//!
//! A page can come again (precopy): **the last record wins**, also a zero page after one with data.

mod blocks;
mod configuration;
mod decoder;
mod device;
mod encoder;
mod error;
#[doc(hidden)]
pub mod fuzz;
pub(crate) mod wire;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use decoder::{Decoder, Limits};
pub use device::{DeviceState, Section};
pub use encoder::{EncodeError, Encoder};
pub use error::{DecodeError, Fault, StreamError};

use configuration::Configuration;

/// Bytes of a page in the stream, whatever pages the host uses.
pub const PAGE_SIZE: usize = 4096;
/// [`PAGE_SIZE`], as lengths in the stream are counted.
pub(crate) const PAGE_BYTES: u64 = PAGE_SIZE as u64;

/// One block of guest memory, as QEMU names it (`pc.ram`, `pc.bios`, `0000:00:02.0/vga.vram`, ...).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamBlock {
    /// QEMU's name, unique in the stream.
    pub name: String,
    /// Length in bytes: whole pages, at least one.
    pub len: u64,
    /// Page size of the host memory behind it where the stream tells it (postcopy on hugetlbfs), else 4096.
    pub page_size: u64,
    /// Guest address, given with the capability `x-ignore-shared` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_address: Option<u64>,
}

impl RamBlock {
    /// A block of ordinary pages.
    pub fn new(name: impl Into<String>, len: u64) -> Self {
        Self { name: name.into(), len, page_size: PAGE_BYTES, guest_address: None }
    }

    /// Number of 4 KiB pages.
    pub fn pages(&self) -> u64 {
        self.len / PAGE_BYTES
    }
}

/// What the decoder hands out. An error stops the decoding and comes back as it is ([`DecodeError::Sink`]).
///
/// `block` is an index into the list given to [`Sink::blocks`], `page` a number below [`RamBlock::pages`].
pub trait Sink {
    /// What can go wrong with the receiver.
    type Error;

    /// Takes the list of blocks: once, before any page.
    fn blocks(&mut self, blocks: &[RamBlock]) -> Result<(), Self::Error>;

    /// Takes a page; it replaces what came for this page before.
    fn page(&mut self, block: usize, page: u64, data: &[u8; PAGE_SIZE]) -> Result<(), Self::Error>;

    /// Takes a page of zeroes; it replaces what came for this page before.
    fn zero(&mut self, block: usize, page: u64) -> Result<(), Self::Error>;
}

/// Everything of a capture but the content of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Versioned machine type, e.g. `pc-q35-10.0`.
    pub machine_type: String,
    /// CONFIGURATION as it was, without its tag byte, all parts included.
    pub configuration: Vec<u8>,
    /// Number of the section `ram` in this stream.
    pub ram_section_id: u32,
    /// The blocks of memory, in the order of the stream.
    pub blocks: Vec<RamBlock>,
    /// State of devices and processors, end mark and description of devices included.
    pub device_state: DeviceState,
}

/// The readable part of a [`Captured`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// As in [`Captured`].
    pub machine_type: String,
    /// As in [`Captured`].
    pub ram_section_id: u32,
    /// As in [`Captured`].
    pub blocks: Vec<RamBlock>,
}

/// A [`Captured`] taken apart for storing: a small document and two blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The readable part.
    pub summary: Summary,
    /// [`Captured::configuration`].
    pub configuration: Vec<u8>,
    /// [`DeviceState::bytes`].
    pub device_state: Vec<u8>,
}

impl Captured {
    /// Takes it apart, leaving it whole.
    pub fn to_parts(&self) -> Parts {
        self.clone().into_parts()
    }

    /// Takes it apart.
    pub fn into_parts(self) -> Parts {
        let Self { machine_type, configuration, ram_section_id, blocks, device_state } = self;
        let summary = Summary { machine_type, ram_section_id, blocks };
        Parts { summary, configuration, device_state: device_state.into_bytes() }
    }

    /// Puts stored parts together again, after checking them as the decoder checks a stream.
    ///
    /// # Errors
    /// What is wrong, with its place in the blob concerned. The length of the blobs is the caller's to bound.
    pub fn from_parts(parts: Parts) -> Result<Self, StreamError> {
        let Parts { summary, configuration, device_state } = parts;
        let Summary { machine_type, ram_section_id, blocks } = summary;
        let at_start = |fault| StreamError { offset: 0, fault };
        let parsed = Configuration::parse(&configuration)?;
        if parsed.machine_type != machine_type {
            return Err(at_start(Fault::Mismatch { field: "the machine type" }));
        }
        if blocks.iter().any(|block| block.guest_address.is_some() != parsed.ignore_shared) {
            return Err(at_start(Fault::Mismatch { field: "the use of guest addresses" }));
        }
        check_blocks(&blocks).map_err(at_start)?;
        let device_state = DeviceState::parse(device_state)?;
        Ok(Self { machine_type, configuration, ram_section_id, blocks, device_state })
    }
}

fn check_blocks(blocks: &[RamBlock]) -> Result<(), Fault> {
    let mut list = blocks::BlockList::default();
    let limits = Limits::default();
    list.announce(
        blocks.iter().try_fold(0, |sum: u64, block| sum.checked_add(block.len)).unwrap_or(u64::MAX),
        &limits,
    )?;
    blocks.iter().cloned().try_for_each(|block| list.push(block, &limits))
}
