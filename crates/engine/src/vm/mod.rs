//! The QEMU process of a VM: found, started, watched, ended.

pub(crate) mod hand_over;
pub(crate) mod host_memory;
pub(crate) mod local;
pub(crate) mod machine;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod reap;
pub(crate) mod run_folder;
pub(crate) mod session;
pub(crate) mod spawn;
