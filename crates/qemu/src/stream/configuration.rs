//! CONFIGURATION: the machine type and what it takes to read the rest.
//!
//! ```text
//! be32 length | machine type                        e.g. "pc-q35-10.0"
//! any number of: 0x05 | u8 length | name | be32 version | payload
//!     configuration/capabilities       version 1: be32 count, count x (u8 length, name)
//!     configuration/target-page-bits   version 1: be32
//!     configuration/uuid               version 1: 16 bytes
//! ```
//! There is no length of the whole: an unknown part cannot be stepped over and is refused, and so is each
//! capability that changes the format of memory. Source: QEMU `migration/savevm.c`, `vmstate_configuration`.
#![deny(clippy::indexing_slicing)]

use super::error::{Fault, StreamError};
use super::wire::{Parsed, Reader, Stop, tag, text};

const MACHINE_TYPE_LIMIT: u32 = 256;
const CAPABILITIES_LIMIT: u32 = 256;
const TARGET_PAGE_BITS: u32 = 12;
const IGNORE_SHARED: &str = "x-ignore-shared";

/// What the decoder needs to know of a CONFIGURATION.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Configuration {
    pub(super) machine_type: String,
    /// Blocks carry their guest address, and shared ones send no pages.
    pub(super) ignore_shared: bool,
}

impl Configuration {
    /// Reads the first field; returns the bytes used.
    pub(super) fn machine_type(&mut self, input: &[u8]) -> Parsed<usize> {
        let mut reader = Reader::new(input);
        let len = reader.u32()?;
        let name = reader.bytes(bounded("length of the machine type", len, MACHINE_TYPE_LIMIT)?)?;
        self.machine_type = text(name, "machine type")?.to_owned();
        Ok(reader.used())
    }

    /// Reads one optional part; returns the bytes used, 0 where something else begins.
    pub(super) fn part(&mut self, input: &[u8]) -> Parsed<usize> {
        let mut reader = Reader::new(input);
        if reader.u8()? != tag::SUBSECTION {
            return Ok(0);
        }
        let name = reader.short_text("name of a part of the configuration")?;
        let version = reader.u32()?;
        match (name, version) {
            ("configuration/capabilities", 1) => self.capabilities(&mut reader)?,
            ("configuration/target-page-bits", 1) => {
                let bits = reader.u32()?;
                if bits != TARGET_PAGE_BITS {
                    return Err(Fault::TargetPageBits { bits }.into());
                }
            }
            ("configuration/uuid", 1) => {
                reader.array::<16>()?;
            }
            _ => return Err(Fault::ConfigurationPart { name: name.to_owned(), version }.into()),
        }
        Ok(reader.used())
    }

    fn capabilities(&mut self, reader: &mut Reader<'_>) -> Parsed<()> {
        let count = reader.u32()?;
        let count = bounded("number of capabilities", count, CAPABILITIES_LIMIT)?;
        for _ in 0..count {
            match reader.short_text("name of a capability")? {
                IGNORE_SHARED => self.ignore_shared = true,
                name => return Err(Fault::Capability { name: name.to_owned() }.into()),
            }
        }
        Ok(())
    }

    /// Reads a stored CONFIGURATION, all of it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, StreamError> {
        let mut configuration = Self::default();
        let mut at = whole(0, configuration.machine_type(bytes))?;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(configuration);
            }
            match whole(at, configuration.part(rest))? {
                0 => {
                    let fault = Fault::Trailing { field: "the configuration", count: rest.len() };
                    return Err(StreamError { offset: offset(at), fault });
                }
                used => at += used,
            }
        }
    }
}

/// Turns "more bytes needed" into an error where no more will come.
fn whole(at: usize, parsed: Parsed<usize>) -> Result<usize, StreamError> {
    parsed.map_err(|stop| {
        let fault = match stop {
            Stop::Need(_) => Fault::Truncated { field: "the configuration" },
            Stop::Bad(fault) => fault,
        };
        StreamError { offset: offset(at), fault }
    })
}

/// A length of the stream as a length in memory, within its bound.
fn bounded(field: &'static str, value: u32, limit: u32) -> Result<usize, Stop> {
    let fault = Fault::TooMuch { field, value: value.into(), limit: limit.into() };
    if value > limit { Err(fault.into()) } else { usize::try_from(value).map_err(|_| fault.into()) }
}

fn offset(at: usize) -> u64 {
    at as u64
}
