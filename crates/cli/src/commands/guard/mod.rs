//! `vmrewind guard`: a snapshot, a command on the host, and the way back where it fails.
//!
//! ```text
//!  snapshot --fails--> nothing is run; the status says why (1 to 7)
//!     |
//!  COMMAND --status 0--> check --status 0--> the snapshot is kept, or dropped
//!     |                    |
//!     '--- not 0, time is up, Ctrl-C: what is left of it is killed, the snapshot restored
//! ```
//! The exit status is that of the command or the check; 124 where time was up, 130 after Ctrl-C, 128+N after signal N,
//! 126 and 127 where it could not be run, and 3 where the VM could not be brought back. The VM is not held while the
//! command runs, which can use vmrewind on it. One who kills `vmrewind guard` itself has the snapshot left, and the command
//! running.

mod job;
mod report;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use vmrewind_engine::{
    Address, Error, ErrorKind, Operation, RestoreView, SnapshotCreate, SnapshotId, SnapshotName,
    SnapshotRestore, VmName,
};

use crate::command_error::{CommandError, ErrorPrinter};
use crate::output::human::shell_words;
use crate::quantity::parse_duration;
use crate::session::{Session, shown};
use job::{End, Job};
use report::{Done, Outcome, Ran, Why};

/// Arguments of `guard`.
#[derive(Debug, Args)]
#[command(after_help = "\
COMMAND runs on the host. It finds the VM in its environment: VMREWIND_VM, VMREWIND_SNAPSHOT (VM@NAME), \
VMREWIND_ROOT, and of a VM that runs VMREWIND_RUN (folder of sockets and logs), VMREWIND_QMP, VMREWIND_CONSOLE, \
VMREWIND_AGENT (sockets, where it has them) and VMREWIND_PORT_N for each {port:N}. The check has VMREWIND_STATUS too.

It fails with a status other than 0, when the check does, when time is up (SIGTERM, ten seconds later SIGKILL, to \
all of its process group), and at Ctrl-C. Then what is left of it is killed, and the VM is back at the snapshot; what \
its disks held is kept as an undo point, unless --discard-current is given.

Exit status: that of COMMAND, or of the check where that failed; 124 time is up; 126, 127 it can't be run; \
128+N ended by signal N (130 Ctrl-C); 3 the VM is not back, as the message says. Where the snapshot can't be made \
COMMAND is not run, and the status is that of `snapshot create`. With --json, COMMAND's standard output goes to standard \
error.

Examples:
  vmrewind guard web -- ssh web 'apt-get -y full-upgrade'
  vmrewind guard web --timeout 10m --check 'curl -fsS http://localhost:8080/' -- ./deploy.sh
  vmrewind guard web --name before-test --drop -- ./run-tests.sh")]
pub(crate) struct GuardArguments {
    /// Name of the VM
    #[arg(value_name = "VM")]
    vm: String,
    /// Name of the snapshot [default: guard-N]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Words to remember the snapshot by [default: the command]
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Time that the command, and the check, may take: 30s, 10m, 1h
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Shell command that tells, by its status, whether all is well after the command
    #[arg(long, value_name = "CMD")]
    check: Option<OsString>,
    /// Drop the snapshot where all went well
    #[arg(long)]
    drop: bool,
    /// On the way back, give up the failed state in place of keeping it as an undo point
    #[arg(long)]
    discard_current: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command under guard, and gives its exit status.
///
/// # Errors
/// As the engine's `snapshot_create`, nothing run; `Partial` where the VM could not be brought back.
pub(crate) fn run(session: &Session, arguments: GuardArguments) -> Result<ExitCode, CommandError> {
    let operation = session.operation()?;
    let vm: VmName = arguments.vm.parse()?;
    let snapshot = operation.snapshot_create(&request(&operation, &vm, &arguments)?)?;
    let guard = Guard {
        session,
        address: Address { vm, snapshot: snapshot.name.parse()? },
        id: snapshot.id.parse()?,
        environment: Vec::new(),
        arguments,
    };
    let done = guard.with_environment(&operation).carry_out()?;
    // The status is that of the command, whoever reads the rest.
    if let Err(error) = done.print(&session.output) {
        ErrorPrinter { json: session.output.is_json() }.print(&error.into());
    }
    Ok(ExitCode::from(done.exit_status))
}

fn request(operation: &Operation, vm: &VmName, arguments: &GuardArguments) -> Result<SnapshotCreate, Error> {
    let name = match &arguments.name {
        Some(name) => name.parse()?,
        None => free_name(operation, vm)?,
    };
    let words: Vec<String> =
        arguments.command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    Ok(SnapshotCreate {
        vm: vm.clone(),
        name: Some(name),
        message: Some(arguments.message.clone().unwrap_or_else(|| format!("before {}", shell_words(&words)))),
        labels: std::collections::BTreeMap::new(),
        disk_only: false,
        require: None,
        max_pause: None,
    })
}

/// `guard-N`, with the first number after those in use.
fn free_name(operation: &Operation, vm: &VmName) -> Result<SnapshotName, Error> {
    let list = operation.snapshot_list(Some(vm), true)?.items;
    let numbers = list.iter().filter_map(|view| view.name.strip_prefix("guard-")?.parse::<u64>().ok());
    format!("guard-{}", numbers.max().unwrap_or(0).saturating_add(1)).parse()
}

/// A snapshot that is there, and a command to be run over it.
struct Guard<'s> {
    session: &'s Session,
    address: Address,
    /// The command can delete the snapshot, and give its name to another one: that is none of ours.
    id: SnapshotId,
    environment: Vec<(String, OsString)>,
    arguments: GuardArguments,
}

impl Guard<'_> {
    /// What the command is told of the VM. What can't be found out is left out: the VM can have ended meanwhile.
    fn with_environment(mut self, operation: &Operation) -> Self {
        let vm = &self.address.vm;
        let mut add =
            |name: &str, value: OsString| self.environment.push((format!("VMREWIND_{name}"), value));
        add("VM", vm.as_str().into());
        add("SNAPSHOT", self.address.to_string().into());
        if let Ok(root) = self.session.root().and_then(|root| Ok(absolute(&root)?)) {
            add("ROOT", root);
        }
        if let Ok(view) = operation.vm_show(vm)
            && let Some(qmp) = view.qmp
        {
            add("RUN", view.run.into());
            add("QMP", qmp.into());
            for (wanted, port) in view.ports {
                add(&format!("PORT_{wanted}"), port.to_string().into());
            }
        }
        if let Ok(console) = operation.console(vm) {
            add("CONSOLE", console.0.into());
        }
        if let Ok(Some(agent)) = operation.guest_agent(vm) {
            add("AGENT", agent.into());
        }
        self
    }

    fn carry_out(&self) -> Result<Done, CommandError> {
        let begun = Instant::now();
        let mut done = Done::new(&self.address, &self.arguments.command);
        let why = match self.run(&self.arguments.command, None) {
            Err(error) => return self.not_run(done, &error),
            Ok(ran) => {
                let failed = Why::of(ran.end);
                done.command.ran(&ran);
                match failed {
                    Some(why) => Some((why, ran.end)),
                    None => self.check(&mut done)?,
                }
            }
        };
        match why {
            None => self.keep_or_drop(&mut done)?,
            Some((why, end)) => {
                done.exit_status = end.exit_status();
                done.failed(why, self.bring_back(&self.session.unstoppable_operation()?)?);
            }
        }
        done.finish(begun.elapsed());
        Ok(done)
    }

    /// Runs the check, where there is one; gives why it failed.
    fn check(&self, done: &mut Done) -> Result<Option<(Why, End)>, CommandError> {
        let Some(check) = &self.arguments.check else { return Ok(None) };
        let words = ["/bin/sh".into(), "-c".into(), check.clone()];
        let status = OsString::from("0");
        let ran = match self.run(&words, Some(status)) {
            Ok(ran) => ran,
            // Without a shell nothing can be said of the VM: that is no success.
            Err(_) => Ran { end: End::Status(127), took: Duration::ZERO },
        };
        done.checked(check, &ran);
        Ok(Why::of(ran.end).map(|why| (why.of_check(), ran.end)))
    }

    fn run(&self, words: &[OsString], status: Option<OsString>) -> std::io::Result<Ran> {
        let mut environment = self.environment.clone();
        environment.extend(status.map(|status| ("VMREWIND_STATUS".to_owned(), status)));
        let job = Job {
            words,
            environment: &environment,
            timeout: self.arguments.timeout,
            cancel: &self.session.cancel,
            stdout_to_stderr: self.session.output.is_json(),
        };
        let begun = Instant::now();
        job.run().map(|end| Ran { end, took: begun.elapsed() })
    }

    /// The command could not even be started: nothing happened that the snapshot is needed for.
    fn not_run(&self, mut done: Done, error: &std::io::Error) -> Result<Done, CommandError> {
        let outcome = self.drop_snapshot("the command can't be run")?;
        done.not_run(error, outcome);
        Ok(done)
    }

    fn keep_or_drop(&self, done: &mut Done) -> Result<(), CommandError> {
        done.outcome = if self.arguments.drop {
            self.drop_snapshot("the command succeeded")?
        } else {
            match self.session.unstoppable_operation()?.snapshot_show(&self.address) {
                Ok(found) if found.id != self.id.as_str() => Outcome::Gone,
                Err(error) if error.kind() == ErrorKind::NotFound => Outcome::Gone,
                // Whatever keeps it from being looked at does not remove it.
                _ => Outcome::Kept,
            }
        };
        Ok(())
    }

    fn drop_snapshot(&self, what: &str) -> Result<Outcome, CommandError> {
        let operation = self.session.unstoppable_operation()?;
        match operation.snapshot_drop(&self.address, Some(&self.id)) {
            Ok(_) => Ok(Outcome::Dropped),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Outcome::Gone),
            Err(error) => Err(error
                .while_doing(format!("{what}, and snapshot '{}' can't be dropped", self.address))
                .with_kind(ErrorKind::Partial)
                .into()),
        }
    }

    fn bring_back(&self, operation: &Operation) -> Result<RestoreView, CommandError> {
        let request = SnapshotRestore {
            address: self.address.clone(),
            only_id: Some(self.id.clone()),
            paused: false,
            eager: false,
            discard_current: self.arguments.discard_current,
        };
        operation.snapshot_restore(&request).map_err(|error| {
            let hint = if error.kind() == ErrorKind::NotFound {
                "the snapshot or the VM was deleted or renamed meanwhile; `vmrewind snapshot list --all` shows what is there"
                    .to_owned()
            } else {
                format!("the snapshot is kept; try `vmrewind snapshot restore {}`", self.address)
            };
            let error = error
                .while_doing(format!(
                    "THE VM IS NOT BACK: the command failed, and snapshot '{}' could not be restored",
                    self.address
                ))
                .with_kind(ErrorKind::Partial);
            CommandError::advised(error, hint)
        })
    }
}

fn absolute(path: &std::path::Path) -> Result<OsString, Error> {
    std::path::absolute(path)
        .map(Into::into)
        .map_err(|error| Error::failed(format!("cannot use '{}'", shown(path))).because(error))
}
