//! Puts together what a VM is started with: its files, the memory file of a clone.

use std::collections::BTreeMap;

use vmrewind_qemu::cmdline::CommandLine;

use crate::engine::Operation;
use crate::error::Result;
use crate::flat::Flat;
use crate::ids::LayerId;
use crate::layers::below::local_files_below;
use crate::record::vm::{Hardware, VmRecord};
use crate::root::VmFolder;
use crate::vm::spawn::{DiskFiles, Launch, Purpose, Started};

/// Each disk's layers, from the one to write down to the last above the base.
pub(super) type Chains = BTreeMap<String, Vec<LayerId>>;

/// What is to be started.
pub(super) struct Start<'a> {
    /// The VM's folder.
    pub(super) folder: &'a VmFolder,
    /// The VM.
    pub(super) record: &'a VmRecord,
    /// The hardware: the VM's, or that of a snapshot.
    pub(super) hardware: &'a Hardware,
    /// Its disks.
    pub(super) chains: &'a Chains,
    /// The file that its memory is on, where it is a clone that shares it.
    pub(super) flat: Option<&'a Flat>,
    /// What for.
    pub(super) purpose: Purpose,
    /// The ports of the QEMU that runs beside it, whose place it is to take.
    pub(super) beside: Option<BTreeMap<u16, u16>>,
}

impl Operation {
    /// Starts a VM and waits until it answers.
    ///
    /// # Errors
    /// `Failed` where it does not start; QEMU's own words are the cause. Nothing runs then.
    pub(super) fn launch_vm(&self, mut start: Start<'_>) -> Result<Started> {
        let edit = |line: &mut CommandLine| start.flat.map_or(Ok(()), |flat| flat.apply(line));
        self.ctx.machines().start(Launch {
            cancel: &self.ctx.cancel,
            reached: &|step| self.ctx.reached(step),
            folder: start.folder,
            record: start.record,
            hardware: start.hardware,
            disks: &disk_files(&start),
            edit: &edit,
            held: start.flat.map(Flat::lock_for_child).transpose()?,
            purpose: start.purpose,
            beside: start.beside.take(),
        })
    }
}

fn disk_files(start: &Start<'_>) -> BTreeMap<String, DiskFiles> {
    let files = |(name, chain): (&String, &Vec<LayerId>)| {
        let top = start.folder.layer(name, chain.first()?);
        let base = start.record.disk(name).map(|disk| &disk.base);
        let below = base.map_or(0, |base| local_files_below(start.folder, base));
        Some((name.clone(), DiskFiles { top, depth: chain.len() + below }))
    };
    start.chains.iter().filter_map(files).collect()
}
