//! The engine on one root folder; the operations are in [`crate::ops`].

use std::path::Path;
use std::sync::Arc;

use vmrewind_store::Store;

use crate::background::Charge;
use crate::context::{Caller, Context, TimeLine};
use crate::error::{Error, ErrorKind, Result};
use crate::flat::{self, Flat, NotShared};
use crate::hint::Hint;
use crate::host::Host;
use crate::ids::{LayerId, VmName};
use crate::images::open_store;
use crate::journaled::Ledger;
use crate::layers::frozen;
use crate::lazy;
use crate::migration;
use crate::record::journal::Journal;
use crate::record::snapshots::Snapshots;
use crate::record::vm::{Hardware, VmRecord};
use crate::root::file::Files;
use crate::root::{Root, VmFolder};
use crate::vm::local::LocalQemu;
use crate::vm::machine::Machines;
use crate::vm_lock::VmLock;

/// The engine on one root folder: what all operations of a process share. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    pub(crate) root: Root,
    pub(crate) store: Arc<Store>,
    pub(crate) host: Host,
    pub(crate) machines: Arc<dyn Machines>,
}

/// One operation on an engine: its methods, in [`crate::ops`], are what vmrewind can do.
///
/// It has progress, cancellation and a time line of its own, so that several can go on at once.
#[derive(Clone)]
pub struct Operation {
    pub(crate) root: Root,
    pub(crate) store: Arc<Store>,
    pub(crate) ctx: Context,
}

/// A VM that this process holds for writing, recovered and read, with its snapshots.
pub(crate) struct Held {
    pub(crate) folder: VmFolder,
    pub(crate) record: VmRecord,
    pub(crate) snapshots: Snapshots,
    pub(crate) _lock: VmLock,
}

/// A VM that this process holds for writing, recovered and read, but for its snapshots.
pub(crate) struct HeldVm {
    pub(crate) folder: VmFolder,
    pub(crate) record: VmRecord,
    pub(crate) lock: VmLock,
}

/// A VM that this process holds for writing, as its last operation left it.
pub(crate) struct Locked {
    pub(crate) folder: VmFolder,
    pub(crate) lock: VmLock,
}

/// A VM as it can be read without holding it.
pub(crate) struct Seen {
    pub(crate) folder: VmFolder,
    pub(crate) record: VmRecord,
    pub(crate) snapshots: Snapshots,
    /// The operation that another process is carrying out.
    pub(crate) operation: Option<String>,
}

impl Held {
    /// Fails where a layer between this one and the base is missing, or not what it was.
    ///
    /// # Errors
    /// `Damaged`, naming it.
    pub(crate) fn check_chain(&self, disk: &str, layer: &LayerId) -> Result<()> {
        let record = self.record.disk(disk).ok_or_else(|| {
            Error::damaged(format!("the VM has no disk '{disk}'")).with_hint(Hint::PutFileBack)
        })?;
        frozen::check_chain(&self.folder, record, layer)
    }
}

impl Engine {
    /// Opens the root at `path`, making it where there is none.
    ///
    /// # Errors
    /// `Refused` for a root of a newer format or a folder that is no root, `Failed` without permission.
    pub fn open(path: &Path, host: Host) -> Result<Self> {
        let machines = Arc::new(LocalQemu { patience: host.patience });
        Self::open_on(path, host, machines)
    }

    /// Opens the root at `path`. `None` where there is none: for whoever has nothing to put into it, nothing is made.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_existing(path: &Path, host: Host) -> Result<Option<Self>> {
        let machines = Arc::new(LocalQemu { patience: host.patience });
        let root = Root::open_existing(path, Files::on(Arc::clone(&host.disk)))?;
        root.map(|root| Self::on(root, host, machines)).transpose()
    }

    /// Opens the root at `path` on VMs of another kind than QEMU processes of this host. Errors as of [`Engine::open`].
    pub(crate) fn open_on(path: &Path, host: Host, machines: Arc<dyn Machines>) -> Result<Self> {
        Self::on(Root::open(path, Files::on(Arc::clone(&host.disk)))?, host, machines)
    }

    fn on(root: Root, host: Host, machines: Arc<dyn Machines>) -> Result<Self> {
        let store = Arc::new(open_store(&root)?);
        let engine = Self { root, store, host, machines };
        engine.sweep_gone_vms();
        flat::sweep(&engine.root, &engine.host.helper);
        Ok(engine)
    }

    /// Begins an operation of `caller`.
    pub fn operation(&self, caller: Caller) -> Operation {
        let ctx = Context::new(&self.host, Arc::clone(&self.machines), caller);
        Operation { root: self.root.clone(), store: Arc::clone(&self.store), ctx }
    }
}

impl Operation {
    /// When the steps of this operation were done.
    pub fn time_line(&self) -> &TimeLine {
        &self.ctx.time_line
    }

    /// Takes a VM for writing; finishes or undoes first what a dead command left.
    ///
    /// # Errors
    /// `NotFound`, `Busy`, `Damaged`, or what went wrong with the recovery.
    pub(crate) fn hold_vm(&self, name: &VmName) -> Result<HeldVm> {
        self.recovered(name, self.lock(name)?)
    }

    /// Finishes or undoes what a dead command left on a VM whose lock is held, and reads the VM.
    pub(crate) fn recovered(&self, name: &VmName, locked: Locked) -> Result<HeldVm> {
        // First: the recovery talks to a QEMU that may wait for its memory.
        lazy::bring_up_to_date(&self.ctx, &self.charge(name, &locked.folder), true)?;
        if locked.folder.journal().exists() {
            // Of a restore that was decided, the QEMU that is to become the VM's as well.
            let own = locked.folder.seat_number();
            for seat in locked.folder.seats().into_iter().filter(|seat| Some(*seat) != own) {
                let folder = locked.folder.at_seat(seat);
                lazy::bring_up_to_date(&self.ctx, &self.charge(name, &folder), true)?;
            }
        }
        self.ledger(&locked.folder).recover()?;
        migration::pay(self.ctx.machines(), &locked.folder);
        locked.folder.sweep_unfinished();
        let record = VmRecord::load(&locked.folder, name)?;
        Ok(HeldVm { folder: locked.folder, record, lock: locked.lock })
    }

    /// As [`Engine::hold_vm`], with the VM's snapshots.
    pub(crate) fn hold(&self, name: &VmName) -> Result<Held> {
        let HeldVm { folder, record, lock } = self.hold_vm(name)?;
        let snapshots = Snapshots::load(&folder)?;
        // What manifests name is never written, nor taken for unused, on the word of a record that is older.
        frozen::check_not_older(&folder, &record, &snapshots)?;
        Ok(Held { folder, record, snapshots, _lock: lock })
    }

    /// Takes a VM for writing as it is, for what must work even where its last operation can't be recovered from.
    pub(crate) fn lock(&self, name: &VmName) -> Result<Locked> {
        let folder = self.existing(name)?;
        self.root.raise_version()?;
        let lock = VmLock::take(&self.ctx, &folder, name.as_str())?;
        // It can have been deleted, and made anew, while we waited for the lock.
        self.existing(name)?;
        if !lock.is_of(&folder.lock()) {
            return Err(Error::new(ErrorKind::Busy, format!("VM '{name}' was just deleted and made anew"))
                .with_hint(Hint::TryAgain));
        }
        Ok(Locked { folder, lock })
    }

    /// The VM in `folder`, on which background jobs may be under way.
    pub(crate) fn charge(&self, name: &VmName, folder: &VmFolder) -> Charge {
        Charge {
            helper: self.ctx.host.helper.clone(),
            root: self.root.path().to_owned(),
            vm: name.clone(),
            folder: folder.clone(),
        }
    }

    /// The memory file of a snapshot's image, made if it is not there.
    ///
    /// # Errors
    /// `Damaged` where the image is, `Failed` on a full disk, `Interrupted`.
    pub(crate) fn memory_file(&self, image: &str, hardware: &Hardware) -> Result<Result<Flat, NotShared>> {
        flat::Maker { ctx: &self.ctx, store: &self.store, root: &self.root }.of(image, hardware)
    }

    /// The journal of the VM in `folder`, whose lock is held.
    pub(crate) fn ledger<'a>(&'a self, folder: &'a VmFolder) -> Ledger<'a> {
        Ledger { ctx: &self.ctx, store: &self.store, folder }
    }

    /// Reads a VM. Finishes or undoes first what a dead command left; beside a living one, reads what is there.
    pub(crate) fn look(&self, name: &VmName) -> Result<Seen> {
        let folder = self.existing(name)?;
        let mut operation = None;
        if let Some(journal) = Journal::load(&folder)? {
            match VmLock::try_take(&folder.lock())? {
                Some(_lock) => {
                    lazy::bring_up_to_date(&self.ctx, &self.charge(name, &folder), true)?;
                    self.ledger(&folder).recover()?;
                }
                None => operation = Some(journal.operation),
            }
        }
        if operation.is_none() {
            lazy::bring_up_to_date(&self.ctx, &self.charge(name, &folder), false)?;
        }
        let record = VmRecord::load(&folder, name)?;
        let snapshots = Snapshots::load(&folder)?;
        Ok(Seen { folder, record, snapshots, operation })
    }

    fn existing(&self, name: &VmName) -> Result<VmFolder> {
        let folder = self.root.vm(name);
        match std::fs::metadata(folder.path()) {
            Ok(_) if folder.is_a_vm() => Ok(folder),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(crate::root::file::io_error(&format!("cannot open VM '{name}'"), error))
            }
            _ => Err(Error::not_found(format!("there is no VM '{name}'")).with_hint(Hint::ListVms)),
        }
    }

    /// Whether the user asked for an end; operations look at this between steps.
    pub(crate) fn check_cancel(&self, what: &str) -> Result<()> {
        self.ctx.cancel.check(what)
    }
}
