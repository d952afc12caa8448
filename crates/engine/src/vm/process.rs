//! Finds the QEMU process of a VM and tells whether it lives, from the process itself.
//!
//! No pid file is believed: a QEMU lives if it accepts connections on the VM's status socket, and the kernel says
//! which process listens there. After a crash or a reboot nobody does, whatever files are left. The process is held
//! by a pidfd, so a reused pid is never signalled.

use std::io::ErrorKind as IoKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Context, Error, Result};
use crate::record::journal::ProcessMark;
use crate::root::VmFolder;
use crate::root::file::io_error;
use crate::vm::run_folder::{self, socket};

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
        let Some(run) = run_folder::existing(folder) else { return Ok(None) };
        let Some(pid) = listener(&run.join(socket::STATUS))? else { return Ok(None) };
        Self::open(pid, run)
    }

    /// Takes hold of process `pid`, whose sockets are in `run`. `None` if it is gone.
    pub(crate) fn open(pid: u32, run: PathBuf) -> Result<Option<Self>> {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let handle = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error).context(|| format!("cannot watch QEMU process {pid}")),
        };
        let Some(start_ticks) = start_ticks(pid) else { return Ok(None) };
        let process = Self { mark: ProcessMark { pid, start_ticks }, run, handle };
        Ok(process.is_alive().then_some(process))
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
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error).context(|| format!("cannot end QEMU process {}", self.mark.pid)),
        }
        if self.wait_end(Duration::from_secs(10)) {
            Ok(())
        } else {
            Err(Error::failed(format!("QEMU process {} does not end", self.mark.pid)).hint(
                "it may be waiting for a disk or a network file system; look at `ps` and the kernel's log",
            ))
        }
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

/// When a process started, in clock ticks since boot: field 22 of `/proc/PID/stat` (proc(5)).
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The bytes of memory that a process holds at this moment. `None` where it is gone.
pub(crate) fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
