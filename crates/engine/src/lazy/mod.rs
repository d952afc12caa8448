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
mod job;
pub(crate) mod recovery;
mod serve;
mod worker;

use std::time::Duration;

pub(crate) use job::LazyRestore;

use crate::background::{self, Adopted, Begun, Charge, Failure, Keeper, Progress};
use crate::context::{Context, Note, Work};
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::ids::VmName;
use crate::record::journal::ProcessMark;
use crate::record::snapshot::Manifest;
use crate::root::VmFolder;

/// A page server that was started by this process; it goes on when this is dropped.
pub(crate) struct Server(Begun<LazyRestore>);

impl Server {
    /// Starts a page server for a QEMU that is still to be started; it opens the snapshot's image meanwhile.
    pub(crate) fn begin(charge: &Charge, snapshot: &Manifest) -> Result<Self> {
        let image = snapshot.memory.as_ref().map(|memory| memory.image.clone());
        let restore = LazyRestore {
            snapshot: snapshot.id.clone(),
            name: snapshot.name.to_string(),
            image: image.ok_or_else(|| Error::failed("the snapshot has no memory"))?,
            qemu: None,
            loaded: false,
        };
        Begun::begin(charge, restore).map(Self)
    }

    /// Tells which QEMU is served, and sees to it that it is while the keeper lives.
    pub(crate) fn is_for(&mut self, qemu: ProcessMark, charge: &Charge) -> Result<Keeper> {
        self.0.tell(&charge.folder, |restore| restore.qemu = Some(qemu))?;
        Keeper::begin::<LazyRestore>(charge)
    }

    /// Whether somebody still serves.
    pub(crate) fn is_alive(&mut self, folder: &VmFolder) -> Result<bool> {
        self.0.is_alive(folder)
    }

    /// Tells that QEMU has loaded its devices.
    pub(crate) fn is_loaded(&mut self, folder: &VmFolder) -> Result<()> {
        self.0.tell(folder, |restore| restore.loaded = true)
    }

    /// Ends it: its QEMU will not be served. Its log says why.
    pub(crate) fn give_up(self, folder: &VmFolder, why: &Error) -> Result<()> {
        self.0.give_up(folder, why)
    }
}

/// Brings the record of a lazy restore up to date: removed where its QEMU is gone, servers started again where both
/// have died. With `held` the VM's lock is held, so that no restore is about to begin.
pub(crate) fn bring_up_to_date(ctx: &Context, charge: &Charge, held: bool) -> Result<()> {
    match background::adopt::<LazyRestore>(charge, held)? {
        Adopted::Nothing => recovery::forget_events(&charge.folder),
        Adopted::AsItWas => {}
        Adopted::Revived => ctx.note(Note::PageServerRevived),
    }
    Ok(())
}

/// The lazy restore that is under way on a VM, if there is one.
pub(crate) fn under_way(folder: &VmFolder) -> Option<LazyRestore> {
    // A record that can't be read counts as none.
    background::under_way(folder).unwrap_or_default()
}

/// How far it is.
pub(crate) fn progress(folder: &VmFolder) -> Progress {
    Progress::load::<LazyRestore>(folder)
}

/// Why the last lazy restore ended badly, where the VM was neither started nor restored since.
pub(crate) fn failure(folder: &VmFolder) -> Option<(LazyRestore, Failure)> {
    background::failure(folder).unwrap_or_default()
}

/// The error that says why a lazy restore ended badly.
pub(crate) fn failure_error(vm: &VmName, restore: &LazyRestore, failure: &Failure) -> Error {
    Error::new(
        failure.kind(),
        format!("VM '{vm}' was stopped: the memory of '{vm}@{}' could not be read", restore.name),
    )
    .because(Error::failed(failure.message.clone()))
    .with_hint(Hint::BootOrVerify { vm: vm.to_string(), snapshot: restore.name.clone() })
}

/// Forgets a lazy restore that ended badly: the VM is started or restored anew.
pub(crate) fn forget_failure(folder: &VmFolder) -> Result<()> {
    background::forget_failure::<LazyRestore>(folder)
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
        if let Some((restore, failure)) = failure(folder) {
            return Err(failure_error(vm, &restore, &failure));
        }
        if under_way(folder).is_none() {
            return Ok(());
        }
        if !told {
            told = true;
            ctx.note(Note::WaitingForMemory);
        }
        let Progress { done_bytes, total_bytes } = progress(folder);
        let _ = ctx.progress(Work::RestoringMemory, done_bytes, total_bytes);
        ctx.cancel.check("waiting for the memory of the last restore")?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ends the servers of a QEMU that is gone, and waits for them. Does nothing where there are none.
pub(crate) fn end(folder: &VmFolder) -> Result<()> {
    background::end::<LazyRestore>(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::{Job, Record};

    fn restore() -> LazyRestore {
        LazyRestore {
            snapshot: "0123456789abcdef".parse().unwrap(),
            name: "one".into(),
            image: "fedcba9876543210".into(),
            qemu: None,
            loaded: false,
        }
    }

    /// Guards a restore that is under way while vmrewind is replaced: the fields of `lazy.json` are as docs/format.md has them.
    #[test]
    fn the_record_s_format_is_the_released_one() {
        let (_dir, folder) = crate::testing::folder();
        let released = r#"{"version":1,"snapshot":"0123456789abcdef","name":"one","image":"fedcba9876543210",
            "qemu":{"pid":1,"start_ticks":2},"loaded":true,"failure":{"damaged":true,"message":"a page"}}"#;
        std::fs::write(folder.seat().join("lazy.json"), released).unwrap();
        let (found, told) = failure(&folder).unwrap();
        let qemu = Some(ProcessMark { pid: 1, start_ticks: 2 });
        assert!(found.qemu == qemu && found.loaded && told.damaged && told.message == "a page");
        Record::of(LazyRestore { qemu, ..restore() }).save(&folder).unwrap();
        let bytes = std::fs::read(folder.seat().join("lazy.json")).unwrap();
        let mut written: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert!(written.as_object_mut().unwrap().remove("checksum").is_some());
        let mut expected: serde_json::Value = serde_json::from_str(released).unwrap();
        expected["loaded"] = false.into();
        expected["failure"] = serde_json::Value::Null;
        assert_eq!(written, expected);
    }

    /// Guards a restore that has begun against a command that still thinks of the one before.
    #[test]
    fn restores_are_told_apart() {
        let other = LazyRestore { snapshot: "fedcba9876543210".parse().unwrap(), ..restore() };
        let again = LazyRestore { qemu: Some(ProcessMark { pid: 1, start_ticks: 2 }), ..restore() };
        let loaded = LazyRestore { loaded: true, ..restore() };
        assert!(!restore().is_same(&other) && !restore().is_same(&again) && restore().is_same(&loaded));
    }

    /// Guards everybody else's processes: after a reboot, or in another pid namespace, a record of a restore can name any of
    /// them, and a command that only lists would have it killed.
    #[test]
    fn a_process_that_is_not_the_vm_s_qemu_is_none_of_ours() {
        let (_dir, folder) = crate::testing::folder();
        let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let named = LazyRestore { qemu: ProcessMark::of(stranger.id()), ..restore() };
        assert!(named.qemu.is_some() && !named.is_wanted(&folder).unwrap());
        named.failed(&folder).unwrap();
        assert!(stranger.try_wait().unwrap().is_none(), "it was ended for another's failure");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
