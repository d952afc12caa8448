//! A run of the program that stops itself at a step of its operation, so that it, or QEMU, can be killed right there.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::run::{Background, Run};
use super::{Rig, must, signal};

/// How long a run may take to get to its step.
const PATIENCE: Duration = Duration::from_secs(120);

/// A run that stands still at a step.
#[derive(Debug)]
pub struct Stopped(Background);

impl Rig {
    /// Starts the program and waits until it stands still at `step` (one of the engine's, as `disks-switched`).
    ///
    /// # Panics
    /// Where it ends or goes on past that step.
    #[track_caller]
    pub fn stop_at<S: AsRef<OsStr>>(&self, step: &str, arguments: &[S]) -> Stopped {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command.env("VMREWIND_TEST_STOP_AT", step);
        let mut run = Background::new(arguments, must("start the program", command.spawn()));
        let deadline = Instant::now() + PATIENCE;
        while !stands_still(run.pid()) {
            if !run.is_running() {
                panic!("it ended before step '{step}': {}", run.wait(Duration::from_secs(5)));
            }
            assert!(Instant::now() < deadline, "step '{step}' was not reached");
            std::thread::sleep(Duration::from_millis(1));
        }
        Stopped(run)
    }
}

impl Stopped {
    /// Kills it where it stands.
    pub fn kill(self) {
        // Dropping a run under way sends SIGKILL to it, and only to it.
        drop(self);
    }

    /// Interrupts it, as Ctrl-C does; it notices when it goes on.
    pub fn interrupt(&self) {
        self.0.interrupt();
    }

    /// Lets it go on, and waits for its end.
    #[track_caller]
    pub fn go_on(self, timeout: Duration) -> Run {
        signal(self.0.pid(), Signal::CONT);
        self.0.wait(timeout)
    }
}

/// Whether a process is stopped by a signal: state `T` in `/proc/PID/stat` (proc(5)).
fn stands_still(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}
