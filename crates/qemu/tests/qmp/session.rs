//! The session without I/O: what comes out must not depend on how the bytes were split, and nothing may panic it.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use vmrewind_qemu::qmp::SessionError;
use vmrewind_qemu::qmp::session::{ConnectionId, Incoming, RequestId, Session};

const LIMIT_BYTES: usize = 4096;
/// What the ids of the requests begin with, as `0000000000000007-`.
const CONNECTION: ConnectionId = ConnectionId(7);

/// A whole conversation as QEMU sends it, CR LF and all; the requests with ids 2, 3 and 4 are made when it is ready.
fn conversation() -> Vec<u8> {
    [
        r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian"}, "capabilities": ["oob"]}}"#,
        r#"{"return": {}, "id": "0000000000000007-1"}"#,
        r#"{"timestamp": {"seconds": 1, "microseconds": 5}, "event": "STOP"}"#,
        r#"{"return": {"status": "paused", "running": false}, "id": "0000000000000007-2"}"#,
        r#"{"timestamp": {"seconds": 2, "microseconds": 6}, "event": "X_NEVER_HEARD", "data": {"a": [1, {}]}, "more": 1}"#,
        r#"{"error": {"class": "GenericError", "desc": "größer — nein"}, "id": "0000000000000007-4"}"#,
        "",
        r#"{"id": "0000000000000007-3", "return": [[]]}"#,
    ]
    .join("\r\n")
    .into_bytes()
    .into_iter()
    .chain(*b"\r\n")
    .collect()
}

/// Polls all that is there, making three requests at the moment the session is ready.
fn poll_all(
    session: &mut Session,
    into: &mut Vec<Incoming>,
    ids: &mut Vec<RequestId>,
) -> Result<(), SessionError> {
    while let Some(incoming) = session.poll()? {
        if matches!(incoming, Incoming::Ready(_)) {
            for command in ["stop", "query-block", "cont"] {
                ids.push(session.request(command, &Value::Null)?.0);
            }
        }
        into.push(incoming);
    }
    Ok(())
}

fn run(chunks: &[&[u8]]) -> (Vec<Incoming>, Vec<RequestId>, SessionError) {
    let mut session = Session::with_limit(CONNECTION, LIMIT_BYTES);
    let (mut incoming, mut ids) = (Vec::new(), Vec::new());
    for chunk in chunks {
        session.receive(chunk);
        if let Err(error) = poll_all(&mut session, &mut incoming, &mut ids) {
            return (incoming, ids, error);
        }
    }
    let end = session.end();
    (incoming, ids, end)
}

fn ready() -> Session {
    let mut session = Session::with_limit(CONNECTION, LIMIT_BYTES);
    let bytes = conversation();
    let end = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1).unwrap().0;
    session.receive(&bytes[..=end]);
    assert_eq!(session.poll().unwrap(), Some(Incoming::Greeted));
    assert!(matches!(session.poll(), Ok(Some(Incoming::Ready(_)))));
    session
}

/// The whole conversation gives exactly these messages: order, ids, and what is unknown included.
#[test]
fn a_conversation_gives_its_messages_in_order() {
    let (incoming, ids, end) = run(&[&conversation()]);
    let [first, second, third] = ids[..] else { panic!("three requests") };
    assert!(matches!(end, SessionError::Closed));
    assert_eq!(incoming.len(), 7);
    assert_eq!(incoming[0], Incoming::Greeted);
    assert!(matches!(&incoming[1], Incoming::Ready(version) if version.to_string() == "10.0.2"));
    assert!(matches!(&incoming[2], Incoming::Event(event) if event.name == "STOP" && event.data.is_null()));
    let reply = Incoming::Reply { id: first, result: Ok(json!({"status": "paused", "running": false})) };
    assert_eq!(incoming[3], reply);
    assert!(matches!(&incoming[4], Incoming::Event(event) if event.name == "X_NEVER_HEARD"
        && event.data == json!({"a": [1, {}]}) && event.other.get("more") == Some(&json!(1))));
    let Incoming::Reply { id, result: Err(error) } = &incoming[5] else { panic!("an error") };
    assert_eq!((*id, error.class.as_str(), error.desc.as_str()), (third, "GenericError", "größer — nein"));
    assert_eq!(incoming[6], Incoming::Reply { id: second, result: Ok(json!([[]])) });
}

/// Each place where the connection can break, exhaustively: what came whole is given, the rest is a typed error.
#[test]
fn a_break_at_any_byte_is_told() {
    let bytes = conversation();
    let (whole, ..) = run(&[&bytes]);
    for cut in 0..bytes.len() {
        let (incoming, _, end) = run(&[&bytes[..cut]]);
        assert_eq!(incoming[..], whole[..incoming.len()], "cut at {cut}");
        let last_line = bytes[..cut].rsplit(|byte| *byte == b'\n').next().unwrap().trim_ascii();
        match end {
            SessionError::Closed => assert!(last_line.is_empty(), "cut at {cut}"),
            SessionError::HalfLine { bytes } => assert_eq!(bytes, last_line.len(), "cut at {cut}"),
            other => panic!("cut at {cut}: {other}"),
        }
    }
}

/// Requests before the end of negotiation would be refused by QEMU in ways that are hard to tell from others.
#[test]
fn requests_wait_for_negotiation() {
    let mut session = Session::with_limit(CONNECTION, LIMIT_BYTES);
    assert!(matches!(session.request("stop", &Value::Null), Err(SessionError::NotReady)));
    assert!(session.take_outgoing().is_empty());
    session.receive(&conversation()[..conversation().iter().position(|byte| *byte == b'\n').unwrap() + 1]);
    assert_eq!(session.poll().unwrap(), Some(Incoming::Greeted));
    let outgoing = session.take_outgoing();
    assert_eq!(outgoing, [b"{\"execute\":\"qmp_capabilities\",\"id\":\"0000000000000007-1\"}\n".to_vec()]);
    assert!(matches!(session.request("stop", &Value::Null), Err(SessionError::NotReady)));
}

/// A request is one line with its arguments, whatever characters those hold.
#[test]
fn a_request_is_one_line() {
    let mut session = ready();
    let (_, line) = session.request("blockdev-add", &json!({"filename": "a\n\"b\" ü"})).unwrap();
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    let request: Value = serde_json::from_slice(&line).unwrap();
    let id = "0000000000000007-2";
    assert_eq!(
        request,
        json!({"execute": "blockdev-add", "arguments": {"filename": "a\n\"b\" ü"}, "id": id})
    );
}

/// Guards a client from what QEMU still has to say to the one before: it is passed over, whatever id it has, before and after
/// negotiation, and is never taken for an answer to us.
#[test]
fn replies_of_others_are_passed_over() {
    let others = [
        r#"{"return": {}}"#,
        r#"{"return": {}, "id": 2}"#,
        r#"{"return": {}, "id": "2"}"#,
        r#"{"return": {}, "id": {"7": 2}}"#,
        r#"{"return": {}, "id": "0000000000000008-2"}"#,
        r#"{"return": {}, "id": "7-2"}"#,
        r#"{"return": {}, "id": "0000000000000007-02"}"#,
        r#"{"return": {}, "id": "0000000000000007-1"}"#,
        r#"{"return": {}, "id": "0000000000000007-3"}"#,
        r#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#,
    ];
    for reply in others {
        let mut session = ready();
        let (id, _) = session.request("stop", &Value::Null).unwrap();
        let ours = "{\"return\": {}, \"id\": \"0000000000000007-2\"}";
        session.receive(format!("{reply}\n{ours}\n").as_bytes());
        assert_eq!(session.poll().unwrap(), Some(Incoming::Foreign), "{reply}");
        assert_eq!(session.poll().unwrap(), Some(Incoming::Reply { id, result: Ok(json!({})) }), "{reply}");
    }
    let conversation = String::from_utf8(conversation()).unwrap();
    let with_others: String = conversation.lines().map(|line| format!("{}\n{line}\n", others[4])).collect();
    let without_foreign = |(incoming, ids, _): (Vec<Incoming>, Vec<RequestId>, SessionError)| {
        (incoming.into_iter().filter(|one| *one != Incoming::Foreign).collect::<Vec<_>>(), ids)
    };
    assert_eq!(
        without_foreign(run(&[with_others.as_bytes()])),
        without_foreign(run(&[conversation.as_bytes()])),
        "the same messages come out"
    );
}

/// A caller that stopped waiting must not make its late reply fatal, nor leave it for another one.
#[test]
fn a_request_given_up_may_be_answered_late_and_once() {
    let mut session = ready();
    let (id, _) = session.request("stop", &Value::Null).unwrap();
    session.give_up(id);
    for expected in [Incoming::Late(id), Incoming::Foreign] {
        session.receive(b"{\"return\": {}, \"id\": \"0000000000000007-2\"}\n");
        assert_eq!(session.poll().unwrap(), Some(expected));
    }
}

/// Each way in which negotiation can go wrong has its own error.
#[test]
fn negotiation_can_fail() {
    let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}}}"#;
    let fails = |text: String| {
        let mut session = Session::with_limit(CONNECTION, LIMIT_BYTES);
        session.receive(text.as_bytes());
        while let Ok(Some(Incoming::Greeted)) = session.poll() {}
        session.poll().unwrap_err()
    };
    let refused =
        fails(format!("{greeting}\n{{\"error\": {{\"desc\": \"no\"}}, \"id\": \"0000000000000007-1\"}}\n"));
    assert!(matches!(refused, SessionError::NegotiationRefused { source } if source.desc == "no"));
    assert!(matches!(fails(format!("{greeting}\n{greeting}\n")), SessionError::Unexpected { .. }));
    assert!(matches!(fails("SSH-2.0-OpenSSH\r\n".to_owned()), SessionError::Malformed { .. }));
    assert!(matches!(fails("x".repeat(LIMIT_BYTES + 1)), SessionError::LineTooLong { .. }));
}

proptest! {
    /// Any split of the same bytes gives the same messages: sockets split where they like.
    #[test]
    fn every_split_gives_the_same(mut cuts in vec(0..conversation().len(), 0..40)) {
        let bytes = conversation();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let mut start = 0;
        let mut chunks = Vec::new();
        for cut in cuts {
            chunks.push(&bytes[start..cut]);
            start = cut;
        }
        let (incoming, ids, end) = run(&chunks);
        let (whole, whole_ids, _) = run(&[&bytes]);
        prop_assert_eq!(incoming, whole);
        prop_assert_eq!(ids, whole_ids);
        prop_assert!(matches!(end, SessionError::Closed));
    }

    /// No bytes panic it, and after the first error it says the same for ever.
    #[test]
    fn no_bytes_panic(
        lines in vec(
            prop_oneof![
                vec(any::<u8>(), 0..60),
                "\\{\"(QMP|event|return|error|id|timestamp)\": ?(1|\\{\\}|null|\"x\")(, \"id\": (\"0000000000000007-)?[0-9]\"?)?\\}".prop_map(String::into_bytes),
            ],
            0..12,
        ),
        negotiated in any::<bool>(),
    ) {
        let mut session = if negotiated { ready() } else { Session::with_limit(CONNECTION, LIMIT_BYTES) };
        let mut over = None;
        for line in lines {
            session.receive(&line);
            session.receive(b"\n");
            let mut sink = (Vec::new(), Vec::new());
            let result = poll_all(&mut session, &mut sink.0, &mut sink.1).err().map(|error| error.to_string());
            if over.is_some() {
                prop_assert_eq!(&result, &over);
            }
            over = over.or(result);
        }
    }
}
