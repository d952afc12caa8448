//! Ports, displays and interfaces: `{port:N}` gives a clone port N where that is free, and another where it is not.

use super::super::keyvalues::KeyValues;
use super::super::properties::Properties;
use super::Separation;
use super::paths::{Paths, move_file};

/// The last VNC display that QEMU is let try.
const LAST_DISPLAY: &str = "99";
/// A network's own ends are left to whoever laid it out.
const INTERFACE: &str = "the bridge or script that uses this interface must be told of the clone's";

/// `{port:N}` for a port in digits; `None` for anything else, as what is a placeholder already.
fn own_port(text: &str) -> Option<String> {
    let port: u16 = text.parse().ok().filter(|port| *port > 0)?;
    Some(format!("{{port:{port}}}"))
}

/// An address `HOST:PORT` on a port of its own.
pub(super) fn own_address(address: &str) -> Option<String> {
    let (host, port) = address.rsplit_once(':')?;
    Some(format!("{host}:{}", own_port(port)?))
}

/// Gives the port at `key` another value.
pub(super) fn renew(properties: &mut Properties, option: &str, key: &str, done: &mut Separation) {
    let Some(from) = properties.get(key) else { return };
    if let Some(to) = own_port(&from) {
        properties.rewrite(&mut |other, _| (other == key).then(|| to.clone()));
        done.change(&format!("-{option} {key}"), from, to);
    }
}

/// A `-netdev`, `-net` or `-nic`.
pub(super) fn network(option: &str, net: &mut Properties, paths: &mut Paths, done: &mut Separation) {
    net.rewrite(&mut |key, value| {
        let is_forward = key == "hostfwd" || key.starts_with("hostfwd.");
        let to =
            if is_forward { own_forward(value) } else { (key == "listen").then(|| own_address(value))? }?;
        done.change(
            &format!("-{option} {}", key.split('.').next().unwrap_or(key)),
            value.to_owned(),
            to.clone(),
        );
        Some(to)
    });
    match net.get("type").unwrap_or_default().as_str() {
        "stream" if net.is_on("server") => {
            renew(net, option, "addr.port", done);
            move_file(net, option, "addr.path", paths, done);
        }
        "tap" => {
            if let Some(from) = net.get("ifname").filter(|name| !name.contains("{name}")) {
                net.remove("ifname");
                let label = format!("-{option} ifname");
                if net.is_off("script") || net.get("script").as_deref() == Some("no") {
                    done.share(&label, from.clone(), INTERFACE);
                }
                done.change(&label, from, "the next free one".to_owned());
            }
        }
        _ => {}
    }
}

/// `tcp:ADDRESS:PORT-GUEST:PORT`, with the host's port its own.
fn own_forward(forward: &str) -> Option<String> {
    let (host, guest) = forward.split_once('-')?;
    Some(format!("{}-{guest}", own_address(host)?))
}

/// A `-vnc`, or a `-display` that is one. QEMU takes the first free display from the given one on.
pub(super) fn vnc(option: &str, vnc: &mut Properties, paths: &mut Paths, done: &mut Separation) {
    let Some(address) = vnc.get("vnc").filter(|address| address != "none") else { return };
    if let Some(path) = address.strip_prefix("unix:") {
        let mut socket = Properties::Keys(KeyValues::parse("", None));
        socket.push("path", path);
        move_file(&mut socket, option, "path", paths, done);
        let to = format!("unix:{}", socket.get("path").unwrap_or_default());
        if to != address {
            vnc.rewrite(&mut |key, _| (key == "vnc").then(|| to.clone()));
        }
        return;
    }
    renew(vnc, option, "websocket", done);
    if vnc.get("to").is_none() && !vnc.is_on("reverse") {
        vnc.push("to", LAST_DISPLAY);
        done.change(&format!("-{option}"), address, "the next free display".to_owned());
    }
}

/// A `-spice`.
pub(super) fn spice(spice: &mut Properties, paths: &mut Paths, done: &mut Separation) {
    renew(spice, "spice", "port", done);
    renew(spice, "spice", "tls-port", done);
    if spice.is_on("unix") {
        move_file(spice, "spice", "addr", paths, done);
    }
}
