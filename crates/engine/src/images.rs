//! The engine's dealings with the store: ids as manifests have them, removal, and the store's errors in the engine's
//! terms.

use std::sync::Arc;

use vmrewind_store::{DirStorage, ImageId, Store, StoreError};

use crate::error::{Context, Error, Result};
use crate::root::Root;

/// Opens the store of a root.
pub(crate) fn open_store(root: &Root) -> Result<Store> {
    let storage =
        DirStorage::new(root.store()).context(|| format!("cannot open '{}'", root.store().display()))?;
    Store::open(Arc::new(storage)).map_err(|error| store_error("cannot open the store", error))
}

/// Removes a memory image.
pub(crate) fn remove_image(store: &Store, image: &str) -> Result<u64> {
    let id = image_id(image)?;
    store.remove_image(&id).map_err(|error| store_error("cannot remove a memory image", error))
}

/// The store's form of an image id.
pub(crate) fn image_id(image: &str) -> Result<ImageId> {
    ImageId::new(image)
        .map_err(|error| Error::damaged("a snapshot names no valid memory image").because(error))
}

/// Gives an error of the store its kind and hint.
pub(crate) fn store_error(message: &str, error: StoreError) -> Error {
    let (full, damaged, newer, missing) = (
        matches!(error, StoreError::NoSpace { .. }),
        matches!(error, StoreError::Damaged { .. }),
        matches!(error, StoreError::NewerFormat { .. }),
        matches!(error, StoreError::NotFound { .. }),
    );
    if full {
        Error::failed(message)
            .because(error)
            .hint("free some space on the root's file system, then try again")
    } else if damaged || missing {
        Error::damaged(message)
            .because(error)
            .hint("this memory image can't be used; the snapshot's disks can still be (docs/format.md)")
    } else if newer {
        Error::refused(message).because(error).hint("use the vmrewind that wrote it, or a newer one")
    } else {
        Error::failed(message).because(error)
    }
}
