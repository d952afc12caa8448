//! Measures how fast an image is written and read back: `throughput FOLDER [MIB]`.
//!
//! The pages are random, all different, and come from one thread in order, as a first capture sends them.
#![allow(clippy::print_stdout, reason = "a measuring program reports to its terminal")]

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use vmrewind_store::{DirStorage, ImageId, PAGE_SIZE, Page, Store, WriteOptions};

/// Distinct pages that are made before the clock starts.
const SOURCE_PAGES: usize = 1 << 14;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("usage: throughput FOLDER [MIB]")?;
    let mib = args.next().map_or(Ok(2048), |text| text.parse::<u64>())?;
    let store = Store::open(Arc::new(DirStorage::new(folder)?))?;
    let pages = mib << 8;
    let bytes = pages * PAGE_SIZE as u64;
    let source = source();
    let id = ImageId::new("0123")?;
    store.remove_image(&id)?;

    let start = Instant::now();
    let mut writer = store.create_image(id.clone(), WriteOptions::default())?;
    let ram = writer.add_space("ram", bytes)?;
    for (page, content) in (0..pages).zip(source.iter().cycle()) {
        writer.put_page(ram, page, content)?;
    }
    report("put", bytes, start);
    writer.finish()?;
    report("put and finish", bytes, start);

    let start = Instant::now();
    let reader = store.open_image(&id)?;
    println!("{:<16} {:8.1} ms", "open", start.elapsed().as_secs_f64() * 1e3);
    let mut buf = vec![0; 256 * PAGE_SIZE];
    let start = Instant::now();
    for first in (0..pages).step_by(256) {
        reader.read_run(ram, first..first + 256, &mut buf)?;
    }
    report("read_run", bytes, start);
    let start = Instant::now();
    reader.verify(&mut |_, _| ControlFlow::Continue(()))?;
    report("verify", bytes, start);
    store.remove_image(&id)?;
    Ok(())
}

/// Makes pages of pseudo-random bytes (splitmix64).
fn source() -> Vec<Page> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    };
    let mut pages = vec![[0; PAGE_SIZE]; SOURCE_PAGES];
    for page in &mut pages {
        for word in page.as_chunks_mut::<8>().0 {
            *word = next().to_le_bytes();
        }
    }
    pages
}

fn report(what: &str, bytes: u64, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = bytes as f64 / 1e6 / seconds;
    println!("{what:<16} {rate:8.0} MB/s");
}
