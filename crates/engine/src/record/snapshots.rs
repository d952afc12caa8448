//! All snapshots of a VM: those whose manifests can be read, and what is known of the others.
//!
//! A manifest that is damaged takes its own snapshot only. What it said is not known, so it counts as naming every layer
//! of the VM as long as it is there; it can be deleted by its id, which is its file's name. A file of another name is
//! nobody's manifest, and is passed over.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::ids::{SnapshotId, SnapshotName};
use crate::record::RECORD_VERSION;
use crate::record::snapshot::Manifest;
use crate::record::vm::VmRecord;
use crate::root::VmFolder;
use crate::root::file::Files;

/// A damaged manifest that is longer is not looked through for a name.
const SALVAGED_BYTES: u64 = 1 << 20;

/// All snapshots of a VM.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshots {
    /// Those that can be read, oldest first.
    pub(crate) sound: Vec<Manifest>,
    /// Those that can't be, by id.
    pub(crate) damaged: Vec<DamagedManifest>,
}

/// A manifest that can't be read.
#[derive(Debug, Clone)]
pub(crate) struct DamagedManifest {
    /// The snapshot's id, and its memory image's: the file's name.
    pub(crate) id: SnapshotId,
    /// The name that the snapshot seems to have: a guess, for people.
    pub(crate) name: Option<SnapshotName>,
    /// What is wrong, with causes.
    pub(crate) why: String,
    kind: ErrorKind,
    hint: Option<Hint>,
}

/// What an address leads to.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// A snapshot that can be read.
    Sound(&'a Manifest),
    /// The id of one that can't be.
    Damaged(&'a DamagedManifest),
}

impl Snapshots {
    /// Reads all manifests of the VM in `folder`.
    ///
    /// # Errors
    /// `Damaged` where the folder of manifests is missing, `Failed` where it can't be read. A manifest that can't be is no
    /// error.
    pub(crate) fn load(folder: &VmFolder) -> Result<Self> {
        let path = folder.snapshots();
        // Were it taken for empty, layers would go that its manifests named.
        if matches!(std::fs::metadata(&path), Err(error) if error.kind() == std::io::ErrorKind::NotFound) {
            let missing = format!("the folder of manifests '{}' is missing", path.display());
            return Err(Error::damaged(missing).with_hint(Hint::PutFileBack));
        }
        let mut snapshots = Self::default();
        for path in folder.files().list(&path)? {
            let Some(id) = id_of(&path) else { continue };
            match read(folder.files(), &path, &id) {
                Ok(manifest) => snapshots.sound.extend(manifest),
                Err(error) => snapshots.damaged.push(DamagedManifest::new(folder, id, &error)),
            }
        }
        snapshots.sound.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        snapshots.damaged.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(snapshots)
    }

    /// The snapshot of that name.
    ///
    /// # Errors
    /// `NotFound`, naming what there is; `Damaged` where it is one that can't be read, or may be.
    pub(crate) fn by_name(&self, vm: &VmRecord, name: &SnapshotName) -> Result<&Manifest> {
        match self.find(vm, name)? {
            Found::Sound(manifest) => Ok(manifest),
            Found::Damaged(damaged) => Err(damaged.error(vm)),
        }
    }

    /// The snapshot of that name, or of that id where its manifest can't be read.
    ///
    /// # Errors
    /// As [`Snapshots::by_name`], but for one that is named by its id.
    pub(crate) fn find(&self, vm: &VmRecord, name: &SnapshotName) -> Result<Found<'_>> {
        if let Some(manifest) = self.sound.iter().find(|manifest| manifest.name == *name) {
            return Ok(Found::Sound(manifest));
        }
        if let Some(damaged) = self.damaged.iter().find(|damaged| damaged.id.as_str() == name.as_str()) {
            return Ok(Found::Damaged(damaged));
        }
        // A guess is enough to say why there is no such snapshot, and too little to delete one.
        if let Some(damaged) = self.damaged.iter().find(|damaged| damaged.name.as_ref() == Some(name)) {
            return Err(damaged.error(vm));
        }
        let newest: Vec<_> =
            self.sound.iter().rev().take(5).map(|manifest| manifest.name.to_string()).collect();
        let vm_name = vm.name.to_string();
        let hint = if newest.is_empty() {
            Hint::NoSnapshots { vm: vm_name }
        } else {
            Hint::OtherSnapshots { vm: vm_name, newest }
        };
        let missing = Error::not_found(format!("VM '{}' has no snapshot '{name}'", vm.name)).with_hint(hint);
        match self.damaged.iter().find(|damaged| damaged.name.is_none()) {
            Some(damaged) => Err(damaged.error(vm).while_doing(format!("{missing} that can be read"))),
            None => Err(missing),
        }
    }

    /// The snapshot of that name; where an id is given, only if it is the one with that.
    ///
    /// # Errors
    /// As [`Snapshots::by_name`]; `NotFound` also where another one has the name now.
    pub(crate) fn by_name_if(
        &self,
        vm: &VmRecord,
        name: &SnapshotName,
        id: Option<&SnapshotId>,
    ) -> Result<&Manifest> {
        let found = self.by_name(vm, name)?;
        if id.is_some_and(|id| *id != found.id) {
            let gone = format!("another snapshot of VM '{}' has the name '{name}' now", vm.name);
            return Err(Error::not_found(gone).with_hint(Hint::GoneMeanwhile));
        }
        Ok(found)
    }

    /// The snapshot of that id, if its manifest can be read.
    pub(crate) fn by_id(&self, id: &SnapshotId) -> Option<&Manifest> {
        self.sound.iter().find(|manifest| manifest.id == *id)
    }

    /// A name that no snapshot has: `PREFIX-N` with the lowest N above those in use.
    pub(crate) fn free_name(&self, prefix: &str) -> Result<SnapshotName> {
        let names = self.sound.iter().map(|manifest| &manifest.name);
        let seeming = self.damaged.iter().filter_map(|damaged| damaged.name.as_ref());
        let number =
            |name: &SnapshotName| name.as_str().strip_prefix(prefix)?.strip_prefix('-')?.parse::<u64>().ok();
        let last = names.chain(seeming).filter_map(number).max().unwrap_or(0);
        format!("{prefix}-{}", last.saturating_add(1)).parse()
    }

    /// Fails where a snapshot other than `own` has that name, or seems to: its manifest may be put back.
    ///
    /// # Errors
    /// `Refused`.
    pub(crate) fn refuse_taken(
        &self,
        vm: &VmRecord,
        name: &SnapshotName,
        own: Option<&SnapshotId>,
    ) -> Result<()> {
        let has = self.sound.iter().any(|other| other.name == *name && Some(&other.id) != own);
        let seems = self.damaged.iter().any(|other| other.name.as_ref() == Some(name));
        if !has && !seems {
            return Ok(());
        }
        let which = if has { "" } else { ", whose manifest is damaged" };
        Err(Error::refused(format!("VM '{}' has a snapshot '{name}' already{which}", vm.name))
            .with_hint(Hint::SnapshotNameTaken))
    }
}

impl DamagedManifest {
    fn new(folder: &VmFolder, id: SnapshotId, error: &Error) -> Self {
        let bytes = folder.files().read(&folder.manifest(&id), SALVAGED_BYTES).ok().flatten();
        let name = bytes.and_then(|bytes| seeming_name(&String::from_utf8_lossy(&bytes)));
        Self { id, name, why: error.in_one_line(), kind: error.kind(), hint: error.hint().cloned() }
    }

    /// The error for whoever needs the snapshot.
    pub(crate) fn error(&self, vm: &VmRecord) -> Error {
        let seems =
            self.name.as_ref().map(|name| format!(", which seems to be '{name}',")).unwrap_or_default();
        let said = format!("the manifest of snapshot '{}@{}'{seems} can't be read", vm.name, self.id);
        let error = Error::new(self.kind, said).because(Error::failed(self.why.clone()));
        match &self.hint {
            Some(Hint::PutRecordBack | Hint::ChangedRecord) | None => {
                let changed = self.hint == Some(Hint::ChangedRecord);
                let (vm, id) = (vm.name.to_string(), self.id.to_string());
                error.with_hint(Hint::DamagedSnapshot { vm, id, changed })
            }
            Some(hint) => error.with_hint(hint.clone()),
        }
    }

    /// Fails where the snapshot must not be deleted: it is no damage that a newer vmrewind wrote it.
    ///
    /// # Errors
    /// `Refused`.
    pub(crate) fn refuse_newer(&self, vm: &VmRecord) -> Result<()> {
        if self.kind == ErrorKind::Refused { Err(self.error(vm)) } else { Ok(()) }
    }
}

/// The snapshot whose manifest is in such a file; none for files of other names.
fn id_of(path: &Path) -> Option<SnapshotId> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}

/// Reads a manifest; none for one that is gone meanwhile.
fn read(files: &Files, file: &Path, id: &SnapshotId) -> Result<Option<Manifest>> {
    let manifest = files.read_json::<Manifest>(file, RECORD_VERSION)?;
    let damaged = |what: String| Err(Error::damaged(format!("'{}' is damaged: {what}", file.display())));
    match &manifest {
        Some(other) if other.id != *id => damaged(format!("it is the manifest of snapshot {}", other.id)),
        // A restore would bring another snapshot's memory up on these disks.
        Some(Manifest { memory: Some(memory), .. }) if memory.image != id.as_str() => {
            damaged(format!("it names memory image {} of another snapshot", memory.image))
        }
        _ => Ok(manifest),
    }
}

/// What is left of a name in a manifest that can't be read: the first field of that name, as it is written.
fn seeming_name(text: &str) -> Option<SnapshotName> {
    let (_, rest) = text.split_once("\"name\":")?;
    let (name, _) = rest.trim_start().strip_prefix('"')?.split_once('"')?;
    name.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards against a guess that is none: a name is taken from a manifest only where all of it is there.
    #[test]
    fn a_name_is_salvaged_whole_or_not() {
        let text = "{\n  \"version\": 1,\n  \"id\": \"00000000000000aa\",\n  \"name\": \"before-upgrade\",\n";
        let name = |text: &str| seeming_name(text).map(String::from);
        assert_eq!(name(text).as_deref(), Some("before-upgrade"));
        for len in 0..text.len() {
            let found = name(&text[..len]);
            assert!(found.is_none() || len >= text.find("e\",\n").unwrap() + 2, "{len}: {found:?}");
        }
        assert_eq!(name("\"name\": \"../x\""), None, "one that could never be a name");
    }
}
