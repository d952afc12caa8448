//! The stream that a waiting QEMU is fed with, decoded again.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;

use vmrewind_qemu::stream::{Decoder, Limits, RamBlock, Sink};

use super::*;
use crate::error::ErrorKind;
use crate::testing::context;
use crate::testing::images::{Block, content, image, machine, store};

/// A small block and one that is not.
const BLOCKS: [Block<'_>; 2] =
    [("vga.vram", 8, &[2, 3]), ("pc.ram", (SMALL_BLOCK_BYTES >> 12) + 1, &[0, 5, 16384])];

/// What came: `None` for a page of zeros that was told of.
#[derive(Default)]
struct Memory(BTreeMap<(usize, u64), Option<[u8; PAGE_SIZE]>>);

impl Sink for Memory {
    type Error = Infallible;

    fn blocks(&mut self, blocks: &[RamBlock]) -> std::result::Result<(), Infallible> {
        assert_eq!(blocks, machine(&BLOCKS).blocks);
        Ok(())
    }

    fn page(
        &mut self,
        block: usize,
        page: u64,
        data: &[u8; PAGE_SIZE],
    ) -> std::result::Result<(), Infallible> {
        assert!(self.0.insert((block, page), Some(*data)).is_none(), "page {page} came twice");
        Ok(())
    }

    fn zero(&mut self, block: usize, page: u64) -> std::result::Result<(), Infallible> {
        assert!(self.0.insert((block, page), None).is_none(), "page {page} came twice");
        Ok(())
    }
}

/// Feeds the machine, and gives what a QEMU would make of it.
fn feed(present: Option<usize>, fresh_memory: bool) -> Memory {
    let dir = tempfile::tempdir().unwrap();
    let (captured, image) = (machine(&BLOCKS), image(&store(dir.path()), &BLOCKS));
    let ctx = context();
    let mut stream = Vec::new();
    Feed { ctx: &ctx, image: &image, captured: &captured, present, fresh_memory }.write(&mut stream).unwrap();
    let (mut decoder, mut memory) =
        (Decoder::new(Limits { require_description: false, ..Limits::default() }), Memory::default());
    decoder.feed(&stream, &mut memory).unwrap();
    let found = decoder.finish().unwrap();
    assert_eq!(found.device_state.bytes(), captured.device_state.bytes());
    assert_eq!(found.configuration, captured.configuration);
    memory
}

/// Guards the guest's memory: each page with data comes, in its place; of those without, all where something else may be
/// there: in small blocks, which firmware fills, and in memory with a file behind it.
#[test]
fn pages_come_as_they_are_and_zeros_where_they_must() {
    for fresh_memory in [true, false] {
        let Memory(pages) = feed(None, fresh_memory);
        for (number, (_, len, with_data)) in BLOCKS.iter().enumerate() {
            let zeros = number == 0 || !fresh_memory;
            for page in 0..*len {
                let expected = match with_data.contains(&page) {
                    true => Some(Some(content(number, page))),
                    false => zeros.then_some(None),
                };
                assert_eq!(pages.get(&(number, page)).copied(), expected, "page {page} of block {number}");
            }
        }
    }
}

/// Guards clones: the block that they share is not sent, since that would be a copy for each.
#[test]
fn a_block_that_is_there_is_left_out() {
    let Memory(pages) = feed(Some(1), false);
    assert!(pages.keys().all(|(block, _)| *block == 0));
    assert_eq!(pages.len(), 8);
}

/// A QEMU that closes its socket after so many bytes.
struct Closes(usize);

impl Write for Closes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Guards what is told of a QEMU that takes no more, of a socket that is not there, and Ctrl-C.
#[test]
fn what_stops_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (captured, image) = (machine(&BLOCKS), image(&store(dir.path()), &BLOCKS));
    let ctx = context();
    let feed = Feed { ctx: &ctx, image: &image, captured: &captured, present: None, fresh_memory: false };
    let error = feed.write(&mut Closes(10_000)).unwrap_err();
    assert!(error.to_string().contains("QEMU does not take the snapshot's state"), "{error}");
    let error = feed.send(&dir.path().join("none.sock")).unwrap_err();
    assert!(error.to_string().contains("cannot reach QEMU"), "{error}");
    ctx.cancel.cancel();
    let error = feed.write(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
}

/// Guards memory with a file behind it, in whatever way the command line says so.
#[test]
fn memory_on_a_file_is_not_fresh() {
    let hardware = |words: &[&str]| Hardware {
        command_line: words.iter().map(|word| (*word).to_owned()).collect(),
        working_dir: "/".into(),
        qemu_version: "10.0.2".into(),
    };
    assert!(fresh_memory(&hardware(&["qemu", "-m", "1G", "-object", "memory-backend-memfd,id=a,size=1G"])));
    assert!(!fresh_memory(&hardware(&["qemu", "-mem-path", "/dev/hugepages"])));
    assert!(!fresh_memory(&hardware(&["qemu", "--mem-path", "/dev/hugepages"])));
    assert!(!fresh_memory(&hardware(&["qemu", "-object", "memory-backend-file,id=a,size=1G,mem-path=/m"])));
}
