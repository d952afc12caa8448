//! What is measured: one folder per scenario, with its contestants, its samples and its expectations.

pub(crate) mod builds;
pub(crate) mod capture;
pub(crate) mod clone;
pub(crate) mod restore;
pub(crate) mod store;
