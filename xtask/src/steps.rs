//! Running programs one after the other, each shown before it runs.

use std::error::Error;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a command of `x` comes to; the error is for a person to read.
pub(crate) type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Runs cargo in the workspace and fails where it fails.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Outcome {
    run_shown(&mut cargo_command(&arguments.into_iter().collect::<Vec<_>>()))
}

/// Runs `command`, shown as it would be typed, and fails where it fails.
pub(crate) fn run_shown(command: &mut Command) -> Outcome {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words: Vec<_> = [name].into_iter().chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    let line = words.join(" ");
    println!("$ {line}");
    if command.status()?.success() { Ok(()) } else { Err(format!("{line} failed").into()) }
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
    read_metadata(&["metadata", "--format-version=1", "--no-deps", "--offline"])
}

/// What cargo knows of the workspace and all its locked libraries.
pub(crate) fn metadata_of_all() -> Outcome<serde_json::Value> {
    read_metadata(&["metadata", "--format-version=1", "--locked"])
}

fn read_metadata(arguments: &[&str]) -> Outcome<serde_json::Value> {
    let output = cargo_command(arguments).output()?;
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
