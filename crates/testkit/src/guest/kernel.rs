//! The unpacked kernel package: its image, and its modules in the order in which they can be loaded.
//!
//! Packages carry no `modules.dep` (it is made when they are installed), so the order is worked out from the
//! `depends=` entry that each module carries itself.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::run;
use crate::error::{Error, Result};

/// What a test guest may need; what the kernel has built in or does not have is left out.
const WANTED: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "virtio_console",
    "virtio_rng",
    "virtio_net",
    "sd_mod",
    "ata_piix",
    "ahci",
    "nvme",
    "ext4",
    "efivarfs",
    "evdev",
    "button",
    "vmgenid",
];

/// A kernel package as `./x setup` unpacks it.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The kernel image.
    pub(super) image: PathBuf,
    modules: HashMap<String, PathBuf>,
}

/// A module ready for `insmod`.
pub(super) struct Module {
    /// Its name, as dependencies spell it.
    pub(super) name: String,
    /// The ELF object, uncompressed.
    pub(super) content: Vec<u8>,
}

impl Kernel {
    /// Finds the kernel under `cache`/kernel.
    pub(super) fn find(cache: &Path) -> Result<Self> {
        let searched = cache.join("kernel");
        let missing = |what: &str| Error::Missing { what: what.to_owned(), searched: searched.clone() };
        // The link is resolved once: setup may put a newer kernel there at any time.
        let root = searched.canonicalize().map_err(|_| missing("the guest kernel"))?;
        let image = newest_image(&root.join("boot")).ok_or_else(|| missing("the guest kernel's image"))?;
        let mut modules = HashMap::new();
        for folder in [root.join("lib/modules"), root.join("usr/lib/modules")] {
            collect_modules(&folder, &mut modules);
        }
        if modules.is_empty() {
            return Err(missing("the folder of the guest kernel's modules"));
        }
        Ok(Self { image, modules })
    }

    /// Reads the wanted modules and all that they depend on, dependencies first.
    pub(super) fn modules_in_order(&self) -> Result<Vec<Module>> {
        let mut ordered = Vec::new();
        for name in WANTED {
            self.add_with_dependencies(name, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add_with_dependencies(&self, name: &str, ordered: &mut Vec<Module>) -> Result<()> {
        let Some(path) = self.modules.get(name) else { return Ok(()) };
        if ordered.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let content = read_module(path)?;
        for dependency in dependencies(&content) {
            self.add_with_dependencies(&dependency, ordered)?;
        }
        let content = unsigned(content);
        ordered.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

fn newest_image(boot: &Path) -> Option<PathBuf> {
    let images = fs::read_dir(boot).ok()?.flatten().map(|entry| entry.path());
    images
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
        .max()
}

/// Collects modules by name; a missing folder has none.
fn collect_modules(folder: &Path, modules: &mut HashMap<String, PathBuf>) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            collect_modules(&path, modules);
        } else if let Some((name, _compression)) = file_name.split_once(".ko") {
            modules.insert(name.replace('-', "_"), path);
        }
    }
}

/// Reads a module; Debian 13 compresses them with xz, Ubuntu with zstd.
fn read_module(path: &Path) -> Result<Vec<u8>> {
    let decompress = |program| run(program, [OsStr::new("-dcq"), path.as_os_str()]);
    match path.extension().and_then(OsStr::to_str) {
        Some("xz") => decompress("xz"),
        Some("zst") => decompress("zstd"),
        _ => fs::read(path).map_err(Error::io("read", path)),
    }
}

/// A module without the signature at its end, which takes longer to verify under emulation than all else about it.
///
/// The end is, as in the kernel's `include/linux/module_signature.h`: the signature, 8 bytes of kinds and lengths, be32
/// length of the signature, and the marker.
fn unsigned(mut content: Vec<u8>) -> Vec<u8> {
    const MARKER: &[u8] = b"~Module signature appended~\n";
    const KINDS: usize = 8;
    let length = content.strip_suffix(MARKER).and_then(|rest| {
        let (rest, length) = rest.split_last_chunk()?;
        rest.len().checked_sub(KINDS + usize::try_from(u32::from_be_bytes(*length)).ok()?)
    });
    content.truncate(length.unwrap_or(content.len()));
    content
}

/// The `depends=` entry of a module's `.modinfo`: NUL-terminated text, names separated by commas.
fn dependencies(content: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = content.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let names = content[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(names).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(depends: &str) -> Vec<u8> {
        format!("\x7fELF..\0license=GPL\0depends={depends}\0name=x\0").into_bytes()
    }

    /// Guards the order: loaded before what it depends on, virtio fails without a word and there is no /dev/vda.
    #[test]
    fn dependencies_come_first_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("kernel/lib/modules/6.1/kernel");
        fs::create_dir_all(&modules).unwrap();
        fs::create_dir_all(folder.path().join("kernel/boot")).unwrap();
        fs::write(folder.path().join("kernel/boot/vmlinuz-6.1"), "").unwrap();
        for (file, depends) in [
            ("virtio_blk.ko", "virtio,virtio_ring"),
            ("virtio-pci.ko", "virtio_ring,virtio"),
            ("virtio_ring.ko", ""),
            ("virtio.ko", "virtio_ring"),
            ("unwanted.ko", ""),
        ] {
            fs::write(modules.join(file), module(depends)).unwrap();
        }
        let kernel = Kernel::find(folder.path()).unwrap();
        let order: Vec<_> =
            kernel.modules_in_order().unwrap().into_iter().map(|module| module.name).collect();
        assert_eq!(order, ["virtio_ring", "virtio", "virtio_pci", "virtio_blk"]);
    }

    /// Guards modules against being cut where there is no signature, or where its length makes no sense.
    #[test]
    fn only_a_signature_is_cut_off() {
        let signed = |length: &[u8; 4]| {
            [b"ELF..", &b"12345678kindsize"[..], length, b"~Module signature appended~\n"].concat()
        };
        assert_eq!(unsigned(signed(&[0, 0, 0, 8])), b"ELF..");
        assert_eq!(unsigned(b"ELF..".to_vec()), b"ELF..");
        assert_eq!(unsigned(signed(&[1, 0, 0, 0])), signed(&[1, 0, 0, 0]));
    }

    /// Guards the message a person gets who runs the tests before the set-up.
    #[test]
    fn without_a_kernel_the_error_names_the_set_up() {
        let folder = tempfile::tempdir().unwrap();
        let message = Kernel::find(folder.path()).unwrap_err().to_string();
        assert!(message.contains("./x setup"), "{message}");
    }
}
