//! Sockets of a command line that vmrewind talks to: the serial console and the guest agent.
//!
//! Only unix sockets on which QEMU listens count; a console on a terminal, file or TCP port is not found.

use super::keyvalues::KeyValues;
use super::properties::Properties;
use super::{CommandLine, Opt};

/// The port name by which the QEMU guest agent finds its channel.
const GUEST_AGENT_PORT: &str = "org.qemu.guest_agent.0";

/// Where the guest agent is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestAgentChannel {
    /// Path of the unix socket.
    pub socket: String,
    /// The character device's id, by which `query-chardev` tells whether the guest listens.
    pub chardev: String,
}

impl CommandLine {
    /// Path of the unix socket of the first serial console that has one.
    #[must_use]
    pub fn console_socket(&self) -> Option<String> {
        self.options.iter().find_map(|option| match option.name() {
            "serial" => self.character_socket(option.text()),
            "device" => {
                let device = option.properties().ok()?;
                let driver = device.get("driver")?;
                let is_console = matches!(
                    driver.as_str(),
                    "isa-serial" | "pci-serial" | "virtconsole" | "sclpconsole" | "usb-serial"
                );
                self.chardev_socket(&device.get("chardev").filter(|_| is_console)?)
            }
            _ => None,
        })
    }

    /// The guest agent's channel, where it is a unix socket.
    #[must_use]
    pub fn guest_agent(&self) -> Option<GuestAgentChannel> {
        self.named("device").find_map(|option| {
            let device = option.properties().ok()?;
            let is_agent = device.get("driver").as_deref() == Some("virtserialport")
                && device.get("name").as_deref() == Some(GUEST_AGENT_PORT);
            let chardev = device.get("chardev").filter(|_| is_agent)?;
            Some(GuestAgentChannel { socket: self.chardev_socket(&chardev)?, chardev })
        })
    }

    /// The socket of a character device in the short form.
    fn character_socket(&self, text: &str) -> Option<String> {
        let text = text.strip_prefix("mon:").unwrap_or(text);
        if let Some(id) = text.strip_prefix("chardev:") {
            return self.chardev_socket(id);
        }
        let keys = KeyValues::parse(text.strip_prefix("unix:")?, Some("path"));
        listening_path(&Properties::Keys(keys))
    }

    /// The socket of a `-chardev`.
    fn chardev_socket(&self, id: &str) -> Option<String> {
        let chardev = self.chardev(id)?;
        let is_socket = chardev.get("backend").as_deref() == Some("socket");
        listening_path(&chardev).filter(|_| is_socket)
    }

    /// The `-chardev` of an id.
    pub(super) fn chardev(&self, id: &str) -> Option<Properties> {
        self.named("chardev")
            .filter_map(|option: &Opt| option.properties().ok())
            .find(|chardev| chardev.get("id").as_deref() == Some(id))
    }
}

fn listening_path(socket: &Properties) -> Option<String> {
    socket.get("path").filter(|_| socket.is_on("server"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> CommandLine {
        let argv: Vec<_> = std::iter::once("qemu").chain(words.iter().copied()).map(str::to_owned).collect();
        CommandLine::parse(&argv).unwrap()
    }

    /// Guards that a console is found however it is written, and that what is no listening socket is not.
    #[test]
    fn consoles_are_found() {
        let chardev = ["-chardev", "socket,id=c,path=/a,,b,server=on,wait=off"];
        let cases: &[(&[&str], Option<&str>)] = &[
            (&["-serial", "unix:/s,server,nowait"], Some("/s")),
            (&["-serial", "unix:/s,server=on,wait=off"], Some("/s")),
            (&["-serial", "mon:unix:/s,server=on"], Some("/s")),
            (&["-serial", "unix:/s"], None),
            (&["-serial", "stdio"], None),
            (&[chardev[0], chardev[1], "-serial", "chardev:c"], Some("/a,b")),
            (&[chardev[0], chardev[1], "-device", "isa-serial,chardev=c"], Some("/a,b")),
            (&["-device", r#"{"driver":"isa-serial","chardev":"c"}"#, chardev[0], chardev[1]], Some("/a,b")),
            (&[chardev[0], chardev[1], "-device", "virtio-rng-pci,chardev=c"], None),
            (&["-chardev", "pty,id=c", "-serial", "chardev:c"], None),
        ];
        for (words, wanted) in cases {
            assert_eq!(line(words).console_socket().as_deref(), *wanted, "{words:?}");
        }
    }

    /// Guards that only the guest agent's port counts.
    #[test]
    fn the_guest_agent_is_found_by_its_port() {
        let with = |name: &str| {
            let port = format!("virtserialport,chardev=c,name={name}");
            line(&["-chardev", "socket,id=c,path=/qga,server=on", "-device", &port]).guest_agent()
        };
        let channel = GuestAgentChannel { socket: "/qga".into(), chardev: "c".into() };
        assert_eq!(with("org.qemu.guest_agent.0"), Some(channel));
        assert_eq!(with("com.redhat.spice.0"), None);
    }
}
