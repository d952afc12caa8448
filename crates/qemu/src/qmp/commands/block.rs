//! The block layer: devices, nodes, snapshots, commit.
//!
//! A node of the guest's disk is named by `node-name`; names that QEMU made itself begin with `#`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Nothing, commands, open_enum, plain_commands};

plain_commands! {
    /// `query-block`: the devices that a guest sees, and what is in them.
    QueryBlock = "query-block" -> Vec<BlockBackend>;
}

commands! {
    QueryNamedBlockNodes = "query-named-block-nodes" -> Vec<BlockNode>;
    BlockdevAdd = "blockdev-add" -> Nothing;
    BlockdevDel = "blockdev-del" -> Nothing;
    Transaction = "transaction" -> Nothing;
    BlockCommit = "block-commit" -> Nothing;
}

/// QAPI's `BlockInfo`: a device and its medium.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BlockBackend {
    /// The `-drive` id; empty for devices on a `-blockdev`.
    pub device: String,
    /// The device's id or its path in QEMU's object tree.
    pub qdev: Option<String>,
    /// Whether the medium can be taken out.
    pub removable: bool,
    /// `ok`, `failed` or `nospace`, on devices that pause at errors.
    #[serde(rename = "io-status")]
    pub io_status: Option<String>,
    /// The medium; None in an empty drive.
    pub inserted: Option<BlockNode>,
    /// Fields not typed here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
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

impl BlockdevAdd {
    /// Opens a qcow2 file to become an overlay by `blockdev-snapshot`.
    ///
    /// `backing` is null: the file's own backing entry is not opened, the snapshot sets it to the disk's node.
    pub fn qcow2_overlay(node_name: &str, filename: &str) -> Self {
        Self(json!({
            "driver": "qcow2",
            "node-name": node_name,
            "file": { "driver": "file", "filename": filename },
            "backing": null,
        }))
    }
}

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

open_enum! {
    /// QAPI's `BlockdevOnError`: what a job does at an I/O error.
    OnError {
        /// Fails.
        Report = "report",
        /// Goes on.
        Ignore = "ignore",
        /// Pauses when the disk is full, fails at others.
        Enospc = "enospc",
        /// Pauses.
        Stop = "stop",
    }
}

/// `block-commit`: merges the nodes from `top_node` down to, not including, `base_node` into `base_node`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockCommit {
    /// The id of the job that does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// The disk's root node or device.
    pub device: String,
    /// The node that is written; the lowest one by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_node: Option<String>,
    /// The highest node merged; by default the active one, and then the job becomes ready instead of ending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_node: Option<String>,
    /// What the node above `top_node` records as its backing file: always to be given, else it can be `json:`.
    /// Refused where there is no such node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// Bytes per second; 0 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<u64>,
    /// What to do at an I/O error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    /// The name of the filter node put above `top_node` meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_node_name: Option<String>,
    /// Whether it ends without `job-finalize`; true by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_finalize: Option<bool>,
    /// Whether it vanishes without `job-dismiss`, its error with it; true by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_dismiss: Option<bool>,
}
