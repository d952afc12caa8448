//! The guest agent's client against the real agent of a Linux guest.

use std::time::Duration;

use vmrewind_qemu::qmp::AgentClient;
use vmrewind_qemu::qmp::agent::{
    GuestExec, GuestExecStatus, GuestGetTime, GuestPing, GuestProcess, GuestSetTime,
};
use vmrewind_testkit::guest::{Agent, GuestOptions, command_line};
use vmrewind_testkit::qemu;

const BOOT: Duration = Duration::from_secs(120);
const LONG: Duration = Duration::from_secs(60);
/// The first second of the year 2040.
const YEAR_2040_SECONDS: i64 = 2_208_988_800;

/// Guards what the scripted agent assumes: names, arguments and replies are those of the real one.
#[test]
fn sets_the_clock_and_runs_commands() {
    let folder = tempfile::tempdir().unwrap();
    let options = GuestOptions { agent: Agent::Running, fill_mib: 8, ..GuestOptions::default() };
    let qemu = qemu::spawn(&command_line(&options).unwrap(), folder.path()).unwrap();
    let console = qemu.console();
    console.wait_ready(BOOT).unwrap();
    let mut agent = AgentClient::connect(&folder.path().join("agent.sock"), 1, LONG).unwrap();
    agent.execute(&GuestPing, LONG).unwrap();

    agent.execute(&GuestSetTime { time: YEAR_2040_SECONDS * 1_000_000_000 }, LONG).unwrap();
    let clock = console.ask("clock", "CLOCK ", LONG).unwrap();
    let seconds = clock["CLOCK ".len()..].parse::<i64>().unwrap() / 1000;
    assert!((YEAR_2040_SECONDS..YEAR_2040_SECONDS + 3600).contains(&seconds), "{clock}");
    assert!(agent.execute(&GuestGetTime, LONG).unwrap() / 1_000_000_000 >= seconds);

    let exit = run(&mut agent, "echo out; echo err >&2; exit 3");
    assert_eq!((exit.exitcode, exit.signal), (Some(3), None));
    assert_eq!((exit.stdout, exit.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    assert_eq!(run(&mut agent, "kill -9 $$").signal, Some(9));
}

fn run(agent: &mut AgentClient, command: &str) -> GuestProcess {
    let arg = vec!["-c".to_owned(), command.to_owned()];
    let exec = GuestExec { path: "/bin/sh".into(), arg, capture_output: true };
    let pid = agent.execute(&exec, LONG).unwrap().pid;
    loop {
        let process = agent.execute(&GuestExecStatus { pid }, LONG).unwrap();
        if process.exited {
            return process;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
