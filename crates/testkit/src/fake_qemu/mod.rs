//! A scripted peer on a unix socket, for what a real QEMU or guest agent can not be made to do.
//!
//! A script is a list of [`Step`]s, played once, in order, to the first client that connects: half a line, a reply with
//! another id, a close in the middle, a flood of events, no answer at all. It speaks JSON lines and knows nothing of
//! the client under test, so that a fault of the client can not hide in code they share.
//!
//! The script runs in a thread of its own. It ends with its last step, which closes the connection; when the client
//! closes; or when the [`FakeQemu`] is dropped, whatever it waits for.

pub mod agent;
pub mod machine;
mod play;

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use play::Player;

/// One thing that the peer does.
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends QEMU 10.0.2's greeting.
    Greet,
    /// Greets, expects `qmp_capabilities` and agrees.
    Negotiate,
    /// Reads a request; anything but this command ends the script with an error.
    Expect(&'static str),
    /// Answers the last request, by its id, with success.
    Return(Value),
    /// Answers the last request, by its id, with an error.
    Fail {
        /// The error's class.
        class: &'static str,
        /// Its description.
        desc: &'static str,
    },
    /// Sends an event, stamped with its number in the script as seconds.
    Event {
        /// Its name.
        name: &'static str,
        /// Its data.
        data: Value,
    },
    /// Sends this many events `FLOOD`, with data `{"number": 0..}`.
    Flood(usize),
    /// Sends bytes as they are.
    Send(Vec<u8>),
    /// Sends bytes one at a time.
    Dribble(Vec<u8>),
    /// Does nothing for a while.
    Pause(Duration),
    /// Reads and ignores everything until the client closes.
    Silence,
}

/// Shorthand for [`Step::Send`] of a line.
pub fn line(message: &Value) -> Step {
    Step::Send(format!("{message}\r\n").into_bytes())
}

/// A running script; dropping it ends it.
#[derive(Debug)]
pub struct FakeQemu {
    socket: PathBuf,
    /// The folder of a socket of its own.
    _folder: Option<TempDir>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Vec<Value>>>>,
}

impl FakeQemu {
    /// Listens on a socket of its own and plays the script to the first client.
    ///
    /// # Errors
    /// When the folder, the socket or the thread cannot be made.
    pub fn play(script: Vec<Step>) -> io::Result<Self> {
        let folder = own_folder()?;
        let socket = socket_in(folder.path());
        let listener = UnixListener::bind(&socket)?;
        Self::spawn(socket, Some(folder), script, move || Ok(listener))
    }

    /// Like [`FakeQemu::play`], but the socket appears only after `delay`, as with a QEMU that is starting.
    ///
    /// # Errors
    /// When the folder or the thread cannot be made.
    pub fn play_later(delay: Duration, script: Vec<Step>) -> io::Result<Self> {
        let folder = own_folder()?;
        let socket = socket_in(folder.path());
        Self::spawn(socket.clone(), Some(folder), script, move || {
            thread::sleep(delay);
            UnixListener::bind(socket)
        })
    }

    /// The socket to connect to.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Waits for the end of the script and gives the requests that came, as JSON.
    ///
    /// # Errors
    /// What kept the script from being played to its end: an unexpected command, the client gone too early.
    pub fn finish(mut self) -> io::Result<Vec<Value>> {
        let thread = self.thread.take().ok_or_else(|| io::Error::other("finished twice"))?;
        thread.join().map_err(|_| io::Error::other("the script panicked"))?
    }

    fn spawn(
        socket: PathBuf,
        folder: Option<TempDir>,
        script: Vec<Step>,
        listen: impl FnOnce() -> io::Result<UnixListener> + Send + 'static,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("fake-qemu".to_owned())
            .spawn(move || Player::accept(&listen()?, stopped)?.play(script))?;
        Ok(Self { socket, _folder: folder, stop, thread: Some(thread) })
    }
}

impl Drop for FakeQemu {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // The outcome is for those who ask by `finish`.
            let _ = thread.join();
        }
    }
}

/// The greeting of QEMU 10.0.2.
pub fn greeting() -> Value {
    json!({"QMP": {
        "version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "fake"},
        "capabilities": ["oob"],
    }})
}

fn own_folder() -> io::Result<TempDir> {
    tempfile::Builder::new().prefix("fake-qemu").tempdir()
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("qmp.sock")
}
