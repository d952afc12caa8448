//! Starts the QEMU of a VM: the command line made from its template, the process in a session of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use vmrewind_qemu::cmdline::{CommandLine, Conflict, Later, Placeholders};
use vmrewind_qemu::qmp::make_pipes;

use crate::cancel::Cancel;
use crate::error::{Context as _, Error, Result};
use crate::hint::Hint;
use crate::ids::VmName;
use crate::monitor::Monitor;
use crate::record::vm::{Hardware, VmRecord};
use crate::root::file::io_error;
use crate::root::{SeatNumber, VmFolder};
use crate::vm::local::LocalQemu;
use crate::vm::machine::Machine;
use crate::vm::ports::{Ports, ports_in_use};
use crate::vm::process::{Alive, Process};
use crate::vm::reap::reap;
use crate::vm::run_folder::{self, QEMU_LOG, RECOVERY_PIPES, socket};
use crate::vm::session::{inherit, own_session};

/// How long a QEMU may take until it answers: large memory backends take their time.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// How much of QEMU's output an error shows.
const LOG_TAIL_LINES: usize = 12;
/// And how much of it is read for that.
const LOG_TAIL_BYTES: u64 = 8192;

/// What a QEMU is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The guest boots at once.
    Boot,
    /// The guest boots when told to.
    BootPaused,
    /// A captured state will come in; the guest runs when told to.
    Incoming,
    /// Nothing but to see whether it starts, while the VM's own QEMU runs.
    Rehearsal,
}

/// Where a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskFiles {
    /// The layer that is written.
    pub(crate) top: PathBuf,
    /// How many files of this host its chain has, from that one down to the last.
    pub(crate) depth: usize,
}

/// What is to be started.
pub(crate) struct Launch<'a> {
    /// Stops the start.
    pub(crate) cancel: &'a Cancel,
    /// Hears of steps.
    pub(crate) reached: &'a dyn Fn(&'static str),
    /// The VM's folder.
    pub(crate) folder: &'a VmFolder,
    /// The VM.
    pub(crate) record: &'a VmRecord,
    /// The hardware: the VM's, or that of a snapshot.
    pub(crate) hardware: &'a Hardware,
    /// The files of its disks.
    pub(crate) disks: &'a BTreeMap<String, DiskFiles>,
    /// What else is to be changed in the command line.
    pub(crate) edit: &'a dyn Fn(&mut CommandLine) -> Result<()>,
    /// What QEMU is to hold open as long as it lives: a lock.
    pub(crate) held: Option<OwnedFd>,
    /// What for.
    pub(crate) purpose: Purpose,
    /// The ports of the VM's QEMU, where that still runs and this one is to take its place.
    pub(crate) beside: Option<BTreeMap<u16, u16>>,
}

/// A QEMU that answers.
pub(crate) struct Started {
    /// It runs.
    pub(crate) machine: Arc<dyn Machine>,
    /// What it gets once the QEMU beside it has given it up.
    pub(crate) later: Vec<Later>,
    /// The connection for the operation that holds the VM.
    monitor: Option<Monitor>,
    child: Option<Child>,
}

/// Starts QEMU and waits until it answers.
///
/// # Errors
/// `Failed` where it does not start; QEMU's own words are the cause. No process is left then.
pub(crate) fn start(launch: Launch<'_>, machines: &LocalQemu) -> Result<Started> {
    let run = run_folder::prepare(launch.folder, &launch.record.id)?;
    // Its ports are kept until QEMU answers: it has taken them then.
    let Written { argv, later, _ports } = command_line(&launch, &run)?;
    if launch.purpose == Purpose::Incoming {
        make_pipes(&run.join(RECOVERY_PIPES))
            .context(|| format!("cannot make pipes in '{}'", run.display()))?;
    }
    let log = log_path(&run);
    let Launch { cancel, reached, folder, record, .. } = launch;
    let mut child = spawn(&argv, launch, &log)?;
    reached("qemu-spawned");
    match connect(&mut child, folder, cancel, &run, machines) {
        Ok((process, monitor)) => {
            let mut started = Started::new(machines.machine(process), monitor, Some(child));
            started.later = later;
            Ok(started)
        }
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(explain(error, record, &run))
        }
    }
}

impl Started {
    /// A QEMU with the connection that it answered on, and the child that it is of this process, if it is.
    pub(crate) fn new(machine: Arc<dyn Machine>, monitor: Monitor, child: Option<Child>) -> Self {
        Self { machine, later: Vec::new(), monitor: Some(monitor), child }
    }

    /// The connection for the operation that holds the VM, until it is given up.
    pub(crate) fn monitor(&self) -> Result<&Monitor> {
        self.monitor.as_ref().ok_or_else(|| Error::failed("the connection to QEMU was given up"))
    }

    /// Gives the connection up, so that another can take its place: QEMU serves one at a time.
    pub(crate) fn disconnect(&mut self) {
        self.monitor = None;
    }
}

impl Drop for Started {
    /// The process goes on.
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            reap(child);
        }
    }
}

/// Adds the last lines of QEMU's output to an error's causes, where there are any.
pub(crate) fn with_last_words(error: Error, run: &Path) -> Error {
    let text = tail_of(&log_path(run)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let words = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
    if words.is_empty() { error } else { error.with_words(words) }
}

/// The last 8 KiB of a file, which a guest can have made very long.
fn tail_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let end = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(end.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What a QEMU is started with.
struct Written {
    argv: Vec<String>,
    later: Vec<Later>,
    _ports: Ports,
}

/// What a QEMU of that hardware would get later if it were started while the VM's own runs, or why it can't be.
///
/// # Errors
/// `Failed` for a command line that can't be read.
pub(crate) fn beside(
    name: &VmName,
    hardware: &Hardware,
    seat: SeatNumber,
) -> Result<Result<Vec<Later>, Conflict>> {
    // Which folder of its own it is makes no difference.
    let run = "/run/of/its/own";
    let mut line = filled_in(name, hardware, Path::new(run))?;
    line.stand_beside(run, seat).context(|| format!("the command line of VM '{name}' can't be used"))
}

/// The argument vector: placeholders filled in, disks on their layers, vmrewind's sockets added.
fn command_line(launch: &Launch<'_>, run: &Path) -> Result<Written> {
    let name = &launch.record.name;
    let bad = || format!("the command line of VM '{name}' can't be used");
    let template = CommandLine::parse(&launch.hardware.command_line).context(bad)?;
    let ports = Ports::choose(&template.ports_wanted(), launch.beside.as_ref());
    ports.save(launch.folder.files(), run)?;
    let run_text = run.to_str().ok_or_else(|| {
        Error::failed(format!("the run folder '{}' is not UTF-8", run.display())).with_hint(Hint::AnotherRoot)
    })?;
    let values =
        Placeholders { name: name.to_string(), run: run_text.to_owned(), ports: ports.given.clone() };
    let mut line = template.substitute(&values);
    for disk in line.disks().context(bad)? {
        let files = launch.disks.get(&disk.name).ok_or_else(|| {
            Error::damaged(format!("disk '{}' of VM '{name}' has no layer in its record", disk.name))
        })?;
        let path = files.top.to_str();
        let path = path.ok_or_else(|| Error::failed(format!("'{}' is not UTF-8", files.top.display())))?;
        line.set_disk_file(&disk, path).context(bad)?;
        line.keep_page_cache(&disk, files.depth).context(bad)?;
    }
    (launch.edit)(&mut line)?;
    let mut later = Vec::new();
    let seat = launch.folder.seat_number().unwrap_or_default();
    if launch.purpose == Purpose::Rehearsal {
        later = line.rehearse_beside(run_text, seat).context(bad)?;
    } else if launch.beside.is_some() {
        let conflicting = |what| Error::failed(format!("two QEMUs can't both have {what}"));
        later = line.stand_beside(run_text, seat).context(bad)?.map_err(conflicting)?;
    }
    for (id, socket) in [
        ("vmrewind-user", socket::USER),
        ("vmrewind-operation", socket::OPERATION),
        ("vmrewind-guard", socket::GUARD),
        ("vmrewind-status", socket::STATUS),
        ("vmrewind-pages", socket::PAGES),
    ] {
        line.add_qmp_socket(id, &format!("{run_text}/{socket}"));
    }
    match launch.purpose {
        Purpose::Boot => {}
        Purpose::BootPaused | Purpose::Rehearsal => line.add_start_paused(),
        Purpose::Incoming => {
            line.add_qmp_pipes("vmrewind-recovery", &format!("{run_text}/{RECOVERY_PIPES}"));
            line.add_incoming_defer();
            line.add_start_paused();
        }
    }
    Ok(Written { argv: line.to_argv(), later, _ports: ports })
}

/// A VM's command line as its running QEMU was given it, but for its disks: every placeholder filled in.
pub(crate) fn filled_in(name: &VmName, hardware: &Hardware, run: &Path) -> Result<CommandLine> {
    let template = CommandLine::parse(&hardware.command_line)
        .context(|| format!("the command line of VM '{name}' can't be used"))?;
    let values = Placeholders {
        name: name.to_string(),
        run: run.to_string_lossy().into_owned(),
        ports: ports_in_use(run),
    };
    Ok(template.substitute(&values))
}

fn spawn(argv: &[String], launch: Launch<'_>, log: &Path) -> Result<Child> {
    let working_dir = Path::new(&launch.hardware.working_dir);
    let _ = fs::rename(log, log.with_extension("log.1"));
    let cannot = |error| io_error(&format!("cannot write QEMU's log '{}'", log.display()), error);
    let output = File::create(log).map_err(cannot)?;
    let errors = output.try_clone().map_err(cannot)?;
    let (program, arguments) =
        argv.split_first().ok_or_else(|| Error::failed("the VM's command line is empty"))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors);
    if !working_dir.is_dir() {
        return Err(Error::failed(format!("the folder '{}' is gone", working_dir.display()))
            .with_hint(Hint::MakeVmAgain));
    }
    command.current_dir(working_dir);
    inherit(&mut command, Alive::take(launch.folder)?);
    if let Some(held) = launch.held {
        inherit(&mut command, held);
    }
    own_session(&mut command).spawn().map_err(|error| {
        Error::failed(format!("cannot run '{program}'")).with_hint(Hint::ProgramOfVm).because(error)
    })
}

fn connect(
    child: &mut Child,
    folder: &VmFolder,
    cancel: &Cancel,
    run: &Path,
    machines: &LocalQemu,
) -> Result<(Process, Monitor)> {
    Process::remember(child.id(), folder)?;
    let monitor =
        Monitor::connect_waiting(&run.join(socket::OPERATION), START_PATIENCE, machines.patience, || {
            !cancel.is_cancelled() && matches!(child.try_wait(), Ok(None))
        });
    cancel.check("QEMU was starting")?;
    let monitor = monitor?;
    let process = Process::open(child.id(), run.to_owned())?;
    let process = process.ok_or_else(|| Error::failed("QEMU ended right after it started"))?;
    Ok((process, monitor))
}

fn explain(error: Error, record: &VmRecord, run: &Path) -> Error {
    let told = Error::new(error.kind(), format!("QEMU did not start VM '{}'", record.name)).because(error);
    with_last_words(told, run).with_hint(Hint::OutputOfQemu { log: log_path(run) })
}

/// Where a VM's QEMU writes its output.
pub(crate) fn log_path(run: &Path) -> PathBuf {
    run.join(QEMU_LOG)
}

#[cfg(test)]
mod tests;
