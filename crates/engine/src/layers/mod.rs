//! Disk layers: the user's base, the deltas on it, who needs which, and folding a delta back into its parent.

pub(crate) mod base;
pub(crate) mod fold;
pub(crate) mod image_tool;
pub(crate) mod needs;
pub(crate) mod overlay;
pub(crate) mod qcow2;
