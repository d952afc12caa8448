//! How long the engine waits for a QEMU, in one place: what is right for a real one would make a test of a QEMU that
//! hangs last for minutes.

use std::time::Duration;

/// How long each kind of wait for a QEMU lasts at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until QEMU answers a command: its main loop can be busy for a second with a large guest.
    pub answer: Duration,
    /// Until it answers a question whose answer can be "it does not say".
    pub brief: Duration,
    /// While it refuses `cont`, since it is still tidying a migration up.
    pub finalize: Duration,
    /// Until it has ended once it has said that it will: it writes its caches out, to a disk that can be slow.
    pub quit: Duration,
    /// Until a QEMU that does not answer any more is gone, where it was seen to be about to end.
    pub end: Duration,
    /// The same where its guest was asked to power off: one of much memory gives that back first.
    pub power_off: Duration,
    /// The same where somebody only wants to know its state.
    pub last_breath: Duration,
    /// Until a guest that was stopped for an operation runs again.
    pub let_go: Duration,
    /// Until it connects to deliver a guest's memory.
    pub connect: Duration,
    /// From the guest's stop to the end of its state in precopy.
    pub switchover: Duration,
    /// From `migrate` to the first page of a background snapshot.
    pub first_page: Duration,
    /// Until it reports what it has done.
    pub event: Duration,
    /// Until a state that came in is loaded.
    pub load: Duration,
    /// For a QEMU that can't load a state to say why, and end.
    pub last_words: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            answer: seconds(30),
            brief: seconds(5),
            finalize: seconds(10),
            quit: seconds(60),
            end: seconds(3),
            power_off: seconds(10),
            last_breath: Duration::from_millis(500),
            let_go: seconds(30),
            connect: seconds(30),
            switchover: seconds(30),
            first_page: seconds(30),
            event: seconds(10),
            load: seconds(120),
            last_words: seconds(2),
        }
    }
}
