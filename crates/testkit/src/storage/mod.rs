//! Storages that behave as badly as the contract of [`vmrewind_store::Storage`] allows.
//!
//! [`CrashStorage`] loses power at a chosen operation and shows what a disk may hold afterwards; [`FaultStorage`] lets a
//! chosen operation fail. Both count the operations that change something, so that a test can try every one of them.

mod crash;
mod fault;

pub use crash::CrashStorage;
pub use fault::{FaultStorage, Operation};

/// Pseudo-random numbers that a seed determines (splitmix64).
#[derive(Debug, Clone)]
pub struct SeededRandom {
    state: u64,
}

impl SeededRandom {
    /// Starts the sequence of `seed`.
    pub fn new(seed: u64) -> SeededRandom {
        SeededRandom { state: seed }
    }

    /// Returns the next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// Tosses a coin.
    pub fn coin(&mut self) -> bool {
        self.next_u64().is_multiple_of(2)
    }
}
