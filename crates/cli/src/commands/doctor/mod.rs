//! `vmrewind doctor`: checks that this host has what vmrewind needs, and says what would make it better.
//!
//! Nothing is changed and no root is made. A check is `missing` where vmrewind can't work without it (exit status 1)
//! and a `warning` where only something is slower or can't be had.

mod host;
mod programs;

use clap::Args;
use serde::Serialize;
use vmrewind_engine::Error;

use crate::command_error::CommandError;
use crate::output::table::{Column, table};
use crate::session::Session;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
The exit status is 1 where something that vmrewind can't do without is missing.

Examples:
  vmrewind doctor
  vmrewind doctor --json | jq '.checks[] | select(.status != \"ok\")'")]
pub(crate) struct DoctorArguments {}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Status {
    Ok,
    Warning,
    Missing,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Missing => "MISSING",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    found: String,
    hint: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), hint: None }
    }

    fn bad(name: &'static str, status: Status, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, status, found: found.into(), hint: Some(hint.into()) }
    }
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

const COLUMNS: [Column; 3] = [("CHECK", false), ("STATUS", false), ("FOUND", false)];

/// Looks at the host.
///
/// # Errors
/// `Failed` where something needed is missing, after the report.
pub(crate) fn run(session: &Session, _: &DoctorArguments) -> Result<(), CommandError> {
    let checks = vec![
        programs::check(programs::Program {
            name: "qemu-system-x86_64",
            package: "qemu-system-x86",
            needed: true,
        }),
        programs::check(programs::Program { name: "qemu-img", package: "qemu-utils", needed: true }),
        programs::check(programs::Program {
            name: "qemu-storage-daemon",
            package: "qemu-utils",
            needed: false,
        }),
        host::root(session),
        host::kvm(),
        host::userfaultfd(),
        host::firmware(),
    ];
    let missing: Vec<&str> =
        checks.iter().filter(|check| check.status == Status::Missing).map(|check| check.name).collect();
    let missing = missing.join(", ");
    let report = Report { ok: missing.is_empty(), checks };
    let printed = session.output.result(&report, || describe(&report, session.output.colours()));
    if report.ok {
        return Ok(printed?);
    }
    Err(Error::failed(format!("this host lacks what vmrewind needs: {missing}"))
        .hint("do what the report says, then run `vmrewind doctor` again")
        .into())
}

fn describe(report: &Report, colours: bool) -> String {
    let row =
        |check: &Check| vec![check.name.to_owned(), check.status.as_str().to_owned(), check.found.clone()];
    let rows: Vec<_> = report.checks.iter().map(row).collect();
    let mut text = table(&COLUMNS, &rows, colours);
    for check in &report.checks {
        if let Some(hint) = &check.hint {
            text += &format!("\n{}: {hint}", check.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever reads the report must see what to do about each finding.
    #[test]
    fn findings_are_followed_by_what_to_do() {
        let checks = vec![
            Check::ok("qemu-img", "10.0.2"),
            Check::bad("kvm", Status::Warning, "no /dev/kvm", "guests run slowly"),
        ];
        let text = describe(&Report { ok: true, checks }, false);
        assert_eq!(
            text,
            "CHECK     STATUS   FOUND\nqemu-img  ok       10.0.2\nkvm       warning  no /dev/kvm\nkvm: guests run slowly"
        );
    }
}
