//! VMs whose QEMU is the testkit's fake: what [`LocalQemu`](crate::vm::local::LocalQemu) is to real ones.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use vmrewind_testkit::fake_qemu::machine::{FakeMachine, Fault, Setup};

use crate::error::{Context as _, Result};
use crate::monitor::Monitor;
use crate::patience::Patience;
use crate::record::journal::ProcessMark;
use crate::root::VmFolder;
use crate::testing::DISK;
use crate::vm::machine::{Machine, Machines, Use};
use crate::vm::run_folder::{self, socket};
use crate::vm::spawn::{Launch, Purpose, Started};

/// No pid of Linux is so large.
static NEXT_PID: AtomicU32 = AtomicU32::new(1 << 23);

/// A VM that runs in a fake.
#[derive(Debug)]
pub(crate) struct FakeVm {
    /// What plays its QEMU.
    pub(crate) fake: FakeMachine,
    /// The layer that its disk was on when it started.
    pub(crate) started_on: String,
    mark: ProcessMark,
    run: PathBuf,
    patience: Mutex<Patience>,
}

/// How a fake begins.
pub(crate) struct Begin {
    /// QEMU's word for the state of its guest.
    pub(crate) run_state: &'static str,
    /// The layer that its disk is on.
    pub(crate) layer: String,
}

/// Finds and starts fakes.
pub(crate) struct FakeMachines {
    patience: Mutex<Patience>,
    /// What kind is started.
    pub(crate) setup: Mutex<Setup>,
    /// How the next that is started fails, and after how many commands.
    pub(crate) next_fault: Mutex<Option<(usize, Fault)>>,
    running: Mutex<HashMap<PathBuf, Arc<FakeVm>>>,
}

impl FakeMachines {
    /// None runs yet.
    pub(crate) fn new(setup: Setup, patience: Patience) -> Self {
        Self {
            patience: Mutex::new(patience),
            setup: Mutex::new(setup),
            next_fault: Mutex::default(),
            running: Mutex::default(),
        }
    }

    /// The last that was started for a VM, dead or alive.
    pub(crate) fn of(&self, folder: &VmFolder) -> Option<Arc<FakeVm>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(folder.path()).cloned()
    }

    /// Waits so long from now on, for all of them.
    pub(crate) fn set_patience(&self, patience: Patience) {
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner) = patience;
        for vm in self.running.lock().unwrap_or_else(PoisonError::into_inner).values() {
            *vm.patience.lock().unwrap_or_else(PoisonError::into_inner) = patience;
        }
    }

    /// Starts one in a run folder.
    pub(crate) fn begin(&self, folder: &VmFolder, run: PathBuf, begin: Begin) -> Arc<FakeVm> {
        let names = [socket::USER, socket::OPERATION, socket::GUARD, socket::STATUS];
        for name in names {
            let _ = std::fs::remove_file(run.join(name));
        }
        let setup = self.setup.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let setup = Setup { run_state: begin.run_state, ..setup };
        let fake = FakeMachine::start(&run, &names, setup).unwrap();
        let patience = *self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = NEXT_PID.fetch_add(1, Ordering::Relaxed);
        let mark = ProcessMark { pid, start_ticks: 1 };
        let vm =
            Arc::new(FakeVm { fake, started_on: begin.layer, mark, run, patience: Mutex::new(patience) });
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(folder.path().to_owned(), Arc::clone(&vm));
        vm
    }
}

impl Machines for FakeMachines {
    fn find(&self, folder: &VmFolder) -> Result<Option<Arc<dyn Machine>>> {
        Ok(self.of(folder).filter(|vm| vm.is_alive()).map(|vm| vm as Arc<dyn Machine>))
    }

    fn start(&self, launch: Launch<'_>) -> Result<Started> {
        let run = run_folder::prepare(launch.folder, &launch.record.id)?;
        let run_state = match launch.purpose {
            Purpose::Boot => "running",
            Purpose::BootPaused => "prelaunch",
            Purpose::Incoming => "inmigrate",
        };
        let top = launch.disks.get(DISK).and_then(|disk| disk.top.file_stem());
        let layer = top.unwrap_or_default().to_string_lossy().into_owned();
        let vm = self.begin(launch.folder, run, Begin { run_state, layer });
        if let Some((pass, fault)) = self.next_fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
            vm.fake.fail_after(pass, fault);
        }
        (launch.reached)("qemu-spawned");
        launch.cancel.check("QEMU was starting")?;
        let monitor = vm.channel(Use::Operation).inspect_err(|_| vm.fake.kill())?;
        Ok(Started::new(vm, monitor, None))
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
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn channel_within(&self, wanted: Use, patience: Duration) -> Result<Monitor> {
        Monitor::connect(&self.run.join(socket::of(wanted)), patience, self.patience())
    }

    fn wait_end(&self, timeout: Duration) -> bool {
        self.fake.wait_end(timeout)
    }

    fn kill(&self) -> Result<()> {
        self.fake.kill();
        std::fs::metadata(&self.run).map(drop).context(|| "the run folder is gone".into())
    }

    fn resident_bytes(&self) -> Option<u64> {
        Some(1 << 20)
    }
}
