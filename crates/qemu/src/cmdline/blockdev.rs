//! `-blockdev` graphs: from the devices that use them down to the nodes that hold the images.
//!
//! ```text
//! -device ...,drive=TOP      -machine pflash0=TOP
//!     TOP: throttle, copy-on-read, ...   filters: kept, they stay on top
//!     FORMAT: qcow2, raw, ...            the disk: deltas are put here
//!     STORAGE: file, nbd, ...            `file`: inline, or by the name of another -blockdev
//! ```
//! A node of a storage driver that a device uses directly is a raw disk. Refused: graphs in which a disk is
//! spread over or copied to several nodes (quorum, replication), and format nodes without a name below a
//! filter, since a delta could not be put between them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::base::{BaseSpec, DiskOptions, driver_of};
use super::disks::{BlockHandle, DiskAt, DiskSpec, Place};
use super::drives::Drive;
use super::properties::Properties;
use super::{CmdlineError, CommandLine, Opt};

/// Drivers that pass everything through to their `file`.
const FILTERS: &[&str] = &["compress", "copy-on-read", "preallocate", "throttle"];

/// Drivers with several children of equal rank, or that exist only for a while.
const SPREAD: &[&str] = &[
    "blkdebug",
    "blklogwrites",
    "blkreplay",
    "blkverify",
    "copy-before-write",
    "quorum",
    "replication",
    "snapshot-access",
];

/// Keys under which a node names or holds another.
const CHILDREN: &[&str] = &["file", "backing", "data-file"];

/// Longest way through a graph that is followed.
const MAX_DEPTH: usize = 200;

/// The nodes of all `-blockdev` options.
#[derive(Debug)]
pub(super) struct Graph {
    trees: BTreeMap<usize, Value>,
    nodes: BTreeMap<String, NodeAt>,
}

/// Where a node is defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeAt {
    pub(super) option: usize,
    pub(super) path: Vec<String>,
}

/// A device, or the machine, that uses a node or drive.
struct Use {
    node: String,
    by: String,
    is_cd: bool,
}

/// The disks that are made of `-blockdev` nodes.
pub(super) fn disks(line: &CommandLine, drives: &[Drive]) -> Result<Vec<DiskSpec>, CmdlineError> {
    let graph = Graph::new(line)?;
    let mut seen = BTreeSet::new();
    let mut disks = Vec::new();
    for used in uses(line)? {
        if drives.iter().any(|drive| drive.is_called(&used.node)) || !seen.insert(used.node.clone()) {
            continue;
        }
        let disk = graph.disk(&used)?;
        if !disks.iter().any(|other: &DiskSpec| other.at == disk.at) {
            disks.push(disk);
        }
    }
    Ok(disks)
}

/// Everything that a device or the machine uses by name, in the order of the command line.
fn uses(line: &CommandLine) -> Result<Vec<Use>, CmdlineError> {
    let mut uses = Vec::new();
    for option in &line.options {
        let mut add = |node: Option<String>, is_cd| {
            uses.extend(node.filter(|node| !node.is_empty()).map(|node| Use {
                node,
                by: option.display(),
                is_cd,
            }));
        };
        match option.name() {
            "device" => {
                let device = option.properties()?;
                let is_cd = matches!(device.get("driver").as_deref(), Some("ide-cd" | "scsi-cd"));
                add(device.get("drive"), is_cd);
            }
            "machine" | "M" => {
                let keys = option.keys();
                for flash in ["pflash0", "pflash1"] {
                    add(keys.get(flash).map(str::to_owned), false);
                }
            }
            "global" => add(global_drive(option), false),
            _ => {}
        }
    }
    Ok(uses)
}

/// The drive of `-global DRIVER.drive=X` or `-global driver=D,property=drive,value=X`.
fn global_drive(option: &Opt) -> Option<String> {
    let keys = option.keys();
    if keys.get("property").is_some_and(|property| property == "drive") {
        return keys.get("value").map(str::to_owned);
    }
    keys.iter().find(|(key, _)| key.ends_with(".drive")).map(|(_, value)| value.to_owned())
}

impl Graph {
    pub(super) fn new(line: &CommandLine) -> Result<Self, CmdlineError> {
        let mut graph = Self { trees: BTreeMap::new(), nodes: BTreeMap::new() };
        for option in line.named("blockdev") {
            let tree = option.properties()?.tree();
            graph.add_names(option.id, &tree, &mut Vec::new())?;
            graph.trees.insert(option.id, tree);
        }
        Ok(graph)
    }

    fn add_names(&mut self, option: usize, node: &Value, path: &mut Vec<String>) -> Result<(), CmdlineError> {
        if let Some(name) = node.get("node-name").and_then(Value::as_str) {
            let at = NodeAt { option, path: path.clone() };
            if self.nodes.insert(name.to_owned(), at).is_some() {
                return Err(CmdlineError::DuplicateName { name: name.to_owned() });
            }
        }
        for key in CHILDREN {
            if let Some(child) = node.get(key).filter(|child| child.is_object()) {
                path.push((*key).to_owned());
                self.add_names(option, child, path)?;
                path.pop();
            }
        }
        Ok(())
    }

    /// The node at a place, references unresolved.
    pub(super) fn at(&self, at: &NodeAt) -> Option<&Value> {
        at.path.iter().try_fold(self.trees.get(&at.option)?, |node, key| node.get(key))
    }

    fn find(&self, name: &str, by: &str) -> Result<(NodeAt, &Value), CmdlineError> {
        let unknown = || CmdlineError::UnknownNode { node: name.to_owned(), by: by.to_owned() };
        let at = self.nodes.get(name).ok_or_else(unknown)?;
        Ok((at.clone(), self.at(at).ok_or_else(unknown)?))
    }

    fn disk(&self, used: &Use) -> Result<DiskSpec, CmdlineError> {
        let (mut at, mut node) = self.find(&used.node, &used.by)?;
        let mut read_only = used.is_cd;
        for _ in 0..MAX_DEPTH {
            let driver = driver_of(node).unwrap_or_default();
            let properties = Properties::Json(node.clone());
            read_only |= properties.is_on("read-only");
            read_only |= driver == "vvfat" && !properties.is_on("rw");
            let unsupported = |reason| CmdlineError::NodeUnsupported {
                node: used.node.clone(),
                driver: driver.to_owned(),
                reason,
            };
            if SPREAD.contains(&driver) {
                return Err(unsupported("its content is not that of one node; use the image without it"));
            }
            if !FILTERS.contains(&driver) {
                let name = node.get("node-name").and_then(Value::as_str);
                let name = name.ok_or_else(|| unsupported("the node below the filter needs a node-name"))?;
                return self.disk_at(at, node, name, read_only);
            }
            (at, node) = match node.get("file") {
                Some(Value::String(child)) => self.find(child, &used.node)?,
                Some(child @ Value::Object(_)) => {
                    at.path.push("file".to_owned());
                    (at, child)
                }
                _ => return Err(unsupported("the filter has no `file`")),
            };
        }
        Err(CmdlineError::NodeCycle { node: used.node.clone() })
    }

    fn disk_at(
        &self,
        at: NodeAt,
        node: &Value,
        name: &str,
        read_only: bool,
    ) -> Result<DiskSpec, CmdlineError> {
        let graph = self.resolve(node)?;
        Ok(DiskSpec {
            name: name.to_owned(),
            options: DiskOptions::from_graph(&graph),
            base: BaseSpec::from_graph(graph),
            read_only,
            handle: BlockHandle::Node(name.to_owned()),
            at: DiskAt(Place::Node { option: at.option, path: at.path }),
        })
    }

    /// A node with every reference replaced by what it refers to.
    pub(super) fn resolve(&self, node: &Value) -> Result<Value, CmdlineError> {
        // Bounded in all, not only in depth: references that share nodes could blow a small graph up.
        self.resolve_within(node, &mut 0, 0)
    }

    fn resolve_within(&self, node: &Value, count: &mut usize, depth: usize) -> Result<Value, CmdlineError> {
        *count += 1;
        let mut resolved = node.clone();
        let Value::Object(map) = &mut resolved else { return Ok(resolved) };
        let own_name = map.get("node-name").or_else(|| map.get("driver")).cloned();
        if depth > MAX_DEPTH || *count > MAX_DEPTH * 4 {
            let node = own_name.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
            return Err(CmdlineError::NodeCycle { node });
        }
        for key in CHILDREN {
            let Some(child) = map.get_mut(*key) else { continue };
            *child = match &*child {
                // QEMU takes the empty string for null where a text can't say null.
                Value::String(name) if name.is_empty() => Value::Null,
                Value::String(name) => {
                    let by = own_name.as_ref().and_then(Value::as_str).unwrap_or_default();
                    let (_, target) = self.find(name, by)?;
                    self.resolve_within(target, count, depth + 1)?
                }
                inline => self.resolve_within(inline, count, depth + 1)?,
            };
        }
        Ok(resolved)
    }

    /// The options that define nodes below a node, itself not included.
    pub(super) fn options_below(&self, at: &NodeAt) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut open: Vec<&Value> = self.at(at).into_iter().collect();
        while let Some(node) = open.pop() {
            for child in references(node) {
                if let Some(target) = self.nodes.get(child)
                    && found.insert(target.option)
                {
                    open.extend(self.trees.get(&target.option));
                }
            }
        }
        found.remove(&at.option);
        found
    }

    /// The names an option defines.
    pub(super) fn names_in(&self, option: usize) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter(move |(_, at)| at.option == option).map(|(name, _)| name.as_str())
    }

    /// All names that a node of another option than `option`, or a device, refers to.
    pub(super) fn names_used_outside(
        &self,
        line: &CommandLine,
        option: usize,
    ) -> Result<BTreeSet<String>, CmdlineError> {
        let nodes = self.trees.iter().filter(|(id, _)| **id != option);
        let by_nodes = nodes.flat_map(|(_, tree)| references(tree)).map(str::to_owned);
        let by_devices = uses(line)?.into_iter().map(|used| used.node);
        Ok(by_nodes.chain(by_devices).collect())
    }
}

/// The names a node refers to, in inline children too.
fn references(node: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    let mut open = vec![node];
    while let Some(node) = open.pop() {
        for (key, child) in node.as_object().into_iter().flatten() {
            match child {
                Value::String(name) if CHILDREN.contains(&key.as_str()) || is_spread_key(key) => {
                    found.push(name.as_str());
                }
                Value::Array(list) => {
                    found.extend(list.iter().filter_map(Value::as_str));
                    open.extend(list);
                }
                _ => open.push(child),
            }
        }
    }
    found
}

/// Children of drivers that no disk is built on, but that may refer to a disk's nodes.
fn is_spread_key(key: &str) -> bool {
    matches!(key, "image" | "test" | "raw" | "log" | "target" | "bottom")
}
