//! Background jobs: commit, stream and the like.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Nothing, commands, open_enum, plain_commands};

plain_commands! {
    /// `query-jobs`.
    QueryJobs = "query-jobs" -> Vec<JobInfo>;
    /// `query-block-jobs`: the older view, with the rate limit and I/O status.
    QueryBlockJobs = "query-block-jobs" -> Vec<BlockJobInfo>;
}

commands! {
    JobDismiss = "job-dismiss" -> Nothing;
    JobComplete = "job-complete" -> Nothing;
    JobCancel = "job-cancel" -> Nothing;
    JobFinalize = "job-finalize" -> Nothing;
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

/// QAPI's `BlockJobInfo`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BlockJobInfo {
    /// The job's id.
    pub device: String,
    /// `commit`, `stream`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The end of `offset`, in bytes.
    pub len: u64,
    /// Done so far, in bytes.
    pub offset: u64,
    /// Whether it waits for `job-complete`.
    pub ready: bool,
    /// Where it is.
    pub status: JobStatus,
    /// `ok`, `failed` or `nospace`.
    #[serde(rename = "io-status")]
    pub io_status: Option<String>,
    /// Why it failed.
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

/// `job-complete`: ends a ready job by its last step; it is over at its event, not at the reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobComplete {
    /// The job's id.
    pub id: String,
}

/// `job-cancel`: stops a job; it is over at its event, not at the reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobCancel {
    /// The job's id.
    pub id: String,
}

/// `job-finalize`: lets a pending job, and its transaction, take effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobFinalize {
    /// The job's id.
    pub id: String,
}
