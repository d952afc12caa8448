//! The client against a scripted peer: each fault that a real QEMU can't be made to show, as its typed error.
//!
//! Timeouts here are either long (and must not be reached) or short (and must be); nothing asserts how long a thing took.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use vmrewind_qemu::qmp::commands::{QueryStatus, RunState, Stop};
use vmrewind_qemu::qmp::session::ConnectionId;
use vmrewind_qemu::qmp::{Client, QmpError, SessionError};
use vmrewind_testkit::fake_qemu::{FakeQemu, Step, line};

/// What the ids of the requests begin with, as `0000000000000007-`.
const CONNECTION: ConnectionId = ConnectionId(7);
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);

fn play(steps: Vec<Step>) -> (FakeQemu, Client) {
    let mut script = vec![Step::Negotiate];
    script.extend(steps);
    let fake = FakeQemu::play(script).unwrap();
    let client = Client::connect(&fake.socket(), CONNECTION, LONG).unwrap();
    (fake, client)
}

fn paused() -> Value {
    json!({"running": false, "status": "paused"})
}

fn connect_error(script: Vec<Step>, timeout: Duration) -> QmpError {
    let fake = FakeQemu::play(script).unwrap();
    Client::connect(&fake.socket(), CONNECTION, timeout).unwrap_err()
}

/// A reply that comes byte by byte, between events nobody knows, is still the reply.
#[test]
fn a_reply_in_pieces_among_events_is_found() {
    let (fake, client) = play(vec![
        Step::Expect("query-status"),
        line(&json!({"event": "X_NEW", "timestamp": {"seconds": 1, "microseconds": 0}})),
        Step::Dribble(
            format!("{{\"id\": \"0000000000000007-2\", \"return\": {}}}\r\n", paused()).into_bytes(),
        ),
    ]);
    assert_eq!(client.execute(&QueryStatus, LONG).unwrap().status, RunState::Paused);
    let requests = fake.finish().unwrap();
    assert_eq!(requests[1], json!({"execute": "query-status", "id": "0000000000000007-2"}));
    assert_eq!((client.version().major, client.version().package.as_str()), (10, "fake"));
}

/// QEMU's own errors keep class and description, name the command, and leave the connection usable.
#[test]
fn a_refusal_is_not_the_end() {
    let (_fake, client) = play(vec![
        Step::Expect("stop"),
        Step::Fail { class: "GenericError", desc: "Migration is not finalized yet" },
        Step::Expect("query-status"),
        Step::Return(paused()),
    ]);
    let error = client.execute(&Stop, LONG).unwrap_err();
    let refusal = error.refusal().unwrap();
    assert_eq!(
        (refusal.class.as_str(), refusal.desc.as_str()),
        ("GenericError", "Migration is not finalized yet")
    );
    assert_eq!(error.to_string(), "stop failed");
    assert!(!error.is_gone());
    assert!(client.execute(&QueryStatus, LONG).is_ok());
}

/// Each way in which the connection can end during a command.
#[test]
fn each_end_of_a_connection_has_its_error() {
    let during_stop = |steps: Vec<Step>| {
        let mut script = vec![Step::Expect("stop")];
        script.extend(steps);
        let (_fake, client) = play(script);
        let error = client.execute(&Stop, LONG).unwrap_err();
        // Whoever comes later gets the same at once.
        let later = client.execute(&QueryStatus, LONG).unwrap_err();
        let QmpError::Lost { doing, source } = error else { panic!("{error}") };
        assert_eq!(doing, "stop");
        assert!(
            matches!(later, QmpError::Lost { source: again, .. } if again.to_string() == source.to_string())
        );
        source
    };
    assert!(matches!(during_stop(vec![]), SessionError::Closed));
    let half = during_stop(vec![Step::Send(b"{\"return\": {}, ".to_vec())]);
    assert!(matches!(half, SessionError::HalfLine { bytes: 14 }), "{half}");
    let malformed = during_stop(vec![Step::Send(b"{\"return\": }\n".to_vec()), Step::Silence]);
    assert!(matches!(malformed, SessionError::Malformed { .. }), "{malformed}");
    let endless = during_stop(vec![Step::Send(vec![b'x'; (16 << 20) + 1]), Step::Silence]);
    assert!(matches!(endless, SessionError::LineTooLong { .. }), "{endless}");
}

/// What QEMU said before it went away is not lost with it: `quit` is answered, then the socket closes.
#[test]
fn the_last_words_are_heard() {
    let (fake, client) = play(vec![
        Step::Expect("quit"),
        Step::Return(json!({})),
        Step::Event { name: "SHUTDOWN", data: json!({"guest": false}) },
    ]);
    let mut events = client.events();
    client.execute_value("quit", &Value::Null, LONG).unwrap();
    fake.finish().unwrap();
    assert_eq!(events.wait_next(LONG).unwrap().name, "SHUTDOWN");
    assert!(events.wait_next(LONG).unwrap_err().is_gone());
    assert!(events.try_next().unwrap_err().is_gone());
}

/// No answer is a deadline that names the command; the late answer neither kills the session nor reaches another.
#[test]
fn a_late_reply_is_dropped() {
    let (_fake, client) = play(vec![
        Step::Expect("stop"),
        Step::Expect("query-status"),
        line(&json!({"return": {}, "id": "0000000000000007-2"})),
        Step::Return(paused()),
        Step::Silence,
    ]);
    let error = client.execute(&Stop, SHORT).unwrap_err();
    assert!(matches!(&error, QmpError::Deadline { doing, timeout } if doing == "stop" && *timeout == SHORT));
    assert_eq!(client.execute(&QueryStatus, LONG).unwrap().status, RunState::Paused);
}

/// Guards a command from the answers to a connection that was there before, of this program or another: QEMU sends them to
/// whoever is connected when they are ready.
#[test]
fn replies_to_another_connection_are_dropped() {
    let (fake, client) = play(vec![
        Step::Expect("query-status"),
        line(&json!({"return": {"running": true, "status": "running"}, "id": 2})),
        line(&json!({"return": {"running": true, "status": "running"}, "id": "0000000000000008-2"})),
        line(&json!({"error": {"class": "GenericError", "desc": "no such node"}})),
        Step::Return(paused()),
    ]);
    assert_eq!(client.execute(&QueryStatus, LONG).unwrap().status, RunState::Paused);
    let transcript = client.transcript().join("\n");
    assert!(
        transcript.contains("no such node"),
        "who looks for the cause of an error sees them: {transcript}"
    );
    fake.finish().unwrap();
}

/// A command whose time is up before it could be sent, or while QEMU reads nothing, leaves the connection whole; one
/// that is half out when QEMU stops reading ends it, for nothing can follow half a line.
#[test]
fn a_command_that_cannot_be_sent_in_time() {
    let (_fake, client) = play(vec![Step::Expect("query-status"), Step::Return(paused()), Step::Pause(LONG)]);
    let error = client.execute(&Stop, Duration::ZERO).unwrap_err();
    assert!(matches!(error, QmpError::Deadline { .. }), "{error}");
    assert!(client.execute(&QueryStatus, LONG).is_ok());
    let huge = json!({"text": "x".repeat(1 << 20)});
    let error = client.execute_value("too-much", &huge, Duration::from_secs(1)).unwrap_err();
    assert!(
        matches!(error, QmpError::Lost { source: SessionError::Io { operation: "write", .. }, .. }),
        "{error}"
    );
}

/// A reply without a field that is needed names the command and keeps the connection.
#[test]
fn a_reply_of_another_shape_is_typed() {
    let (_fake, client) = play(vec![
        Step::Expect("query-status"),
        Step::Return(json!({"state": "fine"})),
        Step::Expect("query-status"),
        Step::Return(paused()),
    ]);
    let error = client.execute(&QueryStatus, LONG).unwrap_err();
    assert!(matches!(error, QmpError::Reply { command, .. } if command == "query-status"));
    assert!(client.execute(&QueryStatus, LONG).is_ok());
}

/// An event between making a cursor and looking at it is seen; one from before is not.
#[test]
fn a_cursor_sees_everything_from_its_start() {
    let event = |name| Step::Event { name, data: json!({}) };
    let (_fake, client) = play(vec![
        event("BEFORE"),
        Step::Expect("stop"),
        event("STOP"),
        event("RESUME"),
        Step::Return(json!({})),
        Step::Expect("cont"),
        Step::Return(json!({})),
        Step::Silence,
    ]);
    // Neither a cursor nor a wait is needed for events to be kept; the first cursor here may or may not see BEFORE.
    let mut early = client.events();
    client.execute(&Stop, LONG).unwrap();
    let mut late = client.events();
    client.execute_value("cont", &json!({}), LONG).unwrap();
    let mut passed = Vec::new();
    let resume = early.wait(LONG, |event| {
        passed.push(event.name.clone());
        event.name == "RESUME"
    });
    assert!(passed.ends_with(&["STOP".to_owned(), "RESUME".to_owned()]), "{passed:?}");
    assert_eq!(resume.unwrap().timestamp.seconds, 1_700_000_002);
    assert_eq!(late.try_next().unwrap(), None);
    assert!(matches!(late.wait_next(SHORT), Err(QmpError::Deadline { .. })));
}

/// A cursor too slow for the log is told how much it missed, then goes on without a further gap.
#[test]
fn an_overflow_is_an_error() {
    const COUNT: usize = 10_000;
    let (_fake, client) =
        play(vec![Step::Expect("stop"), Step::Flood(COUNT), Step::Return(json!({})), Step::Silence]);
    let mut events = client.events();
    client.execute(&Stop, LONG).unwrap();
    let QmpError::EventsLost { count: missed } = events.wait_next(LONG).unwrap_err() else {
        panic!("not told")
    };
    assert!(missed > 0);
    for number in missed..COUNT as u64 {
        assert_eq!(events.try_next().unwrap().unwrap().data, json!({ "number": number }));
    }
    assert_eq!(events.try_next().unwrap(), None);
}

/// Several threads that wait at once each get their own answer, and all get the end.
#[test]
fn every_waiter_is_served() {
    const THREADS: usize = 8;
    let mut script: Vec<Step> = (0..THREADS).map(|_| Step::Expect("query-status")).collect();
    // Answered in reverse: only the id can tell whose answer it is.
    script.extend((0..THREADS).rev().map(|number| {
        let status = json!({"running": false, "status": format!("state-{}", number + 2)});
        line(&json!({"return": status, "id": format!("0000000000000007-{}", number + 2)}))
    }));
    let (fake, client) = play(script);
    let start = Barrier::new(THREADS);
    let mut statuses: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut events = client.events();
                    start.wait();
                    let status = client.execute(&QueryStatus, LONG).unwrap().status.to_string();
                    assert!(events.wait_next(LONG).unwrap_err().is_gone());
                    status
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    fake.finish().unwrap();
    statuses.sort_unstable();
    let expected: Vec<String> = (2..THREADS + 2).map(|id| format!("state-{id}")).collect();
    assert_eq!(statuses, expected);
}

/// Each way in which connecting can fail: somebody else's socket, a QEMU that serves another client, one that dies.
#[test]
fn connecting_can_fail() {
    let silent = connect_error(vec![Step::Silence], SHORT);
    assert!(matches!(silent, QmpError::Deadline { ref doing, .. } if doing == "the greeting"), "{silent}");
    let half = connect_error(vec![Step::Greet, Step::Expect("qmp_capabilities"), Step::Silence], SHORT);
    assert!(matches!(half, QmpError::Deadline { .. }), "{half}");
    assert!(connect_error(vec![], LONG).is_gone());
    assert!(connect_error(vec![Step::Greet], LONG).is_gone());
    let other = connect_error(vec![Step::Send(b"220 mail\r\n".to_vec()), Step::Silence], LONG);
    assert!(matches!(other, QmpError::Lost { source: SessionError::Malformed { .. }, .. }), "{other}");
    let refused = vec![Step::Greet, Step::Expect("qmp_capabilities"), Step::Fail { class: "X", desc: "no" }];
    let refused = connect_error(refused, LONG);
    assert!(
        matches!(refused, QmpError::Lost { source: SessionError::NegotiationRefused { .. }, .. }),
        "{refused}"
    );
}

/// A path with nobody behind it fails at once, or, waiting, as soon as QEMU is known to have ended.
#[test]
fn waiting_for_a_socket_ends_with_qemu() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("qmp.sock");
    assert!(matches!(Client::connect(&socket, CONNECTION, LONG), Err(QmpError::Connect { .. })));
    let mut asked = 0;
    let ended = Client::connect_waiting(&socket, CONNECTION, LONG, || {
        asked += 1;
        asked < 3
    });
    assert!(matches!(ended, Err(QmpError::Ended { .. })));
    assert_eq!(asked, 3);
    let never = Client::connect_waiting(&socket, CONNECTION, SHORT, || true).unwrap_err();
    assert!(
        matches!(never, QmpError::Connect { ref source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    );
    let long = folder.path().join("x".repeat(108));
    assert!(matches!(Client::connect(&long, CONNECTION, LONG), Err(QmpError::Connect { .. })));

    let fake = FakeQemu::play_later(SHORT, vec![Step::Negotiate, Step::Silence]).unwrap();
    Client::connect_waiting(&fake.socket(), CONNECTION, LONG, || true).unwrap();
}

/// Dropping the client ends its waiters and its connection, so that the next client is served.
#[test]
fn dropping_closes() {
    let (fake, client) = play(vec![Step::Silence]);
    let mut events = client.events();
    let waiter = thread::spawn(move || events.wait_next(LONG));
    drop(client);
    assert!(waiter.join().unwrap().unwrap_err().is_gone());
    // The script ends only when it sees the close.
    fake.finish().unwrap();
}

/// The transcript shows both directions in order: it is what an error report is made of.
#[test]
fn the_transcript_shows_what_was_said() {
    let (_fake, client) = play(vec![
        Step::Expect("stop"),
        Step::Event { name: "STOP", data: json!({"x": "y".repeat(1000)}) },
        Step::Return(json!({})),
        Step::Silence,
    ]);
    client.execute(&Stop, LONG).unwrap();
    let lines = client.transcript();
    assert_eq!(lines.len(), 6, "{lines:#?}");
    assert!(lines[0].starts_with("<- {\"QMP\""));
    assert_eq!(lines[1], "-> {\"execute\":\"qmp_capabilities\",\"id\":\"0000000000000007-1\"}");
    assert_eq!(lines[2], "<- {\"return\":{},\"id\":\"0000000000000007-1\"}");
    assert_eq!(lines[3], "-> {\"execute\":\"stop\",\"id\":\"0000000000000007-2\"}");
    assert!(lines[4].starts_with("<- {\"timestamp\"") && lines[4].ends_with("...") && lines[4].len() < 420);
    assert_eq!(lines[5], "<- {\"return\":{},\"id\":\"0000000000000007-2\"}");
}
