//! Flows of datagrams: a gateway's stream meets an agent's, and this POP passes datagrams from one to the other.

use std::time::Duration;

use super::Server;
use crate::driver::flow::{Flow, Guard, Taker};
use crate::driver::relay::{Bringer, Phase, Relay};
use crate::identity::Role;
use crate::message::{Carries, Open, ResetCode};

impl Server {
    /// A gateway brought a visitor, whose half of the flow waits in `near`; or a connector a sealed stream.
    pub(super) fn flow_came(&mut self, near: usize) {
        let state = self.core.table.relays.get(near).and_then(|relay| relay.open.as_ref());
        if state.is_some_and(|open| open.carries.is_sealed()) {
            return self.stream_came(near);
        }
        if let Err(code) = self.join_flow(near) {
            self.core.table.end_relay(near, Err(code));
        }
    }

    fn join_flow(&mut self, near: usize) -> Result<(), ResetCode> {
        let state = self.core.table.relays.get(near).filter(|relay| !relay.dead).ok_or(ResetCode::Lost)?;
        let bringer = self.core.table.sessions.get(state.session).and_then(|session| session.peer.as_ref());
        let bringer = bringer.filter(|peer| peer.role == Role::Gateway && self.trusts(&peer.uid));
        let gateway = bringer.map(Bringer::shown).ok_or(ResetCode::Denied)?;
        let (open, flow) = (state.open.as_ref(), state.flow.as_ref());
        let (Some(open), Some(idle)) = (open, flow.map(|flow| flow.idle)) else { return Err(ResetCode::Denied) };
        let open = open.clone();
        let (from_session, from_stream) = (state.session, state.stream);
        let owner = self.by_connection(&open.connection).ok_or(ResetCode::NoRoute)?;
        let would_refuse = match self.admit_flow(owner, &open) {
            Ok(would_refuse) => would_refuse,
            Err(code) => {
                self.routes[owner].denied_total += 1;
                return Err(code);
            }
        };
        let session = self.session_for(owner).ok_or(ResetCode::Lost)?;
        let far = self.far_half(near, owner, gateway, idle);
        if let Err(code) = self.core.table.open_stream(far, session, &open) {
            self.core.table.end_relay(far, Err(code));
            return Err(code);
        }
        self.count_in(owner, far, would_refuse);
        if let Some(session) = self.core.table.session(from_session) {
            session.connected(from_stream);
        }
        self.core.table.touch(from_session);
        self.core.watch_silence(far);
        self.early_datagrams(near, far);
        Ok(())
    }

    pub(super) fn by_connection(&self, connection: &str) -> Option<usize> {
        self.route_of.get(connection).copied()
    }

    /// Access, once more than at the gateway; and the caps of the connection. Gives whether a list that only counts
    /// would refuse.
    fn admit_flow(&mut self, owner: usize, open: &Open) -> Result<bool, ResetCode> {
        let route = self.routes.get(owner).ok_or(ResetCode::NoRoute)?;
        let visitor = open.visitor.map(|address| address.ip());
        let fits = route.spec.carries() == Carries::Datagrams && open.carries == Carries::Datagrams;
        let verdict = self.visitor_verdict(route, visitor, None);
        if !fits || !route.spec.enabled || !verdict.allowed {
            return Err(ResetCode::Denied);
        }
        if self.draining.is_some() {
            return Err(ResetCode::GoingAway);
        }
        if self.has_room(route) && self.within_rate(owner) { Ok(verdict.would_refuse) } else { Err(ResetCode::Busy) }
    }

    /// The agent's half, tied to the gateway's.
    fn far_half(&mut self, near: usize, owner: usize, gateway: Bringer, idle: Duration) -> usize {
        let now = self.core.now();
        let serial = self.core.table.next_serial();
        let mut far = Relay::new(Phase::Dialing, owner, serial, now);
        far.bringer = Some(Box::new(gateway));
        far.flow = Some(Flow::new(Taker::Relay(near), idle, Guard::Proven, now));
        let far = self.core.table.relays.insert(far);
        let state = &mut self.core.table.relays[near];
        (state.owner, state.phase) = (usize::MAX, Phase::Open);
        far
    }

    /// What came in the same turn as its OPEN.
    fn early_datagrams(&mut self, near: usize, far: usize) {
        let Some(flow) = self.core.table.relays[near].flow.as_mut() else { return };
        for datagram in flow.meet(far).each() {
            if self.core.table.may_pass(near, datagram.len()) {
                self.core.table.pass_on(far, datagram);
            }
        }
    }
}
