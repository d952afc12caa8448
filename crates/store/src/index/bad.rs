//! Copies of objects that were found damaged: an empty file `PACKID-ENTRY.bad` for each.
//!
//! What is known to be damaged is not referred to again: a capture stores its pages anew. The marks are a help: one that is
//! lost costs a second finding, one that is wrong costs a second copy. Whoever reads an object decides by its hash alone.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use crate::entry::EntryNo;
use crate::hash::PackId;
use crate::storage::Storage;

const BAD_SUFFIX: &str = ".bad";

/// The marks of a store.
#[derive(Debug, Default)]
pub(super) struct Bad {
    copies: RwLock<HashSet<(PackId, EntryNo)>>,
}

impl Bad {
    /// Takes in the names of a listing.
    pub(super) fn listed(&self, names: &[String]) {
        let found = names.iter().filter_map(|name| copy_of(name)).collect();
        *self.copies.write().unwrap_or_else(PoisonError::into_inner) = found;
    }

    /// Says whether a copy is marked.
    pub(super) fn has(&self, pack: PackId, number: EntryNo) -> bool {
        self.copies.read().unwrap_or_else(PoisonError::into_inner).contains(&(pack, number))
    }

    /// Returns the marked copies.
    pub(super) fn all(&self) -> Vec<(PackId, EntryNo)> {
        self.copies.read().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Marks a copy. Where that can't be written down, this process knows it all the same.
    pub(super) fn mark(&self, storage: &dyn Storage, pack: PackId, number: EntryNo) {
        if self.copies.write().unwrap_or_else(PoisonError::into_inner).insert((pack, number)) {
            let _ = storage.create_empty(&name(pack, number));
        }
    }

    /// Takes a mark back.
    pub(super) fn unmark(&self, storage: &dyn Storage, pack: PackId, number: EntryNo) {
        if self.copies.write().unwrap_or_else(PoisonError::into_inner).remove(&(pack, number)) {
            let _ = storage.remove(&name(pack, number));
        }
    }
}

fn name(pack: PackId, number: EntryNo) -> String {
    format!("{pack}-{}{BAD_SUFFIX}", number.0)
}

fn copy_of(name: &str) -> Option<(PackId, EntryNo)> {
    let (pack, number) = name.strip_suffix(BAD_SUFFIX)?.rsplit_once('-')?;
    Some((pack.parse().ok()?, EntryNo(number.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    // A name that is not read as it was written is a mark that is lost; any other file is none.
    #[test]
    fn names_are_read_back() {
        let pack = PackId::of(b"a pack");
        assert_eq!(copy_of(&name(pack, EntryNo(70_000))), Some((pack, EntryNo(70_000))));
        for other in
            ["", ".bad", "-1.bad", "1-1.bad", "lock", &format!("{pack}.pack"), &format!("{pack}-.bad")]
        {
            assert_eq!(copy_of(other), None, "{other}");
        }
    }
}
