//! In which order the old QEMU ends and the new one starts.
//!
//! ```text
//!  beside      the new one starts while the old one runs; whatever fails then, the old guest has noticed nothing
//!  none        no QEMU follows: the old guest stands still while that is decided
//!  end first   both can't be there at once, or the old one does not answer
//! ```

use std::path::Path;

use vmrewind_qemu::cmdline::{CommandLine, Later};

use super::{Old, Plan};
use crate::engine::{Held, Operation};
use crate::error::Result;
use crate::ops::launch::Start;
use crate::ops::restore_memory::Target;
use crate::record::journal::Successor;
use crate::root::SeatNumber;
use crate::view::RestoreMode;
use crate::vm::spawn::{self, Purpose};
use crate::vm::{hand_over, host_memory, run_folder};

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
        /// The seat on which it is tried before whether a QEMU starts at all, if there can be two for a moment.
        rehearsal: Option<SeatNumber>,
    },
}

impl Order {
    /// The QEMU that is to follow the one that runs, as the journal has it.
    pub(super) fn successor(&self, plan: &Plan) -> Option<Successor> {
        let (seat, later) = match self {
            Self::Beside { seat, later, .. } => (*seat, later.clone()),
            Self::EndFirst { rehearsal, .. } => ((*rehearsal)?, Vec::new()),
            Self::Off | Self::Nothing { .. } => return None,
        };
        let working_dir = plan.snapshot.hardware.working_dir.clone();
        Some(Successor { seat, working_dir, later })
    }
}

impl Operation {
    /// Decides the order. Nothing is done yet.
    pub(super) fn order_of(&self, plan: &Plan, held: &Held, old: Old) -> Result<Order> {
        if old == Old::Off {
            return Ok(Order::Off);
        }
        let old_seat = held.folder.seat_number();
        let seat = held.folder.seats().into_iter().chain(old_seat).max().unwrap_or_default() + 1;
        let room = why_no_room(plan);
        let rehearsal = (plan.start && room.is_none()).then_some(seat);
        let end_first = |why: &str| Ok(Order::EndFirst { why: why.to_owned(), rehearsal });
        if old == Old::Silent {
            return end_first("it does not answer");
        }
        let Some(old_seat) = old_seat else {
            return end_first("an earlier version of vmrewind started it");
        };
        if !plan.start {
            return Ok(Order::Nothing { old_seat });
        }
        let hardware = &plan.snapshot.hardware;
        match spawn::beside(&held.record.name, hardware, seat)? {
            Err(conflict) => end_first(&conflict.to_string()),
            Ok(_) if room.is_some() => end_first(&room.unwrap_or_default()),
            Ok(later) => Ok(Order::Beside { old_seat, seat, later }),
        }
    }

    /// Sees whether a QEMU starts with the snapshot's hardware, before another is ended for it. Its guest never runs.
    pub(super) fn rehearse(&self, target: &Target<'_>, seat: SeatNumber) -> Result<()> {
        let folder = target.held.folder.at_seat(seat);
        run_folder::prepare(&folder, &target.held.record.id)?;
        let started = self.launch_vm(Start {
            folder: &folder,
            record: &target.held.record,
            hardware: &target.snapshot.hardware,
            chains: target.chains,
            flat: None,
            purpose: Purpose::Rehearsal,
            beside: None,
        })?;
        started.machine.kill()?;
        hand_over::discard(Path::new(&target.snapshot.hardware.working_dir), &started.later);
        run_folder::leave_seat(&target.held.folder, seat);
        self.ctx.reached("rehearsed");
        Ok(())
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
