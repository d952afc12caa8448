//! QEMU's migration settings: as a capture needs them, and back to what its user had.
//!
//! A QEMU has one set of them for whoever migrates. What another tool left on would break a capture: `multifd`, compression,
//! TLS, a return path that nobody answers, shared memory left out. What a capture leaves would break that tool's next
//! migration, which stands still for ever after `pause-before-switchover`. So a capture turns everything off that it
//! does not use, and what it found is put back once the guest runs again. The journal has it meanwhile, for a capture
//! that was killed.
//!
//! A snapshot or restore is whole without that. Where QEMU does not take its settings back by then, since it hangs or
//! refuses, they are owed to it: `run/migration.json` has them, and every command that takes the VM for writing tries again.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vmrewind_qemu::qmp::commands::{
    MigrateSetCapabilities, MigrateSetParameters, MigrationParameters, QueryMigrateCapabilities,
    QueryMigrateParameters,
};

use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::record::RECORD_VERSION;
use crate::record::journal::{MigrationSettings, ProcessMark};
use crate::root::VmFolder;
use crate::root::file::Files;
use crate::vm::machine::{Machines, Use};
use crate::vm::run_folder;

/// Parameters that each capture sets.
const SET: [&str; 2] = ["max-bandwidth", "downtime-limit"];
/// Parameters that bend a stream whatever the capabilities are, and what they are where nobody set them: encryption, a guess
/// of the bandwidth in place of its measure, another kind of migration.
const NEUTRAL: [(&str, &str); 3] =
    [("tls-creds", r#""""#), ("avail-switchover-bandwidth", "0"), ("mode", r#""normal""#)];

/// In the run folder: what QEMU is owed.
const OWED: &str = "migration.json";
/// How often settings are put back, until QEMU takes them.
const PUT_BACK_TRIES: u32 = 3;
/// And how long that may have taken: one that hangs is not waited for again and again.
const PUT_BACK_PATIENCE: Duration = Duration::from_secs(10);

impl Monitor {
    /// The settings that QEMU has now.
    ///
    /// # Errors
    /// Where QEMU does not tell them.
    pub(crate) fn migration_settings(&self) -> Result<MigrationSettings> {
        let known = self.execute(&QueryMigrateCapabilities)?;
        let on = known.into_iter().filter(|one| one.state).map(|one| one.capability).collect();
        Ok(MigrationSettings { on, parameters: parameters(self)? })
    }

    /// Puts settings back. No migration may be under way.
    ///
    /// # Errors
    /// Where QEMU does not take them, at the third time either: it can answer late, or be tidying up.
    pub(crate) fn put_back(&self, settings: &MigrationSettings) -> Result<()> {
        let begun = Instant::now();
        for _ in 1..PUT_BACK_TRIES {
            match self.try_to_put_back(settings) {
                Err(_) if begun.elapsed() < PUT_BACK_PATIENCE && !self.is_gone() => {}
                done => return done,
            }
        }
        self.try_to_put_back(settings)
    }

    fn try_to_put_back(&self, settings: &MigrationSettings) -> Result<()> {
        turn_on_exactly(self, |name| settings.on.iter().any(|on| on == name))?;
        set(self, settings.parameters.clone())
    }

    /// Turns on exactly these capabilities, and has a migration go as fast as it can and by nothing but them.
    pub(crate) fn prepare_migration(&self, on: &[&str], downtime_ms: u64) -> Result<()> {
        turn_on_exactly(self, |name| on.contains(&name))?;
        let known = parameters(self)?;
        let mut wanted = Map::new();
        for (name, value) in NEUTRAL {
            let neutral = serde_json::from_str(value).unwrap_or(Value::Null);
            // An older QEMU does not have all of them.
            if known.get(name).is_some_and(|value| *value != neutral) {
                wanted.insert(name.to_owned(), neutral);
            }
        }
        wanted.insert("max-bandwidth".to_owned(), json!(0));
        wanted.insert("downtime-limit".to_owned(), json!(downtime_ms));
        set(self, wanted)
    }

    /// Has a QEMU that waits for a machine take what comes by exactly these capabilities.
    pub(crate) fn prepare_incoming(&self, on: &[&str]) -> Result<()> {
        turn_on_exactly(self, |name| on.contains(&name))
    }
}

/// What a QEMU is owed: `run/migration.json`. It means nothing once that QEMU is gone, so it is not synced.
#[derive(Debug, Serialize, Deserialize)]
struct Owed {
    version: u32,
    qemu: ProcessMark,
    settings: MigrationSettings,
}

/// Puts settings back, or has a later command do it.
pub(crate) fn put_back_or_owe(
    monitor: &Monitor,
    qemu: ProcessMark,
    run: &Path,
    settings: &MigrationSettings,
) {
    let Err(error) = monitor.put_back(settings) else { return };
    tracing::warn!("QEMU's migration settings are not as they were yet: {}", error.in_one_line());
    let owed = Owed { version: RECORD_VERSION, qemu, settings: settings.clone() };
    if let Err(error) = Files::of_this_host().write_volatile(&run.join(OWED), &owed) {
        tracing::warn!("and will not be: {}", error.in_one_line());
    }
}

/// Has a QEMU that has taken a machine migrate as any other does: what [`Monitor::prepare_incoming`] turned on would be on
/// for its user's own migrations, and a destination without `postcopy-ram` refuses those of a source with it.
pub(crate) fn forget_incoming(monitor: &Monitor, qemu: ProcessMark, run: &Path) {
    put_back_or_owe(monitor, qemu, run, &MigrationSettings::default());
}

/// Puts back what the VM's QEMU is owed. Where it does not take it now either, a later command tries again.
pub(crate) fn pay(machines: &dyn Machines, folder: &VmFolder) {
    let Some(path) = run_folder::existing(folder).map(|run| run.join(OWED)).filter(|path| path.exists())
    else {
        return;
    };
    let files = Files::of_this_host();
    // One that can't be read says nothing.
    let owed: Option<Owed> = files.read_json(&path, RECORD_VERSION).ok().flatten();
    let found = machines.find(folder);
    let machine =
        found.ok().flatten().filter(|found| owed.as_ref().is_some_and(|owed| owed.qemu == found.mark()));
    if let (Some(owed), Some(machine)) = (owed, machine) {
        let paid =
            machine.channel_briefly(Use::Operation).and_then(|monitor| monitor.put_back(&owed.settings));
        if let Err(error) = paid {
            tracing::warn!("QEMU's migration settings are still not as they were: {}", error.in_one_line());
            return;
        }
    }
    if let Err(error) = files.remove_file(&path) {
        tracing::warn!("{}", error.in_one_line());
    }
}

/// The parameters that captures change, where this QEMU has them.
fn parameters(monitor: &Monitor) -> Result<Map<String, Value>> {
    let all = serde_json::to_value(monitor.execute(&QueryMigrateParameters)?)
        .map_err(|error| Error::failed("QEMU's migration parameters can't be kept").because(error))?;
    let changed = SET.iter().copied().chain(NEUTRAL.map(|(name, _)| name));
    Ok(changed.filter_map(|name| Some((name.to_owned(), all.get(name)?.clone()))).collect())
}

/// Changes the capabilities that are not as `wanted`, in one call: QEMU looks at what comes of it, and refuses some
/// of them together.
fn turn_on_exactly(monitor: &Monitor, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let known = monitor.execute(&QueryMigrateCapabilities)?;
    let other = known.iter().filter(|one| one.state != wanted(&one.capability));
    let changes: Vec<(&str, bool)> = other.map(|one| (one.capability.as_str(), !one.state)).collect();
    if changes.is_empty() {
        return Ok(());
    }
    monitor.execute(&MigrateSetCapabilities::of(changes)).map(drop)
}

fn set(monitor: &Monitor, parameters: Map<String, Value>) -> Result<()> {
    if parameters.is_empty() {
        return Ok(());
    }
    let parameters = MigrationParameters { other: parameters, ..MigrationParameters::default() };
    monitor.execute(&MigrateSetParameters(parameters)).map(drop)
}

#[cfg(test)]
mod tests {
    use vmrewind_testkit::fake_qemu::{FakeQemu, Step};

    use super::*;
    use crate::patience::Patience;

    fn capabilities(on: &[&str]) -> Step {
        const KNOWN: [&str; 5] =
            ["xbzrle", "multifd", "events", "pause-before-switchover", "background-snapshot"];
        let state = |name: &&str| json!({ "capability": name, "state": on.contains(name) });
        Step::Return(Value::from(KNOWN.iter().map(state).collect::<Vec<_>>()))
    }

    fn play(steps: Vec<(&'static str, Step)>) -> (FakeQemu, Monitor) {
        let steps = steps.into_iter().flat_map(|(command, answer)| [Step::Expect(command), answer]);
        let fake = FakeQemu::play([Step::Negotiate].into_iter().chain(steps).collect()).unwrap();
        let patience = Patience::default();
        let monitor = Monitor::connect(&fake.socket(), patience.answer, patience).unwrap();
        (fake, monitor)
    }

    /// What came with all commands of a name.
    fn arguments(requests: &[Value], command: &str) -> Vec<Value> {
        let of = requests.iter().filter(|request| request["execute"] == command);
        of.map(|request| request["arguments"].clone()).collect()
    }

    /// Guards captures from what another tool left on, and that tool's next migration from what a capture leaves: QEMU of
    /// 2024, with settings of every kind.
    #[test]
    fn settings_are_changed_and_put_back() {
        let users = json!({
            "max-bandwidth": 1 << 20, "downtime-limit": 77, "tls-creds": "tls0", "mode": "normal",
            "avail-switchover-bandwidth": 5, "cpu-throttle-initial": 20,
        });
        let done = || Step::Return(json!({}));
        let (fake, monitor) = play(vec![
            ("query-migrate-capabilities", capabilities(&["xbzrle", "multifd", "events"])),
            ("query-migrate-parameters", Step::Return(users.clone())),
            ("query-migrate-capabilities", capabilities(&["xbzrle", "multifd", "events"])),
            ("migrate-set-capabilities", done()),
            ("query-migrate-parameters", Step::Return(users)),
            ("migrate-set-parameters", done()),
            ("query-migrate-capabilities", capabilities(&["events", "pause-before-switchover"])),
            ("migrate-set-capabilities", done()),
            ("migrate-set-parameters", done()),
        ]);
        let settings = monitor.migration_settings().unwrap();
        monitor.prepare_migration(&["events", "pause-before-switchover"], 4).unwrap();
        // As the next command has them from the journal.
        let text = serde_json::to_string(&settings).unwrap();
        monitor.put_back(&serde_json::from_str(&text).unwrap()).unwrap();
        let requests = fake.finish().unwrap();
        let state = |name: &str, state: bool| json!({ "capability": name, "state": state });
        assert_eq!(
            arguments(&requests, "migrate-set-capabilities"),
            [
                json!({ "capabilities": [
                    state("xbzrle", false), state("multifd", false), state("pause-before-switchover", true),
                ] }),
                json!({ "capabilities": [
                    state("xbzrle", true), state("multifd", true), state("pause-before-switchover", false),
                ] }),
            ]
        );
        assert_eq!(
            arguments(&requests, "migrate-set-parameters"),
            [
                json!({
                    "tls-creds": "", "avail-switchover-bandwidth": 0, "max-bandwidth": 0, "downtime-limit": 4,
                }),
                json!({
                    "max-bandwidth": 1 << 20, "downtime-limit": 77, "tls-creds": "tls0",
                    "avail-switchover-bandwidth": 5, "mode": "normal",
                }),
            ]
        );
    }

    /// An older QEMU refuses parameters that it does not know, and nothing is said where nothing changes.
    #[test]
    fn only_what_qemu_knows_is_set() {
        let old = json!({ "max-bandwidth": 134_217_728, "downtime-limit": 300, "tls-creds": "" });
        let (fake, monitor) = play(vec![
            ("query-migrate-capabilities", capabilities(&["events"])),
            ("query-migrate-parameters", Step::Return(old)),
            ("migrate-set-parameters", Step::Return(json!({}))),
        ]);
        monitor.prepare_migration(&["events"], 300).unwrap();
        let requests = fake.finish().unwrap();
        let set = arguments(&requests, "migrate-set-parameters");
        assert_eq!(set, [json!({ "max-bandwidth": 0, "downtime-limit": 300 })]);
    }
}
