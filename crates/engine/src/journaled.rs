//! Carries journaled plans out: undoes what was not committed, finishes what was.
//!
//! Both are idempotent and used alike by the operation itself and by the next command after a crash.

use std::time::{Duration, Instant};

use vmrewind_store::{ImageId, Store};

use crate::capture::receive::store_error;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::layers::fold::{fold_live, fold_stopped};
use crate::monitor::{Monitor, is_running};
use crate::record::journal::{Journal, Phase, RedoPlan, UndoPlan};
use crate::root::VmFolder;
use crate::root::file::{remove_file, sync_dir};
use crate::vm::process::Process;
use crate::vm::run_folder::socket;

/// How long a guest may take to be let go.
const LET_GO_PATIENCE: Duration = Duration::from_secs(30);

/// Finishes or undoes the operation that a dead command left on the VM. Returns what it was, if any.
pub(crate) fn recover(host: &Host, store: &Store, folder: &VmFolder) -> Result<Option<String>> {
    let Some(journal) = Journal::load(folder)? else { return Ok(None) };
    tracing::info!(operation = journal.operation, "recovering");
    match &journal.phase {
        Phase::Prepare(plan) => {
            host.progress.note(&format!("an interrupted '{}' is being undone", journal.operation));
            undo(host, store, folder, plan)
        }
        Phase::Commit(plan) => {
            host.progress.note(&format!("an interrupted '{}' is being finished", journal.operation));
            redo(host, store, folder, plan)
        }
    }
    .map_err(|error| {
        error.while_doing(format!("cannot recover from an interrupted '{}'", journal.operation))
    })?;
    Journal::clear(folder)?;
    Ok(Some(journal.operation))
}

/// Brings the VM back to how it was before the operation.
pub(crate) fn undo(host: &Host, store: &Store, folder: &VmFolder, plan: &UndoPlan) -> Result<()> {
    let process = Process::find(folder)?;
    let mut live = None;
    if let Some(process) = process {
        if plan.fold || plan.qemu == Some(process.mark) {
            let monitor = Monitor::connect(&process.run, socket::OPERATION)?;
            if plan.guest_ran {
                let_guest_go(&monitor)?;
            }
            host.reached("undo-guest-let-go");
            live = Some(monitor);
        } else {
            process.kill()?;
        }
    }
    for overlay in &plan.overlays {
        match (&live, plan.fold) {
            (Some(monitor), true) => fold_live(monitor, folder, overlay)?,
            (None, true) => fold_stopped(folder, overlay)?,
            (_, false) => remove_file(&folder.layer(&overlay.disk, &overlay.layer)).map(drop)?,
        }
    }
    host.reached("undo-layers-folded");
    if let Some(image) = &plan.image {
        remove_image(store, image)?;
        store.sweep(|_| false).map_err(|error| store_error("cannot tidy the store up", error))?;
    }
    Ok(())
}

/// Carries a decided operation out.
pub(crate) fn redo(host: &Host, store: &Store, folder: &VmFolder, plan: &RedoPlan) -> Result<()> {
    for manifest in &plan.write {
        manifest.save(folder)?;
    }
    host.reached("manifests-written");
    plan.record.save(folder)?;
    host.reached("record-written");
    for id in &plan.remove {
        remove_file(&folder.manifest(id))?;
    }
    sync_dir(&folder.snapshots())?;
    host.reached("manifests-removed");
    for layer in &plan.remove_layers {
        remove_file(&folder.layer(&layer.disk, &layer.layer))?;
    }
    for image in &plan.remove_images {
        remove_image(store, image)?;
    }
    host.reached("layers-removed");
    if plan.resume
        && let Some(process) = Process::find(folder)?
    {
        let_guest_go(&Monitor::connect(&process.run, socket::OPERATION)?)?;
    }
    Ok(())
}

/// Ends a migration that is under way, and waits until the guest runs.
fn let_guest_go(monitor: &Monitor) -> Result<()> {
    let deadline = Instant::now() + LET_GO_PATIENCE;
    loop {
        let over = monitor.migration()?.status.is_none_or(|status| status.is_over());
        if !over {
            monitor.cancel_migration()?;
        } else if is_running(&monitor.status()?) {
            return Ok(());
        } else if let Err(error) = monitor.cont()
            && Instant::now() >= deadline
        {
            return Err(error);
        }
        if Instant::now() >= deadline {
            return Err(Error::failed("QEMU does not let the guest run"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes a memory image and what was written of one.
pub(crate) fn remove_image(store: &Store, image: &str) -> Result<u64> {
    let id = image_id(image)?;
    let cannot = |error| store_error("cannot remove a memory image", error);
    store.remove_image(&id).map_err(cannot)
}

/// The store's form of an image id.
pub(crate) fn image_id(image: &str) -> Result<ImageId> {
    ImageId::new(image)
        .map_err(|error| Error::damaged("a snapshot names no valid memory image").because(error))
}
