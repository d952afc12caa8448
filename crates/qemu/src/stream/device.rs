//! The state of devices and processors: an opaque blob, but for its ends and the run state of the VM.
//!
//! ```text
//! ( 0x04 | be32 id | u8 length, name | be32 instance | be32 version | opaque | 0x7e | be32 id )+
//! 0x00                                    end mark
//! 0x06 | be32 length | JSON object        description; absent with -machine suppress-vmdesc=on
//! ```
//! The length of the opaque part is written nowhere. The end mark is found from the end of the blob: the
//! description must reach exactly to it, and a footer must stand before the mark.
//!
//! Run state of the VM: section `globalstate`, instance 0, version 1. In QEMU before 9.0 the name fills 100
//! bytes, later 32 bytes with two flags behind; it is padded with zeroes. So 32 bytes are written, no more.
//! ```text
//! be32 length of the name + 1 | name, zeroes: 32 bytes | 68 bytes left alone
//! ```
//! Source: QEMU `migration/savevm.c`, `migration/global_state.c`.
#![deny(clippy::indexing_slicing)]

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::{Fault, StreamError};
use super::wire::{Parsed, Reader, tag};

/// Bytes of a section footer.
const FOOTER_LEN: usize = 5;
/// Tag and length of the description.
const DESCRIPTION_HEAD: usize = 5;
/// Start of the header of `globalstate`, behind the id: name, instance 0, version 1.
const GLOBAL_STATE: &[u8] = b"\x0bglobalstate\0\0\0\0\0\0\0\x01";
/// Bytes of its payload behind the length word.
const GLOBAL_STATE_LEN: usize = 100;
/// Bytes of it that hold the run state in every version.
const RUN_STATE_LEN: usize = 32;

/// Device state as QEMU wrote it, checked at its ends.
#[derive(Clone, PartialEq, Eq)]
pub struct DeviceState {
    bytes: Vec<u8>,
    eof: usize,
}

/// One section of the device state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Name, e.g. `0000:00:02.0/virtio-blk`.
    pub name: String,
    /// Instance, for devices of the same name.
    pub instance: u32,
    /// Version of the device's format.
    pub version: u32,
    /// Where its header begins in the blob.
    pub offset: usize,
}

impl DeviceState {
    /// Takes a blob, with or without a description of devices.
    ///
    /// # Errors
    /// It does not begin with a section, or does not end as the layout says.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, StreamError> {
        Self::parse_with(bytes, false)
    }

    /// Takes a blob that must end with a description where `described` is set.
    pub(super) fn parse_with(bytes: Vec<u8>, described: bool) -> Result<Self, StreamError> {
        let at = |offset: usize, fault| StreamError { offset: offset as u64, fault };
        if bytes.first() != Some(&tag::SECTION_FULL) {
            return Err(at(0, Fault::Truncated { field: "the device state" }));
        }
        let eof = match eof_before_description(&bytes) {
            Some(eof) => eof,
            None if !described && bytes.last() == Some(&tag::EOF) => bytes.len() - 1,
            None => return Err(at(bytes.len(), Fault::NoEnd { described })),
        };
        let footer = eof.checked_sub(FOOTER_LEN).and_then(|start| bytes.get(start));
        if footer != Some(&tag::FOOTER) {
            return Err(at(eof, Fault::NoEnd { described }));
        }
        let state = Self { bytes, eof };
        match state.description_text() {
            Some(text) if !is_object(text) => Err(at(eof, Fault::Description)),
            _ => Ok(state),
        }
    }

    /// The blob.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The blob, taken out.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Where the end mark is.
    pub fn eof_offset(&self) -> usize {
        self.eof
    }

    /// The sections without end mark and description: what goes into the package of a postcopy migration.
    pub fn without_eof(&self) -> &[u8] {
        self.bytes.get(..self.eof).unwrap_or_default()
    }

    /// QEMU's description of the devices' fields, where it was sent.
    pub fn description(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(self.description_text()?).ok()
    }

    /// The run state of the VM when it was captured: `running`, `paused`, ...
    ///
    /// # Errors
    /// [`Fault::NoRunState`].
    pub fn run_state(&self) -> Result<String, StreamError> {
        let (_, name) = self.global_state()?;
        Ok(name.to_owned())
    }

    /// Changes the run state that the VM takes after it was loaded.
    ///
    /// # Errors
    /// `name` is not a run state's name, or [`Fault::NoRunState`]; nothing is changed then.
    pub fn set_run_state(&mut self, name: &str) -> Result<(), StreamError> {
        let (offset, _) = self.global_state()?;
        let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        let size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        if name.is_empty() || name.len() >= RUN_STATE_LEN || !letters {
            let fault = Fault::RunState { name: name.to_owned() };
            return Err(StreamError { offset: offset as u64, fault });
        }
        let field = size
            .to_be_bytes()
            .into_iter()
            .chain(name.bytes().chain(std::iter::repeat(0)).take(RUN_STATE_LEN));
        self.bytes.iter_mut().skip(offset).zip(field).for_each(|(old, new)| *old = new);
        Ok(())
    }

    /// The sections in their order; `None` without a description, or where it does not fit what is there.
    pub fn sections(&self) -> Option<Vec<Section>> {
        let description: Description = serde_json::from_slice(self.description_text()?).ok()?;
        let mut sections = Vec::new();
        let mut offset = 0;
        let mut devices = description.devices.iter().peekable();
        while let Some(device) = devices.next() {
            let (id, section) = self.section_at(offset)?;
            if section.name != device.name || section.instance != device.instance_id {
                return None;
            }
            sections.push(section);
            match devices.peek() {
                Some(next) => offset = self.next_section(offset, id, next)?,
                None => self.without_eof().ends_with(&footer(id)).then_some(())?,
            }
        }
        Some(sections)
    }

    /// The header of the section at `offset`, and its id.
    fn section_at(&self, offset: usize) -> Option<(u32, Section)> {
        let mut reader = Reader::new(self.without_eof().get(offset..)?);
        let mut read = || -> Parsed<Option<(u32, Section)>> {
            if reader.u8()? != tag::SECTION_FULL {
                return Ok(None);
            }
            let id = reader.u32()?;
            let name = reader.short_text("name of a section")?.to_owned();
            let (instance, version) = (reader.u32()?, reader.u32()?);
            Ok(Some((id, Section { name, instance, version, offset })))
        };
        read().ok().flatten()
    }

    /// Finds the header of a device behind the footer of section `id`, which begins at `offset`.
    fn next_section(&self, offset: usize, id: u32, device: &Device) -> Option<usize> {
        let [a, b, c, d] = id.to_be_bytes();
        let border = [tag::FOOTER, a, b, c, d, tag::SECTION_FULL];
        let mut from = offset;
        loop {
            let found =
                self.without_eof().get(from..)?.windows(border.len()).position(|bytes| bytes == border)?;
            let header = from + found + FOOTER_LEN;
            let fits =
                |section: &Section| section.name == device.name && section.instance == device.instance_id;
            if self.section_at(header).is_some_and(|(_, section)| fits(&section)) {
                return Some(header);
            }
            from = header;
        }
    }

    /// Offset of the payload of `globalstate`, and the run state in it.
    fn global_state(&self) -> Result<(usize, &str), StreamError> {
        let sections = self.without_eof();
        let candidates = sections.windows(GLOBAL_STATE.len()).enumerate();
        candidates
            .filter(|(_, bytes)| *bytes == GLOBAL_STATE)
            .find_map(|(at, _)| global_state_at(sections, at))
            .ok_or(StreamError { offset: 0, fault: Fault::NoRunState })
    }

    /// The JSON behind the end mark.
    fn description_text(&self) -> Option<&[u8]> {
        self.bytes.get(self.eof + 1 + DESCRIPTION_HEAD..)
    }
}

impl std::fmt::Debug for DeviceState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceState").field("len", &self.bytes.len()).field("eof", &self.eof).finish()
    }
}

/// The part of the description that is read here.
#[derive(Deserialize)]
struct Description {
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    instance_id: u32,
}

fn footer(id: u32) -> [u8; FOOTER_LEN] {
    let [a, b, c, d] = id.to_be_bytes();
    [tag::FOOTER, a, b, c, d]
}

/// Searches the end mark whose description ends with the blob. JSON has no zero bytes, so the last fit is it.
fn eof_before_description(bytes: &[u8]) -> Option<usize> {
    let fits = |(at, window): (usize, &[u8])| {
        let &[tag::EOF, tag::DESCRIPTION, a, b, c, d] = window else { return None };
        let len = u32::from_be_bytes([a, b, c, d]);
        let left = bytes.len() - at - window.len();
        (usize::try_from(len) == Ok(left)).then_some(at)
    };
    bytes.windows(1 + DESCRIPTION_HEAD).enumerate().rev().find_map(fits)
}

fn is_object(text: &[u8]) -> bool {
    text.first() == Some(&b'{') && serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Reads `globalstate`, whose name is at `at`; its tag and footer tell it from chance.
fn global_state_at(sections: &[u8], at: usize) -> Option<(usize, &str)> {
    let header = at.checked_sub(FOOTER_LEN)?;
    let mut reader = Reader::new(sections.get(header..)?);
    let mut read = || -> Parsed<Option<(usize, &str)>> {
        let head = reader.u8()?;
        let id = reader.u32()?;
        reader.bytes(GLOBAL_STATE.len())?;
        let offset = header + reader.used();
        let size = reader.u32()?;
        let field: &[u8; GLOBAL_STATE_LEN] = reader.array()?;
        let closed = head == tag::SECTION_FULL && reader.array()? == &footer(id);
        let name = field.split(|byte| *byte == 0).next().unwrap_or_default();
        let sized = u32::try_from(name.len() + 1) == Ok(size) && name.len() < RUN_STATE_LEN;
        let name = std::str::from_utf8(name).ok();
        Ok(name.filter(|_| closed && sized).map(|name| (offset, name)))
    };
    read().ok().flatten()
}
