//! What is in a root, by the documented format (docs/format.md) and not by the engine's own code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

/// One VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundVm {
    /// By name: for each disk the files of the whole chain, with their content.
    pub(crate) snapshots: BTreeMap<String, Vec<Chain>>,
    /// The name of the snapshot that the present state descends from.
    pub(crate) current: Option<String>,
    /// The ids of the layers of each disk that the VM goes on with; their content is the guest's to have made durable.
    pub(crate) present: Vec<Vec<String>>,
}

/// The layers of one disk, from the top: id, and content.
pub(crate) type Chain = Vec<(String, Vec<u8>)>;

/// All VMs of a root; none where it has none.
///
/// # Panics
/// Where a record can't be read, or a layer that one names is not there.
pub(crate) fn vms(root: &Path) -> BTreeMap<String, FoundVm> {
    let names = std::fs::read_dir(root.join("vms")).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().into_string().expect("UTF-8"));
    names
        .filter(|name| !name.starts_with('.'))
        .map(|name| {
            let found = vm(&root.join("vms").join(&name));
            (name, found)
        })
        .collect()
}

fn vm(folder: &Path) -> FoundVm {
    let record = json(&folder.join("vm.json"));
    let manifests = json_files(&folder.join("snapshots"));
    let name_of = |id: &Value| {
        let manifest = manifests.iter().find(|manifest| manifest["id"] == *id);
        manifest.map(|manifest| text(&manifest["name"]))
    };
    let snapshot = |manifest: &Value| {
        let frozen = array(&manifest["disks"]).iter();
        let chains = frozen.map(|disk| chain(folder, &record, &text(&disk["name"]), &text(&disk["layer"])));
        (text(&manifest["name"]), chains.map(|chain| with_content(folder, chain)).collect())
    };
    let present = array(&record["disks"]).iter().map(|disk| {
        let (_, ids) = chain(folder, &record, &text(&disk["name"]), &text(&disk["active"]));
        ids
    });
    FoundVm {
        snapshots: manifests.iter().map(snapshot).collect(),
        current: name_of(&record["current"]),
        present: present.collect(),
    }
}

/// The layers of a disk from `top` down, by the record and by the headers alike.
fn chain(folder: &Path, record: &Value, disk: &str, top: &str) -> (String, Vec<String>) {
    let layers =
        array(&record["disks"]).iter().find(|found| found["name"] == disk).map(|found| &found["layers"]);
    let layers = array(layers.expect("the record has the disk"));
    let mut ids = vec![top.to_owned()];
    loop {
        let id = ids.last().expect("one at least");
        let layer =
            layers.iter().find(|layer| layer["id"] == **id).unwrap_or_else(|| panic!("no layer {id}"));
        let file = folder.join("layers").join(disk).join(format!("{id}.qcow2"));
        let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(bytes.starts_with(b"QFI\xfb"), "{} is no layer", file.display());
        let backing = backing_name(&bytes);
        match layer["parent"].as_str() {
            Some(parent) => {
                assert_eq!(backing, format!("{parent}.qcow2"), "{}", file.display());
                ids.push(parent.to_owned());
            }
            None => {
                assert!(backing.ends_with("base.raw") || backing.starts_with("../../../"), "{backing}");
                return (disk.to_owned(), ids);
            }
        }
    }
}

fn with_content(folder: &Path, (disk, ids): (String, Vec<String>)) -> Chain {
    let content = |id: String| {
        let file = folder.join("layers").join(&disk).join(format!("{id}.qcow2"));
        let content = std::fs::read(file).expect("it was read before");
        (id, content)
    };
    ids.into_iter().map(content).collect()
}

/// The name of the backing file in a qcow2 header (QEMU's docs/interop/qcow2.rst).
fn backing_name(bytes: &[u8]) -> String {
    let number =
        |at: usize, len: usize| bytes[at..at + len].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (offset, len) = (number(8, 8), number(16, 4));
    String::from_utf8_lossy(&bytes[offset..offset + len]).into_owned()
}

/// Files among a VM's layers that its record does not name: nothing would ever remove them.
pub(crate) fn strays(root: &Path, name: &str) -> BTreeSet<String> {
    let folder = root.join("vms").join(name);
    let record = json(&folder.join("vm.json"));
    let named = array(&record["disks"]).iter().flat_map(|disk| array(&disk["layers"]));
    let named: BTreeSet<String> = named.map(|layer| format!("{}.qcow2", text(&layer["id"]))).collect();
    let disks = std::fs::read_dir(folder.join("layers")).into_iter().flatten().flatten();
    let files = disks.flat_map(|disk| std::fs::read_dir(disk.path()).into_iter().flatten().flatten());
    let files = files.map(|file| file.file_name().to_string_lossy().into_owned());
    files.filter(|file| !named.contains(file)).collect()
}

fn json_files(folder: &Path) -> Vec<Value> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == "json")).collect();
    files.sort();
    files.iter().map(|path| json(path)).collect()
}

/// Reads a record.
pub(crate) fn json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The elements of an array.
pub(crate) fn array(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

/// A string.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
