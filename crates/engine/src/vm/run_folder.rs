//! The folder of a VM's sockets and logs.
//!
//! A socket's path has at most 107 bytes. Where `ROOT/vms/NAME/run` is too long for the sockets in it, the folder is
//! made under a short path and `run` is a link to it; the short folder can vanish at a reboot and is made anew.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::ids::VmId;
use crate::root::VmFolder;
use crate::root::file::io_error;

/// The longest path a folder can have for sockets in it with names of up to 24 bytes.
const FOLDER_MAX: usize = 107 - 25;

/// The names of vmrewind's own sockets: QEMU serves one client on each at a time.
pub(crate) mod socket {
    use crate::vm::machine::Use;

    /// QMP for users and their tools.
    pub(crate) const USER: &str = "qmp.sock";
    /// QMP for the operation that holds the VM.
    pub(crate) const OPERATION: &str = "vmrewind.sock";
    /// QMP for the guard of a pause.
    pub(crate) const GUARD: &str = "guard.sock";
    /// QMP for short questions; who listens there is the VM's QEMU.
    pub(crate) const STATUS: &str = "status.sock";
    /// QMP for the page server of a lazy restore.
    pub(crate) const PAGES: &str = "pages.sock";
    /// The one for this use.
    pub(crate) fn of(wanted: Use) -> &'static str {
        match wanted {
            Use::Operation => OPERATION,
            Use::Status => STATUS,
            Use::Guard => GUARD,
        }
    }

    /// Where QEMU waits for the page server.
    pub(crate) const LAZY: &str = "lazy.sock";
    /// Where QEMU waits for another page server, after it lost one.
    pub(crate) const LAZY_AGAIN: &str = "lazy-again.sock";
    /// Where a captured stream comes from and a restored one goes to.
    pub(crate) const STREAM: &str = "stream.sock";
}

/// The pipes of the out-of-band monitor of a restored QEMU: this with `.in` and `.out`.
pub(crate) const RECOVERY_PIPES: &str = "recovery";

/// QEMU's output.
pub(crate) const QEMU_LOG: &str = "qemu.log";

/// The output of the page server.
pub(crate) const PAGES_LOG: &str = "pages.log";

/// The run folder where it is there, its real path.
pub(crate) fn existing(folder: &VmFolder) -> Option<PathBuf> {
    let run = folder.run();
    match fs::read_link(&run) {
        // The short folder is where others can write: only one that is ours counts.
        Ok(target) => is_private(&target).then_some(target),
        Err(_) => run.is_dir().then_some(run),
    }
}

/// Makes the run folder where it is missing, and gives its real path.
pub(crate) fn prepare(folder: &VmFolder, id: &VmId) -> Result<PathBuf> {
    if let Some(path) = existing(folder) {
        return Ok(path);
    }
    let run = folder.run();
    if run.as_os_str().len() <= FOLDER_MAX {
        folder.files().make_dir(&run)?;
        return Ok(run);
    }
    let short = short_folder(id)?;
    let cannot = |error| io_error(&format!("cannot make run folder '{}'", run.display()), error);
    let _ = fs::remove_file(&run);
    symlink(&short, &run).map_err(cannot)?;
    Ok(short)
}

/// Makes `/tmp/vmrewind-UID/ID`, refusing a folder that somebody else could have put there.
fn short_folder(id: &VmId) -> Result<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let own = PathBuf::from(format!("/tmp/vmrewind-{uid}"));
    make_private(&own)?;
    let short = own.join(&id.as_str()[..16]);
    make_private(&short)?;
    Ok(short)
}

fn make_private(path: &Path) -> Result<()> {
    let cannot = |error| io_error(&format!("cannot make run folder '{}'", path.display()), error);
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(cannot(error)),
        _ => {}
    }
    if is_private(path) {
        return Ok(());
    }
    Err(Error::refused(format!("run folder '{}' is not a folder of your own", path.display()))
        .with_hint(Hint::RemoveRunFolder))
}

/// Whether a folder is this user's and nobody else can write to it.
fn is_private(path: &Path) -> bool {
    let uid = rustix::process::getuid().as_raw();
    fs::symlink_metadata(path)
        .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == uid && metadata.mode() & 0o022 == 0)
}

/// Removes the short folder of a VM that is going away.
pub(crate) fn remove_short(folder: &VmFolder) {
    if let Ok(target) = fs::read_link(folder.run())
        && target.starts_with("/tmp")
    {
        let _ = fs::remove_dir_all(target);
    }
}
