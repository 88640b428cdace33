//! The agent's end of sealed streams: a caller proves itself to this agent, and no POP's word is taken for it.
//!
//! The local service is dialled only then. Who may call is in the agent's own plan, by the identity of each connector.

use std::time::Duration;

use super::Agent;
use super::dial::Purpose;
use super::plan::CallerSpec;
use crate::driver::relay::Phase;
use crate::identity::Role;
use crate::message::{Carries, ResetCode};
use crate::tls::Tls;

impl Agent {
    /// A caller came: TLS first, in which this agent is the server.
    pub(super) fn caller_came(&mut self, relay: usize, carries: Carries) {
        let limits = self.config.limits;
        let within = Duration::from_millis(u64::from(limits.handshake_ms) + u64::from(limits.dial_ms));
        let Ok(tls) = Tls::server(&self.credentials.ends(carries).server) else {
            return self.core.table.end_relay(relay, Err(ResetCode::Unsealed));
        };
        let until = self.core.now() + within;
        let state = &mut self.core.table.relays[relay];
        state.phase = Phase::Sealing;
        let serial = state.serial;
        self.core.relay_deadline(relay, serial, until);
        self.core.table.seal_stream(relay, tls);
    }

    /// A handshake of a sealed stream is complete.
    pub(super) fn proven(&mut self, relay: usize) {
        if self.role == Role::Connector {
            return self.agent_proven(relay);
        }
        match self.judge_caller(relay) {
            Ok((service, caller)) => {
                self.core.peer_proven(relay, caller.identity, Phase::Dialing);
                self.dial_for(relay, service);
            }
            Err(code) => self.core.table.end_relay(relay, Err(code)),
        }
    }

    /// Its service, and the caller as the plan knows it.
    fn judge_caller(&mut self, relay: usize) -> Result<(usize, CallerSpec), ResetCode> {
        let state = self.core.table.relays.get(relay).filter(|relay| !relay.dead).ok_or(ResetCode::Lost)?;
        let (owner, sealed) = (state.owner, state.sealed.as_ref().ok_or(ResetCode::Unsealed)?);
        let peer = sealed.judged().map_err(|_| ResetCode::Unsealed)?;
        let ours = peer.must_be(Role::Connector, &self.credentials.own.trust_domain, None);
        let service = self.services.get_mut(owner).ok_or(ResetCode::NoRoute)?;
        let caller = ours.ok().and_then(|()| service.admitted(&peer.uid)).cloned();
        caller.map(|caller| (owner, caller)).ok_or_else(|| {
            service.denied_total += 1;
            ResetCode::Denied
        })
    }

    fn dial_for(&mut self, relay: usize, service: usize) {
        let Some(Ok(target)) = self.services.get(service).map(|known| known.target.as_ref()) else {
            return self.core.table.end_relay(relay, Err(ResetCode::TargetForbidden));
        };
        let (host, port) = (target.host.clone(), target.port);
        let within = Duration::from_millis(u64::from(self.config.limits.dial_ms));
        self.dial(Purpose::Visitor { relay, service }, &host, port, within);
    }

    /// Live callers of a service are held to what is in force now.
    pub(super) fn cut_callers(&mut self, service: usize) {
        let Some(known) = self.services.get(service) else { return };
        let gone = |relay: &usize| {
            let sealed = self.core.table.relays.get(*relay).and_then(|state| state.sealed.as_ref());
            // One that has not proven itself yet is judged when it does.
            sealed.is_some_and(|sealed| !sealed.peer.is_empty() && known.admitted(&sealed.peer).is_none())
        };
        for relay in known.visitors.iter().copied().filter(gone).collect::<Vec<_>>() {
            self.core.table.end_relay(relay, Err(ResetCode::Denied));
        }
    }

    /// Services of which a schedule has begun or ended.
    pub(super) fn turn_with_the_clock(&mut self) {
        let turned = self.services.iter_mut().filter_map(|(index, service)| service.turned().then_some(index));
        for service in turned.collect::<Vec<_>>() {
            self.cut_callers(service);
        }
    }

    /// The caller of a relay, as the plan knows it.
    pub(super) fn caller_of(&self, relay: usize) -> Option<&CallerSpec> {
        let state = self.core.table.relays.get(relay)?;
        let sealed = state.sealed.as_ref()?;
        self.services.get(state.owner)?.spec.caller(&sealed.peer)
    }
}
