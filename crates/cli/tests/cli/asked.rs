//! Guards how VMs are asked for their state: QEMUs that are slow to answer are waited for together.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Barrier};

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

const VMS: [&str; 3] = ["a", "b", "c"];

/// Asked one after the other none of these would answer: each greets only when all have been asked.
#[test]
fn vms_are_asked_together() {
    let sandbox = Sandbox::new();
    let all_asked = Arc::new(Barrier::new(VMS.len()));
    for name in VMS {
        sandbox.vm(name);
        sandbox.ok(&["vm", "start", name, "--paused"]);
        let run = PathBuf::from(sandbox.json(&["vm", "show", name])["run"].as_str().unwrap());
        let socket = run.join("status.sock");
        fs::remove_file(&socket).unwrap();
        let (listener, all_asked) = (UnixListener::bind(&socket).unwrap(), Arc::clone(&all_asked));
        std::thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            all_asked.wait();
            answer(&client);
        });
    }
    let list = sandbox.json(&["vm", "list"]);
    let state = |view: &Value| format!("{}: {}", view["name"], view["state"]);
    let states: Vec<String> = list.as_array().unwrap().iter().map(state).collect();
    assert_eq!(states, VMS.map(|name| format!("\"{name}\": \"crashed\"")));
}

/// Speaks QMP as a QEMU whose guest has panicked, which a real one here never says.
fn answer(client: &UnixStream) {
    let mut to_client = client;
    let mut say = |message: Value| to_client.write_all(format!("{message}\r\n").as_bytes());
    let version = json!({"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""});
    say(json!({"QMP": {"version": version, "capabilities": []}})).unwrap();
    for line in BufReader::new(client).lines() {
        let Ok(request) = line.map(|line| serde_json::from_str::<Value>(&line).unwrap()) else { return };
        let reply = if request["execute"] == "query-status" {
            json!({"status": "guest-panicked", "running": false})
        } else {
            json!({})
        };
        // The client may have what it wants.
        let _ = say(json!({"return": reply, "id": request["id"]}));
    }
}
