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

use std::fs;
use std::num::NonZero;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::engine::{Engine, Held};
use crate::error::{Error, ErrorKind, Result};
use crate::identity::{self, Identity};
use crate::ids::{Address, LayerId, VmId, VmName};
use crate::layers::{base, overlay};
use crate::ops::vm_start::{StartReport, VmStart};
use crate::record::RECORD_VERSION;
use crate::record::journal::Overlay;
use crate::record::snapshot::{Manifest, milliseconds};
use crate::record::vm::{BaseLayer, BaseRecord, CloneOrigin, DiskRecord, FirstStart, LayerRecord, VmRecord};
use crate::root::VmFolder;
use crate::root::file::{io_error, make_dir, sync_dir, sync_file};
use crate::root::lock::VmLock;
use crate::view::clone::{CloneView, ClonesView, StartMode};
use crate::vm::run_folder;

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
    /// Leave network links as they were in the snapshot.
    pub link_up: bool,
}

/// A clone that is being made. Its lock is held until it is dropped.
struct Draft {
    folder: VmFolder,
    record: VmRecord,
    _lock: Option<VmLock>,
}

impl Engine {
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
            Some(memory) => self.flat(&memory.image, &snapshot.hardware)?.ok(),
            None => None,
        };
        let first = self.identity_of(&names, &snapshot, start)?;
        let (changed, not_unique) = (first.changed.clone(), first.not_unique.clone());
        let made = self.make_all(request, &held, &snapshot, names, first)?;
        drop(held);
        let mut starts = if request.start { self.start_all(&made) } else { Vec::new() };
        // Each QEMU holds the memory file by itself now.
        drop(flat);
        starts.resize_with(made.len(), || None);
        let mut notes: Vec<String> = Vec::new();
        for note in starts.iter().flatten().flatten().flat_map(|report| &report.notes) {
            if !notes.contains(note) {
                notes.push(note.clone());
            }
        }
        let clones = made.iter().zip(starts).map(|(record, started)| self.clone_view(record, start, started));
        let clones = clones.collect::<Result<_>>()?;
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

    fn identity_of(&self, names: &[VmName], snapshot: &Manifest, start: StartMode) -> Result<Identity> {
        let name = names.first().ok_or_else(|| Error::usage("no clone is asked for"))?;
        identity::of_clone(&self.host, &snapshot.hardware, name, start)
    }

    /// Makes all drafts and lets them appear. A failure before the first one appears leaves nothing.
    fn make_all(
        &self,
        request: &VmClone,
        held: &Held,
        snapshot: &Manifest,
        names: Vec<VmName>,
        first: Identity,
    ) -> Result<Vec<VmRecord>> {
        let bases = self.bases(held, snapshot)?;
        let mut drafts: Vec<Draft> = Vec::new();
        let mut first = Some(first);
        let make = || -> Result<()> {
            for name in names {
                self.check_cancel("making clones")?;
                let identity = match first.take() {
                    Some(identity) => identity,
                    None => identity::of_clone(&self.host, &snapshot.hardware, &name, StartMode::Warm)?,
                };
                let record = self.record_of(request, held, snapshot, &bases, (name, identity));
                let folder = VmFolder::at(self.root.vms().join(format!(".new-{}", record.id)));
                make_dir(folder.path())?;
                let lock = VmLock::try_take(&folder.lock())?;
                drafts.push(Draft { folder, record, _lock: lock });
                let (made, before) = drafts.split_last().ok_or_else(|| Error::failed("no draft"))?;
                fill(made, before.first())?;
                self.host.reached("draft-made");
            }
            Ok(())
        };
        if let Err(error) = make() {
            drafts.iter().for_each(|draft| drop(fs::remove_dir_all(draft.folder.path())));
            return Err(error);
        }
        self.let_appear(drafts)
    }

    /// Gives the drafts their names.
    fn let_appear(&self, drafts: Vec<Draft>) -> Result<Vec<VmRecord>> {
        let mut appeared = Vec::new();
        let mut failed = None;
        for draft in drafts {
            if failed.is_none() {
                failed = self.appear(&draft.record.name, &draft.folder).err();
            }
            if failed.is_some() {
                let _ = fs::remove_dir_all(draft.folder.path());
                continue;
            }
            self.host.reached("clone-appeared");
            let _ = run_folder::prepare(&self.root.vm(&draft.record.name), &draft.record.id);
            appeared.push(draft.record);
        }
        match failed {
            None => Ok(appeared),
            Some(error) if appeared.is_empty() => Err(error),
            Some(error) => {
                let names: Vec<&str> = appeared.iter().map(|record| record.name.as_str()).collect();
                Err(error
                    .while_doing(format!("not all clones were made, only {}", names.join(", ")))
                    .with_kind(ErrorKind::Partial))
            }
        }
    }

    /// The record of one clone.
    fn record_of(
        &self,
        request: &VmClone,
        held: &Held,
        snapshot: &Manifest,
        bases: &[(String, BaseRecord)],
        (name, identity): (VmName, Identity),
    ) -> VmRecord {
        let on_base = |(disk, base): &(String, BaseRecord)| {
            let layer = LayerId::random(&self.host);
            let layers = vec![LayerRecord { id: layer.clone(), parent: None }];
            DiskRecord { name: disk.clone(), base: base.clone(), layers, active: layer }
        };
        VmRecord {
            version: RECORD_VERSION,
            id: VmId::random(&self.host),
            name,
            created: self.host.clock.now(),
            hardware: identity.hardware,
            disks: bases.iter().map(on_base).collect(),
            media: held.record.media.clone(),
            current: None,
            origin: Some(CloneOrigin {
                vm: held.record.name.clone(),
                vm_id: held.record.id.clone(),
                snapshot: snapshot.name.clone(),
                snapshot_id: snapshot.id.clone(),
            }),
            first_start: first_start(request, snapshot),
        }
    }

    /// The snapshot's frozen layers as bases. The whole chain below each must be there.
    fn bases(&self, held: &Held, snapshot: &Manifest) -> Result<Vec<(String, BaseRecord)>> {
        let doing = || format!("snapshot '{}@{}' can't be cloned", held.record.name, snapshot.name);
        let mut bases = Vec::new();
        for frozen in &snapshot.disks {
            held.check_chain(&frozen.name, &frozen.layer).map_err(|error| error.while_doing(doing()))?;
            let layer = BaseLayer {
                vm: held.record.name.clone(),
                vm_id: held.record.id.clone(),
                disk: frozen.name.clone(),
                layer: frozen.layer.clone(),
            };
            let record = base::of_layer(&held.folder, layer).map_err(|error| error.while_doing(doing()))?;
            bases.push((frozen.name.clone(), record));
        }
        Ok(bases)
    }

    /// Starts the clones, several at once. A result for each, in order.
    fn start_all(&self, made: &[VmRecord]) -> Vec<Option<Result<StartReport>>> {
        let next = AtomicUsize::new(0);
        let results: Vec<OnceLock<Result<StartReport>>> = made.iter().map(|_| OnceLock::new()).collect();
        let work = || {
            while let Some((record, result)) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                made.get(at).zip(results.get(at))
            } {
                let started = self.check_cancel("starting clones");
                let started = started.and_then(|()| self.start(&record.name, VmStart::default()));
                let _ = result.set(started);
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        std::thread::scope(|scope| {
            for _ in 1..made.len().min(cores * 2) {
                scope.spawn(work);
            }
            work();
        });
        results.into_iter().map(OnceLock::into_inner).collect()
    }

    fn clone_view(
        &self,
        record: &VmRecord,
        start: StartMode,
        started: Option<Result<StartReport>>,
    ) -> Result<CloneView> {
        let error = started.as_ref().and_then(|started| started.as_ref().err()).map(with_causes);
        let report = started.and_then(Result::ok);
        let shown = self.vm_show(&record.name)?;
        Ok(CloneView {
            name: shown.name,
            id: record.id.to_string(),
            start: report.as_ref().map_or(start, |report| report.mode),
            memory_shared: report.as_ref().is_some_and(|report| report.memory_shared),
            state: shown.state,
            pid: shown.pid,
            qmp: shown.qmp,
            run: shown.run,
            start_ms: report.as_ref().and_then(|report| report.start_ms),
            links_down: report.map(|report| report.links_down).unwrap_or_default(),
            error,
        })
    }
}

/// The names of the clones, each once.
fn names(request: &VmClone) -> Result<Vec<VmName>> {
    let Some(count) = request.count else { return Ok(vec![request.name.clone()]) };
    if !(1..=CLONES_MAX).contains(&count) {
        return Err(Error::usage(format!("{count} clones can't be made"))
            .hint(format!("--count takes a number from 1 to {CLONES_MAX}")));
    }
    (1..=count).map(|number| format!("{}-{number}", request.name).parse()).collect()
}

/// An error with its causes in one line.
fn with_causes(error: &Error) -> String {
    [vec![error.to_string()], error.causes()].concat().join(": ")
}

fn first_start(request: &VmClone, snapshot: &Manifest) -> Option<FirstStart> {
    let memory = snapshot.memory.as_ref().filter(|_| !request.cold)?;
    Some(FirstStart {
        image: memory.image.clone(),
        guest_running: snapshot.guest_running,
        link_up: request.link_up,
    })
}

/// Fills a draft's folder, durably. Its empty deltas say the same as those of `like`, a clone of the same snapshot.
fn fill(draft: &Draft, like: Option<&Draft>) -> Result<()> {
    make_dir(&draft.folder.snapshots())?;
    for disk in &draft.record.disks {
        let layer = Overlay { disk: disk.name.clone(), layer: disk.active.clone(), parent: None };
        let same = like.and_then(|like| Some((like, like.record.disk(&disk.name)?)));
        match same {
            None => overlay::make(&draft.folder, disk, &layer)?,
            Some((like, model)) => {
                make_dir(&draft.folder.disk(&disk.name))?;
                let from = like.folder.layer(&model.name, &model.active);
                let to = draft.folder.layer(&disk.name, &disk.active);
                fs::copy(&from, &to).map_err(|error| {
                    io_error(&format!("cannot make a layer for disk '{}'", disk.name), error)
                })?;
                sync_file(&to)?;
                sync_dir(&draft.folder.disk(&disk.name))?;
            }
        }
    }
    draft.record.save(&draft.folder)?;
    sync_dir(draft.folder.path())
}
