//! A root on a recorded disk, with VMs whose guests are played by `qemu-io`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use vmrewind_engine::{
    Address, Caller, Cancel, Clock, Configuration, Disk, Engine, Helper, Host, Operation, Patience, Random,
    RealDisk, SnapshotCreate, SnapshotRestore, Steps, Unheard, VmClone, VmCreate, VmName,
};
use vmrewind_testkit::crash_disk::RecordedDisk;

/// A clock that moves a second each time it is asked.
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn now(&self) -> Timestamp {
        let seconds = self.0.fetch_add(1, Ordering::Relaxed);
        Timestamp::from_second(1_800_000_000 + i64::try_from(seconds).expect("few")).expect("in range")
    }

    fn monotonic(&self) -> Duration {
        static BEGUN: OnceLock<Instant> = OnceLock::new();
        BEGUN.get_or_init(Instant::now).elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// Bytes that are other ones each time.
struct Counter(AtomicU64);

impl Random for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        let number = self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        for (byte, digit) in bytes.iter_mut().rev().zip(number.iter().rev().chain(std::iter::repeat(&0x5a))) {
            *byte = *digit;
        }
    }
}

/// Who begins the operations of these tests: nobody listens, and nobody waits.
pub(crate) fn nobody() -> Caller {
    Caller {
        what: "a test".into(),
        wait: Duration::ZERO,
        events: Arc::new(Unheard),
        cancel: Cancel::default(),
    }
}

/// Opens the engine on a root; ids are never those of another engine of `first_id` below.
pub(crate) fn engine(root: &Path, disk: Arc<dyn Disk>, first_id: u64) -> Engine {
    engine_with(root, disk, first_id, None)
}

fn engine_with(root: &Path, disk: Arc<dyn Disk>, first_id: u64, steps: Option<Arc<dyn Steps>>) -> Engine {
    let host = Host {
        clock: Arc::new(Ticks(AtomicU64::new(first_id))),
        random: Arc::new(Counter(AtomicU64::new(first_id))),
        disk,
        helper: Helper::open(Path::new("/bin/true")).expect("it is there"),
        patience: Patience::default(),
        steps,
    };
    Engine::open(root, host).expect("the root opens")
}

/// An operation on a root as the next command after a crash sees it.
pub(crate) fn next_command(root: &Path) -> Operation {
    engine(root, Arc::new(RealDisk), 1 << 32).operation(nobody())
}

/// A recorded root, and the user's image outside of it.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) disk: RecordedDisk,
    engine: Option<Engine>,
}

impl World {
    /// Nothing yet but the user's image: the root is made by the first command.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(dir.path().join("disk")).expect("made");
        std::fs::write(dir.path().join("base.raw"), vec![0xb5; 1 << 20]).expect("written");
        let disk = RecordedDisk::over(&dir.path().join("disk"), &["root/store"]).expect("readable");
        Self { dir, disk, engine: None }
    }

    /// The VM `web`, off, with snapshot `a`, and with something written since that nobody has synced.
    pub(crate) fn with_a_snapshot() -> Self {
        let mut world = Self::empty();
        world.create("web");
        world.write("web", 1);
        world.snapshot("web", "a");
        world.disk.settle().expect("readable");
        world.write("web", 2);
        world
    }

    /// Opens the root anew, with somebody who hears of the steps of its operations.
    pub(crate) fn reopen(&mut self, steps: Option<Arc<dyn Steps>>) {
        self.engine = Some(engine_with(&self.root(), Arc::new(self.disk.clone()), 1 << 20, steps));
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("disk/root")
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.dir.path().join("base.raw")
    }

    /// An operation on the recorded root.
    pub(crate) fn operation(&mut self) -> Operation {
        let (root, disk) = (self.root(), Arc::new(self.disk.clone()));
        let engine = self.engine.get_or_insert_with(|| engine(&root, disk, 1));
        engine.operation(nobody())
    }

    pub(crate) fn create(&mut self, name: &str) {
        self.try_create(name).expect("created");
    }

    pub(crate) fn try_create(&mut self, name: &str) -> vmrewind_engine::Result<()> {
        let disk = format!("file={},if=virtio,format=raw", self.base().display());
        let words = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-m", "32", "-drive", &disk];
        let request = VmCreate {
            name: vm(name),
            configuration: Configuration::CommandLine(words.map(str::to_owned).to_vec()),
            trust_backing: false,
            working_dir: self.dir.path().to_owned(),
        };
        self.operation().vm_create(&request).map(drop)
    }

    pub(crate) fn snapshot(&mut self, name: &str, snapshot: &str) {
        self.try_snapshot(name, snapshot).expect("captured");
    }

    pub(crate) fn try_snapshot(&mut self, name: &str, snapshot: &str) -> vmrewind_engine::Result<()> {
        let request = SnapshotCreate {
            vm: vm(name),
            name: Some(snapshot.parse().expect("a name")),
            message: None,
            labels: Default::default(),
            disk_only: false,
            require: None,
            max_pause: None,
        };
        self.operation().snapshot_create(&request).map(drop)
    }

    pub(crate) fn restore(&mut self, at: &str, discard_current: bool) -> vmrewind_engine::Result<()> {
        let request = SnapshotRestore {
            address: address(at),
            only_id: None,
            paused: false,
            eager: false,
            discard_current,
        };
        self.operation().snapshot_restore(&request).map(drop)
    }

    pub(crate) fn clones(&mut self, at: &str, name: &str, count: u32) {
        self.try_clones(at, name, count).expect("cloned");
    }

    pub(crate) fn try_clones(&mut self, at: &str, name: &str, count: u32) -> vmrewind_engine::Result<()> {
        let request = VmClone {
            address: address(at),
            name: vm(name),
            count: Some(count),
            start: false,
            cold: false,
            link_up: false,
            inside: None,
        };
        self.operation().vm_clone(&request).map(drop)
    }

    /// The guest writes: 64 KiB of that byte, at a place of its own, and flushes nothing (`cache=unsafe`).
    pub(crate) fn write(&mut self, name: &str, byte: u8) {
        let active = self.operation().vm_show(&vm(name)).expect("shown").disks[0].active.clone();
        write_into(&active, byte);
    }
}

/// What QEMU writes for a guest into a layer.
pub(crate) fn write_into(layer: &Path, byte: u8) {
    let write = format!("write -P {byte} {}k 64k", u32::from(byte) * 64);
    // -t unsafe: no flush, not even at the end.
    let done =
        Command::new("qemu-io").args(["-t", "unsafe", "-f", "qcow2", "-c", &write]).arg(layer).output();
    let done = done.expect("qemu-io is installed");
    assert!(done.status.success(), "{done:?}");
}

pub(crate) fn vm(name: &str) -> VmName {
    name.parse().expect("a name")
}

pub(crate) fn address(text: &str) -> Address {
    text.parse().expect("an address")
}
