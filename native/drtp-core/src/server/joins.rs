//! Sealed streams: a connector's meets an agent's, and this POP passes on what it cannot read.
//!
//! Who may is in the RouteTable, and is asked for each stream, and for live ones at each change of the table.

use std::net::SocketAddr;

use super::{Route, Server};
use crate::access::Verdict;
use crate::driver::relay::{Bringer, Phase, Relay};
use crate::driver::table::canonical;
use crate::identity::{PeerIdentity, Role};
use crate::message::{Carries, Open, ResetCode};

impl Server {
    /// A connector brought a stream.
    pub(super) fn stream_came(&mut self, near: usize) {
        if let Err(code) = self.join_stream(near) {
            self.core.table.end_relay(near, Err(code));
        }
    }

    fn join_stream(&mut self, near: usize) -> Result<(), ResetCode> {
        let state = self.core.table.relays.get(near).filter(|relay| !relay.dead).ok_or(ResetCode::Lost)?;
        let (from_session, from_stream) = (state.session, state.stream);
        let (connector, not_after, came_from) = self.bringer(from_session).ok_or(ResetCode::Denied)?;
        let open = state.open.as_ref().ok_or(ResetCode::Denied)?;
        // What its connector says of the visitor is its own side's affair: here it is who dialled this POP.
        let open = Open { visitor: came_from, destination: None, ..(**open).clone() };
        // A route that is not there and one that does not admit the caller are one answer.
        let owner = self.by_connection(&open.connection).ok_or(ResetCode::Denied)?;
        let found = self.place_for(owner, &open, &connector);
        let (would_refuse, session) = found.inspect_err(|_| self.routes[owner].denied_total += 1)?;
        // Callers who say nothing leave half of the room to visitors, and to callers of other services.
        let half_open = self.core.table.session(session).map_or(0, |session| session.half_open_count());
        if half_open >= self.config.limits.streams_half_open_max / 2 {
            return Err(ResetCode::Busy);
        }
        let (serial, now) = (self.core.table.next_serial(), self.core.now());
        let mut far = Relay::new(Phase::Open, owner, serial, now);
        far.bringer = Some(Box::new(Bringer::new(connector, not_after, None)));
        let far = self.core.table.relays.insert(far);
        if let Err(code) = self.core.table.open_stream(far, session, &open) {
            self.core.table.relays[far].owner = usize::MAX;
            self.core.table.end_relay(far, Err(code));
            return Err(code);
        }
        self.core.table.join_streams(near, far);
        self.count_in(owner, far, would_refuse);
        if let Some(session) = self.core.table.session(from_session) {
            session.connected(from_stream);
        }
        self.core.table.touch(from_session);
        Ok(())
    }

    /// The connector behind a session, its certificate's end, and where it dialled from.
    fn bringer(&self, session: usize) -> Option<(String, i64, Option<SocketAddr>)> {
        let session = self.core.table.sessions.get(session)?;
        let peer = session.peer.as_ref().filter(|peer| peer.role == Role::Connector)?;
        Some((peer.uid.clone(), peer.not_after, session.address.parse().ok().map(canonical)))
    }

    /// The one decision on a caller. Two halves that do not trust each other: the control plane has named its connector,
    /// and the policies that came along let it pass by all that is known here: whose it is, where it dialled from, the
    /// hour, and which POP this is.
    fn admits(&self, route: &Route, connector: &str, from: Option<SocketAddr>) -> Verdict {
        let named = route.guard.caller(connector).filter(|_| route.spec.enabled && !self.denied.names(connector));
        named.map_or_else(Verdict::default, |caller| {
            self.caller_verdict(route, from.map(|address| address.ip()), caller)
        })
    }

    /// Whether a list that only counts would refuse it, and the agent's session that takes it.
    fn place_for(&mut self, owner: usize, open: &Open, connector: &str) -> Result<(bool, usize), ResetCode> {
        let would_refuse = self.admit_stream(owner, open, connector)?;
        Ok((would_refuse, self.sealed_session_for(owner, open.carries)?))
    }

    fn admit_stream(&mut self, owner: usize, open: &Open, connector: &str) -> Result<bool, ResetCode> {
        let route = self.routes.get(owner).ok_or(ResetCode::Denied)?;
        let verdict = self.admits(route, connector, open.visitor);
        if !verdict.allowed {
            return Err(ResetCode::Denied);
        }
        if route.spec.carries() != open.carries.inside() {
            return Err(ResetCode::NoRoute);
        }
        if self.draining.is_some() {
            return Err(ResetCode::GoingAway);
        }
        if !self.has_room(route) || !self.within_rate(owner) {
            return Err(ResetCode::Busy);
        }
        Ok(verdict.would_refuse)
    }

    /// An agent's session that takes visitors, and understands what they bring. Agents that do not are passed over.
    fn sealed_session_for(&mut self, owner: usize, carries: Carries) -> Result<usize, ResetCode> {
        let agents = self.routes.get(owner).map_or(0, |route| route.spec.agents.len());
        let mut none = ResetCode::Lost;
        for _ in 0..agents {
            let Some(session) = self.session_for(owner) else { break };
            if self.core.table.session(session).is_some_and(|machine| machine.bears(carries)) {
                return Ok(session);
            }
            none = ResetCode::TooOld;
        }
        Err(none)
    }

    /// A live joined stream is held to what is in force now.
    pub(super) fn caller_stays(&self, route: &Route, relay: &Relay) -> bool {
        let from = relay.who.address();
        relay.bringer.as_ref().is_some_and(|bringer| self.admits(route, &bringer.uid, from).allowed)
    }

    /// Why a connector may not have a session here.
    pub(super) fn unwelcome_connector(&self, peer: &PeerIdentity) -> Option<&'static str> {
        (!self.by_caller.contains(&peer.uid)).then_some("no service here is for this caller (yet)")
    }
}
