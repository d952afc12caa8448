//! The set-up of `./x` on machines that this is not: it runs in its dry mode, with a stand-in for every tool it asks
//! about the system, and what it would run is looked at.

#![allow(clippy::unwrap_used)] // Helpers of tests, which clippy does not take for tests outside `mod tests`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const DEBIAN_12: &str = "ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME='Debian 12'\n";
const UBUNTU: &str = "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\nPRETTY_NAME='Ubuntu 24.04'\n";
const SOURCE: &str = "Types: deb\nURIs: http://security.example/d\nSuites: bookworm-security\nComponents: main\n\n\
                      Types: deb deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                      Components: main\nSigned-By: /usr/share/keyrings/some.gpg\n";

/// A machine with nothing but a shell, its basic tools, and cargo.
struct Machine {
    folder: TempDir,
}

impl Machine {
    fn new(os_release: &str) -> Self {
        let machine = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["programs", "cache", "root/bin", "root/etc/apt/sources.list.d"] {
            fs::create_dir_all(machine.path(folder)).unwrap();
        }
        for tool in "sh dirname cksum cat sort head sed awk grep tr env ldd mkdir mktemp".split(' ') {
            let real = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(tool));
            let real = real.iter().find(|path| path.exists()).unwrap();
            symlink(real, machine.path("programs").join(tool)).unwrap();
        }
        fs::write(machine.path("root/etc/os-release"), os_release).unwrap();
        machine.program("cargo", "echo cargo 1.99.0");
        machine.program("id", "echo 0");
        machine
    }

    /// Adds apt, which knows the kernel packages of both distributions, and `qemu-system-x86` 7.2.
    fn with_apt(self) -> Self {
        for tool in ["apt-get", "dpkg-deb"] {
            self.program(tool, "exit 1");
        }
        self.program(
            "apt-cache",
            "case \"$*\" in
             'depends linux-image-cloud-amd64') echo '  Depends: linux-image-6.1.0-1-cloud-amd64' ;;
             'depends linux-image-virtual') echo '  Depends: linux-image-6.8.0-1-generic' ;;
             'policy qemu-system-x86') echo '  Candidate: 1:7.2+dfsg-7' ;;
             esac",
        );
        self.program("dpkg-query", "exit 1");
        self
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path("programs").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn setup(&self) -> Output {
        self.x(&["setup"])
    }

    fn x(&self, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../x");
        Command::new("/bin/sh")
            .arg(script)
            .args(arguments)
            .env_clear()
            .env("PATH", self.path("programs"))
            .env("HOME", self.folder.path())
            .env("VMREWIND_TESTKIT_CACHE", self.path("cache"))
            .env("VMREWIND_SETUP_ROOT", self.path("root"))
            .env("VMREWIND_SETUP_DRY_RUN", "1")
            .output()
            .unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Guards a fresh Debian: everything is asked for at once, and what guests run is only downloaded, not installed.
#[test]
fn a_fresh_debian_gets_all_packages_and_a_kernel() {
    let output = Machine::new(DEBIAN_12).with_apt().setup();
    let plan = text(&output.stdout);
    assert!(output.status.success(), "{plan}{}", text(&output.stderr));
    let (deny, lines) = plan.split_once('\n').unwrap();
    assert!(deny.starts_with("+ cargo install --locked cargo-deny"), "{plan}");
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines[0], "+ apt-get update -q");
    for package in ["qemu-system-x86", "qemu-utils", "ovmf", "busybox-static", "gcc", "libc6-dev"] {
        assert!(lines[1].contains("apt-get install") && lines[1].contains(package), "{package}: {plan}");
    }
    let downloads =
        ["+ apt-get download linux-image-6.1.0-1-cloud-amd64", "+ apt-get download qemu-guest-agent"];
    assert_eq!(lines[2..], downloads);
}

/// Guards Debian 12 with a newer qemu-utils: the source that is added is the machine's own, with another suite.
#[test]
fn a_newer_qemu_utils_takes_qemu_from_backports_of_the_same_mirror() {
    let machine = Machine::new(DEBIAN_12).with_apt();
    fs::write(machine.path("root/etc/apt/sources.list.d/debian.sources"), SOURCE).unwrap();
    machine.program("dpkg-query", "echo 1:10.0.2~bpo12+1");
    machine.program("dpkg", "[ \"$2 $3\" = '1:10.0.2~bpo12+1 gt' ]");
    let plan = text(&machine.setup().stdout);
    let source = "Types: deb\nURIs: http://mirror.example/debian\nSigned-By: /usr/share/keyrings/some.gpg\n\
                  Suites: bookworm-backports\nComponents: main\n";
    assert!(plan.contains(source), "{plan}");
    let from_backports = plan.lines().find(|line| line.contains("-t bookworm-backports")).unwrap();
    assert!(from_backports.ends_with("qemu-system-x86 qemu-utils"), "{plan}");
    let rest = plan.lines().find(|line| line.contains("apt-get install") && line.contains("ovmf")).unwrap();
    assert!(!rest.contains("qemu-"), "{plan}");
}

/// Guards sources in the one-line form, with options in brackets.
#[test]
fn the_old_form_of_sources_is_understood() {
    let machine = Machine::new(DEBIAN_12).with_apt();
    let list = "# deb http://no.example bookworm main\n\
                deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main\n";
    fs::write(machine.path("root/etc/apt/sources.list"), list).unwrap();
    machine.program("dpkg-query", "echo 1:10.0.2~bpo12+1");
    machine.program("dpkg", "exit 0");
    let plan = text(&machine.setup().stdout);
    assert!(
        plan.contains("URIs: http://mirror.example/debian\nSigned-By: /k.gpg\nSuites: bookworm-backports"),
        "{plan}"
    );
}

/// Guards Ubuntu, where a kernel is two packages.
#[test]
fn ubuntu_gets_its_own_kernel() {
    let plan = text(&Machine::new(UBUNTU).with_apt().setup().stdout);
    let download = "+ apt-get download linux-image-6.8.0-1-generic linux-modules-6.8.0-1-generic";
    assert!(plan.lines().any(|line| line == download), "{plan}");
}

/// Guards the clear refusals: it can't install here, so it says what is needed.
#[test]
fn where_it_cannot_install_it_says_what_is_needed() {
    let other = Machine::new("PRETTY_NAME='Other Linux'\n").setup();
    let message = text(&other.stderr);
    assert_eq!(other.status.code(), Some(1));
    assert!(
        message.contains("Other Linux has no apt-get") && message.contains("qemu-system-x86"),
        "{message}"
    );

    let user = Machine::new(DEBIAN_12).with_apt();
    user.program("id", "echo 1000");
    let refused = user.setup();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("no sudo"), "{}", text(&refused.stderr));

    let old = Machine::new(DEBIAN_12).with_apt();
    old.program("cargo", "echo cargo 1.63.0");
    assert!(text(&old.setup().stderr).contains("cargo is 1.63.0"));
}

/// Guards the check for 64-bit ARM: where Rust has it or can get it, a C compiler comes too; else nothing is asked for.
#[test]
fn a_c_compiler_for_arm_comes_with_the_target() {
    let wants = |machine: &Machine| {
        let plan = text(&machine.setup().stdout);
        let installs =
            ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"].map(|package| plan.contains(package));
        assert_eq!(installs[0], installs[1], "{plan}");
        (plan.contains("+ rustup target add aarch64"), installs[0])
    };
    let machine = Machine::new(DEBIAN_12).with_apt();
    assert_eq!(wants(&machine), (false, false), "neither the target nor rustup");
    machine.program("rustc", &format!("echo '{}'", machine.path("target").display()));
    assert_eq!(wants(&machine), (false, false), "the folder is only named");
    machine.program("rustup", "exit 0");
    assert_eq!(wants(&machine), (true, true), "rustup can add it");
    fs::create_dir(machine.path("target")).unwrap();
    fs::write(machine.path("target/libcore-1.rlib"), "").unwrap();
    assert_eq!(wants(&machine), (false, true), "it is there");
}

/// Guards the first look at this on a new machine: the demonstration doesn't wait for what only tests need.
#[test]
fn the_demonstration_needs_no_tools_of_the_tests() {
    let machine = Machine::new(DEBIAN_12).with_apt();
    machine.program("rustup", "exit 0");
    let plan = text(&machine.x(&["demo"]).stdout);
    assert!(plan.contains("apt-get install"), "{plan}");
    assert!(!plan.contains("cargo install") && !plan.contains("aarch64"), "{plan}");
}

/// Guards ordinary tests from waiting for the fuzzer, and the long ones from being without it.
#[test]
fn only_fuzzing_installs_the_fuzzer() {
    let machine = Machine::new(DEBIAN_12).with_apt();
    let installs = |arguments: &[&str]| {
        let plan = text(&machine.x(arguments).stdout);
        ["+ cargo install --locked cargo-deny", "+ cargo install --locked cargo-fuzz", "g++"]
            .map(|part| plan.contains(part))
    };
    assert_eq!(installs(&["test"]), [true, false, false]);
    assert_eq!(installs(&["test", "--long"]), [true, true, true]);
    assert_eq!(installs(&["fuzz"]), [true, true, true]);
    assert_eq!(installs(&["fuzz", "qcow2"]), [true, true, true]);
}

/// Guards the second time: nothing to do, nothing said but that.
#[test]
fn a_complete_machine_is_left_alone() {
    let machine = Machine::new(DEBIAN_12);
    for program in [
        "qemu-system-x86_64",
        "qemu-img",
        "qemu-storage-daemon",
        "mkfs.ext4",
        "e2fsck",
        "debugfs",
        "setpriv",
        "losetup",
        "xz",
        "zstd",
        "gcc",
        "cargo-deny",
    ] {
        machine.program(program, "exit 1");
    }
    for file in [
        "root/usr/share/OVMF/OVMF_CODE.fd",
        "root/usr/lib64/libc.a",
        "cache/kernel/boot/vmlinuz-6.1",
        "cache/agent/usr/sbin/qemu-ga",
    ] {
        fs::create_dir_all(machine.path(file).parent().unwrap()).unwrap();
        fs::write(machine.path(file), "").unwrap();
    }
    machine.program("../root/bin/busybox", "exit 0");
    let output = machine.setup();
    assert_eq!((text(&output.stdout), output.status.code()), (String::new(), Some(0)));
    assert!(text(&output.stderr).starts_with("x: ready"), "{}", text(&output.stderr));
}
