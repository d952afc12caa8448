//! A command in a process group of its own, bounded in time, that nothing of is left behind where it fails.
//!
//! ```text
//!  started --ends--> status or signal        stragglers of its group are killed unless it succeeded
//!     |--time is up, or the user asks to stop--> SIGTERM to the group --ten seconds--> SIGKILL
//!     '--stopped (Ctrl-Z)--> vmrewind stops too, and goes on with it
//! ```
//! The leader is not reaped before its group was signalled, so that the group's number can't be another's by then.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use vmrewind_engine::Cancel;

use super::terminal::Terminal;
use crate::signals;

/// How long a command may take to end after SIGTERM.
const TERM_PATIENCE: Duration = Duration::from_secs(10);
/// How often a waiting vmrewind looks at signals and clocks.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What is to be run.
pub(super) struct Job<'a> {
    /// Program and arguments.
    pub(super) words: &'a [OsString],
    /// Added to the environment.
    pub(super) environment: &'a [(String, OsString)],
    /// How long it may take.
    pub(super) timeout: Option<Duration>,
    /// Whether the user asks to stop.
    pub(super) cancel: &'a Cancel,
    /// Whether our standard output is for something else.
    pub(super) stdout_to_stderr: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With an exit status.
    Status(i32),
    /// By a signal.
    Signal(i32),
    /// Ended by us, as its time was up.
    TimedOut,
    /// Ended by us, as the user asked to stop.
    Interrupted,
}

impl End {
    /// The exit status that tells it, as shells and `timeout` do.
    pub(super) fn exit_status(self) -> u8 {
        match self {
            Self::Status(status) => u8::try_from(status).unwrap_or(1),
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::TimedOut => 124,
            Self::Interrupted => 130,
        }
    }
}

impl Job<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// Where it can't be started: nothing has happened then.
    pub(super) fn run(&self) -> io::Result<End> {
        let terminal = Terminal::ours();
        let mut running = Running { child: self.start()?, terminal };
        let end = running.group().and_then(|group| self.wait(&running, group));
        let end = end.unwrap_or_else(|_| running.end_without_watching());
        if end != End::Status(0) {
            running.signal(Signal::KILL);
        }
        // It has ended: this takes its status from the kernel, which fails only where that was taken already.
        let _ = running.child.wait();
        Ok(end)
    }

    fn start(&self) -> io::Result<Child> {
        let (program, arguments) =
            self.words.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let mut command = Command::new(program);
        command.args(arguments).process_group(0);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if self.stdout_to_stderr {
            command.stdout(io::stderr().as_fd().try_clone_to_owned()?);
        }
        signals::spawn(&mut command)
    }

    fn wait(&self, running: &Running, group: Pid) -> io::Result<End> {
        running.give_terminal(group);
        let handle = pidfd_open(group, PidfdFlags::empty())?;
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let ended = has_ended(&handle, TICK);
            // Asked first: one who presses Ctrl-C does not want the success of a command that ends by it.
            if self.cancel.is_cancelled() {
                return Ok(running.terminate(&handle, End::Interrupted));
            }
            if ended {
                return Ok(running.end(group));
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(running.terminate(&handle, End::TimedOut));
            }
            running.follow_a_stop(group);
        }
    }
}

/// A command under way. When this is dropped the terminal is ours again.
struct Running {
    child: Child,
    terminal: Option<Terminal>,
}

impl Running {
    fn group(&self) -> io::Result<Pid> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    fn give_terminal(&self, group: Pid) {
        if let Some(terminal) = &self.terminal {
            terminal.give(group);
            // It can have asked for input before, and been stopped for that.
            self.signal(Signal::CONT);
        }
    }

    /// How it ended, which it has.
    fn end(&self, group: Pid) -> End {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(group), options) {
            // Ctrl-C on a terminal that was the command's reached only that.
            Ok(Some(status)) if self.terminal.is_some() && status.terminating_signal() == Some(2) => {
                End::Interrupted
            }
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => End::Status(status),
                (None, signal) => End::Signal(signal.unwrap_or(0)),
            },
            // It can't be told: not a success.
            Ok(None) | Err(_) => End::Status(1),
        }
    }

    /// Ends the group: asks first.
    fn terminate(&self, handle: &OwnedFd, end: End) -> End {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        let deadline = Instant::now() + TERM_PATIENCE;
        while !has_ended(handle, TICK) && Instant::now() < deadline {}
        self.signal(Signal::KILL);
        while !has_ended(handle, TICK) {}
        end
    }

    /// Where the kernel does not let us watch it: it is ended at once.
    fn end_without_watching(&mut self) -> End {
        self.signal(Signal::KILL);
        End::Status(1)
    }

    /// Where the command was stopped on our terminal, stops with it; goes on with it.
    fn follow_a_stop(&self, group: Pid) {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        if let (Some(terminal), Ok(Some(_))) = (&self.terminal, waitid(WaitId::Pid(group), options)) {
            terminal.stop_with(group);
            self.signal(Signal::CONT);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Ok(group) = self.group() {
            // It fails only where nobody is left in the group.
            let _ = kill_process_group(group, signal);
        }
    }
}

/// Waits at most `wait` for the process's end.
fn has_ended(handle: &OwnedFd, wait: Timespec) -> bool {
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    poll(&mut fds, Some(&wait)).is_ok_and(|count| count > 0)
}
