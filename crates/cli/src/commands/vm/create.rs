//! `vmrewind vm create`: takes over a QEMU command line, or writes one.

use std::path::PathBuf;

use clap::Args;
use vmrewind_engine::{Configuration, NewMachine, VmCreate};

use crate::command_error::CommandError;
use crate::output::human::count;
use crate::quantity::parse_size;
use crate::session::{Session, working_dir};

/// Arguments of `vm create`.
#[derive(Debug, Args)]
#[command(
    override_usage = "vmrewind vm create NAME [--trust-backing] -- qemu-system-x86_64 ...\n       \
                      vmrewind vm create NAME --disk FILE [--disk FILE]... [--memory SIZE] [--cpus N] [OPTIONS]",
    after_help = "\
A QEMU command line is kept word for word. The disk images become base images: nothing writes them \
any more, the VM writes to delta files.

In a QEMU command line {name}, {run} and {port:N} stand for the VM's name, its folder for sockets and \
logs, and port N (or a free one where N is taken); they are replaced at each start.

Examples:
  vmrewind vm create web -- qemu-system-x86_64 -M q35 -m 2G -drive file=web.qcow2,if=virtio
  vmrewind vm create web --disk web.qcow2 --memory 2G --cpus 2 --uefi
  vmrewind vm create db --disk system.qcow2 --disk data.raw --net bridge=br0 --vnc 127.0.0.1:1"
)]
pub(crate) struct CreateArguments {
    /// Name of the VM: letters, digits, '.', '_' and '-'
    #[arg(value_name = "NAME")]
    name: String,
    /// A disk image; can be given several times
    #[arg(long = "disk", value_name = "FILE", required_unless_present = "command_line")]
    disks: Vec<PathBuf>,
    /// Memory, with its unit: 512M, 2G, 2GiB
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = parse_size)]
    memory: u64,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4096))]
    cpus: u32,
    /// Start by UEFI in place of BIOS
    #[arg(long)]
    uefi: bool,
    /// Network: user, none or bridge=NAME
    #[arg(long = "net", value_name = "NETWORK", default_value = "user")]
    network: String,
    /// Show the screen by VNC at this address, as 127.0.0.1:1
    #[arg(long, value_name = "ADDRESS", conflicts_with = "display")]
    vnc: Option<String>,
    /// Show the screen in another way of QEMU's, as gtk [default: not at all]
    #[arg(long, value_name = "KIND")]
    display: Option<String>,
    /// Accelerator [default: kvm where it works, else tcg]
    #[arg(long, value_name = "KIND", value_parser = ["kvm", "tcg"])]
    accel: Option<String>,
    /// Accept images that name other files as their backing or data file
    #[arg(long)]
    trust_backing: bool,
    /// The QEMU program and its options
    #[arg(
        last = true,
        value_name = "QEMU COMMAND LINE",
        conflicts_with_all = ["disks", "memory", "cpus", "uefi", "network", "vnc", "display", "accel"]
    )]
    command_line: Vec<String>,
}

/// Puts the VM under management.
///
/// # Errors
/// As the engine's `vm_create`.
pub(crate) fn run(session: &Session, arguments: CreateArguments) -> Result<(), CommandError> {
    let name = arguments.name.parse()?;
    let trust_backing = arguments.trust_backing;
    let request =
        VmCreate { name, trust_backing, working_dir: working_dir()?, configuration: arguments.into() };
    let view = session.operation_on_new_root()?.vm_create(&request)?;
    session.output.result(&view, || {
        let machine = view.machine.as_deref().unwrap_or("default machine");
        let disks = count(view.disks.len(), "disk");
        let name = &view.name;
        format!("{name}: created, {machine}, {disks}\nstart it with `vmrewind vm start {name}`")
    })?;
    Ok(())
}

impl From<CreateArguments> for Configuration {
    fn from(arguments: CreateArguments) -> Self {
        if !arguments.command_line.is_empty() {
            return Self::CommandLine(arguments.command_line);
        }
        Self::New(NewMachine {
            disks: arguments.disks,
            memory_bytes: arguments.memory,
            cpus: arguments.cpus,
            uefi: arguments.uefi,
            network: arguments.network,
            vnc: arguments.vnc,
            display: arguments.display,
            accel: arguments.accel,
        })
    }
}
