//! The page server's processes: a supervisor in a session of its own, and its worker, started again where it dies.
//!
//! ```text
//!  vmrewind --pipe--> supervisor (lock) ----> worker (lock, pipe) ----> QEMU
//!                       worker died, QEMU lives: another one
//!                       record gone, failure in it, QEMU gone: over
//! ```
//! Both hold `lazy.lock`, one by inheritance: nobody else serves while either lives. Where both died the next command on
//! the VM finds the record without the lock and starts another supervisor.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::log::Log;
use super::record::{Failure, LazyRecord, ServerLock, Servers};
use super::worker::Worker;
use crate::error::{Context, Error, Result};
use crate::host::{Helper, Steps};
use crate::ids::VmName;
use crate::record::journal::ProcessMark;
use crate::root::file::Files;
use crate::root::{Root, VmFolder};
use crate::vm::process::Process;
use crate::vm::session::inherit;

/// The hidden subcommand under which the helper program runs [`serve_pages`].
pub const PAGES_COMMAND: &str = "__page-server";

/// A worker that lived shorter than this died early.
const EARLY: Duration = Duration::from_secs(1);
/// How many may die early in a row.
const EARLY_DEATHS: u32 = 30;

/// What a process of the page server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Supervises from the begin of a restore on.
    Begin,
    /// Supervises a restore whose servers died.
    Revive,
    /// Serves a QEMU that is still to be started.
    FirstWorker,
    /// Serves a QEMU in whatever state it is.
    Worker,
}

impl Role {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Revive => "revive",
            Self::FirstWorker => "first-worker",
            Self::Worker => "worker",
        }
    }

    fn of(word: &str) -> Option<Self> {
        [Self::Begin, Self::Revive, Self::FirstWorker, Self::Worker]
            .into_iter()
            .find(|role| role.word() == word)
    }
}

/// What a process of the page server is given.
pub struct PageServer {
    /// What for, as the process that started it said.
    pub role: String,
    /// The root folder.
    pub root: PathBuf,
    /// The VM.
    pub vm: String,
    /// The seat of the QEMU that is served (docs/format.md); empty for none.
    pub seat: String,
    /// The program that is started as `vmrewind __page-server ...` for the worker.
    pub program: Helper,
    /// Hears of steps, in tests.
    pub steps: Option<Arc<dyn Steps>>,
}

/// What the page server's processes do. Returns when they are no longer needed.
///
/// # Errors
/// `Usage` for words that no vmrewind gives; `Failed` where the VM's folder can't be worked on.
pub fn serve_pages(server: PageServer) -> Result<()> {
    let unknown = || Error::usage(format!("'{}' is no part of the page server", server.role.escape_debug()));
    let role = Role::of(&server.role).ok_or_else(unknown)?;
    let name: VmName = server.vm.parse()?;
    // One that was removed meanwhile is not made again.
    let root = Root::open_existing(&server.root, Files::of_this_host())?
        .ok_or_else(|| Error::not_found(format!("there is no root '{}'", server.root.display())))?;
    let folder = root.vm(&name);
    let folder = server.seat.parse().map_or_else(|_| folder.clone(), |number| folder.at_seat(number));
    match role {
        Role::Begin | Role::Revive => {
            Supervisor { root: server.root, name, folder, program: server.program }.run(role)
        }
        Role::FirstWorker | Role::Worker => match Worker::of(folder, server.steps) {
            Some(mut worker) => worker.work(&root, role == Role::FirstWorker),
            None => Ok(()),
        },
    }
}

/// The command that starts a part of the page server.
pub(super) fn command(program: &Helper, role: Role, root: &Path, vm: &VmName, folder: &VmFolder) -> Command {
    let mut command = program.command();
    command.arg(PAGES_COMMAND).arg(role.word()).arg(root).arg(vm.as_str()).arg(folder.seat_word());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

struct Supervisor {
    root: PathBuf,
    name: VmName,
    folder: VmFolder,
    program: Helper,
}

impl Supervisor {
    fn run(&self, role: Role) -> Result<()> {
        let Some(mut lock) = ServerLock::try_take(&self.folder)? else { return Ok(()) };
        // What a former one wrote names processes that can be anybody's now, and who ends servers kills whom it names.
        lock.name(&Servers::default())?;
        let log = Log::open(&self.folder, "supervisor");
        let mut early_deaths = 0;
        loop {
            let Some(record) = LazyRecord::load(&self.folder).filter(|record| record.failure.is_none())
            else {
                return Ok(());
            };
            let waiting = record.qemu.is_none();
            if (waiting && role == Role::Revive) || (!waiting && !lives(&record, &self.folder)?) {
                return record.remove_this(&self.folder);
            }
            let began = Instant::now();
            let ended_well = match self.work(&mut lock, waiting) {
                Ok(status) => {
                    log.say(format_args!("the worker ended: {status}"));
                    status.success()
                }
                Err(error) => {
                    log.say(format_args!("{}", error.in_one_line()));
                    false
                }
            };
            if ended_well && waiting {
                return Ok(());
            }
            if ended_well && LazyRecord::load(&self.folder).is_some() {
                // It has done its work, and could not remove the record: there is no hurry.
                std::thread::sleep(EARLY);
            }
            early_deaths = if began.elapsed() < EARLY { early_deaths + 1 } else { 0 };
            if early_deaths >= EARLY_DEATHS {
                return self.give_up(record);
            }
            std::thread::sleep(Duration::from_millis(5) * early_deaths);
        }
    }

    /// Starts a worker and waits for its end.
    fn work(&self, lock: &mut ServerLock, waiting: bool) -> Result<std::process::ExitStatus> {
        let role = if waiting { Role::FirstWorker } else { Role::Worker };
        let mut command = command(&self.program, role, &self.root, &self.name, &self.folder);
        if waiting {
            // The pipe from the command that begins the restore.
            command.stdin(Stdio::inherit());
        } else {
            command.stdin(Stdio::null());
        }
        inherit(&mut command, lock.share()?);
        let mut child = command.spawn().context(|| "cannot start a page server".into())?;
        let marks = [std::process::id(), child.id()].into_iter().filter_map(ProcessMark::of);
        // For those who have to end it. It serves without that, too.
        let _ = lock.name(&Servers { processes: marks.collect() });
        child.wait().context(|| "cannot wait for the page server".into())
    }

    /// Ends QEMU: nobody can be kept alive who would give its guest its memory.
    fn give_up(&self, mut record: LazyRecord) -> Result<()> {
        let message = format!("its page server ended {EARLY_DEATHS} times right after it was started");
        record.failure = Some(Failure { damaged: false, message });
        let saved = record.save(&self.folder);
        if let Some(process) = qemu_of(&record, &self.folder)? {
            process.kill()?;
        }
        saved
    }
}

/// The QEMU that a record is about, if it lives.
///
/// It is the VM's QEMU, or none: a pid and its start time alone can be another process's after a reboot of the host, or in
/// another pid namespace, and what is served badly is killed.
pub(super) fn qemu_of(record: &LazyRecord, folder: &VmFolder) -> Result<Option<Process>> {
    let Some(mark) = record.qemu else { return Ok(None) };
    Ok(Process::find(folder)?.filter(|process| process.mark == mark))
}

fn lives(record: &LazyRecord, folder: &VmFolder) -> Result<bool> {
    Ok(qemu_of(record, folder)?.is_some())
}
