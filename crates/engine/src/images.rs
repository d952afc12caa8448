//! The engine's dealings with the store: ids as manifests have them, removal, and the store's errors in the engine's
//! terms.

use std::sync::Arc;

use vmrewind_store::{DirStorage, ImageId, Store, StoreError};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::root::Root;

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

/// The store's form of an image id.
pub(crate) fn image_id(image: &str) -> Result<ImageId> {
    ImageId::new(image)
        .map_err(|error| Error::damaged("a snapshot names no valid memory image").because(error))
}

/// Gives an error of the store its kind and hint.
pub(crate) fn store_error(message: &str, error: StoreError) -> Error {
    let (full, newer, older, in_use, damaged) = (
        matches!(error, StoreError::NoSpace { .. }),
        matches!(error, StoreError::NewerFormat { .. } | StoreError::NewerFile { .. }),
        matches!(error, StoreError::OlderFormat { .. }),
        matches!(error, StoreError::InUse { .. }),
        error.is_damage() || matches!(error, StoreError::NotFound { .. }),
    );
    if full {
        Error::failed(message)
            .because(error)
            .hint("free some space on the root's file system, then try again")
    } else if newer {
        Error::refused(message).because(error).hint("use the vmrewind that wrote it, or a newer one")
    } else if older {
        Error::refused(message).because(error).hint(
            "the snapshot's disks can still be used (docs/format.md): keep it for them, or delete it with \
             `vmrewind snapshot delete`",
        )
    } else if in_use {
        Error::new(ErrorKind::Busy, message).because(error).hint("try again when it is not being read")
    } else if damaged {
        Error::damaged(message)
            .because(error)
            .hint("this memory image can't be used; the snapshot's disks can still be (docs/format.md)")
    } else {
        Error::failed(message).because(error)
    }
}
