//! The engine as a server uses it: one of it in a process that lives on, and several operations on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use vmrewind_engine::{
    Caller, Cancel, Clock, Engine, ErrorKind, Event, Events, Helper, Host, OperationId, Patience, Random,
    RealDisk, SnapshotCreate,
};
use vmrewind_testkit::guest::{DiskKind, Mix};
use vmrewind_testkit::rig::Action::{Damage, Restore, Unplug};
use vmrewind_testkit::rig::{Guest, GuestSpec, Rig};

use crate::failures::{names, unharmed};
use crate::full_disk::SmallDisk;
use crate::rig;

/// The host's time and randomness.
struct Real;

impl Clock for Real {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::try_from(std::time::UNIX_EPOCH + self.monotonic()).unwrap()
    }

    fn monotonic(&self) -> Duration {
        static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGUN.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

impl Random for Real {
    fn fill(&self, bytes: &mut [u8]) {
        File::open("/dev/urandom").unwrap().read_exact(bytes).unwrap();
    }
}

/// Does something once a step is reached, and keeps what was told.
struct At<F> {
    step: &'static str,
    act: F,
    heard: Mutex<Vec<(OperationId, Event)>>,
}

impl<F: Fn() + Send + Sync> Events for At<F> {
    fn tell(&self, id: OperationId, event: &Event) {
        self.heard.lock().unwrap().push((id, event.clone()));
        if matches!(event, Event::Step(step) if step.name == self.step) {
            (self.act)();
        }
    }
}

impl<F> At<F> {
    /// The operations that were heard of.
    fn ids(&self) -> BTreeSet<OperationId> {
        self.heard.lock().unwrap().iter().map(|(id, _)| *id).collect()
    }
}

fn at<F: Fn() + Send + Sync>(step: &'static str, act: F) -> Arc<At<F>> {
    Arc::new(At { step, act, heard: Mutex::default() })
}

fn engine(rig: &Rig) -> Engine {
    let helper = Helper::open(Path::new(env!("CARGO_BIN_EXE_vmrewind"))).unwrap();
    let (clock, random): (Arc<dyn Clock>, Arc<dyn Random>) = (Arc::new(Real), Arc::new(Real));
    Engine::open(
        rig.root(),
        Host { clock, random, disk: Arc::new(RealDisk), helper, steps: None, patience: Patience::default() },
    )
    .unwrap()
}

fn caller(events: Arc<dyn Events>, cancel: &Cancel) -> Caller {
    Caller { what: "test".into(), wait: Duration::ZERO, events, cancel: cancel.clone() }
}

fn request(vm: &str, name: &str) -> SnapshotCreate {
    SnapshotCreate {
        vm: vm.parse().unwrap(),
        name: Some(name.parse().unwrap()),
        message: None,
        labels: BTreeMap::new(),
        disk_only: false,
        require: None,
        max_pause: None,
    }
}

fn spec(name: &str) -> GuestSpec {
    GuestSpec::new(name).disk(&format!("{name}.qcow2"), "qcow2", DiskKind::Virtio)
}

/// The snapshot is whole, and the way back to it works.
fn comes_back(guest: &Guest<'_>, name: &str) {
    let view = guest.rig.run_json(&["snapshot", "show", &guest.address(name)]);
    guest.remember(name, &view);
    guest.play(&[Damage, Restore(name), Unplug]);
}

/// Guards a server's requests against each other: ending one ends no other, and each hears of its own work alone.
#[test]
fn of_two_captures_at_once_one_is_cancelled() {
    let rig = rig();
    let (kept, given_up) = (rig.guest(spec("kept")), rig.guest(spec("given-up")));
    let engine = engine(&rig);
    let cancel = Cancel::default();
    // Its end comes from within: at that step the memory is about to flow.
    let ended = at("guard-armed", {
        let cancel = cancel.clone();
        move || cancel.cancel()
    });
    let other = at("never", || {});
    let begin = |events: Arc<dyn Events>, cancel: &Cancel| engine.operation(caller(events, cancel));
    let first = begin(ended.clone(), &cancel);
    let second = begin(other.clone(), &Cancel::default());
    std::thread::scope(|scope| {
        let first = scope.spawn(|| first.snapshot_create(&request("given-up", "one")));
        second.snapshot_create(&request("kept", "one")).unwrap();
        assert_eq!(first.join().unwrap().unwrap_err().kind(), ErrorKind::Interrupted);
    });
    let [ended, other] = [ended.ids(), other.ids()];
    assert!(ended.len() == 1 && other.len() == 1 && ended != other, "{ended:?}, {other:?}");
    given_up.runs();
    given_up.verify_ok();
    assert_eq!(rig.run_json(&["snapshot", "list", "given-up"]), serde_json::json!([]));
    comes_back(&kept, "one");
    given_up.play(&[Unplug]);
}

/// Guards a process that lives on against a disk that was full for a while: the next capture in it is whole.
#[test]
fn a_capture_after_a_full_disk_in_the_same_process() {
    let Some((small, rig)) = SmallDisk::with_rig() else { return };
    let guest = rig.guest(spec("full").with(|options| {
        options.memory_mib = 512;
        options.fill_mib = 320;
        options.mix = Mix::Random;
        options.disk_ms = 3_600_000;
    }));
    guest.ask("sync", "SYNCED");
    let before = names(&rig);
    let engine = engine(&rig);
    let small = Arc::new(small);
    let ballast: Arc<Mutex<Option<PathBuf>>> = Arc::default();
    // There is space when it is looked for, and little of it once memory comes.
    let filled = at("guard-armed", {
        let (small, ballast) = (small.clone(), ballast.clone());
        move || *ballast.lock().unwrap() = Some(small.fill(16 << 20))
    });
    let failed = engine.operation(caller(filled, &Cancel::default())).snapshot_create(&request("full", "no"));
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Failed);
    unharmed(&guest, &before);
    std::fs::remove_file(ballast.lock().unwrap().take().expect("the disk was filled")).unwrap();
    let operation = engine.operation(caller(Arc::new(vmrewind_engine::Unheard), &Cancel::default()));
    operation.snapshot_create(&request("full", "one")).unwrap();
    let steps: Vec<_> = operation.time_line().steps().iter().map(|step| step.name).collect();
    assert!(steps.contains(&"guest-stopped") && steps.contains(&"image-durable"), "{steps:?}");
    comes_back(&guest, "one");
}
