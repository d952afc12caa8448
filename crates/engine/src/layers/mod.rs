//! Disk layers: the user's base, the deltas on it, and who needs which.

pub(crate) mod ahead;
pub(crate) mod base;
pub(crate) mod below;
pub(crate) mod clones;
pub(crate) mod delta_file;
pub(crate) mod frozen;
pub(crate) mod image_tool;
pub(crate) mod needs;
pub(crate) mod overlay;
pub(crate) mod qcow2;
