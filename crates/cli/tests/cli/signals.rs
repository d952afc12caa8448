//! Guards that a user's interruption ends a command properly and leaves the VM as it was.

use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::{Run, Sandbox};

/// Waits until the process catches the signal, which is before it does anything.
fn wait_for_handler(child: &mut Child, signal: Signal) {
    let status = format!("/proc/{}/status", child.id());
    loop {
        let text = std::fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        if u64::from_str_radix(caught.trim(), 16).unwrap() & 1 << (signal.as_raw() - 1) != 0 {
            return;
        }
        assert_eq!(child.try_wait().unwrap(), None, "it has ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// No guest listens to the power button here: without the signal the command would wait for an hour.
#[test]
fn interrupted_while_waiting_for_the_guest() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    sandbox.ok(&["vm", "start", "web"]);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut command = sandbox.command();
        command.args(["vm", "stop", "web", "--timeout", "1h", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_handler(&mut child, signal);
        // The second one must change nothing.
        for _ in 0..2 {
            kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
        }
        Run::of(&child.wait_with_output().unwrap()).fails(130, &[r#""kind":"interrupted""#]);
        assert_eq!(sandbox.json(&["vm", "show", "web"])["state"], "running");
    }
}
