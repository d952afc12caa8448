//! One connection to a QEMU that asks for its memory: threads around one postcopy source.
//!
//! ```text
//!  QEMU --requests--> receive --> [ source ] <-- faults: reads what was asked for, at once
//!   ^                                ^ ^-------- push:   reads working set and rest, never while somebody waits
//!   |                                '---------- index:  finds out which pages there are, once the guest runs
//!   '------------------------- bytes, in the order in which the source gave them
//! ```
//! The store is read with nothing locked: a page that is waited for is read while another still comes from a slow disk.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmrewind_qemu::postcopy::{Batch, Content, FirstPages, Lane, Next, Progress, Source, SourceError};
use vmrewind_qemu::stream::PAGE_SIZE;

use super::ahead::{Ahead, be_modest};
use crate::error::{Context, Error, Result};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How long after the guest can run it is looked which pages hold data. That takes the longer the more memory there is, and
/// nothing but the push needs it.
const INDEX_AFTER: Duration = Duration::from_millis(100);
/// How much of what QEMU sends is read at once.
const RECEIVE_BYTES: usize = 64 << 10;

/// How a connection ended that did not fail for the image's sake.
#[derive(Debug)]
pub(super) enum End {
    /// QEMU has everything.
    Whole,
    /// QEMU or the connection is gone, or QEMU said what can't be understood.
    Lost(String),
}

/// What a connection leaves behind.
pub(super) struct Served {
    /// How it ended.
    pub(super) end: End,
    /// How far it came.
    pub(super) progress: Progress,
    /// The pages that were asked for in the first seconds.
    pub(super) asked: FirstPages,
}

/// What happens on the way, for whoever looks.
pub(super) trait Watcher: Sync {
    /// How far it is, some times a second.
    fn progress(&self, progress: Progress);
    /// The opening was sent: the package, or the questions to a QEMU that lost its source.
    fn opened(&self);
}

/// Serves `source` from `memory` until QEMU has everything, or is gone.
///
/// # Errors
/// `Damaged`, or `Failed`: a page can't be read. The guest must not go on then.
pub(super) fn serve(
    source: Source<'_>,
    memory: &Ahead<'_>,
    socket: UnixStream,
    watcher: &dyn Watcher,
) -> Result<Served> {
    let receiving = socket.try_clone().context(|| "cannot share the connection to QEMU".into())?;
    let closing = socket.try_clone().context(|| "cannot share the connection to QEMU".into())?;
    let connection = Connection {
        state: Mutex::new(State { source, end: None }),
        changed: Condvar::new(),
        socket: Mutex::new(socket),
        memory,
        began: Instant::now(),
    };
    let lane = |lane| {
        let _end = EndOnPanic(&connection);
        connection.lane(lane, watcher);
    };
    let receive = |socket| {
        let _end = EndOnPanic(&connection);
        connection.receive(socket);
    };
    let index = || {
        let _end = EndOnPanic(&connection);
        connection.index();
    };
    std::thread::scope(|scope| {
        let named = |name: &str| std::thread::Builder::new().name(name.into());
        let started = named("receive")
            .spawn_scoped(scope, || receive(receiving))
            .and_then(|_| named("faults").spawn_scoped(scope, || lane(Lane::Faults)))
            .and_then(|_| named("push").spawn_scoped(scope, || lane(Lane::Push)))
            .and_then(|_| named("index").spawn_scoped(scope, index));
        if let Err(error) = started {
            // No page is unreadable for it: another connection is tried.
            connection.end(Ok(End::Lost(format!("cannot start a thread: {error}"))));
        }
        connection.wait_end(watcher);
        // The threads that read or write it end with this.
        let _ = closing.shutdown(Shutdown::Both);
    });
    let state = connection.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let progress = state.source.progress();
    watcher.progress(progress);
    let end = state.end.unwrap_or_else(|| Ok(End::Lost("nobody served it".into())))?;
    Ok(Served { end, progress, asked: state.source.remembered().clone() })
}

struct Connection<'a> {
    state: Mutex<State<'a>>,
    /// Something was received, filled, or has ended.
    changed: Condvar,
    /// Taken before the state by whoever has the source make bytes, so that they go out in the order in which it did.
    socket: Mutex<UnixStream>,
    memory: &'a Ahead<'a>,
    began: Instant,
}

/// Ends the connection where its thread panics. The guest waits for a page then that nobody would send, and nobody would
/// notice: the other threads go on. With the end the process ends, and its supervisor starts another one.
struct EndOnPanic<'c, 'a>(&'c Connection<'a>);

impl Drop for EndOnPanic<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(Ok(End::Lost("a thread of the page server panicked".into())));
        }
    }
}

struct State<'a> {
    source: Source<'a>,
    end: Option<Result<End>>,
}

impl<'a> Connection<'a> {
    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        // A thread that panicked has left the source as it was between two calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection; the first end counts.
    fn end(&self, end: Result<End>) {
        self.lock().end.get_or_insert(end);
        self.changed.notify_all();
    }

    fn wait_end(&self, watcher: &dyn Watcher) {
        let mut state = self.lock();
        while state.end.is_none() {
            let progress = state.source.progress();
            drop(state);
            watcher.progress(progress);
            state = self.lock();
            if state.end.is_none() {
                let waited = self.changed.wait_timeout_while(state, TELL_EVERY, |state| state.end.is_none());
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// Tells the source which pages hold data.
    fn index(&self) {
        be_modest();
        let mut state = self.lock();
        while state.end.is_none() && !state.source.progress().can_run {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(self.changed.wait_timeout_while(state, INDEX_AFTER, |state| state.end.is_none()));
        let known = self.memory.data_runs(|| self.lock().end.is_none());
        match known {
            Ok(None) => {}
            Ok(Some(data)) => {
                if let Err(error) = self.lock().source.know(&data) {
                    self.end(Ok(lost(&error)));
                }
                self.changed.notify_all();
            }
            Err(error) => self.end(Err(error)),
        }
    }

    fn receive(&self, mut socket: UnixStream) {
        let mut buffer = vec![0_u8; RECEIVE_BYTES];
        loop {
            let count = match socket.read(&mut buffer) {
                Ok(0) => return self.end(Ok(End::Lost("QEMU closed the connection".into()))),
                Ok(count) => count,
                Err(error) if error.kind() == IoKind::Interrupted => continue,
                Err(error) => return self.end(Ok(End::Lost(format!("cannot read from QEMU: {error}")))),
            };
            let mut state = self.lock();
            let received = state.source.receive(&buffer[..count], self.began.elapsed());
            drop(state);
            if let Err(error) = received {
                return self.end(Ok(lost(&error)));
            }
            self.changed.notify_all();
        }
    }

    /// What one of the senders does until the end.
    fn lane(&self, lane: Lane, watcher: &dyn Watcher) {
        let mut work = Work::default();
        let mut opened = false;
        loop {
            let done = match self.next(lane) {
                Todo::Say => self.send(&mut work.out, Source::say),
                Todo::Pages(batch) => self.send_pages(&batch, &mut work),
                Todo::End => return,
            };
            match done {
                Ok(()) if lane == Lane::Faults && !opened => {
                    opened = true;
                    watcher.opened();
                }
                Ok(()) => {}
                Err(Stop::Lost(end)) => return self.end(Ok(end)),
                Err(Stop::Failed(error)) => return self.end(Err(error)),
            }
        }
    }

    /// Waits for the lane's next piece of work.
    fn next(&self, lane: Lane) -> Todo {
        let mut state = self.lock();
        loop {
            if state.end.is_some() {
                return Todo::End;
            }
            let now = self.began.elapsed();
            match state.source.next(lane, now) {
                Next::Say => return Todo::Say,
                Next::Pages(batch) => return Todo::Pages(batch),
                Next::Over => {
                    state.end.get_or_insert(Ok(End::Whole));
                    self.changed.notify_all();
                    return Todo::End;
                }
                Next::Wait(until) => {
                    let wait = until.map_or(Duration::from_secs(1), |until| until.saturating_sub(now));
                    let waited = self.changed.wait_timeout(state, wait);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    fn send_pages(&self, batch: &Batch, work: &mut Work) -> Result<(), Stop> {
        work.data.resize(batch.data_bytes(), 0);
        let mut rest = &mut work.data[..];
        for piece in batch.pieces().iter().filter(|piece| piece.content == Content::Data) {
            let count = usize::try_from(piece.pages.end - piece.pages.start).unwrap_or(usize::MAX);
            let (part, after) = std::mem::take(&mut rest).split_at_mut(count.saturating_mul(PAGE_SIZE));
            rest = after;
            self.memory.read(piece.block, piece.pages.clone(), part).map_err(Stop::Failed)?;
        }
        let data = &work.data;
        self.send(&mut work.out, |source, out| source.fill(batch, data, out))
    }

    /// Has the source make bytes, and sends them before it makes others: what opens the stream goes out before any page.
    fn send(
        &self,
        out: &mut Vec<u8>,
        make: impl FnOnce(&mut Source<'a>, &mut Vec<u8>) -> Result<(), SourceError>,
    ) -> Result<(), Stop> {
        out.clear();
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        make(&mut self.lock().source, out).map_err(|error| Stop::Lost(lost(&error)))?;
        let written = socket.write_all(out);
        drop(socket);
        self.changed.notify_all();
        written.map_err(|error| Stop::Lost(End::Lost(format!("QEMU takes no more: {error}"))))
    }
}

/// The buffers of a lane.
#[derive(Default)]
struct Work {
    out: Vec<u8>,
    data: Vec<u8>,
}

enum Todo {
    Say,
    Pages(Batch),
    End,
}

enum Stop {
    Lost(End),
    Failed(Error),
}

fn lost(error: &SourceError) -> End {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    End::Lost(format!("{error}{source}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vmrewind_qemu::postcopy::{Options, PageAddress};
    use vmrewind_qemu::stream::{Captured, DeviceState, RamBlock};
    use vmrewind_store::{BlockSize, DirStorage, ImageId, ImageReader, Store, WriteOptions};

    use super::*;

    const PAGES: u64 = 16;
    /// The threads must meet in the wrong moment, which they do once in some thousand connections at most on a quiet host.
    const CONNECTIONS: usize = 1000;

    struct Nobody;

    impl Watcher for Nobody {
        fn progress(&self, _: Progress) {}
        fn opened(&self) {}
    }

    fn machine() -> Captured {
        let state = b"\x04\0\0\0\x2a\x06device\0\0\0\0\0\0\0\x01state\x7e\0\0\0\x2a\0";
        Captured {
            machine_type: "pc-q35-10.0".into(),
            configuration: b"\0\0\0\x0bpc-q35-10.0".to_vec(),
            ram_section_id: 2,
            blocks: vec![RamBlock::new("pc.ram", PAGES << 12)],
            device_state: DeviceState::parse(state.to_vec()).unwrap(),
        }
    }

    fn image(folder: &std::path::Path) -> ImageReader {
        let store = Store::open(Arc::new(DirStorage::new(folder).unwrap())).unwrap();
        let id = ImageId::new("0123456789abcdef").unwrap();
        let mut writer = store.create_image(id.clone(), WriteOptions::default()).unwrap();
        let ram = writer.add_space("pc.ram", PAGES << 12, BlockSize::Page4K).unwrap();
        writer.put_page(ram, 3, &[0xee; PAGE_SIZE]).unwrap();
        writer.finish().unwrap();
        store.open_image(&id).unwrap()
    }

    /// Panics once the stream is opened: a bug in the middle of a restore.
    struct Broken;

    impl Watcher for Broken {
        fn progress(&self, _: Progress) {}
        fn opened(&self) {
            panic!("a bug");
        }
    }

    /// Guards a guest against a bug: a thread that dies must not leave it waiting for a page for ever, by servers that live.
    #[test]
    fn a_thread_that_panics_ends_the_server() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path());
        let captured = machine();
        let memory = Ahead::of(&image, Vec::new());
        let source = Source::fresh(&captured, 1, FirstPages::default(), Options::default()).unwrap();
        // QEMU stays, and says nothing.
        let (served, _qemu) = UnixStream::pair().unwrap();
        let ended =
            std::thread::scope(|scope| scope.spawn(|| serve(source, &memory, served, &Broken)).join());
        assert!(ended.is_err(), "the panic is told on");
    }

    /// Guards the begin of a restore: pages that are there before anybody asks, by another thread, do not go out before the
    /// opening. QEMU ends at a stream that begins with a page.
    #[test]
    fn nothing_goes_out_before_the_opening() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path());
        let captured = machine();
        let early = vec![PageAddress { block: 0, page: 3 }];
        let memory = Ahead::of(&image, early.clone());
        for _ in 0..CONNECTIONS {
            let first = FirstPages { early: early.clone(), later: Vec::new() };
            let source = Source::fresh(&captured, 1, first, Options::default()).unwrap();
            let (served, mut qemu) = UnixStream::pair().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| serve(source, &memory, served, &Nobody).unwrap());
                let mut begin = [0; 4];
                qemu.read_exact(&mut begin).unwrap();
                assert_eq!(&begin, b"QEVM");
                drop(qemu);
            });
        }
    }
}
