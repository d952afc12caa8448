//! The guest agent's client against a scripted agent: a guest may send anything, and late.

use std::time::Duration;

use serde_json::{Value, json};
use vmrewind_qemu::qmp::agent::{
    AgentSession, FsfreezeStatus, GuestFsfreezeFreeze, GuestFsfreezeStatus, GuestFsfreezeThaw, GuestPing,
    GuestSetTime,
};
use vmrewind_qemu::qmp::{AgentClient, QmpError, SessionError};
use vmrewind_testkit::fake_qemu::{FakeQemu, Step};

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);
const FIRST_SYNC: u32 = 7000;

fn play(script: Vec<Step>) -> (FakeQemu, AgentClient) {
    let fake = FakeQemu::play(script).unwrap();
    let client = AgentClient::connect(&fake.socket(), FIRST_SYNC, LONG).unwrap();
    (fake, client)
}

fn synced(number: u32) -> Step {
    Step::Send(format!("\u{0}{{\"return\": {number}}}\n").into_bytes().into_iter().map(delimiter).collect())
}

/// Stands in for 0xff, which no Rust string can hold.
fn delimiter(byte: u8) -> u8 {
    if byte == 0 { 0xff } else { byte }
}

/// Freeze, status, thaw, clock: one sync, then commands with their arguments and no ids.
#[test]
fn a_quiesced_snapshot_talks_like_this() {
    let (fake, mut agent) = play(vec![
        Step::Expect("guest-sync-delimited"),
        synced(FIRST_SYNC),
        Step::Expect("guest-fsfreeze-freeze"),
        Step::Dribble(b"{\"return\": 3}\n".to_vec()),
        Step::Expect("guest-fsfreeze-status"),
        Step::Return(json!("frozen")),
        Step::Expect("guest-fsfreeze-thaw"),
        Step::Return(json!(3)),
        Step::Expect("guest-set-time"),
        Step::Return(json!({})),
    ]);
    assert_eq!(agent.execute(&GuestFsfreezeFreeze, LONG).unwrap(), 3);
    assert_eq!(agent.execute(&GuestFsfreezeStatus, LONG).unwrap(), FsfreezeStatus::Frozen);
    assert_eq!(agent.execute(&GuestFsfreezeThaw, LONG).unwrap(), 3);
    agent.execute(&GuestSetTime { time: 1_700_000_000_000_000_000 }, LONG).unwrap();
    let requests = fake.finish().unwrap();
    assert_eq!(requests[0], json!({"execute": "guest-sync-delimited", "arguments": {"id": FIRST_SYNC}}));
    assert_eq!(requests[1], json!({"execute": "guest-fsfreeze-freeze"}));
    assert_eq!(requests[4]["arguments"], json!({"time": 1_700_000_000_000_000_000_i64}));
}

/// What an earlier client left in the channel, its sync replies included, is looked past.
#[test]
fn stale_bytes_are_looked_past() {
    let (_fake, mut agent) = play(vec![
        Step::Send(b"{\"return\": {}}\n{\"half\": ".to_vec()),
        synced(FIRST_SYNC - 1),
        Step::Expect("guest-sync-delimited"),
        Step::Send(
            b"\xff\xff{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\n".to_vec(),
        ),
        synced(FIRST_SYNC),
        Step::Expect("guest-ping"),
        Step::Return(json!({})),
    ]);
    agent.execute(&GuestPing, LONG).unwrap();
}

/// The case that would leave a guest frozen: freeze answers too late, and thaw must not take that for its own answer.
#[test]
fn thaw_works_after_a_freeze_that_took_too_long() {
    let (_fake, mut agent) = play(vec![
        Step::Expect("guest-sync-delimited"),
        synced(FIRST_SYNC),
        Step::Expect("guest-ping"),
        Step::Return(json!({})),
        Step::Expect("guest-fsfreeze-freeze"),
        Step::Expect("guest-sync-delimited"),
        Step::Send(b"{\"return\": 99}\n".to_vec()),
        synced(FIRST_SYNC + 1),
        Step::Expect("guest-fsfreeze-thaw"),
        Step::Return(json!(2)),
    ]);
    // So that the short time is for the freeze alone.
    agent.execute(&GuestPing, LONG).unwrap();
    let error = agent.execute(&GuestFsfreezeFreeze, SHORT).unwrap_err();
    assert!(matches!(error, QmpError::Deadline { doing, .. } if doing == "guest-fsfreeze-freeze"));
    assert_eq!(agent.execute(&GuestFsfreezeThaw, LONG).unwrap(), 2);
}

/// Without an agent in the guest the channel is open and silent.
#[test]
fn no_agent_is_a_deadline() {
    let (_fake, mut agent) = play(vec![Step::Silence]);
    let error = agent.execute(&GuestPing, SHORT).unwrap_err();
    assert!(matches!(error, QmpError::Deadline { doing, .. } if doing == "guest-sync-delimited"));
}

/// Refusals keep the agent's words; QEMU's end and rubbish are told apart.
#[test]
fn faults_are_typed() {
    let after_sync = |steps: Vec<Step>| {
        let mut script =
            vec![Step::Expect("guest-sync-delimited"), synced(FIRST_SYNC), Step::Expect("guest-ping")];
        script.extend(steps);
        let (_fake, mut agent) = play(script);
        agent.execute(&GuestPing, LONG).unwrap_err()
    };
    let refused = after_sync(vec![Step::Fail { class: "CommandNotFound", desc: "disabled" }]);
    assert_eq!(refused.refusal().unwrap().class, "CommandNotFound");
    assert!(after_sync(vec![]).is_gone());
    let half = after_sync(vec![Step::Send(b"{\"ret".to_vec())]);
    assert!(matches!(half, QmpError::Lost { source: SessionError::HalfLine { bytes: 5 }, .. }), "{half}");
    let rubbish = after_sync(vec![Step::Send(b"login: \n".to_vec()), Step::Silence]);
    assert!(matches!(rubbish, QmpError::Lost { source: SessionError::Malformed { .. }, .. }), "{rubbish}");
    let endless = after_sync(vec![Step::Send(vec![b'x'; (1 << 20) + 1]), Step::Silence]);
    assert!(matches!(endless, QmpError::Lost { source: SessionError::LineTooLong { .. }, .. }), "{endless}");
}

/// A request without a sync could get another client's answer.
#[test]
fn a_request_needs_a_sync() {
    let mut session = AgentSession::default();
    assert!(matches!(session.request("guest-ping", &Value::Null), Err(SessionError::NotReady)));
    let bytes = session.sync(5);
    assert_eq!(bytes[0], 0xff);
    assert!(!session.is_synced());
    // Every byte alone: the delimiter and the line are found across any split.
    for byte in b"rest\xff{\"return\": 5}\n" {
        assert!(!session.is_synced());
        session.receive(&[*byte]);
        session.poll().unwrap();
    }
    assert!(session.is_synced());
    assert!(session.request("guest-ping", &Value::Null).is_ok());
    session.give_up();
    assert!(!session.is_synced());
}
