//! Brings a captured machine into a new QEMU that waits for it.

pub(crate) mod feed;
pub(crate) mod load;
