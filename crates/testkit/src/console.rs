//! The host's end of a guest's serial line: every line with its time, commands and their answers.
//!
//! A reader thread keeps the socket drained (a guest whose console is not read stands still) and connects again
//! whenever the socket comes back, so one [`Console`] sees a VM through stops, starts and restores. The socket serves
//! one client at a time, and what a guest prints while no client is there is lost: drop the console to let another in.
//!
//! ```text
//! connecting --socket there--> reading --QEMU gone--> connecting      dropped: the thread ends
//! ```

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::report::{Ready, Tick, Verify};

const RECONNECT_EVERY: Duration = Duration::from_millis(5);

/// A position in what a guest has printed; see [`Console::mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

impl Mark {
    /// Before the first line.
    pub const START: Self = Self(0);
}

/// A client of a guest's serial socket.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<(Instant, String)>,
    /// How many lines there were when each connection began.
    connections: Vec<usize>,
    connection: Option<UnixStream>,
    dropped: bool,
}

impl Console {
    /// Begins to read the socket at `socket`, which need not be there yet.
    pub fn attach(socket: &Path) -> Self {
        let state = Mutex::new(State::default());
        let shared = Arc::new(Shared { socket: socket.into(), state, changed: Condvar::new() });
        let reader = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.read_until_dropped()
        });
        Self { shared, reader: Some(reader) }
    }

    /// All lines until now, with the time each one came.
    pub fn lines(&self) -> Vec<(Instant, String)> {
        self.shared.lock().lines.clone()
    }

    /// The position after the last line until now.
    pub fn mark(&self) -> Mark {
        Mark(self.shared.lock().lines.len())
    }

    /// How many connections there have been: one for each QEMU that was started.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections.len()
    }

    /// Waits for a connection after the first `known` ones, and returns where its lines begin: what comes after that is
    /// of another QEMU than what came before.
    pub fn wait_connected(&self, known: usize, timeout: Duration) -> Result<Mark> {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            if let Some(lines) = state.connections.get(known) {
                return Ok(Mark(*lines));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(state.timeout("connection to a new QEMU", timeout));
            }
            state = self.shared.wait(state, left);
        }
    }

    /// Waits for a line after `since` of which `matcher` makes something, and returns that.
    ///
    /// Fails with [`Error::Timeout`], saying `what` was waited for and what came instead.
    pub fn wait_for<T>(
        &self,
        what: &str,
        since: Mark,
        timeout: Duration,
        mut matcher: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        let mut next = since.0;
        loop {
            while let Some((_, line)) = state.lines.get(next) {
                if let Some(found) = matcher(line) {
                    return Ok(found);
                }
                next += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(state.timeout(what, timeout));
            }
            state = self.shared.wait(state, left);
        }
    }

    /// Sends one command, waiting up to 10 s for a connection.
    pub fn send(&self, command: &str) -> Result<()> {
        let patience = Duration::from_secs(10);
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        loop {
            if let Some(connection) = &mut state.connection {
                let sent = connection.write_all(format!("{command}\n").as_bytes());
                return sent.map_err(Error::io("write to", &self.shared.socket));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(state.timeout("connection to the console", patience));
            }
            state = self.shared.wait(state, left);
        }
    }

    /// Sends a command and waits for the line that begins with `prefix`; returns the line.
    pub fn ask(&self, command: &str, prefix: &str, timeout: Duration) -> Result<String> {
        let since = self.mark();
        self.send(command)?;
        let what = format!("answer {prefix} to {command}");
        self.wait_for(&what, since, timeout, |line| line.starts_with(prefix).then(|| line.to_owned()))
    }

    /// Waits until the guest ticks, and returns what it had at start.
    pub fn wait_ready(&self, timeout: Duration) -> Result<Ready> {
        self.wait_tick(Mark::START, timeout)?;
        let line = self.ask("ready", "READY ", timeout)?;
        Ready::parse(&line).ok_or_else(|| Error::Answer { to: "ready".into(), answer: line })
    }

    /// Waits for the first tick after `since`.
    pub fn wait_tick(&self, since: Mark, timeout: Duration) -> Result<Tick> {
        self.wait_for("tick", since, timeout, Tick::parse)
    }

    /// The first tick after `since`, waited for, and when it came.
    pub fn first_tick(&self, since: Mark, timeout: Duration) -> Result<(Instant, Tick)> {
        let tick = self.wait_tick(since, timeout)?;
        let state = self.shared.lock();
        let mut lines = state.lines.iter().skip(since.0);
        // A line that was found a moment ago is still there: lines are never removed.
        let at = lines.find(|(_, line)| Tick::parse(line).is_some()).map_or_else(Instant::now, |(at, _)| *at);
        Ok((at, tick))
    }

    /// Has the guest check its memory and disks.
    pub fn verify(&self, timeout: Duration) -> Result<Verify> {
        let line = self.ask("verify", "VERIFY ", timeout)?;
        Verify::parse(&line).ok_or_else(|| Error::Answer { to: "verify".into(), answer: line })
    }

    /// All ticks until now, with the time each one came.
    pub fn ticks(&self) -> Vec<(Instant, Tick)> {
        let state = self.shared.lock();
        state.lines.iter().filter_map(|(at, line)| Some((*at, Tick::parse(line)?))).collect()
    }

    /// The last tick until now.
    pub fn last_tick(&self) -> Option<Tick> {
        self.shared.lock().lines.iter().rev().find_map(|(_, line)| Tick::parse(line))
    }

    /// The longest time between two ticks that follow each other, both after `since`; zero with fewer than two.
    pub fn max_gap(&self, since: Mark) -> Duration {
        let state = self.shared.lock();
        let lines = state.lines.iter().skip(since.0);
        let times: Vec<_> =
            lines.filter(|(_, line)| Tick::parse(line).is_some()).map(|(at, _)| *at).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.dropped = true;
            if let Some(connection) = &state.connection {
                // A socket that is already closed has woken the reader as well.
                let _ = connection.shutdown(Shutdown::Both);
            }
            self.shared.changed.notify_all();
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, timeout: Duration) -> MutexGuard<'a, State> {
        self.changed
            .wait_timeout(state, timeout)
            .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state)
    }

    fn read_until_dropped(&self) {
        loop {
            if let Ok(connection) = UnixStream::connect(self.real_path()) {
                self.read_connection(connection);
            }
            let state = self.lock();
            if state.dropped || self.wait(state, RECONNECT_EVERY).dropped {
                return;
            }
        }
    }

    /// The socket with links on the way to it resolved: a link can stand for a path that is too long for a socket.
    fn real_path(&self) -> PathBuf {
        let folder = self.socket.parent().and_then(|folder| folder.canonicalize().ok());
        let real = folder.zip(self.socket.file_name()).map(|(folder, name)| folder.join(name));
        real.unwrap_or_else(|| self.socket.clone())
    }

    fn read_connection(&self, mut connection: UnixStream) {
        {
            let mut state = self.lock();
            state.connection = connection.try_clone().ok();
            let lines = state.lines.len();
            state.connections.push(lines);
            if state.dropped {
                return;
            }
            self.changed.notify_all();
        }
        let mut unfinished = Vec::new();
        let mut buffer = [0; 16 << 10];
        while let Ok(length @ 1..) = connection.read(&mut buffer) {
            let now = Instant::now();
            unfinished.extend_from_slice(&buffer[..length]);
            let lines = take_lines(&mut unfinished);
            self.lock().lines.extend(lines.into_iter().map(|line| (now, line)));
            self.changed.notify_all();
        }
        self.lock().connection = None;
    }
}

impl State {
    fn timeout(&self, what: &str, waited: Duration) -> Error {
        const SHOWN: usize = 5;
        let shown = self.lines.iter().skip(self.lines.len().saturating_sub(SHOWN));
        let last = shown.map(|(_, line)| format!("{line:?}")).collect::<Vec<_>>().join(", ");
        Error::Timeout { what: what.to_owned(), waited, seen: self.lines.len(), last }
    }
}

/// Takes the whole lines out of `bytes` and leaves what has no end yet.
fn take_lines(bytes: &mut Vec<u8>) -> Vec<String> {
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
    let rest = bytes.split_off(end + 1);
    let whole = std::mem::replace(bytes, rest);
    String::from_utf8_lossy(&whole).lines().map(|line| line.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    const SOON: Duration = Duration::from_secs(10);

    /// Guards measuring a restore: the new QEMU's console must be followed without the test doing anything.
    #[test]
    fn follows_a_socket_that_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("c");
        let console = Console::attach(&socket);
        let first = UnixListener::bind(&socket).unwrap();
        let mut before = first.accept().unwrap().0;
        // Gone before the connection ends: nobody can reach it once more.
        drop(first);
        std::fs::remove_file(&socket).unwrap();
        before.write_all(b"T 1 0 0\r\nT 2 0 0\r\nT 3").unwrap();
        drop(before);
        let second = UnixListener::bind(&socket).unwrap();
        let mut guest = second.accept().unwrap().0;
        guest.write_all(b"T 3 1 1\r\n").unwrap();
        let third =
            console.wait_for("tick 3", Mark::START, SOON, |line| Tick::parse(line).filter(|t| t.tick == 3));
        assert_eq!(third.unwrap(), Tick { tick: 3, done: 1, in_flight: 1 });
        let ticks: Vec<_> = console.ticks().iter().map(|(_, tick)| tick.tick).collect();
        assert_eq!(ticks, [1, 2, 3], "the unfinished line is not counted");
        let second = console.wait_connected(1, SOON).unwrap();
        let tick = console.wait_tick(second, SOON).unwrap();
        assert_eq!((tick.tick, console.connections()), (3, 2), "the lines of each connection are known");

        console.send("verify").unwrap();
        let mut command = [0; 7];
        guest.read_exact(&mut command).unwrap();
        assert_eq!(&command, b"verify\n");
    }

    /// Guards error reports: a test that waits in vain must show what the guest said instead.
    #[test]
    fn a_timeout_tells_what_came_instead() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("c");
        let listener = UnixListener::bind(&socket).unwrap();
        let console = Console::attach(&socket);
        listener.accept().unwrap().0.write_all(b"Kernel panic\n").unwrap();
        console.wait_for("panic", Mark::START, SOON, |line| line.contains("panic").then_some(())).unwrap();
        let error = console.wait_tick(Mark::START, Duration::from_millis(1)).unwrap_err().to_string();
        assert!(error.contains("no tick") && error.contains("Kernel panic"), "{error}");
    }
}
