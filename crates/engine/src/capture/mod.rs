//! Captures the memory, devices and disks of a running VM at one instant.
//!
//! ```text
//!             precopy                    background                paused
//!  migrate ... runs on ...        stop                      stop
//!  pre-switchover: STOP           switch disks              switch disks
//!    switch disks                 migrate                   migrate ... stands still ...
//!    migrate-continue             first page seen           completed
//!  completed: cont   <- instant   cont     <- instant       cont
//!                                 ... runs on, pages come
//! ```
//! Everything that takes time is done outside the pause: overlays made and opened, socket listening, image created,
//! guard started. Whatever fails, the guest is let go before anything else is done; if this process dies, the guard
//! does that.

pub(crate) mod attempt;
pub(crate) mod first_guess;
pub(crate) mod guard;
pub(crate) mod method;
pub(crate) mod receive;
pub(crate) mod shot;
