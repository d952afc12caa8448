//! What is said to a QEMU, and what its answers are taken for.

use serde_json::json;
use vmrewind_testkit::fake_qemu::{FakeQemu, Step};

use super::*;

fn play(steps: Vec<Step>) -> (FakeQemu, Monitor) {
    let fake = FakeQemu::play([vec![Step::Negotiate], steps].concat()).unwrap();
    let patience = Patience { answer: Duration::from_secs(20), ..Patience::default() };
    let monitor = Monitor::connect(&fake.socket(), patience.answer, patience).unwrap();
    (fake, monitor)
}

fn done() -> Step {
    Step::Return(json!({}))
}

/// Guards the length of a pause: QEMU refuses `cont` while it tidies a migration up, and is asked again until it does not;
/// any other refusal is one.
#[test]
fn a_guest_is_let_go_as_soon_as_the_migration_is_finalized() {
    let not_yet = || {
        [Step::Expect("cont"), Step::Fail { class: "GenericError", desc: "Migration is not finalized yet" }]
    };
    let (fake, monitor) =
        play([not_yet().to_vec(), not_yet().to_vec(), vec![Step::Expect("cont"), done()]].concat());
    monitor.cont().unwrap();
    assert_eq!(fake.finish().unwrap().len(), 4);
    let refused = Step::Fail { class: "GenericError", desc: "Block device is in use" };
    let (fake, monitor) = play(vec![Step::Expect("cont"), refused]);
    let error = monitor.cont().unwrap_err();
    assert_eq!(error.to_string(), "QEMU refused: Block device is in use");
    assert_eq!(fake.finish().unwrap().len(), 2, "it was asked once");
}

/// Guards the end of a VM: a QEMU that ends before it has answered `quit` has done what it was told.
#[test]
fn a_qemu_that_ends_without_a_word_has_ended() {
    let (_fake, monitor) = play(vec![Step::Expect("quit")]);
    monitor.quit().unwrap();
    let (_fake, monitor) = play(vec![Step::Expect("quit"), Step::Fail { class: "GenericError", desc: "no" }]);
    assert!(monitor.quit().is_err());
}

/// Guards what is told of a QEMU that is gone: where to look, and not that it refused.
#[test]
fn a_qemu_that_is_gone_is_told_from_one_that_refuses() {
    let (_fake, monitor) = play(vec![Step::Expect("query-status")]);
    let error = monitor.status().unwrap_err();
    assert_eq!(error.hint(), Some(&Hint::LogOfVm), "{error}");
    assert!(monitor.is_gone());
    let (_fake, monitor) =
        play(vec![Step::Expect("query-status"), Step::Return(json!({"status": 7})), Step::Silence]);
    let error = monitor.status().unwrap_err();
    assert_eq!((error.to_string().as_str(), error.hint()), ("QEMU did not answer as it should", None));
}

/// Guards a rescue: no answer is no news, and a closed connection is.
#[test]
fn a_state_that_is_not_said_is_none() {
    let failed = Step::Fail { class: "GenericError", desc: "busy" };
    let (_fake, monitor) = play(vec![Step::Expect("query-status"), failed, Step::Expect("query-status")]);
    assert!(monitor.status_if_said().unwrap().is_none());
    assert!(monitor.status_if_said().is_err());
}

/// Guards captures under emulation: what QEMU would miss is told from what it would not.
#[test]
fn precopy_is_sound_with_kvm_or_one_piece_of_memory() {
    let kvm = |enabled: bool| {
        [Step::Expect("query-kvm"), Step::Return(json!({"enabled": enabled, "present": true}))]
    };
    let (_fake, monitor) = play(kvm(true).to_vec());
    assert_eq!(monitor.why_precopy_is_unsound().unwrap(), None);
    let backend = json!({"id": "a", "size": 4096});
    for (backends, sound) in [(json!([]), true), (json!([backend]), true), (json!([backend, backend]), false)]
    {
        let memory = [Step::Expect("query-memdev"), Step::Return(backends)];
        let (_fake, monitor) = play([kvm(false), memory].concat());
        assert_eq!(monitor.why_precopy_is_unsound().unwrap().is_none(), sound);
    }
}

/// Guards disks of one instant: all are switched in one transaction, and no transaction is begun for none.
#[test]
fn disks_are_switched_together() {
    let (fake, monitor) = play(vec![Step::Expect("transaction"), done()]);
    monitor.switch_disks(&[]).unwrap();
    let disk = |node: &str| DiskSwitch { node: node.into(), overlay: format!("vmr-{node}") };
    monitor.switch_disks(&[disk("a"), disk("b")]).unwrap();
    let requests = fake.finish().unwrap();
    let actions = requests[1]["arguments"]["actions"].as_array().unwrap();
    let nodes: Vec<&str> = actions.iter().map(|action| action["data"]["node"].as_str().unwrap()).collect();
    assert_eq!(nodes, ["a", "b"]);
    assert!(actions.iter().all(|action| action["type"] == "blockdev-snapshot"));
}

/// Guards guests that stand still for themselves: one that panicked or met a full disk is not let go by us.
#[test]
fn only_what_we_stopped_is_let_go() {
    let ours = ["paused", "postmigrate", "finish-migrate", "prelaunch"];
    let others =
        ["running", "io-error", "guest-panicked", "shutdown", "inmigrate", "watchdog", "suspended", "debug"];
    for (words, still) in [(&ours[..], true), (&others[..], false)] {
        for word in words {
            let state: RunState = serde_json::from_value(json!(word)).unwrap();
            assert_eq!(stands_still_for_us(&state), still, "{word}");
            assert_eq!(is_running(&state), *word == "running", "{word}");
        }
    }
}

/// Guards the network of clones: every device of the guest is found, whatever is around it, and no backend is taken for one.
#[test]
fn network_devices_are_told_from_their_backends() {
    let text = "hub 0\r\n \\ hub0port0: e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56\r\n\
        net0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57\r\n \
        \\ user0: index=0,type=user,net=10.0.2.0,restrict=off\r\n\
        tap1: index=0,type=tap,ifname=tap0,script=no\r\n";
    assert_eq!(network_devices(text), ["e1000.0", "net0"]);
    assert_eq!(network_devices(""), [] as [&str; 0]);
}

/// Guards the agent's waiting time: a port that no program has opened is known not to answer.
#[test]
fn a_port_is_open_if_the_guest_opened_it() {
    let ports = json!([
        {"label": "qga0", "filename": "unix:a", "frontend-open": false},
        {"label": "compat_monitor0", "filename": "unix:b", "frontend-open": true},
    ]);
    for (name, open) in [("qga0", false), ("compat_monitor0", true), ("other", false)] {
        let (_fake, monitor) = play(vec![Step::Expect("query-chardev"), Step::Return(ports.clone())]);
        assert_eq!(monitor.is_open_in_guest(name).unwrap(), open, "{name}");
    }
}
