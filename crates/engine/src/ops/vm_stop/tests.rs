//! Stopping a fake QEMU: by its power button, and whatever it does at once.

use vmrewind_testkit::fake_qemu::machine::{Fault, Setup};

use super::*;
use crate::patience::Patience;
use crate::testing::{Bench, Reached, at_every_command, faults, little_patience, vm};

const AT_ONCE: VmStop = VmStop { force: true, timeout: Duration::ZERO };

fn politely(timeout: Duration) -> VmStop {
    VmStop { force: false, timeout }
}

/// Guards what the button is for, and that a guest which ignores it is left running.
#[test]
fn a_guest_is_asked_and_waited_for() {
    let bench = Bench::running(Setup::default(), Patience::default());
    let view = bench.operation().vm_stop(&vm(), politely(Duration::from_secs(30))).unwrap();
    assert_eq!(view.state, "stopped");
    bench.check("powered off");
    let deaf = Setup { powers_off: false, ..Setup::default() };
    let bench = Bench::running(deaf, Patience::default());
    let error = bench.operation().vm_stop(&vm(), politely(Duration::from_millis(120))).unwrap_err();
    assert!(error.to_string().contains("did not power off within"), "{error}");
    assert!(bench.vm().is_alive());
    bench.check("deaf");
}

/// Guards a paused guest against a button that it can't feel.
#[test]
fn a_paused_guest_is_not_asked() {
    let paused = Setup { run_state: "paused", ..Setup::default() };
    let bench = Bench::running(paused, Patience::default());
    let error = bench.operation().vm_stop(&vm(), politely(Duration::from_secs(30))).unwrap_err();
    assert!(error.to_string().contains("can't power off"), "{error}");
    assert!(!bench.vm().fake.commands().iter().any(|command| command == "system_powerdown"));
    bench.check("paused");
}

/// Guards `--force`: whatever QEMU does, it is gone afterwards, and the command says so.
#[test]
fn a_qemu_that_fails_at_any_command_is_stopped_at_once() {
    for fault in faults() {
        at_every_command(fault, 1, |pass| {
            let bench = Bench::running(Setup::default(), little_patience());
            let qemu = bench.vm();
            qemu.fake.fail_after(pass, fault);
            let view = bench.operation().vm_stop(&vm(), AT_ONCE).unwrap();
            assert_eq!(view.state, "stopped", "{fault:?} at {pass}");
            assert!(!qemu.is_alive(), "{fault:?} at {pass}");
            bench.check("stopped at once");
            Reached::of(qemu.fake.has_failed(), true)
        });
    }
}

/// Guards the polite way against a QEMU that dies or hangs under it: no error for one that is gone, no end without one.
#[test]
fn a_qemu_that_fails_while_its_guest_powers_off() {
    for fault in faults() {
        at_every_command(fault, 1, |pass| {
            let bench = Bench::running(Setup::default(), little_patience());
            let qemu = bench.vm();
            qemu.fake.fail_after_others(pass, fault);
            let result = bench.operation().vm_stop(&vm(), politely(Duration::from_secs(2)));
            let case = format!("{fault:?} at {pass}: {:?}", result.as_ref().map(|view| &view.state));
            if let Ok(view) = &result {
                assert_eq!(view.state, "stopped", "{case}");
                assert!(!qemu.is_alive(), "{case}");
            }
            if fault == Fault::Refuses && !qemu.is_alive() {
                assert!(result.is_ok(), "{case}: it powered off, and the command failed");
            }
            let reached = Reached::of(qemu.fake.has_failed(), result.is_ok());
            qemu.fake.heal();
            bench.recover(&case);
            bench.check(&case);
            reached
        });
    }
}
