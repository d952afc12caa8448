//! Shows VMs, from their records and their real processes.

use std::collections::BTreeMap;
use std::time::Instant;

use vmrewind_qemu::cmdline::CommandLine;

use crate::background::Progress;
use crate::context::Note;
use crate::engine::{Operation, Seen};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::VmName;
use crate::layers::below::below;
use crate::lazy;
use crate::ops::vm_state::{self, VmState};
use crate::parallel;
use crate::record::snapshot::Origin;
use crate::record::vm::DiskRecord;
use crate::root::VmFolder;
use crate::root::file::allocated_bytes;
use crate::view::clone::{OriginView, StartMode};
use crate::view::{DiskState, Listing, RestoreFailure, RestoreProgress, VmView};
use crate::vm::ports::ports_in_use;
use crate::vm::run_folder::{self, socket};
use crate::vm::spawn;

impl Operation {
    /// All VMs, by name. Several are asked at once, so that QEMUs that hang are waited for together.
    ///
    /// # Errors
    /// `Failed` where the root can't be read. One VM that can't be does not hide the others.
    pub fn vm_list(&self) -> Result<Listing<VmView>> {
        let names = self.root.vm_names()?;
        let since = Instant::now();
        let shown = parallel::each(&names, |name| self.show(name, since));
        let mut listing = Listing::default();
        for (name, shown) in names.iter().zip(shown) {
            match shown {
                Ok(view) => listing.items.push(view),
                // It was deleted while we looked.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    listing.items.push(self.unreadable(name, &error));
                    listing.unreadable.push(error);
                }
            }
        }
        Ok(listing)
    }

    /// One VM.
    ///
    /// # Errors
    /// `NotFound`, `Damaged`.
    pub fn vm_show(&self, name: &VmName) -> Result<VmView> {
        self.show(name, Instant::now())
    }
}

impl Operation {
    fn show(&self, name: &VmName, since: Instant) -> Result<VmView> {
        let seen = self.look(name)?;
        let state = vm_state::ask_since(self.ctx.machines(), &seen.folder, since)?;
        let run = run_folder::for_users(&seen.folder);
        let line = CommandLine::parse(&seen.record.hardware.command_line).ok();
        Ok(VmView {
            name: name.to_string(),
            restore: restore_of(&seen.folder, &state),
            state: state.word,
            pid: state.pid,
            qmp: state.pid.map(|_| run.join(socket::USER)),
            ports: if state.pid.is_some() { ports_in_use(&run) } else { BTreeMap::new() },
            disks: seen.record.disks.iter().map(|disk| disk_state(&seen.folder, disk)).collect(),
            snapshots: seen.snapshots.sound.iter().filter(|snapshot| snapshot.origin == Origin::User).count(),
            damaged_snapshots: seen
                .snapshots
                .damaged
                .iter()
                .map(|snapshot| snapshot.id.to_string())
                .collect(),
            current: current_name(&seen),
            created: Some(seen.record.created),
            machine: line.as_ref().and_then(CommandLine::machine_type),
            memory_bytes: line.as_ref().and_then(|line| line.memory_bytes().ok()),
            cpus: line.as_ref().and_then(|line| line.cpus().ok()),
            qemu_version: seen.record.hardware.qemu_version.clone(),
            command_line: seen.record.hardware.command_line.clone(),
            origin: seen.record.origin.as_ref().map(OriginView::of),
            next_start: StartMode::of(&seen.record),
            operation: seen.operation,
            failure: lazy::failure(&seen.folder).map(|(restore, failure)| RestoreFailure {
                snapshot: restore.name,
                kind: failure.kind(),
                message: failure.message,
            }),
            log: spawn::log_path(&run),
            run,
        })
    }

    /// The VM after something was done to it: that it can't be shown is no failure of what was done.
    pub(crate) fn shown_after(&self, name: &VmName) -> VmView {
        self.vm_show(name).unwrap_or_else(|error| {
            let view = self.unreadable(name, &error);
            let state = if view.pid.is_some() { "running" } else { "stopped" };
            self.ctx.note(Note::NotShown { vm: name.to_string(), error: error.in_one_line() });
            VmView { state: state.into(), ..view }
        })
    }

    /// What can be said of a VM whose record can't be read.
    fn unreadable(&self, name: &VmName, error: &Error) -> VmView {
        let folder = self.root.vm(name);
        let machine = self.ctx.machines().find(&folder).ok().flatten();
        let state = if error.kind() == ErrorKind::Damaged { "damaged" } else { "unreadable" };
        let run = run_folder::for_users(&folder);
        VmView {
            name: name.to_string(),
            state: state.into(),
            pid: machine.map(|machine| machine.mark().pid),
            qmp: None,
            ports: BTreeMap::new(),
            disks: Vec::new(),
            snapshots: 0,
            damaged_snapshots: Vec::new(),
            current: None,
            created: None,
            machine: None,
            memory_bytes: None,
            cpus: None,
            qemu_version: String::new(),
            command_line: Vec::new(),
            origin: None,
            next_start: StartMode::Cold,
            operation: None,
            restore: None,
            failure: None,
            log: spawn::log_path(&run),
            run,
        }
    }
}

/// The restore whose memory still comes in.
fn restore_of(folder: &VmFolder, state: &VmState) -> Option<RestoreProgress> {
    let restore = lazy::under_way(folder).filter(|_| state.pid.is_some())?;
    let Progress { done_bytes, total_bytes } = lazy::progress(folder);
    Some(RestoreProgress { snapshot: restore.name, guest: state.guest.clone(), done_bytes, total_bytes })
}

fn current_name(seen: &Seen) -> Option<String> {
    let id = seen.record.current.as_ref()?;
    seen.snapshots.by_id(id).map(|snapshot| snapshot.name.to_string())
}

fn disk_state(folder: &VmFolder, disk: &DiskRecord) -> DiskState {
    let active = folder.layer(&disk.name, &disk.active);
    DiskState {
        name: disk.name.clone(),
        active_bytes: allocated_bytes(&active),
        active,
        chain: chain_of(folder, disk),
        virtual_bytes: disk.base.virtual_bytes,
    }
}

fn chain_of(folder: &VmFolder, disk: &DiskRecord) -> Vec<String> {
    let layers = disk.chain(&disk.active).unwrap_or_default();
    let layers = layers.iter().map(|layer| folder.layer(&disk.name, layer).display().to_string());
    layers.chain(below(folder, &disk.base)).collect()
}
