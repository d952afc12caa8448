//! The source against a simulated destination: random orders, random moments of death, and what must not be accepted.

mod bench;
mod return_path;
mod serving;

use std::ops::Range;

use vmrewind_testkit::postcopy::{Block, Destination};

use crate::stream::{Captured, DeviceState, PAGE_SIZE, RamBlock};

/// A machine with blocks of so many pages and a device state that is long enough.
fn captured(pages: &[u64]) -> Captured {
    let mut state = b"\x04\0\0\0\x2a\x06device\0\0\0\0\0\0\0\x01state\x7e\0\0\0\x2a\0".to_vec();
    state.shrink_to_fit();
    let blocks = pages.iter().enumerate().map(|(at, pages)| RamBlock::new(format!("ram{at}"), pages << 12));
    Captured {
        machine_type: "pc-q35-10.0".into(),
        configuration: b"\0\0\0\x0bpc-q35-10.0".to_vec(),
        ram_section_id: 2,
        blocks: blocks.collect(),
        device_state: DeviceState::parse(state).unwrap(),
    }
}

/// The destination of a machine, on a host with pages of so many of the guest's.
fn destination(captured: &Captured, host_pages: u64) -> Destination {
    let blocks = captured.blocks.iter();
    let blocks = blocks.map(|block| Block { name: block.name.clone(), pages: block.pages() });
    Destination::new(blocks.collect(), host_pages)
}

/// What a page with data holds, so that a page in the wrong place is noticed.
fn content(block: usize, page: u64) -> [u8; PAGE_SIZE] {
    let mut data = [0; PAGE_SIZE];
    data[..8].copy_from_slice(&(page + 1).to_le_bytes());
    data[8] = u8::try_from(block).unwrap();
    data
}

/// Runs of the pages that are marked.
fn runs(marks: &[bool]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (page, _) in (0..).zip(marks).filter(|(_, mark)| **mark) {
        match runs.last_mut() {
            Some(run) if run.end == page => run.end += 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}
