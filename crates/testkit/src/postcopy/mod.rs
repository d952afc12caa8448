//! The destination of a postcopy migration as QEMU is one, as far as it shows on the wire: it loads the package, asks for
//! pages, and keeps what comes. No I/O: bytes in, [`Destination::answers`] out.
//!
//! What QEMU refuses is an error, and nothing else is: pages are put together and put in place as its `ram_load_postcopy`
//! does it, with its blind spots. It counts guest pages up to a host page and does not look which ones came; what it puts
//! together it does not clear before the next. That no page is left out the tests see by what the memory holds in the end.
//! What would be wrong for another reason is an assertion: a test fails by it.
//!
//! The wire format is read here once more, and not by the code under test, whose faults it would share.

mod pieces;

use std::collections::BTreeMap;

use pieces::{Piece, Record};

/// Bytes of a page of the guest.
pub const PAGE_BYTES: usize = 4096;

/// How far the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
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
pub enum Refusal {
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

/// A block of its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its name.
    pub name: String,
    /// Its length, in pages of the guest.
    pub pages: u64,
}

/// The host page that is being put together, in pages of the guest. It stays from one part of the stream to the next.
#[derive(Debug)]
struct HostPage {
    /// Block and first page, once a page of it came.
    place: Option<(usize, u64)>,
    count: u64,
    /// None: a page of zeros came last for this place.
    content: Vec<Option<[u8; PAGE_BYTES]>>,
}

/// The destination.
#[derive(Debug)]
pub struct Destination {
    blocks: Vec<Block>,
    /// How far it is.
    pub stage: Stage,
    /// Whether RUN came.
    pub runs: bool,
    /// What is said to the source.
    pub answers: Vec<u8>,
    /// Pages that are in place: None is a page of zeros.
    pub pages: BTreeMap<(usize, u64), Option<[u8; PAGE_BYTES]>>,
    /// What the stream's configuration holds behind its tag.
    pub configuration: Vec<u8>,
    /// The state of the devices, as it came in the package.
    pub devices: Vec<u8>,
    /// The number of the section `ram`, once it began.
    pub ram_section: Option<u32>,
    /// The begin of a piece of which the rest has not come.
    pending: Vec<u8>,
    previous: Option<usize>,
    /// Pages of the guest in a page of the host.
    host_pages: u64,
    temporary: HostPage,
}

impl Destination {
    /// A destination of this memory, on a host with pages of so many of the guest's.
    pub fn new(blocks: Vec<Block>, host_pages: u64) -> Self {
        let content = (0..host_pages).map(|_| None).collect();
        Self {
            blocks,
            stage: Stage::Waiting,
            runs: false,
            answers: Vec::new(),
            pages: BTreeMap::new(),
            configuration: Vec::new(),
            devices: Vec::new(),
            ram_section: None,
            pending: Vec::new(),
            previous: None,
            host_pages,
            temporary: HostPage { place: None, count: 0, content },
        }
    }

    /// The source is gone: what was said to it is lost, and so are the rest of a piece, the block of the last page and a
    /// host page that is not whole.
    pub fn lose_source(&mut self) {
        self.answers.clear();
        self.pending.clear();
        self.previous = None;
        self.temporary.place = None;
        self.temporary.count = 0;
        self.stage = Stage::Paused;
    }

    /// Asks for the host page of a page, as for the first time or as for the same block again.
    pub fn ask(&mut self, block: usize, page: u64, by_name: bool) {
        let name = self.blocks[block].name.as_bytes();
        let start = (page - page % self.host_pages) * PAGE_BYTES as u64;
        let len = u32::try_from(self.host_pages * PAGE_BYTES as u64).expect("a host page is small");
        let mut payload = [start.to_be_bytes().as_slice(), &len.to_be_bytes()].concat();
        if by_name {
            payload.push(u8::try_from(name.len()).expect("names are short"));
            payload.extend_from_slice(name);
        }
        self.answer(if by_name { 3 } else { 4 }, &payload);
    }

    fn answer(&mut self, kind: u16, payload: &[u8]) {
        self.answers.extend(kind.to_be_bytes());
        self.answers.extend(u16::try_from(payload.len()).expect("answers are short").to_be_bytes());
        self.answers.extend_from_slice(payload);
    }

    /// Whether the last piece that began has come to its end.
    pub fn is_between_pieces(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes bytes of the stream, cut anywhere.
    ///
    /// # Errors
    /// What QEMU would refuse.
    ///
    /// # Panics
    /// For a stream that no source of QEMU sends.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.extend_from_slice(bytes);
        let mut used = 0;
        let mut result = Ok(());
        while let (Ok(()), Some((piece, count))) =
            (result, pieces::next(&pending[used..], self.stage == Stage::Waiting))
        {
            used += count;
            result = self.take(piece);
        }
        self.pending = pending.split_off(used);
        result
    }

    fn take(&mut self, piece: Piece<'_>) -> Result<(), Refusal> {
        assert_ne!(self.stage, Stage::Ended, "something after the end");
        match piece {
            Piece::Head { configuration } => {
                self.configuration = configuration.to_vec();
                self.stage = Stage::Opened(0);
            }
            Piece::Command { number, payload, package } => self.command(number, payload, package)?,
            Piece::Blocks { section, blocks } => {
                assert_eq!(self.stage, Stage::Opened(2));
                let own: Vec<_> =
                    self.blocks.iter().map(|block| (block.name.as_bytes(), block.pages)).collect();
                assert_eq!(blocks, own, "the blocks of memory");
                self.ram_section = Some(section);
                self.stage = Stage::Opened(3);
            }
            Piece::Part { section, records } => {
                assert_eq!((self.stage, Some(section)), (Stage::Listening, self.ram_section));
                for record in records {
                    self.record(&record)?;
                }
            }
            Piece::End { section } => {
                assert_eq!(Some(section), self.ram_section);
                assert!(self.runs, "the end came before the guest could run");
                self.stage = Stage::Ended;
                self.answer(1, &[0; 4]);
            }
        }
        Ok(())
    }

    fn command(&mut self, number: u16, payload: &[u8], package: &[u8]) -> Result<(), Refusal> {
        match (number, self.stage) {
            (1, Stage::Opened(0)) => self.stage = Stage::Opened(1),
            (1, Stage::Paused) => {}
            (2, Stage::Opened(_)) => self.answer(2, payload),
            (3, Stage::Opened(1)) => {
                let own =
                    [(self.host_pages * PAGE_BYTES as u64).to_be_bytes(), (PAGE_BYTES as u64).to_be_bytes()];
                if payload != own.concat() {
                    return Err(Refusal::PageSizes);
                }
                self.stage = Stage::Opened(2);
            }
            (6, Stage::Opened(3)) => {
                self.discard(payload)?;
                self.stage = Stage::Opened(4);
            }
            (7, Stage::Opened(4)) => {
                // LISTEN first, RUN last, and before that a PING whose PONG says that the devices are loaded.
                let (listen, run) = ([8, 0, 4, 0, 0], [8, 0, 2, 0, 4, 0, 0, 0, 3, 8, 0, 5, 0, 0]);
                let devices = package.strip_prefix(&listen).and_then(|rest| rest.strip_suffix(&run));
                self.devices = devices.expect("a package of LISTEN, devices, PING and RUN").to_vec();
                self.stage = Stage::Listening;
                self.answer(2, &3_u32.to_be_bytes());
                self.runs = true;
            }
            (10, Stage::Paused) => self.send_bitmap(payload),
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
        let (name, ranges) = pieces::discard(payload);
        assert!(self.blocks.iter().any(|block| block.name.as_bytes() == name));
        if ranges.iter().all(|bound| bound.is_multiple_of(self.host_pages * PAGE_BYTES as u64)) {
            Ok(())
        } else {
            Err(Refusal::Discard)
        }
    }

    fn send_bitmap(&mut self, name: &[u8]) {
        let named = |block: &Block| Some(block.name.as_bytes()) == name.get(1..);
        let block = self.blocks.iter().position(named).expect("a block of ours");
        let mut bits = vec![0_u8; size(self.blocks[block].pages.div_ceil(8).next_multiple_of(8))];
        for (_, page) in self.pages.keys().filter(|(at, _)| *at == block) {
            bits[size(page / 8)] |= 1 << (page % 8);
        }
        self.answer(5, name);
        self.answers.extend((bits.len() as u64).to_be_bytes());
        self.answers.extend(&bits);
        self.answers.extend(0x0123_4567_89ab_cdef_u64.to_be_bytes());
    }

    fn record(&mut self, record: &Record<'_>) -> Result<(), Refusal> {
        if let Some(name) = record.block {
            self.previous = self.blocks.iter().position(|block| block.name.as_bytes() == name);
        }
        let block = self.previous.expect("a record names a known block");
        self.load(block, record.page, record.data.copied())
    }

    /// Takes a page; the last one of a host page puts that in place.
    fn load(&mut self, block: usize, page: u64, data: Option<[u8; PAGE_BYTES]>) -> Result<(), Refusal> {
        if page >= self.blocks[block].pages {
            return Err(Refusal::Offset);
        }
        let within = page % self.host_pages;
        let place = (block, page - within);
        if *self.temporary.place.get_or_insert(place) != place {
            return Err(Refusal::NonSameHostPage);
        }
        self.temporary.content[size(within)] = data;
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
}

fn size(count: u64) -> usize {
    usize::try_from(count).expect("a test's memory is small")
}
