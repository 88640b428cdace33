//! Who was refused a moment ago: nobody else is asked again for each datagram of theirs.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Whom a POP refused is not offered again for this long.
pub(super) const REFUSED_FOR: Duration = Duration::from_secs(1);
/// Whose flow was lost before anything could flow: its next datagrams may find another way, but not each a handshake.
pub(super) const LOST_FOR: Duration = Duration::from_millis(200);
const REFUSALS_MAX: usize = 4_096;

/// Sources of datagrams at one socket.
#[derive(Default)]
pub(super) struct Refusals(HashMap<SocketAddr, Instant>);

impl Refusals {
    /// One more, unless there are so many that they may as well be offered again.
    pub(super) fn add(&mut self, source: SocketAddr, until: Instant) {
        if self.0.len() < REFUSALS_MAX {
            self.0.insert(source, until);
        }
    }

    pub(super) fn holds(&self, source: &SocketAddr, now: Instant) -> bool {
        self.0.get(source).is_some_and(|until| *until > now)
    }

    /// Those that are over.
    pub(super) fn forget_over(&mut self, now: Instant) {
        self.0.retain(|_, until| *until > now);
    }
}
