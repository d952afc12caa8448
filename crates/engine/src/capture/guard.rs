//! The guard of a pause: a process of its own that lets the guest go on if the capturing process dies.
//!
//! Nothing in QEMU resumes a guest that was stopped for somebody who is gone. So before a pause, vmrewind starts the
//! same binary as a guard, on a QMP socket of its own, with a pipe between them:
//!
//! ```text
//!  captor                         guard
//!    start  ------------------->  connects to QMP, prints "ready"
//!    'A'    ------------------->  armed
//!    ... pause ...                waits on the pipe
//!    'D'    ------------------->  ends, having done nothing
//!    (death: the pipe closes) ->  cancels the migration, `cont` until the guest runs
//! ```
//! It is only armed where the guest ran before. It is the leader of a session of its own, so that what kills the
//! captor's process group or terminal does not reach it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::host::Host;
use crate::monitor::{Monitor, is_running};
use crate::vm::run_folder::socket;
use crate::vm::session::own_session;

/// The hidden subcommand under which the helper program runs [`watch`].
pub const GUARD_COMMAND: &str = "__pause-guard";

const ARM: u8 = b'A';
const DISARM: u8 = b'D';
/// How long the guard tries to let the guest go.
const RESCUE_PATIENCE: Duration = Duration::from_secs(60);
/// How long the guest must be seen running: a `stop` of the dead captor can still be in QEMU's queue.
const CALM: Duration = Duration::from_millis(1500);

/// A guard that watches over this process.
pub(crate) struct Guard {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts a guard for the VM whose sockets are in `run`; it watches QEMU but does nothing before [`Guard::arm`].
    pub(crate) fn start(host: &Host, run: &Path) -> Result<Self> {
        let doing = || "cannot start the guard process that resumes the guest if vmrewind dies".to_owned();
        let mut command = Command::new(&host.helper);
        command
            .arg(GUARD_COMMAND)
            .arg(run)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = own_session(&mut command).spawn().context(doing)?;
        let pipe = child.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let guard = Self { child, pipe };
        if line.trim() == "ready" { Ok(guard) } else { Err(Error::failed(doing())) }
    }

    /// From now on this process's death lets the guest go.
    pub(crate) fn arm(&mut self) -> Result<()> {
        self.tell(ARM)
    }

    /// Ends the guard; the guest is in its right state.
    pub(crate) fn disarm(mut self) {
        let _ = self.tell(DISARM);
    }

    fn tell(&mut self, word: u8) -> Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        pipe.write_all(&[word]).context(|| "the guard process is gone".into())
    }
}

impl Drop for Guard {
    /// Closes the pipe. An armed guard that was not disarmed then looks after the guest.
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.child.wait();
    }
}

/// What the guard process does; returns when it is no longer needed.
///
/// # Errors
/// `Failed` where QEMU can't be reached, or the guest can't be made to run.
pub fn watch(run: &Path) -> Result<()> {
    let monitor = Monitor::connect(run, socket::GUARD)?;
    let mut output = std::io::stdout();
    let _ = writeln!(output, "ready").and_then(|()| output.flush());
    if wait_for_the_end_of_the_captor() { rescue(&monitor) } else { Ok(()) }
}

/// Reads the pipe. Returns whether the captor ended while the guard was armed.
fn wait_for_the_end_of_the_captor() -> bool {
    let mut armed = false;
    let mut input = std::io::stdin().lock();
    let mut word = [0_u8; 1];
    loop {
        match input.read(&mut word) {
            Ok(0) => return armed,
            Ok(_) if word[0] == ARM => armed = true,
            Ok(_) if word[0] == DISARM => return false,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return armed,
        }
    }
}

/// Cancels what migration there is and lets the guest run, until it has been seen running for a while.
fn rescue(monitor: &Monitor) -> Result<()> {
    let deadline = Instant::now() + RESCUE_PATIENCE;
    let mut running_since: Option<Instant> = None;
    loop {
        let _ = monitor.cancel_migration();
        if is_running(&monitor.status()?) {
            let since = *running_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= CALM {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        running_since = None;
        let resumed = monitor.cont();
        if Instant::now() >= deadline {
            return resumed;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
