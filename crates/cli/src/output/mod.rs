//! Results: text for people or one JSON document for programs, on standard output.
//!
//! Nothing else is ever written there. Colours only on a terminal, and not where `NO_COLOR` is set.

pub(crate) mod human;
pub(crate) mod table;
pub(crate) mod tree;

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use vmrewind_engine::{StepTime, TimeLine};

/// Where results go, and in which form.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    json: bool,
    colours: bool,
    /// Whether the time lines are shown to people, too.
    times: bool,
    /// Those of the operations so far, in order.
    time_lines: Arc<Mutex<Vec<TimeLine>>>,
}

impl Output {
    /// The output of this process.
    pub(crate) fn new(json: bool, times: bool) -> Self {
        Self { json, colours: colours_wanted(io::stdout().is_terminal()), times, time_lines: Arc::default() }
    }

    /// Has the steps of an operation shown with the result.
    pub(crate) fn follow(&self, time_line: &TimeLine) {
        self.time_lines.lock().unwrap_or_else(PoisonError::into_inner).push(time_line.clone());
    }

    /// The steps of all operations so far.
    fn steps(&self) -> Vec<StepTime> {
        let lines = self.time_lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().flat_map(TimeLine::steps).collect()
    }

    /// Shows people who asked for it when each step was done: on standard error, after a failure too.
    pub(crate) fn print_times(&self) {
        let steps = self.steps();
        if self.times && !steps.is_empty() {
            // A courtesy: a closed standard error is no failure.
            let _ = io::stderr().lock().write_all(time_table(&steps).as_bytes());
        }
    }

    /// Whether a program reads it.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether text may be coloured.
    pub(crate) fn colours(&self) -> bool {
        self.colours
    }

    /// Prints the result of a command: `value` as JSON, or the text made by `text`.
    ///
    /// # Errors
    /// Where standard output takes no more.
    pub(crate) fn result<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> io::Result<()> {
        let printed = if self.json { json_with_steps(value, &self.steps())? } else { text() };
        print(printed.trim_end_matches('\n'))
    }
}

/// The JSON of a result. An object that has no steps of its own gets those of its operation, if it has any.
fn json_with_steps<T: Serialize>(value: &T, steps: &[StepTime]) -> serde_json::Result<String> {
    if steps.is_empty() {
        return serde_json::to_string_pretty(value);
    }
    let mut value = serde_json::to_value(value)?;
    if let Some(fields) = value.as_object_mut()
        && !fields.contains_key("steps")
    {
        fields.insert("steps".into(), serde_json::to_value(steps)?);
    }
    serde_json::to_string_pretty(&value)
}

/// A line for each step: the time since the beginning, that since the step before, its name.
fn time_table(steps: &[StepTime]) -> String {
    let mut at_ms = 0.0;
    let mut table = String::new();
    for step in steps {
        at_ms += step.ms;
        table.push_str(&format!("{at_ms:>10.1} ms  +{:<9.1} {}\n", step.ms, step.name));
    }
    table
}

/// Writes to standard output without the panic of `println!` on a closed pipe.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Whether to colour what goes to a stream (<https://no-color.org>).
pub(crate) fn colours_wanted(is_terminal: bool) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    is_terminal && !refused && !dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Programs read these: the promise is `steps: [{name, ms}]`, in results that are objects.
    #[test]
    fn steps_are_part_of_an_object_only() {
        let steps = [StepTime { name: "layers-made", ms: 1.5 }];
        let json = json_with_steps(&serde_json::json!({ "vm": "web" }), &steps).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            value,
            serde_json::json!({ "vm": "web", "steps": [{ "name": "layers-made", "ms": 1.5 }] })
        );
        assert_eq!(json_with_steps(&serde_json::json!([1]), &steps).unwrap(), "[\n  1\n]");
        assert_eq!(json_with_steps(&serde_json::json!({}), &[]).unwrap(), "{}");
    }

    #[test]
    fn a_time_table_adds_up() {
        let steps = [StepTime { name: "one", ms: 1.5 }, StepTime { name: "two", ms: 10.0 }];
        assert_eq!(time_table(&steps), "       1.5 ms  +1.5       one\n      11.5 ms  +10.0      two\n");
    }
}
