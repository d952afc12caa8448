//! What is the same for all kinds of jobs, tried on two kinds of its own by real processes: this test program, started again.

mod world;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vmrewind_testkit::crash_disk::RecordedDisk;

use super::lock::Lock;
use super::record::Panic;
use super::*;
use crate::error::ErrorKind;
use crate::record::journal::ProcessMark;
use crate::root::Root;
use crate::root::file::Files;
use world::{Duty, Errand, How, World, errand, helper, part, wait_until};

/// Guards against a process that does what nobody asked for. It is also what all processes of these tests run.
#[test]
fn words_say_what_a_process_does() {
    if let Some(process) = part() {
        let done =
            if process.kind == Duty::KIND.word { run::<Duty>(process) } else { run::<Errand>(process) };
        return done.unwrap();
    }
    let world = World::new();
    let told = |role: &str, root: PathBuf, vm: &str| {
        let (role, vm) = (role.to_owned(), vm.to_owned());
        run::<Errand>(BackgroundProcess {
            kind: "".into(),
            role,
            root,
            vm,
            seat: "".into(),
            program: helper(),
            steps: None,
        })
    };
    let root = || world.charge.root.clone();
    assert_eq!(told("boss", root(), "vm").unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(told("worker", root(), "../vm").unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(told("worker", root().join("none"), "vm").unwrap_err().kind(), ErrorKind::NotFound);
    // No job: nothing to do for anybody, and nothing done.
    for role in ["begin", "revive", "first-worker", "worker"] {
        told(role, root(), "vm").unwrap();
    }
    assert!(world.turns().is_empty() && !world.is_held::<Errand>());
}

/// Guards whoever waits for a job: where its worker dies another one goes on, and it is the first one's command no more.
#[test]
fn a_worker_that_dies_is_replaced() {
    let world = World::new();
    let job = Errand { is_begun: false, ..errand(How::Waits) };
    let mut begun = Begun::begin(&world.charge, job).unwrap();
    let [_, first] = world.await_turn::<Errand>(1);
    assert!(under_way::<Errand>(world.folder()).unwrap().is_none(), "its command has not told all");
    world.kill(&[first]);
    let [_, second] = world.await_turn::<Errand>(2);
    begun.tell(world.folder(), |job| job.is_begun = true).unwrap();
    assert!(under_way::<Errand>(world.folder()).unwrap().is_some());
    world.kill(&[second]);
    let [supervisor, _] = world.await_turn::<Errand>(3);
    assert!(begun.is_alive(world.folder()).unwrap());
    let is_first: Vec<bool> = world.turns().iter().map(|(_, is_first)| *is_first).collect();
    assert_eq!(is_first, [true, true, false]);
    fs::write(world.path("done"), "").unwrap();
    world.await_end::<Errand>();
    wait_until("the supervisor ends", || world.process(supervisor).is_none());
    assert!(!begun.is_alive(world.folder()).unwrap() && world.turns().len() == 3);
    // Done is done, whatever its command still says.
    begun.tell(world.folder(), |job| job.number = 2).unwrap();
    assert!(Record::<Errand>::load(world.folder()).unwrap().is_none());
}

/// Guards a host from processes that are started for ever, and a user from a job that ends without a word.
#[test]
fn a_worker_that_always_dies_is_given_up() {
    let world = World::new();
    let _begun = Begun::begin(&world.charge, errand(How::Dies)).unwrap();
    let told = world.await_failure::<Errand>();
    assert_eq!(told.message, "its errand boy ended 30 times right after it was started");
    assert_eq!((world.turns().len(), told.kind()), (30, ErrorKind::Failed));
    assert_eq!(
        fs::read_to_string(world.path("failed")).unwrap(),
        told.message,
        "the conclusion comes after it"
    );
    // Nobody takes it on again until it is forgotten.
    assert!(!world.is_revived(true) && world.turns().len() == 30);
    forget_failure::<Errand>(world.folder()).unwrap();
    assert!(Record::<Errand>::load(world.folder()).unwrap().is_none());
}

/// Guards whoever waits for a job against its bugs: a thread that dies takes its process with it, at once, and the record has it
/// before anybody gives up.
#[test]
fn a_panic_of_any_thread_is_told() {
    let world = World::new();
    let _begun = Begun::begin(&world.charge, errand(How::Panics)).unwrap();
    let mut panic = None;
    wait_until("the record tells of the panic", || {
        let found = Record::<Errand>::load(world.folder()).unwrap().unwrap();
        let told = found.panic.filter(|_| found.failure.is_none());
        panic = panic.take().or(told);
        panic.is_some()
    });
    let Panic { pid, message } = panic.unwrap();
    assert!(world.turns().iter().any(|(worker, _)| *worker == pid));
    assert!(message.contains("nobody thought of this") && message.contains("world.rs:"), "{message}");
    let told = world.await_failure::<Errand>().message;
    assert!(told.contains("started 30 times, and has a bug") && told.contains("thought of this"), "{told}");
    let log = fs::read_to_string(world.folder().run().join("errand.log")).unwrap();
    assert!(log.contains("nobody thought of this"), "{log}");
}

/// Guards the user's answer to "why": what can't be done is not tried again, and the kind of error is kept.
#[test]
fn a_job_that_can_t_be_done_says_why() {
    let world = World::new();
    let mut begun = Begun::begin(&world.charge, errand(How::Fails)).unwrap();
    let told = world.await_failure::<Errand>();
    assert_eq!((told.kind(), told.message.as_str()), (ErrorKind::Damaged, "a page of it is damaged"));
    assert_eq!(world.turns().len(), 1);
    // Its command does not know yet, and an end by others does not take it back.
    begun.tell(world.folder(), |job| job.number = 2).unwrap();
    end::<Errand>(world.folder()).unwrap();
    let (job, still) = failure::<Errand>(world.folder()).unwrap().unwrap();
    assert_eq!((job.number, still), (2, told));
}

/// Guards whoever waits for a job that can't be done: he is told so, whoever dies between the word and the deed.
#[test]
fn the_conclusion_of_a_failure_is_drawn_by_somebody() {
    let world = World::new();
    drop(Begun::begin(&world.charge, errand(How::IsDeaf)).unwrap());
    let [_, worker] = world.await_turn::<Errand>(1);
    let told = || Some(Failure { damaged: false, message: "no".into() });
    Record::<Errand>::change(world.folder(), |found| Some(Record { failure: told(), ..found? })).unwrap();
    world.kill(&[worker]);
    wait_until("the supervisor draws it", || world.path("failed").exists() && !world.is_held::<Errand>());
    fs::remove_file(world.path("failed")).unwrap();
    assert_eq!(adopt::<Errand>(&world.charge, false).unwrap(), Adopted::Nothing);
    assert!(world.path("failed").exists() && world.turns().len() == 1);
}

/// Guards a job against the death of all its processes: the next command goes on with it, and does not begin it anew.
#[test]
fn the_next_command_takes_it_on() {
    let world = World::new();
    drop(Begun::begin(&world.charge, errand(How::Waits)).unwrap());
    let [supervisor, worker] = world.await_turn::<Errand>(1);
    world.kill(&[supervisor]);
    assert!(!world.is_revived(true), "the worker goes on alone");
    world.kill(&[worker]);
    wait_until("it is taken on", || world.is_revived(false));
    let both = world.await_turn::<Errand>(2);
    world.kill(&both);
    {
        // So does a command that waits for the job.
        let _keeper = Keeper::begin::<Errand>(&world.charge).unwrap();
        world.await_turn::<Errand>(3);
    }
    assert!(world.turns().iter().all(|(_, is_first)| !is_first));
    fs::write(world.path("done"), "").unwrap();
    world.await_end::<Errand>();
    assert!(!world.is_revived(true));
}

/// Guards a command that begins a job from those who only look, and a VM from what is left of one that did not come to it.
#[test]
fn what_was_not_begun_is_its_command_s_only() {
    let world = World::new();
    let job = Errand { is_begun: false, ..errand(How::Waits) };
    Record::of(job.clone()).save(world.folder()).unwrap();
    assert!(!world.is_revived(false));
    // A supervisor that an earlier job's looker has started.
    let _late = world.charge.start::<Errand>(Role::Revive).unwrap().0.wait().unwrap();
    assert!(Record::<Errand>::load(world.folder()).unwrap().is_some() && world.turns().is_empty());
    // With the VM held its command is known to be gone.
    assert!(!world.is_revived(true));
    assert!(Record::<Errand>::load(world.folder()).unwrap().is_none());
    // The same for one that nobody wants any more, whoever looks.
    Record::of(errand(How::Waits)).save(world.folder()).unwrap();
    fs::write(world.path("unwanted"), "").unwrap();
    assert!(!world.is_revived(false) && world.turns().is_empty());
    assert!(Record::<Errand>::load(world.folder()).unwrap().is_none());
}

/// Guards whoever has to get rid of a job's processes: none can withstand, be it deaf, stopped, or not written down.
#[test]
fn processes_are_ended_by_others() {
    let world = World::new();
    let is_over = |marks: &[ProcessMark]| marks.iter().all(|mark| world.process(*mark).is_none());
    // A worker that does not see that it is not wanted.
    drop(Begun::begin(&world.charge, errand(How::IsDeaf)).unwrap());
    let both = world.await_turn::<Errand>(1);
    fs::write(world.path("unwanted"), "").unwrap();
    end::<Errand>(world.folder()).unwrap();
    assert!(is_over(&both) && Record::<Errand>::load(world.folder()).unwrap().is_none());
    fs::remove_file(world.path("unwanted")).unwrap();
    // Processes that nobody has written down.
    drop(Begun::begin(&world.charge, errand(How::IsDeaf)).unwrap());
    let both = world.await_turn::<Errand>(2);
    fs::write(world.path("unwanted"), "").unwrap();
    fs::write(world.path("errand.lock"), "").unwrap();
    end::<Errand>(world.folder()).unwrap();
    assert!(is_over(&both));
    fs::remove_file(world.path("unwanted")).unwrap();
    // Processes that were stopped: they would have an hour to end by themselves.
    drop(Begun::begin(&world.charge, Duty { number: 1, how: How::Waits, is_begun: true }).unwrap());
    let both = world.await_turn::<Duty>(3);
    world.signal(&both, "-STOP");
    end::<Duty>(world.folder()).unwrap();
    assert!(is_over(&both) && Record::<Duty>::load(world.folder()).unwrap().is_none());
}

/// Guards two kinds of jobs on one VM from each other.
#[test]
fn kinds_share_nothing() {
    let world = World::new();
    drop(Begun::begin(&world.charge, errand(How::Waits)).unwrap());
    let errands = world.await_turn::<Errand>(1);
    drop(Begun::begin(&world.charge, Duty { number: 1, how: How::IsDeaf, is_begun: true }).unwrap());
    let duties = world.await_turn::<Duty>(2);
    world.kill(&errands);
    wait_until("it is taken on", || world.is_revived(false));
    world.await_turn::<Errand>(3);
    fs::write(world.path("done"), "").unwrap();
    world.await_end::<Errand>();
    assert!(duties.iter().all(|mark| world.process(*mark).is_some()) && world.is_held::<Duty>());
    assert!(under_way::<Duty>(world.folder()).unwrap().is_some());
    world.signal(&duties, "-STOP");
    end::<Duty>(world.folder()).unwrap();
}

/// Guards a job from its lookers: who only looks whether somebody works on it keeps nobody from it.
#[test]
fn looking_keeps_none_from_working() {
    let world = World::new();
    let take = || Lock::try_take(&Errand::KIND, world.folder()).unwrap();
    drop(take());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    world.is_held::<Errand>();
                    std::thread::sleep(Duration::from_micros(50));
                }
            });
        }
        let taken = (0..100).filter(|_| take().is_some()).count();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(taken, 100);
    });
    let lock = take();
    assert!(lock.is_some() && world.is_held::<Errand>());
}

/// Guards what one writer of a record says from another: worker, supervisor and command write it, and none waits for the others.
#[test]
fn writers_of_a_record_lose_nothing() {
    let world = World::new();
    Record::of(Errand { number: 0, ..errand(How::Waits) }).save(world.folder()).unwrap();
    let add = |found: Option<Record<Errand>>| {
        found.map(|mut found| {
            found.job.number += 1;
            found
        })
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..50).for_each(|_| Record::change(world.folder(), add).unwrap()));
        }
    });
    let found = Record::<Errand>::load(world.folder()).unwrap().unwrap();
    assert_eq!(found.job.number, 100);
    // The next job's record is not taken away by who thinks of the one before.
    let before = Record::of(Errand { number: 99, ..errand(How::Waits) });
    before.remove_this(world.folder()).unwrap();
    assert!(Record::<Errand>::load(world.folder()).unwrap().is_some());
    found.remove_this(world.folder()).unwrap();
    assert!(Record::<Errand>::load(world.folder()).unwrap().is_none());
}

/// Guards a job that outlasts the host's power, and the speed of one that does not: its record costs no sync.
#[test]
fn a_record_lasts_as_long_as_its_kind_says() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RecordedDisk::over(dir.path(), &[]).unwrap();
    let root = Root::open(dir.path(), Files::on(Arc::new(disk.clone()))).unwrap();
    let folder = root.vm(&"vm".parse().unwrap());
    folder.files().make_dir(&folder.run()).unwrap();
    disk.settle().unwrap();
    let found = |seed| {
        let after = tempfile::tempdir().unwrap();
        disk.crash_now(seed).unwrap().put_into(after.path()).unwrap();
        let root = Root::open(after.path(), Files::of_this_host()).unwrap();
        Record::<Duty>::load(&root.vm(&"vm".parse().unwrap())).unwrap().map(|record| record.job.number)
    };
    let duty = |number| Record::of(Duty { number, how: How::Waits, is_begun: true });
    for number in [1, 2] {
        duty(number).save(&folder).unwrap();
        assert!((0..32).all(|seed| found(seed) == Some(number)));
    }
    Record::<Duty>::remove(&folder).unwrap();
    assert!((0..32).all(|seed| found(seed).is_none()));
    let before = disk.steps().len();
    Record::of(errand(How::Waits)).save(&folder).unwrap();
    Record::<Errand>::remove(&folder).unwrap();
    let steps = disk.steps().split_off(before);
    assert!(!steps.is_empty() && !steps.iter().any(|step| step.starts_with("sync")), "{steps:?}");
    // What can't be read: damage where it must last, else nothing.
    for name in ["duty.json", "errand.json"] {
        fs::write(folder.path().join(name), "{").unwrap();
    }
    assert_eq!(Record::<Duty>::load(&folder).unwrap_err().kind(), ErrorKind::Damaged);
    assert!(Record::<Errand>::load(&folder).unwrap().is_none());
}
