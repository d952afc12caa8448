//! QMP messages as values: greeting, event, reply; and how a line becomes one.
//!
//! Only what is needed is typed; every other field is kept as JSON. A line that is none of the three is refused.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::{SessionError, excerpt};

const EXCERPT_CHARS: usize = 200;

/// The version of the QEMU that is talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuVersion {
    /// 10 in 10.0.2.
    pub major: u32,
    /// 0 in 10.0.2.
    pub minor: u32,
    /// 2 in 10.0.2.
    pub micro: u32,
    /// The packager's own version, or empty.
    pub package: String,
}

impl QemuVersion {
    /// Whether this is `major.minor` or later.
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

impl<'de> Deserialize<'de> for QemuVersion {
    /// Reads QAPI's `VersionInfo`: `{"qemu": {"major", "minor", "micro"}, "package"}`.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Triple {
            major: u32,
            minor: u32,
            micro: u32,
        }
        #[derive(Deserialize)]
        struct VersionInfo {
            qemu: Triple,
            #[serde(default)]
            package: String,
        }
        let VersionInfo { qemu, package } = VersionInfo::deserialize(deserializer)?;
        Ok(Self { major: qemu.major, minor: qemu.minor, micro: qemu.micro, package })
    }
}

/// A point on the clock of QEMU's host, as stamped by QEMU; -1 seconds where it had none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct EventTime {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Microseconds within the second.
    pub microseconds: i64,
}

impl EventTime {
    /// The time from `earlier` to this; None where the clock was set back or QEMU had no time.
    pub fn duration_since(&self, earlier: &Self) -> Option<Duration> {
        let micros = self.total_micros()?.checked_sub(earlier.total_micros()?)?;
        u64::try_from(micros).ok().map(Duration::from_micros)
    }

    fn total_micros(&self) -> Option<i64> {
        if self.seconds < 0 || self.microseconds < 0 {
            return None;
        }
        self.seconds.checked_mul(1_000_000)?.checked_add(self.microseconds)
    }
}

/// Something QEMU tells unasked: `STOP`, `MIGRATION`, `SHUTDOWN`, or one this crate has never heard of.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The event's name, in capitals.
    pub name: String,
    /// Its data; null where it has none.
    pub data: Value,
    /// When QEMU says it happened.
    pub timestamp: EventTime,
    /// Whatever else the message held.
    pub other: Map<String, Value>,
}

/// An error as QEMU or the guest agent answers it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{desc}")]
pub struct CommandError {
    /// `GenericError`, `CommandNotFound`, `DeviceNotFound`, ...
    pub class: String,
    /// The reason in QEMU's words.
    pub desc: String,
}

/// One line from the peer, decoded.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    Greeting(QemuVersion),
    Event(Event),
    Reply { id: Option<Value>, result: Result<Value, CommandError> },
}

/// Decodes one line.
pub(super) fn decode(line: &[u8]) -> Result<Message, SessionError> {
    let value: Value = serde_json::from_slice(line).map_err(|source| SessionError::Malformed {
        line: excerpt(line, EXCERPT_CHARS),
        source: Arc::new(source),
    })?;
    let Value::Object(mut fields) = value else {
        return Err(unexpected("not an object", line));
    };
    if let Some(greeting) = fields.get("QMP") {
        return decode_greeting(greeting).ok_or_else(|| unexpected("a greeting without a version", line));
    }
    if let Some(name) = fields.shift_remove("event") {
        return decode_event(&name, fields).ok_or_else(|| unexpected("an event without name or time", line));
    }
    let id = fields.shift_remove("id");
    if let Some(value) = fields.shift_remove("return") {
        return Ok(Message::Reply { id, result: Ok(value) });
    }
    let Some(error) = fields.get("error") else {
        return Err(unexpected("neither greeting, event nor reply", line));
    };
    Ok(Message::Reply { id, result: Err(decode_error(error)) })
}

/// The error for a message that may not come now.
pub(super) fn unexpected(reason: &'static str, line: &[u8]) -> SessionError {
    SessionError::Unexpected { reason, line: excerpt(line, EXCERPT_CHARS) }
}

fn decode_greeting(greeting: &Value) -> Option<Message> {
    QemuVersion::deserialize(greeting.get("version")?).ok().map(Message::Greeting)
}

fn decode_event(name: &Value, mut fields: Map<String, Value>) -> Option<Message> {
    let name = name.as_str()?.to_owned();
    let timestamp = EventTime::deserialize(fields.shift_remove("timestamp")?).ok()?;
    let data = fields.shift_remove("data").unwrap_or(Value::Null);
    Some(Message::Event(Event { name, data, timestamp, other: fields }))
}

/// Never fails: an error in a shape of its own is still an error.
fn decode_error(error: &Value) -> CommandError {
    let text = |key: &str| error.get(key).and_then(Value::as_str).map(str::to_owned);
    CommandError {
        class: text("class").unwrap_or_else(|| "GenericError".to_owned()),
        desc: text("desc").unwrap_or_else(|| excerpt(error.to_string().as_bytes(), EXCERPT_CHARS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pause is measured by QEMU's own stamps; a clock that was set back must not give a huge figure.
    #[test]
    fn time_between_events_is_exact_or_absent() {
        let at = |seconds, microseconds| EventTime { seconds, microseconds };
        assert_eq!(at(11, 250).duration_since(&at(10, 999_250)), Some(Duration::from_micros(1_000)));
        assert_eq!(at(10, 0).duration_since(&at(10, 1)), None);
        assert_eq!(at(-1, -1).duration_since(&at(10, 1)), None);
        assert_eq!(at(i64::MAX, i64::MAX).duration_since(&at(0, 0)), None);
    }

    /// A new QEMU may add fields to any message: they are kept, and none is fatal.
    #[test]
    fn unknown_fields_of_an_event_are_kept() {
        let line = br#"{"event":"X_NEW","timestamp":{"seconds":1,"microseconds":2,"zone":"x"},"origin":7}"#;
        let Message::Event(event) = decode(line).unwrap() else { panic!("not an event") };
        assert_eq!((event.name.as_str(), &event.data), ("X_NEW", &Value::Null));
        assert_eq!(event.other.get("origin"), Some(&Value::from(7)));
    }

    /// An error without class and desc must not be taken for success or for the end of the session.
    #[test]
    fn an_error_of_unknown_shape_is_still_an_error() {
        let Message::Reply { result, id } = decode(br#"{"error":["what"],"id":3}"#).unwrap() else {
            panic!()
        };
        assert_eq!(id, Some(Value::from(3)));
        assert_eq!(result.unwrap_err().desc, r#"["what"]"#);
    }

    /// Each refused shape has its own typed error.
    #[test]
    fn lines_that_are_no_message_are_refused() {
        assert!(matches!(decode(b"{"), Err(SessionError::Malformed { .. })));
        assert!(matches!(decode(b"[1]"), Err(SessionError::Unexpected { reason: "not an object", .. })));
        assert!(matches!(decode(br#"{"QMP":{}}"#), Err(SessionError::Unexpected { .. })));
        assert!(matches!(decode(br#"{"event":"STOP"}"#), Err(SessionError::Unexpected { .. })));
        assert!(matches!(decode(br#"{"hello":1}"#), Err(SessionError::Unexpected { .. })));
    }
}
