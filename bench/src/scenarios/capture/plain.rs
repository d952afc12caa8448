//! The guest without vmrewind, and QEMU's own ways: what its manual offers to keep a running VM's memory.
//!
//! ```text
//!  snapshot-save     job: stops the guest, writes memory into the qcow2 disk, syncs, lets the guest go
//!  stop + migrate    stop -> migrate to a file -> cont     the memory only: its user still has to see to the disks
//!    mapped-ram      the same, every page at its own place in the file (QEMU 9.0)
//!    multifd         the same, written by two threads (QEMU 9.0)
//! ```

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vmrewind_qemu::qmp::commands::{
    Cont, JobDismiss, JobStatus, Migrate, MigrateSetCapabilities, MigrateSetParameters, MigrationParameters,
    MigrationStatus, QueryJobs, QueryMigrateCapabilities, QueryNamedBlockNodes, Stop,
};
use vmrewind_testkit::guest::{GuestOptions, command_line};
use vmrewind_testkit::qemu::{self, Qemu};

use super::guest::{ANSWER, Guest};
use super::sample::{Sample, milliseconds};
use crate::outcome::{Outcome, context};

/// The disk's node, named by the guest's command line.
const DISK: &str = "disk0";
const TAG: &str = "bench";
const POLL: Duration = Duration::from_millis(2);

/// One of QEMU's own ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QemuWay {
    /// Into the disk's own file.
    SnapshotSave,
    /// A stream in a file.
    File,
    /// A file with a place for each page.
    MappedRam,
    /// That, by several threads.
    MappedRamMultifd,
}

impl QemuWay {
    /// All of them.
    pub(crate) const ALL: [Self; 4] =
        [Self::SnapshotSave, Self::File, Self::MappedRam, Self::MappedRamMultifd];

    /// As the tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SnapshotSave => "QEMU snapshot-save",
            Self::File => "QEMU stop + migrate to file",
            Self::MappedRam => "QEMU stop + mapped-ram file",
            Self::MappedRamMultifd => "QEMU stop + mapped-ram, multifd",
        }
    }

    /// The migration capabilities that it needs.
    fn capabilities(self) -> &'static [&'static str] {
        match self {
            Self::SnapshotSave | Self::File => &[],
            Self::MappedRam => &["mapped-ram"],
            Self::MappedRamMultifd => &["mapped-ram", "multifd"],
        }
    }
}

/// A guest on a QEMU of our own; it is killed when this is dropped.
pub(crate) struct PlainGuest {
    pub(crate) guest: Guest,
    file: PathBuf,
    _qemu: Qemu,
}

impl PlainGuest {
    /// Boots a guest, with its sockets and files in `folder`.
    pub(crate) fn boot(options: &GuestOptions, folder: &Path) -> Outcome<Self> {
        let mut line = command_line(options)?;
        line.extend(["-qmp".to_owned(), "unix:{run}/watch.sock,server=on,wait=off".to_owned()]);
        let qemu = qemu::spawn(&line, folder)?;
        let guest = Guest::watch(&folder.join("console.sock"), &folder.join("watch.sock"))
            .map_err(context(|| "the guest does not boot".into()))?;
        Ok(Self { guest, file: folder.join("memory"), _qemu: qemu })
    }

    /// The ways that this version of QEMU has.
    pub(crate) fn known_ways(&self) -> Outcome<Vec<QemuWay>> {
        let known = self.known_capabilities()?;
        let has =
            |way: &QemuWay| way.capabilities().iter().all(|name| known.iter().any(|known| known == name));
        Ok(QemuWay::ALL.into_iter().filter(has).collect())
    }

    /// Takes a turn, and removes what it made.
    pub(crate) fn capture(&self, way: QemuWay, round: u32) -> Outcome<Sample> {
        let doing = || format!("{} failed", way.name());
        match way {
            QemuWay::SnapshotSave => self.snapshot_save(way, round),
            QemuWay::File | QemuWay::MappedRam | QemuWay::MappedRamMultifd => self.to_file(way, round),
        }
        .map_err(context(doing))
    }

    fn snapshot_save(&self, way: QemuWay, round: u32) -> Outcome<Sample> {
        self.prepare_migration(way)?;
        let save = json!({ "job-id": "save", "tag": TAG, "vmstate": DISK, "devices": [DISK] });
        let (done, seen) = self.guest.observe(|begun| {
            self.job("snapshot-save", "save", &save)?;
            Ok(begun.elapsed())
        })?;
        let bytes = self.state_bytes()?;
        let delete = json!({ "job-id": "delete", "tag": TAG, "devices": [DISK] });
        self.job("snapshot-delete", "delete", &delete)?;
        // QEMU flushes the image before it lets the guest go: what is done is durable.
        Ok(Sample {
            way: way.name().into(),
            round,
            seen,
            done_ms: milliseconds(done),
            on_disk_ms: milliseconds(done),
            bytes,
            reported_pause_ms: None,
        })
    }

    fn to_file(&self, way: QemuWay, round: u32) -> Outcome<Sample> {
        self.prepare_migration(way)?;
        let ((done, on_disk), seen) = self.guest.observe(|begun| {
            self.stop_and_migrate()?;
            let done = begun.elapsed();
            std::fs::File::open(&self.file)?.sync_all()?;
            Ok((done, begun.elapsed()))
        })?;
        let bytes = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&self.file)?) * 512;
        std::fs::remove_file(&self.file)?;
        Ok(Sample {
            way: way.name().into(),
            round,
            seen,
            done_ms: milliseconds(done),
            on_disk_ms: milliseconds(on_disk),
            bytes,
            reported_pause_ms: None,
        })
    }

    fn stop_and_migrate(&self) -> Outcome {
        let qmp = &self.guest.qmp;
        let mut events = qmp.events();
        qmp.execute(&Stop, ANSWER)?;
        qmp.execute(&Migrate::to_uri(self.uri()), ANSWER)?;
        let over = |status: &MigrationStatus| status.is_over();
        let end = events.wait(ANSWER, |event| MigrationStatus::of_event(event).as_ref().is_some_and(over))?;
        if MigrationStatus::of_event(&end) != Some(MigrationStatus::Completed) {
            return Err(format!("the migration ended otherwise: {}", end.data).into());
        }
        self.cont()
    }

    /// Lets the guest go on, as soon as QEMU has tidied the migration up.
    fn cont(&self) -> Outcome {
        let deadline = Instant::now() + ANSWER;
        loop {
            match self.guest.qmp.execute(&Cont, ANSWER) {
                Ok(_) => return Ok(()),
                Err(error) => {
                    let not_yet = error.refusal().is_some_and(|refusal| refusal.desc.contains("finalized"));
                    if !not_yet || Instant::now() > deadline {
                        return Err(error.into());
                    }
                }
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    fn uri(&self) -> String {
        let path = self.file.display();
        // Before 8.2 there is no `file:`, and a program that reads a pipe is what manuals gave.
        if self.guest.qmp.version().is_at_least(8, 2) {
            format!("file:{path}")
        } else {
            format!("exec:cat > '{path}'")
        }
    }

    /// Sets exactly what the way needs, and no limit on bandwidth: by default it would be 128 MiB/s.
    fn prepare_migration(&self, way: QemuWay) -> Outcome {
        let wanted = |name: &str| name == "events" || way.capabilities().contains(&name);
        let known = self.known_capabilities()?;
        let ours =
            ["events", "mapped-ram", "multifd"].into_iter().filter(|name| known.iter().any(|k| k == name));
        let set = MigrateSetCapabilities::of(ours.map(|name| (name, wanted(name))));
        self.guest.qmp.execute(&set, ANSWER)?;
        let parameters = MigrationParameters { max_bandwidth: Some(0), ..MigrationParameters::default() };
        self.guest.qmp.execute(&MigrateSetParameters(parameters), ANSWER)?;
        Ok(())
    }

    fn known_capabilities(&self) -> Outcome<Vec<String>> {
        let known = self.guest.qmp.execute(&QueryMigrateCapabilities, ANSWER)?;
        Ok(known.into_iter().map(|capability| capability.capability).collect())
    }

    /// Runs a job to its end.
    fn job(&self, command: &str, id: &str, arguments: &Value) -> Outcome {
        let qmp = &self.guest.qmp;
        qmp.execute_value(command, arguments, ANSWER)?;
        loop {
            let jobs = qmp.execute(&QueryJobs, ANSWER)?;
            let job = jobs.into_iter().find(|job| job.id == id).ok_or("QEMU lost the job")?;
            if job.status == JobStatus::Concluded {
                qmp.execute(&JobDismiss { id: id.to_owned() }, ANSWER)?;
                return job.error.map_or(Ok(()), |error| Err(format!("{command}: {error}").into()));
            }
            std::thread::sleep(POLL);
        }
    }

    /// What the machine's state takes in the disk's file.
    fn state_bytes(&self) -> Outcome<u64> {
        let nodes = self.guest.qmp.execute(&QueryNamedBlockNodes { flat: Some(true) }, ANSWER)?;
        let disk = nodes.into_iter().find(|node| node.node_name.as_deref() == Some(DISK));
        let disk = disk.ok_or("QEMU lost the disk")?;
        let snapshots = disk.image.other.get("snapshots");
        let bytes = snapshots.and_then(|list| list.get(0)?.get("vm-state-size")?.as_u64());
        bytes.ok_or_else(|| "QEMU does not tell the size of its snapshot".into())
    }
}
