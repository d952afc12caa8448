//! Reading what the store keeps: all of an image, and single pages as a restored guest asks for them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use vmrewind_store::{ImageReader, PAGE_SIZE, SpaceIndex, Store};

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

/// Reads generation `number`, which is the file `flat` too, and checks that both are the same bytes.
pub(super) fn measure(keepers: &[Keeper], number: u32, flat: &Path) -> Outcome<Reads> {
    let store = keepers.iter().find_map(Keeper::store).ok_or("there is no store")?;
    check_same(store, number, flat)?;
    let reader = store.open_image(&image_id(number)?)?;
    let space = images::flat_space(&reader)?;
    let data_bytes = reader.data_runs(space).map(|run| (run.end - run.start) * PAGE_SIZE as u64).sum();
    let quickest = |seconds: Vec<f64>| seconds.into_iter().fold(f64::INFINITY, f64::min);
    let mut bulk = Vec::new();
    let mut plain = Vec::new();
    for _ in 0..TIMES {
        bulk.push(timed(|| read_all(store, number))?);
        plain.push(timed(|| read_flat(&reader, space, flat))?);
    }
    drop(reader);
    let (cold, cached) = random_pages(store, number)?;
    Ok(Reads {
        generation: number,
        data_bytes,
        bulk_seconds: quickest(bulk),
        flat_seconds: quickest(plain),
        cold_us: Summary::of(cold).ok_or("no page was read")?,
        cached_us: Summary::of(cached).ok_or("no page was read")?,
    })
}

fn timed(work: impl FnOnce() -> Outcome) -> Outcome<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Reads all data of an image, opening it included.
fn read_all(store: &Store, number: u32) -> Outcome {
    let reader = store.open_image(&image_id(number)?)?;
    images::each_chunk(&reader, images::flat_space(&reader)?, |_, bytes| {
        std::hint::black_box(bytes);
    })
}

/// Reads the same pages from the flat file in the page cache and hashes each: what can't be done with less work.
fn read_flat(reader: &ImageReader, space: SpaceIndex, flat: &Path) -> Outcome {
    let file = File::open(flat)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runs: Vec<_> = reader.data_runs(space).flat_map(chunks_of).collect();
    let share = runs.len().div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let work = |runs: &[std::ops::Range<u64>]| -> std::io::Result<()> {
            let mut buffer = vec![0; PAGE_SIZE * 256];
            for run in runs {
                let bytes = (run.end - run.start) * PAGE_SIZE as u64;
                let bytes = &mut buffer[..usize::try_from(bytes).map_err(std::io::Error::other)?];
                file.read_exact_at(bytes, run.start * PAGE_SIZE as u64)?;
                for page in bytes.chunks_exact(PAGE_SIZE) {
                    std::hint::black_box(blake3::hash(page));
                }
            }
            Ok(())
        };
        let workers: Vec<_> = runs.chunks(share).map(|runs| scope.spawn(move || work(runs))).collect();
        for worker in workers {
            worker.join().map_err(|_| "a reader failed")??;
        }
        Ok(())
    })
}

fn chunks_of(run: std::ops::Range<u64>) -> impl Iterator<Item = std::ops::Range<u64>> {
    let end = run.end;
    let step = usize::try_from(images::CHUNK_PAGES).unwrap_or(1);
    run.step_by(step).map(move |first| first..end.min(first + images::CHUNK_PAGES))
}

/// Microseconds for each of many pages all over the image, and for pages asked for again.
fn random_pages(store: &Store, number: u32) -> Outcome<(Vec<f64>, Vec<f64>)> {
    let reader = store.open_image(&image_id(number)?)?;
    let space = images::flat_space(&reader)?;
    let pages: Vec<u64> = reader.data_runs(space).flatten().collect();
    // A stride that has no common divisor with the number of pages goes through all of them, far from each other.
    let stride = (pages.len() * 618 / 1000) | 1;
    let mut buffer = [0; PAGE_SIZE];
    let mut read = |page: u64| -> Outcome<f64> {
        let begun = Instant::now();
        reader.read_page(space, page, &mut buffer)?;
        Ok(begun.elapsed().as_secs_f64() * 1e6)
    };
    let chosen: Vec<u64> =
        (0..RANDOM_PAGES.min(pages.len())).map(|turn| pages[turn * stride % pages.len()]).collect();
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

fn check_same(store: &Store, number: u32, flat: &Path) -> Outcome {
    let reader = store.open_image(&image_id(number)?)?;
    let file = File::open(flat)?;
    let mut expected = vec![0; PAGE_SIZE * 256];
    let mut wrong = 0_u64;
    images::each_chunk(&reader, images::flat_space(&reader)?, |first, bytes| {
        let expected = &mut expected[..bytes.len()];
        let read = file.read_exact_at(expected, first * PAGE_SIZE as u64);
        wrong += u64::from(read.is_err() || expected != bytes);
    })?;
    if wrong > 0 { Err(format!("generation {number} was not given back as it was").into()) } else { Ok(()) }
}
