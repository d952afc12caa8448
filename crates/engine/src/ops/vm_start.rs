//! Starts a VM on its active layers: its guest boots, or goes on from memory where it is a clone's first start.

use std::time::Instant;

use crate::context::Note;
use crate::engine::{HeldVm, Operation};
use crate::error::{Error, Result};
use crate::flat::Flat;
use crate::hint::Hint;
use crate::ids::VmName;
use crate::layers::base::check_all_unchanged;
use crate::layers::{frozen, qcow2};
use crate::lazy;
use crate::ops::launch::{Chains, Start};
use crate::ops::tidy::tidy;
use crate::record::snapshot::milliseconds;
use crate::record::snapshots::Snapshots;
use crate::record::vm::{DiskRecord, VmRecord};
use crate::view::clone::StartMode;
use crate::view::{GuestClock, VmView};
use crate::vm::spawn::{Purpose, Started};

/// How to start.
#[derive(Debug, Clone, Copy, Default)]
pub struct VmStart {
    /// The guest waits for `cont` on the QMP socket.
    pub paused: bool,
    /// A clone that was never started boots, in place of going on from its snapshot's memory.
    pub cold: bool,
}

/// What a start did.
#[derive(Debug)]
pub(crate) struct StartReport {
    /// Whether the guest booted.
    pub(crate) mode: StartMode,
    /// Whether its memory is shared with other clones.
    pub(crate) memory_shared: bool,
    /// Network devices whose links were unplugged.
    pub(crate) links_down: Vec<String>,
    /// From the begin to the guest running.
    pub(crate) start_ms: Option<f64>,
    /// What became of the clock of a guest that goes on.
    pub(crate) clock: Option<GuestClock>,
    /// What the user should know.
    pub(crate) notes: Vec<String>,
}

impl Operation {
    /// Starts a VM.
    ///
    /// # Errors
    /// `Refused` where it runs already or a base was changed, `Failed` with QEMU's words where QEMU does not start.
    pub fn vm_start(&self, name: &VmName, how: VmStart) -> Result<VmView> {
        let report = self.start(name, how)?;
        if !report.links_down.is_empty() {
            let devices = report.links_down.clone();
            self.ctx.note(Note::LinksUnplugged { vm: name.to_string(), devices });
        }
        for note in &report.notes {
            self.ctx.note(Note::OfGuest { text: note.clone() });
        }
        Ok(self.shown_after(name))
    }

    /// Starts a VM, and tells how.
    pub(crate) fn start(&self, name: &VmName, how: VmStart) -> Result<StartReport> {
        let begun = Instant::now();
        let mut held = self.hold_vm(name)?;
        if let Some(machine) = self.ctx.machines().find(&held.folder)? {
            return Err(Error::refused(format!("VM '{name}' runs already (pid {})", machine.mark().pid))
                .with_hint(Hint::StopVm { vm: name.to_string() }));
        }
        frozen::check_not_older(&held.folder, &held.record, &Snapshots::load(&held.folder)?)?;
        check_all_unchanged(&held.record)?;
        frozen::check_present(&held.folder, &held.record)?;
        lazy::forget_failure(&held.folder)?;
        tidy(&self.ctx, &held.folder, &held.record)?;
        if let Some(first) = held.record.first_start.clone() {
            if !how.cold {
                refuse_written(&held)?;
                return self.start_warm(&held, &first, how, begun);
            }
            // From here on it is a VM like any other, whatever becomes of this start.
            held.record.first_start = None;
            held.record.save(&held.folder)?;
        }
        self.boot(&held, how, begun)
    }

    /// Starts QEMU with the VM's own hardware, on its active layers.
    pub(crate) fn spawn(&self, held: &HeldVm, flat: Option<&Flat>, purpose: Purpose) -> Result<Started> {
        self.launch_vm(Start {
            folder: &held.folder,
            record: &held.record,
            hardware: &held.record.hardware,
            chains: &chains(&held.record),
            flat,
            purpose,
            beside: None,
        })
    }

    fn boot(&self, held: &HeldVm, how: VmStart, begun: Instant) -> Result<StartReport> {
        let started = self.spawn(held, None, if how.paused { Purpose::BootPaused } else { Purpose::Boot })?;
        let (name, version) = (&held.record.name, started.monitor()?.version());
        tracing::info!(vm = %name, pid = started.machine.mark().pid, qemu = version, "started");
        Ok(StartReport {
            mode: StartMode::Cold,
            memory_shared: false,
            links_down: Vec::new(),
            start_ms: (!how.paused).then(|| milliseconds(begun.elapsed())),
            clock: None,
            notes: Vec::new(),
        })
    }
}

/// A clone's memory fits its disks only as long as nobody has written to them: a record that was put back can say what is no
/// longer so.
fn refuse_written(held: &HeldVm) -> Result<()> {
    let (folder, vm) = (&held.folder, &held.record.name);
    for disk in &held.record.disks {
        let path = folder.layer(&disk.name, &disk.active);
        if qcow2::has_data(&path)? {
            return Err(Error::damaged(format!(
                "'{}' says that VM '{vm}' was never started, but '{}' was written to",
                folder.record().display(),
                path.display()
            ))
            .with_hint(Hint::BootCloneCold { vm: vm.to_string() }));
        }
    }
    Ok(())
}

/// Each disk's layers, from the active one down.
fn chains(record: &VmRecord) -> Chains {
    let chain = |disk: &DiskRecord| (disk.name.clone(), disk.chain(&disk.active).unwrap_or_default());
    record.disks.iter().map(chain).collect()
}
