//! Background jobs: internal snapshots, commit and the like.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Nothing, commands, open_enum, plain_commands};

plain_commands! {
    /// `query-jobs`.
    QueryJobs = "query-jobs" -> Vec<JobInfo>;
}

commands! {
    JobDismiss = "job-dismiss" -> Nothing;
}

open_enum! {
    /// QAPI's `JobStatus`.
    JobStatus {
        /// Never seen outside QEMU.
        Undefined = "undefined",
        /// Made, not begun.
        Created = "created",
        /// At work.
        Running = "running",
        /// Paused while running.
        Paused = "paused",
        /// In step; waits for `job-complete`.
        Ready = "ready",
        /// Paused while ready.
        Standby = "standby",
        /// Waits for other jobs of its transaction.
        Waiting = "waiting",
        /// Done but for `job-finalize`.
        Pending = "pending",
        /// Being undone.
        Aborting = "aborting",
        /// Over, with or without success; waits for `job-dismiss`.
        Concluded = "concluded",
        /// About to vanish.
        Null = "null",
    }
}

/// QAPI's `JobInfo`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct JobInfo {
    /// The job's id.
    pub id: String,
    /// `commit`, `stream`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is.
    pub status: JobStatus,
    /// Done so far, in units of the job's own.
    #[serde(rename = "current-progress")]
    pub current_progress: u64,
    /// The estimated end of `current_progress`; it can move.
    #[serde(rename = "total-progress")]
    pub total_progress: u64,
    /// Why it failed, once it is concluded.
    pub error: Option<String>,
    /// Fields not typed here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// `job-dismiss`: lets a concluded job vanish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobDismiss {
    /// The job's id.
    pub id: String,
}
