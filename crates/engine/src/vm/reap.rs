//! Children that outlive what started them: QEMU, guards, background jobs.

use std::process::Child;

/// Lets a child go on by itself. A thread takes its exit status once it ends: a process that lives on would be left with a
/// zombie for each.
pub(crate) fn reap(mut child: Child) {
    // Without a thread there is a zombie, and no harm.
    let _ = std::thread::Builder::new().name("reap".into()).spawn(move || child.wait());
}
