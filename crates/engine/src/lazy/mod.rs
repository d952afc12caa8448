//! Lazy restore: the guest runs before its memory is there, and a page server gives it what it touches.
//!
//! ```text
//!  snapshot restore                        page server (a process of its own; supervisor.rs, worker.rs)
//!    record without QEMU, server started ->  opens the image, waits
//!    QEMU started, record names it
//!    migrate-incoming -------------------->  connects: devices, then pages (serve.rs, crate qemu: postcopy)
//!    QEMU says that it is loaded
//!    commit, cont, end of the command       ... until QEMU has everything: record removed
//! ```
//! The record (`lazy.json`) is there as long as memory is missing. Whoever works on the VM finds it: the state is
//! `restoring`, captures wait, and servers that died are started again ([`bring_up_to_date`]).

mod ahead;
mod keeper;
mod log;
mod record;
pub(crate) mod recovery;
mod serve;
mod supervisor;
mod worker;

use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

pub use supervisor::{PAGES_COMMAND, PageServer, serve_pages};

pub(crate) use keeper::Keeper;
use log::Log;
pub(crate) use record::{Failure, LazyProgress, LazyRecord};
use record::{ServerLock, Servers};
use supervisor::{Role, command, qemu_of};

use crate::context::{Context, Note, Work};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::host::Helper;
use crate::ids::VmName;
use crate::record::RECORD_VERSION;
use crate::record::journal::ProcessMark;
use crate::record::snapshot::Manifest;
use crate::root::VmFolder;
use crate::vm::process::Process;
use crate::vm::reap::reap;
use crate::vm::session::own_session;

/// How long the servers of a QEMU that is gone may take to end by themselves.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// How long a server may take to begin.
const BEGIN_PATIENCE: Duration = Duration::from_secs(5);

/// A page server that was started by this process; it goes on when this is dropped.
pub(crate) struct Server {
    record: LazyRecord,
    child: Option<Child>,
    pipe: Option<ChildStdin>,
}

impl Server {
    /// Starts a page server for a QEMU that is still to be started; it opens the snapshot's image meanwhile.
    pub(crate) fn begin(charge: &Charge, snapshot: &Manifest) -> Result<Self> {
        let image = snapshot.memory.as_ref().map(|memory| memory.image.clone());
        let record = LazyRecord {
            version: RECORD_VERSION,
            snapshot: snapshot.id.clone(),
            name: snapshot.name.to_string(),
            image: image.ok_or_else(|| Error::failed("the snapshot has no memory"))?,
            qemu: None,
            loaded: false,
            failure: None,
        };
        record.save(&charge.folder)?;
        let (child, pipe) = charge.start(Role::Begin)?;
        Ok(Self { record, child: Some(child), pipe })
    }

    /// Tells which QEMU is served, and sees to it that it is while the keeper lives.
    pub(crate) fn is_for(&mut self, qemu: ProcessMark, charge: &Charge) -> Result<Keeper> {
        self.record.qemu = Some(qemu);
        self.save(&charge.folder)?;
        Keeper::begin(charge)
    }

    /// Whether somebody still serves.
    pub(crate) fn is_alive(&mut self, folder: &VmFolder) -> Result<bool> {
        let supervised = self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        Ok(supervised || ServerLock::is_held(folder)?)
    }

    /// Tells that QEMU has loaded its devices.
    pub(crate) fn is_loaded(&mut self, folder: &VmFolder) -> Result<()> {
        self.record.loaded = true;
        self.save(folder)
    }

    /// Writes the record. A failure that the server has put into it stays.
    fn save(&mut self, folder: &VmFolder) -> Result<()> {
        self.record.failure = LazyRecord::load(folder).and_then(|found| found.failure);
        self.record.save(folder)
    }

    /// Ends it: its QEMU will not be served. Its log says why.
    pub(crate) fn give_up(mut self, folder: &VmFolder, why: &Error) -> Result<()> {
        Log::open(folder, "restore").say(format_args!("given up: {}", why.in_one_line()));
        drop(self.pipe.take());
        end(folder)
    }
}

impl Drop for Server {
    /// The server goes on.
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            reap(child);
        }
    }
}

/// A VM whose memory page servers may have to serve, and what they are started with.
#[derive(Clone)]
pub(crate) struct Charge {
    /// The program of the page servers.
    pub(crate) helper: Helper,
    /// The root folder.
    pub(crate) root: PathBuf,
    /// The VM.
    pub(crate) vm: VmName,
    /// Its folder.
    pub(crate) folder: VmFolder,
}

impl Charge {
    fn start(&self, role: Role) -> Result<(Child, Option<ChildStdin>)> {
        let mut command = command(&self.helper, role, &self.root, &self.vm, &self.folder);
        command.stdin(if role == Role::Begin { Stdio::piped() } else { Stdio::null() });
        let mut child = own_session(&mut command)
            .spawn()
            .context(|| "cannot start the process that serves the guest's memory".into())?;
        let pipe = child.stdin.take();
        Ok((child, pipe))
    }

    /// Starts the servers of a lazy restore under way again, where both have died; removes its record where QEMU has.
    /// Says whether they were started.
    fn revive(&self) -> Result<bool> {
        let folder = &self.folder;
        if ServerLock::is_held(folder)? {
            return Ok(false);
        }
        let Some(record) = LazyRecord::load(folder).filter(|record| record.failure.is_none()) else {
            return Ok(false);
        };
        if qemu_of(&record, folder)?.is_none() {
            return record.remove_this(folder).map(|()| false);
        }
        let (child, _) = self.start(Role::Revive)?;
        reap(child);
        let deadline = Instant::now() + BEGIN_PATIENCE;
        while LazyRecord::load(folder).is_some() && !ServerLock::is_held(folder)? {
            if Instant::now() >= deadline {
                return Err(Error::failed("the page server does not start").with_hint(Hint::TryAgain));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(true)
    }
}

/// Brings the record of a lazy restore up to date: removed where its QEMU is gone, servers started again where both
/// have died. With `held` the VM's lock is held, so that no restore is about to begin.
pub(crate) fn bring_up_to_date(ctx: &Context, charge: &Charge, held: bool) -> Result<()> {
    let Some(record) = LazyRecord::load(&charge.folder).filter(|record| record.failure.is_none()) else {
        recovery::forget_events(&charge.folder);
        return Ok(());
    };
    if record.qemu.is_none() && !held {
        return Ok(());
    }
    if charge.revive()? {
        ctx.note(Note::PageServerRevived);
    }
    Ok(())
}

/// The lazy restore that is under way on a VM, if there is one.
pub(crate) fn under_way(folder: &VmFolder) -> Option<LazyRecord> {
    LazyRecord::load(folder).filter(|record| record.failure.is_none() && record.qemu.is_some())
}

/// Why the last lazy restore ended badly, where the VM was neither started nor restored since.
pub(crate) fn failure(folder: &VmFolder) -> Option<(LazyRecord, Failure)> {
    let record = LazyRecord::load(folder)?;
    let failure = record.failure.clone()?;
    Some((record, failure))
}

/// The error that says why a lazy restore ended badly.
pub(crate) fn failure_error(vm: &VmName, record: &LazyRecord, failure: &Failure) -> Error {
    Error::new(
        failure.kind(),
        format!("VM '{vm}' was stopped: the memory of '{vm}@{}' could not be read", record.name),
    )
    .because(Error::failed(failure.message.clone()))
    .with_hint(Hint::BootOrVerify { vm: vm.to_string(), snapshot: record.name.clone() })
}

/// Forgets a lazy restore that ended badly: the VM is started or restored anew.
pub(crate) fn forget_failure(folder: &VmFolder) -> Result<()> {
    if failure(folder).is_some() { LazyRecord::remove(folder) } else { Ok(()) }
}

/// Waits until all memory is there, with progress.
///
/// # Errors
/// The failure of the restore, `Interrupted`.
pub(crate) fn wait_whole(ctx: &Context, charge: &Charge) -> Result<()> {
    let Charge { vm, folder, .. } = charge;
    let mut told = false;
    loop {
        bring_up_to_date(ctx, charge, true)?;
        if let Some((record, failure)) = failure(folder) {
            return Err(failure_error(vm, &record, &failure));
        }
        if under_way(folder).is_none() {
            return Ok(());
        }
        if !told {
            told = true;
            ctx.note(Note::WaitingForMemory);
        }
        let LazyProgress { done_bytes, total_bytes } = LazyProgress::load(folder);
        let _ = ctx.progress(Work::RestoringMemory, done_bytes, total_bytes);
        ctx.cancel.check("waiting for the memory of the last restore")?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ends the servers of a QEMU that is gone, and waits for them. Does nothing where there are none.
pub(crate) fn end(folder: &VmFolder) -> Result<()> {
    let deadline = Instant::now() + END_PATIENCE;
    while ServerLock::is_held(folder)? {
        if Instant::now() >= deadline {
            for mark in Servers::load(folder).processes {
                let process = Process::open(mark.pid, folder.run())?;
                if let Some(process) = process.filter(|process| process.mark == mark) {
                    process.kill()?;
                }
            }
        }
        if Instant::now() >= deadline + END_PATIENCE {
            return Err(Error::new(ErrorKind::Busy, "the page server of the VM's last restore does not end")
                .with_hint(Hint::FindPageServer));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    if failure(folder).is_none() { LazyRecord::remove(folder) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn folder() -> (tempfile::TempDir, VmFolder) {
        let dir = tempfile::tempdir().unwrap();
        let folder = VmFolder::at(dir.path().to_owned());
        (dir, folder)
    }

    fn record(failure: Option<Failure>) -> LazyRecord {
        LazyRecord {
            version: RECORD_VERSION,
            snapshot: "0123456789abcdef".parse().unwrap(),
            name: "one".into(),
            image: "0123456789abcdef".into(),
            qemu: None,
            loaded: false,
            failure,
        }
    }

    /// Guards the user's answer to "why": what the server has written down is not lost to the command that began the restore.
    #[test]
    fn a_failure_stays_when_the_command_writes_the_record() {
        let (_dir, folder) = folder();
        let failure = Failure { damaged: true, message: "a page".into() };
        record(Some(failure.clone())).save(&folder).unwrap();
        let mut server = Server { record: record(None), child: None, pipe: None };
        server.is_loaded(&folder).unwrap();
        let found = LazyRecord::load(&folder).unwrap();
        assert_eq!((found.loaded, found.failure), (true, Some(failure)));
    }

    /// Guards a restore that has begun against a command that still thinks of the one before.
    #[test]
    fn the_next_restore_s_record_is_not_removed() {
        let (_dir, folder) = folder();
        let old = record(None);
        let new = LazyRecord { snapshot: "fedcba9876543210".parse().unwrap(), ..record(None) };
        new.save(&folder).unwrap();
        old.remove_this(&folder).unwrap();
        assert!(LazyRecord::load(&folder).is_some());
        new.remove_this(&folder).unwrap();
        assert!(LazyRecord::load(&folder).is_none());
    }

    /// Guards everybody else's processes: after a reboot, or in another pid namespace, a record of a restore can name any of
    /// them, and a command that only lists would have it killed.
    #[test]
    fn a_process_that_is_not_the_vm_s_qemu_is_none_of_ours() {
        let (_dir, folder) = folder();
        let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let record = LazyRecord { qemu: ProcessMark::of(stranger.id()), ..record(None) };
        assert!(record.qemu.is_some() && qemu_of(&record, &folder).unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    /// Guards a guest that waits for its memory: who only looks whether somebody serves does not keep anybody from it.
    #[test]
    fn looking_for_servers_keeps_none_from_serving() {
        let (_dir, folder) = folder();
        drop(ServerLock::try_take(&folder).unwrap());
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        ServerLock::is_held(&folder).unwrap();
                    }
                });
            }
            let taken = (0..200).filter(|_| ServerLock::try_take(&folder).unwrap().is_some()).count();
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(taken, 200);
        });
        let lock = ServerLock::try_take(&folder).unwrap();
        assert!(lock.is_some() && ServerLock::is_held(&folder).unwrap());
    }
}
