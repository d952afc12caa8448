//! Makes a memory file from the store.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use vmrewind_qemu::cmdline::{CommandLine, MemoryBlock};
use vmrewind_store::{ImageReader, SpaceIndex};

use super::{Maker, NOTE, NotShared, Note};
use crate::context::Work;
use crate::error::{Context, Error, Result};
use crate::hint::Hint;
use crate::images::{image_id, store_error};
use crate::machine_image;
use crate::record::RECORD_VERSION;
use crate::record::vm::Hardware;
use crate::replay::feed::{Feed, fresh_memory};
use crate::root::file::{Files, io_error};
use crate::vm::process::boot_id;

/// What must stay free on the file system besides the file.
const SPARE_BYTES: u64 = 64 << 20;

impl Maker<'_> {
    /// Fills a flat folder whose lock is held. What is left there after a failure is the caller's to remove.
    pub(super) fn make_flat(
        &self,
        folder: &Path,
        image: &str,
        hardware: &Hardware,
    ) -> Result<Result<(), NotShared>> {
        let reader = self
            .store
            .open_image(&image_id(image)?)
            .map_err(|error| store_error("cannot read the snapshot's memory", error))?;
        let captured = machine_image::captured(&reader)?;
        let line = CommandLine::parse(&hardware.command_line)
            .context(|| "cannot read the snapshot's command line".into())?;
        let blocks: Vec<MemoryBlock<'_>> = captured
            .blocks
            .iter()
            .map(|block| MemoryBlock {
                name: &block.name,
                size_bytes: block.len,
                page_bytes: block.page_size,
            })
            .collect();
        let at = match line.memory_for_file(&blocks, rustix::param::page_size() as u64) {
            Ok(at) => at,
            Err(why) => return Ok(Err(NotShared(why))),
        };
        let space = reader.spaces().get(at).ok_or_else(|| Error::damaged("a memory image lacks a block"))?;
        let files = self.root.files();
        check_space(files, folder, reader.data_bytes())?;
        // A note of files that were there before would make these look whole.
        files.remove_file(&folder.join(NOTE))?;
        self.write_ram(&reader, space.index, &folder.join("ram"))?;
        let feed = Feed {
            ctx: self.ctx,
            image: &reader,
            captured: &captured,
            present: Some(at),
            fresh_memory: fresh_memory(hardware),
        };
        let mut state = BufWriter::new(create(&folder.join("state"))?);
        feed.write(&mut state)?;
        state.flush().map_err(|error| io_error("cannot write the machine's state", error))?;
        self.ctx.reached("flat-written");
        tracing::info!(image, "memory file written");
        self.ctx.work_ended();
        let note = Note {
            version: RECORD_VERSION,
            image: image.to_owned(),
            boot: boot_id(),
            block: space.name.clone(),
            bytes: space.len,
        };
        files.write_json(&folder.join(NOTE), &note)?;
        Ok(Ok(()))
    }

    /// Writes the pages of a space to where they are in memory.
    fn write_ram(&self, reader: &ImageReader, space: SpaceIndex, path: &Path) -> Result<()> {
        let mut progress = |done_bytes: u64, total_bytes: u64| {
            self.ctx.progress(Work::WritingMemoryFile, done_bytes, total_bytes)
        };
        // One that a dead command left is not to be continued.
        self.root.files().remove_file(path)?;
        let written = reader.write_flat(space, path, &mut progress);
        self.ctx.cancel.check("writing the memory file")?;
        written
            .map(drop)
            .map_err(|error| store_error(&format!("cannot write memory file '{}'", path.display()), error))
    }
}

fn create(path: &Path) -> Result<File> {
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.map_err(|error| io_error(&format!("cannot make '{}'", path.display()), error))
}

/// Fails early where the file system has no room for so much data.
fn check_space(files: &Files, folder: &Path, data_bytes: u64) -> Result<()> {
    let Some(free_bytes) = files.free_bytes(folder) else { return Ok(()) };
    let needed_bytes = data_bytes.saturating_add(SPARE_BYTES);
    if free_bytes >= needed_bytes {
        return Ok(());
    }
    let mib = |bytes: u64| bytes >> 20;
    Err(Error::failed(format!(
        "the memory file of the clones needs {} MiB, and {} MiB are free in '{}'",
        mib(needed_bytes),
        mib(free_bytes),
        folder.display()
    ))
    .with_hint(Hint::FreeSpaceOrBoot))
}
