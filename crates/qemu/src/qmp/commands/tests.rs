//! Commands and replies in the shapes of QEMU 10.0.2's schema; `tests/qmp/real_qemu.rs` asks a real one.

use serde_json::{Value, json};

use super::*;

fn arguments<C: Command>(command: &C) -> Value {
    to_arguments(command).unwrap()
}

fn reply<C: Command>(value: Value) -> C::Reply {
    from_reply::<C>(value).unwrap()
}

/// QEMU refuses unknown arguments and nulls: absent options must be absent.
#[test]
fn arguments_are_exactly_those_given() {
    assert_eq!(arguments(&Stop), Value::Null);
    assert_eq!(arguments(&QueryNamedBlockNodes::default()), json!({}));
    assert_eq!(arguments(&Migrate::to_uri("unix:/x")), json!({"uri": "unix:/x"}));
    assert_eq!(
        arguments(&MigrateContinue { state: MigrationStatus::PreSwitchover }),
        json!({"state": "pre-switchover"})
    );
    let parameters = MigrationParameters { downtime_limit_ms: Some(20), ..Default::default() };
    assert_eq!(arguments(&MigrateSetParameters(parameters)), json!({"downtime-limit": 20}));
    let capabilities = MigrateSetCapabilities::of([("events", true), ("postcopy-ram", false)]);
    assert_eq!(
        arguments(&capabilities),
        json!({"capabilities": [{"capability": "events", "state": true},
                                {"capability": "postcopy-ram", "state": false}]})
    );
}

/// The transaction's shape is a tagged union that serde must write as QAPI reads it.
#[test]
fn a_transaction_names_type_and_data() {
    let snapshot = |disk: &str| BlockdevSnapshot { node: disk.to_owned(), overlay: format!("{disk}-1") };
    assert_eq!(
        arguments(&Transaction::of_snapshots([snapshot("a"), snapshot("b")])),
        json!({"actions": [
            {"type": "blockdev-snapshot", "data": {"node": "a", "overlay": "a-1"}},
            {"type": "blockdev-snapshot", "data": {"node": "b", "overlay": "b-1"}},
        ]})
    );
}

/// A newer QEMU's states and fields are kept as they are.
#[test]
fn unknown_states_and_fields_are_kept() {
    let status = reply::<QueryStatus>(json!({"running": false, "status": "hibernated", "why": 3}));
    assert_eq!(status.status, RunState::Other("hibernated".to_owned()));
    assert_eq!(status.status.to_string(), "hibernated");
    assert_eq!(status.other.get("why"), Some(&json!(3)));
    assert_eq!(serde_json::to_value(&status.status).unwrap(), json!("hibernated"));
    assert_eq!(serde_json::to_value(RunState::FinishMigrate).unwrap(), json!("finish-migrate"));
}

/// Before the first migration QEMU answers with an empty object; afterwards with any subset.
#[test]
fn a_migration_can_say_nothing_or_much() {
    let nothing = reply::<QueryMigrate>(json!({}));
    assert_eq!((nothing.status, nothing.blocked_reasons.len()), (None, 0));
    let info = reply::<QueryMigrate>(json!({
        "status": "pre-switchover", "setup-time": 3, "total-time": 120, "expected-downtime": 20,
        "blocked-reasons": ["The qcow format used by node '#block1' does not support live migration"],
        "ram": {"transferred": 9, "remaining": 4096, "total": 8192, "duplicate": 1, "normal": 2, "normal-bytes": 8192,
                "dirty-pages-rate": 5, "mbps": 1.5, "dirty-sync-count": 2, "postcopy-requests": 0, "page-size": 4096},
    }));
    assert_eq!(info.status, Some(MigrationStatus::PreSwitchover));
    assert_eq!((info.setup_time_ms, info.expected_downtime_ms, info.downtime_ms), (Some(3), Some(20), None));
    assert_eq!(info.blocked_reasons.len(), 1);
    let ram = info.ram.unwrap();
    assert_eq!((ram.remaining_bytes, ram.dirty_pages_rate, ram.page_size_bytes), (4096, 5, 4096));
    assert_eq!(ram.other.get("mbps"), Some(&json!(1.5)));
}

/// A reply without a field that every QEMU sends is a typed error that names the command.
#[test]
fn a_reply_of_another_shape_names_the_command() {
    let error = from_reply::<QueryStatus>(json!({"status": "running"})).unwrap_err();
    assert!(matches!(error, QmpError::Reply { command, .. } if command == "query-status"));
}
