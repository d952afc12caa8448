//! The eager replay: a whole captured machine as one migration stream, written to the socket of a waiting QEMU.

use std::io::Write;
use std::ops::{ControlFlow, Range};
use std::os::unix::net::UnixStream;
use std::path::Path;

use vmrewind_qemu::stream::{Captured, EncodeError, Encoder, PAGE_SIZE};
use vmrewind_store::ImageReader;

use crate::context::{Context, Work};
use crate::error::{Error, Result};
use crate::images::store_error;
use crate::record::vm::Hardware;
use crate::root::file::io_error;

/// Bytes that are written to the socket at once, at least.
const FLUSH_BYTES: usize = 1 << 20;
/// Blocks up to this size can hold what QEMU put there itself (firmware, option ROMs): their zero pages are sent.
const SMALL_BLOCK_BYTES: u64 = 64 << 20;

/// What is replayed where.
pub(crate) struct Feed<'a> {
    /// Progress and cancellation.
    pub(crate) ctx: &'a Context,
    /// The image.
    pub(crate) image: &'a ImageReader,
    /// What is in it besides pages.
    pub(crate) captured: &'a Captured,
    /// The block whose pages are in the new QEMU already.
    pub(crate) present: Option<usize>,
    /// Whether memory comes up filled with zeros in the new QEMU; not so where a file is behind it.
    pub(crate) fresh_memory: bool,
}

impl Feed<'_> {
    /// Connects to QEMU and sends everything.
    ///
    /// # Errors
    /// `Damaged` where the image is not what was written, `Failed` where QEMU does not take it.
    pub(crate) fn send(&self, socket: &Path) -> Result<()> {
        let mut stream = UnixStream::connect(socket)
            .map_err(|error| io_error(&format!("cannot reach QEMU on '{}'", socket.display()), error))?;
        self.write(&mut stream)
    }

    /// Writes everything.
    ///
    /// # Errors
    /// As [`Feed::send`].
    pub(crate) fn write(&self, stream: &mut impl Write) -> Result<()> {
        let mut encoder = Encoder::new(self.captured);
        let mut out = Vec::with_capacity(2 << 20);
        encoder.header(&mut out);
        encoder.configuration(&mut out);
        encoder.section_start(&mut out).map_err(encode_error)?;
        encoder.begin_part(&mut out).map_err(encode_error)?;
        self.send_memory(stream, &mut encoder, &mut out)?;
        encoder.end_part(&mut out).map_err(encode_error)?;
        encoder.device_state(&mut out);
        flush(stream, &mut out)
    }

    fn send_memory(
        &self,
        stream: &mut impl Write,
        encoder: &mut Encoder<'_>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let total_bytes: u64 = self.image.spaces().iter().map(|space| space.len).sum();
        let mut done_bytes = 0;
        for (number, space) in self.image.spaces().iter().enumerate() {
            if self.present == Some(number) {
                continue;
            }
            let with_zeros = !self.fresh_memory || space.len <= SMALL_BLOCK_BYTES;
            let mut next = 0;
            let sent = self.image.stream(space.index, 0..space.blocks(), |pages, data| {
                let send = || {
                    if with_zeros {
                        send_zeros(stream, encoder, out, number, next..pages.start)?;
                    }
                    next = pages.end;
                    send_run(stream, encoder, out, number, pages, data)?;
                    let done = done_bytes + next * PAGE_SIZE as u64;
                    let _ = self.ctx.progress(Work::RestoringMemory, done, total_bytes);
                    self.ctx.cancel.check("restoring memory")
                };
                send().map_or_else(ControlFlow::Break, ControlFlow::Continue)
            });
            let sent = sent.map_err(|error| store_error("cannot read the snapshot's memory", error))?;
            if let ControlFlow::Break(error) = sent {
                return Err(error);
            }
            if with_zeros {
                send_zeros(stream, encoder, out, number, next..space.pages())?;
            }
            done_bytes += space.len;
        }
        Ok(())
    }
}

/// Sends consecutive pages that are not zero.
fn send_run(
    stream: &mut impl Write,
    encoder: &mut Encoder<'_>,
    out: &mut Vec<u8>,
    block: usize,
    pages: Range<u64>,
    data: &[u8],
) -> Result<()> {
    for (page, content) in pages.zip(data.as_chunks::<PAGE_SIZE>().0) {
        encoder.page(out, block, page, content).map_err(encode_error)?;
        if out.len() > FLUSH_BYTES {
            flush(stream, out)?;
        }
    }
    Ok(())
}

fn send_zeros(
    stream: &mut impl Write,
    encoder: &mut Encoder<'_>,
    out: &mut Vec<u8>,
    block: usize,
    pages: Range<u64>,
) -> Result<()> {
    for page in pages {
        encoder.zero(out, block, page).map_err(encode_error)?;
        if out.len() > FLUSH_BYTES {
            flush(stream, out)?;
        }
    }
    Ok(())
}

fn flush(stream: &mut impl Write, out: &mut Vec<u8>) -> Result<()> {
    stream.write_all(out).map_err(|error| io_error("QEMU does not take the snapshot's state", error))?;
    out.clear();
    Ok(())
}

fn encode_error(error: EncodeError) -> Error {
    Error::failed("the snapshot's memory can't be sent to QEMU").because(error)
}

/// Whether memory of this hardware comes up as zeros: no file is behind it.
pub(crate) fn fresh_memory(hardware: &Hardware) -> bool {
    let names_file =
        |word: &String| word.trim_start_matches('-') == "mem-path" || word.contains("memory-backend-file");
    !hardware.command_line.iter().any(names_file)
}

#[cfg(test)]
mod tests;
