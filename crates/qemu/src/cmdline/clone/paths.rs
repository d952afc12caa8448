//! Files and sockets of the host that QEMU makes: each clone gets them in its own run folder.

use std::collections::{BTreeMap, BTreeSet};

use super::super::keyvalues::KeyValues;
use super::super::properties::Properties;
use super::super::table::Argument;
use super::super::{CmdlineError, CommandLine};
use super::Separation;
use super::ports;

/// Names in the run folder that are vmrewind's own.
const TAKEN: &[&str] = &[
    "qmp.sock",
    "vmrewind.sock",
    "guard.sock",
    "status.sock",
    "stream.sock",
    "qemu.log",
    "qemu.log.1",
    "ports.json",
];

const CONNECTS: &str = "QEMU connects to it, and who listens there may serve one client only";
const HOST_DEVICE: &str = "it is a device of the host, which one QEMU can use at a time";
const NAMED_PIPE: &str = "the named pipes must be made by whoever reads them";

/// The new places of files, and the names that are taken in the run folder.
#[derive(Debug)]
pub(super) struct Paths {
    names: BTreeSet<String>,
    moved: BTreeMap<String, String>,
}

impl Paths {
    /// With the names that the command line uses itself.
    pub(super) fn of(line: &CommandLine) -> Self {
        let mut names: BTreeSet<String> = TAKEN.iter().map(|name| (*name).to_owned()).collect();
        for option in &line.options {
            for (at, found) in option.text().match_indices("{run}/") {
                let rest = &option.text()[at + found.len()..];
                let end = rest.find([',', '"', '\'']).unwrap_or(rest.len());
                names.insert(rest[..end].to_owned());
            }
        }
        Self { names, moved: BTreeMap::new() }
    }

    /// The path that stands for `path` in a clone: in its run folder, under the same name where that is free. `None`
    /// where the path is its own already.
    fn own(&mut self, path: &str) -> Option<String> {
        if path.is_empty() || path.contains("{run}") || path.contains("{name}") {
            return None;
        }
        if let Some(moved) = self.moved.get(path) {
            return Some(moved.clone());
        }
        let name = path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("file");
        let mut free = name.to_owned();
        let mut number = 2;
        while !self.names.insert(free.clone()) {
            free = format!("{number}-{name}");
            number += 1;
        }
        let moved = format!("{{run}}/{free}");
        self.moved.insert(path.to_owned(), moved.clone());
        Some(moved)
    }
}

impl CommandLine {
    /// Files, sockets and ports of one option.
    pub(super) fn separate_option(
        &mut self,
        at: usize,
        paths: &mut Paths,
        done: &mut Separation,
    ) -> Result<(), CmdlineError> {
        let option = &mut self.options[at];
        let name = option.name().to_owned();
        match name.as_str() {
            "D" | "pidfile" => {
                let from = option.text().to_owned();
                if let Some(to) = paths.own(&from) {
                    option.value = Some(to.clone());
                    done.change(&format!("-{name}"), from, to);
                }
            }
            // A GDB stub on port 1234.
            "s" => {
                option.word = Some("-gdb".to_owned());
                option.value = Some("tcp::{port:1234}".to_owned());
                done.change("-s", "1234".to_owned(), "{port:1234}".to_owned());
            }
            _ if option.argument() == Argument::Character => {
                if let Some(text) = character(&name, option.text(), paths, done) {
                    option.value = Some(text);
                }
            }
            "chardev" | "netdev" | "net" | "nic" | "vnc" | "display" | "spice" | "object" | "audiodev"
            | "trace" => {
                let mut properties = option.properties()?;
                let before = properties.clone();
                match name.as_str() {
                    "chardev" => chardev(&mut properties, paths, done),
                    "netdev" | "net" | "nic" => ports::network(&name, &mut properties, paths, done),
                    "vnc" | "display" => ports::vnc(&name, &mut properties, paths, done),
                    "spice" => ports::spice(&mut properties, paths, done),
                    "object" => object(&mut properties, paths, done),
                    _ => move_file(&mut properties, &name, file_key(&name), paths, done),
                }
                if properties != before {
                    option.value = Some(properties.to_text());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn file_key(option: &str) -> &'static str {
    if option == "trace" { "file" } else { "path" }
}

/// Moves the file of one key.
pub(super) fn move_file(
    properties: &mut Properties,
    option: &str,
    key: &str,
    paths: &mut Paths,
    done: &mut Separation,
) {
    let Some(from) = properties.get(key) else { return };
    if let Some(to) = paths.own(&from) {
        properties.rewrite(&mut |other, _| (other == key).then(|| to.clone()));
        done.change(&format!("-{option} {key}"), from, to);
    }
}

/// A `-chardev`.
fn chardev(chardev: &mut Properties, paths: &mut Paths, done: &mut Separation) {
    move_file(chardev, "chardev", "logfile", paths, done);
    let is_own = |path: &str| path.contains("{run}") || path.contains("{name}");
    let path = chardev.get("path").unwrap_or_default();
    match chardev.get("backend").unwrap_or_default().as_str() {
        "socket" if chardev.is_on("server") => {
            move_file(chardev, "chardev", "path", paths, done);
            ports::renew(chardev, "chardev", "port", done);
        }
        "socket" if !path.is_empty() && !is_own(&path) => done.share("-chardev path", path, CONNECTS),
        "file" => move_file(chardev, "chardev", "path", paths, done),
        "udp" => ports::renew(chardev, "chardev", "localport", done),
        "pipe" if !is_own(&path) => done.share("-chardev path", path, NAMED_PIPE),
        "serial" | "tty" | "parallel" | "parport" => done.share("-chardev path", path, HOST_DEVICE),
        _ => {}
    }
}

/// A character device in the short form. `None` where nothing is changed.
fn character(option: &str, text: &str, paths: &mut Paths, done: &mut Separation) -> Option<String> {
    let label = format!("-{option}");
    let (prefix, rest) = match text.strip_prefix("mon:") {
        Some(rest) => ("mon:", rest),
        None => ("", text),
    };
    if rest.starts_with("/dev/") {
        done.share(&label, rest.to_owned(), HOST_DEVICE);
        return None;
    }
    let (kind, rest) = rest.split_once(':')?;
    match kind {
        "unix" => {
            let mut keys = Properties::Keys(KeyValues::parse(rest, Some("path")));
            let from = keys.get("path")?;
            if !keys.is_on("server") && option != "gdb" {
                done.share(&label, from, CONNECTS);
                return None;
            }
            let to = paths.own(&from)?;
            keys.rewrite(&mut |key, _| (key == "path").then(|| to.clone()));
            done.change(&label, from, to);
            Some(format!("{prefix}unix:{}", keys.to_text()))
        }
        "file" => {
            let to = paths.own(rest)?;
            done.change(&label, rest.to_owned(), to.clone());
            Some(format!("{prefix}file:{to}"))
        }
        "pipe" => {
            done.share(&label, rest.to_owned(), NAMED_PIPE);
            None
        }
        "tcp" | "telnet" | "websocket" => {
            let mut keys = Properties::Keys(KeyValues::parse(rest, Some("address")));
            let from = keys.get("address")?;
            if !keys.is_on("server") && option != "gdb" {
                return None;
            }
            let to = ports::own_address(&from)?;
            keys.rewrite(&mut |key, _| (key == "address").then(|| to.clone()));
            done.change(&label, from, to);
            Some(format!("{prefix}{kind}:{}", keys.to_text()))
        }
        _ => None,
    }
}

/// Objects that write files: packet dumps, and memory that is shared through a file.
fn object(object: &mut Properties, paths: &mut Paths, done: &mut Separation) {
    match object.get("qom-type").unwrap_or_default().as_str() {
        "filter-dump" => move_file(object, "object", "file", paths, done),
        "memory-backend-file" if object.is_on("share") => {
            let from = object.get("mem-path").unwrap_or_default();
            let Some((folder, file)) = from.trim_end_matches('/').rsplit_once('/') else { return };
            let is_folder = from.ends_with('/') || matches!(folder, "" | "/dev");
            if !is_folder && !from.contains("{name}") && !from.contains("{run}") {
                let to = format!("{folder}/{{name}}-{file}");
                object.rewrite(&mut |key, _| (key == "mem-path").then(|| to.clone()));
                done.change("-object mem-path", from, to);
            }
        }
        _ => {}
    }
}
