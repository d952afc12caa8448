//! The migration thread: sends the guest's state away by the mode that the capabilities say.
//!
//! ```text
//!  pause-before-switchover   active, pages -> STOP, pre-switchover .. continued -> device, completed (postmigrate)
//!  background-snapshot       active, a page .. the rest once the guest runs -> completed
//!  neither                   active, pages -> completed (postmigrate)
//! ```
//! The other way round it takes whatever comes until the sender closes, and its guest then waits for `cont`.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::state::{State, Told};
use super::{Bend, Inner, Shared, stream};

/// How long a background snapshot waits for its guest to run before it sends the rest: a paused one never does.
const UNTIL_IT_RUNS: Duration = Duration::from_millis(100);
/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(60);

/// Starts it.
pub(super) fn begin(shared: &Arc<Shared>, socket: &Path) {
    let (shared, socket) = (Arc::clone(shared), socket.to_owned());
    thread::spawn(move || {
        let sent = send(&shared, &socket);
        let mut inner = shared.lock();
        if inner.dead {
            return;
        }
        let mut events = Vec::new();
        finish(&mut inner.state, sent, &mut events);
        shared.tell(&mut inner, events);
    });
}

/// Waits for a state on a socket.
pub(super) fn listen(shared: &Arc<Shared>, socket: &Path) -> io::Result<()> {
    // As QEMU does with what an earlier one has left.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let came = receive(&shared, &listener, &mut bytes);
        let mut inner = shared.lock();
        inner.received = bytes;
        let mut events = Vec::new();
        if came.is_ok() && !inner.dead && inner.state.setup.loads {
            inner.state.run_state = "paused";
            inner.state.set_migration("completed", &mut events);
        } else if !inner.dead {
            // QEMU does not live on with half a machine.
            inner.state.set_migration("failed", &mut events);
            shared.tell(&mut inner, events);
            drop(inner);
            return shared.die();
        }
        shared.tell(&mut inner, events);
    });
    Ok(())
}

fn receive(shared: &Shared, listener: &UnixListener, bytes: &mut Vec<u8>) -> io::Result<()> {
    accept(shared, listener)?.read_to_end(bytes).map(drop)
}

/// Waits for a source, as long as the fake lives.
pub(super) fn accept(shared: &Shared, listener: &UnixListener) -> io::Result<UnixStream> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return stream.set_nonblocking(false).map(|()| stream),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if shared.wait(Duration::from_millis(1), |inner| inner.dead) => {
                return Err(io::Error::other("dead"));
            }
            Err(_) => {}
        }
    }
}

/// The state after a migration that has ended, well or not.
fn finish(state: &mut State, sent: io::Result<()>, events: &mut Vec<Told>) {
    let background = state.has("background-snapshot");
    match sent {
        Ok(()) if state.migration != "cancelling" => {
            if !background {
                state.stop("postmigrate", events);
            }
            state.set_migration("completed", events);
        }
        sent => {
            state.why = sent.err().map(|error| error.to_string());
            let over = if state.migration == "cancelling" { "cancelled" } else { "failed" };
            state.set_migration(over, events);
            if !background && state.run_state == "finish-migrate" {
                // QEMU's own: a guest that it stopped for a migration that failed goes on.
                state.resume(events);
            }
        }
    }
}

fn send(shared: &Shared, socket: &Path) -> io::Result<()> {
    let mut out = UnixStream::connect(socket)?;
    // The state of the devices is that of the moment at which it begins.
    let (pages, run_state, background, bend) = {
        let mut inner = shared.lock();
        let state = &inner.state;
        let found = (state.setup.pages, state.run_state, state.has("background-snapshot"), state.setup.bend);
        change(shared, &mut inner, |state, events| state.set_migration("active", events))?;
        found
    };
    out.write_all(&stream::head(pages))?;
    for number in 0..pages {
        out.write_all(&stream::page(number, 1))?;
        if background && number == 0 {
            shared.wait(UNTIL_IT_RUNS, |inner| inner.dead || inner.state.run_state == "running");
        }
        cancelled(&shared.lock())?;
        if bend == Some(Bend::Cut) && number == pages / 2 {
            return Err(io::Error::other("cut off"));
        }
    }
    if let Some(page) = stream::bent_page(pages, bend) {
        out.write_all(&page)?;
    }
    if background {
        return out.write_all(&stream::bent_tail(run_state, bend));
    }
    let (restless, switchover) = {
        let state = &shared.lock().state;
        (state.setup.restless, state.has("pause-before-switchover"))
    };
    if restless && switchover {
        shared.wait(FOR_EVER, |inner| inner.dead || inner.state.migration == "cancelling");
        cancelled(&shared.lock())?;
    }
    if switchover {
        let mut inner = shared.lock();
        change(shared, &mut inner, |state, events| {
            state.stop("finish-migrate", events);
            state.set_migration("pre-switchover", events);
        })?;
        drop(inner);
        shared.wait(FOR_EVER, |inner| inner.dead || inner.state.migration != "pre-switchover");
        cancelled(&shared.lock())?;
    }
    // A page that was written while the others were sent.
    out.write_all(&stream::page(0, 2))?;
    out.write_all(&stream::bent_tail(run_state, bend))
}

/// Changes the state, if nobody cancelled meanwhile.
fn change(
    shared: &Shared,
    inner: &mut Inner,
    how: impl FnOnce(&mut State, &mut Vec<Told>),
) -> io::Result<()> {
    cancelled(inner)?;
    let mut events = Vec::new();
    how(&mut inner.state, &mut events);
    shared.tell(inner, events);
    Ok(())
}

fn cancelled(inner: &Inner) -> io::Result<()> {
    if inner.dead || inner.state.migration == "cancelling" {
        return Err(io::Error::other("cancelled"));
    }
    Ok(())
}
