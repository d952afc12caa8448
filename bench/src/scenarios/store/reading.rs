//! Reading what the store keeps: all of an image, and single pages as a restored guest asks for them.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use vmrewind_store::{ImageReader, PAGE_SIZE, SpaceIndex};

use super::contestants::{Keeper, image_id};
use super::images;
use super::sample::Reads;
use crate::outcome::Outcome;
use crate::stats::Summary;

/// Times that a whole image is read; the quickest counts, as for what is compared with it.
const TIMES: u32 = 3;
/// Pages asked for one by one, and how often each of the last ones is asked for again.
const RANDOM_PAGES: usize = 2000;
const CACHED_PAGES: usize = 64;
const CACHED_TIMES: usize = 10;
/// Pages of the flat file that are read at a time.
const CHUNK_PAGES: usize = 256;

/// Reads generation `number`, which is the file `flat` too, and checks that both are the same bytes.
pub(super) fn measure(keepers: &[Keeper], number: u32, flat: &Path) -> Outcome<Reads> {
    let folder = keepers.iter().find_map(Keeper::store_folder).ok_or("there is no store")?;
    let (reader, space) = open(folder, number)?;
    check_same(&reader, space, flat)?;
    let data_bytes = images::data_bytes(&reader, space)?;
    let chunks = chunks(&reader, space)?;
    drop(reader);
    let quickest = |seconds: Vec<f64>| seconds.into_iter().fold(f64::INFINITY, f64::min);
    let mut bulk = Vec::new();
    let mut plain = Vec::new();
    for _ in 0..TIMES {
        bulk.push(timed(|| read_all(folder, number))?);
        plain.push(timed(|| read_flat(&chunks, flat))?);
    }
    let (cold, cached) = random_pages(folder, number)?;
    Ok(Reads {
        generation: number,
        data_bytes,
        bulk_seconds: quickest(bulk),
        flat_seconds: quickest(plain),
        cold_us: Summary::of(cold).ok_or("no page was read")?,
        cached_us: Summary::of(cached).ok_or("no page was read")?,
    })
}

/// Opens an image in a store of its own, which has nothing in its caches.
fn open(folder: &Path, number: u32) -> Outcome<(ImageReader, SpaceIndex)> {
    let reader = images::open_store(folder)?.open_image(&image_id(number)?)?;
    let space = images::flat_space(&reader)?;
    Ok((reader, space))
}

fn timed(work: impl FnOnce() -> Outcome) -> Outcome<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Reads all data of an image, opening store and image included.
fn read_all(folder: &Path, number: u32) -> Outcome {
    let (reader, space) = open(folder, number)?;
    images::read_all(&reader, space, |_, bytes| {
        std::hint::black_box(bytes);
    })
}

/// Reads the same pages from the flat file in the page cache and hashes each: what can't be done with less work.
fn read_flat(chunks: &[Range<u64>], flat: &Path) -> Outcome {
    let file = File::open(flat)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = chunks.len().div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let work = |chunks: &[Range<u64>]| -> std::io::Result<()> {
            let mut buffer = vec![0; CHUNK_PAGES * PAGE_SIZE];
            for chunk in chunks {
                let pages = usize::try_from(chunk.end - chunk.start).map_err(std::io::Error::other)?;
                let bytes = &mut buffer[..pages * PAGE_SIZE];
                file.read_exact_at(bytes, chunk.start * PAGE_SIZE as u64)?;
                for page in bytes.chunks_exact(PAGE_SIZE) {
                    std::hint::black_box(blake3::hash(page));
                }
            }
            Ok(())
        };
        let workers: Vec<_> = chunks.chunks(share).map(|chunks| scope.spawn(move || work(chunks))).collect();
        for worker in workers {
            worker.join().map_err(|_| "a reader failed")??;
        }
        Ok(())
    })
}

/// The pages of data, in pieces of at most a buffer.
fn chunks(reader: &ImageReader, space: SpaceIndex) -> Outcome<Vec<Range<u64>>> {
    let mut chunks = Vec::new();
    for run in reader.data_runs(space) {
        let Range { mut start, end } = run?;
        while start < end {
            let next = end.min(start + CHUNK_PAGES as u64);
            chunks.push(start..next);
            start = next;
        }
    }
    Ok(chunks)
}

/// Microseconds for each of many pages all over the image, and for pages asked for again.
fn random_pages(folder: &Path, number: u32) -> Outcome<(Vec<f64>, Vec<f64>)> {
    let (reader, space) = open(folder, number)?;
    let runs: Vec<Range<u64>> = reader.data_runs(space).collect::<Result<_, _>>()?;
    let pages: Vec<u64> = runs.into_iter().flatten().collect();
    let mut buffer = [0; PAGE_SIZE];
    let mut read = |page: u64| -> Outcome<f64> {
        let begun = Instant::now();
        reader.read_run(space, page..page + 1, &mut buffer)?;
        Ok(begun.elapsed().as_secs_f64() * 1e6)
    };
    let chosen: Vec<u64> =
        (0..RANDOM_PAGES).filter_map(|turn| pages.get(spread(turn, pages.len()))).copied().collect();
    let cold = chosen.iter().map(|page| read(*page)).collect::<Outcome<Vec<_>>>()?;
    let mut cached = Vec::new();
    for page in chosen.iter().rev().take(CACHED_PAGES) {
        read(*page)?;
        for _ in 0..CACHED_TIMES {
            cached.push(read(*page)?);
        }
    }
    Ok((cold, cached))
}

/// The place of number `turn` in a sequence that goes all over `count` places and does not repeat itself soon.
fn spread(turn: usize, count: usize) -> usize {
    // Steps of the golden ratio of 2^64 (Weyl's sequence), scaled.
    let fraction = (turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let place = (u128::from(fraction) * count as u128) >> 64;
    usize::try_from(place).unwrap_or(0)
}

fn check_same(reader: &ImageReader, space: SpaceIndex, flat: &Path) -> Outcome {
    let file = File::open(flat)?;
    let mut expected = Vec::new();
    let mut wrong = 0_u64;
    images::read_all(reader, space, |offset, bytes| {
        expected.resize(bytes.len(), 0);
        let read = file.read_exact_at(&mut expected, offset);
        wrong += u64::from(read.is_err() || expected != bytes);
    })?;
    if wrong > 0 { Err("an image was not given back as it was".into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the figure of a cold group: pages that are asked for again, or lie together, are in the cache.
    #[test]
    fn pages_are_asked_for_all_over_and_once() {
        for count in [96_400, 100_000, 1 << 19] {
            let mut places: Vec<usize> = (0..RANDOM_PAGES).map(|turn| spread(turn, count)).collect();
            places.sort_unstable();
            let least = places.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
            assert!(places[places.len() - 1] < count && least > 15, "{least} apart, of {count}");
        }
    }
}
