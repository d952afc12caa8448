//! What the store costs in time and bytes, on a desktop's memory and its later generations.
//!
//! A guest fills its memory with programs and texts of this machine, random and zero pages. Then, again and again: a part
//! of its pages is changed, and a snapshot is taken by `vmrewind snapshot create`. The snapshot's memory is written as a
//! flat, sparse file, and every contestant keeps that file, beside the generations before it:
//!
//! - **vmrewind's store**, by its programming interface: without QEMU, which is half the work of a capture;
//! - **zstd -1** of each image by itself, on all cores;
//! - **restic** and **borg** (zstd,1, no encryption): deduplicating backup programs, with a repository of their own.
//!
//! A turn is from its begin until its files are written out (`syncfs`). The flat file is in the page cache; the guest
//! rests meanwhile. The order moves by one from generation to generation. Speeds are of data: pages that are not zero.

mod contestants;
mod images;
mod reading;
mod sample;
mod text;
mod worn;

use std::path::Path;

use clap::Args;
use vmrewind_testkit::disk;
use vmrewind_testkit::guest::{DiskArg, DiskKind, GuestOptions, Mix};

use self::contestants::{Contestant, Keeper};
use self::sample::{Generation, Series};
use crate::cache::{allocated_bytes, sync};
use crate::desktop;
use crate::outcome::{Outcome, context};
use crate::vm::{Vm, filled_guest};

pub(crate) use self::text::markdown;

/// Most of a guest's data whose image goes through many generations.
const WORN_BYTES: usize = 256 << 20;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// RAM of the guest, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(256..))]
    memory: u32,
    /// Snapshots to take
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    generations: u32,
    /// Percent of the pages that are changed from one to the next; one series for each
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_values_t = [5, 20],
          value_parser = clap::value_parser!(u32).range(0..=100))]
    dirty: Vec<u32>,
    /// Generations that an image goes through to show what they do to its reading; 0: none
    #[arg(long, value_name = "N", default_value_t = 100)]
    worn: u32,
    /// A smoke run: 512 MiB, three generations, one series
    #[arg(long, conflicts_with_all = ["memory", "generations", "dirty", "worn"])]
    quick: bool,
}

impl Options {
    fn resolved(&self) -> Self {
        if self.quick {
            Self { memory: 512, generations: 3, dirty: vec![5], worn: 10, quick: true }
        } else {
            self.clone()
        }
    }
}

/// Measures all series, below a folder of its own in `dir` that is removed at the end.
///
/// # Errors
/// Where a guest or a contestant fails, or gives back other bytes than it was given.
pub(crate) fn run(options: &Options, program: &Path, dir: &Path) -> Outcome<Vec<Series>> {
    let options = options.resolved();
    contestants::check_programs()?;
    let mut all = Vec::new();
    for &percent in &options.dirty {
        let doing = || format!("cannot measure with {percent} % dirtied");
        // The path of a socket has at most 107 bytes: the name is short.
        let folder = tempfile::Builder::new().prefix("vmrewind-bench.").tempdir_in(dir)?;
        let mut series = measure(&options, percent, program, folder.path()).map_err(context(doing))?;
        if all.is_empty() && options.worn > 0 {
            let flat = folder.path().join("flat");
            let doing = || "cannot measure what generations do to reading".to_owned();
            let worn =
                worn::measure(&flat, WORN_BYTES, options.worn, folder.path()).map_err(context(doing))?;
            series.worn = Some(worn);
        }
        println!("{}", text::series(&series));
        all.push(series);
    }
    Ok(all)
}

fn measure(options: &Options, percent: u32, program: &Path, folder: &Path) -> Outcome<Series> {
    let filled = filled_guest(options.memory);
    let fill_mib = filled.fill_mib;
    let source = folder.join("source");
    let content = desktop::write(&source, u64::from(fill_mib / 20 * 12 + 20) << 20)?;
    println!("{} MiB, {percent} % dirtied: booting a guest ...", options.memory);
    let vm = Vm::boot("store", &guest(filled, &source, folder)?, program, folder)?;
    let keepers: Vec<Keeper> =
        Contestant::ALL.into_iter().map(|who| Keeper::new(who, folder)).collect::<Outcome<_>>()?;
    let mut series = Series {
        memory_mib: options.memory,
        filled_mib: fill_mib,
        source_program_mib: content.program_bytes >> 20,
        source_text_mib: content.text_bytes >> 20,
        percent,
        generations: Vec::new(),
        reads: Vec::new(),
        worn: None,
    };
    for number in 1..=options.generations {
        if number > 1 {
            vm.ask(&format!("churn {percent}"), "CHURNED ")?;
        }
        let generation = take(&vm, &keepers, number, folder)?;
        println!("  {}", text::generation(&generation));
        series.generations.push(generation);
        if number == 1 || number == options.generations {
            series.reads.push(reading::measure(&keepers, number, &folder.join("flat"))?);
        }
        vm.go_on()?;
    }
    vm.check()?;
    vm.delete()?;
    Ok(series)
}

/// Takes a snapshot and has every contestant keep its memory. The guest rests afterwards.
fn take(vm: &Vm, keepers: &[Keeper], number: u32, folder: &Path) -> Outcome<Generation> {
    sync(folder)?;
    let name = format!("g{number}");
    let (view, peak_bytes) = vm.program.run_watched(["snapshot", "create", &vm.name, &name])?;
    vm.rest()?;
    let id = view["id"].as_str().ok_or("`snapshot create --json` has no 'id'")?;
    let image = vm.manifest(id)?["memory"]["image"].as_str().map(str::to_owned).ok_or("no memory image")?;
    let flat = folder.join("flat");
    let data_bytes = images::write_flat(&vm.program.root().join("store"), &image, &flat)?;
    let mut turns = Vec::new();
    for place in 0..keepers.len() {
        let turn = usize::try_from(number)?.wrapping_add(place) % keepers.len();
        turns.push(keepers[turn].keep(number, &flat, folder)?);
    }
    Ok(Generation {
        number,
        data_bytes,
        create_ms: view["total_ms"].as_f64().unwrap_or(f64::NAN),
        method: view["method"].as_str().unwrap_or_default().to_owned(),
        peak_bytes,
        root_bytes: allocated_bytes(&vm.program.root().join("store"))?,
        turns,
    })
}

fn guest(filled: GuestOptions, source: &Path, folder: &Path) -> Outcome<GuestOptions> {
    let disk = folder.join("disk.qcow2");
    disk::ext4_qcow2(&disk, 256 << 20)?;
    Ok(GuestOptions {
        mix: Mix::Desktop,
        source: Some(source.to_owned()),
        dirty_mib: 8,
        dirty_hz: 200,
        disks: vec![DiskArg::new(disk, "qcow2").attached_as(DiskKind::Blockdev)],
        ..filled
    })
}
