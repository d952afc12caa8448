//! A command line for a QEMU that starts while the one that it is to replace still runs.
//!
//! ```text
//! left out, and done later by QMP   forwarded ports of user networks, VNC displays
//! made under another name, renamed  unix sockets that QEMU listens on, files that it writes
//! left out, and written later       the pid file
//! can't be shared                   everything else that one process at a time can have: [`Conflict`]
//! ```
//! What is in the VM's own run folder needs nothing: each QEMU has another. None of these edits changes the hardware that the
//! guest sees, or what a captured state needs to be loaded.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::keyvalues::{KeyValues, escape_commas};
use super::properties::Properties;
use super::table::Argument;
use super::{CmdlineError, CommandLine, Opt};

/// The longest path of a unix socket, in bytes: `sun_path` without its NUL.
const SOCKET_PATH_MAX: usize = 107;
/// What the name of a socket or file ends with until its place is free, with a number behind it: when QEMU ends it removes its
/// sockets by the names that they were made with, which must not be those of the next.
const SUFFIX: &str = ".next-";
/// The port of VNC display 0.
const VNC_PORT: u32 = 5900;

/// What the new QEMU gets once the old one has given it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Later {
    /// A socket or file of another name in the same folder.
    Rename {
        /// Its name now; as on the command line, which can be relative to QEMU's working folder.
        from: String,
        /// The name that it is to have.
        to: String,
    },
    /// The file that holds its pid.
    PidFile {
        /// As on the command line.
        path: String,
    },
    /// A port of the host that is forwarded to the guest.
    Forward {
        /// The user network's id; none where there is one such network.
        network: Option<String>,
        /// `tcp:ADDRESS:PORT-GUEST:PORT`.
        rule: String,
    },
    /// The VNC display.
    Vnc {
        /// The address that it listens on; empty for all.
        host: String,
        /// The first TCP port that is tried.
        port: u32,
        /// The last.
        last_port: u32,
    },
}

/// What only one of two QEMUs can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The option, as a person would write it.
    pub option: String,
    /// Why two can't have it.
    pub why: &'static str,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}': {}", self.option, self.why)
    }
}

const PORT: &str = "a TCP port serves one program";
const PEER: &str = "who listens there may serve one QEMU only";
const DEVICE: &str = "a device of the host serves one QEMU";
const INTERFACE: &str = "a network interface serves one QEMU";
const PIPE: &str = "named pipes serve one QEMU";
const ADDRESS: &str = "an address serves one QEMU";
const MEMORY: &str = "it shares the guest's memory through a file";
const LONG: &str = "a socket beside it would have too long a path";
const NETWORK: &str = "a user network without an id can't be told from the others";

impl CommandLine {
    /// Takes out of this command line, in which all placeholders are filled in, what the VM's other QEMU still has; gives
    /// what is to be done for this one once it has not. `run` is this QEMU's own run folder, `number` one that no
    /// other QEMU of the VM has had lately.
    ///
    /// # Errors
    /// The inner one names what can't be handed over. The outer one is an option whose JSON can't be read.
    pub fn stand_beside(
        &mut self,
        run: &str,
        number: u32,
    ) -> Result<Result<Vec<Later>, Conflict>, CmdlineError> {
        let mut conflict = None;
        let later = self.look_at_each((run, number), &mut |option, why| {
            conflict.get_or_insert(Conflict { option: option.display(), why });
            Ok(Keep::Yes)
        })?;
        Ok(conflict.map_or(Ok(later), Err))
    }

    /// The same with something in place of all that can't be handed over: good to see whether QEMU starts, not to run a
    /// guest on.
    ///
    /// # Errors
    /// An option whose JSON can't be read.
    pub fn rehearse_beside(&mut self, run: &str, number: u32) -> Result<Vec<Later>, CmdlineError> {
        self.look_at_each((run, number), &mut |option, _| stand_in(option))
    }

    /// Looks at each option; `shared` says what becomes of one that can't be handed over.
    fn look_at_each(
        &mut self,
        (run, number): (&str, u32),
        shared: &mut dyn FnMut(&mut Opt, &'static str) -> Result<Keep, CmdlineError>,
    ) -> Result<Vec<Later>, CmdlineError> {
        let mut later = Vec::new();
        let user_networks = self.user_networks()?;
        let mut left_out = Vec::new();
        for option in &mut self.options {
            let mut seat = Seat { run, number, later: &mut later, user_networks };
            let keep = match seat.option(option)? {
                Ok(keep) => keep,
                Err(why) => shared(option, why)?,
            };
            if matches!(keep, Keep::No) {
                left_out.push(option.id);
            }
        }
        self.options.retain(|option| !left_out.contains(&option.id));
        Ok(later)
    }

    fn user_networks(&self) -> Result<usize, CmdlineError> {
        let mut count = 0;
        for option in self.options.iter().filter(|option| is_network(option.name())) {
            count += usize::from(option.properties()?.get("type").as_deref() == Some("user"));
        }
        Ok(count)
    }
}

fn is_network(option: &str) -> bool {
    matches!(option, "netdev" | "nic" | "net")
}

/// Whether an option stays.
enum Keep {
    Yes,
    No,
}

/// Why not.
type Shared<T> = Result<T, &'static str>;

/// What an option is looked at for.
struct Seat<'a> {
    run: &'a str,
    number: u32,
    later: &'a mut Vec<Later>,
    user_networks: usize,
}

impl Seat<'_> {
    fn option(&mut self, option: &mut Opt) -> Result<Shared<Keep>, CmdlineError> {
        let name = option.name().to_owned();
        if option.argument() == Argument::Character {
            let text = self.character(&name, option.text());
            return Ok(text.map(|text| {
                option.value = text.or(option.value.take());
                Keep::Yes
            }));
        }
        match name.as_str() {
            "pidfile" if !self.is_own(option.text()) => {
                self.later.push(Later::PidFile { path: option.text().to_owned() });
                return Ok(Ok(Keep::No));
            }
            // A GDB stub on port 1234.
            "s" => return Ok(Err(PORT)),
            "chardev" | "netdev" | "nic" | "net" | "vnc" | "display" | "spice" | "object" | "device"
            | "audiodev" => {
                let mut properties = option.properties()?;
                let before = properties.clone();
                let done = match name.as_str() {
                    "chardev" => self.chardev(&mut properties),
                    "vnc" | "display" => self.vnc(&mut properties),
                    "spice" => self.spice(&mut properties),
                    "object" => self.object(&mut properties),
                    "device" => device(&properties),
                    "audiodev" => self.move_file(&mut properties, "path"),
                    _ => self.network(&mut properties),
                };
                if properties != before {
                    option.value = Some(properties.to_text());
                }
                return Ok(done.map(|()| Keep::Yes));
            }
            _ => {}
        }
        Ok(Ok(Keep::Yes))
    }

    fn is_own(&self, path: &str) -> bool {
        path.strip_prefix(self.run).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The name under which a file is made for now; `None` where it can have its own.
    fn aside(&mut self, path: &str) -> Option<String> {
        if path.is_empty() || self.is_own(path) || path.starts_with("/dev/null") {
            return None;
        }
        let from = format!("{path}{SUFFIX}{}", self.number);
        self.later.push(Later::Rename { from: from.clone(), to: path.to_owned() });
        Some(from)
    }

    fn move_file(&mut self, properties: &mut Properties, key: &str) -> Shared<()> {
        if let Some(aside) = properties.get(key).and_then(|path| self.aside(&path)) {
            properties.rewrite(&mut |other, _| (other == key).then(|| aside.clone()));
        }
        Ok(())
    }

    fn move_socket(&mut self, properties: &mut Properties, key: &str) -> Shared<()> {
        self.move_file(properties, key)?;
        let is_long = properties.get(key).is_some_and(|path| path.len() > SOCKET_PATH_MAX);
        if is_long { Err(LONG) } else { Ok(()) }
    }

    fn chardev(&mut self, chardev: &mut Properties) -> Shared<()> {
        self.move_file(chardev, "logfile")?;
        let has_path = chardev.get("path").is_some();
        match chardev.get("backend").unwrap_or_default().as_str() {
            "socket" if chardev.is_on("server") && has_path => self.move_socket(chardev, "path"),
            "socket" if chardev.is_on("server") => Err(PORT),
            "socket" => Err(PEER),
            "file" => self.move_file(chardev, "path"),
            "udp" if chardev.get("localport").is_some() => Err(PORT),
            "pipe" => Err(PIPE),
            "serial" | "tty" | "parallel" | "parport" => Err(DEVICE),
            _ => Ok(()),
        }
    }

    /// A character device in the short form; gives its new text, if it has one.
    fn character(&mut self, option: &str, text: &str) -> Shared<Option<String>> {
        let (prefix, rest) = text.strip_prefix("mon:").map_or(("", text), |rest| ("mon:", rest));
        if rest.starts_with("/dev/") {
            return if rest.starts_with("/dev/null") { Ok(None) } else { Err(DEVICE) };
        }
        let Some((kind, rest)) = rest.split_once(':') else { return Ok(None) };
        match kind {
            "unix" => {
                let mut keys = Properties::Keys(KeyValues::parse(rest, Some("path")));
                if !keys.is_on("server") && option != "gdb" {
                    return Err(PEER);
                }
                self.move_socket(&mut keys, "path")?;
                Ok(Some(format!("{prefix}unix:{}", keys.to_text())))
            }
            "file" => Ok(self.aside(rest).map(|aside| format!("{prefix}file:{aside}"))),
            "pipe" => Err(PIPE),
            "tcp" | "telnet" | "websocket" | "udp" => Err(PORT),
            _ => Ok(None),
        }
    }

    fn network(&mut self, network: &mut Properties) -> Shared<()> {
        match network.get("type").unwrap_or_default().as_str() {
            "user" => self.user_network(network),
            // Without a name, or through its helper, each QEMU gets an interface of its own.
            "tap" if network.get("ifname").is_none() => Ok(()),
            "tap" => Err(INTERFACE),
            "bridge" | "none" | "nic" | "hubport" => Ok(()),
            _ => Err(PEER),
        }
    }

    fn user_network(&mut self, network: &mut Properties) -> Shared<()> {
        let id = network.get("id");
        let is_forward = |key: &str| key == "hostfwd" || key.starts_with("hostfwd.");
        let mut rules = Vec::new();
        network.rewrite(&mut |key, value| {
            if is_forward(key) {
                rules.push(value.to_owned());
            }
            None
        });
        if rules.is_empty() {
            return Ok(());
        }
        if id.is_none() && self.user_networks > 1 {
            return Err(NETWORK);
        }
        network.remove("hostfwd");
        self.later.extend(rules.into_iter().map(|rule| Later::Forward { network: id.clone(), rule }));
        Ok(())
    }

    fn vnc(&mut self, vnc: &mut Properties) -> Shared<()> {
        let Some(address) = vnc.get("vnc").filter(|address| address != "none") else { return Ok(()) };
        if vnc.is_on("reverse") || vnc.get("websocket").is_some() {
            return Err(PORT);
        }
        if let Some(path) = address.strip_prefix("unix:") {
            if let Some(aside) = self.aside(path) {
                if aside.len() > SOCKET_PATH_MAX {
                    return Err(LONG);
                }
                vnc.rewrite(&mut |key, _| (key == "vnc").then(|| format!("unix:{aside}")));
            }
            return Ok(());
        }
        let display = |text: &str| text.parse::<u32>().ok().filter(|display| *display < 10_000);
        let (host, first) = address.rsplit_once(':').ok_or(PORT)?;
        let first = display(first).ok_or(PORT)?;
        let last = vnc.get("to").map_or(Some(first), |to| display(&to)).ok_or(PORT)?;
        self.later.push(Later::Vnc {
            host: host.to_owned(),
            port: VNC_PORT + first,
            last_port: VNC_PORT + last.max(first),
        });
        vnc.remove("to");
        vnc.rewrite(&mut |key, _| (key == "vnc").then(|| "none".to_owned()));
        Ok(())
    }

    fn spice(&mut self, spice: &mut Properties) -> Shared<()> {
        if spice.is_on("unix") {
            return self.move_socket(spice, "addr");
        }
        let listens = ["port", "tls-port"].iter().any(|key| spice.get(key).is_some_and(|port| port != "0"));
        if listens { Err(PORT) } else { Ok(()) }
    }

    fn object(&mut self, object: &mut Properties) -> Shared<()> {
        match object.get("qom-type").unwrap_or_default().as_str() {
            "filter-dump" => self.move_file(object, "file"),
            // In a folder, as on hugetlbfs, each QEMU makes a file of its own.
            "memory-backend-file"
                if object.is_on("share")
                    && object.get("mem-path").is_some_and(|path| !std::path::Path::new(&path).is_dir()) =>
            {
                Err(MEMORY)
            }
            "can-host-socketcan" | "input-linux" => Err(DEVICE),
            _ => Ok(()),
        }
    }
}

/// Puts something harmless in the place of what only one QEMU can have, under the same id: others refer to it.
fn stand_in(option: &mut Opt) -> Result<Keep, CmdlineError> {
    if option.argument() == Argument::Character {
        option.value = Some("null".to_owned());
        return Ok(Keep::Yes);
    }
    let kind = option.name().to_owned();
    if !matches!(kind.as_str(), "chardev" | "netdev" | "nic" | "object") {
        return Ok(Keep::No);
    }
    let properties = option.properties()?;
    let kept = |keys: &[&str]| -> String {
        let pair = |key: &&str| Some(format!(",{key}={}", escape_commas(&properties.get(key)?)));
        keys.iter().filter_map(pair).collect()
    };
    option.value = Some(match kind.as_str() {
        "chardev" => format!("null{}", kept(&["id"])),
        "netdev" => format!("user{}", kept(&["id"])),
        "nic" => format!("user{}", kept(&["id", "model", "mac"])),
        _ if properties.get("size").is_some() => format!("memory-backend-ram{}", kept(&["id", "size"])),
        _ => return Ok(Keep::No),
    });
    Ok(Keep::Yes)
}

fn device(device: &Properties) -> Shared<()> {
    let driver = device.get("driver").unwrap_or_default();
    if device.get("guest-cid").is_some() {
        return Err(ADDRESS);
    }
    let is_passed_through =
        driver.starts_with("vfio-") || matches!(driver.as_str(), "usb-host" | "u2f-passthru");
    if is_passed_through { Err(DEVICE) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beside(words: &[&str]) -> Result<(String, Vec<Later>), Conflict> {
        let argv: Vec<String> = ["qemu"].iter().chain(words).map(|word| (*word).to_owned()).collect();
        let mut line = CommandLine::parse(&argv).unwrap();
        let later = line.stand_beside("/r/2", 2).unwrap()?;
        Ok((line.to_argv()[1..].join(" "), later))
    }

    fn renamed(path: &str) -> Later {
        Later::Rename { from: format!("{path}.next-2"), to: path.into() }
    }

    /// Guards the running QEMU against the one beside it, which would unlink its sockets and truncate its files.
    #[test]
    fn what_the_other_has_is_made_under_another_name() {
        let cases: &[(&[&str], &str, &str)] = &[
            (&["-qmp", "unix:/q,server=on,wait=off"], "-qmp unix:/q.next-2,server=on,wait=off", "/q"),
            (
                &["-serial", "mon:unix:/q,server,nowait"],
                "-serial mon:unix:/q.next-2,server=on,wait=off",
                "/q",
            ),
            (&["-serial", "file:/l"], "-serial file:/l.next-2", "/l"),
            (
                &["-chardev", "socket,id=a,path=s,server=on"],
                "-chardev socket,id=a,path=s.next-2,server=on",
                "s",
            ),
            (&["-chardev", "file,id=a,path=/l"], "-chardev file,id=a,path=/l.next-2", "/l"),
            (
                &["-chardev", r#"{"backend":"file","id":"a","path":"/l"}"#],
                r#"-chardev {"backend":"file","id":"a","path":"/l.next-2"}"#,
                "/l",
            ),
            (&["-vnc", "unix:/v"], "-vnc unix:/v.next-2", "/v"),
            (
                &["-object", "filter-dump,id=f,netdev=n,file=/d"],
                "-object filter-dump,id=f,netdev=n,file=/d.next-2",
                "/d",
            ),
        ];
        for (words, wanted, path) in cases {
            let (line, later) = beside(words).unwrap();
            assert_eq!(later, [renamed(path)], "{words:?}");
            let plain = |text: &str| text.replace("server,nowait", "server=on,wait=off");
            assert_eq!(plain(&line), plain(wanted), "{words:?}");
        }
    }

    /// Guards what is each QEMU's own, or nobody's: it stays as it is.
    #[test]
    fn what_is_its_own_stays() {
        for words in [
            &["-chardev", "socket,id=a,path=/r/2/s,server=on,wait=off"][..],
            &["-serial", "unix:/r/2/s,server=on"],
            &["-pidfile", "/r/2/pid"],
            &["-serial", "pty", "-parallel", "none", "-monitor", "stdio"],
            &["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"],
            &["-netdev", "tap,id=n", "-vnc", "none", "-spice", "port=0"],
            &["-drive", "file=/d.qcow2,if=virtio", "-m", "64"],
        ] {
            let (line, later) = beside(words).unwrap();
            assert_eq!((line, later), (words.join(" "), vec![]), "{words:?}");
        }
    }

    /// Guards ports and displays: they are taken over when the other has given them up.
    #[test]
    fn ports_come_later() {
        let net = "user,id=n,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-:53,net=10.0.3.0/24";
        let (line, later) = beside(&["-netdev", net]).unwrap();
        assert_eq!(line, "-netdev user,id=n,net=10.0.3.0/24");
        let forward = |rule: &str| Later::Forward { network: Some("n".into()), rule: rule.into() };
        assert_eq!(later, [forward("tcp::2222-:22"), forward("udp:127.0.0.1:53-:53")]);
        let (line, later) = beside(&["-nic", "user,model=e1000,hostfwd=tcp::1-:2"]).unwrap();
        assert_eq!(line, "-nic user,model=e1000");
        assert_eq!(later, [Later::Forward { network: None, rule: "tcp::1-:2".into() }]);
        let (line, later) = beside(&["-vnc", "127.0.0.1:3,password=on,to=9", "-pidfile", "/p"]).unwrap();
        assert_eq!(line, "-vnc none,password=on");
        let vnc = Later::Vnc { host: "127.0.0.1".into(), port: 5903, last_port: 5909 };
        assert_eq!(later, [vnc, Later::PidFile { path: "/p".into() }]);
    }

    /// Guards the proof that QEMU starts, where it can't be given all that it is to have: devices find their backends.
    #[test]
    fn a_rehearsal_has_something_in_place_of_what_is_shared() {
        let words = [
            "-netdev",
            "tap,id=n,ifname=tap0",
            "-device",
            "virtio-net-pci,netdev=n",
            "-s",
            "-serial",
            "tcp::1,server=on",
            "-chardev",
            "socket,id=t,path=/swtpm",
            "-spice",
            "port=1",
            "-device",
            "vhost-vsock-pci,guest-cid=3",
            "-object",
            "memory-backend-file,id=m,size=64M,share=on,mem-path=/dev/shm/m-none",
            "-qmp",
            "unix:/q,server=on",
        ];
        let argv: Vec<String> = ["qemu"].iter().chain(&words).map(|word| (*word).to_owned()).collect();
        let mut line = CommandLine::parse(&argv).unwrap();
        assert_eq!(line.rehearse_beside("/r/2", 2).unwrap(), [renamed("/q")]);
        assert_eq!(
            line.to_argv()[1..].join(" "),
            "-netdev user,id=n -device virtio-net-pci,netdev=n -serial null -chardev null,id=t \
             -object memory-backend-ram,id=m,size=64M -qmp unix:/q.next-2,server=on"
        );
    }

    /// Guards the running guest: what two can't have is told before anything is done to it.
    #[test]
    fn what_can_not_be_handed_over_is_a_conflict() {
        let long = format!("unix:/{},server=on", "x".repeat(101));
        for (words, why) in [
            (&["-netdev", "tap,id=n,ifname=tap0,script=no"][..], INTERFACE),
            (&["-serial", "tcp::4444,server=on,wait=off"], PORT),
            (&["-chardev", "socket,id=a,host=0.0.0.0,port=1,server=on"], PORT),
            (&["-chardev", "socket,id=a,path=/swtpm"], PEER),
            (&["-netdev", "stream,id=n,addr.type=unix,addr.path=/passt"], PEER),
            (&["-spice", "port=5930,disable-ticketing=on"], PORT),
            (&["-s"], PORT),
            (&["-gdb", "tcp::1234"], PORT),
            (&["-serial", "/dev/ttyS0"], DEVICE),
            (&["-device", "vhost-vsock-pci,guest-cid=3"], ADDRESS),
            (&["-device", "usb-host,hostbus=1"], DEVICE),
            (&["-object", "memory-backend-file,id=m,size=64M,share=on,mem-path=/dev/shm/m-none"], MEMORY),
            (&["-vnc", ":1,websocket=5700"], PORT),
            (&["-qmp", &long], LONG),
            (&["-nic", "user,hostfwd=tcp::1-:2", "-nic", "user"], NETWORK),
        ] {
            assert_eq!(beside(words).unwrap_err().why, why, "{words:?}");
        }
    }
}
