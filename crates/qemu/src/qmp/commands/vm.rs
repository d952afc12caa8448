//! The machine as a whole: run state, power, what it has, links.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Nothing, commands, open_enum, plain_commands};

plain_commands! {
    /// `query-status`.
    QueryStatus = "query-status" -> StatusInfo;
    /// `stop`: pauses the guest; done when the reply is there.
    Stop = "stop" -> Nothing;
    /// `cont`: lets the guest run.
    Cont = "cont" -> Nothing;
    /// `quit`: ends QEMU at once. The reply may be lost with the connection: see `QmpError::is_gone`.
    Quit = "quit" -> Nothing;
    /// `system_powerdown`: presses the ACPI power button; the guest may ignore it.
    SystemPowerdown = "system_powerdown" -> Nothing;
    /// `query-chardev`.
    QueryChardev = "query-chardev" -> Vec<ChardevInfo>;
    /// `query-kvm`.
    QueryKvm = "query-kvm" -> KvmInfo;
    /// `query-memdev`: memory backends, the default one of the machine included.
    QueryMemdev = "query-memdev" -> Vec<Memdev>;
}

commands! {
    SetLink = "set_link" -> Nothing;
    HumanMonitorCommand = "human-monitor-command" -> String;
    DisplayUpdate = "display-update" -> Nothing;
}

open_enum! {
    /// QAPI's `RunState`.
    RunState {
        /// Stopped by a debugger.
        Debug = "debug",
        /// Waiting for an incoming migration.
        Inmigrate = "inmigrate",
        /// QEMU or KVM can't go on.
        InternalError = "internal-error",
        /// Paused because of an I/O error.
        IoError = "io-error",
        /// Paused by `stop`.
        Paused = "paused",
        /// Paused behind a completed migration.
        Postmigrate = "postmigrate",
        /// Started with `-S`, not run yet.
        Prelaunch = "prelaunch",
        /// Paused for the last pass of a migration: pre-switchover too.
        FinishMigrate = "finish-migrate",
        /// Loading its state.
        RestoreVm = "restore-vm",
        /// Running.
        Running = "running",
        /// Paused to save its state.
        SaveVm = "save-vm",
        /// Shut down, under `-no-shutdown`.
        Shutdown = "shutdown",
        /// In ACPI S3.
        Suspended = "suspended",
        /// Paused by the watchdog.
        Watchdog = "watchdog",
        /// Paused because the guest panicked.
        GuestPanicked = "guest-panicked",
        /// Paused under COLO.
        Colo = "colo",
    }
}

/// QAPI's `StatusInfo`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct StatusInfo {
    /// Whether the CPUs run.
    pub running: bool,
    /// Why, or why not.
    pub status: RunState,
    /// Fields not typed here (older versions have `singlestep`).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// QAPI's `ChardevInfo`, as far as it is needed to tell whether the guest listens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ChardevInfo {
    /// The character device's id.
    pub label: String,
    /// Whether its device is open in the guest: for a virtio serial port, whether a program there has opened it.
    #[serde(rename = "frontend-open")]
    pub frontend_open: bool,
}

/// QAPI's `KvmInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct KvmInfo {
    /// Whether KVM runs the guest; where it does not, TCG does.
    pub enabled: bool,
}

/// QAPI's `Memdev`, as far as it is needed to count them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Memdev {
    /// The backend's id; a backend can be without.
    pub id: Option<String>,
    /// Its size in bytes.
    pub size: u64,
}

/// `set_link`: plugs or unplugs a network device's cable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetLink {
    /// The device's id, or the netdev's.
    pub name: String,
    /// Plugged.
    pub up: bool,
}

/// `human-monitor-command`: the reply is the monitor's text, errors included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HumanMonitorCommand {
    /// The line.
    #[serde(rename = "command-line")]
    pub command_line: String,
}

/// `display-update`: where the VNC display listens. It has to be there already, if only as `-vnc none`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DisplayUpdate {
    /// `vnc`.
    #[serde(rename = "type")]
    kind: &'static str,
    addresses: Vec<InetAddress>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct InetAddress {
    #[serde(rename = "type")]
    kind: &'static str,
    host: String,
    port: String,
}

impl DisplayUpdate {
    /// Listens on a TCP port of that address; an empty one is all.
    #[must_use]
    pub fn vnc_on(host: &str, port: u32) -> Self {
        let address = InetAddress { kind: "inet", host: host.to_owned(), port: port.to_string() };
        Self { kind: "vnc", addresses: vec![address] }
    }

    /// Listens nowhere.
    #[must_use]
    pub fn vnc_off() -> Self {
        Self { kind: "vnc", addresses: Vec::new() }
    }
}
