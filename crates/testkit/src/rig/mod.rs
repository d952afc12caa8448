//! The harness of every test that drives real VMs through the command line.
//!
//! A [`Rig`] is a root of its own with the program under test; a [`Guest`] is a VM in it that runs the test guest, with
//! its console and what is known of its snapshots, so that a test can be a list of [`Action`]s and a check.
//!
//! ```text
//! Rig --run/spawn--> vmrewind --root R ...        Run { status, stdout, stderr }
//!  '- guest(GuestSpec) -> Guest --play(&[Action])--> each action is carried out and what it promises is checked
//! ```
//! The rig is a judge, so what it finds wrong it reports by panicking, with what the program said. When it is dropped,
//! also while a test panics, its VMs are stopped and every QEMU of its root is killed.

mod check;
mod clone;
mod guest;
mod play;
mod run;
mod stopped;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

pub use check::{Known, Restored};
pub use clone::Clone;
pub use guest::{Guest, GuestSpec, SpecDisk};
pub use play::Action;
pub use run::{Background, Run};
pub use stopped::Stopped;

/// A root of its own, and the program under test.
#[derive(Debug)]
pub struct Rig {
    exe: PathBuf,
    root: PathBuf,
    folder: TempDir,
}

impl Rig {
    /// Makes a temporary folder with a root in it, for the program at `exe`.
    #[track_caller]
    pub fn new(exe: &Path) -> Self {
        let folder = must("make a temporary folder", tempfile::Builder::new().prefix("rig-").tempdir());
        let root = folder.path().join("root");
        Self { exe: exe.to_owned(), root, folder }
    }

    /// The same with the root elsewhere, as on another file system. The root is not removed with the rig.
    #[track_caller]
    pub fn with_root(exe: &Path, root: &Path) -> Self {
        let mut rig = Self::new(exe);
        root.clone_into(&mut rig.root);
        rig
    }

    /// The root that every command is given.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in the rig's folder, outside the root: for base images and the like.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of a VM in the root.
    pub fn vm_folder(&self, vm: &str) -> PathBuf {
        self.root.join("vms").join(vm)
    }

    /// The program with `arguments` and this root, in an environment that holds nothing of the user's.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.exe);
        command.arg("--root").arg(&self.root).args(arguments).current_dir(self.folder.path());
        command.env_remove("VMREWIND_ROOT").env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Run {
        let output = must("run the program", self.command(arguments).output());
        Run::new(arguments, &output)
    }

    /// Runs it and checks that it succeeds.
    #[track_caller]
    pub fn run_ok<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Run {
        let run = self.run(arguments);
        assert_eq!(run.status, 0, "{run}");
        run
    }

    /// Runs it with `--json`, checks that it succeeds, and gives the document.
    #[track_caller]
    pub fn run_json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Value {
        self.run_ok(&with_json(arguments)).json()
    }

    /// Runs it with `--json`, checks that it fails with `status` and a message, and gives the error.
    ///
    /// Nothing but the error may be said: standard output must be empty.
    #[track_caller]
    pub fn run_fails<S: AsRef<OsStr>>(&self, arguments: &[S], status: i32) -> Value {
        let run = self.run(&with_json(arguments));
        assert_eq!(run.status, status, "{run}");
        assert_eq!(run.stdout, "", "a failure prints no result: {run}");
        run.error()
    }

    /// Starts it in a process group of its own and comes back at once.
    #[track_caller]
    pub fn spawn<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Background {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Background::new(arguments, must("start the program", command.spawn()))
    }

    /// Makes disks and a VM, starts it and waits until its guest ticks.
    #[track_caller]
    pub fn guest(&self, spec: GuestSpec) -> Guest<'_> {
        Guest::boot(self, spec)
    }

    /// The ids of the QEMU processes that have this root in their command line.
    pub fn qemu_pids(&self) -> Vec<u32> {
        let root = self.root.display().to_string();
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line);
            line.split('\0').next().is_some_and(|program| program.contains("qemu-system"))
                && line.contains(&root)
        })
        .collect()
    }

    /// The folder of what belongs to the QEMU of a VM that was started last: it need not be the VM's yet.
    pub fn newest_seat(&self, vm: &str) -> PathBuf {
        let seats = fs::read_dir(self.vm_folder(vm).join("seats")).into_iter().flatten().flatten();
        let numbers = seats.filter_map(|seat| seat.file_name().to_str()?.parse::<u32>().ok());
        self.vm_folder(vm).join("seats").join(numbers.max().unwrap_or_default().to_string())
    }

    /// All files below the root, with their sizes, sorted: for telling whether anything was left behind.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        collect_files(&self.root, &mut files);
        files.sort();
        files
    }

    fn vm_names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("vms")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show_logs(&self.root);
        }
        for name in self.vm_names() {
            // A VM that can't be deleted properly is killed below; the test has said why.
            let _ = self.command(&["vm", "delete", &name, "--force", "-y"]).output();
        }
        for pid in self.qemu_pids() {
            kill(pid);
        }
    }
}

/// Sends SIGKILL to a process; one that has ended is fine.
pub fn kill(pid: u32) {
    signal(pid, rustix::process::Signal::KILL);
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // It fails only where the process has ended.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn with_json<S: AsRef<OsStr>>(arguments: &[S]) -> Vec<&OsStr> {
    // Before all others: behind `--` it would be QEMU's.
    [OsStr::new("--json")].into_iter().chain(arguments.iter().map(AsRef::as_ref)).collect()
}

fn collect_files(folder: &Path, files: &mut Vec<(PathBuf, u64)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => collect_files(&path, files),
            Ok(metadata) if metadata.is_file() => files.push((path, metadata.len())),
            _ => {}
        }
    }
}

/// Shows what the VMs' QEMUs and guests said last, on standard error like the panic's message.
#[expect(clippy::print_stderr, reason = "the report of a failed test")]
fn show_logs(root: &Path) {
    const SHOWN_LINES: usize = 20;
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join("vms")).into_iter().flatten().flatten() {
        collect_files(&entry.path().join("run").canonicalize().unwrap_or_default(), &mut files);
    }
    // The log of the QEMU before, too: a restore that began anew has one.
    let is_log = |path: &Path| path.to_string_lossy().contains(".log");
    for (path, _) in files.iter().filter(|(path, _)| is_log(path)) {
        let text = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n  ");
        eprintln!("{}:\n  {last}", path.display());
    }
}

/// The value, or a panic that says what could not be done and why.
#[track_caller]
pub(crate) fn must<T, E: std::fmt::Display>(what: &str, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("cannot {what}: {error}"),
    }
}
