//! `vmrewind vm console`: the serial console of a VM on this terminal.
//!
//! ```text
//!  keyboard -> stdin --(Ctrl-] detaches)--> socket -> guest
//!  screen  <- stdout <--------------------- socket <- guest
//! ```
//! The terminal is raw while attached and restored on every way out: detach, end of the VM, signals, errors, panics.
//! Piped standard input is sent as it is; after its end the console stays until the guest was quiet for a moment.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::Serialize;
use vmrewind_engine::{Cancel, Error};

use crate::command_error::CommandError;
use crate::session::{Session, shown};

/// Arguments of `vm console`.
#[derive(Debug, Args)]
#[command(after_help = "\
Ctrl-] detaches; the VM runs on. With --json the socket's path is printed and nothing is attached.

Examples:
  vmrewind vm console web
  echo reboot | vmrewind vm console web")]
pub(crate) struct ConsoleArguments {
    /// Name of the VM
    #[arg(value_name = "NAME")]
    name: String,
}

/// Ctrl-].
const DETACH: u8 = 0x1d;
/// How long the guest must be quiet after piped input has ended.
const QUIET: Duration = Duration::from_millis(500);
/// How long the console stays at most after piped input has ended.
const LINGER: Duration = Duration::from_secs(5);
/// How often a waiting console looks at signals and clocks.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

#[derive(Serialize)]
struct Found<'a> {
    vm: &'a str,
    console: String,
}

/// Attaches to the console until the user detaches.
///
/// # Errors
/// As the engine's `console`; `Failed` where the socket or the terminal fails.
pub(crate) fn run(session: &Session, arguments: &ConsoleArguments) -> Result<(), CommandError> {
    let name = arguments.name.parse()?;
    let path = session.operation()?.console(&name)?.0;
    if session.output.is_json() {
        session.output.result(&Found { vm: name.as_str(), console: shown(&path) }, String::new)?;
        return Ok(());
    }
    let socket = connect(&path)?;
    let terminal = io::stdin().is_terminal();
    if terminal {
        let _ = write!(io::stderr(), "attached to the console of '{name}'; Ctrl-] detaches\r\n");
    }
    let raw = RawTerminal::enter(terminal)?;
    let end = Console { socket: &socket, cancel: &session.cancel, terminal }.carry();
    drop(raw);
    let words = match end.map_err(|error| broken(&path, error))? {
        End::Detached => "detached",
        End::Closed => "the VM closed the console",
        End::Interrupted => return Err(Error::interrupted("attached to the console").into()),
    };
    if terminal {
        let _ = writeln!(io::stderr(), "\r\n{words}");
    }
    Ok(())
}

fn connect(path: &Path) -> Result<UnixStream, CommandError> {
    UnixStream::connect(path).map_err(|error| {
        CommandError::advised(
            Error::failed(format!("cannot connect to the console '{}'", path.display())).because(error),
            "QEMU serves one client at a time: is another console attached?",
        )
    })
}

fn broken(path: &Path, error: io::Error) -> CommandError {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return CommandError::Output(error);
    }
    Error::failed(format!("the console '{}' broke", path.display())).because(error).into()
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Detached,
    Closed,
    Interrupted,
}

/// An attached console.
struct Console<'a> {
    socket: &'a UnixStream,
    cancel: &'a Cancel,
    terminal: bool,
}

impl Console<'_> {
    /// Carries bytes both ways until one side ends.
    fn carry(&self) -> io::Result<End> {
        let stdin = io::stdin();
        let mut input_ended: Option<Instant> = None;
        let mut last_output = Instant::now();
        loop {
            if self.cancel.is_cancelled() {
                return Ok(End::Interrupted);
            }
            if input_ended.is_some_and(|at| at.elapsed() > LINGER || at.max(last_output).elapsed() > QUIET) {
                return Ok(End::Detached);
            }
            let mut sources = vec![PollFd::new(self.socket, PollFlags::IN)];
            if input_ended.is_none() {
                sources.push(PollFd::new(&stdin, PollFlags::IN));
            }
            match poll(&mut sources, Some(&TICK)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let ready: Vec<bool> = sources.iter().map(|source| !source.revents().is_empty()).collect();
            if ready.first() == Some(&true) {
                last_output = Instant::now();
                if !self.show()? {
                    return Ok(End::Closed);
                }
            }
            if ready.get(1) == Some(&true) {
                match self.send()? {
                    Sent::Bytes => {}
                    Sent::Ended => input_ended = Some(Instant::now()),
                    Sent::Detach => return Ok(End::Detached),
                }
            }
        }
    }

    /// Copies what the guest wrote. Returns whether there can be more.
    fn show(&self) -> io::Result<bool> {
        let mut bytes = [0_u8; 4096];
        let mut socket = self.socket;
        let count = match socket.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            count => count?,
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(&bytes[..count])?;
        stdout.flush()?;
        Ok(count > 0)
    }

    /// Copies what the user typed. It is read past the buffer of `io::stdin`, which `poll` does not know of.
    fn send(&self) -> io::Result<Sent> {
        let mut bytes = [0_u8; 1024];
        let count = match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(Sent::Bytes),
            // The terminal is gone.
            Err(Errno::IO) => 0,
            Err(error) => return Err(error.into()),
        };
        let typed = &bytes[..count];
        let detach = if self.terminal { typed.iter().position(|byte| *byte == DETACH) } else { None };
        let mut socket = self.socket;
        socket.write_all(&typed[..detach.unwrap_or(count)]).or_else(closed_is_seen_by_reading)?;
        Ok(match detach {
            Some(_) => Sent::Detach,
            None if count == 0 => Sent::Ended,
            None => Sent::Bytes,
        })
    }
}

/// A VM that ended is noticed where its output ends; a broken pipe here would look like one of standard output.
fn closed_is_seen_by_reading(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(()),
        _ => Err(error),
    }
}

/// What became of the input.
enum Sent {
    Bytes,
    Ended,
    Detach,
}

/// A terminal in raw mode; dropping it restores what it was.
struct RawTerminal {
    before: Option<Termios>,
}

impl RawTerminal {
    /// Makes standard input raw where it is a terminal.
    fn enter(terminal: bool) -> Result<Self, Error> {
        if !terminal {
            return Ok(Self { before: None });
        }
        let cannot =
            |error: Errno| Error::failed("cannot set up the terminal").because(io::Error::from(error));
        let before = tcgetattr(rustix::stdio::stdin()).map_err(cannot)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).map_err(cannot)?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}
