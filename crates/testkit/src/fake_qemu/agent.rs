//! A guest agent on a socket: it answers each command as it was told to, to one client after the other, whoever comes.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

/// What it says to a command.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Success.
    Return(Value),
    /// An error, described so.
    Fail(&'static str),
    /// Success, after a while.
    Late(Duration, Value),
    /// Nothing.
    Silence,
    /// These bytes, which are no answer.
    Garbage(&'static [u8]),
    /// The end of the connection.
    Close,
}

/// What it says to which command; any other it does not know. It always synchronises.
pub type Answers = HashMap<&'static str, Answer>;

/// A running agent; dropping it ends it.
#[derive(Debug)]
pub struct FakeAgent {
    stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<Value>>>,
    thread: Option<JoinHandle<()>>,
}

const TICK: Duration = Duration::from_millis(2);

impl FakeAgent {
    /// Listens on a socket.
    ///
    /// # Errors
    /// When the socket or the thread cannot be made.
    pub fn start(socket: &Path, answers: Answers) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let serving = Serving { stop: Arc::clone(&stop), asked: Arc::clone(&asked), answers };
        let serve = move || {
            while !serving.is_over() {
                match listener.accept() {
                    // A client that goes away is no concern of the agent's.
                    Ok((client, _)) => drop(serving.serve(client)),
                    Err(_) => thread::sleep(TICK),
                }
            }
        };
        let thread = thread::Builder::new().name("fake-agent".into()).spawn(serve)?;
        Ok(Self { stop, asked, thread: Some(thread) })
    }

    /// What it was asked by now, but for the synchronising.
    pub fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Serving {
    stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<Value>>>,
    answers: Answers,
}

impl Serving {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn serve(&self, mut client: UnixStream) -> io::Result<()> {
        client.set_nonblocking(false)?;
        client.set_read_timeout(Some(TICK))?;
        let (mut pending, mut chunk) = (Vec::new(), [0; 4096]);
        while !self.is_over() {
            match client.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => pending.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                // Clients put a delimiter before the line that synchronises.
                let line = line.strip_prefix(b"\xff").unwrap_or(&line);
                if let Ok(request) = serde_json::from_slice(line)
                    && !self.answer(&mut client, &request)?
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Answers a request. Says whether the connection goes on.
    fn answer(&self, client: &mut UnixStream, request: &Value) -> io::Result<bool> {
        let command = request["execute"].as_str().unwrap_or_default();
        if command == "guest-sync-delimited" {
            client.write_all(b"\xff")?;
            return send(client, &json!({"return": request["arguments"]["id"]}));
        }
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        match self.answers.get(command) {
            Some(Answer::Return(value)) => send(client, &json!({ "return": value })),
            Some(Answer::Late(time, value)) => {
                thread::sleep(*time);
                send(client, &json!({ "return": value }))
            }
            Some(Answer::Fail(desc)) => {
                send(client, &json!({"error": {"class": "GenericError", "desc": desc}}))
            }
            Some(Answer::Silence) => Ok(true),
            Some(Answer::Garbage(bytes)) => client.write_all(bytes).map(|()| true),
            Some(Answer::Close) => Ok(false),
            None => {
                let desc = format!("The command {command} has not been found");
                send(client, &json!({"error": {"class": "CommandNotFound", "desc": desc}}))
            }
        }
    }
}

fn send(client: &mut UnixStream, message: &Value) -> io::Result<bool> {
    client.write_all(format!("{message}\n").as_bytes()).map(|()| true)
}
