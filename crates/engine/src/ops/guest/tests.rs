//! The clocks of restored guests, by agents that answer, refuse, or say anything at all.

use serde_json::json;
use vmrewind_testkit::fake_qemu::agent::{Answer, Answers};
use vmrewind_testkit::fake_qemu::machine::Setup;

use super::*;
use crate::ids::Address;
use crate::ops::snapshot_restore::SnapshotRestore;
use crate::patience::Patience;
use crate::testing::{Bench, vm};
use crate::view::RestoreView;

fn agent(set_time: Answer) -> Answers {
    Answers::from([("guest-ping", Answer::Return(json!({}))), ("guest-set-time", set_time)])
}

fn with_channel(answers: Option<Answers>) -> Bench {
    let setup = Setup { agent: Some("qga0".into()), ..Setup::default() };
    let bench = Bench::with_snapshot(setup, Patience::default());
    *bench.machines.agent.lock().unwrap() = answers;
    bench
}

fn restore(bench: &Bench, paused: bool) -> RestoreView {
    let address = Address { vm: vm(), snapshot: "snap-1".parse().unwrap() };
    let (only_id, eager, discard_current) = (None, true, false);
    let request = SnapshotRestore { address, only_id, paused, eager, discard_current };
    bench.operation().snapshot_restore(&request).unwrap()
}

/// Why the clock of a restored guest is behind.
fn why_behind(view: &RestoreView) -> &str {
    assert_eq!(view.clock, Some(GuestClock::Behind), "{view:?}");
    view.notes.iter().find(|note| note.contains("the guest's clock is behind")).unwrap()
}

/// Guards the guest's time: its agent is told what the host's clock says, also where it takes a while, and where the guest
/// has no hardware clock to set as well.
#[test]
fn the_clock_is_set() {
    let late = Answer::Late(std::time::Duration::from_millis(50), json!({}));
    let mut without_hardware_clock = agent(Answer::Fail("hwclock failed"));
    without_hardware_clock.insert("guest-get-time", Answer::Return(json!(5_000_000)));
    for answers in [agent(Answer::Return(json!({}))), agent(late), without_hardware_clock] {
        let bench = with_channel(Some(answers));
        let view = restore(&bench, false);
        assert_eq!(view.clock, Some(GuestClock::Set), "{view:?}");
        let asked = bench.vm().agent.as_ref().unwrap().asked();
        let set = asked.iter().find(|request| request["execute"] == "guest-set-time").unwrap();
        // The host's clock stands at the epoch.
        assert_eq!(set["arguments"]["time"], 0);
        bench.check("set");
    }
}

/// Guards a restore that is done: whatever the agent does, the guest runs, and the user learns that its clock is behind.
#[test]
fn an_agent_of_no_use_is_no_failure() {
    let mut silent = Answers::new();
    silent.insert("guest-ping", Answer::Close);
    let cases = [
        (agent(Answer::Fail("guest-set-time has been disabled")), "guest-set-time has been disabled"),
        (agent(Answer::Garbage(b"}{\n")), "can't be understood"),
        (agent(Answer::Close), "can't be understood"),
        (silent, "can't be understood"),
        (Answers::new(), "has not been found"),
    ];
    for (answers, why) in cases {
        let bench = with_channel(Some(answers));
        let view = restore(&bench, false);
        assert!(why_behind(&view).contains(why), "{view:?}");
        assert_eq!(view.state, "running");
        bench.check(why);
    }
}

/// Guards against waiting for an agent that can't be there.
#[test]
fn without_an_agent_nobody_is_asked() {
    let bench = Bench::with_snapshot(Setup::default(), Patience::default());
    assert!(why_behind(&restore(&bench, false)).contains("no channel to a guest agent"));
    let bench = with_channel(None);
    bench.set_up(|setup| setup.agent = None);
    assert!(why_behind(&restore(&bench, false)).contains("no guest agent runs in the guest"));
    let bench = with_channel(Some(agent(Answer::Return(json!({})))));
    assert!(why_behind(&restore(&bench, true)).contains("the guest is paused"));
    assert_eq!(bench.vm().agent.as_ref().unwrap().asked(), [] as [serde_json::Value; 0]);
}

/// Guards users' own tools: they are told the socket of a VM that runs, and of no other.
#[test]
fn the_socket_of_the_agent_is_told() {
    let bench = with_channel(None);
    let socket = bench.operation().guest_agent(&vm()).unwrap().unwrap();
    // The path that stays when a restore puts another QEMU in this one's place.
    assert_eq!(socket, bench.folder().run_link().join("agent.sock"));
    bench.vm().kill().unwrap();
    let error = bench.operation().guest_agent(&vm()).unwrap_err();
    assert_eq!(error.hint(), Some(&Hint::StartVm { vm: "v".into() }));
}
