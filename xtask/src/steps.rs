//! Running programs one after the other, each shown before it runs.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a command of `x` comes to; the error is for a person to read.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Runs cargo in the workspace and fails where it fails.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Outcome {
    let arguments: Vec<_> = arguments.into_iter().collect();
    println!("$ cargo {}", arguments.join(" "));
    let status = cargo_command(&arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} failed", arguments.join(" ")).into()) }
}

/// A cargo that is the one that runs this program, in the workspace.
pub(crate) fn cargo_command(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(workspace());
    command
}

/// What cargo knows of the workspace.
pub(crate) fn metadata() -> Outcome<serde_json::Value> {
    let output = cargo_command(&["metadata", "--format-version=1", "--no-deps", "--offline"]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    // Set by `cargo run`, which is how this program is started, also where the tree has moved since it was built.
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map_or_else(|| package.clone(), Path::to_path_buf)
}
