//! Maps failures to exit statuses and prints them: the only place that knows both.
//!
//! Text goes to standard error as `error: ...`, its causes indented, then `hint: ...`. With `--json` there is one line
//! `{"error":{"kind","message","hint","causes":[]}}` instead. docs/exit-status.md lists the statuses.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use owo_colors::OwoColorize;
use serde::Serialize;
use vmrewind_engine::{Error, ErrorKind};

use crate::output::{colours_wanted, human::printable};
use crate::words;

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum CommandError {
    /// The engine, or the command itself, says so.
    Engine(Error),
    /// The same, with the command's own advice in place of the engine's.
    Advised { error: Error, hint: Cow<'static, str> },
    /// The result could not be printed.
    Output(io::Error),
}

impl CommandError {
    /// A failure with advice that only the command line can give.
    pub(crate) fn advised(error: Error, hint: impl Into<Cow<'static, str>>) -> Self {
        Self::Advised { error, hint: hint.into() }
    }

    /// What can be done about it.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Engine(error) | Self::Advised { error, .. } => error.kind(),
            // It was carried out; only its result is not known.
            Self::Output(_) => ErrorKind::Partial,
        }
    }

    /// What to do next, if known.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Engine(error) => error.hint().map(words::hint),
            Self::Advised { hint, .. } => Some(hint.clone().into_owned()),
            Self::Output(_) => None,
        }
    }

    fn causes(&self) -> Vec<String> {
        match self {
            Self::Engine(error) | Self::Advised { error, .. } => error.causes(),
            Self::Output(error) => vec![error.to_string()],
        }
    }

    /// Whether whoever reads our output has seen enough: that is no failure.
    fn is_of_no_interest(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(error) | Self::Advised { error, .. } => error.fmt(f),
            Self::Output(_) => {
                f.write_str("the command was carried out, but its result could not be printed")
            }
        }
    }
}

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// The exit status of a failure.
pub(crate) fn exit_code(error: &CommandError) -> ExitCode {
    ExitCode::from(if error.is_of_no_interest() { 0 } else { status_of(error.kind()) })
}

/// The exit status of each kind, as the product fixes them.
fn status_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Failed => 1,
        ErrorKind::Usage => 2,
        ErrorKind::Partial => 3,
        ErrorKind::NotFound => 4,
        ErrorKind::Refused => 5,
        ErrorKind::Busy => 6,
        ErrorKind::Damaged => 7,
        ErrorKind::Interrupted => 130,
    }
}

/// Prints failures in one of the two forms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorPrinter {
    /// One line of JSON instead of text.
    pub(crate) json: bool,
}

/// What is said of a failure.
#[derive(Debug, Serialize)]
struct Told {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    causes: Vec<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    error: &'a Told,
}

impl ErrorPrinter {
    /// Prints a failure on standard error. Where that is closed, the exit status must do.
    pub(crate) fn print(self, error: &CommandError) {
        if !error.is_of_no_interest() {
            self.tell(&Told {
                kind: error.kind(),
                message: error.to_string(),
                hint: error.hint(),
                causes: error.causes(),
            });
        }
    }

    fn tell(self, told: &Told) {
        let stderr = io::stderr();
        let text = if self.json {
            serde_json::to_string(&Document { error: told }).unwrap_or_default() + "\n"
        } else {
            as_text(told, colours_wanted(stderr.is_terminal()))
        };
        let _ = stderr.lock().write_all(text.as_bytes());
    }
}

fn as_text(told: &Told, colours: bool) -> String {
    let (error, hint) = if colours {
        ("error:".red().bold().to_string(), "hint:".cyan().bold().to_string())
    } else {
        ("error:".to_owned(), "hint:".to_owned())
    };
    let mut text = format!("{error} {}\n", printable(&told.message));
    for cause in &told.causes {
        for line in cause.lines() {
            text += &format!("  {}\n", printable(line));
        }
    }
    if let Some(words) = &told.hint {
        text += &format!("{hint} {}\n", printable(words));
    }
    text
}

/// Prints what clap has to say (help and version are no failures) and gives the exit status.
pub(crate) fn report_usage(problem: &clap::Error, words: &[OsString]) -> ExitCode {
    // The words could not be parsed, so `--json` is looked for by hand; after `--` they are QEMU's.
    let json = words.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    if problem.use_stderr() && json {
        ErrorPrinter { json }.tell(&usage_of(&problem.render().to_string()));
    } else {
        let _ = problem.print();
    }
    ExitCode::from(if problem.use_stderr() { status_of(ErrorKind::Usage) } else { 0 })
}

/// Takes clap's text apart: `error: MESSAGE`, then tips and the usage.
fn usage_of(text: &str) -> Told {
    let text = text.trim();
    let (message, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let lines: Vec<&str> = message.trim_start_matches("error: ").lines().map(str::trim).collect();
    let hint: Vec<&str> = rest.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Told {
        kind: ErrorKind::Usage,
        message: lines.join(" "),
        hint: (!hint.is_empty()).then(|| hint.join("; ")),
        causes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scripts depend on these numbers.
    #[test]
    fn statuses_are_the_product_s() {
        use ErrorKind::{Busy, Damaged, Failed, Interrupted, NotFound, Partial, Refused, Usage};
        let all = [Failed, Usage, Partial, NotFound, Refused, Busy, Damaged, Interrupted];
        assert_eq!(all.map(status_of), [1, 2, 3, 4, 5, 6, 7, 130]);
    }

    /// An error must not be able to drive the terminal, and must keep its causes apart.
    #[test]
    fn text_of_an_error() {
        let told = Told {
            kind: ErrorKind::Failed,
            message: "cannot use '\u{1b}[2J'".into(),
            hint: Some("do this".into()),
            causes: vec!["first\nsecond".into()],
        };
        assert_eq!(
            as_text(&told, false),
            "error: cannot use '\\u{1b}[2J'\n  first\n  second\nhint: do this\n"
        );
        assert!(as_text(&told, true).starts_with("\u{1b}["));
    }

    #[test]
    fn usage_problems_as_json() {
        let told = usage_of(
            "error: unexpected argument '--x' found\n\nUsage: vmrewind vm list\n\nFor more, try '--help'.\n",
        );
        assert_eq!(told.message, "unexpected argument '--x' found");
        assert_eq!(told.hint.as_deref(), Some("Usage: vmrewind vm list; For more, try '--help'."));
    }
}
