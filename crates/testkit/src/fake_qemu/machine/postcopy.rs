//! A lazy restore, from the side of the QEMU that is filled: [`Destination`] on a socket.
//!
//! ```text
//!  migrate-incoming --> setup --package--> postcopy-active, guest paused --all there--> completed
//!                         |                  |        ^
//!                 source gone: QEMU ends     '--------' source gone: postcopy-paused, migrate-recover, another one
//! ```
//! Its guest touches its last page first, and once it runs page after page from the first on.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::migrate::accept;
use super::{Inner, Shared, stream};
use crate::postcopy::{Block, Destination, PAGE_BYTES, Stage};

/// How often a wait for pages looks whether the guest has begun to run, or the fake is dead.
const TICK: Duration = Duration::from_millis(1);

/// Waits for a source on a socket.
pub(super) fn listen(shared: &Arc<Shared>, inner: &mut Inner, socket: &Path) -> io::Result<()> {
    // As QEMU does with what an earlier one has left.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    let block = Block { name: stream::BLOCK.into(), pages: inner.state.setup.pages };
    let host_pages = (rustix::param::page_size() / PAGE_BYTES) as u64;
    inner.destination = Some(Destination::new(vec![block], host_pages));
    begin(shared, listener)
}

/// Waits for another source, after the one before was lost.
pub(super) fn recover(shared: &Arc<Shared>, socket: &Path) -> Result<(), String> {
    let mut inner = shared.lock();
    if inner.state.migration != "postcopy-paused" {
        return Err("Migrate recover can only be run when postcopy is paused.".into());
    }
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).map_err(|error| error.to_string())?;
    begin(shared, listener).map_err(|error| error.to_string())?;
    change(shared, &mut inner, "postcopy-recover");
    Ok(())
}

fn begin(shared: &Arc<Shared>, listener: UnixListener) -> io::Result<()> {
    let shared = Arc::clone(shared);
    thread::Builder::new().name("fake-postcopy".into()).spawn(move || {
        let lost = accept(&shared, &listener).and_then(|stream| fill(&shared, stream));
        let mut inner = shared.lock();
        if inner.dead {
            return;
        }
        let ended = lost.is_ok();
        let loaded = inner.destination.as_ref().is_some_and(|destination| destination.runs);
        match (ended, loaded) {
            (true, _) => change(&shared, &mut inner, "completed"),
            (false, true) => {
                inner.destination.iter_mut().for_each(Destination::lose_source);
                change(&shared, &mut inner, "postcopy-paused");
            }
            (false, false) => {
                drop(inner);
                shared.die();
            }
        }
    })?;
    Ok(())
}

/// Takes what comes until all is there. An error where the source is gone before.
fn fill(shared: &Shared, mut stream: UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(TICK))?;
    let mut chunk = vec![0; 64 << 10];
    let mut guest = Guest::default();
    loop {
        let count = match stream.read(&mut chunk) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(error) => return Err(error),
        };
        let mut inner = shared.lock();
        if inner.dead {
            return Err(io::Error::other("dead"));
        }
        let stage = take(shared, &mut inner, &chunk[..count])?;
        if stage == Stage::Listening {
            guest.touch(&mut inner);
        }
        let answers =
            inner.destination.as_mut().map(|it| std::mem::take(&mut it.answers)).unwrap_or_default();
        drop(inner);
        stream.write_all(&answers)?;
        if stage == Stage::Ended {
            return Ok(());
        }
    }
}

/// Has the destination take bytes, and shows what became of it.
fn take(shared: &Shared, inner: &mut Inner, bytes: &[u8]) -> io::Result<Stage> {
    let Some(destination) = &mut inner.destination else { return Err(io::Error::other("nothing begun")) };
    let before = (destination.stage, destination.runs);
    // A stream that no source sends is a fault of whoever sends it, which the test has to hear of.
    match catch_unwind(AssertUnwindSafe(|| destination.receive(bytes))) {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => return nonsense(inner, format!("QEMU refuses: {refusal:?}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "a panic".into());
            return nonsense(inner, text);
        }
    }
    let (stage, runs) = (destination.stage, destination.runs);
    if runs && !before.1 {
        // It was started to wait for `cont`.
        inner.state.run_state = "paused";
    }
    if stage == Stage::Listening && before.0 != Stage::Listening {
        change(shared, inner, "postcopy-active");
    }
    Ok(stage)
}

fn nonsense<T>(inner: &mut Inner, text: String) -> io::Result<T> {
    inner.nonsense.get_or_insert(text);
    Err(ErrorKind::InvalidData.into())
}

fn change(shared: &Shared, inner: &mut Inner, migration: &'static str) {
    let mut events = Vec::new();
    inner.state.set_migration(migration, &mut events);
    shared.tell(inner, events);
}

/// Its processor, which waits for one page at a time.
#[derive(Default)]
struct Guest {
    waits_for: Option<u64>,
}

impl Guest {
    /// Has it go on until it needs a page that is not there.
    fn touch(&mut self, inner: &mut Inner) {
        let (pages, runs) = (inner.state.setup.pages, inner.state.run_state == "running");
        let Some(destination) = &mut inner.destination else { return };
        let is_there = |page: u64| destination.pages.contains_key(&(0, page));
        if self.waits_for.is_some_and(|page| !is_there(page)) {
            return;
        }
        let last = pages.checked_sub(1).filter(|page| !is_there(*page));
        let next = last.or_else(|| (0..pages).find(|page| runs && !is_there(*page)));
        if let Some(page) = next {
            destination.ask(0, page, self.waits_for.is_none());
        }
        self.waits_for = next;
    }
}
