//! Sealed streams: a connector's meets an agent's, and this POP passes on what it cannot read.
//!
//! Who may is in the RouteTable, and is asked for each stream, and for live ones at each change of the table.

use std::net::SocketAddr;

use super::entries::CallerSpec;
use super::{Route, Server};
use crate::driver::relay::{Phase, Relay};
use crate::driver::table::canonical;
use crate::identity::{PeerIdentity, Role};
use crate::message::{Carries, Open, ResetCode};

impl Route {
    /// The one decision on a caller: the control plane has named it, by the identity of its connector.
    ///
    /// Rules on callers (their organisation, their address, the hour) have their place here.
    pub(super) fn admits(&self, connector: &str, _visitor: Option<SocketAddr>) -> bool {
        self.spec.enabled && self.caller(connector).is_some()
    }

    fn caller(&self, connector: &str) -> Option<&CallerSpec> {
        self.spec.callers.iter().find(|caller| caller.identity == connector)
    }
}

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
        if let Err(code) = self.admit_stream(owner, &connector, came_from) {
            self.routes[owner].denied_total += 1;
            return Err(code);
        }
        let session = self.sealed_session_for(owner).ok_or(ResetCode::Lost)?;
        // Callers who say nothing leave half of the room to visitors, and to callers of other services.
        let half_open = self.core.table.session(session).map_or(0, |session| session.half_open_count());
        if half_open >= self.config.limits.streams_half_open_max / 2 {
            return Err(ResetCode::Busy);
        }
        let (serial, now) = (self.core.table.next_serial(), self.core.now());
        let mut far = Relay::new(Phase::Open, owner, serial, now);
        far.gateway = Some(Box::new((connector, not_after)));
        let far = self.core.table.relays.insert(far);
        if let Err(code) = self.core.table.open_stream(far, session, &open) {
            self.core.table.relays[far].owner = usize::MAX;
            self.core.table.end_relay(far, Err(code));
            return Err(code);
        }
        let route = &mut self.routes[owner];
        route.visitors.insert(far);
        route.streams_total += 1;
        self.core.table.join_streams(near, far);
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

    fn admit_stream(&mut self, owner: usize, connector: &str, from: Option<SocketAddr>) -> Result<(), ResetCode> {
        let route = self.routes.get(owner).ok_or(ResetCode::Denied)?;
        if self.denied.contains(connector) || !route.admits(connector, from) {
            return Err(ResetCode::Denied);
        }
        if route.spec.carries() != Carries::Bytes {
            return Err(ResetCode::NoRoute);
        }
        if self.draining.is_some() {
            return Err(ResetCode::GoingAway);
        }
        let cap = route.spec.limits.streams_max;
        if cap > 0 && route.visitors.len() >= cap as usize {
            return Err(ResetCode::Busy);
        }
        if self.within_rate(owner) { Ok(()) } else { Err(ResetCode::Busy) }
    }

    /// An agent's session that takes visitors, and understands sealed streams.
    fn sealed_session_for(&mut self, owner: usize) -> Option<usize> {
        let session = self.session_for(owner)?;
        self.core.table.session(session).is_some_and(|machine| machine.bears_sealed()).then_some(session)
    }

    /// A live joined stream is held to what is in force now.
    pub(super) fn caller_stays(&self, route: &Route, relay: &Relay) -> bool {
        let connector = relay.gateway.as_ref().map(|bringer| bringer.0.as_str());
        let admitted = |uid: &str| !self.denied.contains(uid) && route.admits(uid, relay.who.address());
        connector.is_some_and(admitted)
    }

    /// Why a connector may not have a session here.
    pub(super) fn unwelcome_connector(&self, peer: &PeerIdentity) -> Option<&'static str> {
        (!self.by_caller.contains(&peer.uid)).then_some("no service here is for this caller (yet)")
    }
}
