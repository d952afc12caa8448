//! What vmrewind is tested with, never shipped: real guests on real QEMU, and doubles for what a real one cannot do.
//!
//! A test makes its disks with [`disk`], asks for a QEMU command line with [`guest::command_line`], hands that to
//! vmrewind (or to [`qemu::spawn`]), and judges by what the guest says on its [`console`]. [`rig`] does all that for
//! tests that go through the command line.

pub mod arch;
mod command;
pub mod console;
pub mod crash_disk;
pub mod disk;
mod error;
pub mod fake_qemu;
pub mod fault_disk;
pub mod guest;
pub mod postcopy;
pub mod qemu;
pub mod report;
pub mod rig;
pub mod schedules;
pub mod storage;

pub use error::{Error, Result};
