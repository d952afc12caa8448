//! The engine on one root folder; the operations are in [`crate::ops`].

use std::path::Path;

use vmrewind_store::Store;

use crate::error::{Error, ErrorKind, Result};
use crate::host::Host;
use crate::ids::{LayerId, VmName};
use crate::images::open_store;
use crate::journaled::Ledger;
use crate::lazy;
use crate::record::journal::Journal;
use crate::record::snapshot::Snapshots;
use crate::record::vm::VmRecord;
use crate::root::lock::VmLock;
use crate::root::{Root, VmFolder};

/// The engine on one root folder.
pub struct Engine {
    pub(crate) root: Root,
    pub(crate) store: Store,
    pub(crate) host: Host,
}

/// A VM that this process holds for writing, recovered and read, with its snapshots.
pub(crate) struct Held {
    pub(crate) folder: VmFolder,
    pub(crate) record: VmRecord,
    pub(crate) snapshots: Snapshots,
    pub(crate) _lock: VmLock,
}

/// A VM that this process holds for writing, recovered and read. Its snapshots can be damaged.
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
    /// Fails where a layer between this one and the base is missing.
    ///
    /// # Errors
    /// `Damaged`, naming it.
    pub(crate) fn check_chain(&self, disk: &str, layer: &LayerId) -> Result<()> {
        let damaged = |what: String| {
            Err(Error::damaged(what)
                .hint("put the file back from a backup; docs/format.md says what belongs where"))
        };
        let Some(record) = self.record.disk(disk) else {
            return damaged(format!("the VM has no disk '{disk}'"));
        };
        let Some(chain) = record.chain(layer) else {
            return damaged(format!("disk '{disk}' has no record of layer {layer}"));
        };
        match chain.iter().map(|layer| self.folder.layer(disk, layer)).find(|path| !path.exists()) {
            Some(missing) => damaged(format!("layer '{}' is missing", missing.display())),
            None => Ok(()),
        }
    }
}

impl Engine {
    /// Opens the root at `path`, making it where there is none.
    ///
    /// # Errors
    /// `Refused` for a root of a newer format or a folder that is no root, `Failed` without permission.
    pub fn open(path: &Path, host: Host) -> Result<Self> {
        let root = Root::open(path)?;
        let store = open_store(&root)?;
        let engine = Self { root, store, host };
        engine.sweep_gone_vms();
        engine.sweep_flat();
        Ok(engine)
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
        lazy::settle(self, name, &locked.folder, true)?;
        self.ledger(&locked.folder).recover()?;
        let record = VmRecord::load(&locked.folder, name)?;
        Ok(HeldVm { folder: locked.folder, record, lock: locked.lock })
    }

    /// As [`Engine::hold_vm`], with the VM's snapshots.
    pub(crate) fn hold(&self, name: &VmName) -> Result<Held> {
        let HeldVm { folder, record, lock } = self.hold_vm(name)?;
        let snapshots = Snapshots::load(&folder)?;
        Ok(Held { folder, record, snapshots, _lock: lock })
    }

    /// Takes a VM for writing as it is, for what must work even where its last operation can't be recovered from.
    pub(crate) fn lock(&self, name: &VmName) -> Result<Locked> {
        let folder = self.existing(name)?;
        let lock = VmLock::take(&folder.lock(), name.as_str())?;
        // It can have been deleted, and made anew, while we waited for the lock.
        self.existing(name)?;
        if !lock.is_of(&folder.lock()) {
            return Err(Error::new(ErrorKind::Busy, format!("VM '{name}' was just deleted and made anew"))
                .hint("try again"));
        }
        Ok(Locked { folder, lock })
    }

    /// The journal of the VM in `folder`, whose lock is held.
    pub(crate) fn ledger<'a>(&'a self, folder: &'a VmFolder) -> Ledger<'a> {
        Ledger { host: &self.host, store: &self.store, folder }
    }

    /// Reads a VM. Finishes or undoes first what a dead command left; beside a living one, reads what is there.
    pub(crate) fn look(&self, name: &VmName) -> Result<Seen> {
        let folder = self.existing(name)?;
        let mut operation = None;
        if let Some(journal) = Journal::load(&folder)? {
            match VmLock::try_take(&folder.lock())? {
                Some(_lock) => {
                    lazy::settle(self, name, &folder, true)?;
                    self.ledger(&folder).recover()?;
                }
                None => operation = Some(journal.operation),
            }
        }
        if operation.is_none() {
            lazy::settle(self, name, &folder, false)?;
        }
        let record = VmRecord::load(&folder, name)?;
        let snapshots = Snapshots::load(&folder)?;
        Ok(Seen { folder, record, snapshots, operation })
    }

    fn existing(&self, name: &VmName) -> Result<VmFolder> {
        let folder = self.root.vm(name);
        match std::fs::metadata(folder.path()) {
            Ok(_) => Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::not_found(format!("there is no VM '{name}'"))
                    .hint("`vmrewind vm list` shows all VMs"))
            }
            Err(error) => Err(crate::root::file::io_error(&format!("cannot open VM '{name}'"), error)),
        }
    }

    /// Whether the user asked for an end; operations look at this between steps.
    pub(crate) fn check_cancel(&self, what: &str) -> Result<()> {
        self.host.cancel.check(what)
    }
}
