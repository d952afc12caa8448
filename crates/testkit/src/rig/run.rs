//! One run of the program under test: what it printed and how it ended.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Output};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::{must, signal};

/// A run that has ended.
#[derive(Debug, Clone)]
pub struct Run {
    /// What was run, for messages.
    pub arguments: String,
    /// The exit status; -N where signal N ended it.
    pub status: i32,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

impl Run {
    pub(super) fn new<S: AsRef<OsStr>>(arguments: &[S], output: &Output) -> Self {
        Self {
            arguments: words(arguments),
            status: status_number(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The one JSON document on standard output.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("standard output is no JSON document ({error}): {self}"))
    }

    /// The error that a failed run with `--json` printed, checked to have the product's form.
    #[track_caller]
    pub fn error(&self) -> Value {
        let documents = self.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let error = documents.filter_map(|mut line| line.get_mut("error").map(Value::take)).next_back();
        let error = error.unwrap_or_else(|| panic!("no error is printed: {self}"));
        let sound = error["kind"].is_string()
            && error["message"].as_str().is_some_and(|message| !message.is_empty())
            && (error["hint"].is_null() || error["hint"].is_string())
            && error["causes"].is_array();
        assert!(sound, "the error has not the product's form: {self}");
        error
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { arguments, status, stdout, stderr } = self;
        write!(
            f,
            "vmrewind {arguments}\n  ended with {status}\n  stdout: {}\n  stderr: {}",
            stdout.trim(),
            stderr.trim()
        )
    }
}

/// A run under way; killed when dropped.
#[derive(Debug)]
pub struct Background {
    arguments: String,
    child: Child,
    readers: Vec<JoinHandle<Vec<u8>>>,
}

impl Background {
    pub(super) fn new<S: AsRef<OsStr>>(arguments: &[S], mut child: Child) -> Self {
        let readers = vec![read_in_background(child.stdout.take()), read_in_background(child.stderr.take())];
        Self { arguments: words(arguments), child, readers }
    }

    /// The process, which leads a process group of its own.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still under way.
    #[track_caller]
    pub fn is_running(&mut self) -> bool {
        must("look at the program", self.child.try_wait()).is_none()
    }

    /// Makes it stand still, wherever it is.
    pub fn hold(&self) {
        signal(self.pid(), Signal::STOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        signal(self.pid(), Signal::CONT);
    }

    /// Interrupts it, as Ctrl-C does.
    pub fn interrupt(&self) {
        signal(self.pid(), Signal::INT);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self, timeout: Duration) -> Run {
        let deadline = Instant::now() + timeout;
        let status = loop {
            if let Some(status) = must("wait for the program", self.child.try_wait()) {
                break status;
            }
            assert!(Instant::now() < deadline, "`vmrewind {}` did not end in {timeout:?}", self.arguments);
            thread::sleep(Duration::from_millis(2));
        };
        let mut outputs = self.readers.drain(..).map(|reader| reader.join().unwrap_or_default());
        let mut next = || String::from_utf8_lossy(&outputs.next().unwrap_or_default()).into_owned();
        let (stdout, stderr) = (next(), next());
        drop(outputs);
        Run { arguments: self.arguments.clone(), status: status_number(status), stdout, stderr }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_in_background(stream: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // A read that fails ends the output, like its end.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn status_number(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| -status.signal().unwrap_or(0))
}

fn words<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ")
}
