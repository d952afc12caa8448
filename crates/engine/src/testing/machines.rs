//! VMs whose QEMU is the testkit's fake: what [`LocalQemu`](crate::vm::local::LocalQemu) is to real ones.
//!
//! To everybody else on the host such a QEMU is a process: one that does nothing but hold the VM's `alive`, be written down,
//! and end when the fake dies. Who kills it kills the fake.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmrewind_qemu::qmp::make_pipes;
use vmrewind_testkit::fake_qemu::agent::{Answers, FakeAgent};
use vmrewind_testkit::fake_qemu::machine::{FakeMachine, Fault, Setup};

use crate::error::{Context as _, Result};
use crate::monitor::Monitor;
use crate::patience::Patience;
use crate::record::journal::ProcessMark;
use crate::root::VmFolder;
use crate::vm::machine::{Machine, Machines, Use};
use crate::vm::process::{Alive, Process};
use crate::vm::run_folder::{self, RECOVERY_PIPES, socket};
use crate::vm::session::inherit;
use crate::vm::spawn::{Launch, Purpose, Started};

/// The socket of the guest agent, in the run folder.
pub(crate) const AGENT_SOCKET: &str = "agent.sock";

/// How often it is looked whether a fake or its process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// A VM that runs in a fake.
#[derive(Debug)]
pub(crate) struct FakeVm {
    /// What plays its QEMU.
    pub(crate) fake: FakeMachine,
    /// The layer that each of its disks was on when it started.
    pub(crate) started_on: BTreeMap<String, String>,
    /// Whether its memory is on a file that others map too.
    pub(crate) is_shared: bool,
    body: Mutex<Option<Child>>,
    /// What plays the agent in its guest.
    pub(crate) agent: Option<FakeAgent>,
    mark: ProcessMark,
    run: PathBuf,
    patience: Mutex<Patience>,
}

/// How a fake begins.
pub(crate) struct Begin {
    /// QEMU's word for the state of its guest.
    pub(crate) run_state: &'static str,
    /// The layer that each of its disks is on.
    pub(crate) layers: BTreeMap<String, String>,
    /// Whether its memory is on a file that others map too.
    pub(crate) is_shared: bool,
}

/// Finds and starts fakes.
pub(crate) struct FakeMachines {
    pub(super) patience: Mutex<Patience>,
    /// What kind is started.
    pub(crate) setup: Mutex<Setup>,
    /// How the next that is started fails, and after how many commands; asking again is none.
    pub(crate) next_fault: Mutex<Option<(usize, Fault)>>,
    /// How the next that is started fails at a command of this name, after how many others of it.
    pub(crate) next_fault_at: Mutex<Option<(&'static str, usize, Fault)>>,
    /// What the agent in the guests of the next ones says.
    pub(crate) agent: Mutex<Option<Answers>>,
    /// How many were started.
    pub(crate) starts: AtomicUsize,
    running: Mutex<HashMap<PathBuf, Arc<FakeVm>>>,
    last: Mutex<Option<Arc<FakeVm>>>,
}

impl FakeMachines {
    /// None runs yet.
    pub(crate) fn new(setup: Setup, patience: Patience) -> Self {
        Self {
            patience: Mutex::new(patience),
            setup: Mutex::new(setup),
            next_fault: Mutex::default(),
            next_fault_at: Mutex::default(),
            agent: Mutex::default(),
            starts: AtomicUsize::new(0),
            running: Mutex::default(),
            last: Mutex::default(),
        }
    }

    /// The last that was started for a VM, dead or alive.
    pub(crate) fn of(&self, folder: &VmFolder) -> Option<Arc<FakeVm>> {
        lock(&self.running).get(&folder.seat()).cloned()
    }

    /// The last that was started at all.
    pub(crate) fn last(&self) -> Arc<FakeVm> {
        lock(&self.last).clone().unwrap()
    }

    /// Waits so long from now on, for all of them.
    pub(crate) fn set_patience(&self, patience: Patience) {
        *lock(&self.patience) = patience;
        lock(&self.running).values().for_each(|vm| *lock(&vm.patience) = patience);
    }

    /// Starts one in a run folder.
    pub(crate) fn begin(&self, folder: &VmFolder, run: PathBuf, begin: Begin) -> Result<Arc<FakeVm>> {
        let alive = Alive::take(folder)?;
        let names = [socket::USER, socket::OPERATION, socket::GUARD, socket::STATUS, socket::PAGES];
        for name in names.iter().chain(&[AGENT_SOCKET]) {
            let _ = std::fs::remove_file(run.join(name));
        }
        let setup = Setup { run_state: begin.run_state, ..lock(&self.setup).clone() };
        let fake = FakeMachine::start(&run, &names, setup).unwrap();
        if begin.run_state == "inmigrate" {
            make_pipes(&run.join(RECOVERY_PIPES)).unwrap();
            fake.serve_pipes(&run.join(RECOVERY_PIPES)).unwrap();
        }
        let answers = lock(&self.agent).clone();
        let agent = answers.map(|answers| FakeAgent::start(&run.join(AGENT_SOCKET), answers).unwrap());
        let mut body = Command::new("cat");
        // It ends with the test, too.
        inherit(&mut body, alive).stdin(Stdio::piped()).stdout(Stdio::null());
        let body = body.spawn().unwrap();
        let pid = body.id();
        let vm = Arc::new(FakeVm {
            fake,
            started_on: begin.layers,
            is_shared: begin.is_shared,
            mark: ProcessMark::of(pid).unwrap(),
            body: Mutex::new(Some(body)),
            agent,
            run,
            patience: Mutex::new(*lock(&self.patience)),
        });
        Process::remember(pid, folder)?;
        end_together(&vm);
        self.starts.fetch_add(1, Ordering::Relaxed);
        lock(&self.running).insert(folder.seat(), Arc::clone(&vm));
        *lock(&self.last) = Some(Arc::clone(&vm));
        Ok(vm)
    }
}

/// Ends a fake with its process, and the process with its fake.
fn end_together(vm: &Arc<FakeVm>) {
    let vm = Arc::downgrade(vm);
    std::thread::spawn(move || {
        while let Some(vm) = vm.upgrade() {
            if vm.wait_end(LOOK_EVERY) {
                return;
            }
        }
    });
}

impl Machines for FakeMachines {
    fn find(&self, folder: &VmFolder) -> Result<Option<Arc<dyn Machine>>> {
        Ok(self.of(folder).filter(|vm| vm.is_alive()).map(|vm| vm as Arc<dyn Machine>))
    }

    fn start(&self, launch: Launch<'_>) -> Result<Started> {
        let run = run_folder::prepare(launch.folder, &launch.record.id)?;
        let run_state = match launch.purpose {
            Purpose::Boot => "running",
            Purpose::BootPaused | Purpose::Rehearsal => "prelaunch",
            Purpose::Incoming => "inmigrate",
        };
        let layer = |top: &Path| top.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let layers = launch.disks.iter().map(|(disk, files)| (disk.clone(), layer(&files.top))).collect();
        let begin = Begin { run_state, layers, is_shared: launch.held.is_some() };
        let vm = self.begin(launch.folder, run, begin)?;
        if let Some((pass, fault)) = lock(&self.next_fault).take() {
            vm.fake.fail_after_others(pass, fault);
        }
        if let Some((command, pass, fault)) = lock(&self.next_fault_at).take() {
            vm.fake.fail_at(command, pass, fault);
        }
        (launch.reached)("qemu-spawned");
        launch.cancel.check("QEMU was starting").inspect_err(|_| drop(vm.kill()))?;
        let monitor = vm.channel(Use::Operation).inspect_err(|_| drop(vm.kill()))?;
        Ok(Started::new(vm, monitor, None))
    }
}

impl FakeVm {
    /// Whether somebody has ended its process.
    fn was_killed(&self) -> bool {
        lock(&self.body).as_mut().is_none_or(|body| !matches!(body.try_wait(), Ok(None)))
    }

    fn end_body(&self) {
        if let Some(mut body) = lock(&self.body).take() {
            let _ = body.kill();
            let _ = body.wait();
        }
    }
}

impl Drop for FakeVm {
    fn drop(&mut self) {
        self.end_body();
    }
}

impl Machine for FakeVm {
    fn mark(&self) -> ProcessMark {
        self.mark
    }

    fn run(&self) -> &Path {
        &self.run
    }

    fn patience(&self) -> Patience {
        *lock(&self.patience)
    }

    fn channel_within(&self, wanted: Use, patience: Duration) -> Result<Monitor> {
        Monitor::connect(&self.run.join(socket::of(wanted)), patience, self.patience())
    }

    fn wait_end(&self, timeout: Duration) -> bool {
        if self.was_killed() {
            self.fake.kill();
        }
        let ended = self.fake.wait_end(timeout);
        if ended {
            self.end_body();
        }
        ended
    }

    fn kill(&self) -> Result<()> {
        self.fake.kill();
        self.end_body();
        std::fs::metadata(&self.run).map(drop).context(|| "the run folder is gone".into())
    }

    fn resident_bytes(&self) -> Option<u64> {
        Some(1 << 20)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
