//! What the fuzz targets `qmp` and `agent` check; their corpus is replayed by a test of the engine (`tests/corpus`).
//!
//! Asserts, so not for use outside of tests and fuzzing.

use serde_json::{Value, json};

use super::agent::{
    AgentReply, AgentSession, GuestExec, GuestExecStatus, GuestFsfreezeStatus, GuestGetTime, GuestPing,
};
use super::commands::{
    MigrationStatus, QueryChardev, QueryJobs, QueryKvm, QueryMemdev, QueryMigrate, QueryMigrateCapabilities,
    QueryMigrateParameters, QueryNamedBlockNodes, QueryStatus, from_reply,
};
use super::error::SessionError;
use super::session::{ConnectionId, Incoming, Session};

/// Requests that are made as soon as a session is ready: their numbers are 2 and up, and the last one is given up.
const REQUESTS: u64 = 8;
/// The connection of the corpus.
const CONNECTION: ConnectionId = ConnectionId(0);
/// The number that the agent of the corpus answers a sync with.
const SYNC: u32 = 7;

/// Checks that any bytes from QEMU are taken without a panic, and that their splitting makes no difference. Returns how many
/// messages there were.
///
/// # Panics
/// That does not hold, or a session goes on after it was over.
pub fn qmp(data: &[u8]) -> usize {
    let (whole, error) = session([data]);
    let (chunked, chunked_error) = session(data.chunks(step(data)));
    assert_eq!((&whole, error), (&chunked, chunked_error), "chunks give other messages");
    for message in &whole {
        match message {
            Incoming::Event(event) => drop(MigrationStatus::of_event(event)),
            Incoming::Reply { result: Ok(value), .. } => read_as_replies(value),
            _ => {}
        }
    }
    whole.len()
}

/// The same for bytes from a guest's agent. Returns how many replies there were, the sync included.
///
/// # Panics
/// As [`qmp`], or a reply comes before one to the sync.
pub fn agent(data: &[u8]) -> usize {
    let (whole, error) = agent_session([data]);
    let (chunked, chunked_error) = agent_session(data.chunks(step(data)));
    assert_eq!((&whole, error), (&chunked, chunked_error), "chunks give other replies");
    if let Some(first) = whole.first() {
        assert_eq!(first.as_ref().ok(), Some(&Value::from(SYNC)), "nothing is believed before the sync");
    }
    for value in whole.iter().skip(1).flatten() {
        let _ = from_reply::<GuestExec>(value.clone());
        let _ = from_reply::<GuestExecStatus>(value.clone());
        let _ = from_reply::<GuestFsfreezeStatus>(value.clone());
        let _ = from_reply::<GuestGetTime>(value.clone());
        let _ = from_reply::<GuestPing>(value.clone());
    }
    whole.len()
}

/// The length of the chunks, of which some cut words and some lines.
fn step(data: &[u8]) -> usize {
    data.iter().take(16).fold(1_usize, |sum, byte| sum * 31 % 127 + usize::from(*byte)).max(1)
}

fn session<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Incoming>, String) {
    let mut session = Session::new(CONNECTION);
    let mut messages = Vec::new();
    for chunk in chunks {
        session.receive(chunk);
        while let Some(message) = match session.poll() {
            Ok(message) => message,
            Err(error) => {
                let again = session.poll().expect_err("what is over stays over");
                assert_eq!(again.to_string(), error.to_string(), "the first error is final");
                return (messages, error.to_string());
            }
        } {
            if matches!(message, Incoming::Ready(_)) {
                make_requests(&mut session);
            }
            messages.push(message);
        }
    }
    (messages, session.end().to_string())
}

fn make_requests(session: &mut Session) {
    for number in 0..REQUESTS {
        let (id, line) = session.request("query-status", &Value::Null).expect("it is ready");
        assert!(line.ends_with(b"\n"), "a request is a line");
        if number + 1 == REQUESTS {
            session.give_up(id);
        }
    }
}

fn agent_session<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<AgentReply>, Option<String>) {
    let mut session = AgentSession::default();
    session.sync(SYNC);
    let mut replies = Vec::new();
    for chunk in chunks {
        session.receive(chunk);
        loop {
            match session.poll() {
                Ok(None) => break,
                Ok(Some(reply)) => {
                    replies.push(reply);
                    session.request("guest-ping", &json!({})).expect("a reply leaves the session idle");
                }
                Err(error) => return (replies, Some(said(&session, &error))),
            }
        }
    }
    (replies, None)
}

fn said(session: &AgentSession, error: &SessionError) -> String {
    assert!(!session.is_synced(), "after an error nothing is believed");
    error.to_string()
}

/// Takes `value` for the reply to each command that has one.
fn read_as_replies(value: &Value) {
    macro_rules! read {
        ($($command:ty),+) => { $(let _ = from_reply::<$command>(value.clone());)+ };
    }
    read!(
        QueryChardev,
        QueryJobs,
        QueryKvm,
        QueryMemdev,
        QueryMigrate,
        QueryMigrateCapabilities,
        QueryMigrateParameters,
        QueryNamedBlockNodes,
        QueryStatus
    );
}
