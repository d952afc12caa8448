//! The eager replay: a whole captured machine as one migration stream, written to the socket of a waiting QEMU.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

use vmrewind_qemu::stream::{Captured, EncodeError, Encoder, PAGE_SIZE};
use vmrewind_store::{ImageReader, SpaceIndex};

use crate::error::{Context, Error, Result};
use crate::host::{Host, Step};
use crate::images::store_error;
use crate::record::vm::Hardware;
use crate::root::file::io_error;

/// Pages read from the image and sent at once: 1 MiB.
const RUN_PAGES: u64 = 256;
/// Blocks up to this size can hold what QEMU put there itself (firmware, option ROMs): their zero pages are sent.
const SMALL_BLOCK_BYTES: u64 = 64 << 20;

/// What is replayed where.
pub(crate) struct Feed<'a> {
    /// Progress and cancellation.
    pub(crate) host: &'a Host,
    /// The image.
    pub(crate) image: &'a ImageReader,
    /// What is in it besides pages.
    pub(crate) captured: &'a Captured,
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
        let mut encoder = Encoder::new(self.captured);
        let mut out = Vec::with_capacity(2 << 20);
        encoder.header(&mut out);
        encoder.configuration(&mut out);
        encoder.section_start(&mut out).map_err(encode_error)?;
        encoder.begin_part(&mut out).map_err(encode_error)?;
        self.send_memory(&mut stream, &mut encoder, &mut out)?;
        encoder.end_part(&mut out).map_err(encode_error)?;
        encoder.device_state(&mut out);
        flush(&mut stream, &mut out)
    }

    fn send_memory(
        &self,
        stream: &mut UnixStream,
        encoder: &mut Encoder<'_>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let total_bytes: u64 = self.image.spaces().iter().map(|space| space.len).sum();
        let mut done_bytes = 0;
        for (number, space) in self.image.spaces().iter().enumerate() {
            let with_zeros = !self.fresh_memory || space.len <= SMALL_BLOCK_BYTES;
            let mut next = 0;
            for run in self.image.data_runs(space.index) {
                if with_zeros {
                    send_zeros(stream, encoder, out, number, next..run.start)?;
                }
                next = run.end;
                let mut start = run.start;
                while start < run.end {
                    let end = run.end.min(start + RUN_PAGES);
                    self.send_run(encoder, out, number, space.index, start..end)?;
                    flush(stream, out)?;
                    start = end;
                    let done = done_bytes + end * PAGE_SIZE as u64;
                    self.host.progress.step(Step { what: "restoring memory", done_bytes: done, total_bytes });
                    self.host.cancel.check("restoring memory")?;
                }
            }
            if with_zeros {
                send_zeros(stream, encoder, out, number, next..space.pages())?;
            }
            done_bytes += space.len;
        }
        Ok(())
    }

    fn send_run(
        &self,
        encoder: &mut Encoder<'_>,
        out: &mut Vec<u8>,
        block: usize,
        space: SpaceIndex,
        pages: std::ops::Range<u64>,
    ) -> Result<()> {
        let count =
            usize::try_from(pages.end - pages.start).context(|| "a run of pages is too long".into())?;
        let mut buffer = vec![0_u8; count * PAGE_SIZE];
        self.image
            .read_run(space, pages.clone(), &mut buffer)
            .map_err(|error| store_error("cannot read the snapshot's memory", error))?;
        let (chunks, _) = buffer.as_chunks::<PAGE_SIZE>();
        for (page, data) in pages.zip(chunks) {
            encoder.page(out, block, page, data).map_err(encode_error)?;
        }
        Ok(())
    }
}

fn send_zeros(
    stream: &mut UnixStream,
    encoder: &mut Encoder<'_>,
    out: &mut Vec<u8>,
    block: usize,
    pages: std::ops::Range<u64>,
) -> Result<()> {
    for page in pages {
        encoder.zero(out, block, page).map_err(encode_error)?;
        if out.len() > 1 << 20 {
            flush(stream, out)?;
        }
    }
    Ok(())
}

fn flush(stream: &mut UnixStream, out: &mut Vec<u8>) -> Result<()> {
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
