//! Tests of the migration stream: real captures, synthetic streams, identities, mutations.

mod captures;
mod identity;
mod mutations;
mod refused;

use super::fuzz::{Event, decode};
use super::{Captured, Fault, Limits, RamBlock, StreamError};

/// Streams made by QEMU, see the README beside them.
fn real_captures() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/streams");
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "bin"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect();
    found.sort();
    assert!(found.len() >= 6, "captures are missing in {folder}");
    found
}

fn real_capture(start: &str) -> Vec<u8> {
    let found = real_captures().into_iter().find(|(name, _)| name.starts_with(start));
    found.unwrap_or_else(|| panic!("no capture {start}")).1
}

/// Limits that take captures without a description of devices too.
fn lenient() -> Limits {
    Limits { require_description: false, ..Limits::default() }
}

fn outcome(stream: &[u8]) -> (Vec<Event>, Result<Captured, StreamError>) {
    decode([stream], &lenient())
}

/// What is wrong with a stream, and that it is so in any chunking.
fn fault(stream: &[u8]) -> Fault {
    let (_, result) = outcome(stream);
    let (_, single_bytes) = decode(stream.chunks(1), &lenient());
    assert_eq!(result, single_bytes);
    result.expect_err("the stream is faulty").fault
}

/// Builds streams piece by piece, right or wrong.
#[derive(Default, Clone)]
struct Builder(Vec<u8>);

impl Builder {
    /// Up to the first section.
    fn new() -> Self {
        Self::default().bytes(b"QEVM\0\0\0\x03").configuration("pc-test")
    }

    /// Up to the first page record: blocks `a` of 4 pages and `b` of 2 pages.
    fn with_blocks() -> Self {
        Self::new().start().word((6 * 4096) | 4).entry("a", 4 * 4096).entry("b", 2 * 4096)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn word(self, value: u64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn name(self, name: &str) -> Self {
        self.bytes(&[u8::try_from(name.len()).unwrap()]).bytes(name.as_bytes())
    }

    fn configuration(self, machine: &str) -> Self {
        self.bytes(&[7]).u32(u32::try_from(machine.len()).unwrap()).bytes(machine.as_bytes())
    }

    fn configuration_part(self, name: &str, payload: &[u8]) -> Self {
        self.bytes(&[5]).name(name).u32(1).bytes(payload)
    }

    fn start(self) -> Self {
        self.bytes(&[1]).u32(9).name("ram").u32(0).u32(4)
    }

    fn part(self) -> Self {
        self.bytes(&[2]).u32(9)
    }

    fn end(self) -> Self {
        self.bytes(&[3]).u32(9)
    }

    fn eos(self) -> Self {
        self.word(0x10).bytes(&[0x7e]).u32(9)
    }

    fn command(self, id: u16, payload: &[u8]) -> Self {
        let len = u16::try_from(payload.len()).unwrap();
        self.bytes(&[8]).bytes(&id.to_be_bytes()).bytes(&len.to_be_bytes()).bytes(payload)
    }

    fn entry(self, name: &str, len: u64) -> Self {
        self.name(name).word(len)
    }

    fn page(self, block: &str, page: u64, byte: u8) -> Self {
        self.word((page * 4096) | 0x08).name(block).bytes(&[byte; 4096])
    }

    fn page_again(self, page: u64, byte: u8) -> Self {
        self.word((page * 4096) | 0x28).bytes(&[byte; 4096])
    }

    fn zero(self, block: &str, page: u64) -> Self {
        self.word((page * 4096) | 0x02).name(block).bytes(&[0])
    }

    fn zero_again(self, page: u64) -> Self {
        self.word((page * 4096) | 0x22).bytes(&[0])
    }

    /// One section of device state and the end mark.
    fn device(self) -> Self {
        self.bytes(&[4]).u32(1).name("timer").u32(0).u32(2).bytes(b"state").bytes(&[0x7e]).u32(1).bytes(&[0])
    }

    fn description(self) -> Self {
        let text = br#"{"devices":[{"name":"timer","instance_id":0}]}"#;
        self.bytes(&[6]).u32(u32::try_from(text.len()).unwrap()).bytes(text)
    }

    fn events(&self) -> Vec<Event> {
        let (events, result) = outcome(&self.0);
        result.unwrap();
        events
    }

    fn fault(&self) -> Fault {
        fault(&self.0)
    }
}

fn page(block: usize, page: u64, byte: u8) -> Event {
    Event::Page(block, page, Box::new([byte; 4096]))
}

fn block_list() -> Event {
    Event::Blocks(vec![RamBlock::new("a", 4 * 4096), RamBlock::new("b", 2 * 4096)])
}
