//! Edits: the few words of a user's command line that vmrewind replaces, and the options it adds.
//!
//! Everything not named here stays byte for byte. A `-drive` or `-blockdev` keeps its id, node name, device
//! settings and the ways it is opened; what described the old image (place, format, key, offset) goes. Deltas
//! find their backing file by their own header, so no `backing` is written.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::base::{QCOW2_TUNING, driver_of, is_protocol};
use super::blockdev::{Graph, NodeAt};
use super::disks::{DiskSpec, Place};
use super::drives::{is_about_image, is_generic, shortcut_keys};
use super::keyvalues::{KeyValues, escape_commas};
use super::properties::{Properties, flatten};
use super::{CmdlineError, CommandLine};

/// Options of any node that outlive a change of its image.
const NODE_KEPT: &[&str] =
    &["auto-read-only", "cache", "detect-zeroes", "discard", "force-share", "node-name", "read-only"];

/// Options of the storage node that hold for the file of a delta as well.
const STORAGE_KEPT: &[&str] = &["aio", "aio-max-batch", "drop-cache", "locking", "x-check-cache-dropped"];

impl CommandLine {
    /// Replaces the image of a disk by a qcow2 delta at `path` (absolute, else QEMU may take it for a protocol).
    ///
    /// `disk` is of this command line or of one it was derived from.
    ///
    /// # Errors
    /// [`CmdlineError::NoSuchDisk`] where the disk is not here (any more), or its block graph's errors.
    pub fn set_disk_file(&mut self, disk: &DiskSpec, path: &str) -> Result<(), CmdlineError> {
        let missing = || CmdlineError::NoSuchDisk { disk: disk.name.clone() };
        match &disk.at.0 {
            Place::Node { option, path: keys } => {
                let at = NodeAt { option: *option, path: keys.clone() };
                self.set_node_file(&at, path)?.then_some(()).ok_or_else(missing)
            }
            Place::Drive(id) => {
                let option = self.options.iter_mut().find(|option| option.id == *id).ok_or_else(missing)?;
                option.value = Some(drive_on_delta(option.keys(), path));
                Ok(())
            }
            Place::Shortcut(id) => {
                let option = self.options.iter_mut().find(|option| option.id == *id).ok_or_else(missing)?;
                let rest = shortcut_keys(option.name()).ok_or_else(missing)?;
                option.value = Some(format!("file={},format=qcow2,{rest}", escape_commas(path)));
                option.word = Some("-drive".to_owned());
                Ok(())
            }
        }
    }

    /// Has QEMU keep the host's page cache of a disk's files when it takes its block devices back at `cont`.
    ///
    /// After each migration QEMU drops the cache of every file of a chain, in case another host wrote it, and reads
    /// metadata again from the disk while the guest waits (`drop-cache`, qapi/block-core.json). Here no other host
    /// writes. `local_files` is how many files of the chain, from the active one down, are files of this host. Of a
    /// `-blockdev` only the active one is set: QEMU wants its backing nodes written out in full or not at all.
    ///
    /// # Errors
    /// [`CmdlineError::NoSuchDisk`] where the disk is not here, or its option's errors.
    pub fn keep_page_cache(&mut self, disk: &DiskSpec, local_files: usize) -> Result<(), CmdlineError> {
        let missing = || CmdlineError::NoSuchDisk { disk: disk.name.clone() };
        let (id, prefix, levels) = match &disk.at.0 {
            Place::Drive(id) | Place::Shortcut(id) => (*id, String::new(), local_files),
            Place::Node { option, path } => {
                (*option, path.iter().flat_map(|key| [key.as_str(), "."]).collect(), local_files.min(1))
            }
        };
        let option = self.options.iter_mut().find(|option| option.id == id).ok_or_else(missing)?;
        match (option.properties()?, &disk.at.0) {
            (Properties::Json(mut tree), Place::Node { path, .. }) => {
                let node =
                    path.iter().try_fold(&mut tree, |node, key| node.get_mut(key)).ok_or_else(missing)?;
                if levels > 0 && node["file"].is_object() {
                    node["file"]["drop-cache"] = Value::Bool(false);
                }
                option.value = Some(tree.to_string());
            }
            _ => {
                let mut keys = option.keys();
                for level in 0..levels {
                    let key = format!("{prefix}{}file.drop-cache", "backing.".repeat(level));
                    if keys.get(&key).is_none() {
                        keys.push(&key, "off");
                    }
                }
                option.value = Some(keys.to_string());
            }
        }
        Ok(())
    }

    /// Replaces the machine's alias (`q35`, `pc`) by what `resolve` makes of it, so that a later QEMU still
    /// builds the same hardware; adds a machine where there is none.
    ///
    /// `resolve` is asked with `pc`, QEMU's default, where the command line names no machine; `None` from it
    /// means that the name is no alias.
    pub fn resolve_machine_alias(&mut self, resolve: impl FnOnce(&str) -> Option<String>) {
        let is_machine = |name: &str| matches!(name, "machine" | "M");
        let typed = self
            .options
            .iter_mut()
            .rev()
            .find(|option| is_machine(option.name()) && option.keys().get("type").is_some());
        let Some(option) = typed else {
            if let Some(version) = resolve("pc") {
                self.add_option("-machine", Some(&escape_commas(&version)));
            }
            return;
        };
        let mut keys = option.keys();
        if let Some(version) = keys.get("type").and_then(resolve) {
            keys.set("type", &version);
            option.value = Some(keys.to_string());
        }
    }

    /// Adds a QMP socket at `path` for one client at a time; gives the id used, `id` or one like it that is free.
    pub fn add_qmp_socket(&mut self, id: &str, path: &str) -> String {
        self.add_qmp(id, "socket", &format!("{},server=on,wait=off", escape_commas(path)))
    }

    /// Adds a QMP monitor on the named pipes `path.in` and `path.out`, which are there when QEMU starts.
    pub fn add_qmp_pipes(&mut self, id: &str, path: &str) -> String {
        self.add_qmp(id, "pipe", &escape_commas(path))
    }

    fn add_qmp(&mut self, id: &str, backend: &str, path: &str) -> String {
        let id = self.free_id(id);
        self.add_option("-chardev", Some(&format!("{backend},id={id},path={path}")));
        self.add_option("-mon", Some(&format!("chardev={id},mode=control")));
        id
    }

    /// Makes QEMU wait for the device state and memory it is to run on.
    pub fn add_incoming_defer(&mut self) {
        self.add_option("-incoming", Some("defer"));
    }

    /// Makes QEMU wait for `cont` before the guest runs.
    pub fn add_start_paused(&mut self) {
        self.add_option("-S", None);
    }

    /// An id that nothing in the command line has: `wanted`, or `wanted-2` and so on.
    #[must_use]
    pub fn free_id(&self, wanted: &str) -> String {
        let taken = |id: &str| {
            self.options.iter().filter_map(|option| option.properties().ok()).any(|properties| {
                let is = |key: &str| properties.get(key).is_some_and(|value| value == id);
                is("id") || is("node-name")
            })
        };
        let mut id = wanted.to_owned();
        let mut number = 2;
        while taken(&id) {
            id = format!("{wanted}-{number}");
            number += 1;
        }
        id
    }

    /// Puts a node on a delta; false where the node is not there.
    fn set_node_file(&mut self, at: &NodeAt, path: &str) -> Result<bool, CmdlineError> {
        let graph = Graph::new(self)?;
        let Some(node) = graph.at(at) else { return Ok(false) };
        let file = delta_file(&graph.resolve(node)?, path);
        let is_qcow2 = driver_of(node) == Some("qcow2");
        let below = graph.options_below(at);
        let Some(option) = self.options.iter_mut().find(|option| option.id == at.option) else {
            return Ok(false);
        };
        option.value = Some(match option.properties()? {
            Properties::Keys(keys) => keys_on_delta(keys, &at.path, is_qcow2, &file),
            Properties::Json(mut tree) => {
                let mut keys = at.path.iter();
                if let Some(node) = keys.try_fold(&mut tree, |node, key| node.get_mut(key)) {
                    *node = node_on_delta(node, is_qcow2, file);
                }
                tree.to_string()
            }
        });
        self.remove_unused_nodes(below)?;
        Ok(true)
    }

    /// Removes those of the given `-blockdev` options that nothing refers to.
    fn remove_unused_nodes(&mut self, mut candidates: BTreeSet<usize>) -> Result<(), CmdlineError> {
        loop {
            let graph = Graph::new(self)?;
            let mut unused = None;
            for option in &candidates {
                let used = graph.names_used_outside(self, *option)?;
                if graph.names_in(*option).all(|name| !used.contains(name)) {
                    unused = Some(*option);
                    break;
                }
            }
            let Some(unused) = unused else { return Ok(()) };
            candidates.remove(&unused);
            self.options.retain(|option| option.id != unused);
        }
    }
}

/// The keys of a `-drive` with its image replaced.
fn drive_on_delta(mut keys: KeyValues, path: &str) -> String {
    let format = keys.get("format").or_else(|| keys.get("driver")).map(str::to_owned);
    if keys.get("file").is_some() {
        keys.set("file", path);
    } else if !keys.replace_first(|key| key.starts_with("file."), "file", path) {
        keys.push("file", path);
    }
    // Keys of other formats and of protocols mean nothing to qcow2; of raw and qcow2 they are known.
    let is_known = format.as_deref().is_none_or(|format| matches!(format, "raw" | "qcow2"));
    keys.remove_where(|key| {
        let is_kept = matches!(key, "file" | "format");
        !is_kept && (is_about_image(key) || (!is_known && !is_generic(key)))
    });
    if keys.get("format").is_some() {
        keys.set("format", "qcow2");
    } else {
        keys.insert_after("file", "format", "qcow2");
    }
    keys.to_string()
}

/// The file node of a delta, opened as the storage of `old` (references resolved) was.
fn delta_file(old: &Value, path: &str) -> Value {
    let mut file = json!({"driver": "file", "filename": path});
    let is_storage = driver_of(old).is_some_and(is_protocol);
    let storage = if is_storage { Some(old) } else { old.get("file") };
    let is_file = matches!(storage.and_then(driver_of), Some("file" | "host_device"));
    for (key, value) in storage.and_then(Value::as_object).into_iter().flatten() {
        let key = key.as_str();
        let of_storage = is_file && STORAGE_KEPT.contains(&key);
        // A storage node that was the disk itself keeps these as the format node it becomes.
        let of_node = !is_storage && matches!(key, "cache" | "discard");
        if of_storage || of_node {
            file[key] = value.clone();
        }
    }
    file
}

fn is_node_kept(key: &str, is_qcow2: bool) -> bool {
    let group = key.split('.').next().unwrap_or(key);
    NODE_KEPT.contains(&group) || (is_qcow2 && QCOW2_TUNING.contains(&group))
}

/// A node in JSON with its image replaced, in the order of its keys.
fn node_on_delta(node: &Value, is_qcow2: bool, file: Value) -> Value {
    let mut out = Map::new();
    for (key, value) in node.as_object().into_iter().flatten() {
        match key.as_str() {
            "driver" => out.insert(key.clone(), json!("qcow2")),
            "file" => out.insert(key.clone(), Value::Null),
            kept if is_node_kept(kept, is_qcow2) => out.insert(key.clone(), value.clone()),
            _ => None,
        };
    }
    out.insert("file".to_owned(), file);
    Value::Object(out)
}

/// The same of a node in `key=value` text; the keys of the node stand behind `path`.
fn keys_on_delta(mut keys: KeyValues, path: &[String], is_qcow2: bool, file: &Value) -> String {
    let prefix: String = path.iter().flat_map(|key| [key.as_str(), "."]).collect();
    let driver = format!("{prefix}driver");
    keys.set(&driver, "qcow2");
    keys.remove_where(|key| {
        key != driver && key.strip_prefix(prefix.as_str()).is_some_and(|own| !is_node_kept(own, is_qcow2))
    });
    let mut after = driver;
    for (key, value) in flatten(file) {
        let key = format!("{prefix}file.{key}");
        keys.insert_after(&after, &key, &value);
        after = key;
    }
    keys.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(words: &[&str], local_files: usize) -> Vec<String> {
        let argv: Vec<String> = ["qemu"].iter().chain(words).map(|word| (*word).to_owned()).collect();
        let mut line = CommandLine::parse(&argv).unwrap();
        let disk = line.disks().unwrap().remove(0);
        line.set_disk_file(&disk, "/l.qcow2").unwrap();
        line.keep_page_cache(&disk, local_files).unwrap();
        line.to_argv()[1..].to_vec()
    }

    /// The pause of a capture was mostly QEMU reading metadata again that it had just dropped from the page cache.
    #[test]
    fn the_page_cache_of_every_file_of_a_chain_is_kept() {
        let drive = edited(&["-drive", "file=a.raw,format=raw,if=virtio"], 2);
        let wanted = "file=/l.qcow2,format=qcow2,if=virtio,file.drop-cache=off,backing.file.drop-cache=off";
        assert_eq!(drive, ["-drive", wanted]);
        let short = edited(&["-hda", "a.raw"], 1);
        assert!(short[1].ends_with(",file.drop-cache=off"), "{short:?}");
        let json = edited(
            &[
                "-blockdev",
                r#"{"driver":"qcow2","node-name":"d","file":{"driver":"file","filename":"a"}}"#,
                "-device",
                "virtio-blk-pci,drive=d",
            ],
            3,
        );
        assert!(json[1].contains(r#""drop-cache":false"#) && !json[1].contains("backing"), "{json:?}");
        let keys = edited(
            &[
                "-blockdev",
                "qcow2,node-name=d,file.driver=file,file.filename=a",
                "-device",
                "virtio-blk-pci,drive=d",
            ],
            3,
        );
        assert!(keys[1].ends_with(",file.drop-cache=off") && !keys[1].contains("backing"), "{keys:?}");
    }
}
