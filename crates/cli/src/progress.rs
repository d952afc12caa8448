//! Shows how far long work is: a bar on a terminal, JSON lines for programs, nothing where nobody looks.
//!
//! A bar appears after half a second, so that quick work leaves no trace. Everything goes to standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use vmrewind_engine::{Event, Events, Note, OperationId, Progress, Work};

use crate::output::Output;
use crate::output::human::printable;
use crate::words;

/// Work that takes less is not shown.
const QUIET_FOR: Duration = Duration::from_millis(500);
/// The least time between two JSON lines.
const LINE_EVERY: Duration = Duration::from_millis(100);

/// The progress that suits the output.
pub(crate) fn for_output(output: &Output) -> Arc<dyn Events> {
    if output.is_json() {
        Arc::new(JsonLines::default())
    } else if io::stderr().is_terminal() {
        Arc::new(Bar::default())
    } else {
        Arc::new(Notes)
    }
}

/// A bar with rate and time left.
#[derive(Default)]
struct Bar(Mutex<Option<Shown>>);

/// One piece of work that is being shown.
struct Shown {
    work: Work,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Events for Bar {
    fn tell(&self, _: OperationId, event: &Event) {
        match event {
            Event::Progress(progress) => self.progress(*progress),
            Event::Note(note) => self.note(note),
            Event::WorkEnded => self.clear(),
            Event::Step(_) => {}
        }
    }
}

impl Bar {
    fn progress(&self, progress: Progress) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_ref().is_none_or(|shown| shown.work != progress.work) {
            clear(&mut shown);
            *shown = Some(Shown { work: progress.work, since: Instant::now(), bar: None });
        }
        let Some(shown) = shown.as_mut() else { return };
        if shown.since.elapsed() < QUIET_FOR {
            return;
        }
        let bar = shown.bar.get_or_insert_with(|| new_bar(words::work(shown.work), shown.since.elapsed()));
        // Pages that come again take the sum past what was expected.
        bar.set_length(progress.total_bytes.max(progress.done_bytes));
        bar.set_position(progress.done_bytes);
    }

    fn note(&self, note: &Note) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match shown.as_mut().and_then(|shown| shown.bar.as_ref()) {
            Some(bar) => bar.suspend(|| print_note(note)),
            None => print_note(note),
        }
    }

    fn clear(&self) {
        clear(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn clear(shown: &mut Option<Shown>) {
    if let Some(bar) = shown.take().and_then(|shown| shown.bar) {
        bar.finish_and_clear();
    }
}

fn new_bar(what: &'static str, elapsed: Duration) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_elapsed(elapsed);
    let template = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left";
    // The template is fixed; should it be wrong all the same, the library's own bar does.
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what);
    bar
}

/// One JSON object per line.
#[derive(Default)]
struct JsonLines(Mutex<Option<(Work, Instant)>>);

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    Progress { what: &'a str, done_bytes: u64, total_bytes: u64 },
    Note { text: &'a str },
}

impl Events for JsonLines {
    fn tell(&self, _: OperationId, event: &Event) {
        match event {
            Event::Progress(progress) => self.progress(*progress),
            Event::Note(note) => write_line(&Line::Note { text: &words::note(note) }),
            // Steps are in the result.
            Event::Step(_) | Event::WorkEnded => {}
        }
    }
}

impl JsonLines {
    fn progress(&self, Progress { work, done_bytes, total_bytes }: Progress) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = last.as_ref().is_some_and(|(before, at)| *before == work && at.elapsed() < LINE_EVERY);
        if !soon {
            *last = Some((work, Instant::now()));
            write_line(&Line::Progress { what: words::work(work), done_bytes, total_bytes });
        }
    }
}

/// Progress is a courtesy: a closed standard error does not end the work.
fn write_line(line: &Line<'_>) {
    if let Ok(mut text) = serde_json::to_string(line) {
        text.push('\n');
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

/// Notes only, for logs.
struct Notes;

impl Events for Notes {
    fn tell(&self, _: OperationId, event: &Event) {
        if let Event::Note(note) = event {
            print_note(note);
        }
    }
}

fn print_note(note: &Note) {
    let _ = writeln!(io::stderr(), "note: {}", printable(&words::note(note)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs read these lines.
    #[test]
    fn lines_as_the_product_fixes_them() {
        let line = Line::Progress { what: "capturing memory", done_bytes: 1, total_bytes: 2 };
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"event":"progress","what":"capturing memory","done_bytes":1,"total_bytes":2}"#
        );
        assert_eq!(
            serde_json::to_string(&Line::Note { text: "x" }).unwrap(),
            r#"{"event":"note","text":"x"}"#
        );
    }
}
