//! vmrewind's ways: a VM with generations in the store, brought back to the last of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use vmrewind_testkit::console::Console;
use vmrewind_testkit::disk;
use vmrewind_testkit::guest::{DiskArg, GuestOptions};

use super::Arrival;
use crate::outcome::{Outcome, context};
use crate::vm::{ANSWER, Vm};

/// Percent of the guest's pages that change from one generation to the next.
const CHURN_PERCENT: u32 = 5;
const POLL: Duration = Duration::from_millis(50);

/// One of vmrewind's ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OurWay {
    /// Lazily, with what the capture has guessed of what the guest touches first.
    LazyFirst,
    /// Lazily, with the working set that a restore before has recorded.
    LazyAgain,
    /// All memory before the guest runs.
    Eager,
}

impl OurWay {
    /// All of them; the second needs the first before it.
    pub(super) const ALL: [Self; 3] = [Self::LazyFirst, Self::LazyAgain, Self::Eager];

    /// As the tables call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LazyFirst => "vmrewind, lazy, first time",
            Self::LazyAgain => "vmrewind, lazy, working set",
            Self::Eager => "vmrewind, eager",
        }
    }
}

/// A VM with its generations.
pub(super) struct Generations {
    vm: Vm,
    last: String,
    /// Where the working set of the last one is kept.
    working_set: PathBuf,
    /// The working set as the capture left it, if it did.
    guess: Option<Vec<u8>>,
    run: PathBuf,
}

impl Generations {
    /// Boots a guest, takes it through `count` generations, and ends it.
    pub(super) fn make(guest: &GuestOptions, count: u32, program: &Path, folder: &Path) -> Outcome<Self> {
        let disk = folder.join("disk.qcow2");
        disk::ext4_qcow2(&disk, 256 << 20)?;
        let guest = GuestOptions { disks: vec![DiskArg::new(disk, "qcow2")], ..guest.clone() };
        let vm = Vm::boot("restore", &guest, program, folder)?;
        let mut id = String::new();
        for number in 1..=count {
            if number > 1 {
                vm.ask(&format!("churn {CHURN_PERCENT}"), "CHURNED ")?;
            }
            let view = vm.program.run(["snapshot", "create", &vm.name, &format!("g{number}")])?;
            id = view["id"].as_str().ok_or("`snapshot create --json` has no 'id'")?.to_owned();
        }
        let shown = vm.program.run(["vm", "show", &vm.name])?;
        let run = PathBuf::from(shown["run"].as_str().ok_or("`vm show --json` has no 'run'")?);
        let snapshots = vm.program.root().join("vms").join(&vm.name).join("snapshots");
        let working_set = snapshots.join(format!("{id}.working-set"));
        vm.program.run(["vm", "stop", &vm.name, "--force"])?;
        let guess = fs::read(&working_set).ok();
        Ok(Self { vm, last: format!("g{count}"), working_set, guess, run })
    }

    /// Brings the last generation back.
    pub(super) fn restore(&mut self, way: OurWay) -> Outcome<(Arrival, &Console)> {
        let known = self.working_set.exists();
        match way {
            OurWay::LazyFirst => match &self.guess {
                Some(guess) => fs::write(&self.working_set, guess)?,
                None if known => fs::remove_file(&self.working_set)?,
                None => {}
            },
            OurWay::LazyAgain if !known => return Err("no working set was recorded".into()),
            _ => {}
        }
        let console = &self.vm.console;
        let connections = console.connections();
        let address = self.vm.address(&self.last);
        let eager = if way == OurWay::Eager { &["--eager"][..] } else { &[] };
        let anchor = Anchor::now();
        let words = ["snapshot", "restore", &address, "--discard-current"].into_iter();
        let view = self.vm.program.run(words.chain(eager.iter().copied()))?;
        let expected = if way == OurWay::Eager { "eager" } else { "lazy" };
        if view["mode"] != expected {
            return Err(format!("the restore was not {expected}: {view}").into());
        }
        let mark = console.wait_connected(connections, ANSWER)?;
        console.wait_tick(mark, ANSWER)?;
        let ticks = console.ticks().into_iter().map(|(at, _)| at);
        let first = ticks.filter(|at| *at >= anchor.instant).min().ok_or("the guest's first tick is lost")?;
        let qemu = anchor.instant_of(created(&self.run.join("qemu.log"))?);
        Ok((Arrival { command: anchor.instant, qemu, first }, console))
    }

    /// Waits until all memory is there, has the guest check itself where that is wanted, and ends it.
    pub(super) fn end(&self, way: OurWay, check: bool) -> Outcome {
        let deadline = Instant::now() + ANSWER;
        while self.vm.program.run(["vm", "show", &self.vm.name])?["state"] == "restoring" {
            if Instant::now() > deadline {
                return Err("the memory does not come to its end".into());
            }
            std::thread::sleep(POLL);
        }
        if check {
            self.vm.check().map_err(context(|| format!("after {}", way.name())))?;
        }
        self.vm.program.run(["vm", "stop", &self.vm.name, "--force"])?;
        Ok(())
    }

    /// Deletes the VM.
    pub(super) fn delete(self) -> Outcome {
        self.vm.program.run(["vm", "delete", &self.vm.name])?;
        Ok(())
    }
}

/// One moment by both clocks: files are stamped by one, ticks by the other.
struct Anchor {
    instant: Instant,
    time: SystemTime,
}

impl Anchor {
    fn now() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "compared with the time at which the kernel stamps a file"
        )]
        let time = SystemTime::now();
        Self { instant: Instant::now(), time }
    }

    fn instant_of(&self, time: SystemTime) -> Instant {
        self.instant + time.duration_since(self.time).unwrap_or_default()
    }
}

/// When a file was made: where the file system does not keep that, when it was last written.
fn created(path: &Path) -> Outcome<SystemTime> {
    let metadata = fs::metadata(path).map_err(context(|| format!("cannot look at '{}'", path.display())))?;
    Ok(metadata.created().or_else(|_| metadata.modified())?)
}
