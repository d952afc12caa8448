//! Two kinds of jobs that exist in tests only, and a VM's folder for them. Their processes are this test program, started again.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::super::lock::{Lock, Servers};
use super::super::*;
use crate::record::journal::ProcessMark;
use crate::root::Root;
use crate::root::file::Files;
use crate::vm::process::Process;

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum How {
    /// Works until the file `done` is there, or the job is not wanted.
    Waits,
    /// The same, and does not see that it is not wanted.
    IsDeaf,
    /// Is killed at once.
    Dies,
    /// Has a bug in a thread that it does not wait for.
    Panics,
    /// Finds damage.
    Fails,
}

/// A job that lasts, or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chore<const LASTS: bool> {
    pub(super) number: u32,
    pub(super) how: How,
    pub(super) is_begun: bool,
}

pub(super) type Errand = Chore<false>;
pub(super) type Duty = Chore<true>;

pub(super) fn errand(how: How) -> Errand {
    Chore { number: 1, how, is_begun: true }
}

impl<const LASTS: bool> Job for Chore<LASTS> {
    const KIND: Kind = if LASTS {
        Kind {
            word: "duty",
            servant: "dutiful one",
            record: "duty.json",
            lock: "duty.lock",
            progress: "duty.progress",
            log: "duty.log",
            lasts: Lasts::Durably,
            // Longer than any test: who relies on it fails.
            end_patience: Duration::from_secs(3600),
        }
    } else {
        Kind {
            word: "errand",
            servant: "errand boy",
            record: "errand.json",
            lock: "errand.lock",
            progress: "errand.progress",
            log: "errand.log",
            lasts: Lasts::UntilReboot,
            end_patience: Duration::from_millis(200),
        }
    };

    fn is_same(&self, other: &Self) -> bool {
        self.number == other.number
    }

    fn is_begun(&self) -> bool {
        self.is_begun
    }

    fn is_wanted(&self, folder: &VmFolder) -> Result<bool> {
        Ok(!folder.path().join("unwanted").exists())
    }

    fn work(shift: &Shift<'_, Self>) -> Result<Turn> {
        let path = |name: &str| shift.folder.path().join(name);
        let mut turns = fs::File::options().create(true).append(true).open(path("turns")).unwrap();
        turns.write_all(format!("{} {}\n", std::process::id(), shift.is_first).as_bytes()).unwrap();
        let forever = || loop {
            std::thread::sleep(Duration::from_secs(1));
        };
        match shift.job.how {
            How::Waits => {
                while !path("done").exists() {
                    if !shift.job.is_wanted(&shift.folder)? {
                        return Ok(Turn::Later);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(Turn::Done)
            }
            How::IsDeaf => forever(),
            How::Dies => {
                let own = Process::open(std::process::id(), path("run"))?;
                own.map_or(Ok(()), |own| own.kill())?;
                forever()
            }
            How::Panics => {
                std::thread::spawn(|| panic!("nobody thought of this"));
                forever()
            }
            How::Fails => Err(Error::damaged("a page of it is damaged")),
        }
    }

    fn failed(&self, folder: &VmFolder) -> Result<()> {
        let told = failure::<Self>(folder)?.map(|(_, failure)| failure.message);
        fs::write(folder.path().join("failed"), told.unwrap_or_default()).unwrap();
        Ok(())
    }
}

/// A VM's folder and what its jobs are started with.
pub(super) struct World {
    pub(super) charge: Charge,
    _root: TempDir,
}

impl World {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path(), Files::of_this_host()).unwrap();
        let vm: VmName = "vm".parse().unwrap();
        let folder = root.vm(&vm);
        folder.files().make_dir(&folder.run()).unwrap();
        let charge = Charge { helper: helper(), root: root.path().to_owned(), vm, folder };
        Self { charge, _root: dir }
    }

    pub(super) fn folder(&self) -> &VmFolder {
        &self.charge.folder
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder().path().join(name)
    }

    /// Each worker's pid, and whether it was a first one.
    pub(super) fn turns(&self) -> Vec<(u32, bool)> {
        let text = fs::read_to_string(self.path("turns")).unwrap_or_default();
        let turn = |line: &str| {
            let (pid, is_first) = line.split_once(' ')?;
            Some((pid.parse().ok()?, is_first.parse().ok()?))
        };
        text.lines().filter_map(turn).collect()
    }

    /// Waits for the worker of that number, and until supervisor and worker are written down.
    pub(super) fn await_turn<J: Job>(&self, number: usize) -> [ProcessMark; 2] {
        let mut processes = Vec::new();
        wait_until("a worker works", || {
            processes = Servers::load(&J::KIND, self.folder()).processes;
            let turns = self.turns();
            turns.len() >= number && processes.len() == 2 && turns.last().unwrap().0 == processes[1].pid
        });
        [processes[0], processes[1]]
    }

    pub(super) fn kill(&self, marks: &[ProcessMark]) {
        for mark in marks {
            if let Some(process) = self.process(*mark) {
                process.kill().unwrap();
            }
        }
    }

    pub(super) fn signal(&self, marks: &[ProcessMark], signal: &str) {
        for mark in marks {
            let pid = mark.pid.to_string();
            assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        }
    }

    pub(super) fn process(&self, mark: ProcessMark) -> Option<Process> {
        let process = Process::open(mark.pid, self.folder().run()).unwrap();
        process.filter(|process| process.mark == mark)
    }

    /// Looks after the errand as a command does. Says whether its processes were started again.
    pub(super) fn is_revived(&self, held: bool) -> bool {
        adopt::<Errand>(&self.charge, held).unwrap() == Adopted::Revived
    }

    pub(super) fn is_held<J: Job>(&self) -> bool {
        Lock::is_held(&J::KIND, self.folder()).unwrap()
    }

    /// Waits until nobody works on the job and it has no record.
    pub(super) fn await_end<J: Job>(&self) {
        wait_until("the job is over", || {
            Record::<J>::load(self.folder()).unwrap().is_none() && !self.is_held::<J>()
        });
    }

    pub(super) fn await_failure<J: Job>(&self) -> Failure {
        let mut found = None;
        wait_until("the job is given up", || {
            found = failure::<J>(self.folder()).unwrap();
            found.is_some() && !self.is_held::<J>()
        });
        found.unwrap().1
    }
}

impl Drop for World {
    /// No test leaves a process behind, however it ends.
    fn drop(&mut self) {
        let _ = fs::write(self.path("unwanted"), "");
        if std::thread::panicking() {
            // Without the hour that these have to end by themselves.
            self.kill(&Servers::load(&Duty::KIND, self.folder()).processes);
        }
        let ended = end::<Errand>(self.folder()).and_then(|()| end::<Duty>(self.folder()));
        assert!(ended.is_ok() || std::thread::panicking(), "{ended:?}");
    }
}

#[track_caller]
pub(super) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// This program, which runs the test below and no other.
pub(super) fn helper() -> Helper {
    Helper::this_test("background::tests::words_say_what_a_process_does")
}

/// What this process is to do for a job, where one started it.
pub(super) fn part() -> Option<BackgroundProcess> {
    let words: Vec<String> = std::env::args().collect();
    let at = words.iter().position(|word| word == BACKGROUND_COMMAND)?;
    let [kind, role, root, vm] = words[at + 1..].first_chunk()?.clone();
    let seat = String::new();
    Some(BackgroundProcess { kind, role, root: root.into(), vm, seat, program: helper(), steps: None })
}
