//! The lock of a VM: one writer at a time, given up by the kernel when its holder dies.
//!
//! Who finds it taken waits in a queue, first come first served, as long as its caller wants to. The holder has written into the
//! file what it does, so that whoever gives up can say whom it waited for. That note is worth nothing once the lock is free.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use vmrewind_files::{Flock, Kind, Ticket, Wait, is_waited_in};

use crate::context::{Context, Holder, Note};
use crate::error::{Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::root::VmFolder;
use crate::root::file::cannot_lock;

/// How long a command waits at least: for one that is about to end, or that only looks.
const PATIENCE: Duration = Duration::from_millis(300);
/// Time between two attempts of the first in the queue.
const POLL: Duration = Duration::from_millis(5);
/// More than a note of a holder has.
const NOTE_BYTES: u64 = 4096;

/// Holds a VM for writing until dropped.
#[derive(Debug)]
pub(crate) struct VmLock(Flock);

impl VmLock {
    /// Takes the lock of the VM in `folder`, waiting for it as long as the operation's caller wants to.
    ///
    /// # Errors
    /// `Busy`, naming who holds it; `Interrupted`.
    pub(crate) fn take(ctx: &Context, folder: &VmFolder, vm: &str) -> Result<Self> {
        let (path, queue) = (folder.lock(), folder.queue());
        // Past those who wait nobody goes, however short its work.
        let is_free = !is_waited_in(&queue).map_err(|error| cannot_lock(&path, error))?;
        if is_free && let Some(lock) = Self::try_take(&path)? {
            return Ok(lock.held_by(ctx));
        }
        let ticket = Ticket::take(&queue).map_err(|error| cannot_lock(&path, error))?;
        let clock = &ctx.host.clock;
        let begun = clock.monotonic();
        let mut is_told = false;
        loop {
            if ticket.is_first().map_err(|error| cannot_lock(&path, error))?
                && let Some(lock) = Self::try_take(&path)?
            {
                return Ok(lock.held_by(ctx));
            }
            ctx.cancel.check(&format!("waiting for VM '{vm}'"))?;
            let waited = clock.monotonic().saturating_sub(begun);
            if waited >= ctx.wait.max(PATIENCE) {
                return Err(busy(vm, holder(&path).as_ref()));
            }
            if !is_told && waited >= PATIENCE {
                is_told = true;
                ctx.note(Note::WaitingForVm { vm: vm.to_owned(), holder: holder(&path) });
            }
            clock.sleep(POLL);
        }
    }

    /// Whether the lock is of the file that is at `path` now.
    pub(crate) fn is_of(&self, path: &Path) -> bool {
        self.0.is_current(path).unwrap_or(false)
    }

    /// Takes the lock if nobody holds it, past all who wait: to look, or for a VM that nobody knows yet.
    pub(crate) fn try_take(path: &Path) -> Result<Option<Self>> {
        let lock = Flock::take(path, Kind::Exclusive, Wait::No);
        lock.map(|lock| lock.map(Self)).map_err(|error| cannot_lock(path, error))
    }

    /// Writes down who holds it. Without that it is held all the same.
    fn held_by(self, ctx: &Context) -> Self {
        let holder = Holder { operation: ctx.what.clone(), pid: std::process::id(), since: ctx.now() };
        let write = |mut file: &File| {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&serde_json::to_vec(&holder)?)
        };
        let _: std::io::Result<()> = write(self.0.file());
        self
    }
}

/// Who says that it holds the lock at `path`. `None` where nothing can be read: it can be about to write it.
fn holder(path: &Path) -> Option<Holder> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(NOTE_BYTES).read_to_end(&mut bytes)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn busy(vm: &str, holder: Option<&Holder>) -> Error {
    let who = holder.map_or_else(
        || "another operation holds it".to_owned(),
        |holder| format!("'{}' (process {}) holds it", holder.operation.escape_debug(), holder.pid),
    );
    Error::new(ErrorKind::Busy, format!("VM '{vm}' is busy: {who}")).with_hint(Hint::WaitForHolder)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::testing::{Recorded, caller, folder, host};

    fn context(wait_ms: u64, heard: &Arc<Recorded>) -> Context {
        let wait = Duration::from_millis(wait_ms);
        crate::testing::context_of(
            &host(),
            crate::context::Caller { wait, events: heard.clone(), ..caller("snapshot create") },
        )
    }

    /// Guards against a command that says "busy" and not by what: who waits has to know whom to ask, or to kill.
    #[test]
    fn who_gives_up_says_who_holds_the_vm() {
        let (_dir, folder) = folder();
        let heard = Arc::new(Recorded::default());
        let held = VmLock::take(&context(0, &heard), &folder, "web").unwrap();
        let error = VmLock::take(&context(400, &heard), &folder, "web").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let who = format!("VM 'web' is busy: 'snapshot create' (process {}) holds it", std::process::id());
        assert_eq!(error.to_string(), who);
        assert_eq!(heard.events().len(), 1, "it tells once that it waits: {:?}", heard.events());
        assert!(!folder.queue().exists(), "who gave up waits no more");
        drop(held);
        VmLock::take(&context(0, &heard), &folder, "web").unwrap();
    }

    /// Guards who waits against those who come later: each gets its turn, though all others ask all the time.
    #[test]
    fn who_waits_gets_its_turn() {
        let (_dir, folder) = folder();
        let heard = Arc::new(Recorded::default());
        let turns = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let lock = VmLock::take(&context(36_000_000, &heard), &folder, "web").unwrap();
                        turns.fetch_add(1, Ordering::Relaxed);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(turns.into_inner(), 30);
    }

    /// Guards Ctrl-C: whoever waits for an hour must not have to.
    #[test]
    fn who_waits_can_be_interrupted() {
        let (_dir, folder) = folder();
        let heard = Arc::new(Recorded::default());
        let _held = VmLock::take(&context(0, &heard), &folder, "web").unwrap();
        let waiting = context(3_600_000, &heard);
        waiting.cancel.cancel();
        let error = VmLock::take(&waiting, &folder, "web").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }
}
