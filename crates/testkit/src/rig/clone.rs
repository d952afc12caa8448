//! Clones of a guest's snapshots, as guests of their own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::Value;

use super::check::Before;
use super::guest::{ANSWER, Guest};
use crate::console::Console;
use crate::report::Tick;

/// A clone before it is started.
#[derive(Debug)]
pub struct Clone<'r> {
    /// The guest it will be.
    pub guest: Guest<'r>,
    before: Before,
}

impl<'r> Guest<'r> {
    /// Listens on the console of a VM that will be made as a clone of this one's snapshot.
    #[track_caller]
    pub fn expect_clone(&self, snapshot: &str, name: &str) -> Clone<'r> {
        let console = Console::attach(&self.rig.vm_folder(name).join("run/console.sock"));
        let guest = Guest {
            rig: self.rig,
            console,
            name: name.to_owned(),
            bases: self.bases.clone(),
            sum: RefCell::new(self.known_of(snapshot).sum),
            began: Cell::new(Instant::now()),
            known: RefCell::new(BTreeMap::new()),
        };
        let before = guest.before();
        Clone { guest, before }
    }

    /// `vm clone` of one VM with these options, and the proof that it goes on where the snapshot was if it was started.
    #[track_caller]
    pub fn clone_as(&self, snapshot: &str, name: &str, options: &[&str]) -> (Guest<'r>, Value) {
        let clone = self.expect_clone(snapshot, name);
        let address = self.address(snapshot);
        let view = self.rig.run_json(&[&["vm", "clone", &address, name], options].concat());
        let made = &view["clones"][0];
        assert_eq!((&made["name"], &made["error"]), (&name.into(), &Value::Null), "{view}");
        if made["state"] != "running" || made["start"] != "warm" {
            return (clone.guest, view);
        }
        (clone.check_warm(self, snapshot), view)
    }
}

impl<'r> Clone<'r> {
    /// Checks that the clone's guest went on with the next tick, its memory and disks those of the snapshot.
    #[track_caller]
    pub fn check_warm(self, parent: &Guest<'_>, snapshot: &str) -> Guest<'r> {
        let first: Tick = self.guest.first_tick_after(self.before, ANSWER);
        parent.known_of(snapshot).check_first(first);
        self.guest.verify_ok();
        self.guest
    }

    /// Checks that the clone's guest booted, and gives what it found on its first disk.
    #[track_caller]
    pub fn check_booted(&self) -> Option<u64> {
        self.guest.booted(self.before)
    }
}
