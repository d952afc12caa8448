//! The block layer: nodes and snapshots.
//!
//! A node of the guest's disk is named by `node-name`; names that QEMU made itself begin with `#`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Nothing, commands};

commands! {
    QueryNamedBlockNodes = "query-named-block-nodes" -> Vec<BlockNode>;
    BlockdevAdd = "blockdev-add" -> Nothing;
    BlockdevDel = "blockdev-del" -> Nothing;
    Transaction = "transaction" -> Nothing;
}

/// QAPI's `BlockDeviceInfo`: a node.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BlockNode {
    /// The node's name.
    #[serde(rename = "node-name")]
    pub node_name: Option<String>,
    /// The driver: `qcow2`, `raw`, `file`, ...
    pub drv: String,
    /// The file name as QEMU shows it, which can be a `json:` description.
    pub file: String,
    /// Whether it is open read-only.
    pub ro: bool,
    /// The file name of the backing node.
    pub backing_file: Option<String>,
    /// How many nodes lie below it; 0 with `flat`.
    #[serde(default)]
    pub backing_file_depth: u64,
    /// The image behind it.
    pub image: ImageInfo,
    /// Fields not typed here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// QAPI's `ImageInfo`: an image file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ImageInfo {
    /// The file name as QEMU shows it: `json:{...}` where the node's backing is not what the file's header says.
    pub filename: String,
    /// The format.
    pub format: String,
    /// The size that the guest sees, in bytes.
    #[serde(rename = "virtual-size")]
    pub virtual_size_bytes: u64,
    /// The size on disk, in bytes, where it can be known.
    #[serde(rename = "actual-size")]
    pub actual_size_bytes: Option<u64>,
    /// The backing file as recorded in the image.
    #[serde(rename = "backing-filename")]
    pub backing_filename: Option<String>,
    /// The backing file with its path.
    #[serde(rename = "full-backing-filename")]
    pub full_backing_filename: Option<String>,
    /// The backing file's format as recorded in the image.
    #[serde(rename = "backing-filename-format")]
    pub backing_filename_format: Option<String>,
    /// The image below, as opened. Absent with `flat`.
    #[serde(rename = "backing-image")]
    pub backing_image: Option<Box<Self>>,
    /// Fields not typed here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// `query-named-block-nodes`: every node, those made by QEMU too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct QueryNamedBlockNodes {
    /// Leaves out `backing-image` and the depth: they make the reply grow with the square of the chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flat: Option<bool>,
}

/// `blockdev-add`: opens a node; the options are QAPI's `BlockdevOptions`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct BlockdevAdd(pub Value);

/// `blockdev-del`: closes a node that nothing uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockdevDel {
    /// The node's name.
    #[serde(rename = "node-name")]
    pub node_name: String,
}

/// `transaction`: all of its actions, at one instant, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Transaction {
    /// What is done.
    pub actions: Vec<TransactionAction>,
}

/// One action of a [`Transaction`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TransactionAction {
    /// Puts an overlay on a node.
    BlockdevSnapshot(BlockdevSnapshot),
}

/// The action `blockdev-snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockdevSnapshot {
    /// The node that is frozen.
    pub node: String,
    /// The node that takes its place.
    pub overlay: String,
}

impl Transaction {
    /// Switches every disk to its overlay.
    pub fn of_snapshots(snapshots: impl IntoIterator<Item = BlockdevSnapshot>) -> Self {
        Self { actions: snapshots.into_iter().map(TransactionAction::BlockdevSnapshot).collect() }
    }
}
