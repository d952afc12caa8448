//! Memory that proves itself: a large part that never changes and a small one that always does.
//!
//! A restored guest whose [`Fill`] still has the sum computed at start has every old page right. One whose
//! [`DirtyRegion`] is still uniform page by page, and adds up to the total kept beside it, has every new page of one
//! instant: a page from before and one from after the snapshot would not add up.

use std::hint::black_box;
use std::str::FromStr;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::lock;
use crate::source::Source;

const PAGE_BYTES: usize = 4096;
const WORDS_PER_PAGE: usize = PAGE_BYTES / size_of::<u64>();
const PAGES_PER_MIB: usize = (1 << 20) / PAGE_BYTES;

/// What the pages of a [`Fill`] look like to a compressor.
#[derive(Clone, Copy)]
pub(crate) enum Mix {
    /// No two words alike: does not compress.
    Random,
    /// Words of a small vocabulary: compresses like logs or source code.
    Text,
    /// All zero, but touched, so that the guest really has the pages.
    Zero,
    /// Of four pages two are text, one is random, one is zero.
    Mixed,
    /// As the memory of a desktop: of 20 MiB, 12 are files of a source disk, 3 text, 3 random, 2 zero.
    Desktop,
}

impl FromStr for Mix {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "random" => Ok(Self::Random),
            "text" => Ok(Self::Text),
            "zero" => Ok(Self::Zero),
            "mixed" => Ok(Self::Mixed),
            "desktop" => Ok(Self::Desktop),
            _ => Err(()),
        }
    }
}

impl Mix {
    fn of_page(self, page: usize) -> Self {
        match (self, page % 4) {
            (Self::Mixed, 0 | 1) => Self::Text,
            (Self::Mixed, 2) => Self::Random,
            (Self::Mixed, _) => Self::Zero,
            // Where the source disk has given all that it has, text stands in.
            (Self::Desktop, _) => match (page / PAGES_PER_MIB) % 20 {
                0..15 => Self::Text,
                15..18 => Self::Random,
                _ => Self::Zero,
            },
            (uniform, _) => uniform,
        }
    }
}

/// Memory written once at start, with its checksum; changed only when the host asks for it.
pub(crate) struct Fill {
    words: Vec<u64>,
    /// Where in `words` the first page begins: pages are the processor's own.
    start: usize,
    sum: u64,
    random: Random,
}

impl Fill {
    /// Fills `mib` MiB; `seed` 0 takes one from the kernel, so that two boots never have the same content.
    pub(crate) fn new(mib: usize, mix: Mix, seed: u64) -> Self {
        let words = vec![0; (mib * PAGES_PER_MIB + 1) * WORDS_PER_PAGE];
        let start = words.as_ptr().align_offset(PAGE_BYTES).min(WORDS_PER_PAGE);
        let mut fill = Self { words, start, sum: 0, random: Random::new(seed) };
        let mut random = Random::new(seed);
        let mut source = if matches!(mix, Mix::Desktop) { Source::open() } else { None };
        for (number, page) in fill.pages().enumerate() {
            let from_source = (number / PAGES_PER_MIB) % 20 < 12;
            if !(from_source && source.as_mut().is_some_and(|source| source.read_page(page))) {
                fill_page(page, mix.of_page(number), &mut random);
            }
        }
        fill.sum = fill.actual();
        fill
    }

    /// The checksum that it should have.
    pub(crate) fn expected(&self) -> u64 {
        self.sum
    }

    /// The checksum of what is there now.
    pub(crate) fn actual(&self) -> u64 {
        let end = self.words.len() - (WORDS_PER_PAGE - self.start);
        checksum(&self.words[self.start..end])
    }

    /// Overwrites a page in every hundred, as a failure would.
    pub(crate) fn damage(&mut self) {
        for page in self.pages().step_by(100) {
            page.fill(0xdead_dead_dead_dead);
        }
    }

    /// Changes about `percent` of the pages, as work does: in runs of eight, half of them a little, half of them anew.
    ///
    /// Returns how many.
    pub(crate) fn churn(&mut self, percent: u64) -> usize {
        const RUN: usize = 8;
        let mut random = Random(self.random.next() | 1);
        let mut changed = 0;
        let mut pages = self.pages();
        loop {
            let run: Vec<_> = pages.by_ref().take(RUN).collect();
            if run.is_empty() {
                break;
            }
            if random.next() % 100 >= percent {
                continue;
            }
            changed += run.len();
            let anew = random.next().is_multiple_of(2);
            for page in run {
                if anew {
                    fill_page(page, Mix::Text, &mut random);
                } else {
                    for word in page.iter_mut().step_by(WORDS_PER_PAGE / RUN) {
                        *word = random.next();
                    }
                }
            }
        }
        drop(pages);
        self.sum = self.actual();
        changed
    }

    fn pages(&mut self) -> impl Iterator<Item = &mut [u64]> {
        self.words[self.start..].chunks_exact_mut(WORDS_PER_PAGE)
    }
}

/// Memory rewritten all the time, page by page, that can tell whether it is of one instant.
pub(crate) struct DirtyRegion {
    pages: Vec<[u64; WORDS_PER_PAGE]>,
    total: u64,
    random: Random,
}

impl DirtyRegion {
    pub(crate) fn new(mib: usize) -> Self {
        Self { pages: vec![[0; WORDS_PER_PAGE]; mib * PAGES_PER_MIB], total: 0, random: Random::new(0) }
    }

    /// Whether every page is uniform and the pages add up to the total kept beside them.
    pub(crate) fn is_consistent(&self) -> bool {
        let uniform = self.pages.iter().all(|page| page.iter().all(|word| *word == page[0]));
        uniform && self.total == self.pages.iter().fold(0, |sum, page| sum.wrapping_add(page[0]))
    }

    /// Breaks one page, as a failure would.
    pub(crate) fn damage(&mut self) {
        if let Some(page) = self.pages.first_mut() {
            page[1] = !page[0];
        }
    }

    fn rewrite_one(&mut self) {
        let (chosen, value) = (self.random.next(), self.random.next());
        let count = self.pages.len() as u64;
        if let Some(page) = usize::try_from(chosen % count.max(1)).ok().and_then(|at| self.pages.get_mut(at))
        {
            self.total = self.total.wrapping_add(value).wrapping_sub(page[0]);
            page.fill(value);
        }
    }
}

/// Rewrites `pages_per_second` random pages of the region, for ever; in batches where the timer is too coarse.
pub(crate) fn dirty(region: &Mutex<DirtyRegion>, pages_per_second: u64) {
    const LONGEST_BATCHES_PER_SECOND: u64 = 200;
    if pages_per_second == 0 {
        return;
    }
    let batches_per_second = pages_per_second.min(LONGEST_BATCHES_PER_SECOND);
    loop {
        for _ in 0..pages_per_second / batches_per_second {
            lock(region).rewrite_one();
        }
        thread::sleep(Duration::from_micros(1_000_000 / batches_per_second));
    }
}

fn fill_page(page: &mut [u64], mix: Mix, random: &mut Random) {
    const VOCABULARY: [&[u8; 8]; 8] = [
        b"restore ",
        b"pointing",
        b"machine ",
        b"memory, ",
        b"layered ",
        b"quietly ",
        b"working\n",
        b"page set",
    ];
    match mix {
        Mix::Random => page.fill_with(|| random.next()),
        Mix::Text => page.fill_with(|| {
            let number = random.next();
            let word = u64::from_le_bytes(*VOCABULARY[(number % 8) as usize]);
            // One word in 16 is a number, else whole pages would repeat.
            if number.is_multiple_of(16) { number } else { word }
        }),
        Mix::Zero | Mix::Mixed | Mix::Desktop => page.fill_with(|| black_box(0)),
    }
}

/// A sum that notices exchanged words and pages, in four lanes for speed.
fn checksum(words: &[u64]) -> u64 {
    let mut lanes = [1_u64, 3, 5, 7];
    for group in words.chunks_exact(4) {
        for (lane, word) in lanes.iter_mut().zip(group) {
            *lane = lane.wrapping_mul(31).wrapping_add(*word);
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.rotate_left(13) ^ lane)
}

/// xorshift64: quick under emulation, and nothing here needs better.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let seed = if seed == 0 { kernel_random() } else { seed };
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Another number at each boot, from the kernel's boot id: reading `/dev/urandom` this early would wait for entropy,
/// for a second and more under emulation.
fn kernel_random() -> u64 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.bytes()
        .fold(88_172_645_463_325_252, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
