//! What a disk reads from below its deltas, and how each delta has to be opened.
//!
//! [`BaseSpec`] says where the user's image is and in what format, in a form that can stand in a qcow2 header
//! as backing file. [`DiskOptions`] are the user's cache, aio and discard settings, which every delta that is
//! put on top has to repeat.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::error::JsonError;
use super::keyvalues::KeyValues;
use super::properties::{Properties, insert, parse_json};

/// The image at the bottom of a disk, as the user gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseSpec {
    /// Where it is.
    pub location: BaseLocation,
    /// Its format where the user said it; QEMU probes otherwise.
    pub format: Option<String>,
}

/// Where a base image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseLocation {
    /// A file or block device of the host; relative paths are relative to where QEMU is started.
    File(String),
    /// A block graph: what QEMU takes as file name behind `json:`. Its `driver` is the base's format.
    Json(Value),
    /// Another file name with a protocol, such as `nbd://host/export`.
    Uri(String),
}

/// How the layers of a disk are opened; absent means QEMU's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskOptions {
    /// Past the host's page cache (`cache=none`, `directsync`).
    pub cache_direct: Option<bool>,
    /// Flushes of the guest are ignored (`cache=unsafe`).
    pub cache_no_flush: Option<bool>,
    /// `threads`, `native` or `io_uring`.
    pub aio: Option<String>,
    /// `ignore` or `unmap`.
    pub discard: Option<String>,
    /// `off`, `on` or `unmap`.
    pub detect_zeroes: Option<String>,
}

/// What a delta that is added reads from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// Nothing yet: `blockdev-snapshot` will put it on the node that is active.
    Null,
    /// A node of this name.
    Node(String),
    /// What the delta's header says.
    FromHeader,
}

impl BaseSpec {
    /// Reads a file name as QEMU does: with protocol prefix, `json:` or a plain path.
    pub(super) fn from_filename(name: &str, format: Option<&str>) -> Result<Self, JsonError> {
        let format = format.map(str::to_owned);
        let location = match protocol_of(name) {
            Some("json") => {
                return Ok(Self::from_json_name(parse_json(&name["json:".len()..])?, format.as_deref()));
            }
            Some(protocol @ ("file" | "host_device")) => {
                BaseLocation::File(name[protocol.len() + 1..].to_owned())
            }
            Some(_) => BaseLocation::Uri(name.to_owned()),
            None => BaseLocation::File(name.to_owned()),
        };
        Ok(Self { location, format })
    }

    /// A `json:` name with a format beside it: the format is the driver above a protocol.
    fn from_json_name(mut graph: Value, format: Option<&str>) -> Self {
        nest_dotted_keys(&mut graph);
        let driver = driver_of(&graph);
        match format {
            Some(format) if driver.is_none_or(is_protocol) && graph.get("file").is_none() => {
                Self::from_graph(json!({"driver": format, "file": graph}))
            }
            Some(format) => {
                insert(&mut graph, "driver", Value::String(format.to_owned()));
                Self::from_graph(graph)
            }
            None => Self::from_graph(graph),
        }
    }

    /// Reads a block graph without references; what only says how to open a node is left out.
    pub(super) fn from_graph(mut graph: Value) -> Self {
        strip_runtime_keys(&mut graph);
        if driver_of(&graph).is_some_and(is_protocol) {
            graph = json!({"driver": "raw", "file": graph});
        }
        let format = driver_of(&graph).map(str::to_owned);
        let location = plain_file(&graph).map(BaseLocation::File).unwrap_or(BaseLocation::Json(graph));
        Self { location, format }
    }
}

impl DiskOptions {
    /// Reads the keys of a `-drive`.
    pub(super) fn from_drive(keys: &KeyValues) -> Self {
        let mode = keys.get("cache");
        let direct = mode.map(|mode| matches!(mode, "none" | "off" | "directsync"));
        let no_flush = mode.map(|mode| mode == "unsafe");
        let text = |key: &str| keys.get(key).map(str::to_owned);
        Self {
            cache_direct: keys.get_bool("cache.direct").or(direct),
            cache_no_flush: keys.get_bool("cache.no-flush").or(no_flush),
            aio: text("aio").or_else(|| text("file.aio")),
            discard: text("discard").map(normal_discard),
            detect_zeroes: text("detect-zeroes"),
        }
    }

    /// Reads the node of a `-blockdev` whose references are resolved.
    pub(super) fn from_graph(graph: &Value) -> Self {
        let properties = Properties::Json(graph.clone());
        let flag = |key: &str| match (properties.is_on(key), properties.is_off(key)) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        };
        let cache = |key: &str| flag(&format!("cache.{key}")).or_else(|| flag(&format!("file.cache.{key}")));
        Self {
            cache_direct: cache("direct"),
            cache_no_flush: cache("no-flush"),
            aio: properties.get("aio").or_else(|| properties.get("file.aio")),
            discard: properties.get("discard").map(normal_discard),
            detect_zeroes: properties.get("detect-zeroes"),
        }
    }

    /// Arguments of QMP `blockdev-add` for a qcow2 delta at `filename`.
    ///
    /// Cache settings are given to the file node too, because a child takes them from its parent only where
    /// it has none. `node_name` is at most 31 characters long (QEMU's limit).
    #[must_use]
    pub fn blockdev_json(&self, node_name: &str, filename: &str, backing: &Backing) -> Value {
        let mut node = json!({"driver": "qcow2", "node-name": node_name, "read-only": false});
        // No other host writes the file: its page cache stays when QEMU takes its block devices back.
        let mut file = json!({"driver": "file", "filename": filename, "drop-cache": false});
        for (key, value) in [("cache.direct", self.cache_direct), ("cache.no-flush", self.cache_no_flush)] {
            if let Some(value) = value {
                insert(&mut node, key, Value::Bool(value));
                insert(&mut file, key, Value::Bool(value));
            }
        }
        if let Some(aio) = &self.aio {
            insert(&mut file, "aio", json!(aio));
        }
        for (key, value) in [("discard", &self.discard), ("detect-zeroes", &self.detect_zeroes)] {
            if let Some(value) = value {
                insert(&mut node, key, json!(value));
            }
        }
        insert(&mut node, "file", file);
        match backing {
            Backing::Null => insert(&mut node, "backing", Value::Null),
            Backing::Node(name) => insert(&mut node, "backing", json!(name)),
            Backing::FromHeader => {}
        }
        node
    }
}

/// Whether a block driver talks to storage itself, with no node below it.
pub(super) fn is_protocol(driver: &str) -> bool {
    PROTOCOLS.contains(&driver)
}

const PROTOCOLS: &[&str] = &[
    "file",
    "ftp",
    "ftps",
    "gluster",
    "host_cdrom",
    "host_device",
    "http",
    "https",
    "io_uring",
    "iscsi",
    "nbd",
    "nfs",
    "null-aio",
    "null-co",
    "nvme",
    "nvme-io_uring",
    "rbd",
    "ssh",
    "virtio-blk-vfio-pci",
    "virtio-blk-vhost-user",
    "virtio-blk-vhost-vdpa",
    "vvfat",
];

/// qcow2 options that tune how a file is opened and say nothing about its content.
pub(super) const QCOW2_TUNING: &[&str] = &[
    "cache-clean-interval",
    "cache-size",
    "discard-no-unref",
    "l2-cache-entry-size",
    "l2-cache-size",
    "lazy-refcounts",
    "overlap-check",
    "pass-discard-other",
    "pass-discard-request",
    "pass-discard-snapshot",
    "refcount-cache-size",
];

/// Options of every node that say how it is opened.
const RUNTIME: &[&str] =
    &["auto-read-only", "cache", "detect-zeroes", "discard", "force-share", "node-name", "read-only"];

/// The same, of the drivers `file` and `host_device`.
const FILE_RUNTIME: &[&str] = &["aio", "aio-max-batch", "drop-cache", "locking", "x-check-cache-dropped"];

/// `-drive` also takes `on` and `off`, `blockdev-add` does not.
fn normal_discard(value: String) -> String {
    match value.as_str() {
        "on" => "unmap".to_owned(),
        "off" => "ignore".to_owned(),
        _ => value,
    }
}

/// The protocol prefix of a file name: what stands before a colon that comes before any slash.
pub(super) fn protocol_of(name: &str) -> Option<&str> {
    let at = name.find([':', '/'])?;
    name[at..].starts_with(':').then_some(&name[..at])
}

pub(super) fn driver_of(node: &Value) -> Option<&str> {
    node.get("driver").and_then(Value::as_str)
}

/// Nests the keys that a `json:` name may write with dots.
fn nest_dotted_keys(graph: &mut Value) {
    let Value::Object(map) = graph else { return };
    let mut nested = Value::Object(Map::new());
    for (key, value) in std::mem::take(map) {
        insert(&mut nested, &key, value);
    }
    *graph = nested;
}

fn strip_runtime_keys(node: &mut Value) {
    let Value::Object(map) = node else { return };
    let driver = map.get("driver").and_then(Value::as_str).map(str::to_owned);
    map.retain(|key, _| match driver.as_deref() {
        _ if RUNTIME.contains(&key.as_str()) => false,
        Some("file" | "host_device") => !FILE_RUNTIME.contains(&key.as_str()),
        Some("qcow2") => !QCOW2_TUNING.contains(&key.as_str()),
        _ => true,
    });
    for child in map.values_mut() {
        strip_runtime_keys(child);
    }
}

/// The path of a graph that is nothing but a format on a host file.
fn plain_file(graph: &Value) -> Option<String> {
    let node = graph.as_object()?;
    if node.keys().any(|key| key != "driver" && key != "file") {
        return None;
    }
    let file = node.get("file")?.as_object()?;
    if file.keys().any(|key| key != "driver" && key != "filename") {
        return None;
    }
    let name = file.get("filename")?.as_str()?;
    match file.get("driver").and_then(Value::as_str) {
        Some("file" | "host_device") => Some(name.to_owned()),
        None if protocol_of(name).is_none() => Some(name.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards how a file name becomes a place: QEMU's rule for protocols, and which driver ends up on top.
    #[test]
    fn file_names_are_read_as_qemu_reads_them() {
        let file = |path: &str| BaseLocation::File(path.to_owned());
        let uri = |name: &str| BaseLocation::Uri(name.to_owned());
        let raw_nbd = json!({"driver": "raw", "file": {"driver": "nbd", "server": {"path": "/s"}}});
        let cases = [
            ("/a/b:c.img", Some("raw"), file("/a/b:c.img"), Some("raw")),
            ("./a:b.img", None, file("./a:b.img"), None),
            ("file:a.img", None, file("a.img"), None),
            ("host_device:/dev/sdb", Some("raw"), file("/dev/sdb"), Some("raw")),
            ("nbd://h/e", Some("qcow2"), uri("nbd://h/e"), Some("qcow2")),
            ("rbd:pool/image", None, uri("rbd:pool/image"), None),
            (
                r#"json:{"driver":"nbd","server.path":"/s"}"#,
                None,
                BaseLocation::Json(raw_nbd.clone()),
                Some("raw"),
            ),
            (
                r#"json:{"driver":"nbd","server.path":"/s"}"#,
                Some("raw"),
                BaseLocation::Json(raw_nbd),
                Some("raw"),
            ),
            (
                r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"x:y"}}"#,
                None,
                file("x:y"),
                Some("qcow2"),
            ),
        ];
        for (name, format, location, found) in cases {
            let base = BaseSpec::from_filename(name, format).unwrap();
            assert_eq!(base, BaseSpec { location, format: found.map(str::to_owned) }, "{name}");
        }
        assert!(BaseSpec::from_filename("json:{oops", None).is_err());
    }

    /// Guards that a delta is opened exactly as its disk was.
    #[test]
    fn a_delta_repeats_the_options_of_its_disk() {
        let keys = KeyValues::parse("cache=none,aio=native,discard=on,detect-zeroes=unmap", None);
        let node = DiskOptions::from_drive(&keys).blockdev_json("n", "/d.qcow2", &Backing::Null);
        let cache = json!({"direct": true, "no-flush": false});
        assert_eq!(
            node,
            json!({"driver": "qcow2", "node-name": "n", "read-only": false, "backing": null, "cache": cache,
                "discard": "unmap", "detect-zeroes": "unmap",
                "file": {"driver": "file", "filename": "/d.qcow2", "drop-cache": false, "cache": cache, "aio": "native"}})
        );
        let plain = DiskOptions::default().blockdev_json("n", "/d", &Backing::FromHeader);
        assert_eq!(
            plain,
            json!({"driver": "qcow2", "node-name": "n", "read-only": false,
            "file": {"driver": "file", "filename": "/d", "drop-cache": false}})
        );
    }

    /// Guards the table of cache modes against QEMU's documentation.
    #[test]
    fn cache_modes_mean_what_qemu_says() {
        let cases = [
            ("writeback", false, false),
            ("none", true, false),
            ("writethrough", false, false),
            ("directsync", true, false),
            ("unsafe", false, true),
        ];
        for (mode, direct, no_flush) in cases {
            let options = DiskOptions::from_drive(&KeyValues::parse(&format!("cache={mode}"), None));
            assert_eq!(options.cache_direct, Some(direct), "{mode}");
            assert_eq!(options.cache_no_flush, Some(no_flush), "{mode}");
        }
    }
}
