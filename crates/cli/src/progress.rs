//! Shows how far long work is: a bar on a terminal, JSON lines for programs, nothing where nobody looks.
//!
//! A bar appears after half a second, so that quick work leaves no trace. Everything goes to standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use vmrewind_engine::{Progress, Step};

use crate::output::Output;
use crate::output::human::printable;

/// Work that takes less is not shown.
const QUIET_FOR: Duration = Duration::from_millis(500);
/// The least time between two JSON lines.
const LINE_EVERY: Duration = Duration::from_millis(100);

/// The progress that suits the output.
pub(crate) fn for_output(output: &Output) -> Arc<dyn Progress> {
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
struct Bar(Mutex<Option<Work>>);

/// One piece of work that is being shown.
struct Work {
    what: String,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Progress for Bar {
    fn step(&self, step: Step<'_>) {
        let mut work = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if work.as_ref().is_none_or(|work| work.what != step.what) {
            clear(&mut work);
            *work = Some(Work { what: step.what.to_owned(), since: Instant::now(), bar: None });
        }
        let Some(work) = work.as_mut() else { return };
        if work.since.elapsed() < QUIET_FOR {
            return;
        }
        let bar = work.bar.get_or_insert_with(|| new_bar(&work.what, work.since.elapsed()));
        // Pages that come again take the sum past what was expected.
        bar.set_length(step.total_bytes.max(step.done_bytes));
        bar.set_position(step.done_bytes);
    }

    fn note(&self, text: &str) {
        let mut work = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let note = || Notes.note(text);
        match work.as_mut().and_then(|work| work.bar.as_ref()) {
            Some(bar) => bar.suspend(note),
            None => note(),
        }
    }

    fn finished(&self) {
        clear(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finished();
    }
}

fn clear(work: &mut Option<Work>) {
    if let Some(bar) = work.take().and_then(|work| work.bar) {
        bar.finish_and_clear();
    }
}

fn new_bar(what: &str, elapsed: Duration) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_elapsed(elapsed);
    let template = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}, {eta} left";
    // The template is fixed; should it be wrong all the same, the library's own bar does.
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message(what.to_owned());
    bar
}

/// One JSON object per line.
#[derive(Default)]
struct JsonLines(Mutex<Option<(String, Instant)>>);

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Line<'a> {
    Progress { what: &'a str, done_bytes: u64, total_bytes: u64 },
    Note { text: &'a str },
}

impl Progress for JsonLines {
    fn step(&self, step: Step<'_>) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let soon = last.as_ref().is_some_and(|(what, at)| what == step.what && at.elapsed() < LINE_EVERY);
        if soon {
            return;
        }
        *last = Some((step.what.to_owned(), Instant::now()));
        write_line(&Line::Progress {
            what: step.what,
            done_bytes: step.done_bytes,
            total_bytes: step.total_bytes,
        });
    }

    fn note(&self, text: &str) {
        write_line(&Line::Note { text });
    }

    fn finished(&self) {}
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

impl Progress for Notes {
    fn step(&self, _: Step<'_>) {}

    fn note(&self, text: &str) {
        let _ = writeln!(io::stderr(), "note: {}", printable(text));
    }

    fn finished(&self) {}
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
