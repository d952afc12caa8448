//! Gives a snapshot another name.

use crate::engine::Operation;
use crate::error::Result;
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
        held.snapshots.refuse_taken(&held.record, name, Some(&manifest.id))?;
        manifest.name = name.clone();
        // A snapshot that got a name of the user's is the user's.
        manifest.origin = Origin::User;
        let plan = RedoPlan { write: vec![manifest], ..RedoPlan::of(held.record.clone()) };
        self.ledger(&held.folder).commit("snapshot rename", &plan)?;
        drop(held);
        self.snapshot_show(&Address { vm: address.vm.clone(), snapshot: name.clone() })
    }
}
