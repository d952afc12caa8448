//! As many QEMUs as clones, each filled from one file: what one would do without vmrewind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use vmrewind_testkit::console::Console;
use vmrewind_testkit::disk;
use vmrewind_testkit::guest::{DiskArg, GuestOptions, command_line};
use vmrewind_testkit::qemu;

use super::sample::{Sample, Way};
use super::{all_tick, settled_memory};
use crate::outcome::{Outcome, context};
use crate::vm::BOOT;

const POLL: Duration = Duration::from_millis(5);

/// A guest that was migrated to a file once.
pub(super) struct EagerGuests {
    options: GuestOptions,
    folder: PathBuf,
}

/// A QEMU that is killed when this is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl EagerGuests {
    /// Boots a guest, migrates it to a file, and ends it.
    pub(super) fn make(options: &GuestOptions, folder: &Path) -> Outcome<Self> {
        fs::create_dir(folder)?;
        let guests = Self { options: options.clone(), folder: folder.to_owned() };
        disk::ext4_qcow2(&guests.disk(), 64 << 20)?;
        let mut qemu = qemu::spawn(&guests.line(&guests.disk(), &[])?, folder)?;
        qemu.console().wait_ready(BOOT).map_err(context(|| "the guest does not boot".into()))?;
        qemu.qmp("migrate-set-parameters", &json!({ "max-bandwidth": 0 }))?;
        qemu.qmp("migrate", &json!({ "uri": guests.uri() }))?;
        loop {
            let state = qemu.qmp("query-migrate", &json!({}))?;
            match state["status"].as_str() {
                Some("completed") => return Ok(guests),
                Some("failed" | "cancelled") => return Err(format!("the migration failed: {state}").into()),
                _ => std::thread::sleep(POLL),
            }
        }
    }

    /// Starts as many at once, and measures them.
    pub(super) fn restore(&self, count: u32, round: u32) -> Outcome<Sample> {
        let turn = tempfile::Builder::new().prefix("t.").tempdir_in(&self.folder)?;
        let mut lines = Vec::new();
        let mut consoles = Vec::new();
        for number in 1..=count {
            let run = turn.path().join(number.to_string());
            fs::create_dir(&run)?;
            let disk = run.join("disk.qcow2");
            fs::copy(self.disk(), &disk)?;
            consoles.push(Console::attach(&run.join("console.sock")));
            lines.push((self.line(&disk, &["-incoming", &self.uri()])?, run));
        }
        let begun = Instant::now();
        let started = lines.iter().map(|(line, run)| start(line, run)).collect::<Outcome<Vec<_>>>()?;
        let (last, _) = all_tick(&consoles)?;
        let pids: Vec<u32> = started.iter().map(|qemu| qemu.0.id()).collect();
        let pss_bytes = settled_memory(&consoles, &pids)?;
        Ok(Sample { way: Way::Eager, round, all_ms: (last - begun).as_secs_f64() * 1e3, pss_bytes })
    }

    fn line(&self, disk: &Path, more: &[&str]) -> Outcome<Vec<String>> {
        let extra = more.iter().map(|word| (*word).to_owned()).collect();
        let disks = vec![DiskArg::new(disk, "qcow2")];
        Ok(command_line(&GuestOptions { disks, extra, ..self.options.clone() })?)
    }

    fn disk(&self) -> PathBuf {
        self.folder.join("disk.qcow2")
    }

    fn uri(&self) -> String {
        format!("file:{}", self.folder.join("state").display())
    }
}

fn start(line: &[String], run: &Path) -> Outcome<Killed> {
    let folder = run.display().to_string();
    let mut words = line.iter().map(|word| word.replace("{run}", &folder));
    let program = words.next().ok_or("the command line is empty")?;
    let log = File::create(run.join("qemu.err"))?;
    let mut command = Command::new(&program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    Ok(Killed(command.spawn().map_err(context(|| format!("cannot run {program}")))?))
}
