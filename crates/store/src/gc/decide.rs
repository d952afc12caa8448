//! Which packs go: a pure function of their sizes and of what is live in them.

use crate::hash::PackId;

/// Packs shorter than this are small.
const SMALL_BYTES: u64 = 16 << 20;
/// Small packs are put together when there are this many.
const MANY: usize = 16;

/// A pack as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PackState {
    pub(super) id: PackId,
    /// Length of the file.
    pub(super) bytes: u64,
    /// Stored bytes of all objects; the rest is directory.
    pub(super) payload_bytes: u64,
    /// Stored bytes of live objects.
    pub(super) live_bytes: u64,
    /// Whether objects in it are damaged, none of them live.
    pub(super) has_dead_damage: bool,
}

/// What becomes of a pack that does not stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing in it is live: it is removed.
    Unused,
    /// Less than half is: what is live is written to another pack.
    MostlyUnused,
    /// What is damaged in it nobody needs: what is live is written to another pack.
    Damaged,
    /// There are many as small: they are put together.
    Small,
}

/// Returns the packs that do not stay, in their order.
///
/// Writing anew costs as much as it frees at worst, and the result of it stays: a pack of mostly live objects is not
/// touched, and many small ones become one that is no longer among the many.
pub(super) fn verdicts(packs: &[PackState]) -> impl Iterator<Item = (PackState, Verdict)> {
    let stays = |pack: &&PackState| !is_unused(pack) && !is_mostly_unused(pack) && !pack.has_dead_damage;
    let small = packs.iter().filter(stays).filter(|pack| pack.bytes < SMALL_BYTES).count();
    packs.iter().filter_map(move |pack| {
        let verdict = if is_unused(pack) {
            Verdict::Unused
        } else if is_mostly_unused(pack) {
            Verdict::MostlyUnused
        } else if pack.has_dead_damage {
            Verdict::Damaged
        } else if pack.bytes < SMALL_BYTES && small >= MANY {
            Verdict::Small
        } else {
            return None;
        };
        Some((*pack, verdict))
    })
}

fn is_unused(pack: &PackState) -> bool {
    pack.live_bytes == 0
}

fn is_mostly_unused(pack: &PackState) -> bool {
    pack.live_bytes < pack.payload_bytes / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(sizes: &[(u64, u64)]) -> Vec<PackState> {
        let id = |n: usize| PackId::of(&n.to_le_bytes());
        let pack = |(n, &(bytes, live_bytes)): (usize, &(u64, u64))| PackState {
            id: id(n),
            bytes,
            payload_bytes: bytes.saturating_sub(500),
            live_bytes,
            has_dead_damage: false,
        };
        sizes.iter().enumerate().map(pack).collect()
    }

    fn decided(sizes: &[(u64, u64)]) -> Vec<(usize, Verdict)> {
        let packs = packs(sizes);
        let at = |found: &PackState| packs.iter().position(|pack| pack.id == found.id).expect("one of them");
        verdicts(&packs).map(|(pack, verdict)| (at(&pack), verdict)).collect()
    }

    // The limits: what is kept for ever wastes at most half, and nothing is written anew that is mostly live.
    #[test]
    fn packs_go_by_what_is_live() {
        let large = 64 << 20;
        let sizes = [
            (large, 0),
            (large, 1),
            (large, large / 2 - 251),
            (large, large / 2 - 250),
            (large, large - 200),
        ];
        let expected = [(0, Verdict::Unused), (1, Verdict::MostlyUnused), (2, Verdict::MostlyUnused)];
        assert_eq!(decided(&sizes), expected);
        assert_eq!(decided(&[]), []);
        // In a tiny pack most bytes are directory: to write it anew would change nothing, again and again.
        assert_eq!(decided(&[(700, 200)]), []);
    }

    // A hundred captures leave a hundred small packs, and look-ups and restores open each of them.
    #[test]
    fn many_small_packs_are_put_together() {
        let few = vec![(1 << 20, 1 << 20); 15];
        assert_eq!(decided(&few), []);
        let many = vec![(1 << 20, 1 << 20); 16];
        assert_eq!(decided(&many).len(), 16);
        assert!(decided(&many).iter().all(|(_, verdict)| *verdict == Verdict::Small));
        // What goes anyway does not count as one of many.
        let mixed = [few, vec![(1 << 20, 0), (64 << 20, 64 << 20)]].concat();
        assert_eq!(decided(&mixed), [(15, Verdict::Unused)]);
    }
}
