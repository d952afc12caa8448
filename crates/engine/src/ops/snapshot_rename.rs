//! Gives a snapshot another name.

use crate::engine::Operation;
use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::ids::{Address, SnapshotName};
use crate::record::journal::RedoPlan;
use crate::record::snapshot::Origin;
use crate::view::SnapshotView;

impl Operation {
    /// Gives a snapshot another name.
    ///
    /// # Errors
    /// `NotFound`, `Busy`; `Refused` where the name is taken.
    pub fn snapshot_rename(&self, address: &Address, name: &SnapshotName) -> Result<SnapshotView> {
        let held = self.hold(&address.vm)?;
        let mut manifest = held.snapshots.by_name(&held.record, &address.snapshot)?.clone();
        if held.snapshots.0.iter().any(|other| other.name == *name && other.id != manifest.id) {
            return Err(Error::refused(format!("VM '{}' has a snapshot '{name}' already", address.vm))
                .with_hint(Hint::ChooseAnotherName));
        }
        manifest.name = name.clone();
        // A snapshot that got a name of the user's is the user's.
        manifest.origin = Origin::User;
        let plan = RedoPlan { write: vec![manifest], ..RedoPlan::of(held.record.clone()) };
        self.ledger(&held.folder).commit("snapshot rename", &plan)?;
        drop(held);
        self.snapshot_show(&Address { vm: address.vm.clone(), snapshot: name.clone() })
    }
}
