//! The words of the command line for what the engine tells as data.

mod hints;

use vmrewind_engine::{Note, Work};

pub(crate) use self::hints::hint;
use crate::output::human::time;

/// What long work is called beside its bar, and in the JSON lines of progress.
pub(crate) fn work(work: Work) -> &'static str {
    match work {
        Work::CapturingMemory => "capturing memory",
        Work::RestoringMemory => "restoring memory",
        Work::VerifyingMemory => "verifying memory",
        Work::WritingMemoryFile => "writing the memory file",
        Work::Store(what) => what,
    }
}

/// A note as a sentence.
pub(crate) fn note(note: &Note) -> String {
    match note {
        Note::Undoing { operation } => format!("an interrupted '{operation}' is being undone"),
        Note::Finishing { operation } => format!("an interrupted '{operation}' is being finished"),
        Note::PageServerRevived => {
            "the page server of an unfinished restore was gone; it is started again".into()
        }
        Note::WaitingForMemory => "the memory of the last restore is still coming in; waiting for it".into(),
        Note::WaitingForVm { vm, holder: None } => format!("VM '{vm}' is busy; waiting for it"),
        Note::WaitingForVm { vm, holder: Some(holder) } => format!(
            "VM '{vm}' is busy: '{}' (process {}) has held it since {}; waiting for it",
            holder.operation,
            holder.pid,
            time(holder.since)
        ),
        Note::NotTidied { disk, error } => format!("disk '{disk}' was not tidied: {error}"),
        Note::LinksUnplugged { vm, devices } => {
            let devices = devices.join(", ");
            format!("network links are unplugged until `vmrewind vm link {vm} up` plugs them: {devices}")
        }
        Note::NotHandedOver { what, error } => format!("{what} was not handed over to the new QEMU: {error}"),
        Note::EndedFirst { why } => {
            format!(
                "the running QEMU is ended before the new one starts, since both can't be there at once: {why}"
            )
        }
        Note::NotShown { vm, error } => format!("it is done, but VM '{vm}' can't be shown: {error}"),
        Note::LeftOut { vm, error } => format!("VM '{vm}' is left out: {error}"),
        Note::OfGuest { text } => text.clone(),
    }
}
