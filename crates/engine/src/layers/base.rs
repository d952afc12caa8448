//! The user's images: looked at before they are taken over, and watched for changes afterwards.
//!
//! An image from elsewhere can name other files of this host as its backing or data file, and QEMU would read them
//! into the guest. Such an image is refused unless the user vouches for it. The header of a local qcow2 file is read by our
//! own code first, so that no other program opens it before it is known to be harmless; what a URI or `json:{...}` of the
//! user's own command line leads to is opened by `qemu-img info` and judged by what that says.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::hint::Hint;
use crate::layers::image_tool::qemu_img;
use crate::layers::qcow2;
use crate::record::vm::{BaseLayer, BaseRecord, FileMark, VmRecord};
use crate::root::VmFolder;
use crate::root::file::io_error;

/// How an image is to be looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BaseRequest<'a> {
    /// The disk's name, for messages.
    pub(crate) disk: &'a str,
    /// Absolute path, URI or `json:{...}`.
    pub(crate) location: &'a str,
    /// The format if the command line names it; otherwise QEMU's guess is recorded.
    pub(crate) format: Option<&'a str>,
    /// Whether the user vouches for other files that the image names.
    pub(crate) trust_backing: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    format: String,
    backing_filename: Option<String>,
    format_specific: Option<FormatSpecific>,
    #[serde(default)]
    filename: String,
}

#[derive(Deserialize)]
struct FormatSpecific {
    data: serde_json::Value,
}

/// Looks at an image and gives the record of it.
///
/// # Errors
/// `Failed` where it is missing or unreadable; `Refused` where another QEMU writes it or it names other files.
pub(crate) fn inspect(request: BaseRequest<'_>) -> Result<BaseRecord> {
    let path = Path::new(request.location);
    let is_path = path.is_absolute();
    let mut mark = None;
    if is_path {
        let metadata = std::fs::metadata(path).map_err(|error| {
            io_error(&format!("cannot use disk '{}': image '{}'", request.disk, request.location), error)
        })?;
        if metadata.is_dir() {
            return Err(Error::failed(format!(
                "disk '{}': '{}' is a folder",
                request.disk, request.location
            )));
        }
        if metadata.is_file() {
            mark = Some(file_mark(&metadata));
        } else if !metadata.file_type().is_block_device() {
            // To open a pipe would wait for whoever writes it.
            return Err(Error::failed(format!(
                "disk '{}': '{}' is neither a file nor a block device",
                request.disk, request.location
            )));
        }
        if !request.trust_backing && request.format.is_none_or(|format| format == "qcow2") {
            refuse_pointers_of_qcow2(&request, path)?;
        }
    }
    let info = query(&request)?;
    if !request.trust_backing {
        refuse_pointers(&request, &info)?;
    }
    Ok(BaseRecord {
        location: request.location.to_owned(),
        format: request.format.map_or(info.format, str::to_owned),
        virtual_bytes: info.virtual_size,
        file: mark,
        layer: None,
    })
}

fn query(request: &BaseRequest<'_>) -> Result<Info> {
    let doing = format!("cannot use disk '{}': image '{}' can't be opened", request.disk, request.location);
    let mut arguments = vec!["info", "--output=json"];
    if let Some(format) = request.format {
        arguments.extend(["-f", format]);
    }
    arguments.push(request.location);
    let output = qemu_img(&doing, &arguments).map_err(|error| {
        if error.causes().iter().any(|cause| cause.contains("lock")) {
            Error::refused(format!(
                "disk '{}': image '{}' is in use by another process",
                request.disk, request.location
            ))
            .with_hint(Hint::ShutOtherVm)
            .because(error)
        } else {
            error
        }
    })?;
    serde_json::from_slice(&output).map_err(|error| Error::failed(doing).because(error))
}

fn refuse_pointers_of_qcow2(request: &BaseRequest<'_>, path: &Path) -> Result<()> {
    match qcow2::read_header(path)? {
        Some(qcow2::Header { backing_file: Some(backing), .. }) => {
            Err(pointer(request, "backing file", &backing))
        }
        Some(qcow2::Header { external_data: true, .. }) => Err(pointer(request, "data file", "another file")),
        _ => Ok(()),
    }
}

fn refuse_pointers(request: &BaseRequest<'_>, info: &Info) -> Result<()> {
    if let Some(backing) = &info.backing_filename {
        return Err(pointer(request, "backing file", backing));
    }
    let Some(specific) = &info.format_specific else { return Ok(()) };
    if let Some(data_file) = specific.data.get("data-file").and_then(|value| value.as_str()) {
        return Err(pointer(request, "data file", data_file));
    }
    let extents = specific.data.get("extents").and_then(|value| value.as_array());
    for extent in extents.into_iter().flatten() {
        match extent.get("filename").and_then(|value| value.as_str()) {
            Some(name) if name != info.filename => return Err(pointer(request, "extent", name)),
            _ => {}
        }
    }
    Ok(())
}

fn pointer(request: &BaseRequest<'_>, kind: &str, target: &str) -> Error {
    Error::refused(format!(
        "disk '{}': image '{}' names {} as its {kind}, which the guest would be able to read",
        request.disk,
        request.location,
        if target == "another file" { target.to_owned() } else { format!("'{}'", target.escape_debug()) },
    ))
    .with_hint(Hint::TrustBacking)
}

/// Notices that somebody changed a base since it was taken over.
///
/// # Errors
/// `Refused` where size or modification time differ, `Failed` where the file is gone.
pub(crate) fn check_unchanged(disk: &str, base: &BaseRecord) -> Result<()> {
    // Another VM's layer is looked at with all that are below this VM's (`frozen.rs`).
    let Some(expected) = base.file.filter(|_| base.layer.is_none()) else { return Ok(()) };
    let metadata = std::fs::metadata(&base.location).map_err(|error| {
        io_error(&format!("disk '{disk}': base image '{}' can't be used", base.location), error)
    })?;
    let found = file_mark(&metadata);
    if found == expected {
        return Ok(());
    }
    let change = if found.bytes == expected.bytes {
        format!("it was last written at {}, and now says {}", expected.modified(), found.modified())
    } else {
        format!("it had {} bytes and now has {}", expected.bytes, found.bytes)
    };
    Err(Error::refused(format!(
        "disk '{disk}': base image '{}' was changed since it was taken over: {change}",
        base.location
    ))
    .with_hint(Hint::PutBaseBack))
}

/// Notices a changed base of any disk, before anything is built on it. Errors as of [`check_unchanged`].
pub(crate) fn check_all_unchanged(record: &VmRecord) -> Result<()> {
    record.disks.iter().try_for_each(|disk| check_unchanged(&disk.name, &disk.base))
}

/// The record of a frozen layer of another VM as the base of a clone's disk.
///
/// # Errors
/// `Damaged` where the layer is missing or no qcow2 file.
pub(crate) fn of_layer(folder: &VmFolder, layer: BaseLayer) -> Result<BaseRecord> {
    let path = layer.path(folder);
    let damaged = |what: &str| Error::damaged(format!("layer '{}' {what}", path.display()));
    let metadata = std::fs::metadata(&path).map_err(|error| damaged("can't be read").because(error))?;
    let header = qcow2::read_header(&path)?.ok_or_else(|| damaged("is not a qcow2 file"))?;
    Ok(BaseRecord {
        location: path.display().to_string(),
        format: "qcow2".into(),
        virtual_bytes: header.virtual_bytes,
        file: Some(file_mark(&metadata)),
        layer: Some(layer),
    })
}

/// How a file looks.
pub(crate) fn file_mark(metadata: &std::fs::Metadata) -> FileMark {
    FileMark {
        bytes: metadata.len(),
        modified_s: metadata.mtime(),
        modified_ns: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
    }
}
