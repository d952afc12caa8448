//! Starts a child in a session of its own, so that neither Ctrl-C nor the end of the terminal reaches it, and with a
//! file open that shows that it lives.
//!
//! The only unsafe code of the engine: std has no safe way to do either between fork and exec.
#![allow(unsafe_code)]

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};

/// Makes `command` start its child as the leader of a new session.
pub(crate) fn own_session(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs in the child between fork and exec, where only async-signal-safe functions are
    // allowed: setsid(2) is one; nothing is allocated, no lock is taken, no state of the parent is touched.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) }
}

/// Makes `command` start its child with `file` open for all of its life, whatever else it does.
pub(crate) fn inherit(command: &mut Command, file: OwnedFd) -> &mut Command {
    // SAFETY: as above: fcntl(2) is async-signal-safe, and it changes a descriptor of the child only. The closure owns
    // the descriptor, so it is open and nobody else's when the child runs.
    unsafe { command.pre_exec(move || fcntl_setfd(&file, FdFlags::empty()).map_err(Into::into)) }
}
