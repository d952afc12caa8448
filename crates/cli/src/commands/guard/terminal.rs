//! The terminal while a command in a group of its own has the use of it, as a shell hands it to its jobs.
//!
//! Without it a command that asks for a password would be stopped by the kernel. Ctrl-C then reaches the command only.

use std::cell::Cell;
use std::fs::File;

use rustix::process::{Pid, Signal, getpgrp, getpid, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr, tcsetpgrp};

/// The controlling terminal, which was this process's to use.
pub(super) struct Terminal {
    tty: File,
    own: Pid,
    modes: Termios,
    /// Whether a group has it from us. In the background we have none to lend: it is the shell's.
    lent: Cell<bool>,
}

impl Terminal {
    /// The terminal, where there is one and this process is in its foreground.
    pub(super) fn ours() -> Option<Self> {
        let tty = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let own = getpgrp();
        if tcgetpgrp(&tty).ok()? != own {
            return None;
        }
        let modes = tcgetattr(&tty).ok()?;
        Some(Self { tty, own, modes, lent: Cell::new(false) })
    }

    /// Hands it to a group.
    pub(super) fn give(&self, group: Pid) {
        // A command that has ended already needs none.
        let _ = tcsetpgrp(&self.tty, group);
        self.lent.set(true);
    }

    /// Stands still until somebody lets this process go on, as the command of `group` does; then hands it over again,
    /// unless this process is in the background now.
    pub(super) fn stop_with(&self, group: Pid) {
        self.take_back();
        let _ = kill_process(getpid(), Signal::STOP);
        if tcgetpgrp(&self.tty).is_ok_and(|foreground| foreground == self.own) {
            self.give(group);
        }
    }

    /// Takes it back where it is lent, in the modes that it was given in: a command that was killed can have left it raw.
    fn take_back(&self) {
        if !self.lent.replace(false) {
            return;
        }
        // From the background this would stop us, and all of our group, if the signal for it were not blocked.
        if tcgetpgrp(&self.tty).is_ok_and(|foreground| foreground != self.own) {
            let _ = tcsetpgrp(&self.tty, self.own);
        }
        let _ = tcsetattr(&self.tty, OptionalActions::Drain, &self.modes);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back();
    }
}
