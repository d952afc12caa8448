//! A guest that is measured: its console and a QMP connection that only watches.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use vmrewind_qemu::qmp::commands::{Cont, MigrationStatus, QueryStatus, RunState, Stop};
use vmrewind_qemu::qmp::{Client, Event, EventCursor, EventTime};
use vmrewind_testkit::console::{Console, Mark};

use super::sample::{Moment, Seen, milliseconds};
use crate::outcome::{Outcome, context};

/// Filling gigabytes of memory takes an emulated processor its time.
const BOOT: Duration = Duration::from_secs(600);
/// For answers of guest and QEMU: QEMU's main loop stands still for as long as `snapshot-save` takes.
pub(super) const ANSWER: Duration = Duration::from_secs(600);
/// How long a guest ticks before it is measured.
const SETTLE: Duration = Duration::from_secs(1);

/// A running guest under observation.
pub(crate) struct Guest {
    console: Console,
    /// Used for `stop` and `cont` between turns, and for the events within.
    pub(super) qmp: Client,
}

impl Guest {
    /// Watches the guest with this serial socket and this QMP socket; returns once it has booted and filled its memory.
    pub(crate) fn watch(console: &Path, qmp: &Path) -> Outcome<Self> {
        let console = Console::attach(console);
        let qmp = Client::connect(qmp, ANSWER).map_err(context(|| "cannot watch QEMU".into()))?;
        console.wait_ready(BOOT)?;
        Ok(Self { console, qmp })
    }

    /// Stops the guest, so that it takes no processor time from another that is measured.
    pub(crate) fn rest(&self) -> Outcome {
        self.qmp.execute(&Stop, ANSWER)?;
        Ok(())
    }

    /// Does `work` on the guest and tells what was to be seen of it; the guest runs for it, and rests afterwards.
    pub(crate) fn observe<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Seen)> {
        self.qmp.execute(&Cont, ANSWER)?;
        self.tick_for(SETTLE)?;
        let events = self.qmp.events();
        let since = self.console.mark();
        self.console.wait_tick(since, ANSWER)?;
        let begun = Instant::now();
        let made = work()?;
        let done = begun.elapsed();
        // An answer comes after all events before it, so the cursor has them all.
        let state = self.qmp.execute(&QueryStatus, ANSWER)?.status;
        if state != RunState::Running {
            return Err(format!("the guest doesn't run afterwards, it is {state:?}").into());
        }
        self.console.wait_tick(self.console.mark(), ANSWER)?;
        let gap = self.console.max_gap(since);
        let seen = seen(drain(events)?, gap, done)?;
        self.rest()?;
        Ok((made, seen))
    }

    /// Has the guest check its memory and disks; it rests afterwards.
    pub(crate) fn check(&self) -> Outcome {
        self.qmp.execute(&Cont, ANSWER)?;
        let verify = self.console.verify(ANSWER)?;
        self.rest()?;
        if verify.ok { Ok(()) } else { Err(format!("the guest is damaged: {}", verify.line).into()) }
    }

    fn tick_for(&self, time: Duration) -> Outcome {
        let until = Instant::now() + time;
        let mut mark: Mark = self.console.mark();
        while Instant::now() < until {
            self.console.wait_tick(mark, ANSWER)?;
            mark = self.console.mark();
        }
        Ok(())
    }
}

fn drain(mut events: EventCursor) -> Outcome<Vec<Event>> {
    let mut drained = Vec::new();
    while let Some(event) = events.try_next()? {
        drained.push(event);
    }
    Ok(drained)
}

/// Finds the pauses among the events of one turn.
fn seen(events: Vec<Event>, gap: Duration, done: Duration) -> Outcome<Seen> {
    let mut pause_ms = 0.0;
    let mut stopped: Option<EventTime> = None;
    let mut moments = Vec::new();
    for event in events {
        if event.name == "STOP" {
            (stopped, moments) = (Some(event.timestamp), Vec::new());
        }
        let Some(start) = stopped else { continue };
        let since = event.timestamp.duration_since(&start).ok_or("the clock was set back within a pause")?;
        moments.push(Moment { what: name(&event), at_ms: milliseconds(since) });
        if event.name == "RESUME" {
            pause_ms += milliseconds(since);
            stopped = None;
        }
    }
    if moments.last().is_none_or(|moment| moment.what != "RESUME") {
        return Err("QEMU did not tell that the guest stopped and went on".into());
    }
    Ok(Seen { pause_ms, gap_ms: milliseconds(gap), done_ms: milliseconds(done), moments })
}

/// The migration's state where the event tells one, else the event's name.
fn name(event: &Event) -> String {
    match MigrationStatus::of_event(event) {
        Some(status) => status.as_str().to_owned(),
        None => match event.data.get("status").and_then(Value::as_str) {
            Some(status) => format!("{} {status}", event.name),
            None => event.name.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, json};

    fn event(name: &str, data: Value, microseconds: i64) -> Event {
        Event {
            name: name.into(),
            data,
            timestamp: EventTime { seconds: 9, microseconds },
            other: Map::new(),
        }
    }

    fn seen_in(events: Vec<Event>) -> Outcome<Seen> {
        seen(events, Duration::from_millis(20), Duration::from_secs(1))
    }

    /// Guards the figure that all is about: from STOP to RESUME, with what came between and nothing from outside.
    #[test]
    fn a_pause_is_from_stop_to_resume() {
        let seen = seen_in(vec![
            event("MIGRATION", json!({ "status": "active" }), 10),
            event("STOP", json!(null), 1000),
            event("MIGRATION", json!({ "status": "device" }), 3000),
            event("JOB_STATUS_CHANGE", json!({ "status": "running", "id": "j" }), 4000),
            event("RESUME", json!(null), 8500),
            event("MIGRATION", json!({ "status": "completed" }), 9000),
        ])
        .unwrap();
        let moments: Vec<_> =
            seen.moments.iter().map(|moment| (moment.what.as_str(), moment.at_ms)).collect();
        assert_eq!(
            moments,
            [("STOP", 0.0), ("device", 2.0), ("JOB_STATUS_CHANGE running", 3.0), ("RESUME", 7.5)]
        );
        assert_eq!((seen.pause_ms, seen.gap_ms, seen.done_ms), (7.5, 20.0, 1000.0));
    }

    /// Guards against flattering: a way that stops the guest twice has paused it for both times.
    #[test]
    fn pauses_add_up() {
        let at = |name, microseconds| event(name, json!(null), microseconds);
        let events = vec![at("STOP", 0), at("RESUME", 2000), at("STOP", 5000), at("RESUME", 6000)];
        assert_eq!(seen_in(events).unwrap().pause_ms, 3.0);
    }

    /// Guards against a figure of zero where nothing was seen.
    #[test]
    fn a_turn_without_a_whole_pause_is_an_error() {
        let at = |name, microseconds| event(name, json!(null), microseconds);
        assert!(seen_in(vec![]).is_err());
        assert!(seen_in(vec![at("STOP", 5)]).is_err());
        assert!(seen_in(vec![at("STOP", 5), at("RESUME", 4)]).is_err());
    }
}
