//! Real Linux guests made from distribution packages, with a workload that proves its own state.
//!
//! [`GuestImage`] is a kernel and an initramfs, built on first use and cached outside the source tree;
//! [`command_line`] is the QEMU command line that boots it. The kernel comes from a package that `./x setup` unpacks,
//! the first process from busybox-static, and the workload from `guest/` beside this crate's sources. The QEMU guest
//! agent, from the distribution's package too, is in the initramfs of those guests that ask for it.

mod agent;
mod cache;
mod initramfs;
mod kernel;
mod options;

use std::path::PathBuf;

pub use cache::cache_folder;
pub use options::{Agent, DiskArg, DiskKind, GuestOptions, Mix, command_line};

use crate::error::Result;

/// A kernel and an initramfs that QEMU can boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestImage {
    /// For `-kernel`.
    pub kernel: PathBuf,
    /// For `-initrd`.
    pub initrd: PathBuf,
}

impl GuestImage {
    /// Finds the image in the cache, or builds it there (about 3 s).
    ///
    /// Safe to call from many processes at once: one builds, the others wait. Fails with
    /// [`Error::Missing`](crate::Error::Missing) where `./x setup` has not run.
    pub fn get() -> Result<Self> {
        let kernel = kernel::Kernel::find(&cache_folder())?;
        let folder =
            cache::built(&initramfs::inputs(&kernel), |folder| initramfs::build(&kernel, &[], folder))?;
        Ok(Self { kernel: kernel.image, initrd: folder.join(initramfs::FILE_NAME) })
    }

    /// The same with the QEMU guest agent in it, which serves the port `org.qemu.guest_agent.0` where there is one.
    pub fn with_agent() -> Result<Self> {
        let kernel = kernel::Kernel::find(&cache_folder())?;
        let agent = agent::files(&cache_folder())?;
        let inputs = (initramfs::inputs(&kernel), agent::inputs(&agent));
        let folder = cache::built(&inputs, |folder| initramfs::build(&kernel, &agent, folder))?;
        Ok(Self { kernel: kernel.image, initrd: folder.join(initramfs::FILE_NAME) })
    }
}
