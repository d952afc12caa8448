//! What a guard did, as one line for people or one document for programs.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use vmrewind_engine::{Address, RestoreView};

use super::job::End;
use crate::commands::snapshot::restore::describe;
use crate::output::Output;
use crate::output::human::{duration_ms, printable};

/// What became of the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// All went well; it is there.
    Kept,
    /// All went well, or nothing was run; it is gone.
    Dropped,
    /// All went well, and the command itself, or somebody else, has deleted or renamed it.
    Gone,
    /// The VM is back at it.
    Restored,
}

/// Why the VM was brought back, or nothing was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Why {
    CommandFailed,
    CheckFailed,
    TimedOut,
    Interrupted,
    NotRun,
}

impl Why {
    /// Why a command that ended so failed, if it did.
    pub(super) fn of(end: End) -> Option<Self> {
        match end {
            End::Status(0) => None,
            End::Status(_) | End::Signal(_) => Some(Self::CommandFailed),
            End::TimedOut => Some(Self::TimedOut),
            End::Interrupted => Some(Self::Interrupted),
        }
    }

    /// The same, of a check.
    pub(super) fn of_check(self) -> Self {
        if self == Self::CommandFailed { Self::CheckFailed } else { self }
    }
}

/// A run that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ran {
    pub(super) end: End,
    pub(super) took: Duration,
}

/// A command, and how it ended: `status` or `signal`, or neither where it was not run or ended by us.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    words: Vec<String>,
    status: Option<i32>,
    signal: Option<i32>,
    total_ms: Option<f64>,
}

impl Told {
    fn new(words: &[OsString]) -> Self {
        let words = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Self { words, status: None, signal: None, total_ms: None }
    }

    pub(super) fn ran(&mut self, ran: &Ran) {
        match ran.end {
            End::Status(status) => self.status = Some(status),
            End::Signal(signal) => self.signal = Some(signal),
            End::TimedOut | End::Interrupted => {}
        }
        self.total_ms = Some(milliseconds(ran.took));
    }

    /// `ended with status 3`.
    fn end(&self) -> String {
        match (self.status, self.signal) {
            (Some(status), _) => format!("ended with status {status}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "was ended".into(),
        }
    }
}

/// What was done.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    vm: String,
    snapshot: String,
    pub(super) outcome: Outcome,
    why: Option<Why>,
    pub(super) exit_status: u8,
    pub(super) command: Told,
    check: Option<Told>,
    restore: Option<RestoreView>,
    /// Without making the snapshot.
    total_ms: f64,
    #[serde(skip)]
    error: Option<String>,
}

impl Done {
    /// Before anything was run.
    pub(super) fn new(address: &Address, words: &[OsString]) -> Self {
        Self {
            vm: address.vm.to_string(),
            snapshot: address.snapshot.to_string(),
            outcome: Outcome::Kept,
            why: None,
            exit_status: 0,
            command: Told::new(words),
            check: None,
            restore: None,
            total_ms: 0.0,
            error: None,
        }
    }

    /// The check was run.
    pub(super) fn checked(&mut self, check: &OsStr, ran: &Ran) {
        let mut told = Told::new(&[check.to_owned()]);
        told.ran(ran);
        self.check = Some(told);
    }

    /// The VM was brought back.
    pub(super) fn failed(&mut self, why: Why, restore: RestoreView) {
        (self.outcome, self.why, self.restore) = (Outcome::Restored, Some(why), Some(restore));
    }

    /// The command could not be started.
    pub(super) fn not_run(&mut self, error: &io::Error, outcome: Outcome) {
        (self.outcome, self.why) = (outcome, Some(Why::NotRun));
        self.exit_status = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
        self.error = Some(error.to_string());
    }

    pub(super) fn finish(&mut self, took: Duration) {
        self.total_ms = milliseconds(took);
    }

    /// Prints it: the document on standard output, or the words on standard error, as standard output is the command's.
    ///
    /// # Errors
    /// Where standard output takes no more.
    pub(super) fn print(&self, output: &Output) -> io::Result<()> {
        if output.is_json() {
            return output.result(self, String::new);
        }
        // A closed standard error does not undo what was done; the exit status is there.
        let _ = writeln!(io::stderr(), "{}", self.text());
        Ok(())
    }

    fn text(&self) -> String {
        let Self { vm, snapshot, .. } = self;
        let what = match (self.why, &self.check) {
            (None, None) => "the command succeeded".to_owned(),
            (None, Some(_)) => "the command and the check succeeded".to_owned(),
            (Some(Why::CommandFailed), _) => format!("the command {}", self.command.end()),
            (Some(Why::CheckFailed), Some(check)) => format!("the check {}", check.end()),
            (Some(Why::CheckFailed), None) => "the check failed".to_owned(),
            (Some(Why::TimedOut), check) => {
                let told = check.as_ref().unwrap_or(&self.command);
                let name = if check.is_some() { "check" } else { "command" };
                format!("the {name} took too long ({})", duration_ms(told.total_ms.unwrap_or_default()))
            }
            (Some(Why::Interrupted), _) => "interrupted".to_owned(),
            (Some(Why::NotRun), _) => {
                let program = self.command.words.first().map(String::as_str).unwrap_or_default();
                let error = self.error.as_deref().unwrap_or_default();
                format!("'{}' can't be run ({}), nothing was done", printable(program), printable(error))
            }
        };
        match (&self.outcome, &self.restore) {
            (Outcome::Restored, Some(restore)) => format!("guard: {what}; {}", describe(restore)),
            (Outcome::Dropped, _) => format!("guard: {what}; {vm}@{snapshot} is dropped"),
            (Outcome::Gone, _) => format!("guard: {what}; {vm}@{snapshot} was deleted or renamed meanwhile"),
            _ => format!("guard: {what}; {vm}@{snapshot} is kept"),
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
