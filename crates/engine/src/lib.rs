//! Decides and drives: VMs, layers, snapshots, the operations on them, and what makes each survive a crash.
//!
//! ```text
//!  ops/*  one file per operation: plan (pure) -> journal -> apply -> commit
//!    |-- capture/   memory, devices and disks of a running VM at one instant
//!    |-- replay/    a captured state into a new QEMU
//!    |-- background/ work that goes on when its command has ended: record, lock, supervised worker
//!    |-- lazy/      memory given to a guest that runs already: the page server
//!    |-- flat/      memory files that clones share
//!    |-- layers/    bases, deltas, who needs which
//!    |-- vm/        the QEMU process: found, started, ended
//!    |-- agent      the guest agent: clock, commands in the guest
//!    |-- host       the process's side: clock, randomness, helper
//!    |-- context    one operation: its events, its cancellation, its time line
//!    |-- record/    vm.json, manifests, journal
//!    '-- root/      folders, atomic files, locks
//! ```
//! An [`Engine`] works on one root folder, in process; several (in several processes) meet in the file system only.
//!
//! Guarantees: an operation completes, or the VM is as before; a crash in between is undone or finished by the next
//! command; a snapshot is listed only when it is whole; a base image is never written.

mod agent;
mod background;
mod cancel;
mod capture;
mod context;
mod end_vm;
mod engine;
mod error;
mod flat;
#[doc(hidden)]
pub mod fuzz;
mod hint;
mod host;
mod identity;
mod ids;
mod images;
mod jobs;
mod journaled;
mod layers;
mod lazy;
mod machine_image;
mod migration;
mod monitor;
mod ops;
mod parallel;
mod patience;
mod record;
mod replay;
mod root;
#[cfg(test)]
mod testing;
mod view;
mod vm;
mod vm_lock;

pub use background::{BACKGROUND_COMMAND, BackgroundProcess};
pub use capture::guard::{GUARD_COMMAND, watch as watch_pause};
pub use context::{
    Caller, Cancel, Context, Event, Events, Holder, Note, OperationId, Progress, StepTime, TimeLine, Unheard,
    Work,
};
pub use engine::{Engine, Operation};
pub use error::{Error, ErrorKind, Result};
pub use flat::CLOSE_COMMAND;
pub use hint::Hint;
pub use host::{Clock, Helper, Host, Random, Steps};
pub use ids::{Address, SnapshotId, SnapshotName, VmName};
pub use jobs::work_in_background;
pub use ops::check::{CheckView, DamageView};
pub use ops::console::ConsolePath;
pub use ops::gc::{GcPack, GcView};
pub use ops::snapshot_create::SnapshotCreate;
pub use ops::snapshot_delete::DeletePlan;
pub use ops::snapshot_list::SnapshotListing;
pub use ops::snapshot_restore::SnapshotRestore;
pub use ops::usage::{SnapshotUsage, UsageView, VmUsage};
pub use ops::vm_clone::VmClone;
pub use ops::vm_create::{Configuration, NewMachine, VmCreate};
pub use ops::vm_delete::VmDeletePlan;
pub use ops::vm_link::{LinkView, VmLink};
pub use ops::vm_repair::{RepairView, VmRepair};
pub use ops::vm_start::VmStart;
pub use ops::vm_stop::VmStop;
pub use patience::Patience;
pub use record::snapshot::{Grade, Method};
pub use view::clone::{Changed, CloneView, ClonesView, InsideView, NotUnique, OriginView, StartMode};
pub use view::restore::{RestoreOrder, RestorePlanView};
pub use view::{
    DamagedSnapshot, DiskState, GuestClock, Listing, MemoryView, RestoreFailure, RestoreMode,
    RestoreProgress, RestoreView, SnapshotDisk, SnapshotView, VmView, WorkingSetView,
};
pub use vmrewind_files::{Disk, RealDisk};
/// What differs between architectures; `doctor` looks for it on the host.
pub use vmrewind_qemu::arch::{Arch, Firmware};
