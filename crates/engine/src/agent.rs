//! The QEMU guest agent of a running VM: sets the guest's clock, runs a command in the guest.
//!
//! A guest can be without an agent, or have one that hangs, or answer anything at all. So every call here is bounded in
//! time, and its failure is never that of an operation: it says in a few words why the agent is of no use, for a note.
//! Where no program in the guest has opened the agent's port QEMU knows that, and nobody waits.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use vmrewind_qemu::cmdline::GuestAgentChannel;
use vmrewind_qemu::qmp::agent::{
    GuestExec, GuestExecStatus, GuestGetTime, GuestPing, GuestProcess, GuestSetTime,
};
use vmrewind_qemu::qmp::commands::Command;
use vmrewind_qemu::qmp::{AgentClient, QmpError};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::vm::machine::{Machine, Use};

/// How long an agent may take to say that it is there: one that has just been restored has its memory read in first.
const PING_PATIENCE: Duration = Duration::from_secs(8);
/// How long it may take to answer after that. It waits for the guest's `hwclock`, which takes up to a second.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// How far a clock that was set can be from the time it was set to when the guest is asked again.
const SET_WITHIN: Duration = Duration::from_secs(10);
/// The pauses between questions whether a program has ended.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// A guest agent that answers.
pub(crate) struct Agent<'a> {
    ctx: &'a Context,
    client: AgentClient,
}

/// How a command in a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestExit {
    /// Its exit status, or none where a signal ended it.
    pub(crate) status: Option<i64>,
    /// The signal that ended it.
    pub(crate) signal: Option<i64>,
    /// Its standard output, as far as the agent kept it.
    pub(crate) stdout: Vec<u8>,
    /// Its standard error, as far as the agent kept it.
    pub(crate) stderr: Vec<u8>,
    /// Whether there was more of either.
    pub(crate) output_cut: bool,
}

impl<'a> Agent<'a> {
    /// Finds the agent of a VM, and hears from it.
    ///
    /// # Errors
    /// `Failed`, with a message that says in a few words what is missing: the channel, the agent, its answer.
    pub(crate) fn find(
        ctx: &'a Context,
        channel: Option<&GuestAgentChannel>,
        machine: &dyn Machine,
    ) -> Result<Self> {
        let channel = channel.ok_or_else(|| Error::failed("the VM has no channel to a guest agent"))?;
        let monitor = machine.channel_briefly(Use::Status)?;
        if !monitor.is_open_in_guest(&channel.chardev)? {
            return Err(Error::failed("no guest agent runs in the guest"));
        }
        Self::connect(ctx, Path::new(&channel.socket), PING_PATIENCE)
    }

    fn connect(ctx: &'a Context, socket: &Path, patience: Duration) -> Result<Self> {
        let mut first_sync = [0; 4];
        ctx.host.random.fill(&mut first_sync);
        let client = AgentClient::connect(socket, u32::from_le_bytes(first_sync), patience);
        let mut agent = Self { ctx, client: client.map_err(explained)? };
        agent.ask(&GuestPing, patience)?;
        Ok(agent)
    }

    /// Sets the guest's clock.
    ///
    /// An agent that then can't set the guest's hardware clock calls that a failure; it is none here.
    ///
    /// # Errors
    /// `Failed` where the agent refuses or falls silent.
    pub(crate) fn set_clock(&mut self, now: Timestamp) -> Result<()> {
        let time = i64::try_from(now.as_nanosecond())
            .map_err(|_| Error::failed("the host's clock is beyond the year 2262"))?;
        let Err(refusal) = self.ask(&GuestSetTime { time }, ANSWER_PATIENCE) else { return Ok(()) };
        let shown = self.ask(&GuestGetTime, ANSWER_PATIENCE).map_err(|_| ());
        match shown.map(|shown| shown.abs_diff(time)) {
            Ok(apart) if u128::from(apart) <= SET_WITHIN.as_nanos() => Ok(()),
            _ => Err(refusal),
        }
    }

    /// Runs a program in the guest and waits for its end. One that takes too long is left running there.
    ///
    /// # Errors
    /// `Failed` where the agent refuses or falls silent, or time is up; `Interrupted`.
    pub(crate) fn exec(&mut self, path: &str, arguments: &[&str], timeout: Duration) -> Result<GuestExit> {
        let deadline = Instant::now() + timeout;
        let arg = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let started = GuestExec { path: path.to_owned(), arg, capture_output: true };
        let pid = self.ask(&started, ANSWER_PATIENCE)?.pid;
        let mut pause = SHORTEST_PAUSE;
        loop {
            let process = self.ask(&GuestExecStatus { pid }, ANSWER_PATIENCE)?;
            if process.exited {
                return Ok(GuestExit::of(process));
            }
            self.ctx.cancel.check("a command ran in the guest")?;
            if Instant::now() >= deadline {
                return Err(Error::failed(format!(
                    "'{path}' did not end within {timeout:?} and was left running in the guest (pid {pid})"
                )));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn ask<C: Command>(&mut self, command: &C, patience: Duration) -> Result<C::Reply> {
        self.client.execute(command, patience).map_err(explained)
    }
}

impl GuestExit {
    fn of(process: GuestProcess) -> Self {
        Self {
            // Windows gives a status beside the signal; on Linux it is one or the other.
            status: process.exitcode.filter(|_| process.signal.is_none()),
            signal: process.signal,
            output_cut: process.stdout_cut || process.stderr_cut,
            stdout: process.stdout,
            stderr: process.stderr,
        }
    }

    /// Whether it ended with status 0.
    pub(crate) fn is_success(&self) -> bool {
        self.status == Some(0)
    }
}

/// The error in the words of a note; the details stay its cause.
fn explained(error: QmpError) -> Error {
    let message = match (&error, error.refusal()) {
        (_, Some(refusal)) => format!("the guest agent refuses: {}", refusal.desc),
        (QmpError::Deadline { .. }, _) => "the guest agent does not answer".to_owned(),
        (QmpError::Connect { .. }, _) => "the guest agent's channel can't be opened".to_owned(),
        _ => "the guest agent can't be understood".to_owned(),
    };
    Error::failed(message).because(error)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vmrewind_testkit::fake_qemu::{FakeQemu, Step};

    use super::*;
    use crate::testing::context;

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(50);

    /// An agent that answers a ping, then what `script` says.
    fn scripted(script: Vec<Step>) -> FakeQemu {
        let sync = [&b"\xff"[..], b"{\"return\": 16843009}\n"].concat();
        let hello = [Step::Expect("guest-sync-delimited"), Step::Send(sync), Step::Expect("guest-ping")];
        let script = hello.into_iter().chain([Step::Return(json!({}))]).chain(script);
        FakeQemu::play(script.collect()).unwrap()
    }

    /// Guards every operation against a guest that hangs: the wait ends, in words that a note can hold.
    #[test]
    fn an_agent_that_is_silent_is_given_up() {
        let fake = FakeQemu::play(vec![Step::Silence]).unwrap();
        let error = Agent::connect(&context(), &fake.socket(), SHORT).err().unwrap();
        assert_eq!(error.to_string(), "the guest agent does not answer");
    }

    /// Guards a guest without a hardware clock: set is set, and refused is refused.
    #[test]
    fn a_clock_that_was_set_counts_whatever_the_agent_says() {
        let refused = |shown: i64| {
            let desc = "hwclock failed to set hardware clock to system time";
            let fake = scripted(vec![
                Step::Expect("guest-set-time"),
                Step::Fail { class: "GenericError", desc },
                Step::Expect("guest-get-time"),
                Step::Return(json!(shown)),
            ]);
            Agent::connect(&context(), &fake.socket(), LONG).unwrap().set_clock(Timestamp::UNIX_EPOCH)
        };
        assert!(refused(1_000_000_000).is_ok());
        let error = refused(3_600_000_000_000).unwrap_err().to_string();
        assert!(error.contains("hwclock"), "{error}");
    }

    /// Guards what a command in the guest gave: status, both outputs, whether there was more.
    #[test]
    fn a_command_in_the_guest_is_awaited() {
        let running = || [Step::Expect("guest-exec-status"), Step::Return(json!({"exited": false}))];
        let ended = json!({"exited": true, "exitcode": 3, "out-data": "b3V0Cg==", "err-truncated": true});
        let script = [Step::Expect("guest-exec"), Step::Return(json!({"pid": 7}))].into_iter();
        let script = script.chain(running()).chain(running());
        let script = script.chain([Step::Expect("guest-exec-status"), Step::Return(ended)]);
        let fake = scripted(script.collect());
        let ctx = context();
        let mut agent = Agent::connect(&ctx, &fake.socket(), LONG).unwrap();
        let exit = agent.exec("/bin/sh", &["-c", "x"], LONG).unwrap();
        assert_eq!((exit.status, exit.signal, exit.output_cut), (Some(3), None, true));
        assert_eq!((exit.stdout, exit.stderr), (b"out\n".to_vec(), Vec::new()));
        let requests = fake.finish().unwrap();
        let asked = json!({"path": "/bin/sh", "arg": ["-c", "x"], "capture-output": true});
        assert_eq!(requests[2]["arguments"], asked);
    }

    /// Guards against waiting for ever, and against taking a refusal for anything else.
    #[test]
    fn a_command_that_does_not_end_or_may_not_run_is_an_error() {
        let script = vec![
            Step::Expect("guest-exec"),
            Step::Return(json!({"pid": 7})),
            Step::Expect("guest-exec-status"),
            Step::Return(json!({"exited": false})),
            Step::Expect("guest-exec"),
            Step::Fail { class: "CommandNotFound", desc: "guest-exec has been disabled" },
        ];
        let fake = scripted(script);
        let ctx = context();
        let mut agent = Agent::connect(&ctx, &fake.socket(), LONG).unwrap();
        let error = agent.exec("/bin/sleep", &[], Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("did not end") && error.contains("pid 7"), "{error}");
        let error = agent.exec("/bin/sh", &[], LONG).unwrap_err().to_string();
        assert_eq!(error, "the guest agent refuses: guest-exec has been disabled");
    }
}
