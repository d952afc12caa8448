//! Placeholder until the first part lands.

pub mod cmdline;
pub mod stream;
pub mod qmp;
