//! The monitors: one client at a time on each socket, one command at a time in all.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::greeting;
use super::state::Answer;
use super::{Fault, Shared, migrate, postcopy};

/// How often a wait for a client looks whether the fake is dead.
const TICK: Duration = Duration::from_millis(2);
/// How long a hang lasts at most, whatever the test forgot.
const LONGEST_HANG: Duration = Duration::from_secs(60);

/// Serves a socket until the fake dies.
pub(super) fn listen(shared: &Arc<Shared>, socket: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    listener.set_nonblocking(true)?;
    let shared = Arc::clone(shared);
    thread::Builder::new().name("fake-monitor".into()).spawn(move || {
        while !shared.lock().dead {
            match listener.accept() {
                // A client that goes away is no concern of QEMU's.
                Ok((client, _)) => drop(client.set_nonblocking(false).and_then(|()| serve(&shared, client))),
                Err(_) => thread::sleep(TICK),
            }
        }
    })?;
    Ok(())
}

/// Sends one message.
pub(super) fn send(client: &mut UnixStream, message: &Value) -> io::Result<()> {
    client.write_all(format!("{message}\r\n").as_bytes())
}

fn serve(shared: &Arc<Shared>, mut client: UnixStream) -> io::Result<()> {
    {
        // A main loop that hangs greets nobody.
        let _turn = shared.main_loop.lock().unwrap_or_else(PoisonError::into_inner);
        let mut inner = shared.lock();
        if inner.dead {
            return Ok(());
        }
        inner.clients.push(client.try_clone()?);
        let mut hello = greeting();
        let (major, minor) = inner.state.setup.version;
        hello["QMP"]["version"]["qemu"] = json!({"major": major, "minor": minor, "micro": 0});
        send(&mut client, &hello)?;
    }
    let mut lines = BufReader::new(client.try_clone()?).lines();
    while let Some(line) = lines.next().transpose()? {
        let request: Value = serde_json::from_str(&line)?;
        let Some(mut reply) = carry_out(shared, &request) else { break };
        if let (Some(id), Some(fields)) = (request.get("id"), reply.as_object_mut()) {
            fields.insert("id".into(), id.clone());
        }
        let ends = request.get("execute").is_some_and(|command| command == "quit");
        // Events and replies share the stream: whole lines only.
        let inner = shared.lock();
        let sent = send(&mut client, &reply);
        drop(inner);
        if ends && reply.get("return").is_some() {
            shared.die();
        }
        sent?;
    }
    Ok(())
}

/// Does what a request says, or fails as it was told to. Gives no reply where there is none to come.
pub(super) fn carry_out(shared: &Arc<Shared>, request: &Value) -> Option<Value> {
    let command = request.get("execute").and_then(Value::as_str).unwrap_or_default();
    let _turn = shared.main_loop.lock().unwrap_or_else(PoisonError::into_inner);
    let fault = {
        let mut inner = shared.lock();
        if inner.dead {
            return None;
        }
        let again = inner.commands.last().is_some_and(|last| last == command);
        inner.commands.push(command.to_owned());
        match &mut inner.trap {
            Some(trap) if again && !trap.counts_again => None,
            Some(trap) if trap.only.is_some_and(|only| only != command) => None,
            Some(trap) if trap.left > 0 => {
                trap.left -= 1;
                None
            }
            Some(trap) => {
                let fault = trap.fault;
                inner.trap = None;
                inner.sprung = true;
                inner.hangs = fault == Fault::Hangs;
                Some(fault)
            }
            None => None,
        }
    };
    match fault {
        Some(Fault::Dies) => {
            shared.die();
            return None;
        }
        Some(Fault::Hangs) => {
            shared.wait(LONGEST_HANG, |inner| !inner.hangs);
        }
        Some(Fault::Late(time)) => thread::sleep(time),
        Some(Fault::Refuses) => return Some(refusal("told to refuse")),
        Some(Fault::DiesAfter) | None => {}
    }
    let reply = execute(shared, command, request.get("arguments").unwrap_or(&Value::Null))?;
    if fault == Some(Fault::DiesAfter) {
        shared.die();
        return None;
    }
    Some(reply)
}

fn execute(shared: &Arc<Shared>, command: &str, arguments: &Value) -> Option<Value> {
    let mut inner = shared.lock();
    if inner.dead {
        return None;
    }
    let mut events = Vec::new();
    let reply = match inner.state.execute(command, arguments, &mut events) {
        Ok(Answer::Value(value)) => json!({ "return": value }),
        Ok(Answer::Migrate(socket)) => {
            migrate::begin(shared, &socket);
            json!({"return": {}})
        }
        Ok(Answer::Incoming(socket)) => {
            let postcopy = inner.state.has("postcopy-ram");
            let listens = if postcopy {
                postcopy::listen(shared, &mut inner, &socket)
            } else {
                migrate::listen(shared, &socket)
            };
            match listens {
                Ok(()) => json!({"return": {}}),
                Err(error) => refusal(&error.to_string()),
            }
        }
        Ok(Answer::PowerOff) => {
            let shared = Arc::clone(shared);
            thread::spawn(move || shared.die());
            json!({"return": {}})
        }
        Err(why) => refusal(&why),
    };
    shared.tell(&mut inner, events);
    Some(reply)
}

pub(super) fn refusal(why: &str) -> Value {
    json!({"error": {"class": "GenericError", "desc": why}})
}
