//! `vmrewind snapshot create`: records a VM at one instant.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use vmrewind_engine::{Error, Grade, SnapshotCreate};

use crate::command_error::CommandError;
use crate::commands::address::address;
use crate::commands::snapshot::show::summary;
use crate::output::human::duration_ms;
use crate::quantity::parse_duration;
use crate::session::Session;

/// Arguments of `snapshot create`.
#[derive(Debug, Args)]
#[command(after_help = "\
The grade is what the snapshot promises:
  live   memory, devices and disks of one instant; the guest goes on where it was
  crash  disks of one instant (--disk-only); the guest boots from them as after a power cut
  off    disks of a VM that does not run
A VM that runs or is paused gives live. --require refuses to make less, before anything is done.

With --max-pause a capture that would pause the guest for longer is given up (exit status 5), and the VM runs on. \
The method that needs a pause for all of its memory (`paused`) is not tried then.

Examples:
  vmrewind snapshot create web
  vmrewind snapshot create web before-upgrade -m 'clean system' --label ticket=4711
  vmrewind snapshot create web nightly --require live --max-pause 50ms
  vmrewind snapshot create web --disk-only")]
pub(crate) struct CreateArguments {
    /// Name of the VM, or the snapshot's whole address VM@NAME
    #[arg(value_name = "VM")]
    vm: String,
    /// Name of the snapshot [default: snap-N]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Words to remember it by
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// A label; can be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Leave the memory out
    #[arg(long)]
    disk_only: bool,
    /// Fail where the snapshot would promise less
    #[arg(long, value_name = "GRADE", value_parser = grade())]
    require: Option<Grade>,
    /// Fail where the guest would stand still for longer: 500us, 100ms, 2s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_pause: Option<Duration>,
}

/// Makes the snapshot.
///
/// # Errors
/// As the engine's `snapshot_create`.
pub(crate) fn run(session: &Session, arguments: CreateArguments) -> Result<(), CommandError> {
    let request = request(arguments)?;
    let view = session.operation()?.snapshot_create(&request)?;
    session.output.result(&view, || {
        format!("{}@{}: {}, {}", view.vm, view.name, summary(&view), duration_ms(view.total_ms))
    })?;
    Ok(())
}

fn request(arguments: CreateArguments) -> Result<SnapshotCreate, CommandError> {
    let (vm, name) = match &arguments.name {
        None if !arguments.vm.contains('@') => (arguments.vm.parse()?, None),
        name => {
            let address = address(&arguments.vm, name.as_deref())?;
            (address.vm, Some(address.snapshot))
        }
    };
    let mut labels = BTreeMap::new();
    for (key, value) in arguments.labels {
        if labels.insert(key.clone(), value).is_some() {
            return Err(Error::usage(format!("label '{}' is given twice", key.escape_debug())).into());
        }
    }
    Ok(SnapshotCreate {
        vm,
        name,
        message: arguments.message,
        labels,
        disk_only: arguments.disk_only,
        require: arguments.require,
        max_pause: arguments.max_pause,
    })
}

fn grade() -> impl TypedValueParser<Value = Grade> {
    // Nothing makes snapshots of that grade yet; a script that asks for it is refused what promises less all the same.
    let filesystem = PossibleValue::new("filesystem").hide(true);
    PossibleValuesParser::new(
        ["live", "crash", "off"].map(PossibleValue::new).into_iter().chain([filesystem]),
    )
    .try_map(|text| text.parse::<Grade>())
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(vm: &str, name: Option<&str>) -> CreateArguments {
        CreateArguments {
            vm: vm.into(),
            name: name.map(str::to_owned),
            message: None,
            labels: vec![("a".into(), "b=c".into())],
            disk_only: false,
            require: None,
            max_pause: None,
        }
    }

    /// Both ways to name a snapshot must mean the same one.
    #[test]
    fn vm_and_name_or_address() {
        for (vm, name) in [("web", Some("x")), ("web@x", None)] {
            let request = request(arguments(vm, name)).unwrap();
            assert_eq!((request.vm.as_str(), request.name.unwrap().as_str()), ("web", "x"));
        }
        assert!(request(arguments("web", None)).unwrap().name.is_none());
        assert!(request(arguments("web@x", Some("y"))).is_err());
    }

    #[test]
    fn labels_are_keys_and_values() {
        assert_eq!(request(arguments("web", None)).unwrap().labels["a"], "b=c");
        assert!(parse_label("=x").is_err());
        assert!(parse_label("x").is_err());
        let mut twice = arguments("web", None);
        twice.labels.push(("a".into(), String::new()));
        assert!(request(twice).is_err());
    }
}
