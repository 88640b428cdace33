//! Going away without losing anybody: whoever was let in is served, whoever was not is sent elsewhere in time.
//!
//! A gateway tries another POP only until the TLS handshake is complete, or a clear connection is accepted. From there on a
//! visitor is ours. So a POP that drains shuts its doors first, waits for those who are between door and stream, and only
//! then says GOAWAY to its agents; and an agent's GOAWAY keeps nobody out who was in.

use std::time::{Duration, Instant};

use super::{Door, FAREWELL_TIMER, Server};
use crate::driver::relay::Phase;

/// For visitors between door and stream: a handshake and a header are a few round trips.
const FAREWELL: Duration = Duration::from_secs(1);

impl Server {
    /// Doors shut now, GOAWAY as soon as everybody who was let in has a stream, the rest is reset after `deadline`.
    pub(super) fn drain(&mut self, deadline: Duration) {
        if self.draining.is_some() {
            return;
        }
        let now = self.core.now();
        self.empty_doors();
        self.draining = Some(now + deadline);
        // An agent that is refused by the kernel costs nothing and comes back; one in a handshake costs a signature.
        self.doors.retain(|_, door| matches!(door, Door::Endpoint(..)));
        for uid in self.by_agent.keys().cloned().collect::<Vec<_>>() {
            self.refresh_doors(&uid);
        }
        // A gateway takes its flows elsewhere at once, a connector what begins from now on: nobody is between door and
        // stream on their lanes.
        for session in self.bringers.values().chain(self.connectors.values()).copied().collect::<Vec<_>>() {
            if let Some(machine) = self.core.table.session(session) {
                machine.drain(deadline, "server is draining", now);
            }
            self.core.table.touch(session);
        }
        self.core.hurry_flows(None);
        self.core.role_timer(now + FAREWELL.min(deadline), FAREWELL_TIMER);
    }

    /// Whoever the kernel has accepted for us already, at doors that will not listen any more.
    fn empty_doors(&mut self) {
        let doors: Vec<usize> =
            self.doors.iter().filter(|(_, door)| matches!(door, Door::Endpoint(..))).map(|(index, _)| index).collect();
        for door in doors {
            self.accept(door);
        }
    }

    /// GOAWAY to every agent: no new streams, the rest has what is left of the deadline. Once.
    pub(super) fn say_goodbye(&mut self) {
        let Some(until) = self.draining.filter(|_| !self.said_goodbye) else { return };
        self.said_goodbye = true;
        let now = self.core.now();
        let left = until.saturating_duration_since(now);
        for session in self.agents.values().copied().collect::<Vec<_>>() {
            if let Some(machine) = self.core.table.session(session) {
                machine.drain(left, "server is draining", now);
            }
            self.core.table.touch(session);
            self.session_changed(session);
        }
    }

    /// An agent drains: its endpoints turn visitors away, and the session waits for those who are on their way to it.
    pub(super) fn agent_leaves(&mut self, session: usize) {
        self.session_changed(session);
        let now = self.core.now();
        if self.uid_of(session).is_some_and(|uid| self.has_stragglers(&uid, now)) {
            if let Some(machine) = self.core.table.session(session) {
                machine.expect_stragglers(now + FAREWELL);
            }
        }
        self.core.table.touch(session);
    }

    /// Somebody is between door and stream of a route that only this agent, leaving, could serve.
    fn has_stragglers(&self, uid: &str, now: Instant) -> bool {
        let routes = self.by_agent.get(uid).map(Vec::as_slice).unwrap_or_default();
        let waiting = self.core.table.relays.iter().filter(|(_, relay)| {
            relay.phase == Phase::Preamble && !relay.dead && now.saturating_duration_since(relay.started) < FAREWELL
        });
        waiting.into_iter().any(|(_, relay)| routes.contains(&relay.owner) && !self.is_served(relay.owner))
    }
}
