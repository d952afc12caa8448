//! Runs helper programs to their end, keeping what they said for the error.

use std::ffi::{OsStr, OsString};
use std::process::{Command, Output};

use crate::error::{Error, Result};

/// A command that is also found where Debian keeps tools for file systems, which is not in every user's PATH.
pub(crate) fn command(program: &str) -> Command {
    let mut path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    path.push(":/usr/sbin:/sbin");
    let mut command = Command::new(program);
    command.env("PATH", path);
    command
}

/// Runs `program` and returns its standard output.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Result<Vec<u8>> {
    let mut command = command(program);
    command.args(arguments);
    let output = run_whatever_status(program, &mut command)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Failed { program: format!("{command:?}"), status: output.status, stderr })
}

/// Runs a command whose exit status is for the caller to judge.
pub(crate) fn run_whatever_status(program: &str, command: &mut Command) -> Result<Output> {
    command.output().map_err(|source| Error::Start { program: program.to_owned(), source })
}
