//! What the engine says to a running QEMU: one method per thing it wants, with deadlines and errors in its own terms.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use vmrewind_qemu::qmp::commands::{
    BlockNode, BlockdevAdd, BlockdevDel, BlockdevSnapshot, Cont, DisplayUpdate, HumanMonitorCommand, Migrate,
    MigrateCancel, MigrateContinue, MigrateIncoming, MigrateSetParameters, MigrationInfo,
    MigrationParameters, MigrationStatus, QueryChardev, QueryKvm, QueryMemdev, QueryMigrate,
    QueryNamedBlockNodes, QueryStatus, Quit, RunState, SetLink, Stop, SystemPowerdown, Transaction,
};
use vmrewind_qemu::qmp::session::ConnectionId;
use vmrewind_qemu::qmp::{Client, Command, Event, EventCursor, QmpError};

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::patience::Patience;

/// A QMP connection to the QEMU of a VM.
#[derive(Debug)]
pub(crate) struct Monitor {
    client: Client,
    patience: Patience,
}

/// A disk that is to get a new top layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskSwitch {
    /// The device, or the node that is its top layer now.
    pub(crate) node: String,
    /// The node of the new layer, opened already.
    pub(crate) overlay: String,
}

impl Monitor {
    /// Connects to a socket within `wait`.
    pub(crate) fn connect(socket: &Path, wait: Duration, patience: Patience) -> Result<Self> {
        let client = Client::connect(socket, connection_id(), wait).map_err(qmp_error)?;
        Ok(Self { client, patience })
    }

    /// Connects to a QEMU that is starting, as long as it lives.
    pub(crate) fn connect_waiting(
        socket: &Path,
        wait: Duration,
        patience: Patience,
        still_alive: impl FnMut() -> bool,
    ) -> Result<Self> {
        let client =
            Client::connect_waiting(socket, connection_id(), wait, still_alive).map_err(qmp_error)?;
        Ok(Self { client, patience })
    }

    pub(crate) fn execute<C: Command>(&self, command: &C) -> Result<C::Reply> {
        self.client.execute(command, self.patience.answer).map_err(|error| {
            self.show_transcript();
            qmp_error(error)
        })
    }

    /// Logs what was said last, for whoever wants to know why something failed.
    fn show_transcript(&self) {
        for line in self.client.transcript() {
            tracing::info!(target: "qmp", "{line}");
        }
    }

    /// The version of QEMU, as `10.0.2`.
    pub(crate) fn version(&self) -> String {
        let version = self.client.version();
        format!("{}.{}.{}", version.major, version.minor, version.micro)
    }

    /// All events from now on.
    pub(crate) fn events(&self) -> EventCursor {
        self.client.events()
    }

    /// Whether and why the guest runs or not.
    pub(crate) fn status(&self) -> Result<RunState> {
        Ok(self.execute(&QueryStatus)?.status)
    }

    /// Whether and why the guest runs or not; nothing where QEMU does not say it in time.
    ///
    /// # Errors
    /// Where the connection is over: QEMU is gone.
    pub(crate) fn status_if_said(&self) -> Result<Option<RunState>> {
        match self.client.execute(&QueryStatus, self.patience.answer) {
            Ok(info) => Ok(Some(info.status)),
            Err(error @ (QmpError::Lost { .. } | QmpError::Ended { .. })) => Err(qmp_error(error)),
            Err(_) => Ok(None),
        }
    }

    /// Whether a program in the guest has opened the device behind a character device.
    pub(crate) fn is_open_in_guest(&self, chardev: &str) -> Result<bool> {
        let all = self.execute(&QueryChardev)?;
        Ok(all.iter().any(|found| found.label == chardev && found.frontend_open))
    }

    /// Why QEMU could miss what the guest writes to its memory while that is copied, if it could (docs/design/0015).
    pub(crate) fn why_precopy_is_unsound(&self) -> Result<Option<&'static str>> {
        if self.execute(&QueryKvm)?.enabled {
            return Ok(None);
        }
        let old = !self.client.version().is_at_least(9, 0);
        // The memory that every machine has is one of them.
        let several = self.execute(&QueryMemdev)?.len() > 1;
        Ok(match (old, several) {
            (true, _) => Some("without KVM, QEMU before 9.0 misses writes to memory that it copies"),
            (_, true) => Some("without KVM, QEMU misses writes to memory that is made of several backends"),
            _ => None,
        })
    }

    /// Whether QEMU has closed the connection.
    pub(crate) fn is_gone(&self) -> bool {
        self.client.execute(&QueryStatus, self.patience.answer).is_err_and(|error| error.is_gone())
    }

    /// Stops the guest's processors, after letting its disk requests end.
    pub(crate) fn stop(&self) -> Result<()> {
        self.execute(&Stop).map(drop)
    }

    /// Lets the guest run. Tries again while QEMU says that a migration is not finalized yet.
    pub(crate) fn cont(&self) -> Result<()> {
        let deadline = Instant::now() + self.patience.finalize;
        loop {
            match self.client.execute(&Cont, self.patience.answer) {
                Ok(_) => return Ok(()),
                Err(error) => {
                    let not_yet = error.refusal().is_some_and(|refusal| refusal.desc.contains("finalized"));
                    if !not_yet || Instant::now() >= deadline {
                        self.show_transcript();
                        return Err(qmp_error(error));
                    }
                }
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// Asks QEMU to end, closing its images properly.
    pub(crate) fn quit(&self) -> Result<()> {
        match self.client.execute(&Quit, self.patience.answer) {
            Ok(_) => Ok(()),
            Err(error) if error.is_gone() => Ok(()),
            Err(error) => Err(qmp_error(error)),
        }
    }

    /// Presses the power button (ACPI).
    pub(crate) fn press_power_button(&self) -> Result<()> {
        self.execute(&SystemPowerdown).map(drop)
    }

    /// The network devices of the machine, by the names that [`Monitor::set_link`] takes.
    ///
    /// QMP has no command for that; the human monitor has, since ever in this form (`net/net.c`):
    /// `NAME: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56`.
    pub(crate) fn network_devices(&self) -> Result<Vec<String>> {
        let text = self.execute(&HumanMonitorCommand { command_line: "info network".into() })?;
        Ok(network_devices(&text))
    }

    /// What the human monitor says to a line; errors are part of it.
    pub(crate) fn human(&self, line: &str) -> Result<String> {
        self.execute(&HumanMonitorCommand { command_line: line.to_owned() })
    }

    /// Has the VNC display listen somewhere else.
    pub(crate) fn set_vnc(&self, update: &DisplayUpdate) -> Result<()> {
        self.execute(update).map(drop)
    }

    /// Plugs or unplugs the cable of a network device.
    pub(crate) fn set_link(&self, device: &str, up: bool) -> Result<()> {
        self.execute(&SetLink { name: device.to_owned(), up }).map(drop)
    }

    /// Opens a new layer in QEMU; no device uses it yet.
    pub(crate) fn add_node(&self, options: Value) -> Result<()> {
        self.execute(&BlockdevAdd(options)).map(drop)
    }

    /// Closes a layer that no device uses.
    pub(crate) fn remove_node(&self, node: &str) -> Result<()> {
        self.execute(&BlockdevDel { node_name: node.to_owned() }).map(drop)
    }

    /// All block nodes. `backing_file` of a node is its backing node's `file`, whatever its header says.
    pub(crate) fn nodes(&self) -> Result<Vec<BlockNode>> {
        self.execute(&QueryNamedBlockNodes { flat: Some(true) })
    }

    /// Puts the new layers on top of all these disks, in one transaction.
    pub(crate) fn switch_disks(&self, disks: &[DiskSwitch]) -> Result<()> {
        if disks.is_empty() {
            return Ok(());
        }
        let snapshot =
            |disk: &DiskSwitch| BlockdevSnapshot { node: disk.node.clone(), overlay: disk.overlay.clone() };
        self.execute(&Transaction::of_snapshots(disks.iter().map(snapshot))).map(drop)
    }

    /// Changes what a migration under way aims at for the guest's downtime.
    pub(crate) fn set_downtime_goal(&self, downtime_ms: u64) -> Result<()> {
        let parameters =
            MigrationParameters { downtime_limit_ms: Some(downtime_ms), ..MigrationParameters::default() };
        self.execute(&MigrateSetParameters(parameters)).map(drop)
    }

    /// Starts to send the VM's state to a socket.
    pub(crate) fn migrate(&self, socket: &Path) -> Result<()> {
        self.execute(&Migrate::to_uri(format!("unix:{}", socket.display()))).map(drop)
    }

    /// Starts to listen for a VM's state on a socket.
    pub(crate) fn migrate_incoming(&self, socket: &Path) -> Result<()> {
        self.execute(&MigrateIncoming { uri: format!("unix:{}", socket.display()) }).map(drop)
    }

    /// Goes on from pre-switchover.
    pub(crate) fn continue_migration(&self) -> Result<()> {
        self.execute(&MigrateContinue { state: MigrationStatus::PreSwitchover }).map(drop)
    }

    /// Cancels a migration; does nothing where there is none.
    pub(crate) fn cancel_migration(&self) -> Result<()> {
        self.execute(&MigrateCancel).map(drop)
    }

    /// The state of the last migration.
    pub(crate) fn migration(&self) -> Result<MigrationInfo> {
        self.execute(&QueryMigrate)
    }

    /// Waits at most `wait` for the next change of the migration's state.
    pub(crate) fn next_migration_status(
        events: &mut EventCursor,
        wait: Duration,
    ) -> Result<Option<MigrationStatus>> {
        match events.wait(wait, |event| MigrationStatus::of_event(event).is_some()) {
            Ok(event) => Ok(MigrationStatus::of_event(&event)),
            Err(QmpError::Deadline { .. }) => Ok(None),
            Err(error) => Err(qmp_error(error)),
        }
    }

    /// Waits at most `wait` for an event of one of these names.
    pub(crate) fn wait_event(
        events: &mut EventCursor,
        wait: Duration,
        names: &[&str],
    ) -> Result<Option<Event>> {
        match events.wait(wait, |event| names.contains(&event.name.as_str())) {
            Ok(event) => Ok(Some(event)),
            Err(QmpError::Deadline { .. }) => Ok(None),
            Err(error) => Err(qmp_error(error)),
        }
    }
}

/// What tells a connection to QEMU from all others. Nothing keeps it or shows it, so it need not be the same in a test's next
/// run, and is not taken from the host's randomness: a page server and a guard have none.
pub(crate) fn connection_id() -> ConnectionId {
    // The keys of each state are random ones.
    ConnectionId(RandomState::new().build_hasher().finish())
}

fn network_devices(text: &str) -> Vec<String> {
    let device = |line: &str| {
        let (name, facts) = line.split_once(": index=")?;
        // A backend below a device is indented; a device on a hub is too, behind the name of its port.
        let name = name.rsplit(": ").next().unwrap_or(name).trim_start_matches([' ', '\\']);
        facts.contains(",type=nic,").then(|| name.to_owned())
    };
    text.lines().filter_map(device).collect()
}

/// Whether the guest stands still because vmrewind stopped it, so that `cont` is ours to say. One that panicked, powered
/// off or met a full disk stands still for itself.
pub(crate) fn stands_still_for_us(state: &RunState) -> bool {
    matches!(state, RunState::Paused | RunState::Postmigrate | RunState::FinishMigrate | RunState::Prelaunch)
}

/// Whether the guest's processors run.
pub(crate) fn is_running(state: &RunState) -> bool {
    matches!(state, RunState::Running)
}

/// What an error of a monitor is to the engine.
pub(crate) fn qmp_error(error: QmpError) -> Error {
    let message = if error.is_gone() {
        "QEMU ended while vmrewind was talking to it".to_owned()
    } else if let Some(refusal) = error.refusal() {
        format!("QEMU refused: {}", refusal.desc)
    } else {
        "QEMU did not answer as it should".to_owned()
    };
    let gone = error.is_gone();
    let wrapped = Error::failed(message).because(error);
    if gone { wrapped.with_hint(Hint::LogOfVm) } else { wrapped }
}

#[cfg(test)]
mod tests;
