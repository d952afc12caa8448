//! Results: text for people or one JSON document for programs, on standard output.
//!
//! Nothing else is ever written there. Colours only on a terminal, and not where `NO_COLOR` is set.

pub(crate) mod human;
pub(crate) mod table;
pub(crate) mod tree;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// Where results go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    colours: bool,
}

impl Output {
    /// The output of this process.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, colours: colours_wanted(io::stdout().is_terminal()) }
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
        let printed = if self.json { serde_json::to_string_pretty(value)? } else { text() };
        print(printed.trim_end_matches('\n'))
    }
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
