//! Runs QEMU without vmrewind: for smoke tests of the guest, and for what vmrewind is measured against.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::console::Console;
use crate::error::{Error, Result};

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A running QEMU with a QMP connection; it is killed when this is dropped, or when the thread that started it ends.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    qmp: BufReader<UnixStream>,
    qmp_writer: UnixStream,
    run: PathBuf,
}

/// Starts the QEMU of `command_line`, with `{run}` replaced by the folder `run` and a QMP socket added.
///
/// What QEMU writes to standard error is in `{run}/qemu.err`, and in the error where it doesn't start.
pub fn spawn(command_line: &[String], run: &Path) -> Result<Qemu> {
    let errors = run.join("qemu.err");
    let stderr = File::create(&errors).map_err(Error::io("create", &errors))?;
    let socket = run.join("qmp.sock");
    // A socket left by an earlier QEMU would be connected to, and refuse.
    let _ = std::fs::remove_file(&socket);
    let folder = run.display().to_string();
    let line: Vec<String> = command_line.iter().map(|word| word.replace("{run}", &folder)).collect();
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .args(&line)
        .args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(|source| Error::Start { program: line.first().cloned().unwrap_or_default(), source })?;
    let connected = connect(&mut child, &socket, &errors);
    let stream = connected.inspect_err(|_| kill(&mut child))?;
    let qmp_writer = stream.try_clone().map_err(Error::io("clone", &socket))?;
    let mut qemu = Qemu { child, qmp: BufReader::new(stream), qmp_writer, run: run.into() };
    qemu.qmp("qmp_capabilities", &json!({}))?;
    Ok(qemu)
}

impl Qemu {
    /// Process id of QEMU.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Attaches to the serial console of a guest started with [`crate::guest::command_line`].
    pub fn console(&self) -> Console {
        Console::attach(&self.run.join("console.sock"))
    }

    /// Runs a QMP command and returns what it returned; events on the way are passed over.
    pub fn qmp(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        let socket = self.run.join("qmp.sock");
        self.qmp_writer
            .write_all(format!("{request}\n").as_bytes())
            .map_err(Error::io("write to", &socket))?;
        self.read_qmp(command, |message| {
            message.get("return").or_else(|| message.get("error")).cloned().zip(Some(message))
        })
        .and_then(|(value, message)| match message.get("error") {
            Some(_) => Err(Error::Answer { to: command.to_owned(), answer: value.to_string() }),
            None => Ok(value),
        })
    }

    /// Waits for an event of which `matcher` is true, among those that no command has passed over.
    pub fn wait_event(&mut self, matcher: impl Fn(&Value) -> bool) -> Result<Value> {
        self.read_qmp("event", |message| {
            (message.get("event").is_some() && matcher(&message)).then_some(message)
        })
    }

    /// Waits for QEMU to end by itself, and kills it if it hasn't within `timeout`.
    pub fn wait_exit(mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait().map_err(Error::io("wait for QEMU in", &self.run))? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                let what = "end of QEMU".to_owned();
                return Err(Error::Timeout { what, waited: timeout, seen: 0, last: String::new() });
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn read_qmp<T>(&mut self, to: &str, mut pick: impl FnMut(Value) -> Option<T>) -> Result<T> {
        loop {
            let mut line = String::new();
            let length = self.qmp.read_line(&mut line).map_err(Error::io("read QMP of", &self.run))?;
            let message = serde_json::from_str(&line).ok().filter(|_| length > 0);
            let Some(message) = message else {
                return Err(Error::Answer { to: to.to_owned(), answer: line });
            };
            if let Some(picked) = pick(message) {
                return Ok(picked);
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

fn kill(child: &mut Child) {
    // Both fail only where it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

fn connect(child: &mut Child, socket: &Path, errors: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            stream.set_read_timeout(Some(Duration::from_secs(300))).map_err(Error::io("set up", socket))?;
            return Ok(stream);
        }
        if let Some(status) = child.try_wait().map_err(Error::io("wait for QEMU at", socket))? {
            let stderr = std::fs::read_to_string(errors).unwrap_or_default().trim().to_owned();
            return Err(Error::Failed { program: "QEMU".into(), status, stderr });
        }
        if Instant::now() >= deadline {
            let what = "QMP socket of QEMU".to_owned();
            return Err(Error::Timeout { what, waited: START_TIMEOUT, seen: 0, last: String::new() });
        }
        thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards error reports: QEMU's own words are what tells why it didn't start.
    #[test]
    fn a_refused_command_line_shows_what_qemu_said() {
        let folder = tempfile::tempdir().unwrap();
        let line = ["qemu-system-x86_64", "-machine", "no-such-machine"].map(String::from);
        let error = spawn(&line, folder.path()).unwrap_err().to_string();
        assert!(error.contains("no-such-machine"), "{error}");
    }
}
