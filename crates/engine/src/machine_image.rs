//! How a captured machine is kept as an image of the store: its blocks of memory as spaces of the same names, the
//! rest as attachments (docs/format.md, "Machine images").

use vmrewind_qemu::stream::{Captured, Parts, Summary};
use vmrewind_store::{ImageReader, ImageSummary, ImageWriter};

use crate::error::{Error, Result};
use crate::images::store_error;

const SUMMARY: &str = "machine.json";
const CONFIGURATION: &str = "configuration";
const DEVICE_STATE: &str = "device-state";

/// Adds everything but pages and makes the image durable.
pub(crate) fn finish(captured: Captured, mut image: ImageWriter) -> Result<ImageSummary> {
    let parts = captured.into_parts();
    let summary = serde_json::to_vec(&parts.summary)
        .map_err(|error| Error::failed("cannot encode the machine's summary").because(error))?;
    let attachments =
        [(SUMMARY, &summary), (CONFIGURATION, &parts.configuration), (DEVICE_STATE, &parts.device_state)];
    for (name, bytes) in attachments {
        image.attach(name, bytes).map_err(|error| store_error("cannot keep the machine's state", error))?;
    }
    image.finish().map_err(|error| store_error("cannot keep the guest's memory", error))
}

/// Reads back what [`finish`] attached.
///
/// # Errors
/// `Damaged` where it is not what it was.
pub(crate) fn captured(image: &ImageReader) -> Result<Captured> {
    let damaged = || format!("memory image {} does not hold a machine's state", image.id());
    let read = |name: &str| {
        if image.attachments().all(|(found, _)| found != name) {
            return Err(Error::damaged(damaged()));
        }
        image.attachment(name).map_err(|error| store_error("cannot read the machine's state", error))
    };
    let summary: Summary =
        serde_json::from_slice(&read(SUMMARY)?).map_err(|error| Error::damaged(damaged()).because(error))?;
    let parts = Parts { summary, configuration: read(CONFIGURATION)?, device_state: read(DEVICE_STATE)? };
    let captured = Captured::from_parts(parts).map_err(|error| Error::damaged(damaged()).because(error))?;
    let same = captured.blocks.len() == image.spaces().len()
        && captured
            .blocks
            .iter()
            .zip(image.spaces())
            .all(|(block, space)| block.name == space.name && block.len == space.len);
    if same { Ok(captured) } else { Err(Error::damaged(damaged())) }
}

#[cfg(test)]
mod tests;
