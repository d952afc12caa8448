//! The worker of a page server: finds out what its QEMU needs, and serves it until it has everything.
//!
//! ```text
//!  QEMU's migration
//!    none, setup: waits for one    -> connect, send everything
//!    postcopy-paused: lost it      -> migrate-recover (recovery.rs), connect, ask what came, go on
//!    completed                     -> done
//!    anything else                 -> on its way to one of these, or QEMU is ending: look again
//! ```
//! A page that can't be read ends QEMU: the guest must never see wrong memory, nor wait for ever. The record says why.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmrewind_qemu::postcopy::{FirstPages, Options, Progress, Source};
use vmrewind_qemu::qmp::commands::MigrationStatus;
use vmrewind_qemu::stream::{Captured, PAGE_SIZE};
use vmrewind_store::ImageReader;

use super::ahead::Ahead;
use super::job::LazyRestore;
use super::recovery::{Answer, recover};
use super::serve::{End, Served, Watcher, serve};
use crate::background::{Progress as Told, Shift, Turn};
use crate::error::{Error, Result};
use crate::images::{image_id, open_store, store_error};
use crate::machine_image;
use crate::migration::forget_incoming;
use crate::monitor::Monitor;
use crate::patience::Patience;
use crate::record::working_set::WorkingSet;
use crate::root::Root;
use crate::vm::process::Process;
use crate::vm::run_folder::{self, socket};

/// How long the command that began the restore may take to start its QEMU.
const CONNECT_PATIENCE: Duration = Duration::from_secs(180);
/// How long a QEMU that answers may be between two states in which something can be done.
const TURN_PATIENCE: Duration = Duration::from_secs(120);
/// How long its main loop may take to answer at first, and later.
const SHORT_PATIENCE: Duration = Duration::from_millis(50);
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// How often connections may be lost without a page sent, before QEMU is given up.
const ATTEMPTS: u32 = 10;

/// A worker and what it works on.
struct Worker<'a> {
    shift: &'a Shift<'a, LazyRestore>,
    run: PathBuf,
    /// The restore, as the command that began it had told it when this was last looked at.
    restore: LazyRestore,
}

/// What can be done about QEMU.
enum Approach {
    /// It waits for a source.
    Fresh(UnixStream),
    /// It has lost its source.
    Recover(UnixStream),
    /// It has everything.
    Whole,
    /// It has ended.
    Gone,
}

/// Serves until QEMU has everything or is gone. In the first turn QEMU is still to be started by the command at the other end of
/// standard input.
pub(super) fn work(shift: &Shift<'_, LazyRestore>) -> Result<Turn> {
    // Without its sockets QEMU can't be reached now. They can come back.
    let Some(run) = run_folder::existing(&shift.folder) else { return Ok(Turn::Later) };
    let mut worker = Worker { shift, run, restore: shift.job.clone() };
    let (image, captured) = worker.open(shift.root)?;
    worker.serve_all(&image, &captured, shift.is_first)?;
    worker.put_settings_back();
    shift.reached("pages-served");
    Ok(Turn::Done)
}

impl Worker<'_> {
    fn open(&self, root: &Root) -> Result<(ImageReader, Captured)> {
        let store = open_store(root)?;
        let image = store
            .open_image(&image_id(&self.restore.image)?)
            .map_err(|error| store_error("the snapshot's memory can't be read", error))?;
        let captured = machine_image::captured(&image)?;
        self.shift.log.say(format_args!("image {} is open", self.restore.image));
        Ok((image, captured))
    }

    fn serve_all(&mut self, image: &ImageReader, captured: &Captured, fresh: bool) -> Result<()> {
        let known = WorkingSet::load(&self.shift.folder, &self.restore.snapshot);
        let working_set = known.as_ref().map(|set| set.pages_of(&captured.blocks)).unwrap_or_default();
        let FirstPages { early, later } = &working_set;
        self.shift.log.say(format_args!("working set of {} pages, and {} later", early.len(), later.len()));
        let memory = Ahead::of(image, early.clone());
        let mut serve = || self.serve_from(&memory, captured, known.as_ref(), &working_set, fresh);
        // A QEMU that has lost its source has most of the working set already.
        if fresh { memory.with_readers(serve) } else { serve() }
    }

    fn serve_from(
        &mut self,
        memory: &Ahead<'_>,
        captured: &Captured,
        known: Option<&WorkingSet>,
        working_set: &FirstPages,
        mut fresh: bool,
    ) -> Result<()> {
        let total = memory.data_pages();
        let mut failures = 0;
        loop {
            let approach = if fresh { self.wait_for_qemu()? } else { self.approach()? };
            fresh = false;
            let options = options(known.is_some());
            let made = match &approach {
                Approach::Fresh(_) => Source::fresh(captured, total, working_set.clone(), options),
                Approach::Recover(_) => Source::recovering(captured, total, FirstPages::default(), options),
                Approach::Whole => return Ok(()),
                Approach::Gone => {
                    self.shift.log.say(format_args!("QEMU has ended"));
                    return Ok(());
                }
            };
            let source = made.map_err(|error| Error::failed("cannot serve QEMU").because(error))?;
            let is_fresh = matches!(approach, Approach::Fresh(_));
            let (Approach::Fresh(stream) | Approach::Recover(stream)) = approach else { continue };
            let watcher = Reporter { worker: self, can_run: AtomicBool::new(false) };
            let Served { end, progress, asked } = serve(source, memory, stream, &watcher)?;
            self.shift.log.say(format_args!("{end:?}: {progress:?}"));
            // A guest that did not come to run has shown nothing, and the restore begins anew.
            if is_fresh && progress.can_run {
                self.learn(known, captured, &asked);
            }
            match end {
                End::Whole => {
                    // A QEMU with all its memory is not ended, however long it takes to say so.
                    if let Err(error) = self.wait_completed() {
                        self.shift.log.say(format_args!("{}", error.in_one_line()));
                    }
                    return Ok(());
                }
                End::Lost(_) if progress.can_run => failures = 0,
                End::Lost(why) => {
                    failures += 1;
                    if failures >= ATTEMPTS {
                        return Err(Error::failed("QEMU can't be served").because(Error::failed(why)));
                    }
                }
            }
        }
    }

    /// Waits until the command that began the restore has a QEMU that listens, as long as that command lives.
    fn wait_for_qemu(&mut self) -> Result<Approach> {
        let path = self.run.join(socket::LAZY);
        let deadline = Instant::now() + CONNECT_PATIENCE;
        while Instant::now() < deadline {
            if let Ok(stream) = UnixStream::connect(&path) {
                self.shift.log.say(format_args!("connected"));
                if let Some(restore) = self.shift.present() {
                    self.restore = restore;
                }
                return Ok(Approach::Fresh(stream));
            }
            if is_closed(&std::io::stdin()) {
                self.shift.log.say(format_args!("the restore was given up"));
                return Ok(Approach::Gone);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(Error::failed("QEMU did not wait for its memory in time"))
    }

    /// Looks at QEMU's migration until something can be done.
    fn approach(&self) -> Result<Approach> {
        let Some(process) = self.qemu()? else { return Ok(Approach::Gone) };
        let mut deadline = Instant::now() + TURN_PATIENCE;
        let mut patience = SHORT_PATIENCE;
        let mut last = String::new();
        while Instant::now() < deadline {
            if !process.is_alive() {
                return Ok(Approach::Gone);
            }
            match self.look(patience) {
                Ok(Some(approach)) => return Ok(approach),
                Ok(None) => {}
                // Without a source before its devices were loaded it has no way on, and can hang in that: the
                // restore begins anew.
                Err(error) if patience >= LONG_PATIENCE && !self.is_loaded() => {
                    self.shift.log.say(format_args!("QEMU lost its source too early, and is ended: {error}"));
                    process.kill()?;
                    return Ok(Approach::Gone);
                }
                Err(error) => {
                    last = error.in_one_line();
                    patience = (patience * 2).min(LONG_PATIENCE);
                    // One that has its devices and is silent, stopped perhaps, can go on as soon as it speaks again.
                    if self.is_loaded() {
                        deadline = Instant::now() + TURN_PATIENCE;
                    }
                }
            }
            process.wait_end(Duration::from_millis(5));
        }
        Err(Error::failed("QEMU is in no state in which its memory can be served")
            .because(Error::failed(last)))
    }

    fn is_loaded(&self) -> bool {
        self.shift.present().is_none_or(|restore| restore.loaded)
    }

    /// Looks once. An answer of its main loop is not waited for longer than `patience`.
    fn look(&self, patience: Duration) -> Result<Option<Approach>> {
        match self.recover()? {
            Some(approach) => Ok(Some(approach)),
            None => self.ask(patience),
        }
    }

    /// Connects to a QEMU that has lost its source.
    fn recover(&self) -> Result<Option<Approach>> {
        let path = self.run.join(socket::LAZY_AGAIN);
        match recover(&self.run, &path)? {
            Answer::NotNow => Ok(None),
            Answer::Listens => {
                self.shift.reached("pages-recovering");
                self.shift.log.say(format_args!("QEMU waits for another source"));
                Ok(UnixStream::connect(&path).ok().map(Approach::Recover))
            }
        }
    }

    /// Asks a QEMU that has not lost its source. Its main loop can be waiting for a page, because it is about to lose
    /// it: an answer is not waited for longer than `patience`.
    fn ask(&self, patience: Duration) -> Result<Option<Approach>> {
        let monitor = Monitor::connect(&self.run.join(socket::PAGES), patience, Patience::default())?;
        match monitor.migration()?.status.unwrap_or(MigrationStatus::None) {
            MigrationStatus::Completed => Ok(Some(Approach::Whole)),
            // It listens, or is about to (`setup` from the begin of `migrate-incoming` in newer versions).
            MigrationStatus::None | MigrationStatus::Setup => {
                Ok(UnixStream::connect(self.run.join(socket::LAZY)).ok().map(Approach::Fresh))
            }
            _ => Ok(None),
        }
    }

    /// Waits until QEMU has put away the migration: before that it takes no other.
    fn wait_completed(&self) -> Result<()> {
        match self.approach()? {
            Approach::Whole | Approach::Gone => Ok(()),
            Approach::Fresh(_) | Approach::Recover(_) => Err(Error::failed("QEMU forgot that it was served")),
        }
    }

    fn qemu(&self) -> Result<Option<Process>> {
        self.restore.qemu(&self.shift.folder)
    }

    /// Adds what was asked for to the working set. Not worth an error: the next restore tries again.
    fn learn(&self, known: Option<&WorkingSet>, captured: &Captured, asked: &FirstPages) {
        let set = WorkingSet::improved(known, &captured.blocks, asked);
        if let Err(error) = set.save(&self.shift.folder, &self.restore.snapshot) {
            self.shift.log.say(format_args!("the working set is not kept: {error}"));
        }
    }

    /// Has a QEMU that has everything migrate as any other does. Nobody captures it before the record is gone.
    fn put_settings_back(&self) {
        let connect = || Monitor::connect(&self.run.join(socket::PAGES), LONG_PATIENCE, Patience::default());
        if let Ok(Some(process)) = self.qemu()
            && let Ok(monitor) = connect()
        {
            forget_incoming(&monitor, process.mark, &self.run);
        }
    }
}

struct Reporter<'a> {
    worker: &'a Worker<'a>,
    can_run: AtomicBool,
}

impl Watcher for Reporter<'_> {
    fn progress(&self, progress: Progress) {
        let bytes = |pages: u64| pages * PAGE_SIZE as u64;
        self.worker
            .shift
            .tell(Told { done_bytes: bytes(progress.sent_pages), total_bytes: bytes(progress.total_pages) });
        if progress.can_run && !self.can_run.swap(true, Ordering::Relaxed) {
            self.worker.shift.log.say(format_args!("the guest can run: {progress:?}"));
            self.worker.shift.reached("pages-guest-can-run");
        }
    }

    fn opened(&self) {
        self.worker.shift.log.say(format_args!("opening sent"));
        self.worker.shift.reached("pages-opened");
    }
}

/// Where nothing is known of what the guest needs first, more time is left to see it.
fn options(known: bool) -> Options {
    let push_after = if known { Duration::from_millis(200) } else { Duration::from_millis(500) };
    // QEMU runs on this host: what it is given are pages of this host.
    let host_page_bytes = rustix::param::page_size() as u64;
    Options { host_page_bytes, push_after, ..Options::default() }
}

/// Whether the other end of a pipe is closed.
fn is_closed(pipe: &std::io::Stdin) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}
