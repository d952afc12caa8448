//! Tests of the store through its public interface, on folders, in memory, on storages that crash and fail.

mod basics;
mod crash;
mod damage;
mod fault;
mod generations;
mod model;
mod support;
