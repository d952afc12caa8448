//! A destination as QEMU is one, as far as it shows on the wire: it loads the package, asks, and keeps what comes.
//!
//! What QEMU refuses is an error, and nothing else is: pages are put together and put in place as its `ram_load_postcopy`
//! does it, with its blind spots. It counts guest pages up to a host page and does not look which ones came; what it puts
//! together it does not clear before the next. That no page is left out the tests see by what the memory holds in the end.
//! What would be wrong for another reason is an assertion.

use std::collections::BTreeMap;

use crate::stream::wire::{MAGIC, Reader, VERSION, flag, tag};
use crate::stream::{Captured, PAGE_BYTES, PAGE_SIZE};

/// How far the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing came.
    Waiting,
    /// Return path open, told that postcopy comes, blocks known, discarded, in this order.
    Opened(u8),
    /// Pages come.
    Listening,
    /// The source is gone, or a new one has not resumed.
    Paused,
    /// Everything is there.
    Ended,
}

/// Why QEMU ends a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// ADVISE names other page sizes than its own.
    PageSizes,
    /// A discarded range that is not of whole host pages.
    Discard,
    /// A page behind the end of its block.
    Offset,
    /// Pages of two host pages mixed.
    NonSameHostPage,
    /// A host page that is there already (`UFFDIO_COPY` says `EEXIST`).
    Exists,
}

/// The host page that is being put together, in pages of the guest. It stays from one part of the stream to the next.
struct HostPage {
    /// Block and first page, once a page of it came.
    place: Option<(usize, u64)>,
    count: u64,
    /// None: a page of zeros came last for this place.
    content: Vec<Option<[u8; PAGE_SIZE]>>,
}

pub(super) struct Destination<'a> {
    captured: &'a Captured,
    pub(super) stage: Stage,
    /// Whether RUN came.
    pub(super) runs: bool,
    /// What is said to the source.
    pub(super) answers: Vec<u8>,
    /// Pages that are in place: None is a page of zeros.
    pub(super) pages: BTreeMap<(usize, u64), Option<[u8; PAGE_SIZE]>>,
    previous: Option<usize>,
    /// Pages of the guest in a page of the host.
    host_pages: u64,
    temporary: HostPage,
}

impl<'a> Destination<'a> {
    pub(super) fn new(captured: &'a Captured, host_pages: u64) -> Self {
        let content = vec![None; usize::try_from(host_pages).unwrap()];
        Self {
            captured,
            stage: Stage::Waiting,
            runs: false,
            answers: Vec::new(),
            pages: BTreeMap::new(),
            previous: None,
            host_pages,
            temporary: HostPage { place: None, count: 0, content },
        }
    }

    /// The source is gone: what was said to it is lost, and so are the block of the last page and a host page that is not
    /// whole.
    pub(super) fn lose_source(&mut self) {
        self.answers.clear();
        self.previous = None;
        self.temporary.place = None;
        self.temporary.count = 0;
        self.stage = Stage::Paused;
    }

    /// Asks for the host page of a page, as for the first time or as for the same block again.
    pub(super) fn ask(&mut self, block: usize, page: u64, by_name: bool) {
        let name = self.captured.blocks[block].name.as_bytes();
        let start = (page - page % self.host_pages) * PAGE_BYTES;
        let len = u32::try_from(self.host_pages * PAGE_BYTES).unwrap();
        let mut payload = [start.to_be_bytes().as_slice(), &len.to_be_bytes()].concat();
        if by_name {
            payload.push(u8::try_from(name.len()).unwrap());
            payload.extend_from_slice(name);
        }
        self.answer(if by_name { 3 } else { 4 }, &payload);
    }

    fn answer(&mut self, kind: u16, payload: &[u8]) {
        self.answers.extend(kind.to_be_bytes());
        self.answers.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        self.answers.extend_from_slice(payload);
    }

    /// Takes what one call of the source gave: whole pieces of the stream.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let mut reader = Reader::new(bytes);
        if self.stage == Stage::Waiting {
            assert_eq!((reader.u32().unwrap(), reader.u32().unwrap()), (MAGIC, VERSION));
            assert_eq!(reader.u8().unwrap(), tag::CONFIGURATION);
            let configuration = reader.bytes(self.captured.configuration.len()).unwrap();
            assert_eq!(configuration, self.captured.configuration);
            self.stage = Stage::Opened(0);
        }
        while reader.used() < bytes.len() {
            self.piece(&mut reader)?;
        }
        Ok(())
    }

    fn piece(&mut self, reader: &mut Reader<'_>) -> Result<(), Refusal> {
        assert_ne!(self.stage, Stage::Ended, "something after the end");
        match reader.u8().unwrap() {
            tag::COMMAND => {
                let (command, len) = (reader.u16().unwrap(), reader.u16().unwrap());
                let payload = reader.bytes(usize::from(len)).unwrap();
                self.command(command, payload, reader)?;
            }
            tag::SECTION_START => {
                assert_eq!(self.stage, Stage::Opened(2));
                self.section_id(reader);
                assert_eq!(reader.short_bytes().unwrap(), b"ram");
                assert_eq!((reader.u32().unwrap(), reader.u32().unwrap()), (0, 4));
                let sum: u64 = self.captured.blocks.iter().map(|block| block.len).sum();
                assert_eq!(reader.u64().unwrap(), sum | flag::MEM_SIZE);
                for block in &self.captured.blocks {
                    assert_eq!(reader.short_bytes().unwrap(), block.name.as_bytes());
                    assert_eq!(reader.u64().unwrap(), block.len);
                }
                self.end_of_section(reader);
                self.stage = Stage::Opened(3);
            }
            tag::SECTION_PART => {
                assert_eq!(self.stage, Stage::Listening);
                self.section_id(reader);
                self.records(reader)?;
            }
            tag::SECTION_END => {
                self.section_id(reader);
                self.end_of_section(reader);
                assert_eq!(reader.u8().unwrap(), tag::EOF);
                assert!(self.runs, "the end came before the guest could run");
                self.stage = Stage::Ended;
                self.answer(1, &[0; 4]);
            }
            other => panic!("piece {other:#x}"),
        }
        Ok(())
    }

    fn command(&mut self, command: u16, payload: &[u8], reader: &mut Reader<'_>) -> Result<(), Refusal> {
        match (command, self.stage) {
            (1, Stage::Opened(0)) => self.stage = Stage::Opened(1),
            (1, Stage::Paused) => {}
            (2, Stage::Opened(_)) => self.answer(2, payload),
            (3, Stage::Opened(1)) => {
                let own = [(self.host_pages * PAGE_BYTES).to_be_bytes(), PAGE_BYTES.to_be_bytes()].concat();
                if payload != own {
                    return Err(Refusal::PageSizes);
                }
                self.stage = Stage::Opened(2);
            }
            (6, Stage::Opened(3)) => {
                self.discard(payload)?;
                self.stage = Stage::Opened(4);
            }
            (7, Stage::Opened(4)) => {
                let len = u32::from_be_bytes(payload.try_into().unwrap());
                let package = reader.bytes(usize::try_from(len).unwrap()).unwrap();
                self.package(package);
            }
            (10, Stage::Paused) => {
                let name = &payload[1..];
                let block = self.captured.blocks.iter().position(|block| block.name.as_bytes() == name);
                self.send_bitmap(block.unwrap(), payload);
            }
            (9, Stage::Paused) => {
                self.stage = Stage::Listening;
                self.answer(6, &1_u32.to_be_bytes());
            }
            other => panic!("command {other:?}"),
        }
        Ok(())
    }

    /// Nothing is there yet that could go; but what is named has to be of whole host pages.
    fn discard(&self, payload: &[u8]) -> Result<(), Refusal> {
        let mut reader = Reader::new(payload);
        assert_eq!(reader.u8().unwrap(), 0);
        let name = reader.short_bytes().unwrap();
        assert!(self.captured.blocks.iter().any(|block| block.name.as_bytes() == name));
        assert_eq!(reader.u8().unwrap(), 0);
        while reader.used() < payload.len() {
            for bound in [reader.u64().unwrap(), reader.u64().unwrap()] {
                if !bound.is_multiple_of(self.host_pages * PAGE_BYTES) {
                    return Err(Refusal::Discard);
                }
            }
        }
        Ok(())
    }

    fn package(&mut self, package: &[u8]) {
        let devices = self.captured.device_state.without_eof();
        let ping = [8, 0, 2, 0, 4, 0, 0, 0, 3];
        let expected = [&[8, 0, 4, 0, 0], devices, &ping, &[8, 0, 5, 0, 0]].concat();
        assert_eq!(package, expected);
        self.stage = Stage::Listening;
        self.answer(2, &3_u32.to_be_bytes());
        self.runs = true;
    }

    fn send_bitmap(&mut self, block: usize, name: &[u8]) {
        let pages = self.captured.blocks[block].pages();
        let mut bits = vec![0_u8; usize::try_from(pages.div_ceil(8).next_multiple_of(8)).unwrap()];
        for (_, page) in self.pages.keys().filter(|(at, _)| *at == block) {
            bits[usize::try_from(page / 8).unwrap()] |= 1 << (page % 8);
        }
        self.answer(5, name);
        self.answers.extend((bits.len() as u64).to_be_bytes());
        self.answers.extend(&bits);
        self.answers.extend(0x0123_4567_89ab_cdef_u64.to_be_bytes());
    }

    fn records(&mut self, reader: &mut Reader<'_>) -> Result<(), Refusal> {
        loop {
            let word = reader.u64().unwrap();
            if word == flag::EOS {
                assert_eq!(reader.u8().unwrap(), tag::FOOTER);
                self.section_id(reader);
                return Ok(());
            }
            if word & flag::CONTINUE == 0 {
                let name = reader.short_bytes().unwrap();
                self.previous = self.captured.blocks.iter().position(|block| block.name.as_bytes() == name);
            }
            let block = self.previous.expect("a record names a known block");
            let data = match word & (flag::PAGE | flag::ZERO) {
                flag::PAGE => Some(*reader.array::<PAGE_SIZE>().unwrap()),
                _ => {
                    assert_eq!(reader.u8().unwrap(), 0);
                    None
                }
            };
            self.load(block, (word & !flag::MASK) >> 12, data)?;
        }
    }

    /// Takes a page; the last one of a host page puts that in place.
    fn load(&mut self, block: usize, page: u64, data: Option<[u8; PAGE_SIZE]>) -> Result<(), Refusal> {
        if page >= self.captured.blocks[block].pages() {
            return Err(Refusal::Offset);
        }
        let within = page % self.host_pages;
        let place = (block, page - within);
        if *self.temporary.place.get_or_insert(place) != place {
            return Err(Refusal::NonSameHostPage);
        }
        self.temporary.content[usize::try_from(within).unwrap()] = data;
        self.temporary.count += 1;
        if self.temporary.count < self.host_pages {
            return Ok(());
        }
        self.temporary.place = None;
        self.temporary.count = 0;
        if self.pages.contains_key(&place) {
            return Err(Refusal::Exists);
        }
        let addresses = (place.1..).map(|page| (block, page));
        self.pages.extend(addresses.zip(self.temporary.content.iter().copied()));
        Ok(())
    }

    fn section_id(&self, reader: &mut Reader<'_>) {
        assert_eq!(reader.u32().unwrap(), self.captured.ram_section_id);
    }

    fn end_of_section(&self, reader: &mut Reader<'_>) {
        assert_eq!(reader.u64().unwrap(), flag::EOS);
        assert_eq!(reader.u8().unwrap(), tag::FOOTER);
        self.section_id(reader);
    }
}
