//! How long a running guest stands still for a snapshot with memory, and how long the snapshot takes.
//!
//! For each size two guests are booted with the same command line and the same content of memory: one under vmrewind,
//! one without. In each round every way takes its turn, on its guest, the order moving by one from round to round;
//! the other guest is stopped meanwhile and uses no processor. What counts:
//!
//! - **pause**: QEMU's STOP event to its RESUME event, as a third party sees them on a QMP socket; the same for all;
//! - **guest's gap**: the guest's own view of it, the time between its ticks before and after. It is longer by what
//!   QEMU does after it has sent RESUME, and by what the guest's processor waits for its turn;
//! - **longest gap**: the longest time between any two ticks from first command to last;
//! - **done**: from the first command until the guest runs and the way says that it is done;
//! - **on disk**: the same until the result would survive a power cut. vmrewind and `snapshot-save` sync by
//!   themselves; a `migrate` to a file does not, so the file is synced once the guest runs. On ext4 there is little
//!   left to sync: QEMU truncates the file before it writes, and ext4 then writes it out when QEMU closes it, which is
//!   within the pause.
//!
//! Before each turn all files of the file system are written out (`syncfs`), so that nobody pays for another's writes,
//! and what the way left before is deleted, except vmrewind's snapshots, on which its VM goes on.
//! QEMU's bandwidth limit is off for all.

mod guest;
mod plain;
mod rewind;
mod sample;
mod text;

use std::path::Path;

use clap::Args;
use vmrewind_testkit::disk;
use vmrewind_testkit::guest::{DiskArg, DiskKind, GuestOptions};

use self::plain::{PlainGuest, QemuWay};
use self::rewind::RewindGuest;
use self::sample::SizeResult;
use crate::outcome::{Outcome, context};
use crate::vm::filled_guest;

pub(crate) use self::text::markdown;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Sizes of guests, in MiB of RAM
    #[arg(long, value_name = "MIB", value_delimiter = ',', default_values_t = [512, 2048, 4096],
          value_parser = clap::value_parser!(u32).range(192..))]
    sizes: Vec<u32>,
    /// Rounds per size
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Pages of memory that the guest rewrites per second
    #[arg(long, value_name = "N", default_value_t = 1000)]
    dirty_pages: u32,
}

/// Measures all sizes, with guests and files below a folder of its own in `dir` that is removed at the end.
///
/// # Errors
/// Where a guest or a way fails, or finds its memory or disk wrong afterwards. No figures then: they would lie.
pub(crate) fn run(options: &Options, program: &Path, dir: &Path) -> Outcome<Vec<SizeResult>> {
    let mut results = Vec::new();
    for &memory_mib in &options.sizes {
        let doing = || format!("cannot measure a guest of {memory_mib} MiB");
        check_space(dir, memory_mib, options.rounds).map_err(context(doing))?;
        // The path of a socket has at most 107 bytes: the name is short.
        let folder = tempfile::Builder::new().prefix("vmrewind-bench.").tempdir_in(dir)?;
        let result = measure(options, memory_mib, program, folder.path()).map_err(context(doing))?;
        println!("{}", text::size(&result));
        results.push(result);
    }
    Ok(results)
}

fn measure(options: &Options, memory_mib: u32, program: &Path, folder: &Path) -> Outcome<SizeResult> {
    let guest = |name: &str| {
        let path = folder.join(format!("{name}.qcow2"));
        disk::ext4_qcow2(&path, 256 << 20)?;
        Ok::<_, vmrewind_testkit::Error>(guest_options(options, memory_mib, &path))
    };
    println!("{memory_mib} MiB: booting two guests ...");
    let plain = PlainGuest::boot(&guest("plain")?, folder)?;
    plain.guest.rest()?;
    let rewind = RewindGuest::boot(&guest("rewind")?, program, folder)?;
    rewind.guest.rest()?;
    let ways = plain.known_ways()?;
    let mut samples = Vec::new();
    for round in 1..=options.rounds {
        for turn in turns(&ways, round) {
            sync(folder)?;
            let sample = match turn {
                None => rewind.capture(round)?,
                Some(way) => plain.capture(way, round)?,
            };
            println!("  round {round}: {}", text::sample(&sample));
            samples.push(sample);
        }
    }
    plain.guest.check()?;
    rewind.guest.check()?;
    rewind.end()?;
    Ok(SizeResult {
        memory_mib,
        filled_mib: guest_options(options, memory_mib, folder).fill_mib,
        dirty_pages_per_second: options.dirty_pages,
        rounds: options.rounds,
        unknown_to_qemu: QemuWay::ALL
            .iter()
            .filter(|way| !ways.contains(way))
            .map(|way| way.name())
            .collect(),
        samples,
    })
}

/// All turns of a round, vmrewind's is `None`; another begins each round.
fn turns(ways: &[QemuWay], round: u32) -> Vec<Option<QemuWay>> {
    let mut turns: Vec<_> = std::iter::once(None).chain(ways.iter().copied().map(Some)).collect();
    let first = usize::try_from(round - 1).unwrap_or(0) % turns.len();
    turns.rotate_left(first);
    turns
}

/// The same for both guests but for the disk; a fixed seed gives them the same memory.
fn guest_options(options: &Options, memory_mib: u32, disk: &Path) -> GuestOptions {
    GuestOptions {
        dirty_mib: 16,
        dirty_hz: options.dirty_pages,
        tick_ms: 5,
        disks: vec![DiskArg::new(disk, "qcow2").attached_as(DiskKind::Blockdev)],
        ..filled_guest(memory_mib)
    }
}

/// vmrewind's images of all rounds, and one file of QEMU's besides its snapshot in the disk.
fn check_space(dir: &Path, memory_mib: u32, rounds: u32) -> Outcome {
    let statistics = rustix::fs::statvfs(dir)?;
    let free_mib = (statistics.f_bavail * statistics.f_frsize) >> 20;
    let needed_mib = u64::from(memory_mib) * u64::from(rounds + 3);
    if free_mib < needed_mib {
        let dir = dir.display();
        return Err(format!("up to {needed_mib} MiB are needed in '{dir}', {free_mib} MiB are free").into());
    }
    Ok(())
}

/// Writes out all that waits to be written on the folder's file system.
fn sync(folder: &Path) -> Outcome {
    Ok(rustix::fs::syncfs(std::fs::File::open(folder)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards fairness: every way in every round, and no way always right after the same other.
    #[test]
    fn every_way_has_a_turn_in_every_round() {
        let rounds: Vec<_> = (1..=6).map(|round| turns(&QemuWay::ALL, round)).collect();
        for round in &rounds {
            assert_eq!(round.iter().filter(|turn| turn.is_none()).count(), 1);
            assert!(QemuWay::ALL.iter().all(|way| round.contains(&Some(*way))));
        }
        assert_eq!(rounds[0][0], None);
        assert_ne!(rounds[0][0], rounds[1][0]);
        assert_eq!(rounds[0], rounds[5], "after as many rounds as there are ways");
    }

    /// Guards the guest against a fill that its kernel would kill for want of memory.
    #[test]
    fn the_guests_memory_is_filled_but_not_full() {
        let options = Options { sizes: vec![], rounds: 1, dirty_pages: 7 };
        for memory_mib in [192, 512, 2048, 4096] {
            let guest = guest_options(&options, memory_mib, Path::new("disk"));
            assert!(guest.fill_mib * 2 >= guest.memory_mib / 2 && guest.fill_mib + 80 <= guest.memory_mib);
            assert_eq!(guest.dirty_hz, 7);
        }
    }
}
