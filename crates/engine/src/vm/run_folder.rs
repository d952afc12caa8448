//! The folder of a VM's sockets and logs.
//!
//! ```text
//! ROOT/vms/NAME/run -> seat/run                          what users are told
//! ROOT/vms/NAME/seat -> seats/N                          which QEMU is the VM
//! ROOT/vms/NAME/seats/N/run/                             what QEMU N is told
//! ```
//! A socket's path has at most 107 bytes. Where these are too long for the sockets in them, the folders are
//! made under a short path, to which the others are links; it can vanish at a reboot and is made anew.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::ids::VmId;
use crate::root::file::io_error;
use crate::root::{SeatNumber, VmFolder};

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

/// The run folder where it is there, its real path.
pub(crate) fn existing(folder: &VmFolder) -> Option<PathBuf> {
    let run = folder.run();
    match fs::read_link(&run) {
        // The short folder is where others can write: only one that is ours counts.
        Ok(target) => is_private(&target).then_some(target),
        Err(_) => run.is_dir().then_some(run),
    }
}

/// The path of the run folder of whichever QEMU is the VM: what users are told.
pub(crate) fn for_users(folder: &VmFolder) -> PathBuf {
    let link = folder.run_link();
    if fits(&link) {
        return link;
    }
    // Of a VM that was last started by a version without seats it is the folder itself.
    let beside = existing(folder).and_then(|run| Some(run.parent()?.join("run")));
    beside.filter(|path| path.is_symlink()).or_else(|| existing(folder)).unwrap_or(link)
}

/// Makes a seat and its run folder where they are missing, and gives the run folder's real path. A VM without a seat, whose
/// QEMU does not run, gets its first one.
pub(crate) fn prepare(folder: &VmFolder, id: &VmId) -> Result<PathBuf> {
    if folder.seat_number().is_none() {
        forget_seatless(folder)?;
        take_seat(folder, 1)?;
    }
    if let Some(path) = existing(folder) {
        return Ok(path);
    }
    let seat = folder.seat();
    // None of this need last: after a power cut no QEMU lives.
    seat.parent().map_or(Ok(()), make_private)?;
    make_private(&seat)?;
    let run = folder.run();
    if fits(&run) && fits(&folder.run_link()) {
        make_private(&run)?;
        link(Path::new("seat/run"), &folder.run_link())?;
        return Ok(run);
    }
    let base = short_folder(id)?;
    let short = base.join(folder.seat_number().unwrap_or_default().to_string());
    make_private(&short)?;
    link(&short, &run)?;
    link(&folder.path().join("seat/run"), &base.join("run"))?;
    link(Path::new("seat/run"), &folder.run_link())?;
    Ok(short)
}

/// Removes what a version without seats has left of a VM whose QEMU is gone.
fn forget_seatless(folder: &VmFolder) -> Result<()> {
    ["alive", "process.json", "lazy.json", "lazy.lock"]
        .iter()
        .try_for_each(|name| folder.files().remove_file(&folder.path().join(name)))
}

/// Makes a seat that of the VM, in one step. It need not last: after a power cut no QEMU lives.
pub(crate) fn take_seat(folder: &VmFolder, number: SeatNumber) -> Result<()> {
    link(&VmFolder::seat_target(number), &folder.seat_link())
}

/// Removes a seat whose QEMU is gone. Its log is kept as the one before in the VM's run folder. Failures can wait.
pub(crate) fn leave_seat(folder: &VmFolder, number: SeatNumber) {
    let left = folder.at_seat(number);
    if let Some((from, to)) = existing(&left).zip(existing(folder)).filter(|(from, to)| from != to) {
        let _ = fs::copy(from.join(QEMU_LOG), to.join(QEMU_LOG).with_extension("log.1"));
    }
    if let Ok(target) = fs::read_link(left.run()) {
        let _ = fs::remove_dir_all(target);
    }
    let _ = folder.files().remove_tree(&left.seat());
}

fn fits(folder: &Path) -> bool {
    folder.as_os_str().len() <= FOLDER_MAX
}

/// Makes or replaces a link. What is not one goes: an empty name, or what a version without seats has left.
fn link(target: &Path, path: &Path) -> Result<()> {
    if fs::read_link(path).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let made = path.with_extension("next");
    let _ = fs::remove_file(&made);
    if fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        let _ = fs::remove_dir_all(path);
    }
    symlink(target, &made)
        .and_then(|()| fs::rename(&made, path))
        .map_err(|error| io_error(&format!("cannot make the link '{}'", path.display()), error))
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

/// Removes the short folders of a VM that is going away.
pub(crate) fn remove_short(folder: &VmFolder) {
    let seats = folder.seats().into_iter().map(|number| folder.at_seat(number).run());
    for run in seats.chain([folder.run_link()]) {
        if let Ok(target) = fs::read_link(run)
            && target.starts_with("/tmp")
        {
            let _ = fs::remove_dir_all(&target);
            // That of the whole VM, once it is empty.
            let base = target.parent().filter(|base| base.parent() != Some(Path::new("/tmp")));
            if let Some(base) = base {
                let _ = fs::remove_file(base.join("run")).and_then(|()| fs::remove_dir(base));
            }
        }
    }
}
