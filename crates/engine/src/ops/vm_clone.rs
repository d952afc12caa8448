//! Makes VMs of a snapshot: each on deltas of its own over the snapshot's frozen layers, with an identity of its own.
//!
//! ```text
//!  plan     names, snapshot, layers, identities                                  nothing is changed
//!  make     under the parent's lock: all VMs as drafts, .new-ID                  a crash leaves drafts: swept
//!  appear   one rename each, under the parent's lock too                         a crash leaves those that appeared
//!  start    the parent's lock is given up; several at once                       each as `vm start`
//! ```
//! A clone is whole or not there. The parent's lock is held from the moment its layers are looked at until the last
//! clone has its name, so nobody can delete a layer in between; from then on the clones' records keep it.

use std::time::Instant;

use crate::engine::Operation;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::identity;
use crate::ids::{Address, VmName};
use crate::layers::base;
use crate::ops::clone_make::Making;
use crate::ops::vm_start::{StartReport, VmStart};
use crate::parallel;
use crate::record::snapshot::{Manifest, milliseconds};
use crate::record::vm::{FirstStart, VmRecord};
use crate::view::clone::{CloneView, ClonesView, InsideView, StartMode};

/// The most clones that one command makes.
const CLONES_MAX: u32 = 1000;

/// A request to clone a snapshot.
#[derive(Debug, Clone)]
pub struct VmClone {
    /// Which.
    pub address: Address,
    /// The clone's name; with `count` the names are NAME-1 to NAME-N.
    pub name: VmName,
    /// How many; one of exactly that name if not given.
    pub count: Option<u32>,
    /// Start them.
    pub start: bool,
    /// Boot them in place of going on from memory.
    pub cold: bool,
    /// Leave network links as they were in the snapshot; with `inside`, plug them once that has ended well.
    pub link_up: bool,
    /// A command for the guest of each clone that was started, run by its agent.
    pub inside: Option<String>,
}

/// What came of a clone's start.
#[derive(Default)]
struct Tended {
    report: Option<StartReport>,
    inside: Option<InsideView>,
    error: Option<Error>,
}

impl Operation {
    /// Makes clones of a snapshot, and starts them if asked to.
    ///
    /// # Errors
    /// `Usage` for a bad count or name; `NotFound`; `Refused` where a name is taken or a base was changed; `Damaged`
    /// where the snapshot's layers are not all there: nothing is made then. A clone that is made and can't be started
    /// says so itself.
    pub fn vm_clone(&self, request: &VmClone) -> Result<ClonesView> {
        let begun = Instant::now();
        let names = names(request)?;
        let held = self.hold(&request.address.vm)?;
        let snapshot = held.snapshots.by_name(&held.record, &request.address.snapshot)?.clone();
        for name in &names {
            self.check_name_free(name)?;
        }
        base::check_all_unchanged(&held.record)?;
        let start = if first_start(request, &snapshot).is_some() { StartMode::Warm } else { StartMode::Cold };
        // Made before the clones are: a full disk or a damaged image must not leave half of what was asked for.
        let flat = match snapshot.memory.as_ref().filter(|_| request.start && start == StartMode::Warm) {
            Some(memory) => self.memory_file(&memory.image, &snapshot.hardware)?.ok(),
            None => None,
        };
        let identity = |name: VmName| {
            let identity = identity::of_clone(&self.ctx.host, &snapshot.hardware, &name, start)?;
            Ok((name, identity))
        };
        let identities = names.into_iter().map(identity).collect::<Result<Vec<_>>>()?;
        let first = identities.first().map(|(_, first)| (first.changed.clone(), first.not_unique.clone()));
        let (changed, not_unique) = first.unwrap_or_default();
        let making = Making { request, held: &held, snapshot: &snapshot };
        let made = self.make_clones(&making, identities)?;
        drop(held);
        tracing::info!(count = made.len(), "clones made");
        let tended = parallel::each(&made, |record| {
            if request.start { self.start_one(request, record) } else { Tended::default() }
        });
        // Each QEMU holds the memory file by itself now.
        drop(flat);
        let notes = notes_of(&tended);
        let clones =
            made.iter().zip(tended).map(|(record, tended)| self.clone_view(record, start, tended)).collect();
        Ok(ClonesView {
            vm: request.address.vm.to_string(),
            snapshot: snapshot.name.to_string(),
            clones,
            changed,
            not_unique,
            notes,
            total_ms: milliseconds(begun.elapsed()),
        })
    }

    /// Starts a clone, and has the command run in it.
    fn start_one(&self, request: &VmClone, record: &VmRecord) -> Tended {
        let started = self.check_cancel("starting clones");
        let mut report = match started.and_then(|()| self.start(&record.name, VmStart::default())) {
            Ok(report) => report,
            Err(error) => return Tended { error: Some(error), ..Tended::default() },
        };
        let (inside, error) = match &request.inside {
            Some(command) => self.make_unique(record, &mut report, command, request.link_up),
            None => (None, None),
        };
        Tended { report: Some(report), inside, error }
    }

    fn clone_view(&self, record: &VmRecord, start: StartMode, tended: Tended) -> CloneView {
        let Tended { report, inside, error } = tended;
        let shown = self.shown_after(&record.name);
        CloneView {
            name: shown.name,
            id: record.id.to_string(),
            start: report.as_ref().map_or(start, |report| report.mode),
            memory_shared: report.as_ref().is_some_and(|report| report.memory_shared),
            state: shown.state,
            pid: shown.pid,
            qmp: shown.qmp,
            run: shown.run,
            start_ms: report.as_ref().and_then(|report| report.start_ms),
            clock: report.as_ref().and_then(|report| report.clock),
            inside,
            links_down: report.map(|report| report.links_down).unwrap_or_default(),
            error: error.as_ref().map(with_causes),
        }
    }
}

/// The names of the clones, each once.
fn names(request: &VmClone) -> Result<Vec<VmName>> {
    let Some(count) = request.count else { return Ok(vec![request.name.clone()]) };
    if !(1..=CLONES_MAX).contains(&count) {
        return Err(Error::usage(format!("{count} clones can't be made"))
            .with_hint(Hint::CloneCount { most: CLONES_MAX }));
    }
    (1..=count).map(|number| format!("{}-{number}", request.name).parse()).collect()
}

/// What there is to say of the starts, each thing once.
fn notes_of(tended: &[Tended]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for note in tended.iter().filter_map(|it| it.report.as_ref()).flat_map(|report| &report.notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    notes
}

/// An error with its causes in one line.
fn with_causes(error: &Error) -> String {
    [vec![error.to_string()], error.causes()].concat().join(": ")
}

/// How the first start of a clone goes on from memory; `None` where it boots.
pub(super) fn first_start(request: &VmClone, snapshot: &Manifest) -> Option<FirstStart> {
    let memory = snapshot.memory.as_ref().filter(|_| !request.cold)?;
    Some(FirstStart {
        image: memory.image.clone(),
        guest_running: snapshot.guest_running,
        // Plugged by the command that makes the guest unique, once it has.
        link_up: request.link_up && request.inside.is_none(),
    })
}

#[cfg(test)]
mod tests;
