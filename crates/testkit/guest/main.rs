//! The program that test guests run: proof, from inside, that a VM goes on exactly where it was.
//!
//! It is what a captured guest is judged by, so it keeps state in every place a snapshot has to hold: memory that
//! never changes ([`memory::Fill`]), memory that always changes ([`memory::DirtyRegion`]), counters on up to two
//! disks ([`disks::Disks`]), and the count of its own ticks. A host reads it and speaks to it on the serial line.
//!
//! ```text
//! guest -> host   READY sum=<hex> found=<n> found2=<n>   once at start, and when asked with `ready`
//!                 T <tick> <disk done> <disk in flight>  every TICK_MS
//! host -> guest   verify | sync | stop | damage | ready | write NAME TEXT | read NAME
//!                 efivar set NAME TEXT | efivar get NAME | uptime | cpus | id | clock
//!                 agent hang | agent kill | churn PERCENT
//! ```
//! Every answer is one line, and lines are never mixed. Parameters come from the kernel command line, by way of the
//! environment: TICK_MS, DISK_MS, FILL (MiB), MIX, SEED, DIRTY_MIB, DIRTY_HZ (pages per second).
//!
//! It is compiled by testkit with plain `rustc` (static, standard library only), and by cargo so that lints see it.

#![forbid(unsafe_code)]

mod commands;
mod disks;
mod memory;
mod power;
mod serial;
mod source;

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use crate::disks::{Disks, Progress};
use crate::memory::{DirtyRegion, Fill, Mix};
pub(crate) use crate::serial::say;

/// All the state that a snapshot of this guest must hold.
pub(crate) struct Guest {
    pub(crate) ticks: AtomicU64,
    pub(crate) progress: Progress,
    pub(crate) disks: Mutex<Disks>,
    pub(crate) fill: RwLock<Fill>,
    pub(crate) dirty: Mutex<DirtyRegion>,
}

fn main() {
    let fill = Fill::new(parameter("FILL", 64), parameter("MIX", Mix::Mixed), parameter("SEED", 0));
    let disks = Disks::open(["/mnt", "/mnt2"]);
    let guest = Arc::new(Guest {
        ticks: AtomicU64::new(0),
        progress: Progress::starting_at(disks.newest_found()),
        disks: Mutex::new(disks),
        fill: RwLock::new(fill),
        dirty: Mutex::new(DirtyRegion::new(parameter("DIRTY_MIB", 8))),
    });
    say(&commands::ready(&guest));
    let disk_interval = Duration::from_millis(parameter("DISK_MS", 20));
    let pages_per_second = parameter("DIRTY_HZ", 200);
    power::watch_buttons(&guest);
    in_background(&guest, commands::serve);
    in_background(&guest, move |guest| disks::count(guest, disk_interval));
    in_background(&guest, move |guest| memory::dirty(&guest.dirty, pages_per_second));
    tick(&guest, Duration::from_millis(parameter("TICK_MS", 10)));
}

fn tick(guest: &Guest, interval: Duration) {
    loop {
        let tick = guest.ticks.fetch_add(1, Ordering::SeqCst) + 1;
        // Until the line is out, no counter goes beyond what it says: a snapshot can be taken in between.
        let held = guest.progress.hold();
        say(&format!("T {tick} {} {}", guest.progress.done(), guest.progress.in_flight()));
        drop(held);
        thread::sleep(interval);
    }
}

/// Locks, also after a thread died holding the lock: the next `verify` must still be able to report.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_background(guest: &Arc<Guest>, work: impl FnOnce(&Guest) + Send + 'static) {
    let guest = Arc::clone(guest);
    thread::spawn(move || work(&guest));
}

fn parameter<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}
