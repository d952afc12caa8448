//! QMP, QEMU's control protocol: framing, session, typed commands and a socket client.
//!
//! ```text
//!            bytes            messages             waiters
//!  socket ---------> frame ------------> session ----------> client (threads, clock, socket)
//!                    lines     ids, states, errors            |-- execute: one reply by its id
//!  guest agent ----> frame ------------> agent                '-- EventCursor: every event from a point on
//! ```
//!
//! `frame`, `message`, `session`, `agent` and `commands` do no I/O: bytes in, messages and bytes out. `client` is the
//! only module with sockets, threads and a clock.
//!
//! Guarantees:
//! - a reply is matched by its id; a reply for another id ends the session with a typed error;
//! - events, fields and enum values this crate has never heard of are kept and never fatal;
//! - when QEMU goes away every waiter is told at once, after it got what QEMU sent before;
//! - every wait has a deadline, every buffer a bound.
//!
//! Checked against QEMU 10.0.2 (`query-qmp-schema`, and the tests run it); 7.2 and 8.2 are meant to work and are not
//! tested here. Out-of-band execution is negotiated on a monitor of its own only (`client/out_of_band.rs`).

pub mod agent;
pub mod client;
pub mod commands;
mod error;
pub mod frame;
#[doc(hidden)]
pub mod fuzz;
mod message;
pub mod session;

pub use client::{AgentClient, Client, EventCursor, OutOfBandClient, make_pipes};
pub use commands::{Command, OutOfBand};
pub use error::{QmpError, SessionError};
pub use message::{CommandError, Event, EventTime, QemuVersion};
