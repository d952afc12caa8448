//! What the fake knows of itself, and what each command does to that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::Setup;

/// An event and its data.
pub(super) type Told = (&'static str, Value);

/// What a command gives besides a changed state.
pub(super) enum Answer {
    /// A value to return.
    Value(Value),
    /// A migration to this socket begins.
    Migrate(PathBuf),
    /// One from this socket does.
    Incoming(PathBuf),
    /// The machine ends on its own.
    PowerOff,
}

/// A node of the block layer.
#[derive(Debug)]
struct Node {
    file: String,
    backing: Option<String>,
    /// Whether a command opened it.
    opened: bool,
    /// Whether a device or another node uses it.
    used: bool,
}

/// All of it. Words are QEMU's.
#[derive(Debug)]
pub(super) struct State {
    pub(super) setup: Setup,
    pub(super) run_state: &'static str,
    pub(super) migration: &'static str,
    /// Whether the guest ran when the migration stopped it.
    pub(super) ran_before: bool,
    pub(super) why: Option<String>,
    capabilities: BTreeMap<String, bool>,
    parameters: Map<String, Value>,
    nodes: BTreeMap<String, Node>,
    /// Device to its top node.
    tops: BTreeMap<String, String>,
    /// Network devices whose cable was unplugged.
    unplugged: BTreeSet<String>,
}

impl State {
    pub(super) fn new(setup: Setup) -> Self {
        let base = |device: &String| Node {
            file: format!("/images/{device}.qcow2"),
            backing: None,
            opened: false,
            used: true,
        };
        let nodes = setup.devices.iter().map(|device| (format!("#{device}"), base(device))).collect();
        let tops = setup.devices.iter().map(|device| (device.clone(), format!("#{device}"))).collect();
        let run_state = setup.run_state;
        Self {
            setup,
            run_state,
            migration: "none",
            ran_before: false,
            why: None,
            capabilities: BTreeMap::new(),
            parameters: parameters(),
            nodes,
            tops,
            unplugged: BTreeSet::new(),
        }
    }

    pub(super) fn top_of(&self, device: &str) -> Option<String> {
        let top = self.tops.get(device)?;
        Some(if top.starts_with('#') { device.to_owned() } else { top.clone() })
    }

    pub(super) fn opened(&self) -> Vec<String> {
        self.nodes.iter().filter(|(_, node)| node.opened).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn is_plugged(&self, link: &str) -> bool {
        self.setup.links.iter().any(|found| found == link) && !self.unplugged.contains(link)
    }

    /// Capabilities that are on, and the parameters.
    pub(super) fn settings(&self) -> Value {
        let on = self.capabilities.iter().filter(|(_, on)| **on).map(|(name, _)| name);
        json!({"on": on.collect::<Vec<_>>(), "parameters": self.parameters})
    }

    /// Whether a capability is on.
    pub(super) fn has(&self, capability: &str) -> bool {
        self.capabilities.get(capability).copied().unwrap_or(false)
    }

    /// Whether a migration is under way.
    pub(super) fn migrates(&self) -> bool {
        !matches!(self.migration, "none" | "completed" | "failed" | "cancelled")
    }

    pub(super) fn set_migration(&mut self, status: &'static str, events: &mut Vec<Told>) {
        self.migration = status;
        if self.has("events") {
            events.push(("MIGRATION", json!({ "status": status })));
        }
    }

    /// Stops the guest, which is in this state then.
    pub(super) fn stop(&mut self, state: &'static str, events: &mut Vec<Told>) {
        if self.run_state == "running" {
            events.push(("STOP", json!({})));
        }
        self.run_state = state;
    }

    pub(super) fn resume(&mut self, events: &mut Vec<Told>) {
        if self.run_state != "running" {
            self.run_state = "running";
            events.push(("RESUME", json!({})));
        }
    }

    /// Carries a command out.
    pub(super) fn execute(
        &mut self,
        command: &str,
        arguments: &Value,
        events: &mut Vec<Told>,
    ) -> Result<Answer, String> {
        let nothing = || Ok(Answer::Value(json!({})));
        match command {
            "qmp_capabilities" | "quit" => nothing(),
            "migrate-set-parameters" => {
                self.parameters.extend(arguments.as_object().cloned().unwrap_or_default());
                nothing()
            }
            "stop" => {
                self.stop("paused", events);
                nothing()
            }
            "cont" if matches!(self.migration, "pre-switchover" | "device") => {
                Err("Migration is not finalized yet".into())
            }
            "cont" => {
                self.resume(events);
                nothing()
            }
            "system_powerdown" if self.setup.powers_off => Ok(Answer::PowerOff),
            "system_powerdown" => nothing(),
            "blockdev-add" => self.add_node(arguments).map(Answer::Value),
            "blockdev-del" => self.remove_node(arguments).map(Answer::Value),
            "set_link" => self.set_link(arguments).map(Answer::Value),
            "transaction" => self.transaction(arguments).map(Answer::Value),
            "migrate-set-capabilities" => self.set_capabilities(arguments).map(Answer::Value),
            "migrate" => self.migrate(arguments, events).map(Answer::Migrate),
            "migrate-incoming" if self.run_state != "inmigrate" => {
                Err("'-incoming' was not specified on the command line".into())
            }
            "migrate-incoming" => self.migrate(arguments, events).map(Answer::Incoming),
            "migrate-continue" if self.migration == "pre-switchover" => {
                self.set_migration("device", events);
                nothing()
            }
            "migrate-continue" => Err(format!("Migration not in expected state: {}", self.migration)),
            "migrate_cancel" => {
                if self.migrates() {
                    self.set_migration("cancelling", events);
                }
                nothing()
            }
            _ => self
                .query(command)
                .map(Answer::Value)
                .ok_or_else(|| format!("The command {command} has not been found")),
        }
    }

    fn query(&self, command: &str) -> Option<Value> {
        let state = self.run_state;
        Some(match command {
            "query-status" => json!({"running": state == "running", "status": state}),
            "query-kvm" => json!({"enabled": self.setup.kvm, "present": true}),
            "query-memdev" => json!([]),
            "query-chardev" => {
                let open = |label| json!({"label": label, "filename": "", "frontend-open": true});
                self.setup.agent.iter().map(open).collect()
            }
            // The only question to the human monitor: `info network`.
            "human-monitor-command" => {
                let facts = "index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56";
                json!(self.setup.links.iter().map(|link| format!("{link}: {facts}\r\n")).collect::<String>())
            }
            "query-migrate-capabilities" => {
                let names = ["events", "pause-before-switchover", "background-snapshot", "postcopy-ram"];
                json!(names.map(|name| json!({"capability": name, "state": self.has(name)})))
            }
            "query-migrate-parameters" => Value::Object(self.parameters.clone()),
            "query-migrate" if self.migration == "none" => json!({}),
            "query-migrate" => match &self.why {
                Some(why) => json!({"status": self.migration, "error-desc": why}),
                None => json!({"status": self.migration}),
            },
            "query-named-block-nodes" => {
                self.nodes.iter().map(|(name, node)| described(name, node)).collect()
            }
            _ => return None,
        })
    }

    fn set_capabilities(&mut self, arguments: &Value) -> Result<Value, String> {
        if self.migrates() {
            return Err("There's a migration process in progress".into());
        }
        for one in list(arguments, "capabilities") {
            let (name, on) = (text(one, "capability"), one.get("state") == Some(&Value::Bool(true)));
            if on && name == "background-snapshot" && !self.setup.background {
                return Err("Background-snapshot is not supported by host kernel".into());
            }
            if on && name == "postcopy-ram" && !self.setup.postcopy {
                return Err("Postcopy is not supported".into());
            }
            self.capabilities.insert(name, on);
        }
        Ok(json!({}))
    }

    fn set_link(&mut self, arguments: &Value) -> Result<Value, String> {
        let name = text(arguments, "name");
        if !self.setup.links.contains(&name) {
            return Err(format!("Device '{name}' not found"));
        }
        if arguments.get("up") == Some(&Value::Bool(true)) {
            self.unplugged.remove(&name);
        } else {
            self.unplugged.insert(name);
        }
        Ok(json!({}))
    }

    fn migrate(&mut self, arguments: &Value, events: &mut Vec<Told>) -> Result<PathBuf, String> {
        if self.migrates() {
            return Err("There's a migration process in progress".into());
        }
        let uri = text(arguments, "uri");
        let socket = uri.strip_prefix("unix:").ok_or("unknown migration protocol")?;
        self.why = None;
        self.ran_before = self.run_state == "running";
        self.set_migration("setup", events);
        Ok(PathBuf::from(socket))
    }

    fn add_node(&mut self, arguments: &Value) -> Result<Value, String> {
        let (name, file) = (text(arguments, "node-name"), file_of(arguments));
        if self.nodes.contains_key(&name) {
            return Err(format!("Duplicate nodes with node-name='{name}'"));
        }
        self.nodes.insert(name, Node { file, backing: None, opened: true, used: false });
        Ok(json!({}))
    }

    fn remove_node(&mut self, arguments: &Value) -> Result<Value, String> {
        let name = text(arguments, "node-name");
        match self.nodes.get(&name) {
            None => Err(format!("Failed to find node with node-name='{name}'")),
            Some(node) if node.used => Err(format!("Node {name} is in use")),
            Some(_) => {
                self.nodes.remove(&name);
                Ok(json!({}))
            }
        }
    }

    /// All or none: everything is looked at before anything is changed.
    fn transaction(&mut self, arguments: &Value) -> Result<Value, String> {
        let mut changes = Vec::new();
        for action in list(arguments, "actions") {
            let data = action.get("data").unwrap_or(&Value::Null);
            let (node, overlay) = (text(data, "node"), text(data, "overlay"));
            let device = self.tops.iter().find(|(device, top)| **device == node || **top == node);
            let (device, top) = device.ok_or_else(|| format!("Cannot find device='{node}'"))?;
            let new = self.nodes.get(&overlay).ok_or_else(|| format!("Cannot find node '{overlay}'"))?;
            if new.backing.is_some() {
                return Err("The overlay already has a backing image".into());
            }
            let below = self.nodes.get(top).map(|node| node.file.clone());
            changes.push((device.clone(), overlay, below));
        }
        for (device, overlay, below) in changes {
            if let Some(node) = self.nodes.get_mut(&overlay) {
                (node.backing, node.used) = (below, true);
            }
            self.tops.insert(device, overlay);
        }
        Ok(json!({}))
    }
}

/// As QEMU has them at first.
fn parameters() -> Map<String, Value> {
    let values = [
        ("max-bandwidth", json!(128 << 20)),
        ("downtime-limit", json!(300)),
        ("tls-creds", json!("")),
        ("mode", json!("normal")),
    ];
    values.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}

fn described(name: &str, node: &Node) -> Value {
    let mut value = json!({
        "node-name": name,
        "drv": "qcow2",
        "ro": false,
        "file": node.file,
        "backing_file_depth": 0,
        "image": {"filename": node.file, "format": "qcow2", "virtual-size": 1 << 20},
    });
    if let (Some(backing), Some(fields)) = (&node.backing, value.as_object_mut()) {
        fields.insert("backing_file".into(), json!(backing));
    }
    value
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The file that a node's options name, at whatever depth.
fn file_of(options: &Value) -> String {
    match options.get("filename") {
        Some(name) => name.as_str().unwrap_or_default().to_owned(),
        None => options.get("file").map(file_of).unwrap_or_default(),
    }
}
