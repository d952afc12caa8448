//! Measures how fast images are written and read back: `throughput FOLDER [MIB [GENERATIONS]]`, or `throughput FOLDER FILE...`.
//!
//! The pages are those of a desktop, roughly: a quarter each of text, of programs (this one's own, varied), and of zeros,
//! an eighth random, an eighth that was there before. They come from one thread in order, as a first capture sends them.
//! Each further generation changes 5 % of the pages, at random. Or they are those of flat files, one for each generation.
#![allow(clippy::print_stdout, reason = "a measuring program reports to its terminal")]

use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vmrewind_store::{
    BlockSize, DirStorage, ImageId, ImageReader, ImageSummary, PAGE_SIZE, Page, Space, Store, WriteOptions,
};

/// Pages that are read at random.
const SAMPLES: usize = 2000;
const ZERO: Page = [0; PAGE_SIZE];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("usage: throughput FOLDER [MIB [GENERATIONS]]")?;
    let rest: Vec<String> = args.collect();
    let is_number = |text: &String| text.bytes().all(|byte| byte.is_ascii_digit());
    let files = if rest.first().is_some_and(|text| !is_number(text)) { rest.as_slice() } else { &[] };
    let mib = rest.first().filter(|text| is_number(text)).map_or(Ok(2048), |text| text.parse::<usize>())?;
    let mut generations =
        rest.get(1).filter(|text| is_number(text)).map_or(Ok(3), |text| text.parse::<u32>())?;
    let mut guest = match files {
        [] => Guest::new(mib << 8)?,
        [first, ..] => Guest::of_file(first)?,
    };
    if !files.is_empty() {
        generations = u32::try_from(files.len())?;
    }
    let mut parent = None;
    for generation in 1..=generations {
        let store = Store::open(Arc::new(DirStorage::new(&folder)?))?;
        let id = ImageId::from_bytes(u128::from(generation).to_be_bytes());
        let (summary, put, total) = write(&store, &id, parent.clone(), &guest)?;
        let data_bytes = summary.bytes - summary.zero_bytes;
        println!(
            "generation {generation}: put {:.0} MB/s, finished {:.0} MB/s, {:.0} MB per CPU second, of {} MB; new {} MB, stored {} MB",
            rate(data_bytes, put),
            rate(data_bytes, total.wall),
            rate(data_bytes, total.cpu),
            data_bytes / 1_000_000,
            summary.new_bytes / 1_000_000,
            summary.stored_bytes / 1_000_000,
        );
        if generation == 1 || generation == generations {
            read(&folder, &id)?;
        }
        parent = Some(id);
        match files.get(generation as usize) {
            Some(next) => guest = Guest::of_file(next)?,
            None if files.is_empty() => guest.dirty(20),
            None => {}
        }
    }
    for generation in 1..=generations {
        let store = Store::open(Arc::new(DirStorage::new(&folder)?))?;
        store.remove_image(&ImageId::from_bytes(u128::from(generation).to_be_bytes()))?;
    }
    println!(
        "peak memory {} MB, of which the pages {} MB",
        peak_kib()? / 1000,
        (guest.pages.len() * PAGE_SIZE) / 1_000_000
    );
    Ok(())
}

fn write(
    store: &Store,
    id: &ImageId,
    parent: Option<ImageId>,
    guest: &Guest,
) -> Result<(ImageSummary, Duration, Spent), Box<dyn Error>> {
    let start = Clock::start()?;
    let mut writer = store.create_image(id.clone(), WriteOptions { parent, ..WriteOptions::default() })?;
    let ram = writer.add_space("ram", (guest.pages.len() * PAGE_SIZE) as u64, BlockSize::Page4K)?;
    for (page, content) in (0..).zip(&guest.pages) {
        writer.put_page(ram, page, content)?;
    }
    let put = start.spent()?.wall;
    let summary = writer.finish()?;
    Ok((summary, put, start.spent()?))
}

fn read(folder: &str, id: &ImageId) -> Result<(), Box<dyn Error>> {
    let store = Store::open(Arc::new(DirStorage::new(folder)?))?;
    let start = Instant::now();
    let reader = store.open_image(id)?;
    let ram = reader.spaces().first().ok_or("no space")?.clone();
    reader.read_run(ram.index, 0..1, &mut [0; PAGE_SIZE])?;
    println!("  open             {:8.2} ms", start.elapsed().as_secs_f64() * 1e3);
    let data_bytes = reader.data_bytes();
    let start = Clock::start()?;
    let end: ControlFlow<()> = reader.stream(ram.index, 0..ram.blocks(), |_, _| ControlFlow::Continue(()))?;
    assert!(end.is_continue());
    let spent = start.spent()?;
    let (wall, cpu) = (rate(data_bytes, spent.wall), rate(data_bytes, spent.cpu));
    println!("  stream           {wall:8.0} MB/s, {cpu:.0} MB per CPU second");
    let start = Instant::now();
    reader.verify(&mut |_, _| ControlFlow::Continue(()))?;
    println!("  verify           {:8.0} MB/s", rate(data_bytes, start.elapsed()));
    let flat = Path::new(folder).join("flat");
    let start = Instant::now();
    reader.write_flat(ram.index, &flat, &mut |_, _| ControlFlow::Continue(()))?;
    println!("  to a flat file   {:8.0} MB/s", rate(data_bytes, start.elapsed()));
    let start = Instant::now();
    verify_flat(&flat)?;
    println!("  that, read and hashed {:3.0} MB/s", rate(data_bytes, start.elapsed()));
    fs::remove_file(&flat)?;
    let (cold, cached) = random_pages(&reader, &ram)?;
    println!("  random page      {cold:8.1} us cold, {cached:.2} us cached (median)");
    Ok(())
}

/// Reads a flat file on two threads, and hashes what is not zero in parts of 64 KiB.
fn verify_flat(path: &Path) -> Result<(), Box<dyn Error>> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::open(path)?;
    let len = file.metadata()?.len();
    let next = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut buf = vec![0; 1 << 20];
                loop {
                    let at = next.fetch_add(1 << 20, std::sync::atomic::Ordering::Relaxed);
                    if at >= len || file.read_exact_at(&mut buf, at).is_err() {
                        break;
                    }
                    for part in buf.chunks(1 << 16) {
                        std::hint::black_box(vmrewind_store::ObjectHash::of(part));
                    }
                }
            });
        }
    });
    Ok(())
}

/// Reads pages at random, each twice; returns medians in microseconds.
fn random_pages(reader: &ImageReader, ram: &Space) -> Result<(f64, f64), Box<dyn Error>> {
    let mut random = Random(77);
    let mut page = ZERO;
    let (mut cold, mut cached) = (Vec::new(), Vec::new());
    for _ in 0..SAMPLES {
        let number = random.next() % ram.blocks();
        for times in [&mut cold, &mut cached] {
            let start = Instant::now();
            reader.read_run(ram.index, number..number + 1, &mut page)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    let median = |times: &mut Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    Ok((median(&mut cold), median(&mut cached)))
}

/// Memory of a guest.
struct Guest {
    pages: Vec<Page>,
    program: Vec<u8>,
    random: Random,
}

impl Guest {
    fn new(pages: usize) -> Result<Guest, Box<dyn Error>> {
        let program = fs::read(std::env::current_exe()?)?;
        let mut guest = Guest { pages: vec![ZERO; pages], program, random: Random(1) };
        for number in 0..pages {
            // In stretches of 256 KiB, as allocations are.
            let kind = Random((number / 64) as u64).next() % 8;
            guest.fill(number, kind);
        }
        Ok(guest)
    }

    fn of_file(path: &str) -> Result<Guest, Box<dyn Error>> {
        let content = fs::read(path)?;
        Ok(Guest { pages: content.as_chunks().0.to_vec(), program: Vec::new(), random: Random(1) })
    }

    /// Changes one in so many pages.
    fn dirty(&mut self, one_in: usize) {
        for _ in 0..self.pages.len() / one_in {
            let number = self.random.below(self.pages.len());
            let kind = self.random.next() % 6;
            self.fill(number, kind);
        }
    }

    fn fill(&mut self, number: usize, kind: u64) {
        match kind {
            0 | 1 => self.text(number),
            2 | 3 => {
                let from = self.random.below(self.program.len() / PAGE_SIZE) * PAGE_SIZE;
                self.pages[number].copy_from_slice(&self.program[from..from + PAGE_SIZE]);
                let mark = self.random.next().to_le_bytes();
                self.pages[number][..8].copy_from_slice(&mark);
            }
            4 => {
                for word in self.pages[number].as_chunks_mut::<8>().0 {
                    *word = self.random.next().to_le_bytes();
                }
            }
            5 => {
                let from = self.random.below(number.max(1));
                self.pages[number] = self.pages[from];
            }
            _ => self.pages[number] = ZERO,
        }
    }

    fn text(&mut self, number: usize) {
        const SYLLABLES: &[u8; 64] = b"ba be bi bo da de di do fa fe fi fo ka ke ki ko la le li lo ma m";
        let page = &mut self.pages[number];
        let mut at = 0;
        while at < PAGE_SIZE {
            let word = self.random.next();
            let len = 3 + (word % 8) as usize;
            for n in 0..len.min(PAGE_SIZE - at) {
                page[at + n] = SYLLABLES[usize::from((word >> (8 + 5 * n)).to_le_bytes()[0] % 64)];
            }
            at += len;
        }
    }
}

/// Pseudo-random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }
}

/// Time of the wall, and of all cores: the second tells more on a machine that others use too.
struct Spent {
    wall: Duration,
    cpu: Duration,
}

struct Clock {
    wall: Instant,
    cpu: Duration,
}

impl Clock {
    fn start() -> Result<Clock, Box<dyn Error>> {
        Ok(Clock { wall: Instant::now(), cpu: cpu_time()? })
    }

    fn spent(&self) -> Result<Spent, Box<dyn Error>> {
        Ok(Spent { wall: self.wall.elapsed(), cpu: cpu_time()? - self.cpu })
    }
}

/// Returns the time that this process has had of all cores, in steps of 10 ms.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = fields.get(11..13).ok_or("no times")?;
    let ticks = ticks[0].parse::<u64>()? + ticks[1].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn rate(bytes: u64, time: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let bytes = bytes as f64;
    bytes / 1e6 / time.as_secs_f64()
}

fn peak_kib() -> Result<usize, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
