//! Placeholder until the first part lands.

pub mod cmdline;
pub mod qmp;
pub mod stream;
