//! What is written down: the VM's record, snapshot manifests and the journal, as versioned JSON (docs/format.md).

pub(crate) mod journal;
pub(crate) mod snapshot;
pub(crate) mod snapshots;
pub(crate) mod vm;
pub(crate) mod working_set;

/// The newest version of each of these files that this program reads; it writes this one.
pub(crate) const RECORD_VERSION: u32 = 1;
