//! Tests of life cycles as lists of what is done; each action checks what it promises.

use serde_json::Value;

use super::guest::Guest;
use super::must;

/// Something that is done to a guest.
#[derive(Debug, Clone, Copy)]
pub enum Action<'a> {
    /// A snapshot of this name, with memory where the VM runs; the guest runs on.
    Snapshot(&'a str),
    /// A snapshot of the disks only; the guest runs on.
    DiskOnly(&'a str),
    /// Back to a snapshot with memory: the guest goes on there, proven right.
    Restore(&'a str),
    /// The same, giving up the present state: no undo point, no layer more than before.
    RestoreDiscarding(&'a str),
    /// Back to a snapshot of disks: the guest boots and finds the counter that the disks had.
    RestoreCold(&'a str),
    /// The guest destroys its memory and its disks, and notices that.
    Damage,
    /// The guest changes about so many percent of its checksummed memory, as work does.
    Churn(u32),
    /// The guest writes a file on its first disk.
    Write(&'a str, &'a str),
    /// The guest finds this in such a file.
    Reads(&'a str, &'a str),
    /// The guest finds no such file.
    Lacks(&'a str),
    /// The guest checks itself.
    Verify,
    /// The power button; afterwards all file systems are clean and all layers sound.
    Stop,
    /// The plug.
    Unplug,
    /// Boots the guest.
    Start,
    /// Deletes a snapshot.
    Delete(&'a str),
}

impl Guest<'_> {
    /// Carries out one action after the other.
    #[track_caller]
    pub fn play(&self, actions: &[Action<'_>]) {
        for action in actions {
            self.act(*action);
        }
    }

    #[track_caller]
    fn act(&self, action: Action<'_>) {
        match action {
            Action::Snapshot(name) => self.snapshot_runs_on(name, &[]),
            Action::DiskOnly(name) => self.snapshot_runs_on(name, &["--disk-only"]),
            Action::Restore(name) => {
                let restored = self.restore(name, &[]);
                assert_eq!(restored.view["state"], "running");
                self.check_current(name);
            }
            Action::RestoreDiscarding(name) => self.restore_discarding(name),
            Action::RestoreCold(name) => {
                self.restore_cold(name);
            }
            Action::Damage => {
                assert_eq!(self.ask("damage", "DAMAGE"), "DAMAGED");
                let verify = must("have the guest check itself", self.console.verify(super::guest::ANSWER));
                assert!(!verify.ok && !verify.big_ok, "damage is not noticed: {}", verify.line);
            }
            Action::Churn(percent) => {
                self.ask(&format!("churn {percent}"), "CHURNED");
                self.ready();
            }
            Action::Write(name, words) => {
                let answer = self.ask(&format!("write {name} {words}"), "WR");
                assert_eq!(answer, format!("WROTE {name}"));
            }
            Action::Reads(name, words) => {
                assert_eq!(self.ask(&format!("read {name}"), "READ"), format!("READ {name} = {words}"));
            }
            Action::Lacks(name) => {
                assert_eq!(self.ask(&format!("read {name}"), "READ"), format!("READ {name} missing"));
            }
            Action::Verify => drop(self.verify_ok()),
            Action::Stop => {
                self.stop();
                self.check_disks();
            }
            Action::Unplug => {
                let view = self.rig.run_json(&["vm", "stop", &self.name, "--force"]);
                assert_eq!(view["state"], "stopped");
                self.check_layers();
            }
            Action::Start => drop(self.start()),
            Action::Delete(name) => {
                self.rig.run_ok(&["snapshot", "delete", "-y", &self.address(name)]);
                self.rig.run_fails(&["snapshot", "show", &self.address(name)], 4);
                self.known.borrow_mut().remove(name);
            }
        }
    }

    #[track_caller]
    fn snapshot_runs_on(&self, name: &str, options: &[&str]) {
        let runs = self.state() == "running";
        self.snapshot(name, options);
        if runs {
            self.runs();
            assert_eq!(self.state(), "running");
        }
        self.check_current(name);
    }

    #[track_caller]
    fn restore_discarding(&self, name: &str) {
        let abandoned: Vec<String> = active_layers(&self.show());
        let restored = self.restore(name, &["--discard-current"]);
        assert_eq!(restored.view["undo"], Value::Null, "{}", restored.view);
        for layer in abandoned {
            assert!(!std::path::Path::new(&layer).exists(), "{layer} is still there");
        }
        self.check_current(name);
    }

    /// Restores a snapshot without memory and waits for the boot; returns the counter found on the first disk.
    #[track_caller]
    pub fn restore_cold(&self, name: &str) -> Option<u64> {
        let before = self.before();
        let view = self.rig.run_json(&["snapshot", "restore", &self.address(name)]);
        assert_eq!(
            (view["mode"].as_str(), view["state"].as_str()),
            (Some("cold"), Some("running")),
            "{view}"
        );
        self.check_current(name);
        let found = self.booted(before);
        self.verify_ok();
        found
    }

    /// Exactly this snapshot is the one that the VM's present state descends from.
    #[track_caller]
    pub fn check_current(&self, name: &str) {
        let list = self.rig.run_json(&["snapshot", "list", &self.name, "--all"]);
        let list = list.as_array().cloned().unwrap_or_default();
        let current: Vec<_> = list.iter().filter(|view| view["current"] == true).collect();
        assert!(current.len() == 1 && current[0]["name"] == name, "current: {current:?}, not {name}");
        assert_eq!(self.show()["current"], name);
    }
}

/// The files that the VM writes, by `vm show`.
fn active_layers(view: &Value) -> Vec<String> {
    let disks = view["disks"].as_array().into_iter().flatten();
    disks.filter_map(|disk| disk["active"].as_str().map(String::from)).collect()
}
