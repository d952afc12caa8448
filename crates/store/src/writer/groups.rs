//! The groups that an image refers to, numbered, while it is written.
//!
//! A group has a number before its hash is known, so that a block's place is known at once. Groups that are in the store
//! already get a number when they are first referred to.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::page_map::MAX_GROUPS;
use crate::hash::ObjectHash;

/// One group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    /// None until the group is sealed.
    pub(super) hash: Option<ObjectHash>,
    /// Slots, as bits, whose blocks were in no image before.
    pub(super) new_slots: u16,
    /// Number of the pack of this image that it is in; none while it is open, or where another image stored it.
    pub(super) pack: Option<u32>,
}

/// A group that was written out.
#[derive(Debug, Clone, Copy)]
pub(super) struct SealedGroup {
    pub(super) number: u32,
    pub(super) hash: ObjectHash,
    pub(super) new_slots: u16,
    pub(super) pack: u32,
}

/// All groups of an image.
#[derive(Default)]
pub(super) struct Groups {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    groups: Vec<Group>,
    /// By the first bytes of the hash; of groups that share those only the first is here.
    numbers: HashMap<u64, u32>,
}

impl Groups {
    /// Returns the number of a new group; none where there are too many.
    pub(super) fn open(&self) -> Option<u32> {
        self.lock().push(Group { hash: None, new_slots: 0, pack: None })
    }

    /// Says what an opened group has become.
    pub(super) fn seal(&self, sealed: SealedGroup) {
        let mut state = self.lock();
        let SealedGroup { number, hash, new_slots, pack } = sealed;
        state.groups[number as usize] = Group { hash: Some(hash), new_slots, pack: Some(pack) };
        state.numbers.entry(hash.prefix()).or_insert(number);
    }

    /// Returns the number of a group that was written for this image, if it was.
    pub(super) fn own(&self, hash: &ObjectHash) -> Option<u32> {
        let state = self.lock();
        let number = *state.numbers.get(&hash.prefix())?;
        let group = state.groups[number as usize];
        (group.hash == Some(*hash) && group.pack.is_some()).then_some(number)
    }

    /// Returns the number of a group that is in the store; none where there are too many.
    pub(super) fn known(&self, hash: ObjectHash) -> Option<u32> {
        let mut state = self.lock();
        if let Some(&number) = state.numbers.get(&hash.prefix())
            && state.groups[number as usize].hash == Some(hash)
        {
            return Some(number);
        }
        let number = state.push(Group { hash: Some(hash), new_slots: 0, pack: None })?;
        if let Entry::Vacant(vacant) = state.numbers.entry(hash.prefix()) {
            vacant.insert(number);
        }
        Some(number)
    }

    /// Says for each group whether it is in one of these packs of this image.
    pub(super) fn in_packs(&self, packs: &BTreeSet<u32>) -> Vec<bool> {
        self.lock().groups.iter().map(|group| group.pack.is_some_and(|pack| packs.contains(&pack))).collect()
    }

    /// Gives all groups away, by number: the image is complete.
    pub(super) fn give_away(&self) -> Vec<Group> {
        std::mem::take(&mut *self.lock()).groups
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, group: Group) -> Option<u32> {
        let number = u32::try_from(self.groups.len()).ok().filter(|number| *number < MAX_GROUPS)?;
        self.groups.push(group);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Two numbers for one group would make leaves of more groups than there are; one for two would mix up content.
    #[test]
    fn a_group_has_one_number() {
        let groups = Groups::default();
        let hash = |tag: u8| ObjectHash::from_bytes([tag; 32]);
        let opened = groups.open().expect("few groups");
        groups.seal(SealedGroup { number: opened, hash: hash(1), new_slots: 3, pack: 0 });
        assert_eq!((groups.known(hash(1)), groups.own(&hash(1))), (Some(opened), Some(opened)));
        let other = groups.known(hash(2)).expect("few groups");
        assert_eq!(
            (groups.known(hash(2)), groups.own(&hash(2)), groups.own(&hash(3))),
            (Some(other), None, None)
        );
        // The same first bytes, another hash.
        let mut bytes = [2; 32];
        bytes[31] = 9;
        let third = groups.known(ObjectHash::from_bytes(bytes)).expect("few groups");
        assert!(third != other && third != opened);
        assert_eq!(groups.known(hash(2)), Some(other));
        assert_eq!(groups.in_packs(&BTreeSet::from([0])), [true, false, false]);
    }
}
