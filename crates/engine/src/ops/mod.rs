//! The operations, one file each.

pub(crate) mod check;
mod clone_inside;
mod clone_make;
pub(crate) mod console;
pub(crate) mod gc;
pub(crate) mod guest;
mod launch;
pub(crate) mod restore_memory;
pub(crate) mod snapshot_create;
pub(crate) mod snapshot_delete;
pub(crate) mod snapshot_list;
pub(crate) mod snapshot_rename;
pub(crate) mod snapshot_restore;
pub(crate) mod snapshot_verify;
mod tidy;
pub(crate) mod usage;
pub(crate) mod vm_clone;
pub(crate) mod vm_create;
pub(crate) mod vm_delete;
pub(crate) mod vm_first_start;
pub(crate) mod vm_link;
pub(crate) mod vm_list;
pub(crate) mod vm_repair;
pub(crate) mod vm_start;
mod vm_state;
pub(crate) mod vm_stop;
