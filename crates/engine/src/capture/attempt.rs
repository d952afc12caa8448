//! One attempt to capture a running VM, start to end.
//!
//! Ready before the guest is stopped: QEMU, the new layers opened in it, image and guard. Then the shot, and the image's end.

use std::time::Duration;

use jiff::Timestamp;
use vmrewind_qemu::cmdline::{Backing, BlockHandle, CommandLine, DiskSpec, Placeholders};
use vmrewind_qemu::stream::Limits;
use vmrewind_store::{ImageSummary, ImageWriter, Store, WriteOptions};

use crate::capture::guard::{Guard, Watch};
use crate::capture::method::Bounds;
use crate::capture::shot::{Miss, Shot};
use crate::context::Context;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::ids::{SnapshotId, VmName};
use crate::images::{image_id, store_error};
use crate::machine_image;
use crate::migration::put_back_or_owe;
use crate::monitor::{DiskSwitch, Monitor};
use crate::record::journal::{MigrationSettings, Overlay};
use crate::record::snapshot::Method;
use crate::record::vm::VmRecord;
use crate::record::working_set::WorkingSet;
use crate::root::VmFolder;
use crate::vm::machine::{Machine, Use};
use crate::vm::ports;

/// Space that must stay free in the store beside a memory image.
const SPACE_RESERVE_BYTES: u64 = 64 << 20;

/// What is captured: a running VM whose new layers are made.
pub(crate) struct Subject<'a> {
    /// Progress and cancellation.
    pub(crate) ctx: &'a Context,
    /// The VM's folder.
    pub(crate) folder: &'a VmFolder,
    /// Its record, the new layers not in it yet.
    pub(crate) record: &'a VmRecord,
    /// Its QEMU.
    pub(crate) machine: &'a dyn Machine,
    /// The new layers.
    pub(crate) overlays: &'a [Overlay],
    /// Whether the guest runs and is to run afterwards.
    pub(crate) guest_runs: bool,
    /// QEMU's migration settings, which a capture of the memory puts back.
    pub(crate) migration: Option<&'a MigrationSettings>,
}

/// Where its memory goes, and how.
pub(crate) struct Destination<'a> {
    /// The store of memory images.
    pub(crate) store: &'a Store,
    /// The snapshot, whose image will have the same id.
    pub(crate) id: &'a SnapshotId,
    /// The image before it: what did not change since is there.
    pub(crate) parent: Option<&'a str>,
    /// By which method.
    pub(crate) method: Method,
    /// How long the guest may stand still.
    pub(crate) max_pause: Option<Duration>,
}

/// The instant of a snapshot, and the memory of it.
pub(crate) struct Moment {
    /// STOP to RESUME as QEMU reported them; nothing where the guest did not stand still.
    pub(crate) pause: Duration,
    /// By the host's clock.
    pub(crate) at: Timestamp,
    /// The memory image, durable.
    pub(crate) memory: Option<ImageSummary>,
    /// A guess at what the guest will touch first.
    pub(crate) guess: Option<WorkingSet>,
}

impl Moment {
    /// The present, of disks alone.
    pub(crate) fn now(ctx: &Context) -> Self {
        Self { pause: Duration::ZERO, at: ctx.now(), memory: None, guess: None }
    }
}

/// Captures memory, devices and disks of one instant. When this returns the guest runs again, or its guard sees to it, and
/// the memory image is durable; the new layers are the active ones.
///
/// # Errors
/// What another method may do better, or what none will. Layers and image are the caller's to undo.
pub(crate) fn capture(subject: &Subject<'_>, into: &Destination<'_>) -> Result<Moment, Miss> {
    let ctx = subject.ctx;
    let monitor = subject.machine.channel(Use::Operation)?;
    refuse_blocked(&monitor, &subject.record.name)?;
    let disks = open_overlays(subject, &monitor)?;
    ctx.reached("layers-opened");
    let image = begin_image(subject, into)?;
    let guard = guard(subject)?;
    ctx.reached("guard-armed");
    let shot = Shot {
        ctx,
        monitor: &monitor,
        run: subject.machine.run(),
        disks: &disks,
        guest_runs: subject.guest_runs,
        max_pause: into.max_pause,
        bounds: Bounds::default(),
        limits: Limits { require_description: is_described(subject.record), ..Limits::default() },
    };
    let taken = shot.take(into.method, image);
    // A guest that could not be let go is left to the guard, which acts once its pipe closes.
    match guard {
        Some(guard) if shot.guest_is_let_go() => guard.disarm(),
        _ => {}
    }
    let taken = taken?;
    ctx.reached("memory-taken");
    // The guest runs again. What fails before is undone, and this with it.
    if let Some(settings) = subject.migration {
        put_back_or_owe(&monitor, subject.machine.mark(), subject.machine.run(), settings);
    }
    let guess = (!taken.received.guess.is_empty())
        .then(|| WorkingSet::of(&taken.received.captured.blocks, &taken.received.guess));
    let memory = machine_image::finish(taken.received.captured, taken.received.image)?;
    ctx.reached("image-durable");
    Ok(Moment { pause: taken.pause, at: taken.instant, memory: Some(memory), guess })
}

/// Puts the new layers on top of the disks of a guest that goes on running: an instant without memory.
///
/// # Errors
/// QEMU's; the layers are the caller's to undo.
pub(crate) fn capture_disks(subject: &Subject<'_>) -> Result<Moment> {
    let monitor = subject.machine.channel(Use::Operation)?;
    let disks = open_overlays(subject, &monitor)?;
    subject.ctx.reached("layers-opened");
    monitor.switch_disks(&disks)?;
    subject.ctx.reached("disks-switched");
    Ok(Moment::now(subject.ctx))
}

/// Whether the stream ends with a description of the devices.
fn is_described(record: &VmRecord) -> bool {
    !record.hardware.command_line.iter().any(|word| word.contains("suppress-vmdesc=on"))
}

/// Begins the memory image, after making sure that there is room for it.
fn begin_image(subject: &Subject<'_>, into: &Destination<'_>) -> Result<ImageWriter> {
    let cannot = |error| store_error("cannot begin a memory image", error);
    let free = into.store.free_bytes().map_err(cannot)?;
    // What QEMU holds in memory bounds what the guest ever touched.
    let need = subject.machine.resident_bytes().unwrap_or(0).saturating_add(SPACE_RESERVE_BYTES);
    if free < need {
        return Err(Error::failed(format!(
            "not enough space for the guest's memory: up to {} MiB may be needed, {} MiB are free",
            need >> 20,
            free >> 20
        ))
        .with_hint(Hint::FreeSpaceOrWithoutMemory));
    }
    let parent = into.parent.map(image_id).transpose()?;
    let options = WriteOptions { parent, ..WriteOptions::default() };
    into.store.create_image(image_id(into.id.as_str())?, options).map_err(cannot)
}

/// A guard, armed, where there is a running guest to look after.
fn guard(subject: &Subject<'_>) -> Result<Option<Guard>> {
    if !subject.guest_runs {
        return Ok(None);
    }
    let mut guard = Guard::start(subject.ctx, subject.folder)?;
    guard.arm(Watch::Pause)?;
    Ok(Some(guard))
}

/// Refuses a VM whose devices QEMU can't capture, saying which.
fn refuse_blocked(monitor: &Monitor, vm: &VmName) -> Result<()> {
    let migration = monitor.migration()?;
    if migration.status.is_some_and(|status| !status.is_over()) {
        return Err(Error::new(ErrorKind::Busy, format!("a migration of VM '{vm}' is under way"))
            .with_hint(Hint::WaitUntilOver));
    }
    let reasons = migration.blocked_reasons;
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!("the memory of VM '{vm}' can't be captured: {}", reasons.join("; ")))
        .with_hint(Hint::RemoveDevice))
}

/// Opens each new layer in QEMU, with no backing yet, and says where it will go.
fn open_overlays(subject: &Subject<'_>, monitor: &Monitor) -> Result<Vec<DiskSwitch>> {
    let specs = specs_of_running(subject)?;
    let nodes = monitor.nodes()?;
    let is_node = |name: &str| nodes.iter().any(|node| node.node_name.as_deref() == Some(name));
    let mut switches = Vec::new();
    for overlay in subject.overlays {
        let spec = specs.iter().find(|spec| spec.name == overlay.disk).ok_or_else(|| {
            Error::failed(format!("disk '{}' is not in the VM's command line any more", overlay.disk))
        })?;
        let active = overlay.parent.as_ref().map(crate::ids::LayerId::node_name);
        let node = match (&spec.handle, active) {
            (BlockHandle::Device(device), _) => device.clone(),
            // The command line's node, until a layer was put on top of it in this process.
            (BlockHandle::Node(_), Some(active)) if is_node(&active) => active,
            (BlockHandle::Node(node), _) => node.clone(),
        };
        let path = subject.folder.layer(&overlay.disk, &overlay.layer);
        let path =
            path.to_str().ok_or_else(|| Error::failed(format!("'{}' is not UTF-8", path.display())))?;
        let name = overlay.layer.node_name();
        monitor.add_node(spec.options.blockdev_json(&name, path, &Backing::Null))?;
        switches.push(DiskSwitch { node, overlay: name });
    }
    Ok(switches)
}

/// The disks of the command line that the running QEMU was started with.
fn specs_of_running(subject: &Subject<'_>) -> Result<Vec<DiskSpec>> {
    let bad = || format!("the command line of VM '{}' can't be used", subject.record.name);
    let template = CommandLine::parse(&subject.record.hardware.command_line).context(bad)?;
    let values = Placeholders {
        name: subject.record.name.to_string(),
        run: subject.machine.run().to_string_lossy().into_owned(),
        ports: ports::ports_in_use(subject.machine.run()),
    };
    template.substitute(&values).disks().context(bad)
}
