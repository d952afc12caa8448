//! In which order the old QEMU ends and the new one starts.
//!
//! ```text
//!  beside      the new one starts while the old one runs; whatever fails then, the old guest has noticed nothing
//!  none        no QEMU follows: the old guest stands still while that is decided
//!  end first   both can't be there at once, or the old one does not answer
//! ```

use vmrewind_qemu::cmdline::{CommandLine, Later};

use super::{Old, Plan};
use crate::engine::{Held, Operation};
use crate::error::Result;
use crate::record::journal::Successor;
use crate::root::SeatNumber;
use crate::view::RestoreMode;
use crate::vm::{host_memory, spawn};

/// Memory that a QEMU takes beside its guest's, and that of a guest which is only loaded, not run.
const ROOM_BYTES: u64 = 256 << 20;

/// The order.
pub(super) enum Order {
    /// No QEMU runs.
    Off,
    /// The new QEMU is proven before the old one ends.
    Beside {
        /// The old one's seat.
        old_seat: SeatNumber,
        /// The new one's.
        seat: SeatNumber,
        /// What the new one gets later.
        later: Vec<Later>,
    },
    /// None follows.
    Nothing {
        /// The old one's seat.
        old_seat: SeatNumber,
    },
    /// The old QEMU ends first.
    EndFirst {
        /// Why.
        why: String,
    },
}

impl Order {
    /// The QEMU that is to follow the one that runs, as the journal has it.
    pub(super) fn successor(&self, plan: &Plan) -> Option<Successor> {
        let Self::Beside { seat, later, .. } = self else { return None };
        let working_dir = plan.snapshot.hardware.working_dir.clone();
        Some(Successor { seat: *seat, working_dir, later: later.clone() })
    }
}

impl Operation {
    /// Decides the order. Nothing is done yet.
    pub(super) fn order_of(&self, plan: &Plan, held: &Held, old: Old) -> Result<Order> {
        let end_first = |why: &str| Ok(Order::EndFirst { why: why.to_owned() });
        match old {
            Old::Off => return Ok(Order::Off),
            Old::Silent => return end_first("it does not answer"),
            Old::Running | Old::Paused => {}
        }
        let Some(old_seat) = held.folder.seat_number() else {
            return end_first("an earlier version of vmrewind started it");
        };
        if !plan.start {
            return Ok(Order::Nothing { old_seat });
        }
        let hardware = &plan.snapshot.hardware;
        let later = match spawn::beside(&held.record.name, hardware)? {
            Ok(later) => later,
            Err(conflict) => return end_first(&conflict.to_string()),
        };
        if let Some(why) = why_no_room(plan) {
            return end_first(&why);
        }
        let seat = held.folder.seats().into_iter().chain([old_seat]).max().unwrap_or_default() + 1;
        Ok(Order::Beside { old_seat, seat, later })
    }
}

/// Why the host's memory is not enough for both, if it is not.
fn why_no_room(plan: &Plan) -> Option<String> {
    let line = CommandLine::parse(&plan.snapshot.hardware.command_line).ok()?;
    let whole_bytes = line.memory_bytes().ok()?;
    let at_once = plan.mode == RestoreMode::Eager || line.allocates_memory_at_once();
    let needed_bytes = ROOM_BYTES + if at_once { whole_bytes } else { 0 };
    let available_bytes = host_memory::available_bytes()?;
    (available_bytes < needed_bytes).then(|| {
        format!(
            "the host has {} MiB of memory left, and the new one needs {} MiB",
            available_bytes >> 20,
            needed_bytes >> 20
        )
    })
}
