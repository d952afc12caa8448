//! Receives a migration stream from QEMU and puts it into an image of the store.
//!
//! One thread accepts QEMU's connection, reads, decodes and hands pages to the image writer, whose own threads hash,
//! compress and write behind a bounded buffer: the socket drains at memory speed until memory and spill file are full. What the capture needs to
//! know on the way (bytes, first page seen, failed) is shared in a [`Gauge`].

use std::io::{ErrorKind as IoKind, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmrewind_qemu::postcopy::PageAddress;
use vmrewind_qemu::stream::{Captured, Decoder, Limits, PAGE_SIZE, RamBlock, Sink};
use vmrewind_store::{BlockSize, ImageWriter, SpaceIndex, StoreError};

use crate::capture::first_guess::FirstGuess;
use crate::error::{Context, Error, Result};
use crate::images::store_error;
use crate::root::file::io_error;

/// How much is read from the socket at once.
const CHUNK_BYTES: usize = 1 << 20;

/// How far the reception is.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    bytes: AtomicU64,
    ram_bytes: AtomicU64,
    covered_bytes: AtomicU64,
    stop: AtomicBool,
    state: Mutex<GaugeState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GaugeState {
    first_page: bool,
    ended: bool,
}

impl Gauge {
    /// Bytes received.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The guest's memory as the stream announced it; 0 before.
    pub(crate) fn ram_bytes(&self) -> u64 {
        self.ram_bytes.load(Ordering::Relaxed)
    }

    /// The memory that page records told of, in bytes, repeats included.
    pub(crate) fn covered_bytes(&self) -> u64 {
        self.covered_bytes.load(Ordering::Relaxed)
    }

    /// Whether the receiver has ended, well or not.
    pub(crate) fn ended(&self) -> bool {
        self.lock().ended
    }

    /// Waits for the first page record, or the receiver's end. Returns whether the page was seen.
    pub(crate) fn wait_first_page(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        while !state.first_page && !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.first_page
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, GaugeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut GaugeState)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// What a whole stream gave: everything but pages, and the image that holds these.
pub(crate) struct Received {
    /// Device state and the like.
    pub(crate) captured: Captured,
    /// The image, not finished.
    pub(crate) image: ImageWriter,
    /// The pages that the guest is thought to touch first.
    pub(crate) guess: Vec<PageAddress>,
}

/// A reception under way.
pub(crate) struct Receiver {
    /// How far it is.
    pub(crate) gauge: Arc<Gauge>,
    thread: Option<JoinHandle<Result<Received>>>,
    socket: PathBuf,
}

impl Receiver {
    /// Listens on `socket` for QEMU to connect within `patience`, and receives into `image`.
    pub(crate) fn start(
        socket: &Path,
        image: ImageWriter,
        limits: Limits,
        patience: Duration,
    ) -> Result<Self> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket)
            .map_err(|error| io_error(&format!("cannot listen on '{}'", socket.display()), error))?;
        let gauge = Arc::new(Gauge::default());
        let shared = Arc::clone(&gauge);
        let thread = std::thread::Builder::new()
            .name("receive".into())
            .spawn(move || {
                let result = accept(&listener, &shared, patience)
                    .and_then(|stream| receive(stream, image, limits, &shared));
                shared.tell(|state| state.ended = true);
                result
            })
            .context(|| "cannot start a thread".into())?;
        Ok(Self { gauge, thread: Some(thread), socket: socket.to_owned() })
    }

    /// Waits for the end of the stream.
    ///
    /// # Errors
    /// What went wrong with the stream or the image.
    pub(crate) fn finish(mut self) -> Result<Received> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            _ => Err(Error::failed("the thread that received the guest's memory failed")),
        }
    }
}

impl Drop for Receiver {
    /// Gives the stream up: the image's temporary file goes with its writer.
    fn drop(&mut self) {
        self.gauge.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn receive(mut stream: UnixStream, image: ImageWriter, limits: Limits, gauge: &Gauge) -> Result<Received> {
    let mut decoder = Decoder::new(limits);
    let mut sink = ImageSink { image, spaces: Vec::new(), guess: FirstGuess::default(), gauge };
    let mut chunk = vec![0_u8; CHUNK_BYTES];
    let mut first_page_told = false;
    let cannot = |error| io_error("cannot receive the guest's memory from QEMU", error);
    loop {
        let count = match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), IoKind::Interrupted) => continue,
            Err(error) if matches!(error.kind(), IoKind::WouldBlock | IoKind::TimedOut) => {
                gauge.check_stop()?;
                continue;
            }
            Err(error) => return Err(cannot(error)),
        };
        decoder.feed(&chunk[..count], &mut sink).map_err(stream_error)?;
        gauge.bytes.fetch_add(count as u64, Ordering::Relaxed);
        let covered = (decoder.pages() + decoder.zero_pages()) * PAGE_SIZE as u64;
        gauge.covered_bytes.store(covered, Ordering::Relaxed);
        if !first_page_told && decoder.first_page_seen() {
            first_page_told = true;
            gauge.tell(|state| state.first_page = true);
        }
        gauge.check_stop()?;
    }
    let captured = decoder.finish().map_err(|error| {
        Error::failed("QEMU's migration stream is not whole or not understood").because(error)
    })?;
    Ok(Received { captured, image: sink.image, guess: sink.guess.finish() })
}

fn accept(listener: &UnixListener, gauge: &Gauge, patience: Duration) -> Result<UnixStream> {
    let cannot = |error| io_error("cannot accept QEMU's connection", error);
    listener.set_nonblocking(true).map_err(cannot)?;
    let deadline = Instant::now() + patience;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(cannot)?;
                stream.set_read_timeout(Some(Duration::from_millis(200))).map_err(cannot)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == IoKind::WouldBlock => {}
            Err(error) => return Err(cannot(error)),
        }
        gauge.check_stop()?;
        if Instant::now() >= deadline {
            return Err(Error::failed("QEMU did not connect to deliver the guest's memory"));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

impl Gauge {
    fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::SeqCst) {
            Err(Error::failed("the reception was given up"))
        } else {
            Ok(())
        }
    }
}

fn stream_error(error: vmrewind_qemu::stream::DecodeError<StoreError>) -> Error {
    match error {
        vmrewind_qemu::stream::DecodeError::Sink(error) => {
            store_error("cannot keep the guest's memory", error)
        }
        vmrewind_qemu::stream::DecodeError::Stream(error) => {
            Error::failed("QEMU's migration stream is not understood").because(error)
        }
    }
}

/// Puts pages into an image.
struct ImageSink<'a> {
    image: ImageWriter,
    spaces: Vec<SpaceIndex>,
    guess: FirstGuess,
    gauge: &'a Gauge,
}

impl ImageSink<'_> {
    fn space(&self, block: usize) -> SpaceIndex {
        // The decoder hands out block numbers of the list it announced in `blocks`, and no others.
        self.spaces[block]
    }
}

impl Sink for ImageSink<'_> {
    type Error = StoreError;

    fn blocks(&mut self, blocks: &[RamBlock]) -> std::result::Result<(), StoreError> {
        for block in blocks {
            self.spaces.push(self.image.add_space(&block.name, block.len, BlockSize::Page4K)?);
        }
        self.gauge.ram_bytes.store(blocks.iter().map(|block| block.len).sum(), Ordering::Relaxed);
        Ok(())
    }

    fn page(
        &mut self,
        block: usize,
        page: u64,
        data: &[u8; PAGE_SIZE],
    ) -> std::result::Result<(), StoreError> {
        self.guess.page(block, page);
        let space = self.space(block);
        self.image.put_page(space, page, data)
    }

    fn zero(&mut self, block: usize, page: u64) -> std::result::Result<(), StoreError> {
        self.guess.page(block, page);
        let space = self.space(block);
        self.image.put_zero(space, page)
    }
}

#[cfg(test)]
mod tests;
