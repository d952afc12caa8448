//! A space as a flat sparse file.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::ImageReader;
use crate::block::SpaceIndex;
use crate::error::StoreError;

impl ImageReader {
    /// Writes a space to a new file at `path`, for its owner only; zero blocks become holes.
    ///
    /// `progress` is told the bytes done and the total, and can stop the work ([`StoreError::Stopped`]). The file is not
    /// synced; the handle that is returned is for that. When this fails there is no file; a crash can leave part of one.
    pub fn write_flat(
        &self,
        space: SpaceIndex,
        path: &Path,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<File, StoreError> {
        let failed = |op, source| StoreError::Io { op, path: path.display().to_string(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| failed("create", error))?;
        match self.fill_file(space, &file, progress) {
            Ok(()) => Ok(file),
            Err(error) => {
                // Half a file is of no use to anyone.
                let _ = std::fs::remove_file(path);
                Err(match error {
                    Failure::Store(error) => error,
                    Failure::File(source) => failed("write", source),
                })
            }
        }
    }

    fn fill_file(
        &self,
        space: SpaceIndex,
        file: &File,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let entry = self.space(space, &(0..0)).map_err(Failure::Store)?;
        let (len, size) = (entry.len, entry.block_size.bytes_u64());
        let total = entry.data_blocks * size;
        file.set_len(len).map_err(Failure::File)?;
        let mut done = 0;
        let end = self.stream(space, 0..entry.blocks(), |blocks, data| {
            let offset = blocks.start * size;
            // The last block can reach beyond the end.
            let kept = usize::try_from((len - offset).min(data.len() as u64)).unwrap_or(data.len());
            if let Err(error) = file.write_all_at(&data[..kept], offset) {
                return ControlFlow::Break(Failure::File(error));
            }
            done += data.len() as u64;
            match progress(done, total) {
                ControlFlow::Continue(()) => ControlFlow::Continue(()),
                ControlFlow::Break(()) => {
                    ControlFlow::Break(Failure::Store(StoreError::Stopped { image: self.id().clone() }))
                }
            }
        });
        match end.map_err(Failure::Store)? {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(failure) => Err(failure),
        }
    }
}

enum Failure {
    Store(StoreError),
    File(io::Error),
}
