//! Guards that no damage of a real capture makes the codec panic or depend on chunking: what the fuzz target
//! checks, over seeded mutations.

use super::*;
use crate::stream::fuzz::migration_stream;

/// Mutations per capture.
const CASES: u64 = 600;

/// SplitMix64: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// Changes a stream in one to three places: bits, bytes, lengths, pieces doubled, dropped or cut off.
fn mutate(stream: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        // Half of the changes go where the structure is dense.
        let reach = if random.below(2) == 0 { stream.len().min(300) } else { stream.len() };
        let at = random.below(reach);
        let len = random.below(40).min(stream.len() - at);
        match random.below(6) {
            _ if stream.is_empty() => {}
            0 => stream[at] ^= 1 << random.below(8),
            1 => stream[at] = random.byte(),
            2 => stream[at..at + len].fill([0, 0xff][random.below(2)]),
            3 => drop(stream.drain(at..at + len)),
            4 => {
                let piece = stream[at..at + len].to_vec();
                stream.splice(at..at, piece);
            }
            _ => stream.truncate(at),
        }
    }
}

/// Short versions of a capture: nothing is gained by mutating hundreds of zero pages and a long description.
fn seeds() -> Vec<Vec<u8>> {
    let synthetic = Builder::with_blocks().eos().command(11, &[]).part().page("a", 0, 1).zero_again(1).eos();
    let synthetic = synthetic.end().zero("b", 1).eos().device().description().0;
    let mut seeds: Vec<_> = real_captures().into_iter().map(|(_, stream)| stream).collect();
    seeds.push(synthetic);
    seeds
}

#[test]
fn captures_pass_the_fuzz_checks() {
    seeds().iter().for_each(|seed| migration_stream(seed));
}

#[test]
fn mutated_captures_are_decoded_or_refused() {
    let mut random = Random(0x766d_7265_7769_6e64);
    for seed in seeds() {
        for _ in 0..CASES {
            let mut stream = seed.clone();
            mutate(&mut stream, &mut random);
            migration_stream(&stream);
        }
    }
}
