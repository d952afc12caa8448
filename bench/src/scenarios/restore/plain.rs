//! QEMU's own ways: the same guest kept by them once, and brought back.
//!
//! ```text
//!  made once    snapshot-save into the disk -> migrate to a file, disk copied -> the same with mapped-ram
//!  each turn    -loadvm                        -incoming file:                   -incoming defer, file:
//! ```
//! Each turn with a file has a fresh copy of the disk as it was then.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmrewind_testkit::console::{Console, Mark};
use vmrewind_testkit::disk;
use vmrewind_testkit::guest::{DiskArg, GuestOptions, command_line};
use vmrewind_testkit::qemu::{self, Qemu};

use super::Arrival;
use crate::outcome::{Outcome, context};
use crate::vm::{ANSWER, BOOT};

const TAG: &str = "bench";
const POLL: Duration = Duration::from_millis(5);

/// One of QEMU's own ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QemuWay {
    /// From the disk's own file.
    Loadvm,
    /// From a stream in a file.
    File,
    /// From a file with a place for each page.
    MappedRam,
}

impl QemuWay {
    const ALL: [Self; 3] = [Self::Loadvm, Self::File, Self::MappedRam];

    /// As the tables call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Loadvm => "QEMU -loadvm",
            Self::File => "QEMU -incoming file:",
            Self::MappedRam => "QEMU mapped-ram file",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Loadvm => "loadvm",
            Self::File => "file",
            Self::MappedRam => "mapped",
        }
    }
}

/// What QEMU's own ways have kept of a guest.
pub(super) struct PlainGuest {
    options: GuestOptions,
    folder: PathBuf,
    ways: Vec<QemuWay>,
}

/// A guest that was brought back.
pub(super) struct Running {
    pub(super) console: Console,
    _qemu: Qemu,
}

impl PlainGuest {
    /// Boots a guest, keeps it by each of QEMU's ways, and ends it.
    pub(super) fn make(options: &GuestOptions, folder: &Path) -> Outcome<Self> {
        let disk = folder.join("loadvm.qcow2");
        disk::ext4_qcow2(&disk, 256 << 20)?;
        let mut plain = Self { options: options.clone(), folder: folder.to_owned(), ways: Vec::new() };
        let mut qemu = qemu::spawn(&plain.line(&disk, &[])?, folder)?;
        qemu.console().wait_ready(BOOT).map_err(context(|| "the guest does not boot".into()))?;
        save(&mut qemu)?;
        plain.ways.push(QemuWay::Loadvm);
        for way in [QemuWay::File, QemuWay::MappedRam] {
            if set_up(&mut qemu, way)? {
                migrate_to(&mut qemu, &plain.file(way))?;
                fs::copy(&disk, plain.kept_disk(way))?;
                qemu.qmp("cont", &json!({}))?;
                plain.ways.push(way);
            }
        }
        Ok(plain)
    }

    /// The ways that this QEMU has.
    pub(super) fn ways(&self) -> &[QemuWay] {
        &self.ways
    }

    /// The names of those that it does not have.
    pub(super) fn unknown_ways(&self) -> Vec<&'static str> {
        QemuWay::ALL.into_iter().filter(|way| !self.ways.contains(way)).map(QemuWay::name).collect()
    }

    /// Makes the disk that a turn will write to.
    pub(super) fn make_ready(&self, way: QemuWay) -> Outcome {
        if way != QemuWay::Loadvm {
            fs::copy(self.kept_disk(way), self.folder.join("turn.qcow2"))?;
        }
        Ok(())
    }

    /// Starts QEMU, and waits for the guest's first tick.
    pub(super) fn restore(&self, way: QemuWay) -> Outcome<(Arrival, Running)> {
        let turn = self.folder.join("turn.qcow2");
        let line = match way {
            QemuWay::Loadvm => self.line(&self.folder.join("loadvm.qcow2"), &["-loadvm", TAG])?,
            QemuWay::File => self.line(&turn, &["-incoming", &uri(&self.file(way))])?,
            QemuWay::MappedRam => self.line(&turn, &["-incoming", "defer"])?,
        };
        let console = Console::attach(&self.folder.join("console.sock"));
        let begun = Instant::now();
        let mut qemu = qemu::spawn(&line, &self.folder)?;
        if way == QemuWay::MappedRam {
            set_up(&mut qemu, way)?;
            qemu.qmp("migrate-incoming", &json!({ "uri": uri(&self.file(way)) }))?;
        }
        console.wait_tick(Mark::START, ANSWER)?;
        let first = console.ticks().first().map(|(at, _)| *at).ok_or("the guest's first tick is lost")?;
        Ok((Arrival { command: begun, qemu: begun, first }, Running { console, _qemu: qemu }))
    }

    fn line(&self, disk: &Path, more: &[&str]) -> Outcome<Vec<String>> {
        let extra = more.iter().map(|word| (*word).to_owned()).collect();
        let disks = vec![DiskArg::new(disk, "qcow2")];
        Ok(command_line(&GuestOptions { disks, extra, ..self.options.clone() })?)
    }

    fn file(&self, way: QemuWay) -> PathBuf {
        self.folder.join(format!("{}.state", way.word()))
    }

    fn kept_disk(&self, way: QemuWay) -> PathBuf {
        self.folder.join(format!("{}.qcow2", way.word()))
    }
}

impl Running {
    /// Has the guest check itself where that is wanted, and ends it.
    pub(super) fn end(self, check: bool) -> Outcome {
        if check {
            let verify = self.console.verify(ANSWER)?;
            if !verify.ok {
                return Err(format!("the guest is damaged: {}", verify.line).into());
            }
        }
        Ok(())
    }
}

fn uri(file: &Path) -> String {
    format!("file:{}", file.display())
}

fn save(qemu: &mut Qemu) -> Outcome {
    let nodes = qemu.qmp("query-named-block-nodes", &json!({ "flat": true }))?;
    let nodes = nodes.as_array().cloned().unwrap_or_default();
    let disk = nodes.iter().find(|node| node["drv"] == "qcow2").and_then(|node| node["node-name"].as_str());
    let disk = disk.ok_or("QEMU has no qcow2 disk")?;
    let save = json!({ "job-id": "save", "tag": TAG, "vmstate": disk, "devices": [disk] });
    qemu.qmp("snapshot-save", &save)?;
    loop {
        let jobs = qemu.qmp("query-jobs", &json!({}))?;
        let job = jobs.as_array().and_then(|jobs| jobs.iter().find(|job| job["id"] == "save")).cloned();
        let job = job.ok_or("QEMU lost the job")?;
        if job["status"] == "concluded" {
            return job["error"]
                .as_str()
                .map_or(Ok(()), |error| Err(format!("snapshot-save: {error}").into()));
        }
        std::thread::sleep(POLL);
    }
}

/// Sets what a way needs, and no limit on bandwidth. False where this QEMU does not have it.
fn set_up(qemu: &mut Qemu, way: QemuWay) -> Outcome<bool> {
    let known = qemu.qmp("query-migrate-capabilities", &json!({}))?;
    let has = |name: &str| {
        known.as_array().is_some_and(|known| known.iter().any(|known| known["capability"] == name))
    };
    // The transport `file:` came a little before; QEMU tells of neither otherwise.
    if !has("mapped-ram") {
        return Ok(false);
    }
    let mapped = json!({ "capability": "mapped-ram", "state": way == QemuWay::MappedRam });
    qemu.qmp("migrate-set-capabilities", &json!({ "capabilities": [mapped] }))?;
    qemu.qmp("migrate-set-parameters", &json!({ "max-bandwidth": 0 }))?;
    Ok(true)
}

/// Migrates the running guest to a file; it stands still at the end, as do its disks.
fn migrate_to(qemu: &mut Qemu, file: &Path) -> Outcome {
    qemu.qmp("migrate", &json!({ "uri": uri(file) }))?;
    loop {
        let state: Value = qemu.qmp("query-migrate", &json!({}))?;
        match state["status"].as_str() {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => return Err(format!("the migration failed: {state}").into()),
            _ => std::thread::sleep(POLL),
        }
    }
}
