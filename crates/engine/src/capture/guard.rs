//! The guard of a pause: a process of its own that lets the guest go if the process that stopped it dies.
//!
//! Nothing in QEMU resumes a guest that was stopped for somebody who is gone. So before a pause, vmrewind starts the
//! same binary as a guard, on a QMP socket of its own, with a pipe between them:
//!
//! ```text
//!  vmrewind                       guard
//!    start  ------------------->  connects to QMP, prints "ready"
//!    'P'    ------------------->  armed: the guest ran, and must run
//!    'C'    ------------------->  armed: the guest must run if the operation under way is decided
//!    'U'    ------------------->  armed: the guest must run if it is not
//!    ... pause ...                waits on the pipe
//!    'D'    ------------------->  ends, having done nothing
//!    (death: the pipe closes) ->  cancels the migration, `cont` until the guest runs
//! ```
//! It is the leader of a session of its own, so that what kills vmrewind's process group or terminal does not reach it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::end_vm::end_stopped_vm;
use crate::error::{Context as _, Error, Result};
use crate::monitor::{Monitor, stands_still_for_us};
use crate::patience::Patience;
use crate::record::journal::{Journal, Phase, RedoPlan, Succession};
use crate::root::VmFolder;
use crate::vm::local::LocalQemu;
use crate::vm::machine::Use;
use crate::vm::process::Process;
use crate::vm::reap::reap;
use crate::vm::run_folder::{self, socket};
use crate::vm::session::own_session;

/// The hidden subcommand under which the helper program runs [`watch`].
pub const GUARD_COMMAND: &str = "__pause-guard";

const DISARM: u8 = b'D';
/// How long the guard tries to let the guest go.
const RESCUE_PATIENCE: Duration = Duration::from_secs(60);
/// How long the guest must be seen running: a `stop` of the dead process can still be in QEMU's queue.
const CALM: Duration = Duration::from_millis(1500);

/// When an armed guard lets the guest go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// Whenever vmrewind dies: the guest ran before.
    Pause,
    /// If the journal says that the operation is decided: only then the guest may run.
    Commit,
    /// If the journal says that it is not: the guest stands still for another that is to take its place.
    Undecided,
}

impl Watch {
    fn word(self) -> u8 {
        match self {
            Self::Pause => b'P',
            Self::Commit => b'C',
            Self::Undecided => b'U',
        }
    }

    fn of(word: u8) -> Option<Self> {
        [Self::Pause, Self::Commit, Self::Undecided].into_iter().find(|watch| watch.word() == word)
    }
}

/// A guard that watches over this process.
pub(crate) struct Guard {
    child: Option<Child>,
    pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts a guard for the VM in `folder`; it does nothing before [`Guard::arm`].
    pub(crate) fn start(ctx: &Context, folder: &VmFolder) -> Result<Self> {
        let mut guard = Self::begin(ctx, folder)?;
        guard.wait_ready()?;
        Ok(guard)
    }

    /// Starts a guard without waiting until it is ready.
    pub(crate) fn begin(ctx: &Context, folder: &VmFolder) -> Result<Self> {
        let mut command = ctx.host.helper.command();
        command.arg(GUARD_COMMAND).arg(folder.path()).arg(folder.seat_word());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = own_session(&mut command).spawn().context(cannot_start)?;
        let pipe = child.stdin.take();
        Ok(Self { child: Some(child), pipe })
    }

    /// Waits until it is ready to be armed.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        let Some(stdout) = self.child.as_mut().and_then(|child| child.stdout.take()) else { return Ok(()) };
        let mut line = String::new();
        let _ = BufReader::new(stdout).read_line(&mut line);
        if line.trim() == "ready" { Ok(()) } else { Err(Error::failed(cannot_start())) }
    }

    /// From now on this process's death lets the guest go.
    pub(crate) fn arm(&mut self, watch: Watch) -> Result<()> {
        self.tell(watch.word())
    }

    /// Ends the guard; the guest is in its right state.
    pub(crate) fn disarm(mut self) {
        let _ = self.tell(DISARM);
        drop(self.pipe.take());
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    fn tell(&mut self, word: u8) -> Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        pipe.write_all(&[word]).context(|| "the guard process is gone".into())
    }
}

impl Drop for Guard {
    /// Leaves the guest to the guard, if it is armed: its pipe closes, and it does its duty by itself.
    fn drop(&mut self) {
        drop(self.pipe.take());
        if let Some(child) = self.child.take() {
            reap(child);
        }
    }
}

fn cannot_start() -> String {
    "cannot start the guard process that resumes the guest if vmrewind dies".into()
}

/// What the guard process does; `folder` is the VM's, `seat` that of its QEMU, or empty. Returns when it is no longer
/// needed.
///
/// # Errors
/// `Failed` where QEMU can't be reached, or the guest can't be made to run.
pub fn watch(folder: &Path, seat: &str) -> Result<()> {
    let folder = VmFolder::at(folder.to_owned()).at_seat_word(seat);
    let patience = Patience::default();
    let run = run_folder::existing(&folder).ok_or_else(|| Error::failed("the VM has no run folder"))?;
    let monitor = Monitor::connect(&run.join(socket::of(Use::Guard)), patience.answer, patience)?;
    let mut output = std::io::stdout();
    let _ = writeln!(output, "ready").and_then(|()| output.flush());
    match wait_for_the_end() {
        Some(Watch::Pause) => rescue(&monitor, true),
        // The migration that there can be here brings the guest's memory in.
        Some(Watch::Commit) => match decided(&folder) {
            Some(plan) => {
                // Where people look for the guest that is let go.
                let seat = plan.succession.as_ref().and_then(|succession| succession.seat);
                let _ = seat.map(|seat| run_folder::take_seat(&folder, seat));
                rescue(&monitor, false)?;
                // And whom they would still be connected to. The next command does the rest.
                plan.succession.map_or(Ok(()), |succession| retire(&folder, &succession))
            }
            None => Ok(()),
        },
        // A journal that can't be read may be decided: two guests must not run on one identity.
        Some(Watch::Undecided) if Journal::may_be_undone(&folder) => rescue(&monitor, false),
        _ => Ok(()),
    }
}

/// Reads the pipe until it closes. Returns what is to be done then.
fn wait_for_the_end() -> Option<Watch> {
    let mut armed = None;
    let mut input = std::io::stdin().lock();
    let mut word = [0_u8; 1];
    loop {
        match input.read(&mut word) {
            Ok(0) => return armed,
            Ok(_) if word[0] == DISARM => return None,
            Ok(_) => armed = Watch::of(word[0]).or(armed),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return armed,
        }
    }
}

/// What the operation under way has decided, if it has.
fn decided(folder: &VmFolder) -> Option<Box<RedoPlan>> {
    match Journal::load(folder) {
        Ok(Some(Journal { phase: Phase::Commit(plan), .. })) => Some(plan),
        _ => None,
    }
}

/// Ends the QEMU whose place was taken.
fn retire(folder: &VmFolder, succession: &Succession) -> Result<()> {
    let folder = folder.at_seat(succession.old_seat);
    let old = Process::find(&folder)?.filter(|process| process.mark == succession.old);
    let machines = LocalQemu { patience: Patience::default() };
    old.map_or(Ok(()), |old| end_stopped_vm(&*machines.machine(old), &folder))
}

/// Cancels what migration there is, if it is to be, and lets the guest run, until it has been seen running for a while.
/// A QEMU that does not answer is asked again: it can be busy for longer than a command waits.
fn rescue(monitor: &Monitor, cancel: bool) -> Result<()> {
    let deadline = Instant::now() + RESCUE_PATIENCE;
    let mut running_since: Option<Instant> = None;
    loop {
        if cancel {
            let _ = monitor.cancel_migration();
        }
        let state = monitor.status_if_said()?;
        if state.as_ref().is_some_and(|state| !stands_still_for_us(state)) {
            let since = *running_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= CALM {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        running_since = None;
        let resumed = match state {
            Some(_) => monitor.cont(),
            None => Err(Error::failed("QEMU does not say whether its guest runs")),
        };
        if Instant::now() >= deadline {
            return resumed;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests;
