//! A root with one VM, whose QEMU is a fake: what an operation is tried on, and what must hold after it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tempfile::TempDir;
use vmrewind_testkit::fake_qemu::machine::{Fault, Setup};

use super::machines::Begin;
use super::{FakeMachines, FakeVm, Recorded, Still, caller};
use crate::context::Caller;
use crate::engine::{Engine, Operation};
use crate::host::{Helper, Host, Random};
use crate::ids::{LayerId, VmId, VmName};
use crate::layers::overlay;
use crate::ops::snapshot_create::SnapshotCreate;
use crate::patience::Patience;
use crate::record::RECORD_VERSION;
use crate::record::journal::{Journal, Overlay};
use crate::record::snapshot::Snapshots;
use crate::record::vm::{BaseRecord, DiskRecord, Hardware, LayerRecord, VmRecord};
use crate::root::VmFolder;
use crate::vm::run_folder;

/// Numbers in place of random bytes: no two ids are the same, and every run has the same ones.
#[derive(Default)]
struct Numbers(AtomicU64);

impl Random for Numbers {
    fn fill(&self, bytes: &mut [u8]) {
        let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        bytes.fill(0);
        let number = number.to_be_bytes();
        let from = bytes.len().saturating_sub(number.len());
        bytes[from..].iter_mut().rev().zip(number.iter().rev()).for_each(|(byte, value)| *byte = *value);
    }
}

/// A guard that says that it is ready, keeps what it is told, and does nothing.
const GUARD: &str = r#"test "$0" = __pause-guard || exit 1; echo ready; cat > "$1/guard.told""#;

/// The disk of the VM.
pub(crate) const DISK: &str = "d0";

/// The root, the VM and its QEMU.
pub(crate) struct Bench {
    /// What its VMs run in.
    pub(crate) machines: Arc<FakeMachines>,
    /// What its operations told.
    pub(crate) heard: Arc<Recorded>,
    engine: Engine,
    _root: TempDir,
}

impl Bench {
    /// A VM that is off.
    pub(crate) fn off(setup: Setup, patience: Patience) -> Self {
        let root = tempfile::tempdir().unwrap();
        let machines = Arc::new(FakeMachines::new(setup, patience));
        let host = Host {
            clock: Arc::new(Still::default()),
            random: Arc::new(Numbers::default()),
            helper: Helper::shell(GUARD),
            disk: Arc::new(vmrewind_files::RealDisk),
            patience,
            steps: None,
        };
        let engine = Engine::open_on(root.path(), host, Arc::clone(&machines) as _).unwrap();
        let bench = Self { machines, heard: Arc::default(), engine, _root: root };
        bench.make_vm();
        bench
    }

    /// A VM that runs.
    pub(crate) fn running(setup: Setup, patience: Patience) -> Self {
        let bench = Self::off(setup, patience);
        let run = run_folder::prepare(&bench.folder(), &bench.record().id).unwrap();
        let run_state = bench.machines.setup.lock().unwrap().run_state;
        let layer = bench.record().disks[0].active.to_string();
        bench.machines.begin(&bench.folder(), run, Begin { run_state, layer });
        bench
    }

    /// The same from now on with another patience.
    pub(crate) fn with_patience(mut self, patience: Patience) -> Self {
        self.engine.host.patience = patience;
        self.machines.set_patience(patience);
        self
    }

    fn make_vm(&self) {
        let folder = self.folder();
        folder.files().make_dir(&folder.snapshots()).unwrap();
        let base = folder.path().join("base.raw");
        fs::write(&base, vec![0; 1 << 20]).unwrap();
        let layer: LayerId = "00000000000000aa".parse().unwrap();
        let disk = DiskRecord {
            name: DISK.into(),
            base: BaseRecord {
                location: shown(&base),
                format: "raw".into(),
                virtual_bytes: 1 << 20,
                file: None,
                layer: None,
            },
            layers: vec![LayerRecord { id: layer.clone(), parent: None }],
            active: layer.clone(),
        };
        overlay::make(&folder, &disk, &Overlay { disk: DISK.into(), layer, parent: None }).unwrap();
        let drive = format!("file={},format=raw,if=none,id={DISK}", base.display());
        let line = ["qemu-system-x86_64", "-M", "q35", "-nodefaults", "-m", "32", "-drive", &drive];
        let record = VmRecord {
            version: RECORD_VERSION,
            id: "000000000000000000000000000000bb".parse::<VmId>().unwrap(),
            name: vm(),
            created: Timestamp::UNIX_EPOCH,
            hardware: Hardware {
                command_line: line.map(str::to_owned).to_vec(),
                working_dir: "/".into(),
                qemu_version: "10.0.2".into(),
            },
            disks: vec![disk],
            media: Vec::new(),
            current: None,
            origin: None,
            first_start: None,
        };
        record.save(&folder).unwrap();
    }

    /// Begins an operation.
    pub(crate) fn operation(&self) -> Operation {
        // A child that another test has just forked holds every lock of this process until its `exec`.
        let wait = Duration::from_secs(600);
        self.engine.operation(Caller { wait, events: Arc::clone(&self.heard) as _, ..caller("test") })
    }

    /// The VM's folder.
    pub(crate) fn folder(&self) -> VmFolder {
        self.operation().root.vm(&vm())
    }

    /// Its record.
    pub(crate) fn record(&self) -> VmRecord {
        VmRecord::load(&self.folder(), &vm()).unwrap()
    }

    /// The VM in its fake, dead or alive.
    pub(crate) fn vm(&self) -> Arc<FakeVm> {
        self.machines.of(&self.folder()).unwrap()
    }

    /// The names of its snapshots.
    pub(crate) fn snapshots(&self) -> Vec<String> {
        let snapshots = Snapshots::load(&self.folder()).unwrap();
        snapshots.0.iter().map(|snapshot| snapshot.name.to_string()).collect()
    }

    /// What the last guard was told: `P` armed, `D` to end.
    pub(crate) fn guard_was_told(&self) -> String {
        fs::read_to_string(self.folder().path().join("guard.told")).unwrap_or_default()
    }

    /// Has a next command recover from what the last one left. One that was too impatient for a busy host tries again.
    pub(crate) fn recover(&self, case: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = self.operation().hold(&vm()).map(drop) {
            assert!(Instant::now() < deadline, "{case}: {error}: {:?}", error.causes());
        }
    }

    /// Checks what must hold once the next command has recovered, however the one before ended.
    pub(crate) fn check(&self, case: &str) {
        let folder = self.folder();
        assert!(Journal::load(&folder).unwrap().is_none(), "{case}: a journal is left");
        let snapshots = Snapshots::load(&folder).unwrap();
        let named: Vec<String> =
            snapshots.0.iter().filter_map(|one| Some(one.memory.as_ref()?.image.clone())).collect();
        let store = self.operation().store;
        let mut kept: Vec<String> =
            store.images().unwrap().iter().map(|image| image.as_str().to_owned()).collect();
        kept.sort();
        let mut wanted = named.clone();
        wanted.sort();
        assert_eq!(kept, wanted, "{case}: images of no snapshot, or snapshots without an image");
        for image in store.images().unwrap() {
            let image = store.open_image(&image).unwrap();
            image.verify(&mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
        }
        self.check_layers(case, &snapshots);
        let vm = self.vm();
        if !vm.fake.wait_end(Duration::ZERO) {
            let (ran, state) = (self.machines.setup.lock().unwrap().run_state, vm.fake.run_state());
            assert_eq!(state == "running", ran == "running", "{case}: the guest is {state}");
        }
    }

    /// The files are those of the record, whole chains, and the top one is what the VM writes to.
    fn check_layers(&self, case: &str, snapshots: &Snapshots) {
        let (folder, record) = (self.folder(), self.record());
        let disk = record.disk(DISK).unwrap();
        let mut files: Vec<String> = fs::read_dir(folder.disk(DISK))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut known: Vec<String> = disk.layers.iter().map(|layer| format!("{}.qcow2", layer.id)).collect();
        known.sort();
        assert_eq!(files, known, "{case}: layers of the record and on disk");
        let frozen = snapshots.0.iter().flat_map(|one| &one.disks).map(|disk| &disk.layer);
        for layer in frozen.chain([&disk.active]) {
            assert!(disk.chain(layer).is_some(), "{case}: layer {layer} hangs in the air");
        }
        assert!(
            snapshots.0.iter().all(|one| one.disks.iter().all(|frozen| frozen.layer != disk.active)),
            "{case}: the VM writes to a frozen layer"
        );
        let vm = self.vm();
        if !vm.fake.wait_end(Duration::ZERO) {
            let top = vm.fake.top_of(DISK).unwrap();
            let own = vm.started_on == disk.active.as_str();
            let expected = if own { DISK.to_owned() } else { disk.active.node_name() };
            assert_eq!(top, expected, "{case}: the VM writes to another layer than its record says");
            let opened = vm.fake.opened();
            let stray = opened.iter().find(|node| !known.iter().any(|file| node.ends_with(&file[..16])));
            assert_eq!(stray, None, "{case}: QEMU holds a layer open that is gone");
        }
    }
}

/// The VM's name.
pub(crate) fn vm() -> VmName {
    "v".parse().unwrap()
}

/// A request for a snapshot of all that runs.
pub(crate) fn snapshot() -> SnapshotCreate {
    SnapshotCreate {
        vm: vm(),
        name: None,
        message: None,
        labels: BTreeMap::new(),
        disk_only: false,
        require: None,
        max_pause: None,
    }
}

/// Patience for a QEMU that hangs: it costs a test milliseconds.
///
/// Waits are by the real clock, as QEMU's are, so a busy host gets more of it: it must not look like a QEMU that hangs.
pub(crate) fn little_patience() -> Patience {
    let ms = |ms: u64| Duration::from_millis(ms * busyness());
    Patience {
        answer: ms(80),
        brief: ms(40),
        finalize: ms(40),
        quit: ms(100),
        end: ms(20),
        power_off: ms(40),
        last_breath: ms(20),
        let_go: ms(120),
        connect: ms(150),
        switchover: ms(150),
        first_page: ms(150),
        event: ms(80),
        load: ms(200),
        last_words: ms(20),
    }
}

/// How many want each processor at this moment, at least one.
fn busyness() -> u64 {
    static FOUND: LazyLock<u64> = LazyLock::new(|| {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let whole = load.split('.').next().and_then(|whole| whole.parse::<u64>().ok()).unwrap_or(0);
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        (whole.div_ceil(cores)).clamp(1, 8)
    });
    *FOUND
}

/// How far an operation came that was to fail at a command.
pub(crate) enum Reached {
    /// To that command, which failed.
    Fault,
    /// To its end: it has fewer commands.
    End,
    /// Neither: a busy host was too slow for its patience.
    Nothing,
}

impl Reached {
    /// What it is of an operation whose fault came or not, and that succeeded or not.
    pub(crate) fn of(fault_came: bool, succeeded: bool) -> Self {
        match (fault_came, succeeded) {
            (true, _) => Self::Fault,
            (false, true) => Self::End,
            (false, false) => Self::Nothing,
        }
    }
}

/// Has an operation fail at its first command, at its second, and so on until it has no more.
pub(crate) fn at_every_command(fault: Fault, least: usize, mut attempt: impl FnMut(usize) -> Reached) {
    /// How often the host may be too slow in a row.
    const TOO_SLOW: usize = 20;
    let (mut command, mut slow) = (0, 0);
    loop {
        match attempt(command) {
            Reached::Fault => (command, slow) = (command + 1, 0),
            Reached::End => break,
            Reached::Nothing => {
                slow += 1;
                assert!(slow < TOO_SLOW, "{fault:?} at {command}: without it the operation fails, too");
            }
        }
    }
    assert!(command > least, "{fault:?} came at {command} commands only");
}

/// Every way to fail.
pub(crate) fn faults() -> [Fault; 5] {
    let late = Fault::Late(little_patience().answer * 2);
    [Fault::Dies, Fault::DiesAfter, Fault::Hangs, late, Fault::Refuses]
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
