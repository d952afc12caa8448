//! Guards the serial console where it is used by scripts.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use serde_json::Value;

use crate::sandbox::{Run, Sandbox};

/// A serial console on which the firmware talks.
pub(crate) const SERIAL: &[&str] =
    &["-machine", "pc,graphics=off", "-serial", "unix:{run}/console.sock,server=on,wait=off"];

/// What the guest says comes out, and the end of the input ends the console but not the VM.
#[test]
fn piped() {
    let sandbox = Sandbox::new();
    sandbox.vm_with("web", SERIAL);
    let started = sandbox.json(&["vm", "start", "web", "--paused"]);
    assert_eq!(started["state"], "paused");
    let mut command = sandbox.command();
    command
        .args(["vm", "console", "web"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut qmp = UnixStream::connect(started["qmp"].as_str().unwrap()).unwrap();
    let mut answers = BufReader::new(qmp.try_clone().unwrap()).lines();
    qmp.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").unwrap();
    // What is said before the console is connected is lost.
    loop {
        qmp.write_all(b"{\"execute\":\"query-chardev\"}\n").unwrap();
        let answer = answers.by_ref().map(Result::unwrap).find(|line| line.contains("console.sock")).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let devices = answer["return"].as_array().unwrap();
        let serial = devices.iter().filter_map(|device| device["filename"].as_str());
        if serial.filter(|name| name.contains("console.sock")).all(|name| !name.starts_with("disconnected:"))
        {
            break;
        }
    }
    qmp.write_all(b"{\"execute\":\"cont\"}\n").unwrap();
    let mut said = Vec::new();
    let mut output = child.stdout.take().unwrap();
    while !String::from_utf8_lossy(&said).contains("SeaBIOS") {
        let mut bytes = [0; 256];
        let count = output.read(&mut bytes).unwrap();
        assert!(count > 0, "the console ended: {:?}", Run::of(&child.wait_with_output().unwrap()));
        said.extend_from_slice(&bytes[..count]);
    }
    drop(child.stdin.take());
    // Its end must come though the guest may go on talking.
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert_eq!(sandbox.json(&["vm", "show", "web"])["state"], "running");
}

#[test]
fn refused() {
    let sandbox = Sandbox::new();
    sandbox.vm("web");
    sandbox.run(&["vm", "console", "web"]).fails(5, &["does not run", "vmrewind vm start web"]);
    sandbox.ok(&["vm", "start", "web"]);
    sandbox.run(&["vm", "console", "web"]).fails(5, &["no serial console", "-serial unix:"]);
}
