//! Host ports for `{port:N}`: N where that is free, else one that is.
//!
//! Between the look at a port and QEMU's own use of it another start could choose the same one. So a port that was chosen
//! is reserved, by an abstract socket of its number, until QEMU has it. The kernel gives that up with its holder.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use crate::error::{Context, Result};
use crate::root::file::Files;

/// How often another port is asked for where the one that the kernel names is reserved.
const TRIES: usize = 64;

/// Ports that a QEMU is about to use.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    /// For each wanted port the one to use.
    pub(crate) given: BTreeMap<u16, u16>,
    reserved: Vec<UnixListener>,
}

impl Ports {
    /// Chooses ports. Those that the QEMU `beside` has are taken over from it later.
    pub(crate) fn choose(wanted: &[u16], beside: Option<&BTreeMap<u16, u16>>) -> Self {
        let mut ports = Self::default();
        for port in wanted {
            if let Some(given) = beside.and_then(|ports| ports.get(port)) {
                ports.given.insert(*port, *given);
                continue;
            }
            let given = ports.take(*port).or_else(|| (0..TRIES).find_map(|_| ports.take(0)));
            if let Some(given) = given {
                ports.given.insert(*port, given);
            }
        }
        ports
    }

    /// Writes them down in the run folder.
    pub(crate) fn save(&self, files: &Files, run: &Path) -> Result<()> {
        let ports = serde_json::to_vec(&self.given).context(|| "cannot encode the ports".into())?;
        files.write_atomic(&run.join("ports.json"), &ports)
    }

    /// Takes a port if it is free; of 0, any.
    fn take(&mut self, port: u16) -> Option<u16> {
        let listener = TcpListener::bind(("127.0.0.1", port)).ok()?;
        let port = listener.local_addr().ok()?.port();
        let name = format!("vmrewind-port-{port}");
        let holder = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()?;
        self.reserved.push(holder);
        Some(port)
    }
}

/// The ports that the running QEMU was given.
pub(crate) fn ports_in_use(run: &Path) -> BTreeMap<u16, u16> {
    fs::read(run.join("ports.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two starts at once must not both be given a port that is free: the second QEMU would not start.
    #[test]
    fn a_port_that_is_about_to_be_used_is_not_given_again() {
        let free = Ports::choose(&[0], None).given[&0];
        let first = Ports::choose(&[free], None);
        let second = Ports::choose(&[free], None);
        assert_eq!(first.given[&free], free);
        assert_ne!(second.given[&free], free);
        drop(first);
        assert_eq!(Ports::choose(&[free], None).given[&free], free);
    }

    /// Guards a VM that wants several ports: each is given one of its own, and they are known for as long as it runs.
    #[test]
    fn the_ports_in_use_are_written_down() {
        let run = tempfile::tempdir().unwrap();
        assert!(ports_in_use(run.path()).is_empty(), "nothing was started");
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let wanted = [taken.local_addr().unwrap().port(), 1, 2];
        let ports = Ports::choose(&wanted, None);
        assert_ne!(ports.given[&wanted[0]], wanted[0], "somebody else's port was given");
        let mut given: Vec<u16> = ports.given.values().copied().collect();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 3, "two have the same: {:?}", ports.given);
        ports.save(&Files::of_this_host(), run.path()).unwrap();
        assert_eq!(ports_in_use(run.path()), ports.given);
        fs::write(run.path().join("ports.json"), "{").unwrap();
        assert!(ports_in_use(run.path()).is_empty());
    }
}
