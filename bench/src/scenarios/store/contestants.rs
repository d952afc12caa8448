//! Who keeps the generations of a flat file, each in a folder of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use vmrewind_store::{ImageId, Store};

use super::images;
use super::sample::Turn;
use crate::cache::{allocated_bytes, sync, touch_memory, warm_file};
use crate::outcome::{Outcome, context};

/// One way to keep generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    /// vmrewind's store.
    Store,
    /// `zstd -1` of each generation.
    Zstd,
    /// restic.
    Restic,
    /// borg.
    Borg,
}

impl Contestant {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Store, Self::Zstd, Self::Restic, Self::Borg];

    /// As the tables call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Store => "vmrewind's store",
            Self::Zstd => "zstd -1 of each",
            Self::Restic => "restic",
            Self::Borg => "borg, zstd,1",
        }
    }
}

/// A contestant with what it keeps.
pub(super) struct Keeper {
    pub(super) who: Contestant,
    folder: PathBuf,
    store: Option<Store>,
}

impl Keeper {
    /// Makes an empty folder, or repository, below `folder`.
    pub(super) fn new(who: Contestant, folder: &Path) -> Outcome<Self> {
        let folder = folder.join(format!("{who:?}").to_lowercase());
        std::fs::create_dir(&folder)?;
        let mut keeper = Self { who, folder, store: None };
        match who {
            Contestant::Store => keeper.store = Some(images::open_store(&keeper.folder)?),
            Contestant::Zstd => {}
            Contestant::Restic => run(keeper.restic().args(["init", "--quiet"]))?,
            Contestant::Borg => {
                run(keeper.borg().args(["init", "--encryption", "none"]).arg(keeper.repository()))?;
            }
        }
        Ok(keeper)
    }

    /// Keeps generation `number`, which is the file `flat`.
    pub(super) fn keep(&self, number: u32, flat: &Path, base: &Path) -> Outcome<Turn> {
        // borg has the kernel forget the files that it has read: whoever came next would read them from the disk.
        warm_file(flat)?;
        sync(base)?;
        touch_memory(std::fs::metadata(flat)?.len())?;
        let doing = || format!("{} failed", self.who.name());
        let begun = Instant::now();
        self.put(number, flat).map_err(context(doing))?;
        sync(base)?;
        let seconds = begun.elapsed().as_secs_f64();
        Ok(Turn { way: self.who.name().into(), seconds, bytes: allocated_bytes(&self.folder)? })
    }

    /// The folder of vmrewind's store, where this is it.
    pub(super) fn store_folder(&self) -> Option<&Path> {
        self.store.as_ref().map(|_| self.folder.as_path())
    }

    fn put(&self, number: u32, flat: &Path) -> Outcome {
        match self.who {
            Contestant::Store => {
                let store = self.store.as_ref().ok_or("the store is not open")?;
                let parent = if number > 1 { Some(image_id(number - 1)?) } else { None };
                images::ingest(store, &image_id(number)?, parent, flat)
            }
            Contestant::Zstd => {
                let out = self.folder.join(format!("{number}.zst"));
                run(Command::new("zstd").args(["-1", "-T0", "-q"]).arg(flat).arg("-o").arg(out))
            }
            Contestant::Restic => run(self.restic().args(["backup", "--quiet", "--host", "bench"]).arg(flat)),
            Contestant::Borg => {
                let mut archive = self.repository().into_os_string();
                archive.push(format!("::g{number}"));
                run(self.borg().args(["create", "--compression", "zstd,1"]).arg(archive).arg(flat))
            }
        }
    }

    fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    /// restic, with its repository and nothing in the user's folders.
    fn restic(&self) -> Command {
        let mut command = Command::new("restic");
        command.arg("--no-cache").env("RESTIC_REPOSITORY", self.repository()).env("RESTIC_PASSWORD", "bench");
        command
    }

    /// borg, with nothing in the user's folders.
    fn borg(&self) -> Command {
        let mut command = Command::new("borg");
        command.env("BORG_BASE_DIR", self.folder.join("home"));
        command.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        command
    }
}

/// The id of a generation in vmrewind's store.
pub(super) fn image_id(number: u32) -> Outcome<ImageId> {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    Ok(ImageId::from_bytes(bytes))
}

/// Fails where a program is missing.
pub(super) fn check_programs() -> Outcome {
    for program in ["zstd", "restic", "borg"] {
        let asked = Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.map_err(context(|| format!("cannot run {program}: `./x bench store` installs it")))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Outcome {
    let program = command.get_program().to_string_lossy().into_owned();
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    let shown = format!("{program} {}", words.join(" "));
    let output =
        command.stdin(Stdio::null()).output().map_err(context(|| format!("cannot run {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("`{shown}` ended with {}: {said}", output.status).into())
}
