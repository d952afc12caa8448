//! The command line vmrewind writes itself, for `vm create NAME --disk FILE --memory 2G --cpus 2`.
//!
//! A machine of the wanted architecture with virtio devices only, nothing that ties it to host hardware, so that every restore
//! point works live: virtio disks that pass discards down, a random number source, `vmgenid` where QEMU has it
//! (`guid=auto`: a new one at each start, so that a guest brought back or cloned knows it), a serial console and
//! a guest agent channel on sockets in the VM's own folder. `{name}`, `{run}` and `{port:2222}` are left for
//! each start, so that clones get their own.

use super::keyvalues::escape_commas;
use crate::arch::Arch;

/// What a VM is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineRequest {
    /// The architecture.
    pub arch: &'static Arch,
    /// Disks, in the order the guest sees them; ids `disk0`, `disk1`, ...
    pub disks: Vec<RequestedDisk>,
    /// Memory of the guest.
    pub memory_bytes: u64,
    /// CPUs of the guest.
    pub cpus: u32,
    /// What runs the CPUs.
    pub accelerator: Accelerator,
    /// UEFI firmware; `None` for the BIOS, where the architecture has one.
    pub uefi: Option<UefiFiles>,
    /// The network.
    pub network: Network,
    /// Hardware address of the network device, as `52:54:00:12:34:56`.
    pub mac: String,
    /// The display.
    pub display: Display,
    /// UUID of the machine (SMBIOS).
    pub uuid: String,
}

/// One disk of a [`MachineRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedDisk {
    /// File name as QEMU takes it.
    pub file: String,
    /// Its format; QEMU probes where it is not given.
    pub format: Option<String>,
}

/// UEFI firmware images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UefiFiles {
    /// The code, opened read-only.
    pub code: String,
    /// The VM's own copy of the variables: a disk like any other, with id `uefi-vars`.
    pub vars: String,
}

/// What runs the guest's CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The host's CPU.
    Kvm,
    /// Translation.
    Tcg,
}

/// How the guest reaches the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Through QEMU's user network; `{port:2222}` of the host leads to the guest's ssh port.
    User,
    /// On a bridge of the host.
    Bridge(String),
    /// Not at all.
    None,
}

/// Where the guest's screen is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Display {
    /// Nowhere: no graphics device.
    None,
    /// A VNC server at this address, as `127.0.0.1:1`.
    Vnc(String),
    /// One of QEMU's displays, as `gtk` or `sdl,gl=on`.
    Kind(String),
}

/// Writes the command line of a new VM.
#[must_use]
pub fn write_command_line(request: &MachineRequest) -> Vec<String> {
    let mut words = Words(vec![request.arch.program.to_owned()]);
    machine(&mut words, request);
    if let Some(uefi) = &request.uefi {
        let code = escape_commas(&uefi.code);
        let vars = escape_commas(&uefi.vars);
        words.add("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"));
        words.add("-drive", format!("if=pflash,unit=1,format=raw,id=uefi-vars,file={vars}"));
    }
    for (index, disk) in request.disks.iter().enumerate() {
        disk_words(&mut words, index, disk);
    }
    network(&mut words, request);
    display(&mut words, request);
    channels(&mut words);
    words.0
}

struct Words(Vec<String>);

impl Words {
    fn flag(&mut self, option: &str) {
        self.0.push(option.to_owned());
    }

    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.extend([option.to_owned(), value.into()]);
    }
}

fn machine(words: &mut Words, request: &MachineRequest) {
    let (accelerator, cpu) = match request.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        Accelerator::Tcg => ("tcg", request.arch.emulated_cpu),
    };
    words.add("-name", "guest={name}");
    words.add("-uuid", request.uuid.as_str());
    words.flag("-nodefaults");
    words.flag("-no-user-config");
    words.add("-machine", request.arch.machine);
    words.add("-accel", accelerator);
    words.add("-cpu", cpu);
    words.add("-smp", request.cpus.to_string());
    words.add("-m", memory_size(request.memory_bytes));
    words.add("-rtc", "base=utc");
    if request.arch.has_generation_id {
        words.add("-device", "vmgenid,guid=auto,id=vmgenid");
    }
    words.add("-object", "rng-random,id=rng,filename=/dev/urandom");
    words.add("-device", "virtio-rng-pci,rng=rng");
}

/// A size as QEMU takes it, exact to the byte.
fn memory_size(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes.is_multiple_of(MIB) { format!("size={}M", bytes / MIB) } else { format!("size={bytes}B") }
}

fn disk_words(words: &mut Words, index: usize, disk: &RequestedDisk) {
    let format =
        disk.format.iter().map(|format| format!(",format={}", escape_commas(format))).collect::<String>();
    let file = escape_commas(&disk.file);
    words.add(
        "-drive",
        format!("if=none,id=disk{index},file={file}{format},discard=unmap,detect-zeroes=unmap"),
    );
    // Boots from the first disk that can be booted, in their order.
    words.add("-device", format!("virtio-blk-pci,id=blk{index},drive=disk{index},bootindex={}", index + 1));
}

fn network(words: &mut Words, request: &MachineRequest) {
    let backend = match &request.network {
        Network::User => "user,id=net0,hostfwd=tcp:127.0.0.1:{port:2222}-:22".to_owned(),
        Network::Bridge(bridge) => format!("bridge,id=net0,br={}", escape_commas(bridge)),
        Network::None => return,
    };
    words.add("-netdev", backend);
    words.add("-device", format!("virtio-net-pci,id=nic0,netdev=net0,mac={}", request.mac));
}

fn display(words: &mut Words, request: &MachineRequest) {
    match &request.display {
        Display::None => return words.add("-display", "none"),
        Display::Vnc(address) => words.add("-display", format!("vnc={address}")),
        Display::Kind(kind) => words.add("-display", kind.as_str()),
    }
    words.add("-device", request.arch.graphics);
    // A tablet gives the pointer's place and not only its moves, which viewers need.
    words.add("-device", "qemu-xhci,id=usb");
    words.add("-device", "usb-tablet,bus=usb.0");
    if request.arch.needs_keyboard {
        words.add("-device", "usb-kbd,bus=usb.0");
    }
}

fn channels(words: &mut Words) {
    words.add(
        "-chardev",
        "socket,id=console,path={run}/console.sock,server=on,wait=off,logfile={run}/console.log,logappend=on",
    );
    words.add("-serial", "chardev:console");
    words.add("-device", "virtio-serial-pci,id=channels");
    words.add("-chardev", "socket,id=agent,path={run}/agent.sock,server=on,wait=off");
    words.add("-device", "virtserialport,bus=channels.0,chardev=agent,name=org.qemu.guest_agent.0");
}

#[cfg(test)]
mod tests {
    use super::super::CommandLine;
    use super::*;
    use crate::arch::ARCHES;

    fn request() -> MachineRequest {
        MachineRequest {
            arch: Arch::named("x86_64").unwrap(),
            disks: vec![RequestedDisk { file: "/d/a,b.img".to_owned(), format: Some("raw".to_owned()) }],
            memory_bytes: 2 << 30,
            cpus: 2,
            accelerator: Accelerator::Tcg,
            uefi: Some(UefiFiles { code: "/fw/code.fd".to_owned(), vars: "/vm/vars.fd".to_owned() }),
            network: Network::User,
            mac: "52:54:00:00:00:01".to_owned(),
            display: Display::None,
            uuid: "00000000-0000-4000-8000-000000000001".to_owned(),
        }
    }

    /// Guards that vmrewind understands and accepts what it writes itself.
    #[test]
    fn what_is_written_is_supported_and_read_back() {
        for arch in &ARCHES {
            is_supported_and_read_back(arch);
        }
    }

    fn is_supported_and_read_back(arch: &'static Arch) {
        let line = CommandLine::parse(&write_command_line(&MachineRequest { arch, ..request() })).unwrap();
        assert_eq!(line.check_supported(), Ok(()));
        assert_eq!(line.memory_bytes(), Ok(2 << 30));
        assert_eq!(line.cpus(), Ok(2));
        assert_eq!(line.machine_type().as_deref(), Some(arch.machine));
        assert_eq!(line.console_socket().as_deref(), Some("{run}/console.sock"));
        assert_eq!(line.guest_agent().unwrap().socket, "{run}/agent.sock");
        assert_eq!(line.ports_wanted(), [2222]);
        let names: Vec<_> = line.disks().unwrap().into_iter().map(|disk| disk.name).collect();
        assert_eq!(names, ["uefi-vars", "disk0"]);
        assert_eq!(line.read_only_media().unwrap().len(), 1);
    }

    /// Guards the machines of both architectures, word by word: what is written once is what a VM has for all its snapshots.
    /// QEMU 10.0.2 of each takes its line as it stands.
    #[test]
    fn each_architecture_has_its_machine() {
        let start =
            "-name guest={name} -uuid 00000000-0000-4000-8000-000000000001 -nodefaults -no-user-config";
        let middle = "-accel tcg -cpu max -smp 2 -m size=2048M -rtc base=utc";
        let end = "-object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng \
                   -drive if=pflash,unit=0,format=raw,readonly=on,file=/fw/code.fd \
                   -drive if=pflash,unit=1,format=raw,id=uefi-vars,file=/vm/vars.fd \
                   -drive if=none,id=disk0,file=/d/a,,b.img,format=raw,discard=unmap,detect-zeroes=unmap \
                   -device virtio-blk-pci,id=blk0,drive=disk0,bootindex=1 \
                   -netdev user,id=net0,hostfwd=tcp:127.0.0.1:{port:2222}-:22 \
                   -device virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01";
        let screen = "-display vnc=127.0.0.1:1";
        let pointer = "-device qemu-xhci,id=usb -device usb-tablet,bus=usb.0";
        let channels = "-chardev socket,id=console,path={run}/console.sock,server=on,wait=off,\
                        logfile={run}/console.log,logappend=on -serial chardev:console \
                        -device virtio-serial-pci,id=channels \
                        -chardev socket,id=agent,path={run}/agent.sock,server=on,wait=off \
                        -device virtserialport,bus=channels.0,chardev=agent,name=org.qemu.guest_agent.0";
        let written = |name: &str| {
            let display = Display::Vnc("127.0.0.1:1".to_owned());
            let request = MachineRequest { arch: Arch::named(name).unwrap(), display, ..request() };
            write_command_line(&request).join(" ")
        };
        let x86_64 = format!(
            "qemu-system-x86_64 {start} -machine q35 {middle} -device vmgenid,guid=auto,id=vmgenid {end} \
             {screen} -device VGA {pointer} {channels}"
        );
        assert_eq!(written("x86_64"), x86_64);
        let aarch64 = format!(
            "qemu-system-aarch64 {start} -machine virt {middle} {end} \
             {screen} -device virtio-gpu-pci {pointer} -device usb-kbd,bus=usb.0 {channels}"
        );
        assert_eq!(written("aarch64"), aarch64);
    }

    /// Guards that the choices reach the command line.
    #[test]
    fn choices_are_written() {
        let other = MachineRequest {
            accelerator: Accelerator::Kvm,
            uefi: None,
            network: Network::Bridge("br0".to_owned()),
            display: Display::Vnc("127.0.0.1:1".to_owned()),
            ..request()
        };
        let text = write_command_line(&other).join(" ");
        for wanted in
            ["-accel kvm -cpu host", "bridge,id=net0,br=br0", "-display vnc=127.0.0.1:1 -device VGA"]
        {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        assert!(!text.contains("pflash") && !text.contains("hostfwd"), "{text}");
        let alone = MachineRequest { network: Network::None, ..request() };
        assert!(!write_command_line(&alone).join(" ").contains("net"));
    }
}
