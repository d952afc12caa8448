//! A QEMU that runs a guest, as far as its monitors tell: it stops and goes on, opens layers, sends its state away.
//!
//! Where [`super::FakeQemu`] plays a script to one client, this one answers by what state it is in, on any number of
//! sockets, to whatever it is asked and in whatever order. It sends a real (if tiny) migration stream, so that a capture
//! of it is a whole one. And it fails on demand: at the N-th command it dies, hangs, answers late or refuses.
//!
//! ```text
//!  sockets -> [main loop: one command at a time, faults] -> state ---> events to all clients
//!                                                            |
//!             migration thread <- migrate --------------------'   stream to the capture's socket
//! ```
//! As in QEMU a main loop that hangs answers nobody, on no socket, while its migration thread goes on; and so does the
//! out-of-band monitor ([`FakeMachine::serve_pipes`]).

mod migrate;
mod pipes;
mod postcopy;
mod serve;
mod state;
mod stream;

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::postcopy::Destination;
use state::State;

/// What kind of machine it is.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The names of its disks' devices.
    pub devices: Vec<String>,
    /// Pages of guest memory.
    pub pages: u64,
    /// Its version, to the minor number.
    pub version: (u32, u32),
    /// Whether it has KVM.
    pub kvm: bool,
    /// Whether the host lets it take background snapshots.
    pub background: bool,
    /// Whether the guest writes its memory faster than it can be copied: precopy never gets to its end.
    pub restless: bool,
    /// Whether the guest obeys its power button.
    pub powers_off: bool,
    /// Whether the host lets it run a guest before its memory is there.
    pub postcopy: bool,
    /// Whether it can load a state that comes in.
    pub loads: bool,
    /// What is wrong with the stream that it sends.
    pub bend: Option<Bend>,
    /// The names of its network devices.
    pub links: Vec<String>,
    /// The character device that a program in its guest has opened.
    pub agent: Option<String>,
    /// QEMU's word for the state that its guest is in at first.
    pub run_state: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            devices: vec!["d0".into()],
            pages: 8,
            version: (10, 0),
            kvm: true,
            background: true,
            restless: false,
            powers_off: true,
            postcopy: true,
            loads: true,
            bend: None,
            links: Vec::new(),
            agent: None,
            run_state: "running",
        }
    }
}

/// What can be wrong with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bend {
    /// It is cut off in the middle of memory, and the migration fails.
    Cut,
    /// Its last bytes do not come, and QEMU says that all was sent.
    Short,
    /// The section of a device does not end where it should.
    Devices,
    /// A page is of a block that was not announced.
    UnknownBlock,
    /// A page lies behind the end of its block.
    BeyondBlock,
    /// The state is that of a guest that runs.
    Running,
}

/// How it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It dies before it does what it was told.
    Dies,
    /// It dies when it has done it, and before it says so.
    DiesAfter,
    /// It answers nobody any more; should it ever go on, it does what it was told first.
    Hangs,
    /// It does it and says so, but later.
    Late(Duration),
    /// It refuses.
    Refuses,
}

/// A fault that waits for its command.
#[derive(Debug, Clone, Copy)]
struct Trap {
    /// How many commands it lets pass.
    left: usize,
    /// Whether one that is the same as the last counts: it asks again.
    counts_again: bool,
    /// The only command that counts, where it is to be one.
    only: Option<&'static str>,
    fault: Fault,
}

/// A running fake; dropping it ends it.
#[derive(Debug)]
pub struct FakeMachine {
    shared: Arc<Shared>,
}

/// What all of its threads share.
#[derive(Debug)]
struct Shared {
    started: Instant,
    /// Held while a command is carried out, and where the fake hangs.
    main_loop: Mutex<()>,
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner {
    state: State,
    dead: bool,
    hangs: bool,
    trap: Option<Trap>,
    sprung: bool,
    commands: Vec<String>,
    received: Vec<u8>,
    /// What came of a lazy restore.
    destination: Option<Destination>,
    /// Why what came to it is none of what QEMU's source sends.
    nonsense: Option<String>,
    /// The answers of the out-of-band monitor.
    pipe: Option<File>,
    clients: Vec<UnixStream>,
}

impl FakeMachine {
    /// Starts it, with monitors on the sockets of these names in `run`.
    ///
    /// # Errors
    /// When a socket or a thread cannot be made.
    pub fn start(run: &Path, sockets: &[&str], setup: Setup) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            main_loop: Mutex::new(()),
            inner: Mutex::new(Inner {
                state: State::new(setup),
                dead: false,
                hangs: false,
                trap: None,
                sprung: false,
                commands: Vec::new(),
                received: Vec::new(),
                destination: None,
                nonsense: None,
                pipe: None,
                clients: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        for socket in sockets {
            serve::listen(&shared, &run.join(socket))?;
        }
        Ok(Self { shared })
    }

    /// Serves an out-of-band monitor on the named pipes `path` with `.in` and `.out`, whatever its main loop does.
    ///
    /// # Errors
    /// Where there are no such pipes.
    pub fn serve_pipes(&self, path: &Path) -> io::Result<()> {
        pipes::serve(&self.shared, path)
    }

    /// Fails at a command, after `pass` others from now on.
    pub fn fail_after(&self, pass: usize, fault: Fault) {
        self.trap(Trap { left: pass, counts_again: true, only: None, fault });
    }

    /// The same where the same question again and again counts once: how often it is asked is a matter of time.
    pub fn fail_after_others(&self, pass: usize, fault: Fault) {
        self.trap(Trap { left: pass, counts_again: false, only: None, fault });
    }

    /// Fails at a command of this name, after `pass` others of it from now on.
    pub fn fail_at(&self, command: &'static str, pass: usize, fault: Fault) {
        self.trap(Trap { left: pass, counts_again: true, only: Some(command), fault });
    }

    /// Makes it another kind of machine from now on.
    pub fn change(&self, change: impl FnOnce(&mut Setup)) {
        change(&mut self.shared.lock().state.setup);
    }

    fn trap(&self, trap: Trap) {
        let mut inner = self.shared.lock();
        inner.trap = Some(trap);
        inner.sprung = false;
    }

    /// Whether the fault has come.
    pub fn has_failed(&self) -> bool {
        self.shared.lock().sprung
    }

    /// Takes the fault away; one that hangs goes on.
    pub fn heal(&self) {
        let mut inner = self.shared.lock();
        inner.trap = None;
        inner.hangs = false;
        self.shared.changed.notify_all();
    }

    /// Ends it at once, as by SIGKILL.
    pub fn kill(&self) {
        self.shared.die();
    }

    /// Waits for its end, at most `timeout`. Returns whether it has ended.
    pub fn wait_end(&self, timeout: Duration) -> bool {
        self.shared.wait(timeout, |inner| inner.dead)
    }

    /// QEMU's word for the state of its guest.
    pub fn run_state(&self) -> String {
        self.shared.lock().state.run_state.into()
    }

    /// QEMU's word for the state of the last migration.
    pub fn migration(&self) -> String {
        self.shared.lock().state.migration.into()
    }

    /// Its settings for migrations: `on`, `parameters`.
    pub fn settings(&self) -> Value {
        self.shared.lock().state.settings()
    }

    /// The settings of one that nobody has changed.
    pub fn untouched_settings() -> Value {
        State::new(Setup::default()).settings()
    }

    /// The node that a device writes to: its own name as long as nothing was put on top.
    pub fn top_of(&self, device: &str) -> Option<String> {
        self.shared.lock().state.top_of(device)
    }

    /// All nodes that were opened by command.
    pub fn opened(&self) -> Vec<String> {
        self.shared.lock().state.opened()
    }

    /// The state that came in, byte for byte.
    pub fn received(&self) -> Vec<u8> {
        self.shared.lock().received.clone()
    }

    /// What came of a lazy restore by now, if one has begun: a look at the memory.
    pub fn lazily<T>(&self, look: impl FnOnce(&Destination) -> T) -> Option<T> {
        self.shared.lock().destination.as_ref().map(look)
    }

    /// Why what came to it was nothing that QEMU's own source would send, if it was not.
    pub fn nonsense(&self) -> Option<String> {
        self.shared.lock().nonsense.clone()
    }

    /// Whether the cable of a network device is plugged.
    pub fn is_plugged(&self, link: &str) -> bool {
        self.shared.lock().state.is_plugged(link)
    }

    /// The commands that came, in order.
    pub fn commands(&self) -> Vec<String> {
        self.shared.lock().commands.clone()
    }
}

impl Drop for FakeMachine {
    fn drop(&mut self) {
        self.shared.die();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is so, at most `timeout`. Returns whether it is.
    fn wait(&self, timeout: Duration, is_so: impl Fn(&Inner) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let mut inner = self.lock();
        while !is_so(&inner) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn die(&self) {
        let mut inner = self.lock();
        inner.dead = true;
        inner.hangs = false;
        inner.pipe = None;
        for client in inner.clients.drain(..) {
            let _ = client.shutdown(std::net::Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// Sends events to all clients.
    fn tell(&self, inner: &mut Inner, events: Vec<(&'static str, Value)>) {
        let time = self.started.elapsed();
        for (name, data) in events {
            let seconds = 1_700_000_000 + time.as_secs();
            let timestamp = json!({"seconds": seconds, "microseconds": time.subsec_micros()});
            let event = json!({"timestamp": timestamp, "event": name, "data": data});
            inner.clients.retain_mut(|client| serve::send(client, &event).is_ok());
            pipes::send(inner, &event);
        }
        self.changed.notify_all();
    }
}
