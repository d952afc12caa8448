//! Which ways of capture are tried, in which order, and when precopy is given up. Pure.

use std::time::Duration;

use crate::record::snapshot::Method;

/// When precopy counts as not converging.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// After this long.
    pub(crate) time: Duration,
    /// Or once this many times the guest's memory was sent.
    pub(crate) times_ram: u64,
}

impl Bounds {
    /// Whether a precopy that has gone on this long and sent this much should end. Both bounds must be passed, so
    /// that neither a slow machine nor a small guest ends a capture that is getting there.
    pub(crate) fn passed(self, elapsed: Duration, sent_bytes: u64, ram_bytes: u64) -> bool {
        let sent_enough = ram_bytes > 0 && sent_bytes > ram_bytes.saturating_mul(self.times_ram);
        elapsed > self.time && (sent_enough || elapsed > self.time * 12)
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self { time: Duration::from_secs(10), times_ram: 3 }
    }
}

/// The methods to try for a guest that runs or was paused by its user.
///
/// Standing still for a whole capture is never within a limit that somebody cares to give. A paused guest is taken by
/// background snapshot only: after any other migration QEMU lets a guest go on solely by running it.
pub(crate) fn methods(guest_runs: bool, pause_is_limited: bool) -> &'static [Method] {
    match (guest_runs, pause_is_limited) {
        (true, false) => &[Method::Precopy, Method::Background, Method::Paused],
        (true, true) => &[Method::Precopy, Method::Background],
        (false, _) => &[Method::Background],
    }
}

/// What precopy aims at for the pause after so many passes over memory, in milliseconds.
///
/// It begins low, since most guests write little; for one that writes more it is raised step by step, so that the
/// capture still ends. Half of the allowed pause is left for switching the disks and for the device state.
pub(crate) fn downtime_goal_ms(passes: u64, max_pause: Option<Duration>) -> u64 {
    let goal = match passes {
        0..=3 => 4,
        4..=6 => 10,
        7..=12 => 20,
        _ => 50,
    };
    let half = max_pause.and_then(|max| u64::try_from(max.as_millis() / 2).ok()).unwrap_or(goal);
    goal.min(half).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The goal rises with the passes and never passes half of what the user allows.
    #[test]
    fn downtime_goals() {
        let goals = |max: Option<u64>| {
            [0, 5, 9, 40].map(|passes| downtime_goal_ms(passes, max.map(Duration::from_millis)))
        };
        assert_eq!(goals(None), [4, 10, 20, 50]);
        assert_eq!(goals(Some(30)), [4, 10, 15, 15]);
        assert_eq!(goals(Some(1)), [1, 1, 1, 1]);
    }

    /// Precopy must end some time, but not while a slow host is still on its first pass.
    #[test]
    fn bounds() {
        let bounds = Bounds { time: Duration::from_secs(10), times_ram: 3 };
        let passed = |seconds, sent, ram| bounds.passed(Duration::from_secs(seconds), sent, ram);
        assert!(!passed(9, 1000, 10));
        assert!(!passed(60, 25, 10));
        assert!(passed(11, 31, 10));
        assert!(passed(121, 25, 10));
        assert!(!passed(11, 31, 0));
    }
}
