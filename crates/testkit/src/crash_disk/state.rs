//! What a power cut leaves of a recorded folder.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::model::{Change, Model, Names, Node, Number, SECTOR};
use crate::storage::SeededRandom;

/// A folder as the machine finds it after a power cut.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CrashState {
    /// By path in the folder; `None` is a folder.
    entries: BTreeMap<PathBuf, Option<Found>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Found {
    content: Arc<[u8]>,
    mode: u32,
    modified: SystemTime,
}

/// Throws the dice over all that is pending in `model`.
pub(super) fn after_crash(model: &Model, seed: u64) -> CrashState {
    let mut random = SeededRandom::new(seed);
    let mut names: BTreeMap<Number, Names> = BTreeMap::new();
    for (number, node) in model.nodes.iter().enumerate() {
        if let Node::Dir { durable, .. } = &**node {
            names.insert(number, durable.clone());
        }
    }
    // At either end of the scale too: all of it is there, nothing is.
    let odds = random.below(5);
    for change in &model.pending {
        if random.below(4) < odds {
            change.apply(|folder, edit| edit(names.entry(folder).or_default()));
        }
    }
    let mut entries = BTreeMap::new();
    find(model, &names, 0, Path::new(""), &mut random, &mut entries);
    CrashState { entries }
}

fn find(
    model: &Model,
    names: &BTreeMap<Number, Names>,
    folder: Number,
    path: &Path,
    random: &mut SeededRandom,
    entries: &mut BTreeMap<PathBuf, Option<Found>>,
) {
    for (name, number) in names.get(&folder).into_iter().flatten() {
        let path = path.join(name);
        match &*model.nodes[*number] {
            Node::Dir { .. } => {
                entries.insert(path.clone(), None);
                find(model, names, *number, &path, random, entries);
            }
            Node::File(file) => {
                let pending: &[Change] = if file.is_lost { &[] } else { &file.pending };
                let content = content_after_crash(&file.durable, pending, random);
                entries.insert(path, Some(Found { content, mode: file.mode, modified: file.modified }));
            }
        }
    }
}

fn content_after_crash(durable: &Arc<[u8]>, pending: &[Change], random: &mut SeededRandom) -> Arc<[u8]> {
    if pending.is_empty() {
        return Arc::clone(durable);
    }
    let mut content = durable.to_vec();
    let odds = random.below(5);
    for change in pending {
        match change {
            Change::Length(_) if random.below(4) < odds => change.apply(&mut content),
            Change::Length(_) => {}
            Change::Write(offset, data) => {
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if random.below(4) < odds {
                        Change::Write(offset + index * SECTOR, sector.into()).apply(&mut content);
                    }
                }
            }
        }
    }
    content.into()
}

impl CrashState {
    /// The content of a file, by its path in the folder.
    pub fn content(&self, path: &Path) -> Option<&[u8]> {
        self.entries.get(path)?.as_ref().map(|found| &*found.content)
    }

    /// Puts the state into a folder that is there and empty, with modes and times.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn put_into(&self, folder: &Path) -> io::Result<()> {
        for (path, found) in &self.entries {
            let path = folder.join(path);
            let Some(found) = found else {
                std::fs::create_dir(&path)?;
                std::fs::set_permissions(&path, Permissions::from_mode(0o700))?;
                continue;
            };
            let file = File::create(&path)?;
            file.set_len(found.content.len() as u64)?;
            // Holes stay holes: layers are mostly zeros.
            for (index, block) in found.content.chunks(4096).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    file.write_all_at(block, index as u64 * 4096)?;
                }
            }
            file.set_modified(found.modified)?;
            file.set_permissions(Permissions::from_mode(found.mode))?;
        }
        Ok(())
    }
}
