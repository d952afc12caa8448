//! The engine's dealings with the store: ids as manifests have them, removal, and the store's errors in the engine's
//! terms.

use std::fs;
use std::io::{ErrorKind as IoKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vmrewind_store::{DirStorage, ImageId, Store, StoreError};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::hint::Hint;
use crate::root::file::io_error;
use crate::root::{Root, VmFolder};

/// Opens the store of a root.
pub(crate) fn open_store(root: &Root) -> Result<Store> {
    let storage =
        DirStorage::new(root.store()).context(|| format!("cannot open '{}'", root.store().display()))?;
    Store::open(Arc::new(storage)).map_err(|error| store_error("cannot open the store", error))
}

/// Removes a memory image. One that is being read stays: nothing names it any more, so `gc` removes it.
pub(crate) fn remove_image(store: &Store, image: &str) -> Result<u64> {
    let id = image_id(image)?;
    match store.remove_image(&id) {
        Err(StoreError::InUse { .. }) => {
            tracing::info!(image, "left to gc: it is being read");
            Ok(0)
        }
        removed => removed.map_err(|error| store_error("cannot remove a memory image", error)),
    }
}

/// Which of `images` no VM of the root names: in no manifest, no record, no journal of an operation under way.
///
/// `images` were listed before: an operation has its image in its journal before it begins it, and in the manifest before the
/// journal goes. For the same reason the journal is read before the manifests. An id that stands anywhere in a VM's
/// JSON files counts as named, and so does a manifest's file name, which is the image's id: a file that is damaged, or of
/// which this function knows nothing, still keeps its image.
pub(crate) fn unnamed_images(root: &Root, mut images: Vec<ImageId>) -> Result<Vec<ImageId>> {
    for folder in root.vm_folders()? {
        let named = names_in(&folder, &mut images);
        // A folder that is nobody's need not be readable: it holds no VM, not even a deleted one.
        if is_vmrewinds(&folder) {
            named?;
        }
    }
    Ok(images)
}

/// Whether a folder can be a VM, or one that is being made or deleted.
fn is_vmrewinds(folder: &VmFolder) -> bool {
    let name = folder.path().file_name().unwrap_or_default().to_string_lossy();
    folder.name().is_some() || name.starts_with(".new-") || name.starts_with(".gone-")
}

/// Takes those away that are named in a VM's folder.
fn names_in(folder: &VmFolder, images: &mut Vec<ImageId>) -> Result<()> {
    mentioned(&folder.journal(), images)?;
    let seats = folder.seats().into_iter().map(|number| folder.at_seat(number).seat());
    for path in [folder.path().to_owned(), folder.run()].into_iter().chain(seats) {
        for file in json_files(&path)? {
            mentioned(&file, images)?;
        }
    }
    for manifest in json_files(&folder.snapshots())? {
        let name = manifest.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        images.retain(|image| !name.contains(image.as_str()));
    }
    Ok(())
}

/// Takes those away whose ids stand in a file; none where there is no such file.
///
/// In pieces, since a guest can write into the run folder as much as it likes. A pipe is not waited for.
fn mentioned(path: &Path, images: &mut Vec<ImageId>) -> Result<()> {
    const PIECE: usize = 1 << 20;
    let cannot = |error| io_error(&format!("cannot read '{}'", path.display()), error);
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Err(error) if error.kind() != IoKind::NotFound => return Err(cannot(error)),
        _ => return Ok(()),
    }
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == IoKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot(error)),
    };
    let longest = images.iter().map(|image| image.as_str().len()).max().unwrap_or(0);
    let mut words = Vec::new();
    loop {
        let read = (&mut file).take(PIECE as u64).read_to_end(&mut words).map_err(cannot)?;
        if read == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&words);
        images.retain(|image| !text.contains(image.as_str()));
        // An id can lie across the border of two pieces.
        words.drain(..words.len().saturating_sub(longest));
    }
}

/// The JSON files of a folder; none where it is not there.
fn json_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |error| io_error(&format!("cannot read '{}'", folder.display()), error);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // A VM that is being made or deleted, or has not been started; a file where a folder could be.
        Err(error) if matches!(error.kind(), IoKind::NotFound | IoKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(cannot(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(cannot)?.path();
        files.extend(Some(path).filter(|path| path.extension().is_some_and(|extension| extension == "json")));
    }
    Ok(files)
}

/// The store's form of an image id.
pub(crate) fn image_id(image: &str) -> Result<ImageId> {
    ImageId::new(image)
        .map_err(|error| Error::damaged("a snapshot names no valid memory image").because(error))
}

/// Gives an error of the store its kind and hint.
pub(crate) fn store_error(message: &str, error: StoreError) -> Error {
    if let StoreError::Interrupted { what } = error {
        return Error::interrupted(what);
    }
    if matches!(error, StoreError::Busy { .. }) {
        return Error::new(ErrorKind::Busy, message).because(error).with_hint(Hint::WaitForOthers);
    }
    let (full, newer, older, in_use, damaged) = (
        matches!(error, StoreError::NoSpace { .. }),
        matches!(error, StoreError::NewerFormat { .. } | StoreError::NewerFile { .. }),
        matches!(error, StoreError::OlderFormat { .. }),
        matches!(error, StoreError::InUse { .. }),
        error.is_damage() || matches!(error, StoreError::NotFound { .. }),
    );
    if full {
        Error::failed(message).because(error).with_hint(Hint::FreeSpaceOfRoot)
    } else if newer {
        Error::refused(message).because(error).with_hint(Hint::UseNewer)
    } else if older {
        Error::refused(message).because(error).with_hint(Hint::DisksOfOldSnapshot)
    } else if in_use {
        Error::new(ErrorKind::Busy, message).because(error).with_hint(Hint::WaitForReader)
    } else if damaged {
        Error::damaged(message).because(error).with_hint(Hint::DisksOfDamagedSnapshot)
    } else {
        Error::failed(message).because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::file::Files;

    /// Guards every image that anything still refers to: gc removes the others.
    #[test]
    fn an_image_that_is_mentioned_anywhere_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path(), Files::of_this_host()).unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join("vms").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("web/snapshots/aaaa000000000001.json", "not even JSON");
        write("web/journal.json", r#"{"phase":{"image":"aaaa000000000002"}}"#);
        write("web/vm.json", r#"{"first_start":{"image":"aaaa000000000003"}}"#);
        write("web/run/serve.json", r#"{"image":"aaaa000000000004"}"#);
        write(".gone-1/snapshots/aaaa000000000005.json", "{}");
        write("web/layers/disk/aaaa000000000006.qcow2", "");
        // Across the border of what is read at a time; and what is no file.
        write("web/run/large.json", &format!("{}aaaa000000000008", " ".repeat((1 << 20) - 7)));
        fs::create_dir(folder.path().join("vms/web/folder.json")).unwrap();
        let pipe = folder.path().join("vms/web/run/pipe.json");
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
        fs::write(folder.path().join("vms/stray"), "aaaa000000000007").unwrap();
        let images = |numbers: std::ops::RangeInclusive<u32>| {
            numbers.map(|n| ImageId::new(format!("aaaa{n:012}")).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(unnamed_images(&root, images(1..=8)).unwrap(), images(6..=7));
    }

    /// Guards what a program makes of an error: each of the store's has the kind, and the advice, that says what can be done.
    #[test]
    fn errors_of_the_store_say_what_can_be_done() {
        let image = || ImageId::new("0123456789abcdef").unwrap();
        let io = || std::io::Error::from_raw_os_error(5);
        let cases = [
            (
                StoreError::NoSpace { op: "write", path: "a".into(), free_bytes: 0 },
                ErrorKind::Failed,
                Some(Hint::FreeSpaceOfRoot),
            ),
            (StoreError::Io { op: "write", path: "a".into(), source: io() }, ErrorKind::Failed, None),
            (StoreError::Latched, ErrorKind::Failed, None),
            (StoreError::Busy { what: "gc" }, ErrorKind::Busy, Some(Hint::WaitForOthers)),
            (StoreError::InUse { image: image() }, ErrorKind::Busy, Some(Hint::WaitForReader)),
            (StoreError::NotFound { image: image() }, ErrorKind::Damaged, Some(Hint::DisksOfDamagedSnapshot)),
            (
                StoreError::OlderFormat { image: image(), version: 1 },
                ErrorKind::Refused,
                Some(Hint::DisksOfOldSnapshot),
            ),
            (
                StoreError::NewerFormat { image: image(), version: 9, supported: 1 },
                ErrorKind::Refused,
                Some(Hint::UseNewer),
            ),
            (StoreError::Interrupted { what: "verifying" }, ErrorKind::Interrupted, None),
        ];
        for (error, kind, hint) in cases {
            let cause = error.to_string();
            let told = store_error("cannot", error);
            assert_eq!((told.kind(), told.hint()), (kind, hint.as_ref()), "{cause}");
            assert!(kind == ErrorKind::Interrupted || told.causes().contains(&cause), "{cause}: {told:?}");
        }
        assert_eq!(image_id("../image").unwrap_err().kind(), ErrorKind::Damaged);
    }

    /// Guards a recovery that comes twice: an image that is gone, or that somebody reads, is no failure.
    #[test]
    fn an_image_is_removed_as_often_as_it_takes() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::testing::images::store(folder.path());
        let image = crate::testing::images::image(&store, &[("pc.ram", 4, &[1])]);
        let id = image.id().as_str().to_owned();
        assert_eq!(remove_image(&store, &id).unwrap(), 0, "it is being read");
        drop(image);
        assert!(remove_image(&store, &id).is_ok() && store.images().unwrap().is_empty());
        remove_image(&store, &id).unwrap();
    }
}
