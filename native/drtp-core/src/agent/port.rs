//! A connector's ports: a local program connects, and its bytes go sealed through the nearest POP to an agent of the
//! service. Nothing listens but what the plan's host asks for, and each connection is judged by where it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::{Agent, What};
use crate::access::parse_net;
use crate::driver::hop::SuddenEnd;
use crate::driver::listener_token;
use crate::driver::relay::{Outcome, Phase, Relay};
use crate::driver::socket::{Socket, would_block};
use crate::driver::table::{canonical, unix_ms};
use crate::identity::Role;
use crate::message::{Carries, Open, ResetCode, uuid_text};
use crate::report::{ConnectionStats, EntryOutcome, FlowRecord};
use crate::server::listener::{Bound, Listener, out_of_descriptors};
use crate::server::{BindSpec, Place, random_token};
use crate::tls::Tls;

/// Connections of one port at once; further ones are reset.
const CONNECTIONS_MAX: usize = 16_384;
/// Accepting goes on after this when descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// POPs whose round trip is so near the shortest one take turns.
const NEAR_FACTOR: f64 = 1.25;
const NEAR_MS: f64 = 2.0;
/// What stands for a round trip before the first ping came back.
const UNKNOWN_MS: f64 = 1e6;

/// A local port of the host's plan, with the ways to its service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PortSpec {
    /// `<namespace>/<name>`.
    service: String,
    bind: BindSpec,
    /// Who may connect to a TCP port, CIDRs.
    #[serde(default)]
    allow: Vec<String>,
    /// In order of preference where no round trip tells better.
    #[serde(default)]
    ways: Vec<WayTo>,
}

/// A connection of the service, the agent behind it, and a POP that both have.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct WayTo {
    connection: String,
    agent: String,
    server: String,
}

pub(super) struct Port {
    key: String,
    spec: PortSpec,
    allow: Vec<IpNet>,
    place: Place,
    listener: Option<Listener>,
    connections: BTreeSet<usize>,
    /// The agent that each connection is to end at.
    meant: BTreeMap<usize, String>,
    turn: usize,
    totals: ConnectionStats,
}

impl Agent {
    pub(super) fn upsert_port(&mut self, key: &str, spec: PortSpec) -> EntryOutcome {
        let fail = |error: String| EntryOutcome { error: Some(error), ..EntryOutcome::default() };
        let Some(allow) = spec.allow.iter().map(|text| parse_net(text)).collect::<Option<Vec<_>>>() else {
            self.remove_port(key);
            return fail("an allowed network cannot be read".to_owned());
        };
        let Some(place) = spec.bind.local() else {
            self.remove_port(key);
            return fail("a port is an address, or a path".to_owned());
        };
        let moved = |port: &Port| port.spec.bind != spec.bind;
        if self.port_by_key.get(key).is_some_and(|index| moved(&self.ports[*index])) {
            self.remove_port(key);
        }
        let index = if let Some(index) = self.port_by_key.get(key).copied() {
            let port = &mut self.ports[index];
            (port.spec, port.allow) = (spec, allow);
            index
        } else {
            let totals = ConnectionStats { connection: key.to_owned(), ..ConnectionStats::default() };
            let (connections, meant) = (BTreeSet::new(), BTreeMap::new());
            let (key_owned, listener) = (key.to_owned(), None);
            let port = Port { key: key_owned, spec, allow, place, listener, connections, meant, turn: 0, totals };
            let index = self.ports.insert(port);
            self.port_by_key.insert(key.to_owned(), index);
            index
        };
        self.cut_port(index);
        if let Err(error) = self.open_port(index) {
            let error = format!("cannot listen: {error}");
            self.remove_port(key);
            return fail(error);
        }
        EntryOutcome { ok: true, bound: Some(self.ports[index].bound()), ..EntryOutcome::default() }
    }

    fn open_port(&mut self, index: usize) -> std::io::Result<()> {
        let port = &mut self.ports[index];
        if port.listener.is_some() {
            return Ok(());
        }
        let bound = Bound::bind(&port.place)?;
        port.place = bound.place.clone();
        port.listener = Some(bound.listen(self.core.poll.registry(), listener_token(index))?);
        Ok(())
    }

    pub(super) fn remove_port(&mut self, key: &str) {
        let Some(index) = self.port_by_key.remove(key) else { return };
        for relay in self.ports[index].connections.iter().copied().collect::<Vec<_>>() {
            self.core.table.end_relay(relay, Err(ResetCode::Disabled));
            self.port_gone(relay, Err(ResetCode::Disabled));
            self.core.table.relays[relay].owner = usize::MAX;
        }
        self.shut_port(index);
        self.ports.remove(index);
    }

    fn shut_port(&mut self, index: usize) {
        let port = &mut self.ports[index];
        if port.listener.take().is_some() {
            if let Place::Unix(path) = &port.place {
                // A path that is gone already is what was wanted.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Nothing new is taken while the rest drains.
    pub(super) fn shut_ports(&mut self) {
        for index in self.ports.iter().map(|(index, _)| index).collect::<Vec<_>>() {
            self.shut_port(index);
        }
    }

    /// Connections end whose agent does not serve any more.
    fn cut_port(&mut self, index: usize) {
        let port = &self.ports[index];
        let known = |agent: &String| port.spec.ways.iter().any(|way| way.agent == *agent);
        let over = port.meant.iter().filter(|(_, agent)| !known(agent)).map(|(relay, _)| *relay);
        for relay in over.collect::<Vec<_>>() {
            self.core.table.end_relay(relay, Err(ResetCode::NoRoute));
        }
    }

    // ---- connections -----------------------------------------------------------------------------------------------

    pub(super) fn port_news(&mut self, index: usize) {
        loop {
            let accepted = match self.ports.get(index).and_then(|port| port.listener.as_ref()) {
                // Programs close when they have no more to say.
                Some(listener) => listener.accept(SuddenEnd::Finish),
                None => return,
            };
            match accepted {
                Ok((socket, peer)) => self.connection_came(index, socket, peer.map(canonical)),
                Err(error) if would_block(&error) => return,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    debug_assert!(out_of_descriptors(&error), "accepting fails for want of descriptors only: {error}");
                    let at = self.core.now() + ACCEPT_PAUSE;
                    return self.later(at, What::Listener(index));
                }
            }
        }
    }

    /// Dropping the socket resets it.
    fn connection_came(&mut self, index: usize, socket: Socket, peer: Option<SocketAddr>) {
        let begun = self.begin_connection(index, socket, peer);
        let (now_ms, port) = (unix_ms(), &mut self.ports[index]);
        match begun {
            Ok(relay) => {
                port.connections.insert(relay);
                port.totals.streams_total += 1;
            }
            Err(code) => {
                port.totals.denied_total += 1;
                let record = FlowRecord {
                    ended_unix_ms: now_ms,
                    visitor: peer.map(|address| address.to_string()).unwrap_or_default(),
                    service: port.spec.service.clone(),
                    outcome: code.words().to_owned(),
                    ..FlowRecord::default()
                };
                self.remember(record);
            }
        }
    }

    fn begin_connection(&mut self, index: usize, socket: Socket, peer: Option<SocketAddr>) -> Result<usize, ResetCode> {
        let port = &self.ports[index];
        if !peer.is_none_or(|peer| port.admits(peer.ip())) || self.draining() {
            return Err(ResetCode::Denied);
        }
        if port.connections.len() >= CONNECTIONS_MAX {
            return Err(ResetCode::Busy);
        }
        let (way, session) = self.choose_way(index).ok_or(ResetCode::Lost)?;
        let name = format!("{}.agent.{}", way.agent, self.credentials.own.trust_domain);
        let tls = Tls::client(&self.credentials.sealed_client, &name).map_err(|_| ResetCode::Unsealed)?;
        let limits = self.config.limits;
        let open = Open {
            connection: way.connection,
            visitor: None,
            destination: None,
            stream_id: random_token(),
            deadline_ms: limits.dial_ms,
            carries: Carries::Sealed,
        };
        let (serial, now) = (self.core.table.next_serial(), self.core.now());
        let relay = self.core.table.relays.insert(Relay::new(Phase::Sealing, index, serial, now));
        let within = Duration::from_millis(u64::from(limits.handshake_ms) + u64::from(limits.dial_ms));
        let fail = |agent: &mut Self, code| {
            agent.core.table.relays[relay].owner = usize::MAX;
            agent.core.table.end_relay(relay, Err(code));
            Err(code)
        };
        if self.core.attach(relay, socket, Some(now + within)).is_err() {
            return fail(self, ResetCode::Busy);
        }
        if let Err(code) = self.core.table.open_stream(relay, session, &open) {
            return fail(self, code);
        }
        self.core.table.relays[relay].phase = Phase::Sealing;
        self.core.table.seal_stream(relay, tls);
        self.ports[index].meant.insert(relay, way.agent);
        Ok(relay)
    }

    /// The nearest POP that has a session and carries sealed streams; those about as near take turns.
    fn choose_way(&mut self, index: usize) -> Option<(WayTo, usize)> {
        let ways = self.ports[index].spec.ways.iter().enumerate();
        let live: Vec<(usize, usize)> =
            ways.filter_map(|(number, way)| Some((number, self.session_with(&way.server)?))).collect();
        let mut measured = |(number, session): (usize, usize)| {
            let machine = self.core.table.session(session).filter(|machine| machine.bears_sealed())?;
            let far_ms = machine.round_trip().map_or(UNKNOWN_MS, |trip| trip.as_secs_f64() * 1e3);
            Some((number, session, far_ms))
        };
        let found: Vec<(usize, usize, f64)> = live.into_iter().filter_map(&mut measured).collect();
        let shortest = found.iter().map(|(_, _, far)| *far).fold(f64::MAX, f64::min);
        let near: Vec<_> = found.iter().filter(|(_, _, far)| *far <= shortest * NEAR_FACTOR + NEAR_MS).collect();
        let port = &mut self.ports[index];
        port.turn = port.turn.wrapping_add(1);
        let (number, session, _) = **near.get(port.turn % near.len().max(1))?;
        Some((port.spec.ways[number].clone(), session))
    }

    /// The other end of a connection's stream has shown who it is.
    pub(super) fn agent_proven(&mut self, relay: usize) {
        match self.judge_agent(relay) {
            Ok(uid) => self.core.peer_proven(relay, uid, Phase::Open),
            Err(code) => self.core.table.end_relay(relay, Err(code)),
        }
    }

    fn judge_agent(&self, relay: usize) -> Result<String, ResetCode> {
        let state = self.core.table.relays.get(relay).filter(|relay| !relay.dead).ok_or(ResetCode::Lost)?;
        let sealed = state.sealed.as_ref().ok_or(ResetCode::Unsealed)?;
        let meant = self.ports.get(state.owner).and_then(|port| port.meant.get(&relay)).ok_or(ResetCode::NoRoute)?;
        let peer = sealed.judged().map_err(|_| ResetCode::Unsealed)?;
        let fits = peer.must_be(Role::Agent, &self.credentials.own.trust_domain, Some(meant));
        fits.map(|()| peer.uid).map_err(|_| ResetCode::Unsealed)
    }

    pub(super) fn port_gone(&mut self, relay: usize, outcome: Outcome) {
        let Some(state) = self.core.table.relays.get(relay) else { return };
        let Some(port) = self.ports.get_mut(state.owner) else { return };
        if !port.connections.remove(&relay) {
            return;
        }
        port.meant.remove(&relay);
        port.totals.bytes_in += state.bytes_read;
        port.totals.bytes_out += state.bytes_written;
        let record = FlowRecord {
            ended_unix_ms: unix_ms(),
            service: port.spec.service.clone(),
            connection: port.key.clone(),
            stream_id: uuid_text(state.who.stream_id),
            bytes_in: state.bytes_read,
            bytes_out: state.bytes_written,
            duration_ms: self.core.table.now.saturating_duration_since(state.started).as_millis() as u64,
            outcome: outcome.map_or_else(ResetCode::words, |()| "finished").to_owned(),
            ..FlowRecord::default()
        };
        self.remember(record);
    }

    pub(super) fn port_stats(&self) -> impl Iterator<Item = ConnectionStats> + '_ {
        self.ports.iter().map(|(_, port)| {
            let live = port.connections.iter().filter_map(|relay| self.core.table.relays.get(*relay));
            let (read, written) =
                live.fold((0, 0), |(read, written), relay| (read + relay.bytes_read, written + relay.bytes_written));
            let usable = port.spec.ways.iter().any(|way| self.session_with(&way.server).is_some());
            ConnectionStats {
                service: port.spec.service.clone(),
                streams: port.connections.len() as u64,
                bytes_in: port.totals.bytes_in + read,
                bytes_out: port.totals.bytes_out + written,
                bound: Some(port.bound()),
                live: port.listener.is_some() && usable,
                ..port.totals.clone()
            }
        })
    }
}

impl Port {
    fn admits(&self, ip: IpAddr) -> bool {
        self.allow.iter().any(|net| net.contains(&ip))
    }

    fn bound(&self) -> String {
        match &self.place {
            Place::Tcp(address) => address.to_string(),
            Place::Unix(path) => path.display().to_string(),
        }
    }
}
