//! How writing an image ends: complete, failed, or given up. In each case its threads end first.

use super::{ImageWriter, complete, publish};
use crate::error::StoreError;
use crate::format::image::ImageFile;
use crate::reader::ImageSummary;

impl ImageWriter {
    /// Completes the image.
    ///
    /// When this returns a summary, the image is in the store and durable: its packs and its file synced, renamed, the
    /// folder synced. When it fails, the image is not in the store; after a crash in between, it may be there, and is
    /// whole then.
    pub fn finish(mut self) -> Result<ImageSummary, StoreError> {
        self.flush()?;
        self.check_open()?;
        self.work.intake.close();
        self.join_workers();
        if let Some(error) = self.work.take_failure() {
            return Err(self.end_with(error));
        }
        match self.complete() {
            Ok(file) => Ok(crate::reader::summary(&file)),
            Err(error) => Err(self.end_with(error)),
        }
    }

    /// Writes all that is missing; the workers have ended.
    fn complete(&mut self) -> Result<ImageFile, StoreError> {
        let trees = complete::trees(&self.work, &mut self.sink, &self.spaces)?;
        let mut packs = self.work.packs.finish()?;
        let mut file = ImageFile {
            id: self.id.clone(),
            parent: self.parent.clone(),
            new_bytes: trees.new_bytes,
            // Known once the packs are published.
            stored_bytes: 0,
            spaces: trees.spaces,
            attachments: std::mem::take(&mut self.attachments),
        };
        publish::image(&self.latch, &mut self.part, &mut file, &mut packs)?;
        publish::index(&self.work.objects, &packs);
        Ok(file)
    }

    /// Ends the threads and returns the error that they met; another writer's failure is [`StoreError::Latched`].
    pub(super) fn end(&mut self) -> StoreError {
        self.end_with(StoreError::Latched)
    }

    /// Ends the threads and returns the first error that they met, or this one.
    pub(super) fn end_with(&mut self, error: StoreError) -> StoreError {
        if self.is_ended {
            return error;
        }
        self.is_ended = true;
        self.work.stop();
        self.join_workers();
        let sealing = self.work.packs.abandon();
        match (self.work.take_failure(), error) {
            (Some(failure), StoreError::Latched) => prefer(failure, sealing),
            (_, error) => prefer(error, sealing),
        }
    }

    fn join_workers(&mut self) {
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for ImageWriter {
    fn drop(&mut self) {
        if self.is_ended {
            return;
        }
        self.work.stop();
        for thread in self.threads.drain(..) {
            // Its end no longer matters to anyone.
            let _ = thread.join();
        }
        let _ = self.work.packs.abandon();
    }
}

/// Returns the error that says more: a thread that only found the store latched does not know why.
pub(super) fn prefer(error: StoreError, other: Option<StoreError>) -> StoreError {
    match (error, other) {
        (StoreError::Latched, Some(other)) => other,
        (error, _) => error,
    }
}
