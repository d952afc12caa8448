//! A root with one VM, whose QEMU is a fake: what an operation is tried on, and what must hold after it.

use std::collections::BTreeMap;
use std::fs;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;
use vmrewind_files::Disk;
use vmrewind_store::{DirStorage, Storage, Store};
use vmrewind_testkit::fake_qemu::machine::{FakeMachine, Fault, Setup};

use super::helper::Parts;
use super::machines::{AGENT_SOCKET, Begin};
use super::{FakeMachines, FakeVm, Recorded, Still, caller};
use crate::context::Caller;
use crate::engine::{Engine, Operation};
use crate::host::{Host, Random, Steps};
use crate::ids::{LayerId, VmId, VmName};
use crate::images::open_store;
use crate::layers::overlay;
use crate::ops::snapshot_create::SnapshotCreate;
use crate::patience::Patience;
use crate::record::RECORD_VERSION;
use crate::record::journal::{Journal, Overlay};
use crate::record::snapshots::Snapshots;
use crate::record::vm::{BaseRecord, DiskRecord, Hardware, LayerRecord, VmRecord};
use crate::root::VmFolder;
use crate::vm::machine::Machine;
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

/// The root, the VM and its QEMU.
pub(crate) struct Bench {
    /// What its VMs run in.
    pub(crate) machines: Arc<FakeMachines>,
    /// What its operations told.
    pub(crate) heard: Arc<Recorded>,
    pub(crate) engine: Engine,
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
            helper: Parts::TOLD.helper(),
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
        let run_state = bench.setup().run_state;
        let on = |disk: &DiskRecord| (disk.name.clone(), disk.active.to_string());
        let layers = bench.record().disks.iter().map(on).collect();
        bench.machines.begin(&bench.folder(), run, Begin { run_state, layers, is_shared: false }).unwrap();
        bench
    }

    /// A VM that runs, with a snapshot of it.
    pub(crate) fn with_snapshot(setup: Setup, patience: Patience) -> Self {
        let bench = Self::running(setup, Patience::default());
        bench.operation().snapshot_create(&snapshot()).unwrap();
        bench.with_patience(patience)
    }

    /// The same from now on with another patience.
    pub(crate) fn with_patience(mut self, patience: Patience) -> Self {
        self.engine.host.patience = patience;
        self.machines.set_patience(patience);
        self
    }

    /// The same with a helper that plays other parts.
    pub(crate) fn with_parts(mut self, parts: Parts) -> Self {
        self.engine.host.helper = parts.helper();
        self
    }

    /// The same with somebody who hears of each step.
    pub(crate) fn with_steps(mut self, steps: Option<Arc<dyn Steps>>) -> Self {
        self.engine.host.steps = steps;
        self
    }

    /// The same with its store on a storage that is made of the one on disk.
    pub(crate) fn with_storage(mut self, over: impl FnOnce(Arc<dyn Storage>) -> Arc<dyn Storage>) -> Self {
        let disk = Arc::new(DirStorage::new(self.engine.root.store()).unwrap());
        self.engine.store = Arc::new(Store::open(over(disk)).unwrap());
        self
    }

    /// The same with its records and layers on another disk: the root is opened anew.
    pub(crate) fn with_disk(mut self, disk: Arc<dyn Disk>) -> Self {
        let host = Host { disk, ..self.engine.host.clone() };
        let machines = Arc::clone(&self.machines) as _;
        self.engine = Engine::open_on(self.engine.root.path(), host, machines).unwrap();
        self
    }

    /// What the next QEMU is to be like.
    pub(crate) fn set_up(&self, change: impl FnOnce(&mut Setup)) {
        change(&mut self.machines.setup.lock().unwrap());
    }

    fn setup(&self) -> Setup {
        self.machines.setup.lock().unwrap().clone()
    }

    fn make_vm(&self) {
        let folder = self.folder();
        folder.files().make_dir(&folder.snapshots()).unwrap();
        let setup = self.setup();
        let disks: Vec<DiskRecord> =
            setup.devices.iter().enumerate().map(|(at, name)| make_disk(&folder, name, at)).collect();
        let mut line: Vec<String> =
            ["qemu-system-x86_64", "-M", "q35", "-nodefaults", "-m", "32"].map(str::to_owned).to_vec();
        for disk in &disks {
            let drive = format!("file={},format=raw,if=none,id={}", disk.base.location, disk.name);
            line.extend(["-drive".to_owned(), drive]);
        }
        for link in &setup.links {
            line.extend(["-device".to_owned(), format!("virtio-net-pci,id={link},mac=52:54:00:12:34:56")]);
        }
        if let Some(chardev) = &setup.agent {
            let socket = format!("socket,id={chardev},path={{run}}/{AGENT_SOCKET},server=on,wait=off");
            let port = format!("virtserialport,chardev={chardev},name=org.qemu.guest_agent.0");
            line.extend(["-chardev".to_owned(), socket, "-device".to_owned(), port]);
        }
        let record = VmRecord {
            version: RECORD_VERSION,
            id: "000000000000000000000000000000bb".parse::<VmId>().unwrap(),
            name: vm(),
            created: Timestamp::UNIX_EPOCH,
            hardware: Hardware { command_line: line, working_dir: "/".into(), qemu_version: "10.0.2".into() },
            disks,
            media: Vec::new(),
            current: None,
            origin: None,
            first_start: None,
        };
        record.save(&folder).unwrap();
    }

    /// Begins an operation.
    pub(crate) fn operation(&self) -> Operation {
        self.operation_on(&self.engine)
    }

    fn operation_on(&self, engine: &Engine) -> Operation {
        // A child that another test has just forked holds every lock of this process until its `exec`.
        let wait = Duration::from_secs(600);
        engine.operation(Caller { wait, events: Arc::clone(&self.heard) as _, ..caller("test") })
    }

    /// The VM's folder.
    pub(crate) fn folder(&self) -> VmFolder {
        self.folder_of(&vm())
    }

    /// That of another.
    pub(crate) fn folder_of(&self, name: &VmName) -> VmFolder {
        self.engine.root.vm(name)
    }

    /// The VM's record.
    pub(crate) fn record(&self) -> VmRecord {
        self.record_of(&vm())
    }

    /// That of another.
    pub(crate) fn record_of(&self, name: &VmName) -> VmRecord {
        VmRecord::load(&self.folder_of(name), name).unwrap()
    }

    /// The VM in its fake, dead or alive.
    pub(crate) fn vm(&self) -> Arc<FakeVm> {
        self.vm_of(&vm())
    }

    /// Another.
    pub(crate) fn vm_of(&self, name: &VmName) -> Arc<FakeVm> {
        self.machines.of(&self.folder_of(name)).unwrap()
    }

    /// The names of its snapshots.
    pub(crate) fn snapshots(&self) -> Vec<String> {
        let snapshots = Snapshots::load(&self.folder()).unwrap();
        snapshots.sound.iter().map(|snapshot| snapshot.name.to_string()).collect()
    }

    /// What the last guard was told: `P` or `C` armed, `D` to end.
    pub(crate) fn guard_was_told(&self) -> String {
        let of_seat = |seat| fs::read_to_string(self.folder().path().join(format!("guard.told-{seat}"))).ok();
        (1..100).rev().find_map(of_seat).unwrap_or_default()
    }

    /// Has a next command recover from what the last one left: of another process, so by the store that is on disk, and with
    /// all the time that QEMU may take.
    pub(crate) fn recover(&self, case: &str) {
        self.recover_vm(&vm(), case);
    }

    /// The same of another VM.
    pub(crate) fn recover_vm(&self, name: &VmName, case: &str) {
        let patience = *self.machines.patience.lock().unwrap();
        self.machines.set_patience(Patience::default());
        let mut engine = self.engine.clone();
        engine.host.patience = Patience::default();
        engine.host.steps = None;
        engine.store = Arc::new(open_store(&engine.root).unwrap());
        let recovered = self.operation_on(&engine).hold(name).map(drop);
        recovered.unwrap_or_else(|error| panic!("{case}: {error}: {:?}", error.causes()));
        self.machines.set_patience(patience);
    }

    /// Checks what must hold once the next command has recovered, however the one before ended.
    pub(crate) fn check(&self, case: &str) {
        self.check_store(case);
        self.check_vm(&vm(), case);
    }

    /// The store has the images of the VM's snapshots, and no others.
    fn check_store(&self, case: &str) {
        let snapshots = Snapshots::load(&self.folder()).unwrap();
        let mut wanted: Vec<String> =
            snapshots.sound.iter().filter_map(|one| Some(one.memory.as_ref()?.image.clone())).collect();
        let store = open_store(&self.engine.root).unwrap();
        let images = store.images().unwrap();
        let mut kept: Vec<String> = images.iter().map(|image| image.as_str().to_owned()).collect();
        kept.sort();
        wanted.sort();
        assert_eq!(kept, wanted, "{case}: images of no snapshot, or snapshots without an image");
        for image in images {
            let image = store.open_image(&image).unwrap();
            image.verify(&mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
        }
    }

    /// The same of one VM.
    pub(crate) fn check_vm(&self, name: &VmName, case: &str) {
        let folder = self.folder_of(name);
        assert!(Journal::load(&folder).unwrap().is_none(), "{case}: a journal is left");
        let (record, snapshots) = (self.record_of(name), Snapshots::load(&folder).unwrap());
        for disk in &record.disks {
            check_layers(case, &folder, disk, &snapshots);
        }
        let Some(vm) = self.machines.of(&folder).filter(|vm| vm.is_alive()) else { return };
        let (ran, state) = (self.setup().run_state, vm.fake.run_state());
        assert_eq!(state == "running", ran == "running", "{case}: the guest is {state}");
        assert_eq!(vm.fake.nonsense(), None, "{case}: a source spoke nonsense");
        let (settings, untouched) = (vm.fake.settings(), FakeMachine::untouched_settings());
        assert_eq!(settings, untouched, "{case}: QEMU's migration settings are not the user's");
        check_written(case, &vm, &record);
    }
}

/// The files of a disk are those of the record, and whole chains; nobody writes to what is frozen.
fn check_layers(case: &str, folder: &VmFolder, disk: &DiskRecord, snapshots: &Snapshots) {
    let entries = fs::read_dir(folder.disk(&disk.name)).unwrap();
    let mut files: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let mut known: Vec<String> = disk.layers.iter().map(|layer| format!("{}.qcow2", layer.id)).collect();
    known.sort();
    assert_eq!(files, known, "{case}: layers of the record and on disk");
    let frozen = snapshots.sound.iter().flat_map(|one| &one.disks).filter(|frozen| frozen.name == disk.name);
    let frozen: Vec<&LayerId> = frozen.map(|frozen| &frozen.layer).collect();
    for layer in frozen.iter().chain(&[&disk.active]) {
        assert!(disk.chain(layer).is_some(), "{case}: layer {layer} hangs in the air");
    }
    assert!(!frozen.contains(&&disk.active), "{case}: the VM writes to a frozen layer");
}

/// QEMU writes to the layers that the record calls active, and holds none open that is gone.
fn check_written(case: &str, vm: &FakeVm, record: &VmRecord) {
    for disk in &record.disks {
        let top = vm.fake.top_of(&disk.name).unwrap();
        let own = vm.started_on[&disk.name] == disk.active.as_str();
        let expected = if own { disk.name.clone() } else { disk.active.node_name() };
        assert_eq!(top, expected, "{case}: the VM writes to another layer than its record says");
    }
    let layers: Vec<String> = record.disks.iter().flat_map(|disk| &disk.layers).map(node).collect();
    let stray = vm.fake.opened().into_iter().find(|node| !layers.contains(node));
    assert_eq!(stray, None, "{case}: QEMU holds a layer open that is gone");
}

fn node(layer: &LayerRecord) -> String {
    layer.id.node_name()
}

/// A disk of its own for each device, with a layer that is numbered.
fn make_disk(folder: &VmFolder, name: &str, number: usize) -> DiskRecord {
    let base = folder.path().join(format!("{name}.raw"));
    fs::write(&base, vec![0; 1 << 20]).unwrap();
    let layer: LayerId = format!("00000000000000a{number:x}").parse().unwrap();
    let disk = DiskRecord {
        name: name.into(),
        base: BaseRecord {
            location: base.display().to_string(),
            format: "raw".into(),
            virtual_bytes: 1 << 20,
            file: None,
            layer: None,
        },
        layers: vec![LayerRecord { id: layer.clone(), parent: None, frozen: None }],
        active: layer.clone(),
    };
    overlay::make(folder, &disk, &Overlay { disk: name.into(), layer, parent: None }).unwrap();
    disk
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

/// Has an operation fail at its first command, at its second, and so on until it has no more; at several of them at the
/// same time, since most of it is waiting.
pub(crate) fn at_every_command(fault: Fault, least: usize, attempt: impl Fn(usize) -> Reached + Sync) {
    /// How many are tried beside each other.
    const ABREAST: usize = 4;
    /// How often the host may be too slow in a row.
    const TOO_SLOW: usize = 20;
    let (mut command, mut slow) = (0, 0);
    'all: loop {
        let found: Vec<Reached> = std::thread::scope(|scope| {
            let begun: Vec<_> = (command..command + ABREAST)
                .map(|at| {
                    scope.spawn({
                        let attempt = &attempt;
                        move || attempt(at)
                    })
                })
                .collect();
            begun.into_iter().map(|case| case.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        for reached in found {
            match reached {
                Reached::Fault => (command, slow) = (command + 1, 0),
                Reached::End => break 'all,
                Reached::Nothing => {
                    slow += 1;
                    assert!(slow < TOO_SLOW, "{fault:?} at {command}: without it the operation fails, too");
                    break;
                }
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
