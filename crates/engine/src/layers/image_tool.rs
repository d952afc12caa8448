//! Runs `qemu-img`, the one tool for what is done to image files that no QEMU has open.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// Runs `qemu-img` with these arguments and returns what it printed.
///
/// # Errors
/// `Failed` with qemu-img's own words as the cause; a hint where the program is missing.
pub(crate) fn qemu_img<S: AsRef<OsStr>>(doing: &str, arguments: &[S]) -> Result<Vec<u8>> {
    let output = Command::new("qemu-img").args(arguments).stdin(Stdio::null()).output().map_err(|error| {
        Error::failed(format!("{doing}: cannot run qemu-img"))
            .hint("install it (Debian and Ubuntu: package qemu-utils); `vmrewind doctor` checks the host")
            .because(error)
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Error::failed(doing.to_owned()).because(ToolError(words.trim().to_owned())))
}

/// What a tool printed on standard error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ToolError(pub(crate) String);
