//! Speaks QEMU: its command line, its control protocol, its migration stream.
//!
//! ```text
//!  arch      what differs between architectures              data
//!  cmdline   argv <-> what vmrewind must know and edit of it     pure values
//!  qmp       bytes <-> commands, replies, events                 sans-IO, and one thin socket client
//!  stream    bytes <-> pages of memory and device state          sans-IO, both ways
//!  postcopy  source of a postcopy migration: faults in, pages out  sans-IO
//! ```
//! Nothing here decides anything about VMs or snapshots, and nothing but `qmp::client` has files, sockets, threads or a
//! clock: bytes and time come in, bytes and actions go out.

pub mod arch;
pub mod cmdline;
pub mod postcopy;
pub mod qmp;
pub mod stream;
