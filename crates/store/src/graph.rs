//! What images refer to: which nodes, groups and blobs, found by walking their trees.
//!
//! `gc`, `check` and `usage` all ask this of all images of a store. Trees share most of their nodes, so each of them
//! remembers what it has seen; this module only says what is directly below a node.

use crate::entry::ObjectKind;
use crate::error::{Part, StoreError};
use crate::format::image::ImageFile;
use crate::format::node::{self, Interior, Leaf};
use crate::format::{Flaw, checked_node};
use crate::hash::ObjectHash;
use crate::id::ImageId;
use crate::objects::Objects;

/// A node of an image's tree; leaves have height 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct NodeRef {
    pub(crate) hash: ObjectHash,
    pub(crate) height: u8,
}

/// What a node refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Below {
    /// Of an interior node: its children.
    Nodes(Vec<NodeRef>),
    /// Of a leaf: the groups of its blocks.
    Groups(Vec<ObjectHash>),
}

/// Returns the roots of an image's spaces that are not all zero.
pub(crate) fn roots(file: &ImageFile) -> impl Iterator<Item = NodeRef> {
    file.spaces
        .iter()
        .filter_map(|space| Some(NodeRef { hash: space.root?, height: node::root_height(space.blocks()) }))
}

/// Returns the objects that hold an image's attachments.
pub(crate) fn blobs(file: &ImageFile) -> impl Iterator<Item = ObjectHash> {
    file.attachments.iter().flat_map(|attachment| attachment.pieces.iter().copied())
}

/// Reads and verifies a node of `image`, and returns what it refers to.
pub(crate) fn below(objects: &Objects, image: &ImageId, at: NodeRef) -> Result<Below, StoreError> {
    let mut bytes = Vec::new();
    objects.read_into(&at.hash, ObjectKind::Node, &mut bytes)?;
    let flawed = |flaw| checked_node(flaw, image, &at.hash);
    let Some(height) = at.height.checked_sub(1) else {
        return Leaf::decode(&bytes).map(|leaf| Below::Groups(leaf.groups)).map_err(flawed);
    };
    let interior = Interior::decode(&bytes).map_err(flawed)?;
    if interior.height != at.height {
        let what = format!("its height is {}, not {}", interior.height, at.height);
        return Err(flawed(Flaw::new(Part::Node, what)));
    }
    let children = interior.children.into_iter().map(|(_, hash)| NodeRef { hash, height });
    Ok(Below::Nodes(children.collect()))
}
