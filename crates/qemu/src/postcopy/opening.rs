//! What a source says before pages: all that a fresh QEMU needs to run, or the questions to one that lost its source.

use super::error::SourceError;
use crate::stream::{Captured, Encoder, PAGE_BYTES};

/// Numbers of the commands. Source: QEMU `migration/savevm.c`, `enum qemu_vm_cmd`.
mod command {
    pub(super) const OPEN_RETURN_PATH: u16 = 1;
    pub(super) const PING: u16 = 2;
    pub(super) const ADVISE: u16 = 3;
    pub(super) const LISTEN: u16 = 4;
    pub(super) const RUN: u16 = 5;
    pub(super) const RAM_DISCARD: u16 = 6;
    pub(super) const PACKAGED: u16 = 7;
    pub(super) const RESUME: u16 = 9;
    pub(super) const RECV_BITMAP: u16 = 10;
}

/// The PING whose PONG shows that devices are loaded and the guest is about to be able to run.
pub(super) const RUN_PING: u32 = 3;

/// Refuses what a stream of 4 KiB pages can't fill, one page of the host after the other.
pub(super) fn check(captured: &Captured, host_page_bytes: u64) -> Result<(), SourceError> {
    let unfit = |what| Err(SourceError::Unfit { what });
    if !host_page_bytes.is_power_of_two() || host_page_bytes < PAGE_BYTES {
        return unfit("this host's page size does not fit the guest's");
    }
    if captured.blocks.is_empty() {
        return unfit("it has no memory");
    }
    if captured.blocks.iter().any(|block| block.page_size != PAGE_BYTES) {
        return unfit("its memory is of huge pages");
    }
    // QEMU allocates whole host pages, so this is a capture of a host with smaller ones: the block's last page would never be
    // whole, and QEMU would never put it in place.
    if captured.blocks.iter().any(|block| !block.len.is_multiple_of(host_page_bytes)) {
        return unfit("its memory does not consist of whole pages of this host");
    }
    if captured.blocks.iter().any(|block| block.guest_address.is_some()) {
        return unfit("it was captured with x-ignore-shared");
    }
    Ok(())
}

/// Everything up to and including the package: QEMU loads its devices and is ready to run from this.
pub(super) fn fresh(
    captured: &Captured,
    host_page_bytes: u64,
    encoder: &mut Encoder<'_>,
    out: &mut Vec<u8>,
) -> Result<(), SourceError> {
    encoder.header(out);
    encoder.configuration(out);
    encoder.command(out, command::OPEN_RETURN_PATH, &[])?;
    encoder.command(out, command::PING, &1_u32.to_be_bytes())?;
    // The page sizes of all blocks together by OR, then that of the target. QEMU takes ordinary memory for memory in pages of
    // the host, and refuses a source that has others.
    let sizes = [host_page_bytes.to_be_bytes(), PAGE_BYTES.to_be_bytes()].concat();
    encoder.command(out, command::ADVISE, &sizes)?;
    encoder.section_start(out)?;
    encoder.command(out, command::RAM_DISCARD, &discard(captured, host_page_bytes))?;
    // From LISTEN on a thread of QEMU reads pages from the stream, while its main thread loads devices, which touch pages.
    // So devices come in a package, which is read whole before: out of the stream they would wait for pages behind them.
    let mut package = Vec::new();
    encoder.command(&mut package, command::LISTEN, &[])?;
    package.extend_from_slice(captured.device_state.without_eof());
    encoder.command(&mut package, command::PING, &RUN_PING.to_be_bytes())?;
    encoder.command(&mut package, command::RUN, &[])?;
    let len = u32::try_from(package.len())
        .map_err(|_| SourceError::Unfit { what: "its device state is over 4 GiB" })?;
    encoder.command(out, command::PACKAGED, &len.to_be_bytes())?;
    out.append(&mut package);
    Ok(())
}

/// One host page, the least that can be discarded, of the largest block. QEMU has emptied all memory at ADVISE; but without any DISCARD it takes what follows
/// for precopy, and waits for itself for ever.
fn discard(captured: &Captured, host_page_bytes: u64) -> Vec<u8> {
    let largest = captured.blocks.iter().max_by_key(|block| block.len);
    let name = largest.map(|block| block.name.as_bytes()).unwrap_or_default();
    let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let mut payload = vec![0, len];
    payload.extend(name.iter().take(usize::from(len)));
    payload.push(0);
    payload.extend(0_u64.to_be_bytes());
    payload.extend(host_page_bytes.to_be_bytes());
    payload
}

/// The questions which pages have come.
pub(super) fn ask_bitmaps(
    captured: &Captured,
    encoder: &mut Encoder<'_>,
    out: &mut Vec<u8>,
) -> Result<(), SourceError> {
    encoder.command(out, command::OPEN_RETURN_PATH, &[])?;
    for block in &captured.blocks {
        let len = u8::try_from(block.name.len()).unwrap_or(u8::MAX);
        let payload: Vec<u8> = [len].into_iter().chain(block.name.bytes().take(usize::from(len))).collect();
        encoder.command(out, command::RECV_BITMAP, &payload)?;
    }
    Ok(())
}

/// The request to go on.
pub(super) fn resume(encoder: &mut Encoder<'_>, out: &mut Vec<u8>) -> Result<(), SourceError> {
    Ok(encoder.command(out, command::RESUME, &[])?)
}
