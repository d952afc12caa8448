//! The out-of-band monitor on a pair of named pipes, which the fake holds open at both ends as QEMU does
//! (`chardev/char-pipe.c`): its clients come and go, and it never sees an end.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::greeting;
use super::{Inner, Shared, postcopy, serve};

/// How often a wait for a command looks whether the fake is dead.
const TICK: Duration = Duration::from_millis(1);

/// Serves the pipes until the fake dies.
pub(super) fn serve(shared: &Arc<Shared>, path: &Path) -> io::Result<()> {
    let open = |end: &str| {
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        File::options().read(true).write(true).custom_flags(flags).open(path.with_extension(end))
    };
    let (mut commands, answers) = (open("in")?, open("out")?);
    let mut inner = shared.lock();
    inner.pipe = Some(answers);
    send(&mut inner, &greeting());
    drop(inner);
    let shared = Arc::clone(shared);
    thread::Builder::new().name("fake-pipes".into()).spawn(move || {
        let mut pending = Vec::new();
        let mut chunk = [0; 4096];
        while !shared.lock().dead {
            match commands.read(&mut chunk) {
                Ok(count) if count > 0 => pending.extend_from_slice(&chunk[..count]),
                _ => thread::sleep(TICK),
            }
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                answer(&shared, &line);
            }
        }
    })?;
    Ok(())
}

/// Sends one message. What a full pipe does not take is lost, as QEMU's events are to whoever does not read them.
pub(super) fn send(inner: &mut Inner, message: &Value) {
    if let Some(pipe) = &mut inner.pipe {
        let _ = pipe.write_all(format!("{message}\r\n").as_bytes());
    }
}

fn answer(shared: &Arc<Shared>, line: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Value>(line) else { return };
    let reply = match request.get("exec-oob").and_then(Value::as_str) {
        Some("migrate-recover") => Some(recover(shared, &request)),
        Some(other) => Some(serve::refusal(&format!("The command {other} does not support OOB"))),
        None => serve::carry_out(shared, &request),
    };
    let Some(mut reply) = reply else { return };
    if let (Some(id), Some(fields)) = (request.get("id"), reply.as_object_mut()) {
        fields.insert("id".into(), id.clone());
    }
    send(&mut shared.lock(), &reply);
}

fn recover(shared: &Arc<Shared>, request: &Value) -> Value {
    let uri = request.pointer("/arguments/uri").and_then(Value::as_str).unwrap_or_default();
    match uri.strip_prefix("unix:").map(|socket| postcopy::recover(shared, Path::new(socket))) {
        Some(Ok(())) => json!({"return": {}}),
        Some(Err(why)) => serve::refusal(&why),
        None => serve::refusal("unknown migration protocol"),
    }
}
