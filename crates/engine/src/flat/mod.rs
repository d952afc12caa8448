//! Memory files: a snapshot's memory written out flat, once, for all clones that are started from it.
//!
//! ```text
//! ROOT/flat/IMAGE/lock        flock: exclusive to make or remove, shared to use; each QEMU that reads inherits it
//!                 flat.json   which RAM block, of which boot of the host: written last
//!                 ram         the block's pages, sparse: mapped privately by the clones' QEMUs
//!                 state       the rest of the machine as a migration stream
//! ```
//! A flat file is a cache. It is made from the store, every page verified by its hash, and is not synced: after a crash of
//! the host it does not count, since `flat.json` names the boot in which it was made. When nobody holds the lock any
//! more the next command removes it, and the next start makes it again.

mod make;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vmrewind_files::{Flock, Kind, Wait};
use vmrewind_qemu::cmdline::{CommandLine, MemoryBlock};
use vmrewind_qemu::stream::PAGE_SIZE;
use vmrewind_store::Store;

use crate::context::Context;
use crate::error::{Context as _, Error, Result};
use crate::hint::Hint;
use crate::host::Helper;
use crate::record::RECORD_VERSION;
use crate::record::vm::Hardware;
use crate::root::Root;
use crate::root::file::cannot_lock;
use crate::root::file::{Files, io_error};
use crate::vm::process::boot_id;
use crate::vm::reap::reap;
use crate::vm::session::own_session;

/// The first QEMU that maps a file for reading and lets the guest write to private pages.
const FIRST_QEMU: (u32, u32) = (8, 2);

/// How long others may hold a lock to look whether there is a good file.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);

/// A memory file that nobody removes as long as this, or a QEMU that inherited it, lives.
#[derive(Debug)]
pub(crate) struct Flat {
    folder: PathBuf,
    note: Note,
    lock: Flock,
}

/// The file that says what the others are. It is written last, and removed first.
const NOTE: &str = "flat.json";

/// [`NOTE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: u32,
    /// The memory image.
    image: String,
    /// The boot of the host in which it was made.
    boot: String,
    /// The name of the RAM block in the file `ram`.
    block: String,
    /// Its length.
    bytes: u64,
}

impl Note {
    /// The note of a memory file that is whole; one that can't be read is as good as none.
    fn good(files: &Files, folder: &Path, image: &str) -> Option<Self> {
        let note = files.read_json::<Self>(&folder.join(NOTE), RECORD_VERSION).ok().flatten()?;
        (note.image == image && note.boot == boot_id() && note.fits(folder)).then_some(note)
    }

    /// Whether the files are there, and the memory of its length. What is in them is trusted, as memory is.
    fn fits(&self, folder: &Path) -> bool {
        let bytes = |name: &str| fs::metadata(folder.join(name)).map(|found| found.len()).ok();
        bytes("ram") == Some(self.bytes) && bytes("state").is_some_and(|bytes| bytes > 0)
    }
}

/// Why clones of a snapshot can't share its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotShared(pub(crate) &'static str);

impl Flat {
    /// Has QEMU map the memory file.
    pub(crate) fn apply(&self, line: &mut CommandLine) -> Result<()> {
        let path = self.folder.join("ram");
        let path =
            path.to_str().ok_or_else(|| Error::failed(format!("'{}' is not UTF-8", path.display())))?;
        let block =
            MemoryBlock { name: &self.note.block, size_bytes: self.note.bytes, page_bytes: PAGE_SIZE as u64 };
        line.set_memory_file(&block, path).context(|| "cannot put the memory on a file".into())
    }

    /// The lock, for a QEMU to inherit.
    pub(crate) fn lock_for_child(&self) -> Result<OwnedFd> {
        self.lock.inherit().map_err(|error| io_error("cannot keep the memory file", error))
    }

    /// The file that holds the rest of the machine.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The memory file of an image if there is a good one.
    fn open(files: &Files, folder: &Path, image: &str) -> Result<Option<Self>> {
        let Some(lock) = lock_file(folder, Kind::Shared)? else { return Ok(None) };
        Ok(Note::good(files, folder, image).map(|note| Self { folder: folder.to_owned(), note, lock }))
    }
}

/// Removes a memory file whose lock the caller holds alone. Failures can wait.
fn remove_files(files: &Files, folder: &Path) {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut names: Vec<_> = names.filter(|name| name != "lock").collect();
    // The note goes first: without it nothing is taken for whole. The lock goes last: who waits for it then finds that it was
    // removed, and can begin anew at once, so the folder goes only if it is empty.
    names.sort_by_key(|name| name != NOTE);
    for name in names.iter().map(PathBuf::from).chain([PathBuf::from("lock")]) {
        let _ = files.remove_file(&folder.join(name));
    }
    let _ = files.remove_dir(folder);
}

/// Opens and locks the lock file of a flat folder. `None` where there is none or others hold it.
fn lock_file(folder: &Path, kind: Kind) -> Result<Option<Flock>> {
    let path = folder.join("lock");
    let lock = || match Flock::take_existing(&path, kind, Wait::No)? {
        // It can have been removed, and made anew, since it was opened.
        Some(lock) if lock.is_current(&path)? => Ok(Some(lock)),
        _ => Ok(None),
    };
    lock().map_err(|error| cannot_lock(&path, error))
}

/// Finds the memory files of a root, and makes those that are not there.
pub(crate) struct Maker<'a> {
    /// Progress and cancellation.
    pub(crate) ctx: &'a Context,
    /// The store, from which they are made.
    pub(crate) store: &'a Store,
    /// The root.
    pub(crate) root: &'a Root,
}

impl Maker<'_> {
    /// The memory file of a snapshot's image, made if it is not there.
    ///
    /// # Errors
    /// `Damaged` where the image is, `Failed` on a full disk, `Interrupted`.
    pub(crate) fn of(&self, image: &str, hardware: &Hardware) -> Result<Result<Flat, NotShared>> {
        if let Err(why) = qemu_can(&hardware.qemu_version) {
            return Ok(Err(why));
        }
        let folder = self.root.flat().join(image);
        let mut in_use_since = None;
        loop {
            self.ctx.cancel.check("waiting for a memory file")?;
            if let Some(flat) = Flat::open(self.root.files(), &folder, image)? {
                return Ok(Ok(flat));
            }
            self.root.files().make_dir(&folder)?;
            let path = folder.join("lock");
            // The file only: the lock is taken below, by one who looks whether it is still there.
            match fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path) {
                Ok(_) => {}
                // Removed between the two steps.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io_error(&format!("cannot make '{}'", path.display()), error)),
            }
            match lock_file(&folder, Kind::Exclusive)? {
                // Another command made it since it was looked for.
                Some(_) if Note::good(self.root.files(), &folder, image).is_some() => {}
                Some(_lock) => {
                    let made = self.make_flat(&folder, image, hardware);
                    if !matches!(made, Ok(Ok(()))) {
                        remove_files(self.root.files(), &folder);
                    }
                    if let Err(why) = made? {
                        return Ok(Err(why));
                    }
                }
                // Others look at it for a moment; a QEMU uses it for as long as it lives.
                None if in_use(&folder)? => {
                    let since = *in_use_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > LOOK_PATIENCE {
                        return Err(spoilt(&folder));
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                // Another command makes it.
                None => {
                    in_use_since = None;
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }
}

/// Removes the memory files that nobody uses. Failures can wait.
pub(crate) fn sweep(root: &Root, helper: &Helper) {
    for entry in fs::read_dir(root.flat()).into_iter().flatten().flatten() {
        let folder = entry.path();
        let Ok(Some(lock)) = lock_file(&folder, Kind::Exclusive) else {
            continue;
        };
        let memory = fs::File::open(folder.join("ram"));
        remove_files(root.files(), &folder);
        drop(lock);
        if let Ok(memory) = memory {
            closed_by_another(memory, helper);
        }
    }
}

/// The hidden subcommand under which the helper program does nothing: its end closes what it was given.
pub const CLOSE_COMMAND: &str = "__close";

/// Has a process of its own close a file that was removed. Whoever closes it last waits until its blocks are free, which
/// takes a file system with online discard seconds for a guest's memory: nothing that a restore should wait for.
fn closed_by_another(file: fs::File, helper: &Helper) {
    let mut command = helper.command();
    command.arg(CLOSE_COMMAND).stdin(file).stdout(Stdio::null()).stderr(Stdio::null());
    // Where it can't be started the file is closed here, and that takes its time.
    if let Ok(child) = own_session(&mut command).spawn() {
        reap(child);
    }
}

/// Whether others use a memory file as it is, rather than make it.
fn in_use(folder: &Path) -> Result<bool> {
    Ok(lock_file(folder, Kind::Shared)?.is_some())
}

/// A file that others map is not there any more as it was made, so it can neither be used nor made again.
fn spoilt(folder: &Path) -> Error {
    Error::failed(format!(
        "the memory file in '{}' was changed or removed while clones run on it",
        folder.display()
    ))
    .with_hint(Hint::StopClones)
}

/// Whether a QEMU of that version can share memory files.
fn qemu_can(version: &str) -> Result<(), NotShared> {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= FIRST_QEMU { Ok(()) } else { Err(NotShared("QEMU 8.2 or later is needed for that")) }
}
