//! Finds the QEMU process of a VM and tells whether it lives, from the process itself.
//!
//! QEMU inherits the file `alive` locked (flock). Where nobody holds that, no QEMU of the VM lives: the kernel gives it
//! up when the process ends, however that comes about. (A helper that QEMU left behind can hold it longer; the note of
//! the process then says that it has ended.) Which process it is `process.json` says, with pid,
//! start time and boot, so that a reused pid counts for nothing; where the command died before it wrote that, the
//! kernel says which process listens on the VM's status socket. The process is held by a pidfd.

use std::io::ErrorKind as IoKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use serde::{Deserialize, Serialize};
use vmrewind_files::{Flock, Kind, Wait};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::record::RECORD_VERSION;
use crate::record::journal::ProcessMark;
use crate::root::VmFolder;
use crate::root::file::cannot_lock;
use crate::root::file::io_error;
use crate::vm::run_folder::{self, socket};

/// How long a QEMU that lives may take until it can be told which process it is.
const IDENTITY_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
struct Note {
    version: u32,
    /// The host's boot.
    boot: String,
    /// The pid namespace that the pid is of.
    pids: String,
    process: Option<ProcessMark>,
}

/// A QEMU process that lives (or did when it was found).
#[derive(Debug)]
pub(crate) struct Process {
    /// Which one it is.
    pub(crate) mark: ProcessMark,
    /// The VM's run folder.
    pub(crate) run: PathBuf,
    handle: OwnedFd,
}

impl Process {
    /// The QEMU of the VM in `folder`, if it runs.
    pub(crate) fn find(folder: &VmFolder) -> Result<Option<Self>> {
        if !Alive::is_held(folder)? {
            await_last_breath(folder)?;
            return Ok(None);
        }
        if is_known_to_have_ended(folder) {
            return Ok(None);
        }
        let deadline = Instant::now() + IDENTITY_PATIENCE;
        loop {
            if let Some(process) = Self::identify(folder)? {
                return Ok(Some(process));
            }
            if !Alive::is_held(folder)? {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "a QEMU of this VM runs that can't be found or reached",
                )
                .with_hint(Hint::FindQemu));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn identify(folder: &VmFolder) -> Result<Option<Self>> {
        let run = run_folder::existing(folder);
        if let Some(mark) = remembered(folder) {
            // Also where somebody took the run folder away: a process can be ended without its sockets.
            let run = run.unwrap_or_else(|| folder.run());
            return Ok(Self::open(mark.pid, run)?.filter(|process| process.mark == mark));
        }
        let Some(run) = run else { return Ok(None) };
        match listener(&run.join(socket::STATUS))? {
            Some(pid) => Self::open(pid, run),
            None => Ok(None),
        }
    }

    /// Writes down which process is the VM's QEMU.
    pub(crate) fn remember(pid: u32, folder: &VmFolder) -> Result<()> {
        let process = ProcessMark::of(pid);
        let note = Note { version: RECORD_VERSION, boot: boot_id(), pids: pid_namespace(), process };
        folder.files().write_json(&folder.process(), &note)
    }

    /// Takes hold of process `pid`, whose sockets are in `run`. `None` if it is gone.
    pub(crate) fn open(pid: u32, run: PathBuf) -> Result<Option<Self>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let handle = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error).context(|| format!("cannot watch QEMU process {pid}")),
        };
        let Some(mark) = ProcessMark::of(pid) else { return Ok(None) };
        let process = Self { mark, run, handle };
        Ok(process.is_alive().then_some(process))
    }

    /// Whether a QEMU was written down that nobody has tidied up after.
    pub(crate) fn left_its_note(folder: &VmFolder) -> bool {
        folder.process().exists()
    }

    /// Removes the note of a QEMU that has ended, its images closed or tidied. `alive` goes first: a helper that QEMU
    /// left behind can hold it for ever, and without the note that would look like a living QEMU.
    pub(crate) fn forget(folder: &VmFolder) -> Result<()> {
        folder.files().remove_file(&folder.alive())?;
        folder.files().remove_file(&folder.process())
    }

    /// Whether the process has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        !self.wait_end(Duration::ZERO)
    }

    /// Waits for the process's end, at most `timeout`. Returns whether it has ended.
    pub(crate) fn wait_end(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let time = Timespec::try_from(left).ok();
            let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
            match poll(&mut fds, time.as_ref()) {
                Ok(count) if count > 0 => return true,
                Ok(_) | Err(_) if Instant::now() >= deadline => return false,
                _ => {}
            }
        }
    }

    /// Ends the process by SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// `Failed` where it may not be signalled, or does not go within ten seconds.
    pub(crate) fn kill(&self) -> Result<()> {
        match pidfd_send_signal(&self.handle, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error).context(|| format!("cannot end QEMU process {}", self.mark.pid)),
        }
        if self.wait_end(Duration::from_secs(10)) {
            Ok(())
        } else {
            Err(Error::failed(format!("QEMU process {} does not end", self.mark.pid))
                .with_hint(Hint::KernelWaits))
        }
    }
}

/// How long others may hold `alive` to look at it, before it counts as held by a QEMU.
const LOOK_PATIENCE: Wait = Wait::AtMost(Duration::from_secs(1));

/// The lock that shows that a VM's QEMU lives.
pub(crate) struct Alive;

impl Alive {
    /// Takes the lock, for a QEMU that is about to be started and will inherit it.
    ///
    /// # Errors
    /// `Busy` where a QEMU of this VM lives.
    pub(crate) fn take(folder: &VmFolder) -> Result<OwnedFd> {
        if is_known_to_have_ended(folder) {
            // A helper that it left behind can hold the old file for ever.
            folder.files().remove_file(&folder.alive())?;
        }
        let path = folder.alive();
        let lock =
            Flock::take(&path, Kind::Exclusive, LOOK_PATIENCE).map_err(|error| cannot_lock(&path, error))?;
        let lock = lock.ok_or_else(|| {
            Error::new(ErrorKind::Busy, "a QEMU of this VM runs already").with_hint(Hint::TryAgain)
        })?;
        // The note is of a QEMU that is gone; the new one is not written down yet.
        folder.files().remove_file(&folder.process())?;
        Ok(lock.into_file().into())
    }

    fn is_held(folder: &VmFolder) -> Result<bool> {
        let path = folder.alive();
        Flock::is_held(&path)
            .map_err(|error| io_error(&format!("cannot look at '{}'", path.display()), error))
    }
}

/// The pid of the process that listens on a socket. `None` where nobody does.
fn listener(path: &Path) -> Result<Option<u32>> {
    match UnixStream::connect(path) {
        Ok(stream) => {
            let credentials =
                socket_peercred(&stream).context(|| format!("cannot ask who serves '{}'", path.display()))?;
            Ok(u32::try_from(credentials.pid.as_raw_nonzero().get()).ok())
        }
        Err(error) if matches!(error.kind(), IoKind::NotFound | IoKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(io_error(&format!("cannot reach QEMU on '{}'", path.display()), error)),
    }
}

/// Waits until a process that gave `alive` up has given its images' locks up too: it closes its files one by one.
fn await_last_breath(folder: &VmFolder) -> Result<()> {
    let Some(mark) = remembered(folder) else { return Ok(()) };
    let dying = Process::open(mark.pid, folder.run())?.filter(|process| process.mark == mark);
    match dying {
        Some(process) if !process.wait_end(IDENTITY_PATIENCE) => {
            Err(Error::new(ErrorKind::Busy, format!("QEMU process {} is ending, slowly", mark.pid))
                .with_hint(Hint::TryAgain))
        }
        _ => Ok(()),
    }
}

/// Whether the QEMU that was started last is written down, and gone: what holds `alive` is then a helper of its that it
/// left behind. The note is removed before another QEMU is started.
fn is_known_to_have_ended(folder: &VmFolder) -> bool {
    let Ok(Some(note)) = folder.files().read_json::<Note>(&folder.process(), RECORD_VERSION) else {
        return false;
    };
    // Of a pid in another container nothing can be said from here; the lock decides.
    (note.boot != boot_id() || note.pids == pid_namespace()) && remembered(folder).is_none()
}

/// The process that was written down, if it is still that one.
fn remembered(folder: &VmFolder) -> Option<ProcessMark> {
    // A file that can't be read is as good as none: the socket decides then.
    let note: Note = folder.files().read_json(&folder.process(), RECORD_VERSION).ok()??;
    let mark = note.process?;
    let ours = note.boot == boot_id() && note.pids == pid_namespace();
    (ours && ProcessMark::of(mark.pid) == Some(mark)).then_some(mark)
}

/// Tells the pid namespace of this process from others.
fn pid_namespace() -> String {
    std::fs::read_link("/proc/self/ns/pid").unwrap_or_default().to_string_lossy().into_owned()
}

/// Tells one boot of the host from another.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The bytes of memory that a process holds at this moment. `None` where it is gone.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests;
