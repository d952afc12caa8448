//! A root of its own for each test, and runs of the binary in it.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A temporary folder with a root in it. VMs that still run are stopped when it goes.
pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
    runs: Cell<u32>,
}

/// What a run printed, and its exit status.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), runs: Cell::new(0) }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder().join("root")
    }

    /// A path in the folder, as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder().join(name).to_str().unwrap().to_owned()
    }

    /// The binary, ready to be given arguments.
    pub(crate) fn command(&self) -> Command {
        self.prepared(Path::new(env!("CARGO_BIN_EXE_vmrewind")))
    }

    /// Any program, in the environment that the binary is given.
    pub(crate) fn prepared(&self, program: &Path) -> Command {
        self.runs.set(self.runs.get() + 1);
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.folder())
            .env("TZ", "UTC")
            .env("TERM", "xterm")
            .env("COLUMNS", "100")
            .env("VMREWIND_ROOT", self.root())
            .env("VMREWIND_TEST_CLOCK", format!("2026-01-02T03:{:02}:05Z", self.runs.get()))
            .env("VMREWIND_TEST_SEED", format!("run {}", self.runs.get()))
            .current_dir(self.folder())
            .stdin(Stdio::null());
        command
    }

    /// Runs the binary with these arguments.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&self.command().args(arguments).output().unwrap())
    }

    /// Runs the binary, which must end well, and gives what it printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let run = self.run(arguments);
        assert_eq!(run.status, Some(0), "{arguments:?}: {run:?}");
        run.stdout
    }

    /// Runs the binary with `--json`, which must end well, and gives its document.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// Makes a disk image.
    pub(crate) fn disk(&self, name: &str) -> String {
        self.qemu_img(&["create", "-q", "-f", "qcow2", &self.path(name), "16M"]);
        self.path(name)
    }

    pub(crate) fn qemu_img(&self, arguments: &[&str]) {
        let output = self.prepared(Path::new("qemu-img")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Puts a small VM under management.
    pub(crate) fn vm(&self, name: &str) {
        let disk = self.disk(&format!("{name}.qcow2"));
        self.vm_with(name, &["-drive", &format!("file={disk},if=virtio")]);
    }

    /// Puts a small VM with these options under management.
    pub(crate) fn vm_with(&self, name: &str, options: &[&str]) {
        self.ok(&[&["vm", "create", name, "--"], QEMU, options].concat());
    }

    /// The only manifest of a VM.
    pub(crate) fn manifest(&self, vm: &str) -> PathBuf {
        let folder = self.root().join("vms").join(vm).join("snapshots");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }
}

/// A machine that starts fast and shows nothing.
pub(crate) const QEMU: &[&str] = &["qemu-system-x86_64", "-accel", "tcg", "-m", "32M", "-display", "none"];

impl Drop for Sandbox {
    fn drop(&mut self) {
        let Ok(entries) = std::fs::read_dir(self.root().join("vms")) else { return };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let _ = self.command().args(["vm", "stop", "--force", &name]).output();
        }
    }
}

impl Run {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout.clone()).unwrap(),
            stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    /// Asserts that it failed with this status, printed no result, and said all of `words`.
    #[track_caller]
    pub(crate) fn fails(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {self:?}");
        }
    }
}
