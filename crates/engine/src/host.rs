//! What the engine is given by the process it is in: clock, randomness, the helper program.
//!
//! Nothing in the engine reads the time of day or makes an id by itself, so that tests can fix both. What belongs to one
//! operation is in [`crate::context`].

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use vmrewind_files::Disk;

use crate::error::{Context as _, Result};
use crate::patience::Patience;

/// Tells the time, and lets it pass.
pub trait Clock: Send + Sync {
    /// The present instant, UTC: what is written down. It can be set back.
    fn now(&self) -> jiff::Timestamp;

    /// The time since some instant of this process: what durations and deadlines are measured by. It never goes back.
    fn monotonic(&self) -> Duration;

    /// Returns when `duration` has passed.
    fn sleep(&self, duration: Duration);
}

/// Makes random bytes for ids.
pub trait Random: Send + Sync {
    /// Fills `bytes` with unpredictable ones.
    fn fill(&self, bytes: &mut [u8]);
}

/// Hears which step of an operation was just done. Nothing depends on it: tests use it to stop an operation there.
pub trait Steps: Send + Sync {
    /// The step of that name is done; the next has not begun.
    fn reached(&self, step: &'static str);
}

/// The program that is started as `HELPER __pause-guard ...`: the binary `vmrewind`, held open.
///
/// By descriptor and not by path: an upgrade replaces or removes the file under a process that lives on, and a helper of
/// another version might not understand it.
#[derive(Debug, Clone)]
pub struct Helper {
    program: Arc<File>,
    /// What it is given before our own arguments.
    first: Arc<[String]>,
}

impl Helper {
    /// The program that this process runs, even where its file was replaced or removed since.
    ///
    /// # Errors
    /// `Failed` where /proc does not give it.
    pub fn this_program() -> Result<Self> {
        Self::open(Path::new("/proc/self/exe"))
    }

    /// The program in a file.
    ///
    /// # Errors
    /// `Failed` where it can't be opened.
    pub fn open(program: &Path) -> Result<Self> {
        let file =
            File::open(program).context(|| format!("cannot open the program '{}'", program.display()))?;
        Ok(Self { program: Arc::new(file), first: Arc::from([]) })
    }

    /// A shell that runs `script`, in which `$0` is the subcommand.
    #[cfg(test)]
    pub(crate) fn shell(script: &str) -> Self {
        let shell = Self::open(Path::new("/bin/sh")).unwrap();
        Self { first: Arc::from(["-c".to_owned(), script.to_owned()]), ..shell }
    }

    /// The test program that runs already, of whose tests one is run.
    #[cfg(test)]
    pub(crate) fn this_test(name: &str) -> Self {
        let program = Self::this_program().unwrap();
        Self {
            first: Arc::from(["--exact".to_owned(), name.to_owned(), "--nocapture".to_owned()]),
            ..program
        }
    }

    /// A command that runs it. The child opens the descriptor by its own /proc entry before `exec` closes it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        // What `ps` shows; the path would say nothing to a person.
        command.arg0("vmrewind").args(&*self.first);
        command
    }
}

/// Everything ambient that the engine uses, shared by all operations of the process.
#[derive(Clone)]
pub struct Host {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids.
    pub random: Arc<dyn Random>,
    /// What makes the root's files last.
    pub disk: Arc<dyn Disk>,
    /// The program that watches over pauses and serves memory, as a process of its own.
    pub helper: Helper,
    /// How long VMs are waited for.
    pub patience: Patience,
    /// Hears of steps, in tests.
    pub steps: Option<Arc<dyn Steps>>,
}

impl Host {
    /// Makes `N` random bytes, written in lower-case hex.
    pub(crate) fn random_hex<const N: usize>(&self) -> String {
        let mut bytes = [0_u8; N];
        self.random.fill(&mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Makes a UUID.
    pub(crate) fn random_uuid(&self) -> String {
        let hex = self.random_hex::<16>();
        // Version 4, variant 1 (RFC 9562): the digits that say so are fixed.
        format!("{}-{}-4{}-a{}-{}", &hex[0..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
    }

    /// Makes a MAC address of those that QEMU's VMs have.
    pub(crate) fn random_mac(&self) -> String {
        let hex = self.random_hex::<3>();
        format!("52:54:00:{}:{}:{}", &hex[0..2], &hex[2..4], &hex[4..6])
    }
}
