//! Tests of the store through its public interface, on folders, in memory, on storages that crash and fail.

mod basics;
mod crash;
mod damage;
mod fault;
mod fixtures;
mod gc;
mod generations;
mod health;
mod model;
mod support;
