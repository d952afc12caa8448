//! Runs `qemu-img`, the one tool for what is done to image files that no QEMU has open.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::error::{Error, Result, ToolError};
use crate::hint::Hint;
use crate::root::file::io_error;

/// Runs `qemu-img` with these arguments and returns what it printed.
///
/// # Errors
/// `Failed` with qemu-img's own words as the cause; a hint where the program is missing.
pub(crate) fn qemu_img<S: AsRef<OsStr>>(doing: &str, arguments: &[S]) -> Result<Vec<u8>> {
    let output = Command::new("qemu-img").args(arguments).stdin(Stdio::null()).output().map_err(|error| {
        Error::failed(format!("{doing}: cannot run qemu-img"))
            .with_hint(Hint::InstallImageTool)
            .because(error)
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Error::failed(doing.to_owned()).because(ToolError(words.trim().to_owned())))
}

/// Checks the structure of a layer that nobody writes; a running QEMU can hold it open.
///
/// # Errors
/// `Damaged` where it is corrupt or missing, `Failed` where it can't be checked. Clusters that are allocated and not
/// used, as a killed QEMU leaves them, are no damage.
pub(crate) fn check_layer(path: &Path) -> Result<()> {
    run_check(path, &["-U"])
}

/// Frees the clusters of a layer that nobody has open which are allocated and not used. Errors as of [`check_layer`].
///
/// A killed QEMU can have counted clusters beyond the end of the file, which `qemu-img check` does not look at; they
/// would show once the file has grown. So the file is made longer for the check, and as long as it was afterwards.
pub(crate) fn free_leaks(path: &Path) -> Result<()> {
    /// More than requests in flight can allocate at once.
    const BEYOND_END_BYTES: u64 = 64 << 20;
    let cannot = |error| io_error(&format!("cannot open layer '{}'", path.display()), error);
    let file = OpenOptions::new().write(true).open(path).map_err(cannot)?;
    let length = file.metadata().map_err(cannot)?.len();
    file.set_len(length + BEYOND_END_BYTES).map_err(cannot)?;
    let checked = run_check(path, &["-r", "leaks"]);
    file.set_len(length).map_err(cannot)?;
    checked
}

fn run_check(path: &Path, options: &[&str]) -> Result<()> {
    /// Exit statuses of `qemu-img check` (its manual page).
    const CORRUPT: i32 = 2;
    const LEAKED: i32 = 3;
    let doing = format!("cannot check layer '{}'", path.display());
    // Without the files below: to open them for each layer of a chain would take time with the square of its length.
    let image = path.to_str().map(|filename| {
        let file = json!({ "driver": "file", "filename": filename });
        format!("json:{}", json!({ "driver": "qcow2", "file": file, "backing": null }))
    });
    let image = image.ok_or_else(|| Error::failed(format!("{doing}: its path is not UTF-8")))?;
    let output = Command::new("qemu-img")
        .args(["check", "-q"])
        .args(options)
        .arg(image)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::failed(doing.clone()).because(error))?;
    let words = ToolError(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    match output.status.code() {
        Some(0 | LEAKED) => Ok(()),
        Some(CORRUPT) => Err(Error::damaged(format!("layer '{}' is damaged", path.display())).because(words)),
        _ if !path.exists() => Err(Error::damaged(format!("layer '{}' is missing", path.display()))),
        _ => Err(Error::failed(doing).because(words)),
    }
}
