//! Starts a child in a session of its own, so that neither Ctrl-C nor the end of the terminal reaches it.
//!
//! The only unsafe code of the engine: std has no safe way to call `setsid` between fork and exec.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes `command` start its child as the leader of a new session.
pub(crate) fn own_session(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs in the child between fork and exec, where only async-signal-safe functions are
    // allowed: setsid(2) is one; nothing is allocated, no lock is taken, no state of the parent is touched.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) }
}
