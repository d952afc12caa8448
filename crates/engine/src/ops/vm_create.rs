//! Takes a QEMU command line under management, or writes one.
//!
//! Plan: everything is looked at first (QEMU's version, what can't be supported, every disk). Apply: the VM's folder
//! is made under a name that is no VM's, with a delta on each base, and appears whole by one rename. A crash before
//! leaves a `.new-` folder, which the next command removes; a crash after leaves the VM.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use vmrewind_qemu::arch::{Arch, Firmware};
use vmrewind_qemu::cmdline::{
    Accelerator, BaseLocation, CommandLine, DiskSpec, Display, MachineRequest, Network, RequestedDisk,
    UefiFiles, write_command_line,
};

use crate::engine::Operation;
use crate::error::{Context, Error, Result};
use crate::hint::Hint;
use crate::ids::{LayerId, VmId, VmName};
use crate::layers::base::{self, BaseRequest};
use crate::layers::overlay;
use crate::record::RECORD_VERSION;
use crate::record::journal::Overlay;
use crate::record::vm::{BaseRecord, DiskRecord, Hardware, LayerRecord, MediumRecord, VmRecord};
use crate::root::VmFolder;
use crate::root::file::io_error;
use crate::view::VmView;
use crate::vm::program::{self, Program};
use crate::vm::run_folder;
use crate::vm_lock::VmLock;

/// A request to put a VM under management.
#[derive(Debug, Clone)]
pub struct VmCreate {
    /// The VM's name.
    pub name: VmName,
    /// Its hardware.
    pub configuration: Configuration,
    /// Whether the user vouches for other files that disk images name.
    pub trust_backing: bool,
    /// The folder in which relative paths mean something.
    pub working_dir: PathBuf,
}

/// Where the hardware configuration comes from.
#[derive(Debug, Clone)]
pub enum Configuration {
    /// A QEMU command line as it stands.
    CommandLine(Vec<String>),
    /// To be written.
    New(NewMachine),
}

/// What is wanted of a machine whose command line vmrewind writes.
#[derive(Debug, Clone)]
pub struct NewMachine {
    /// Images, in order.
    pub disks: Vec<PathBuf>,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Processors.
    pub cpus: u32,
    /// Whether the machine starts by UEFI.
    pub uefi: bool,
    /// `user`, `none` or `bridge=NAME`.
    pub network: String,
    /// The address of a VNC display.
    pub vnc: Option<String>,
    /// Another kind of display.
    pub display: Option<String>,
    /// `kvm` or `tcg`; KVM where it works, if not given.
    pub accel: Option<String>,
}

impl Operation {
    /// Puts a VM under management; it is not started.
    ///
    /// # Errors
    /// `Refused` for a name that is taken, an option that can't be supported, an image that is in use or names other
    /// files; `Failed` for one that is missing.
    pub fn vm_create(&self, request: &VmCreate) -> Result<VmView> {
        self.check_name_free(&request.name)?;
        let id = VmId::random(&self.ctx.host);
        let draft = self.root.draft(&id);
        self.root.files().make_dir(draft.path())?;
        // Held until the VM appears: a draft whose lock is free belongs to a command that died.
        let _lock = VmLock::try_take(&draft.lock())?;
        let made = self.make(request, &id, &draft).and_then(|()| self.appear(&request.name, &draft));
        if let Err(error) = made {
            let _ = self.root.files().remove_tree(draft.path());
            return Err(error);
        }
        // Made now so that its path is known before the first start, which makes it anew and reports what is wrong.
        let _ = run_folder::prepare(&self.root.vm(&request.name), &id);
        Ok(self.shown_after(&request.name))
    }

    pub(crate) fn check_name_free(&self, name: &VmName) -> Result<()> {
        let folder = self.root.vm(name);
        if fs::symlink_metadata(folder.path()).is_err() {
            return Ok(());
        }
        let taken = if folder.is_a_vm() {
            format!("there is a VM '{name}' already")
        } else {
            format!("'{}' is no VM, and in the way of one", folder.path().display())
        };
        Err(Error::refused(taken).with_hint(Hint::VmNameTaken))
    }

    /// Fills the draft folder.
    fn make(&self, request: &VmCreate, id: &VmId, draft: &VmFolder) -> Result<()> {
        let argv = match &request.configuration {
            Configuration::CommandLine(argv) => argv.clone(),
            Configuration::New(machine) => self.write_machine(request, machine, draft)?,
        };
        let hardware = resolve(&argv, &request.working_dir)?;
        let line = CommandLine::parse(&hardware.command_line)
            .context(|| "cannot read the QEMU command line".into())?;
        let disks = self.look_at_disks(&line, request, draft)?;
        draft.files().make_dir(&draft.snapshots())?;
        let media = self.look_at_media(&line, request)?;
        let mut records = Vec::new();
        for (spec, base) in disks {
            records.push(self.first_delta(draft, &spec.name, base)?);
        }
        VmRecord {
            version: RECORD_VERSION,
            id: id.clone(),
            name: request.name.clone(),
            created: self.ctx.now(),
            hardware,
            disks: records,
            media,
            current: None,
            origin: None,
            first_start: None,
        }
        .save(draft)?;
        draft.files().sync_dir(draft.path())
    }

    /// Looks at the images that the VM can only read: they can name other files just as well.
    fn look_at_media(&self, line: &CommandLine, request: &VmCreate) -> Result<Vec<MediumRecord>> {
        let media =
            line.read_only_media().context(|| "cannot find the media in the QEMU command line".into())?;
        let record = |medium: DiskSpec| {
            let location = location_of(&medium, None, &request.working_dir)?;
            let image = base::inspect(BaseRequest {
                disk: &medium.name,
                location: &location,
                format: medium.base.format.as_deref(),
                trust_backing: request.trust_backing,
            })?;
            Ok(MediumRecord { name: medium.name, image })
        };
        media.into_iter().map(record).collect()
    }

    /// Looks at every writable disk's image.
    fn look_at_disks(
        &self,
        line: &CommandLine,
        request: &VmCreate,
        draft: &VmFolder,
    ) -> Result<Vec<(DiskSpec, BaseRecord)>> {
        let disks = line.disks().context(|| "cannot find the disks in the QEMU command line".into())?;
        let mut seen: BTreeMap<String, String> = BTreeMap::new();
        let mut found = Vec::new();
        for disk in disks {
            // UEFI variables of our own: they are in the draft folder until it gets the VM's name.
            let own = self.root.vm(&request.name).path().to_owned();
            let drafted = file_of(&disk)
                .and_then(|file| file.strip_prefix(&own).ok().map(|rest| draft.path().join(rest)));
            let location = location_of(&disk, drafted.as_deref(), &request.working_dir)?;
            if let Some(other) = seen.insert(location.clone(), disk.name.clone()) {
                return Err(Error::refused(format!(
                    "disks '{other}' and '{}' are the same image '{location}'",
                    disk.name
                ))
                .with_hint(Hint::ImageForEachDisk));
            }
            let mut base = base::inspect(BaseRequest {
                disk: &disk.name,
                location: &location,
                format: disk.base.format.as_deref(),
                trust_backing: request.trust_backing,
            })?;
            if drafted.is_some() {
                base.location = file_of(&disk).map(|file| file.display().to_string()).unwrap_or(location);
            }
            self.check_cancel("looking at the disks")?;
            found.push((disk, base));
        }
        Ok(found)
    }

    fn first_delta(&self, draft: &VmFolder, name: &str, base: BaseRecord) -> Result<DiskRecord> {
        let layer = LayerId::random(&self.ctx.host);
        let record = DiskRecord {
            name: name.to_owned(),
            base,
            layers: vec![LayerRecord { id: layer.clone(), parent: None, frozen: None }],
            active: layer.clone(),
        };
        overlay::make(draft, &record, &Overlay { disk: name.to_owned(), layer, parent: None })?;
        Ok(record)
    }

    /// Writes the command line of a new machine; its UEFI variables are copied into the VM's folder.
    fn write_machine(
        &self,
        request: &VmCreate,
        machine: &NewMachine,
        draft: &VmFolder,
    ) -> Result<Vec<String>> {
        let arch = Arch::host();
        // Without a BIOS it is the one way to start a disk, asked for or not.
        let uefi = if machine.uefi || !arch.has_bios {
            Some(self.copy_firmware_variables(arch, &request.name, draft)?)
        } else {
            None
        };
        let disk = |file: &PathBuf| {
            let file = std::path::absolute(request.working_dir.join(file)).ok()?;
            Some(RequestedDisk { file: file.to_str()?.to_owned(), format: None })
        };
        let disks: Option<Vec<RequestedDisk>> = machine.disks.iter().map(disk).collect();
        let mut disks = disks.ok_or_else(|| Error::usage("a disk's path is not UTF-8"))?;
        for disk in &mut disks {
            let inspected = base::inspect(BaseRequest {
                disk: &disk.file,
                location: &disk.file,
                format: None,
                trust_backing: request.trust_backing,
            })?;
            disk.format = Some(inspected.format);
        }
        Ok(write_command_line(&MachineRequest {
            arch,
            disks,
            memory_bytes: machine.memory_bytes,
            cpus: machine.cpus,
            accelerator: choose_accelerator(arch, machine.accel.as_deref())?,
            uefi,
            network: parse_network(&machine.network)?,
            mac: self.ctx.host.random_mac(),
            display: match (&machine.vnc, &machine.display) {
                (Some(address), _) => Display::Vnc(address.clone()),
                (None, Some(kind)) => Display::Kind(kind.clone()),
                (None, None) => Display::None,
            },
            uuid: self.ctx.host.random_uuid(),
        }))
    }

    fn copy_firmware_variables(&self, arch: &Arch, name: &VmName, draft: &VmFolder) -> Result<UefiFiles> {
        let is_there = |path: &str| Path::new(path).exists();
        let found = arch.firmware.iter().find(|files| is_there(files.code) && is_there(files.vars));
        let Firmware { code, vars: template } = found.ok_or_else(|| {
            Error::failed("no UEFI firmware is installed")
                .with_hint(Hint::InstallPackage { package: arch.firmware_package.to_owned() })
        })?;
        let copy = draft.path().join("uefi-vars.fd");
        let template =
            fs::read(template).map_err(|error| io_error(&format!("cannot read '{template}'"), error))?;
        draft.files().write_new(&copy, &template)?;
        let last = self.root.vm(name).path().join("uefi-vars.fd");
        let vars = last.to_str().ok_or_else(|| Error::usage("the root's path is not UTF-8"))?;
        Ok(UefiFiles { code: (*code).into(), vars: vars.to_owned() })
    }

    /// Lets the VM appear under its name, whole.
    fn appear(&self, name: &VmName, draft: &VmFolder) -> Result<()> {
        self.rename_draft(name, draft)?;
        self.root.files().sync_dir(&self.root.vms())
    }

    /// Gives a draft its VM's name. That lasts once the folder of VMs is synced.
    pub(super) fn rename_draft(&self, name: &VmName, draft: &VmFolder) -> Result<()> {
        let target = self.root.vm(name);
        // A rename onto a VM's folder fails, since that is not empty: two creations can't both win.
        self.root.files().rename(draft.path(), target.path()).map_err(|error| {
            if matches!(
                error.kind(),
                std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::AlreadyExists
            ) {
                Error::refused(format!("there is a VM '{name}' already")).with_hint(Hint::ChooseAnotherName)
            } else {
                io_error(&format!("cannot put VM '{name}' in place"), error)
            }
        })
    }
}

/// Checks the command line and resolves its machine type.
fn resolve(argv: &[String], working_dir: &Path) -> Result<Hardware> {
    let mut line = CommandLine::parse(argv).map_err(|error| {
        Error::refused(format!("cannot take over this QEMU command line: {error}"))
            .with_hint(Hint::GiveCommandLine)
    })?;
    if let Err(refusals) = line.check_supported() {
        return Err(refused(&refusals));
    }
    let Program { version, machines } = program::ask(line.program(), working_dir)?;
    line.resolve_machine_alias(|alias| machines.resolve(alias));
    Ok(Hardware {
        command_line: line.to_argv(),
        working_dir: working_dir.to_string_lossy().into_owned(),
        qemu_version: version,
    })
}

fn refused(refusals: &[vmrewind_qemu::cmdline::Refusal]) -> Error {
    let all: Vec<String> =
        refusals.iter().map(|refusal| format!("{}: {}", refusal.option, refusal.why)).collect();
    let instead = refusals.iter().map(|refusal| refusal.hint).collect();
    Error::refused(format!("cannot take over this QEMU command line: {}", all.join("; ")))
        .with_hint(Hint::OptionsInstead { instead })
}

/// The disk's image where that is a file.
fn file_of(disk: &DiskSpec) -> Option<&Path> {
    match &disk.base.location {
        BaseLocation::File(path) => Some(Path::new(path)),
        BaseLocation::Json(_) | BaseLocation::Uri(_) => None,
    }
}

/// Where a disk's image is, as a backing file is named.
fn location_of(disk: &DiskSpec, drafted: Option<&Path>, working_dir: &Path) -> Result<String> {
    match &disk.base.location {
        BaseLocation::File(path) => {
            let path = drafted.map_or_else(|| working_dir.join(path), Path::to_owned);
            let absolute = path.canonicalize().map_err(|error| {
                io_error(&format!("cannot use disk '{}': image '{}'", disk.name, path.display()), error)
            })?;
            absolute
                .to_str()
                .map(str::to_owned)
                .ok_or_else(|| Error::usage(format!("the path of disk '{}' is not UTF-8", disk.name)))
        }
        BaseLocation::Json(value) => Ok(format!("json:{value}")),
        BaseLocation::Uri(uri) => Ok(uri.clone()),
    }
}

fn choose_accelerator(arch: &Arch, wanted: Option<&str>) -> Result<Accelerator> {
    match wanted {
        Some("kvm") => Ok(Accelerator::Kvm),
        Some("tcg") => Ok(Accelerator::Tcg),
        None if program::kvm_works(arch.program) => Ok(Accelerator::Kvm),
        None => Ok(Accelerator::Tcg),
        Some(other) => Err(Error::usage(format!("'{}' is not an accelerator", other.escape_debug()))
            .with_hint(Hint::Accelerators)),
    }
}

fn parse_network(text: &str) -> Result<Network> {
    match text {
        "user" => Ok(Network::User),
        "none" => Ok(Network::None),
        _ => {
            match text.strip_prefix("bridge=") {
                Some(bridge) if !bridge.is_empty() => Ok(Network::Bridge(bridge.to_owned())),
                _ => Err(Error::usage(format!("'{}' is not a network", text.escape_debug()))
                    .with_hint(Hint::Networks)),
            }
        }
    }
}
