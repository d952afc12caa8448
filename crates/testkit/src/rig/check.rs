//! What must be true of a restored guest and of its disks, whatever was done to it.
//!
//! ```text
//! ticks of the guest that was captured   ... t-1  t | t+1 ...      | the instant of the snapshot
//! ticks of the guest that was restored                t+1 ...      nothing twice, nothing left out
//! counter on each frozen disk            done of tick t <= counter <= in flight of tick t+1
//! ```
//! The instant lies somewhere in the time that the command took. It is bracketed by what is certain: a tick that had
//! come before QEMU stopped the guest belongs before it, one that had not come when the command ended belongs after it.
//! The disks narrow that down to one counter: memory of another instant than the disks does not fit between the ticks.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::guest::{ANSWER, Guest};
use super::must;
use crate::command::run;
use crate::console::Mark;
use crate::disk;
use crate::report::Tick;

/// What is known of a snapshot that a guest was captured in.
#[derive(Debug, Clone)]
pub struct Known {
    /// `snapshot create --json`.
    pub view: Value,
    /// Ticks of the captured guest until the command had ended.
    ticks: Vec<Tick>,
    /// The last of them that is certain to have come before the instant.
    before: Option<Tick>,
    /// Checksum of its memory.
    pub(super) sum: String,
}

/// What a restore gave.
#[derive(Debug, Clone)]
pub struct Restored {
    /// `snapshot restore --json`.
    pub view: Value,
    /// The restored guest's first tick; none where it does not run.
    pub first: Option<Tick>,
}

/// Where the guest's console stood when another QEMU was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before {
    at: Instant,
    connections: usize,
    /// The seat of the QEMU that was the VM then, by its number.
    seat: Option<u32>,
}

impl Guest<'_> {
    /// Where the guest is now.
    pub(super) fn before(&self) -> Before {
        Before { at: Instant::now(), connections: self.console.connections(), seat: self.seat() }
    }

    /// `snapshot create`, with its result checked; what is needed to judge a restore is remembered.
    #[track_caller]
    pub fn snapshot(&self, name: &str, options: &[&str]) -> Value {
        let view = self.rig.run_json(&[&["snapshot", "create", &self.name, name], options].concat());
        self.remember(name, &view);
        view
    }

    /// Checks the result of a `snapshot create` that has just ended, and remembers what a restore is judged by.
    #[track_caller]
    pub fn remember(&self, name: &str, view: &Value) {
        check_view(view, &self.name, name);
        let certain = instant_of(view) - pause_of(view);
        let ticks: Vec<(Instant, Tick)> = self.console.ticks();
        let ticks: Vec<_> = ticks.into_iter().filter(|(at, _)| *at >= self.began.get()).collect();
        let before = ticks.iter().rev().find(|(at, _)| *at < certain).map(|(_, tick)| *tick);
        let known = Known {
            view: view.clone(),
            before,
            ticks: ticks.into_iter().map(|(_, tick)| tick).collect(),
            sum: self.sum.borrow().clone(),
        };
        self.known.borrow_mut().insert(name.to_owned(), known);
    }

    /// `snapshot restore` of one with memory, and the proof that the guest goes on where it was.
    #[track_caller]
    pub fn restore(&self, name: &str, options: &[&str]) -> Restored {
        let before = self.before();
        let view = self.rig.run_json(&[&["snapshot", "restore", &self.address(name)], options].concat());
        assert_eq!((view["vm"].as_str(), view["snapshot"].as_str()), (Some(&*self.name), Some(name)));
        assert_ne!(view["mode"], "cold", "{view}");
        if view["state"] != "running" {
            self.expect_memory_of(name);
            return Restored { view, first: None };
        }
        assert!(view["start_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{view}");
        let first = self.first_tick_after(before, ANSWER);
        self.check_restored(name, first);
        Restored { view, first: Some(first) }
    }

    /// Lets a guest go that was restored with `--paused`, with the same proof.
    #[track_caller]
    pub fn cont_after_restore(&self, name: &str) -> Tick {
        let (at, still) = (Instant::now(), self.console.mark());
        self.qmp("cont", &json!({}));
        let first = self.first_tick_since(still, at, ANSWER);
        self.check_restored(name, first);
        first
    }

    /// Whether the guest's memory is from now on to be judged as that of this snapshot.
    fn expect_memory_of(&self, name: &str) {
        let sum = self.known_of(name).sum;
        self.sum.replace(sum);
    }

    #[track_caller]
    pub(super) fn known_of(&self, name: &str) -> Known {
        self.known.borrow().get(name).cloned().unwrap_or_else(|| panic!("'{name}' was not made by the rig"))
    }

    /// The guest went on with the next tick, its memory is right, and its disks are of the same instant.
    #[track_caller]
    fn check_restored(&self, name: &str, first: Tick) {
        let known = self.known_of(name);
        known.check_first(first);
        self.expect_memory_of(name);
        self.verify_ok();
        for (path, counter) in self.frozen_counters(&known.view) {
            known.check_counter(first, counter, &path);
        }
    }

    /// The first tick of the QEMU that was started since. The old guest may have ticked on for a while, up to the very
    /// tick before the one that the new guest goes on with: only the connection tells their ticks apart.
    #[track_caller]
    pub(super) fn first_tick_after(&self, before: Before, patience: Duration) -> Tick {
        let began = must("find a new QEMU", self.console.wait_connected(before.connections, patience));
        let seen = self.first_tick_since(began, before.at, patience);
        // A QEMU on another seat has run for a moment before the console's connection to the old one has ended.
        if self.seat() == before.seat { seen } else { self.first_in_log().unwrap_or(seen) }
    }

    fn seat(&self) -> Option<u32> {
        let link = fs::read_link(self.rig.vm_folder(&self.name).join("seat")).ok()?;
        link.file_name()?.to_str()?.parse().ok()
    }

    /// The first tick that the QEMU which is the VM now has ever put out: its console's log begins with it.
    fn first_in_log(&self) -> Option<Tick> {
        let log = fs::read(self.rig.vm_folder(&self.name).join("run/console.log")).ok()?;
        String::from_utf8_lossy(&log).lines().find_map(|line| Tick::parse(line.trim()))
    }

    /// The first tick after `mark`, which was taken at `at`; a new line of time begins with it.
    #[track_caller]
    fn first_tick_since(&self, mark: Mark, at: Instant, patience: Duration) -> Tick {
        let first = must("see the guest tick", self.console.wait_tick(mark, patience));
        let ticks = self.console.ticks();
        let found = ticks.iter().rev().find(|(came, tick)| *came >= at && *tick == first);
        self.began.set(found.map_or(at, |(came, _)| *came));
        first
    }

    /// The counter on each disk of a snapshot that has one, with the frozen layer that holds it.
    #[track_caller]
    fn frozen_counters(&self, view: &Value) -> Vec<(PathBuf, u64)> {
        let counted = self.counted_disks();
        let disks = view["disks"].as_array().into_iter().flatten();
        let disks = disks.filter(|disk| counted.contains_key(text(&disk["name"])));
        let layers = disks.map(|disk| {
            let file = format!("{}.qcow2", text(&disk["layer"]));
            self.rig.vm_folder(&self.name).join("layers").join(text(&disk["name"])).join(file)
        });
        let counters = layers.map(|path| {
            let found = must("look into a frozen disk", disk::inspect(&path, "qcow2"));
            assert!(found.clean, "{}: {}", path.display(), found.report);
            let counter = found.counter;
            (path.clone(), counter.unwrap_or_else(|| panic!("no counter on {}", path.display())))
        });
        counters.collect()
    }

    /// The names of the disks with a counter, and their active layers.
    fn counted_disks(&self) -> BTreeMap<String, PathBuf> {
        let bases: Vec<PathBuf> = self.bases.iter().filter_map(|base| base.canonicalize().ok()).collect();
        let view = self.show();
        let disks = view["disks"].as_array().into_iter().flatten();
        let counted = disks.filter(|disk| {
            let base = disk["chain"].as_array().and_then(|chain| chain.last()).map(text);
            base.is_some_and(|base| bases.iter().any(|known| known == Path::new(base)))
        });
        counted.map(|disk| (text(&disk["name"]).to_owned(), PathBuf::from(text(&disk["active"])))).collect()
    }

    /// After a clean stop: every file system is clean and has all that was promised, every layer is sound.
    #[track_caller]
    pub fn check_disks(&self) {
        let done = self.console.last_tick().map_or(0, |tick| tick.done);
        let counted = self.counted_disks();
        assert_eq!(counted.len(), self.bases.len(), "disks with counters: {counted:?}");
        for (name, active) in counted {
            let found = must("look into a disk", disk::inspect(&active, "qcow2"));
            assert!(found.clean, "disk {name}: {}", found.report);
            assert!(found.counter >= Some(done), "disk {name}: {:?} after {done}", found.counter);
        }
        self.check_layers();
    }

    /// `qemu-img check` finds no fault in any layer of the VM, those of no snapshot included.
    ///
    /// A guest that runs is stopped meanwhile, which makes QEMU write all it knows of its layers: between a flush's
    /// reference counts and its tables, a sound layer that is being written has clusters that look leaked.
    #[track_caller]
    pub fn check_layers(&self) {
        let runs = self.state() == "running";
        if runs {
            self.qmp("stop", &json!({}));
        }
        for layer in self.layers() {
            let arguments = [OsStr::new("check"), "-q".as_ref(), "-U".as_ref(), "-f".as_ref()];
            let arguments = arguments.into_iter().chain(["qcow2".as_ref(), layer.as_os_str()]);
            must("find a layer sound", run("qemu-img", arguments));
        }
        if runs {
            self.qmp("cont", &json!({}));
        }
    }

    /// The files of all layers of the VM.
    pub fn layers(&self) -> Vec<PathBuf> {
        let disks = fs::read_dir(self.rig.vm_folder(&self.name).join("layers")).into_iter().flatten();
        let files = disks.flatten().flat_map(|disk| fs::read_dir(disk.path()).into_iter().flatten());
        let mut paths: Vec<_> = files.flatten().map(|file| file.path()).collect();
        paths.sort();
        paths
    }
}

impl Known {
    /// The restored guest must go on with the tick after the last one before the instant.
    #[track_caller]
    pub(super) fn check_first(&self, first: Tick) {
        let lowest = self.before.map_or(1, |tick| tick.tick + 1);
        let highest = self.ticks.last().map_or(u64::MAX, |tick| tick.tick + 2);
        assert!(
            (lowest..=highest).contains(&first.tick),
            "the guest went on with {first:?}, and the instant is between ticks {lowest} and {highest}: {}",
            self.view
        );
    }

    /// A frozen disk must hold a counter between the tick before the instant and the one after it.
    #[track_caller]
    fn check_counter(&self, first: Tick, counter: u64, layer: &Path) {
        let last = self.ticks.iter().rev().find(|tick| tick.tick < first.tick);
        let lowest = last.map_or(0, |tick| tick.done);
        assert!(
            (lowest..=first.in_flight).contains(&counter),
            "{} holds {counter}, and memory {last:?} before and {first:?} after the instant",
            layer.display()
        );
    }
}

/// The fields that every snapshot has, as the product promises them.
#[track_caller]
fn check_view(view: &Value, vm: &str, name: &str) {
    assert_eq!((view["vm"].as_str(), view["name"].as_str()), (Some(vm), Some(name)), "{view}");
    assert!(view["id"].as_str().is_some_and(|id| !id.is_empty()), "{view}");
    assert!(view["parent"].is_null() || view["parent"].is_string(), "{view}");
    assert!(view["pause_ms"].is_number() && view["total_ms"].is_number(), "{view}");
    assert!(["live", "filesystem", "crash", "off"].contains(&text(&view["grade"])), "{view}");
    let live = view["grade"] == "live";
    let method = text(&view["method"]);
    assert_eq!(live, ["precopy", "background", "paused"].contains(&method), "{view}");
    assert_eq!(!live, method == "none", "{view}");
    for disk in view["disks"].as_array().unwrap_or_else(|| panic!("no disks: {view}")) {
        assert!(disk["name"].is_string() && disk["layer"].is_string() && disk["bytes"].is_u64(), "{view}");
    }
    let memory = &view["memory"];
    assert_eq!(live, memory.is_object(), "{view}");
    for field in ["bytes", "zero_bytes", "new_bytes", "stored_bytes"] {
        assert!(!live || memory[field].is_u64(), "{field}: {view}");
    }
}

/// When the snapshot's instant was, by this process's clock.
#[track_caller]
fn instant_of(view: &Value) -> Instant {
    let created: jiff::Timestamp = must("read the time of a snapshot", text(&view["created"]).parse());
    #[expect(clippy::disallowed_methods, reason = "compared with the time that the program recorded")]
    let now = SystemTime::now();
    let age = now.duration_since(SystemTime::from(created)).unwrap_or_default();
    Instant::now().checked_sub(age).unwrap_or_else(Instant::now)
}

/// How long the guest stood still, a little more.
fn pause_of(view: &Value) -> Duration {
    Duration::from_secs_f64(view["pause_ms"].as_f64().unwrap_or(0.0) / 1e3) + Duration::from_millis(1)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tick(tick: u64, done: u64) -> Tick {
        Tick { tick, done, in_flight: done + 1 }
    }

    fn known() -> Known {
        let ticks: Vec<Tick> = (1..=20).map(|number| tick(number, number * 10)).collect();
        Known { view: json!({}), before: Some(ticks[9]), ticks, sum: String::new() }
    }

    /// Guards the judge: a guest that goes on too early, too late, or with memory of another instant than a disk.
    #[test]
    fn a_wrong_instant_is_noticed() {
        let fails = |check: &dyn Fn(Known)| {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(known()))).is_err()
        };
        let layer = Path::new("layer");
        assert!(!fails(&|known| known.check_first(tick(11, 110))));
        assert!(fails(&|known| known.check_first(tick(10, 100))), "that tick had come before");
        assert!(fails(&|known| known.check_first(tick(30, 300))), "that tick was not yet");
        assert!(!fails(&|known| known.check_counter(tick(11, 110), 105, layer)));
        assert!(fails(&|known| known.check_counter(tick(15, 150), 105, layer)), "memory is newer");
        assert!(fails(&|known| known.check_counter(tick(11, 110), 120, layer)), "the disk is newer");
    }
}
