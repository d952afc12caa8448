//! Lazy restores into a fake QEMU, by page servers that are processes of their own: what comes back, what is done instead,
//! and what is left where QEMU or its page server fails.

use std::sync::atomic::Ordering;

use vmrewind_files::Flock;
use vmrewind_testkit::fake_qemu::machine::{Fault, Setup};

use super::*;
use crate::context::{Event, Note};
use crate::error::ErrorKind;
use crate::ids::Address;
use crate::images::open_store;
use crate::machine_image::captured;
use crate::ops::snapshot_restore::SnapshotRestore;
use crate::ops::vm_start::VmStart;
use crate::ops::vm_stop::VmStop;
use crate::patience::Patience;
use crate::record::journal::{Journal, ProcessMark};
use crate::root::VmFolder;
use crate::testing::{
    Bench, FakeVm, PagesPart, Parts, Reached, at_every_command, faults, little_patience, snapshot, until, vm,
};
use crate::view::RestoreView;
use crate::vm::machine::Machine;

fn request() -> SnapshotRestore {
    SnapshotRestore {
        address: Address { vm: vm(), snapshot: "snap-1".parse().unwrap() },
        only_id: None,
        paused: false,
        eager: false,
        discard_current: false,
    }
}

fn with_snapshot(patience: Patience) -> Bench {
    Bench::with_snapshot(Setup::default(), patience)
}

fn restore(bench: &Bench) -> Result<RestoreView> {
    bench.operation().snapshot_restore(&request())
}

/// Waits until nothing serves the VM any more.
fn wait_served(bench: &Bench) {
    let folder = bench.folder();
    until("the end of the page server", || lazy::under_way(&folder).is_none() && !is_served(&folder));
}

/// Whether somebody serves a VM's memory.
fn is_served(folder: &VmFolder) -> bool {
    Flock::is_held(&folder.seat().join("lazy.lock")).unwrap()
}

/// Who does: the supervisor, then its worker.
fn servers(folder: &VmFolder) -> Vec<Process> {
    let note: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.seat().join("lazy.lock")).unwrap()).unwrap();
    let marks: Vec<ProcessMark> = serde_json::from_value(note["processes"].clone()).unwrap();
    let open = |mark: &ProcessMark| {
        let process = Process::open(mark.pid, folder.run()).unwrap();
        process.filter(|process| process.mark == *mark && is_served(folder))
    };
    marks.iter().filter_map(open).collect()
}

/// Checks that a QEMU has all of the snapshot's memory. The fake sends page 0 twice: what it wrote last counts.
fn check_memory(qemu: &FakeVm, case: &str) {
    assert_eq!(qemu.fake.nonsense(), None, "{case}");
    let pages = qemu.fake.lazily(|destination| destination.pages.clone()).unwrap();
    for page in 0..Setup::default().pages {
        let byte = if page == 0 { 2 } else { 1 };
        assert_eq!(pages.get(&(0, page)), Some(&Some([byte; 4096])), "{case}: page {page}");
    }
}

fn starts(bench: &Bench) -> usize {
    bench.machines.starts.load(Ordering::Relaxed)
}

/// Guards the way that restores usually go: the guest runs before its memory is there, all of it comes, and then nothing
/// of the restore is left, in QEMU's settings neither.
#[test]
fn a_guest_runs_and_its_memory_comes() {
    let bench = with_snapshot(Patience::default());
    let old = bench.vm();
    let view = restore(&bench).unwrap();
    assert_eq!((view.mode, view.state.as_str()), (RestoreMode::Lazy, "running"), "{view:?}");
    let qemu = bench.vm();
    assert!(!old.is_alive() && qemu.is_alive());
    wait_served(&bench);
    check_memory(&qemu, "restored");
    assert_eq!((qemu.fake.migration().as_str(), qemu.fake.run_state().as_str()), ("completed", "running"));
    bench.recover("restored");
    bench.check("restored");
    assert_eq!(bench.guard_was_told(), "CD");
}

/// Guards the second restore: what the guest asked for first is known then, and read before it asks.
#[test]
fn what_the_guest_asked_for_is_remembered() {
    let bench = with_snapshot(Patience::default());
    for _ in 0..2 {
        restore(&bench).unwrap();
        wait_served(&bench);
        check_memory(&bench.vm(), "restored");
    }
    let id = bench.record().current.unwrap();
    let set = crate::record::working_set::WorkingSet::load(&bench.folder(), &id).unwrap();
    let blocks = [vmrewind_qemu::stream::RamBlock::new("pc.ram", 8 << 12)];
    let known = set.pages_of(&blocks);
    let pages: Vec<u64> = known.early.iter().chain(&known.later).map(|page| page.page).collect();
    assert!(pages.contains(&7), "the page that its guest touches first: {pages:?}");
}

/// Guards a host without userfaultfd: the same QEMU, which waits, is filled, and the user told why.
#[test]
fn a_capability_that_is_refused_makes_an_eager_restore_of_the_same_qemu() {
    let bench = with_snapshot(Patience::default());
    bench.set_up(|setup| setup.postcopy = false);
    let before = starts(&bench);
    let view = restore(&bench).unwrap();
    assert_eq!((view.mode, starts(&bench) - before), (RestoreMode::Eager, 1), "{view:?}");
    let why = view.notes.iter().find(|note| note.contains("not possible here")).unwrap();
    assert!(why.contains("Postcopy is not supported"), "{why}");
    wait_served(&bench);
    bench.check("refused");
}

/// Guards the number of attempts: a page server that dies before the guest could run is tried three times, each with a
/// QEMU of its own, since one that has lost its source is of no use; then all memory is loaded.
#[test]
fn a_page_server_that_dies_is_tried_three_times() {
    for (pages, why) in [(PagesPart::Ends, "ended"), (PagesPart::Idle, "did not load its devices in time")] {
        let patience = Patience { load: Duration::from_millis(300), ..Patience::default() };
        let mut bench = with_snapshot(patience).with_parts(Parts { pages, ..Parts::TOLD });
        let before = starts(&bench);
        // Only what is lazy is short of time.
        let lazily = bench.operation();
        bench = bench.with_patience(Patience::default());
        let view = lazily.snapshot_restore(&request()).unwrap();
        assert_eq!((view.mode, starts(&bench) - before), (RestoreMode::Eager, 4), "{pages:?}: {view:?}");
        assert!(view.notes.iter().any(|note| note.contains(why)), "{pages:?}: {view:?}");
        assert!(lazy::under_way(&bench.folder()).is_none());
        bench.recover("eager");
        bench.check("eager");
    }
}

/// Guards a page server's death while the guest runs: another takes its place, and asks which pages came.
#[test]
fn a_page_server_that_is_killed_is_replaced() {
    let bench = with_snapshot(Patience::default());
    restore(&bench).unwrap();
    // None where a slow test comes after the end.
    if let Some(worker) = servers(&bench.folder()).last() {
        worker.kill().unwrap();
    }
    wait_served(&bench);
    check_memory(&bench.vm(), "replaced");
    bench.check("replaced");
}

/// Guards a guest whose page servers were all killed, by whoever cleans up a host: the next command that is about the VM,
/// even one that only looks, starts others.
#[test]
fn page_servers_that_were_all_killed_are_revived() {
    let bench = with_snapshot(Patience::default());
    restore(&bench).unwrap();
    servers(&bench.folder()).iter().for_each(|server| server.kill().unwrap());
    let waited_for = lazy::under_way(&bench.folder()).is_some();
    bench.operation().vm_show(&vm()).unwrap();
    wait_served(&bench);
    check_memory(&bench.vm(), "revived");
    bench.check("revived");
    let revived = |(_, event): &(_, Event)| matches!(event, Event::Note(Note::PageServerRevived));
    assert_eq!(bench.heard.events().iter().any(revived), waited_for, "who waits is told");
}

/// Guards a guest against memory that is not its own: a page that can't be read ends its QEMU, before or after it runs,
/// and whoever asks learns why until it is started again.
#[test]
fn a_page_that_cannot_be_read_ends_the_vm() {
    let bench = with_snapshot(Patience::default());
    let (record, old) = (bench.record(), bench.vm());
    damage_pages(&bench);
    let says = |error: &Error| {
        let told = [vec![error.to_string()], error.causes()].concat().join(": ");
        assert!(told.contains("can't be read") || told.contains("damaged"), "{told}");
    };
    let error = match restore(&bench) {
        // It was found before the old guest's place was taken.
        Err(error) if old.is_alive() => {
            says(&error);
            assert_eq!(bench.record().disks[0].active, record.disks[0].active, "and it goes on");
            return assert_eq!(bench.snapshots(), ["snap-1"]);
        }
        Err(error) => error,
        Ok(_) => {
            until("QEMU's end", || !bench.vm().is_alive());
            bench.operation().vm_start(&vm(), VmStart::default()).map(drop).unwrap_err()
        }
    };
    assert!(!bench.vm().is_alive(), "a guest runs on damaged memory");
    assert_eq!(bench.snapshots(), ["snap-1"]);
    says(&error);
    let (_, failure) = lazy::failure(&bench.folder()).unwrap();
    assert_eq!(failure.kind(), ErrorKind::Damaged, "{failure:?}");
    let view = bench.operation().vm_show(&vm()).unwrap();
    assert!(view.failure.is_some(), "{view:?}");
    // Its disks are there, and so is the way out.
    bench.operation().vm_start(&vm(), VmStart::default()).unwrap();
    assert!(lazy::failure(&bench.folder()).is_none() && bench.vm().is_alive());
    assert_eq!(bench.record().disks.len(), record.disks.len());
}

/// Spoils what the store holds of pages, and nothing that is needed to open an image.
fn damage_pages(bench: &Bench) {
    let root = &bench.engine.root;
    let files = std::fs::read_dir(root.store()).unwrap().map(|entry| entry.unwrap().path());
    let pack = files.into_iter().find(|path| path.extension().is_some_and(|it| it == "pack")).unwrap();
    let whole = std::fs::read(&pack).unwrap();
    let spoils_pages_alone = |at: &usize| {
        let mut bytes = whole.clone();
        bytes[*at] ^= 0xff;
        std::fs::write(&pack, bytes).unwrap();
        let Ok(store) = open_store(root) else { return false };
        let image = store.images().unwrap().remove(0);
        let Ok(image) = store.open_image(&image) else { return false };
        let space = image.spaces()[0].index;
        captured(&image).is_ok() && image.read_run(space, 0..8, &mut [0; 8 << 12]).is_err()
    };
    assert!((0..whole.len()).any(|at| spoils_pages_alone(&at)), "no byte of a page was found");
}

/// Guards a snapshot right after a lazy restore: it waits for the memory, and has all of it.
#[test]
fn a_capture_waits_for_the_memory() {
    let bench = with_snapshot(Patience::default());
    restore(&bench).unwrap();
    bench.operation().snapshot_create(&snapshot()).unwrap();
    check_memory(&bench.vm(), "captured");
    assert_eq!(bench.snapshots(), ["snap-1", "snap-2"]);
    wait_served(&bench);
    bench.check("captured");
}

/// Guards the end of a VM whose memory still comes: its page servers end with it, by whatever command that is.
#[test]
fn page_servers_end_with_their_qemu() {
    let bench = with_snapshot(Patience::default());
    restore(&bench).unwrap();
    let first = bench.vm();
    restore(&bench).unwrap();
    assert!(!first.is_alive());
    bench.operation().vm_stop(&vm(), VmStop { force: true, timeout: Duration::ZERO }).unwrap();
    assert!(!bench.vm().is_alive() && lazy::under_way(&bench.folder()).is_none());
    assert!(!is_served(&bench.folder()), "a page server is left");
    bench.check("stopped");
    // QEMU that dies by itself.
    restore(&bench).unwrap();
    bench.vm().kill().unwrap();
    wait_served(&bench);
    bench.recover("killed");
    bench.check("killed");
}

/// Guards a lazy restore against every way in which the new QEMU can fail at every command: there is a whole guest, lazily or
/// eagerly, or the VM is off with its disks as they were.
#[test]
fn a_qemu_that_fails_while_it_is_filled_lazily() {
    for fault in faults() {
        at_every_command(fault, 6, |command| fails_at(command, fault));
    }
}

/// Says how far it came.
fn fails_at(pass: usize, fault: Fault) -> Reached {
    let bench = with_snapshot(little_patience());
    let before = bench.record();
    *bench.machines.next_fault.lock().unwrap() = Some((pass, fault));
    let old = bench.vm();
    let result = restore(&bench);
    let new = bench.machines.last();
    let told = result.as_ref().map(|view| (view.mode, view.state.clone())).map_err(ToString::to_string);
    let case = format!("{fault:?} at {pass}: {told:?}, {:?}", new.fake.commands());
    new.fake.heal();
    bench.recover(&case);
    let (after, runs) = (bench.record(), new.is_alive());
    let restored = after.disks[0].active != before.disks[0].active;
    assert!(restored || !runs, "{case}: a QEMU runs on layers that are not the VM's");
    assert_eq!(restored, !old.is_alive(), "{case}: the old guest goes on where nothing was restored");
    assert!(restored || result.is_err(), "{case}: nothing was restored");
    assert!(Journal::load(&bench.folder()).unwrap().is_none());
    wait_served(&bench);
    if runs && new.fake.lazily(|_| ()).is_some() && new.fake.received().is_empty() {
        check_memory(&new, &case);
    }
    bench.check(&case);
    // A fault that came in the first of several QEMUs is not seen in the last.
    let came = new.fake.has_failed() || starts(&bench) > 2;
    Reached::of(came, result.is_ok())
}
