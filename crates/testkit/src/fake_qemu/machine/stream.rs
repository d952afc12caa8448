//! The bytes of a migration stream (QEMU `migration/savevm.c`, `migration/ram.c`), as small as it can be.

use super::Bend;

/// Bytes of a page.
const PAGE: usize = 4096;
const PAGE_BYTES: u64 = PAGE as u64;

const SECTION_START: u8 = 1;
const SECTION_PART: u8 = 2;
const SECTION_END: u8 = 3;
const SECTION_FULL: u8 = 4;
const DESCRIPTION: u8 = 6;
const CONFIGURATION: u8 = 7;
const FOOTER: u8 = 0x7e;

const FLAG_MEM_SIZE: u64 = 0x04;
const FLAG_PAGE: u64 = 0x08;
const FLAG_EOS: u64 = 0x10;

/// The section `ram` has this number.
const RAM: u32 = 2;
/// The section `globalstate` has this one.
const GLOBAL_STATE: u32 = 3;
/// The one block of memory.
pub(super) const BLOCK: &str = "pc.ram";
/// What the payload of `globalstate` has after the length of the name.
const STATE_BYTES: usize = 100;

/// Up to the list of blocks.
pub(super) fn head(pages: u64) -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03".to_vec();
    out.push(CONFIGURATION);
    let machine = "pc-fake";
    out.extend(u32_of(machine.len()));
    out.extend(machine.as_bytes());
    out.push(SECTION_START);
    out.extend(RAM.to_be_bytes());
    name(&mut out, "ram");
    out.extend(0_u32.to_be_bytes());
    out.extend(4_u32.to_be_bytes());
    out.extend(((pages * PAGE_BYTES) | FLAG_MEM_SIZE).to_be_bytes());
    name(&mut out, BLOCK);
    out.extend((pages * PAGE_BYTES).to_be_bytes());
    end_section(&mut out);
    out
}

/// A part with one page, all of it of one byte.
pub(super) fn page(number: u64, byte: u8) -> Vec<u8> {
    page_of(BLOCK, number, byte)
}

/// The same of another block.
pub(super) fn page_of(block: &str, number: u64, byte: u8) -> Vec<u8> {
    let mut out = vec![SECTION_PART];
    out.extend(RAM.to_be_bytes());
    out.extend(((number * PAGE_BYTES) | FLAG_PAGE).to_be_bytes());
    name(&mut out, block);
    out.extend(std::iter::repeat_n(byte, PAGE));
    end_section(&mut out);
    out
}

/// From the end of memory to the end of the stream.
pub(super) fn tail(run_state: &str) -> Vec<u8> {
    let mut out = vec![SECTION_END];
    out.extend(RAM.to_be_bytes());
    end_section(&mut out);
    out.push(SECTION_FULL);
    out.extend(GLOBAL_STATE.to_be_bytes());
    name(&mut out, "globalstate");
    out.extend(0_u32.to_be_bytes());
    out.extend(1_u32.to_be_bytes());
    out.extend(u32_of(run_state.len() + 1));
    out.extend(run_state.bytes().chain(std::iter::repeat(0)).take(STATE_BYTES));
    out.push(FOOTER);
    out.extend(GLOBAL_STATE.to_be_bytes());
    out.push(0);
    let description = br#"{"devices":[{"name":"globalstate","instance_id":0}]}"#;
    out.push(DESCRIPTION);
    out.extend(u32_of(description.len()));
    out.extend(description);
    out
}

/// The same, with something wrong.
pub(super) fn bent_tail(run_state: &str, bend: Option<Bend>) -> Vec<u8> {
    let mut out = tail(if bend == Some(Bend::Running) { "running" } else { run_state });
    let device_footer = out.iter().rposition(|byte| *byte == FOOTER);
    match (bend, device_footer) {
        (Some(Bend::Short), _) => out.truncate(out.len() - 40),
        (Some(Bend::Devices), Some(at)) => out[at] = 0,
        _ => {}
    }
    out
}

/// A page that should not come, where one is to.
pub(super) fn bent_page(pages: u64, bend: Option<Bend>) -> Option<Vec<u8>> {
    match bend? {
        Bend::UnknownBlock => Some(page_of("vga.vram", 0, 1)),
        Bend::BeyondBlock => Some(page(pages, 1)),
        _ => None,
    }
}

/// The end of a part of `ram`.
fn end_section(out: &mut Vec<u8>) {
    out.extend(FLAG_EOS.to_be_bytes());
    out.push(FOOTER);
    out.extend(RAM.to_be_bytes());
}

fn name(out: &mut Vec<u8>, name: &str) {
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend(name.as_bytes());
}

fn u32_of(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}
