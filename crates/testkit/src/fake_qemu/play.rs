//! Plays a script on a connection: every wait looks at the stop flag, so that none is for ever.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Step, greeting};

/// How often a wait looks at the stop flag.
const TICK: Duration = Duration::from_millis(5);

pub(super) struct Player {
    stream: UnixStream,
    stop: Arc<AtomicBool>,
    buffer: Vec<u8>,
    requests: Vec<Value>,
    /// The time stamp of the next event.
    seconds: i64,
}

impl Player {
    /// Waits for a client.
    pub(super) fn accept(listener: &UnixListener, stop: Arc<AtomicBool>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => pause(&stop, TICK)?,
                Err(error) => return Err(error),
            }
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(TICK))?;
        Ok(Self { stream, stop, buffer: Vec::new(), requests: Vec::new(), seconds: 1_700_000_000 })
    }

    /// Plays all steps; gives the requests that came.
    pub(super) fn play(mut self, script: Vec<Step>) -> io::Result<Vec<Value>> {
        for step in script {
            self.step(step)?;
        }
        Ok(self.requests)
    }

    fn step(&mut self, step: Step) -> io::Result<()> {
        match step {
            Step::Greet => self.send_message(&greeting()),
            Step::Negotiate => {
                self.send_message(&greeting())?;
                self.expect("qmp_capabilities")?;
                self.reply("return", &json!({}))
            }
            Step::Expect(command) => self.expect(command),
            Step::Return(value) => self.reply("return", &value),
            Step::Fail { class, desc } => self.reply("error", &json!({"class": class, "desc": desc})),
            Step::Event { name, data } => self.event(name, &data),
            Step::Flood(count) => {
                (0..count).try_for_each(|number| self.event("FLOOD", &json!({ "number": number })))
            }
            Step::Send(bytes) => self.send(&bytes),
            Step::Dribble(bytes) => bytes.chunks(1).try_for_each(|byte| self.send(byte)),
            Step::Pause(time) => pause(&self.stop, time),
            Step::Silence => self.drain(),
        }
    }

    fn expect(&mut self, command: &'static str) -> io::Result<()> {
        let line = self.read_line()?;
        // Guest agent clients put a delimiter before the line that synchronises.
        let line = line.strip_prefix(b"\xff").unwrap_or(&line);
        let request: Value = serde_json::from_slice(line)?;
        let came = request.get("execute").and_then(Value::as_str).unwrap_or("no command");
        if came != command {
            return Err(io::Error::other(format!("expected {command}, got {came}")));
        }
        self.requests.push(request);
        Ok(())
    }

    fn reply(&mut self, key: &str, value: &Value) -> io::Result<()> {
        let id = self.requests.last().and_then(|request| request.get("id")).cloned();
        let mut message = json!({ key: value });
        if let (Some(id), Some(fields)) = (id, message.as_object_mut()) {
            fields.insert("id".to_owned(), id);
        }
        self.send_message(&message)
    }

    fn event(&mut self, name: &str, data: &Value) -> io::Result<()> {
        let timestamp = json!({"seconds": self.seconds, "microseconds": 0});
        self.seconds += 1;
        self.send_message(&json!({"timestamp": timestamp, "event": name, "data": data}))
    }

    fn send_message(&mut self, message: &Value) -> io::Result<()> {
        self.send(format!("{message}\r\n").as_bytes())
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if is_tick(&error) => check(&self.stop)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Ok(self.buffer.drain(..=end).collect());
            }
            if self.read_some()? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client closed"));
            }
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        while self.read_some()? > 0 {
            self.buffer.clear();
        }
        Ok(())
    }

    fn read_some(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(count) => {
                    self.buffer.extend_from_slice(chunk.get(..count).unwrap_or_default());
                    return Ok(count);
                }
                Err(error) if is_tick(&error) => check(&self.stop)?,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn check(stop: &AtomicBool) -> io::Result<()> {
    if stop.load(Ordering::Acquire) {
        return Err(io::Error::other("the script was stopped"));
    }
    Ok(())
}

fn pause(stop: &AtomicBool, mut left: Duration) -> io::Result<()> {
    while !left.is_zero() {
        check(stop)?;
        let part = left.min(TICK);
        thread::sleep(part);
        left -= part;
    }
    check(stop)
}
