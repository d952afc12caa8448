//! `vmrewind doctor`: checks that this host has what vmrewind needs, and says what would make it better.
//!
//! Nothing is changed and no root is made. A check is `missing` where vmrewind can't work without it (exit status 1)
//! and a `warning` where only something is slower or can't be had.

mod host;
mod programs;
mod report;

use clap::Args;
use vmrewind_engine::{Arch, Error};

use crate::command_error::CommandError;
use crate::session::Session;
use report::{Report, Status};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
The exit status is 1 where something that vmrewind can't do without is missing.

Examples:
  vmrewind doctor
  vmrewind doctor --json | jq '.checks[] | select(.status != \"ok\")'")]
pub(crate) struct DoctorArguments {}

/// Looks at the host.
///
/// # Errors
/// `Failed` where something needed is missing, after the report.
pub(crate) fn run(session: &Session, _: &DoctorArguments) -> Result<(), CommandError> {
    let arch = Arch::host();
    let checks = vec![
        programs::check(programs::Program { name: arch.program, package: arch.package, needed: true }),
        programs::check(programs::Program { name: "qemu-img", package: "qemu-utils", needed: true }),
        programs::check(programs::Program {
            name: "qemu-storage-daemon",
            package: "qemu-utils",
            needed: false,
        }),
        host::root(session),
        host::kvm(),
        host::userfaultfd(),
        host::firmware(arch),
    ];
    let missing: Vec<&str> =
        checks.iter().filter(|check| check.status == Status::Missing).map(|check| check.name).collect();
    let missing = missing.join(", ");
    let report = Report { ok: missing.is_empty(), checks };
    let printed = session.output.result(&report, || report.describe(session.output.colours()));
    if report.ok {
        return Ok(printed?);
    }
    Err(CommandError::advised(
        Error::failed(format!("this host lacks what vmrewind needs: {missing}")),
        "do what the report says, then run `vmrewind doctor` again",
    ))
}
