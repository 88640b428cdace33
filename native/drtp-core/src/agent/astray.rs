//! Connections whose way was lost before anybody at its end had proven itself. Nothing of such a program has been read, so
//! another way is as good: they are tried again, by another POP where there is one, and else for a moment only.

use std::time::{Duration, Instant};

use super::port::Meant;
use super::{Agent, What};
use crate::driver::relay::{Outcome, Phase, Relay};
use crate::driver::socket::Socket;
use crate::message::{Carries, ResetCode};

/// For so long a program waits for a way, from when it came; a POP that has not been tried is tried later, too.
const WAITS_FOR: Duration = Duration::from_secs(1);
/// Between two looks, where every POP has been tried.
const AGAIN: Duration = Duration::from_millis(50);

/// Tries of one connection so far.
#[derive(Debug, Clone)]
pub(super) struct Tries {
    pub(super) since: Instant,
    /// POPs, by server uid.
    pub(super) servers: Vec<String>,
}

impl Tries {
    pub(super) fn begun(now: Instant) -> Self {
        Self { since: now, servers: Vec::new() }
    }
}

/// One that waits for its next try.
pub(super) struct Astray {
    socket: Socket,
    tries: Tries,
}

/// What another way may mend.
pub(super) fn is_way_lost(code: ResetCode) -> bool {
    matches!(code, ResetCode::Lost | ResetCode::GoingAway)
}

impl Agent {
    /// A connection of a port is over before it began. Tells whether it waits for another way.
    pub(super) fn goes_astray(&mut self, relay: usize, outcome: Outcome) -> bool {
        let Some(state) = self.core.table.relays.get_mut(relay) else { return false };
        let (owner, socket) = (state.owner, state.socket.take());
        let (Some(port), Some(mut socket)) = (self.ports.get_mut(owner), socket) else { return false };
        let Some(Meant { server, mut tries, .. }) = port.meant.remove(&relay) else { return false };
        tries.servers.push(server);
        let over = self.core.table.now >= tries.since + WAITS_FOR && !self.is_untried(owner, &tries);
        if over || !outcome.is_err_and(is_way_lost) || socket.deregister(self.core.poll.registry()).is_err() {
            return false;
        }
        self.ports[owner].forget(relay);
        self.wait_for_a_way(owner, socket, tries);
        true
    }

    /// A POP with a session is left that has not been tried.
    fn is_untried(&self, index: usize, tries: &Tries) -> bool {
        let is_fresh = |server: &String| !tries.servers.contains(server) && self.session_with(server).is_some();
        self.ports[index].spec.servers().any(is_fresh)
    }

    /// The next look is at once, while there is a POP to try.
    fn wait_for_a_way(&mut self, index: usize, socket: Socket, tries: Tries) {
        let now = self.core.now();
        let at = if self.is_untried(index, &tries) { now } else { now + AGAIN };
        let port = &mut self.ports[index];
        port.astray.push_back(Astray { socket, tries });
        if port.looks_at.is_none_or(|next| at < next) {
            port.looks_at = Some(at);
            self.later(at, What::Astray(index));
        }
    }

    /// Everybody who waits at a port has another try. A timer that an earlier one has come before finds nothing to do.
    pub(super) fn look_for_ways(&mut self, index: usize) {
        let now = self.core.now();
        let Some(port) = self.ports.get_mut(index) else { return };
        if port.looks_at.is_none_or(|at| now < at) {
            return;
        }
        port.looks_at = None;
        for waiting in std::mem::take(&mut port.astray) {
            let begun = if self.draining() {
                Err(ResetCode::GoingAway)
            } else {
                self.take_a_way(index, waiting.socket, waiting.tries)
            };
            self.note_begun(index, None, begun);
        }
    }

    /// Opens a connection's stream, or has it wait for a way: `None`.
    pub(super) fn take_a_way(
        &mut self,
        index: usize,
        socket: Socket,
        tries: Tries,
    ) -> Result<Option<usize>, ResetCode> {
        match self.choose_way(index, Carries::Sealed, &tries.servers) {
            Ok(way) => {
                let relay = Relay::new(Phase::Sealing, index, self.core.table.next_serial(), self.core.now());
                let dial_ms = self.config.limits.dial_ms;
                self.seal_to_agent(index, relay, Some(socket), way, (Carries::Sealed, dial_ms), tries).map(Some)
            }
            Err(code) if is_way_lost(code) && self.core.now() < tries.since + WAITS_FOR => {
                // All of them are to be tried again: one may be back.
                let tries = Tries { servers: self.ports[index].spec.servers().cloned().collect(), ..tries };
                self.wait_for_a_way(index, socket, tries);
                Ok(None)
            }
            Err(code) => Err(code),
        }
    }
}
