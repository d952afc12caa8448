//! Checks of what the code is built from and for, each a file: libraries, the oldest Rust, the other architecture.
//!
//! A check that can't be made on this machine says so on the screen, with what it would take; it never passes silently.

pub(crate) mod arm;
pub(crate) mod deny;
pub(crate) mod msrv;
