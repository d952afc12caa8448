//! QMP from the outside: the session under every split of bytes, the clients against a scripted peer and a real QEMU.

#![allow(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod agent;
mod agent_in_guest;
mod client;
mod real_qemu;
mod session;
