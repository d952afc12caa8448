//! What an attempt has ready before the guest is stopped: QEMU, the new layers opened in it, image and guard.

use std::time::Duration;

use vmrewind_qemu::cmdline::{Backing, BlockHandle, CommandLine, DiskSpec, Placeholders};
use vmrewind_qemu::stream::Limits;
use vmrewind_store::{ImageWriter, Store, WriteOptions};

use crate::capture::guard::{Guard, Watch};
use crate::capture::method::Bounds;
use crate::context::Context;
use crate::engine::{Held, Operation};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::ids::SnapshotId;
use crate::images::image_id;
use crate::images::store_error;
use crate::monitor::{DiskSwitch, Monitor};
use crate::record::journal::Overlay;
use crate::record::snapshot::Method;
use crate::root::VmFolder;
use crate::vm::ports;
use crate::vm::process::{Process, resident_bytes};
use crate::vm::run_folder::socket;

pub(crate) use crate::capture::shot::{Miss, Shot};

/// Space that must stay free in the store beside a memory image.
const SPACE_RESERVE_BYTES: u64 = 64 << 20;

/// An attempt to capture a running VM.
pub(crate) struct Attempt<'a> {
    /// By which method.
    pub(crate) method: Method,
    process: &'a Process,
    folder: &'a VmFolder,
    monitor: Monitor,
    disks: Vec<DiskSwitch>,
    guest_runs: bool,
    /// Whether the stream ends with a description of the devices.
    described: bool,
}

impl<'a> Attempt<'a> {
    /// Connects to QEMU and opens the new layers in it.
    pub(crate) fn open(
        held: &'a Held,
        process: &'a Process,
        overlays: &[Overlay],
        method: Method,
        guest_runs: bool,
    ) -> Result<Self> {
        let monitor = Monitor::connect(&process.run, socket::OPERATION)?;
        if method != Method::None {
            refuse_blocked(&monitor, held)?;
        }
        let disks = open_overlays(held, process, &monitor, overlays)?;
        let described =
            !held.record.hardware.command_line.iter().any(|word| word.contains("suppress-vmdesc=on"));
        Ok(Self { method, process, folder: &held.folder, monitor, disks, guest_runs, described })
    }

    /// The capture proper.
    pub(crate) fn shot<'b>(&'b self, operation: &'b Operation, max_pause: Option<Duration>) -> Shot<'b> {
        Shot {
            ctx: &operation.ctx,
            monitor: &self.monitor,
            run: &self.process.run,
            disks: &self.disks,
            guest_runs: self.guest_runs,
            max_pause,
            bounds: Bounds::default(),
            limits: Limits { require_description: self.described, ..Limits::default() },
        }
    }

    /// Puts the new layers on top of the disks of a guest that goes on running.
    pub(crate) fn switch_disks(&self) -> Result<()> {
        self.monitor.switch_disks(&self.disks)
    }

    /// Begins the memory image, after making sure that there is room for it. `parent` is the image before it.
    pub(crate) fn begin_image(
        &self,
        store: &Store,
        id: &SnapshotId,
        parent: Option<&str>,
    ) -> Result<ImageWriter> {
        let cannot = |error| store_error("cannot begin a memory image", error);
        let free = store.free_bytes().map_err(cannot)?;
        // What QEMU holds in memory bounds what the guest ever touched.
        let need = resident_bytes(self.process.mark.pid).unwrap_or(0).saturating_add(SPACE_RESERVE_BYTES);
        if free < need {
            return Err(Error::failed(format!(
                "not enough space for the guest's memory: up to {} MiB may be needed, {} MiB are free",
                need >> 20,
                free >> 20
            ))
            .hint("free some space on the root's file system, or use --disk-only"));
        }
        let parent = parent.map(image_id).transpose()?;
        let options = WriteOptions { parent, ..WriteOptions::default() };
        store.create_image(image_id(id.as_str())?, options).map_err(cannot)
    }

    /// A guard, armed, where there is a running guest to look after.
    pub(crate) fn guard(&self, ctx: &Context) -> Result<Option<Guard>> {
        if !self.guest_runs {
            return Ok(None);
        }
        let mut guard = Guard::start(ctx, self.folder)?;
        guard.arm(Watch::Pause)?;
        Ok(Some(guard))
    }
}

/// Refuses a VM whose devices QEMU can't capture, saying which.
fn refuse_blocked(monitor: &Monitor, held: &Held) -> Result<()> {
    let migration = monitor.migration()?;
    if migration.status.is_some_and(|status| !status.is_over()) {
        return Err(Error::new(
            ErrorKind::Busy,
            format!("a migration of VM '{}' is under way", held.record.name),
        )
        .hint("wait until it is over, then try again"));
    }
    let reasons = migration.blocked_reasons;
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the memory of VM '{}' can't be captured: {}",
        held.record.name,
        reasons.join("; ")
    ))
    .hint("remove the device from the VM's command line, or use --disk-only"))
}

/// Opens each new layer in QEMU, with no backing yet, and says where it will go.
fn open_overlays(
    held: &Held,
    process: &Process,
    monitor: &Monitor,
    overlays: &[Overlay],
) -> Result<Vec<DiskSwitch>> {
    let specs = specs_of_running(held, process)?;
    let nodes = monitor.nodes()?;
    let is_node = |name: &str| nodes.iter().any(|node| node.node_name.as_deref() == Some(name));
    let mut switches = Vec::new();
    for overlay in overlays {
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
        let path = held.folder.layer(&overlay.disk, &overlay.layer);
        let path =
            path.to_str().ok_or_else(|| Error::failed(format!("'{}' is not UTF-8", path.display())))?;
        let name = overlay.layer.node_name();
        monitor.add_node(spec.options.blockdev_json(&name, path, &Backing::Null))?;
        switches.push(DiskSwitch { node, overlay: name });
    }
    Ok(switches)
}

/// The disks of the command line that the running QEMU was started with.
fn specs_of_running(held: &Held, process: &Process) -> Result<Vec<DiskSpec>> {
    let bad = || format!("the command line of VM '{}' can't be used", held.record.name);
    let template = CommandLine::parse(&held.record.hardware.command_line).context(bad)?;
    let values = Placeholders {
        name: held.record.name.to_string(),
        run: process.run.to_string_lossy().into_owned(),
        ports: ports::ports_in_use(&process.run),
    };
    template.substitute(&values).disks().context(bad)
}
