//! A VM that runs the test guest: made, started and spoken to.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::check::Before;
use super::{Known, Rig, must};
use crate::console::Console;
use crate::disk;
use crate::guest::{DiskArg, DiskKind, GuestOptions, command_line};
use crate::report::Verify;

/// How long a guest may take to boot on a busy machine.
pub(super) const BOOT: Duration = Duration::from_secs(180);
/// How long an answer may take: a guest of 2 GiB sums up its memory for some seconds.
pub(super) const ANSWER: Duration = Duration::from_secs(120);

/// What a guest is to be.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// The VM's name.
    pub name: String,
    /// Disks to make, besides those that the options name.
    pub disks: Vec<SpecDisk>,
    /// Whether it starts by UEFI, with variables of its own in `NAME-vars.fd`.
    pub uefi: bool,
    /// Everything else.
    pub options: GuestOptions,
}

/// A disk to be made for a guest, with a file system and a counter.
#[derive(Debug, Clone)]
pub struct SpecDisk {
    /// File name in the rig's folder.
    pub file: String,
    /// `raw` or `qcow2`.
    pub format: String,
    /// How it is attached.
    pub kind: DiskKind,
}

impl GuestSpec {
    /// A guest without disks.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), disks: Vec::new(), uefi: false, options: GuestOptions::default() }
    }

    /// Adds a disk.
    #[must_use]
    pub fn disk(mut self, file: &str, format: &str, kind: DiskKind) -> Self {
        self.disks.push(SpecDisk { file: file.into(), format: format.into(), kind });
        self
    }

    /// Starts by UEFI.
    #[must_use]
    pub fn uefi(mut self) -> Self {
        self.uefi = true;
        self
    }

    /// Changes the options.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut GuestOptions)) -> Self {
        change(&mut self.options);
        self
    }
}

/// A VM that runs the test guest.
#[derive(Debug)]
pub struct Guest<'r> {
    /// The rig that it stands in.
    pub rig: &'r Rig,
    /// The VM's name.
    pub name: String,
    /// Its serial line, through restores and restarts.
    pub console: Console,
    /// The base images of the disks with counters, in the guest's order.
    pub bases: Vec<PathBuf>,
    /// Checksum of the memory of the guest that runs now.
    pub(super) sum: RefCell<String>,
    /// When the ticks of the guest that runs now began: those before belong to another line of time.
    pub(super) began: Cell<Instant>,
    /// What is known of its snapshots.
    pub(super) known: RefCell<BTreeMap<String, Known>>,
}

impl<'r> Guest<'r> {
    #[track_caller]
    pub(super) fn boot(rig: &'r Rig, spec: GuestSpec) -> Self {
        let guest = Self::create(rig, spec);
        guest.start();
        guest
    }

    /// Makes disks and a VM, and does not start it.
    #[track_caller]
    pub fn create(rig: &'r Rig, spec: GuestSpec) -> Self {
        const DISK_BYTES: u64 = 32 << 20;
        let mut options = spec.options;
        for made in &spec.disks {
            let path = rig.path(&made.file);
            let make = if made.format == "raw" { disk::ext4_raw } else { disk::ext4_qcow2 };
            must("make a disk", make(&path, DISK_BYTES));
            options.disks.push(DiskArg::new(path, &made.format).attached_as(made.kind));
        }
        if spec.uefi {
            let vars = rig.path(&format!("{}-vars.fd", spec.name));
            must("make UEFI variables", disk::uefi_vars(&vars));
            options.uefi_vars = Some(vars);
        }
        let line = must("write the guest's command line", command_line(&options));
        let create = ["vm", "create", &spec.name, "--"].map(String::from);
        let view = rig.run_json(&[&create[..], &line].concat());
        assert_eq!((view["name"].as_str(), view["state"].as_str()), (Some(&*spec.name), Some("stopped")));
        let run = PathBuf::from(view["run"].as_str().unwrap_or_default());
        let bases = options.disks.iter().filter(|disk| disk.mounted).map(|disk| disk.path.clone());
        Self {
            rig,
            console: Console::attach(&run.join("console.sock")),
            name: spec.name,
            bases: bases.collect(),
            sum: RefCell::default(),
            began: Cell::new(Instant::now()),
            known: RefCell::default(),
        }
    }

    /// Starts the VM and waits until its guest ticks; returns what it found on its first disk.
    #[track_caller]
    pub fn start(&self) -> Option<u64> {
        let before = self.before();
        let run = self.rig.run_ok(&["--json", "vm", "start", &self.name]);
        assert_eq!(run.stderr, "", "a start has nothing to report: {run}");
        let view = run.json();
        assert_eq!(view["state"], "running");
        self.booted(before)
    }

    /// Waits for the first tick of a guest that boots.
    #[track_caller]
    pub(super) fn booted(&self, before: Before) -> Option<u64> {
        let first = self.first_tick_after(before, BOOT);
        assert!(first.tick <= 2, "a booted guest counts from 1, and this is {first:?}");
        let found = self.ready();
        // Before its first round a disk has no counter yet that a snapshot could be judged by.
        let deadline = Instant::now() + ANSWER;
        while !self.bases.is_empty()
            && must("see a tick", self.console.wait_tick(self.console.mark(), ANSWER)).done == 0
        {
            assert!(Instant::now() < deadline, "the guest of '{}' writes no counter", self.name);
        }
        found
    }

    /// Asks what the guest's memory is from now on to be judged by, and what it found on its first disk.
    #[track_caller]
    pub(super) fn ready(&self) -> Option<u64> {
        let line = self.ask("ready", "READY ");
        let ready = crate::report::Ready::parse(&line).unwrap_or_else(|| panic!("no such answer: {line}"));
        self.sum.replace(ready.sum);
        ready.found
    }

    /// `vm show --json`.
    #[track_caller]
    pub fn show(&self) -> Value {
        self.rig.run_json(&["vm", "show", &self.name])
    }

    /// The VM's state, once all memory of a restore is there.
    #[track_caller]
    pub fn state(&self) -> String {
        let deadline = Instant::now() + ANSWER;
        loop {
            let state = self.state_now();
            if state != "restoring" {
                return state;
            }
            assert!(Instant::now() < deadline, "'{}' has its memory never: {}", self.name, self.show());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The VM's state, whatever it is.
    #[track_caller]
    pub fn state_now(&self) -> String {
        self.show()["state"].as_str().unwrap_or_default().to_owned()
    }

    /// `VM@NAME`.
    pub fn address(&self, snapshot: &str) -> String {
        format!("{}@{snapshot}", self.name)
    }

    /// Sends a command to the guest and gives its answer, which begins with `prefix`.
    #[track_caller]
    pub fn ask(&self, command: &str, prefix: &str) -> String {
        must("ask the guest", self.console.ask(command, prefix, ANSWER))
    }

    /// Has the guest check itself, and checks that all is right and its memory the one it has had since its boot.
    #[track_caller]
    pub fn verify_ok(&self) -> Verify {
        let verify = must("have the guest check itself", self.console.verify(ANSWER));
        assert!(verify.ok, "the guest of '{}' is not right: {}", self.name, verify.line);
        assert_eq!(verify.sum, *self.sum.borrow(), "this is the memory of another guest");
        let expected = Some(verify.disk);
        assert!(self.bases.is_empty() || verify.file == expected, "first disk: {}", verify.line);
        assert!(self.bases.len() < 2 || verify.file2 == expected, "second disk: {}", verify.line);
        verify
    }

    /// Waits for a tick that comes from now on: the proof that the guest runs.
    #[track_caller]
    pub fn runs(&self) {
        let since = self.console.mark();
        must("see the guest run", self.console.wait_tick(since, ANSWER));
    }

    /// Checks that the guest stands still: nothing comes between two looks at a drained console.
    #[track_caller]
    pub fn stands_still(&self) {
        let status = self.qmp("query-status", &json!({}));
        assert_eq!(status["running"], false, "{status}");
        let is_silent = || {
            let since = self.console.mark();
            std::thread::sleep(Duration::from_millis(200));
            since == self.console.mark()
        };
        // What it said before can come late on a busy host.
        let deadline = Instant::now() + ANSWER;
        while !is_silent() {
            assert!(Instant::now() < deadline, "the guest of '{}' runs", self.name);
        }
        assert!(is_silent(), "the guest of '{}' runs", self.name);
        assert_eq!(self.qmp("query-status", &json!({})), status, "it was let go");
    }

    /// One QMP command on the socket that `vm show` gives to users.
    #[track_caller]
    pub fn qmp(&self, command: &str, arguments: &Value) -> Value {
        let view = self.show();
        let socket = view["qmp"].as_str().unwrap_or_else(|| panic!("no QMP socket: {view}"));
        must("speak QMP", qmp_once(Path::new(socket), command, arguments))
    }

    /// Stops the VM by its power button.
    #[track_caller]
    pub fn stop(&self) {
        let run = self.rig.run(&["--json", "vm", "stop", &self.name, "--timeout", "120s"]);
        if run.status != 0 {
            let registers = self.qmp("human-monitor-command", &json!({ "command-line": "info registers" }));
            panic!("the guest of '{}' does not stop: {run}\nit is at {registers}", self.name);
        }
        let view = run.json();
        assert_eq!((view["state"].as_str(), &view["pid"]), (Some("stopped"), &Value::Null));
    }
}

fn qmp_once(socket: &Path, command: &str, arguments: &Value) -> std::io::Result<Value> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut writer = stream;
    let mut answer = Value::Null;
    for request in
        [json!({"execute": "qmp_capabilities"}), json!({"execute": command, "arguments": arguments})]
    {
        writer.write_all(format!("{request}\n").as_bytes())?;
        answer = loop {
            let line = lines.next().unwrap_or_else(|| Err(std::io::ErrorKind::UnexpectedEof.into()))?;
            let message: Value = serde_json::from_str(&line)?;
            if let Some(error) = message.get("error") {
                return Err(std::io::Error::other(error.to_string()));
            }
            if let Some(value) = message.get("return") {
                break value.clone();
            }
        };
    }
    Ok(answer)
}
