//! Which groups are worth referring to, so that an image stays quick to read.
//!
//! A block that is stored already costs nothing to refer to, but its group is read and expanded as a whole. Blocks that
//! lie together in an image and each in another group make reading it sixteen times slower. So where blocks use many more
//! groups than they would fill, the groups that least of them use are given up: those blocks are stored anew, together.

/// Says for each group, of which `used` blocks are used, whether it is given up.
///
/// Nothing is while there are at most `enough` groups. Beyond, the least used ones go until the rest, with the groups that the blocks
/// given up will fill, is at most `left`.
fn given_up(used: &[usize], per_group: usize, enough: usize, left: usize) -> Vec<bool> {
    let mut given_up = vec![false; used.len()];
    if used.len() <= enough {
        return given_up;
    }
    let mut order: Vec<usize> = (0..used.len()).collect();
    order.sort_by_key(|group| used[*group]);
    let mut moved = 0;
    for (gone, group) in (1..).zip(order) {
        moved += used[group];
        given_up[group] = true;
        if used.len() - gone + moved.div_ceil(per_group) <= left {
            break;
        }
    }
    given_up
}

/// Groups that the blocks would fill.
fn needed(used: &[usize], per_group: usize) -> usize {
    used.iter().sum::<usize>().div_ceil(per_group)
}

/// For the blocks of a leaf of the parent, by how many use each group: more than 1.75 times the groups needed are too many, and
/// then 1.25 times remain, so that the next generations have room.
pub(super) fn given_up_in_leaf(used: &[usize], per_group: usize) -> Vec<bool> {
    let needed = needed(used, per_group);
    given_up(used, per_group, 7 * needed / 4, 5 * needed / 4)
}

/// For blocks of one leaf that came together and were found in other images: more than four groups, and more than twice
/// those needed, are too many, and then just as many remain.
///
/// To refer to a few blocks here and there is what saves space.
pub(super) fn given_up_in_run(used: &[usize], per_group: usize) -> Vec<bool> {
    let enough = (2 * needed(used, per_group)).max(4);
    given_up(used, per_group, enough, enough)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Too eager, and every capture stores again what did not change; too lazy, and restores get slower for ever.
    #[test]
    fn only_the_least_used_groups_of_a_scattered_leaf_are_given_up() {
        let scattered = |used: &[usize]| given_up_in_leaf(used, 16);
        assert_eq!(scattered(&[16; 4]), [false; 4]);
        // 64 blocks in 7 groups: just not too many.
        assert_eq!(scattered(&[16, 16, 16, 6, 4, 4, 2]), [false; 7]);
        // One group more, and the two smallest go, then the next: five remain, one of them new.
        let more = scattered(&[16, 16, 16, 6, 4, 4, 1, 1]);
        assert_eq!(more, [false, false, false, false, true, true, true, true]);
        // 64 blocks in 9 groups: five remain, one of them new.
        let mixed = scattered(&[1, 16, 2, 16, 2, 15, 3, 7, 2]);
        assert_eq!(mixed, [true, false, true, false, true, false, true, false, true]);
        // One block in each group: all goes.
        let all = scattered(&[1; 200]);
        assert!(all.iter().filter(|gone| **gone).count() >= 195, "{all:?}");
    }

    // A few blocks here and there are worth a reference, a whole stretch of them is not.
    #[test]
    fn only_many_scattered_blocks_of_a_run_are_given_up() {
        assert_eq!(given_up_in_run(&[], 16), Vec::<bool>::new());
        assert_eq!(given_up_in_run(&[1; 4], 16), [false; 4]);
        assert_eq!(given_up_in_run(&[8; 8], 16), [false; 8]);
        // One group more, and no more is stored anew than must be.
        assert_eq!(
            given_up_in_run(&[8, 8, 8, 8, 8, 8, 8, 4, 4], 16),
            [false, false, false, false, false, false, false, true, true]
        );
        // 64 groups: four that are left, and four new ones.
        let all = given_up_in_run(&[1; 64], 16);
        assert_eq!(all.iter().filter(|gone| !**gone).count(), 4, "{all:?}");
    }
}
