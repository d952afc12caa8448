//! The log of a job's processes, in the VM's run folder: what they did and when, for whoever wants to know why it was slow or
//! failed. A few lines for each start.

use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::Instant;

use super::Kind;
use crate::root::VmFolder;
use crate::vm::run_folder;

/// A log that is begun anew past this length.
const LOG_BYTES: u64 = 1 << 20;

/// Writes lines with the time since the process's start.
pub(crate) struct Log {
    file: Option<File>,
    began: Instant,
    who: &'static str,
}

impl Log {
    /// Opens the log of a kind of job on the VM in `folder`. Where it can't be, nothing is logged.
    pub(crate) fn open(kind: &Kind, folder: &VmFolder, who: &'static str) -> Self {
        let run = run_folder::existing(folder).unwrap_or_else(|| folder.run());
        let path = run.join(kind.log);
        let long = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_BYTES);
        let open = OpenOptions::new().create(true).append(!long).write(true).truncate(long).open(path);
        Self { file: open.ok(), began: Instant::now(), who }
    }

    /// Writes a line.
    pub(crate) fn say(&self, line: Arguments<'_>) {
        if let Some(mut file) = self.file.as_ref() {
            let ms = self.began.elapsed().as_secs_f64() * 1e3;
            let pid = std::process::id();
            let _ = file.write_all(format!("{} {pid} {ms:.1} ms: {line}\n", self.who).as_bytes());
        }
    }
}
