//! The processes of a background job: a supervisor in a session of its own, and its worker, started again where it dies.
//!
//! ```text
//!  vmrewind --pipe--> supervisor (lock) ----> worker (lock; pipe, until the command has told all)
//!                       worker died, job wanted: another one
//!                       record gone, failure in it, job not wanted: over
//! ```
//! Both hold the job's lock, one by inheritance: nobody else works on it while either lives. Where both died the next command on
//! the VM finds the record without the lock and starts another supervisor.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lock::Lock;
use super::record::{Failure, give_up};
use super::{Job, Kind, Log, Record, shift};
use crate::error::{Context, Error, Result};
use crate::host::{Helper, Steps};
use crate::ids::VmName;
use crate::root::file::Files;
use crate::root::{Root, VmFolder};
use crate::vm::session::inherit;

/// The hidden subcommand under which the helper program runs a process of a background job: `__background KIND ROLE ROOT VM SEAT`.
pub const BACKGROUND_COMMAND: &str = "__background";

/// A worker that lived shorter than this died early.
const EARLY: Duration = Duration::from_secs(1);
/// How many may die early, or of a bug, in a row.
const EARLY_DEATHS: u32 = 30;

/// What a process of a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Supervises from the begin of a job on.
    Begin,
    /// Supervises a job whose processes died.
    Revive,
    /// Works on a job of which its command has not told all.
    FirstWorker,
    /// Works on a job in whatever state it is.
    Worker,
}

impl Role {
    fn word(self) -> &'static str {
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

/// What a process of a background job is given.
pub struct BackgroundProcess {
    /// Which kind of job, as the process that started it said.
    pub kind: String,
    /// What for, as that process said.
    pub role: String,
    /// The root folder.
    pub root: PathBuf,
    /// The VM.
    pub vm: String,
    /// The seat of the VM's QEMU that it is about (docs/format.md); empty for none.
    pub seat: String,
    /// The program that is started as `vmrewind __background ...` for the worker.
    pub program: Helper,
    /// Hears of steps, in tests.
    pub steps: Option<Arc<dyn Steps>>,
}

/// What the processes of one kind of job do. Returns when they are no longer needed.
///
/// # Errors
/// `Usage` for words that no vmrewind gives; `Failed` where the VM's folder can't be worked on.
pub(crate) fn run<J: Job>(process: BackgroundProcess) -> Result<()> {
    let BackgroundProcess { role, root: path, vm, seat, program, steps, .. } = process;
    let unknown = || Error::usage(format!("'{}' is no part of a background job", role.escape_debug()));
    let role = Role::of(&role).ok_or_else(unknown)?;
    let name: VmName = vm.parse()?;
    // One that was removed meanwhile is not made again.
    let root = Root::open_existing(&path, Files::of_this_host())?
        .ok_or_else(|| Error::not_found(format!("there is no root '{}'", path.display())))?;
    let folder = root.vm(&name).at_seat_word(&seat);
    match role {
        Role::Begin | Role::Revive => {
            let log = Log::open(&J::KIND, &folder, "supervisor");
            Supervisor::<J> { root: path, name, folder, program, log, job: PhantomData }.run(role)
        }
        Role::FirstWorker | Role::Worker => shift::work::<J>(&root, folder, steps, role == Role::FirstWorker),
    }
}

/// The command that starts a process of a job.
pub(super) fn command(
    program: &Helper,
    kind: &Kind,
    role: Role,
    root: &Path,
    (vm, folder): (&VmName, &VmFolder),
) -> Command {
    let mut command = program.command();
    command.arg(BACKGROUND_COMMAND).arg(kind.word).arg(role.word()).arg(root).arg(vm.as_str());
    command.arg(folder.seat_word());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

struct Supervisor<J> {
    root: PathBuf,
    name: VmName,
    folder: VmFolder,
    program: Helper,
    log: Log,
    job: PhantomData<J>,
}

/// How a worker ended.
struct End {
    is_well: bool,
    /// Well, and the job is still there.
    is_idle: bool,
    /// Before it can have done much, or by a bug that the next one may meet again, however long it works before that.
    is_bad_sign: bool,
}

impl<J: Job> Supervisor<J> {
    fn run(&self, role: Role) -> Result<()> {
        let Some(lock) = Lock::try_take(&J::KIND, &self.folder)? else { return Ok(()) };
        // What a former one wrote names processes that can be anybody's now, and who ends a job kills whom it names.
        lock.name(&[std::process::id()])?;
        let mut bad_signs = 0;
        loop {
            let Some(record) = Record::<J>::load(&self.folder)? else { return Ok(()) };
            if record.failure.is_some() {
                record.conclude(&self.folder);
                return Ok(());
            }
            let is_begun = record.job.is_begun();
            if !is_begun && role == Role::Revive {
                // The next job, whose own supervisor comes.
                return Ok(());
            }
            if is_begun && !record.job.is_wanted(&self.folder)? {
                return record.remove_this(&self.folder);
            }
            let end = self.see_through(&lock, is_begun);
            if end.is_well && !is_begun {
                return Ok(());
            }
            if end.is_idle {
                // It can do no more now, or has done it, and could not remove the record: there is no hurry.
                std::thread::sleep(EARLY);
            }
            bad_signs = if end.is_bad_sign { bad_signs + 1 } else { 0 };
            if bad_signs >= EARLY_DEATHS {
                return self.give_up(&record);
            }
            std::thread::sleep(Duration::from_millis(5) * bad_signs);
        }
    }

    /// Starts a worker and waits for its end.
    fn see_through(&self, lock: &Lock, is_begun: bool) -> End {
        let began = Instant::now();
        let (is_well, panicked) = match self.work(lock, is_begun) {
            Ok((status, panicked)) => {
                self.log.say(format_args!("the worker ended: {status}"));
                (status.success(), panicked)
            }
            Err(error) => {
                self.log.say(format_args!("{}", error.in_one_line()));
                (false, false)
            }
        };
        let is_idle = is_well && matches!(Record::<J>::load(&self.folder), Ok(Some(_)));
        End { is_well, is_idle, is_bad_sign: panicked || (began.elapsed() < EARLY && !is_idle) }
    }

    fn work(&self, lock: &Lock, is_begun: bool) -> Result<(ExitStatus, bool)> {
        let role = if is_begun { Role::Worker } else { Role::FirstWorker };
        let mut command = command(&self.program, &J::KIND, role, &self.root, (&self.name, &self.folder));
        // The pipe from the command that begins the job, which is told something by it until all is told.
        command.stdin(if is_begun { Stdio::null() } else { Stdio::inherit() });
        inherit(&mut command, lock.share()?);
        let servant = J::KIND.servant;
        let mut child = command.spawn().context(|| format!("cannot start a {servant}"))?;
        // For those who have to end it. It works without that, too.
        let _ = lock.name(&[std::process::id(), child.id()]);
        let status = child.wait().context(|| format!("cannot wait for the {servant}"))?;
        let panicked = Record::<J>::load(&self.folder)?
            .and_then(|record| record.panic)
            .is_some_and(|panic| panic.pid == child.id());
        Ok((status, panicked))
    }

    /// Nobody can be kept alive who would do it.
    fn give_up(&self, record: &Record<J>) -> Result<()> {
        let servant = J::KIND.servant;
        let panic = Record::<J>::load(&self.folder)?.and_then(|record| record.panic);
        let message = match panic {
            None => format!("its {servant} ended {EARLY_DEATHS} times right after it was started"),
            Some(panic) => {
                format!("its {servant} was started {EARLY_DEATHS} times, and has a bug: {}", panic.message)
            }
        };
        give_up(&self.folder, record, Failure { damaged: false, message })
    }
}
