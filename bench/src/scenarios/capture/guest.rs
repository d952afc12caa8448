//! A guest that is measured: its console and a QMP connection that only watches.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use vmrewind_qemu::qmp::commands::{Cont, MigrationStatus, QueryStatus, RunState, Stop};
use vmrewind_qemu::qmp::{Client, Event, EventCursor, EventTime, QmpError};
use vmrewind_testkit::console::{Console, Mark};

use super::sample::{Moment, Seen, milliseconds};
use crate::outcome::{Outcome, context};
use crate::vm::CONNECTION;

/// Filling gigabytes of memory takes an emulated processor its time.
const BOOT: Duration = Duration::from_secs(600);
/// For answers of guest and QEMU: QEMU's main loop stands still for as long as `snapshot-save` takes.
pub(super) const ANSWER: Duration = Duration::from_secs(600);
/// How long the watcher of events may take to notice that a turn is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);
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
        let qmp = Client::connect(qmp, CONNECTION, ANSWER).map_err(context(|| "cannot watch QEMU".into()))?;
        console.wait_ready(BOOT)?;
        Ok(Self { console, qmp })
    }

    /// Stops the guest, so that it takes no processor time from another that is measured.
    pub(crate) fn rest(&self) -> Outcome {
        self.qmp.execute(&Stop, ANSWER)?;
        Ok(())
    }

    /// Does `work` on the guest, giving it the time at which it begins, and tells what was to be seen meanwhile.
    ///
    /// The guest runs for it, and rests afterwards.
    pub(crate) fn observe<T>(&self, work: impl FnOnce(Instant) -> Outcome<T>) -> Outcome<(T, Seen)> {
        self.qmp.execute(&Cont, ANSWER)?;
        self.tick_for(SETTLE)?;
        let mut events = self.qmp.events();
        let since = self.console.mark();
        self.console.wait_tick(since, ANSWER)?;
        let over = AtomicBool::new(false);
        let (made, events) = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| stamp(&mut events, &over));
            let made = work(Instant::now());
            // An answer comes after all events before it: the watcher is told when it can have them all.
            let state = self.qmp.execute(&QueryStatus, ANSWER);
            over.store(true, Ordering::SeqCst);
            let events = watcher.join().map_err(|_| "the watcher failed")?;
            let (made, state) = (made?, state?.status);
            if state != RunState::Running {
                return Err(format!("the guest doesn't run afterwards, it is {state:?}").into());
            }
            Ok::<_, Box<dyn Error>>((made, events?))
        })?;
        self.console.wait_tick(self.console.mark(), ANSWER)?;
        let gap = self.console.max_gap(since);
        let ticks: Vec<Instant> = self.console.ticks().into_iter().map(|(at, _)| at).collect();
        let seen = seen(&events, &ticks, gap)?;
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

/// An event, and when it came here: the clock that the guest's ticks are stamped by.
type Stamped = (Instant, Event);

/// Stamps events as they come, until `over` and all are there.
fn stamp(events: &mut EventCursor, over: &AtomicBool) -> Result<Vec<Stamped>, QmpError> {
    let mut stamped = Vec::new();
    loop {
        let last = over.load(Ordering::SeqCst);
        while let Some(event) = events.try_next()? {
            stamped.push((Instant::now(), event));
        }
        if last {
            return Ok(stamped);
        }
        match events.wait_next(LOOK_EVERY) {
            Ok(event) => stamped.push((Instant::now(), event)),
            Err(QmpError::Deadline { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Finds the pauses among the events of one turn, and what they were for the guest.
fn seen(events: &[Stamped], ticks: &[Instant], gap: Duration) -> Outcome<Seen> {
    let (mut pause_ms, mut pause_gap) = (0.0, Duration::ZERO);
    let mut stopped: Option<(Instant, EventTime)> = None;
    let mut moments = Vec::new();
    for (came, event) in events {
        if event.name == "STOP" {
            (stopped, moments) = (Some((*came, event.timestamp)), Vec::new());
        }
        let Some((stop_came, start)) = stopped else { continue };
        let since = event.timestamp.duration_since(&start).ok_or("the clock was set back within a pause")?;
        moments.push(Moment { what: name(event), at_ms: milliseconds(since) });
        if event.name == "RESUME" {
            pause_ms += milliseconds(since);
            pause_gap = pause_gap.max(gap_at(ticks, stop_came, *came));
            stopped = None;
        }
    }
    if moments.last().is_none_or(|moment| moment.what != "RESUME") {
        return Err("QEMU did not tell that the guest stopped and went on".into());
    }
    let (pause_gap_ms, gap_ms) = (milliseconds(pause_gap), milliseconds(gap));
    Ok(Seen { pause_ms, pause_gap_ms, gap_ms, moments })
}

/// The longest time between two ticks of which a part lies between `stop` and `resume`.
fn gap_at(ticks: &[Instant], stop: Instant, resume: Instant) -> Duration {
    let gaps = ticks.windows(2).filter(|pair| pair[1] > stop && pair[0] < resume);
    gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
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

    /// Events that come here a millisecond apart, with a tick before, between the first two, and after all.
    fn seen_in(events: Vec<Event>) -> Outcome<Seen> {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let events: Vec<_> = (1..).map(at).zip(events).collect();
        let ticks = [begun, begun + Duration::from_micros(1500), at(40), at(100)];
        seen(&events, &ticks, Duration::from_millis(60))
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
        assert_eq!((seen.pause_ms, seen.gap_ms), (7.5, 60.0));
        assert_eq!(seen.pause_gap_ms, 38.5, "the gap that the pause lies in, not the longest");
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
