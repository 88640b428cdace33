//! A connector's ports: a local program connects, and its bytes go sealed through the nearest POP to an agent of the
//! service. Nothing listens but what the plan's host asks for, and each connection is judged by where it comes from.
//! Of a UDP service a port takes datagrams ([`super::datagram_door`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::Deserialize;

use super::astray::{Astray, Tries};
use super::datagram_door::DatagramDoor;
use super::listener::minute_ms;
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

/// Connections of one port at once, or flows; further ones are reset, or dropped.
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
    /// The service's.
    #[serde(default)]
    protocol: String,
    bind: BindSpec,
    /// UDP: how long a flow may be silent.
    #[serde(default = "minute_ms")]
    pub(super) idle_ms: u32,
    /// Who may use an address, CIDRs.
    #[serde(default)]
    allow: Vec<String>,
    /// In order of preference where no round trip tells better.
    #[serde(default)]
    ways: Vec<WayTo>,
}

/// A connection of the service, the agent behind it, and a POP that both have.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct WayTo {
    connection: String,
    agent: String,
    server: String,
}

impl PortSpec {
    /// What comes there.
    fn carries(&self) -> Carries {
        if self.protocol == "UDP" { Carries::Datagrams } else { Carries::Bytes }
    }

    /// POPs that its ways lead through.
    pub(super) fn servers(&self) -> impl Iterator<Item = &String> {
        self.ways.iter().map(|way| &way.server)
    }

    /// Whether it is another socket than that of `other`.
    fn differs_in_place(&self, other: &Self) -> bool {
        self.bind != other.bind || self.carries() != other.carries()
    }
}

/// Where a connection is to end, and by which POP it goes.
pub(super) struct Meant {
    agent: String,
    pub(super) server: String,
    pub(super) tries: Tries,
}

pub(super) struct Port {
    key: String,
    pub(super) spec: PortSpec,
    allow: Vec<IpNet>,
    place: Place,
    /// For connections.
    listener: Option<Listener>,
    /// For datagrams.
    pub(super) door: Option<DatagramDoor>,
    /// Or flows.
    pub(super) connections: BTreeSet<usize>,
    /// Of each connection that has a stream.
    pub(super) meant: BTreeMap<usize, Meant>,
    /// Connections without a way at the moment.
    pub(super) astray: VecDeque<Astray>,
    /// When they are looked at next: one timer for all of them.
    pub(super) looks_at: Option<Instant>,
    turn: usize,
    pub(super) totals: ConnectionStats,
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
        if self.port_by_key.get(key).is_some_and(|index| self.ports[*index].spec.differs_in_place(&spec)) {
            self.remove_port(key);
        }
        let index = if let Some(index) = self.port_by_key.get(key).copied() {
            let port = &mut self.ports[index];
            (port.spec, port.allow) = (spec, allow);
            index
        } else {
            let totals = ConnectionStats { connection: key.to_owned(), ..ConnectionStats::default() };
            let (connections, meant, astray) = (BTreeSet::new(), BTreeMap::new(), VecDeque::new());
            let (listener, door, looks_at, turn) = (None, None, None, 0);
            let own_key = key.to_owned();
            let port = Port {
                key: own_key,
                spec,
                allow,
                place,
                listener,
                door,
                connections,
                meant,
                astray,
                looks_at,
                turn,
                totals,
            };
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
        if port.is_open() {
            return Ok(());
        }
        if port.spec.carries() == Carries::Datagrams {
            let Place::Ip(address) = port.place else {
                return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "no datagram comes by a path"));
            };
            let now = self.core.now();
            let door = DatagramDoor::open(address, self.core.poll.registry(), listener_token(index), now)?;
            port.place = Place::Ip(door.bound().unwrap_or(address));
            port.door = Some(door);
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

    /// A UDP port is shut when it is removed alone: flows that are open answer there.
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
        let over = port.meant.iter().filter(|(_, meant)| !known(&meant.agent)).map(|(relay, _)| *relay);
        for relay in over.collect::<Vec<_>>() {
            self.core.table.end_relay(relay, Err(ResetCode::NoRoute));
        }
    }

    // ---- connections -----------------------------------------------------------------------------------------------

    pub(super) fn port_news(&mut self, index: usize) {
        if self.ports.get(index).is_some_and(|port| port.door.is_some()) {
            return self.door_news(index);
        }
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

    fn connection_came(&mut self, index: usize, socket: Socket, peer: Option<SocketAddr>) {
        let begun = self.begin_connection(index, socket, peer);
        self.note_begun(index, peer, begun);
    }

    /// A connection has its stream, or waits for a way, or not even that. Dropping its socket has reset it then.
    pub(super) fn note_begun(
        &mut self,
        index: usize,
        peer: Option<SocketAddr>,
        begun: Result<Option<usize>, ResetCode>,
    ) {
        match begun {
            Ok(Some(relay)) => self.ports[index].took(relay),
            Ok(None) => {}
            Err(code) => {
                let port = &mut self.ports[index];
                port.totals.denied_total += 1;
                let record = port.refusal(peer, code);
                self.recent.push(record);
            }
        }
    }

    fn begin_connection(
        &mut self,
        index: usize,
        socket: Socket,
        peer: Option<SocketAddr>,
    ) -> Result<Option<usize>, ResetCode> {
        self.may_begin(index, peer)?;
        self.has_place(index)?;
        let now = self.core.now();
        self.take_a_way(index, socket, Tries::begun(now))
    }

    /// Whether somebody, a peer where there is an address, may have another connection or flow.
    pub(super) fn may_begin(&self, index: usize, peer: Option<SocketAddr>) -> Result<(), ResetCode> {
        let port = &self.ports[index];
        if !peer.is_none_or(|peer| port.admits(peer.ip())) {
            return Err(ResetCode::Denied);
        }
        if self.draining() { Err(ResetCode::GoingAway) } else { Ok(()) }
    }

    pub(super) fn has_place(&self, index: usize) -> Result<(), ResetCode> {
        if self.is_full(index) { Err(ResetCode::Busy) } else { Ok(()) }
    }

    pub(super) fn is_full(&self, index: usize) -> bool {
        let port = &self.ports[index];
        port.connections.len() + port.astray.len() >= self.port_room()
    }

    /// Connections, or flows, that one port may have at once.
    pub(super) fn port_room(&self) -> usize {
        CONNECTIONS_MAX.min(self.config.limits.streams_max as usize)
    }

    /// Opens a relay's stream by `way`, and begins TLS with the agent inside it. `carries`: what, and the deadline in
    /// milliseconds that its OPEN says.
    pub(super) fn seal_to_agent(
        &mut self,
        index: usize,
        relay: Relay,
        socket: Option<Socket>,
        (way, session): (WayTo, usize),
        (carries, deadline_ms): (Carries, u32),
        tries: Tries,
    ) -> Result<usize, ResetCode> {
        let name = format!("{}.agent.{}", way.agent, self.credentials.own.trust_domain);
        let tls = Tls::client(&self.credentials.ends(carries).client, &name).map_err(|_| ResetCode::Unsealed)?;
        let open = Open {
            connection: way.connection,
            visitor: None,
            destination: None,
            stream_id: random_token(),
            deadline_ms,
            carries,
        };
        let (limits, now) = (self.config.limits, self.core.now());
        let serial = relay.serial;
        let relay = self.core.table.relays.insert(relay);
        let until = now + Duration::from_millis(u64::from(limits.handshake_ms) + u64::from(limits.dial_ms));
        let fail = |agent: &mut Self, code| {
            agent.core.table.relays[relay].owner = usize::MAX;
            agent.core.table.end_relay(relay, Err(code));
            Err(code)
        };
        if let Some(socket) = socket {
            if self.core.attach(relay, socket, Some(until)).is_err() {
                return fail(self, ResetCode::Busy);
            }
        } else {
            self.core.relay_deadline(relay, serial, until);
        }
        if let Err(code) = self.core.table.open_stream(relay, session, &open) {
            return fail(self, code);
        }
        self.core.table.relays[relay].phase = Phase::Sealing;
        self.core.table.seal_stream(relay, tls);
        self.ports[index].meant.insert(relay, Meant { agent: way.agent, server: way.server, tries });
        Ok(relay)
    }

    /// The nearest POP that has a session and carries such streams; those about as near take turns. POPs that have
    /// fallen silent come after others, and those that were `tried` last.
    pub(super) fn choose_way(
        &mut self,
        index: usize,
        carries: Carries,
        tried: &[String],
    ) -> Result<(WayTo, usize), ResetCode> {
        let ways = self.ports[index].spec.ways.iter().enumerate();
        let mut live: Vec<(usize, usize)> =
            ways.filter_map(|(number, way)| Some((number, self.session_with(&way.server)?))).collect();
        let is_fresh = |(number, _): &(usize, usize)| !tried.contains(&self.ports[index].spec.ways[*number].server);
        if live.iter().any(is_fresh) {
            live.retain(is_fresh);
        }
        let now = self.core.now();
        let mut answers =
            |(_, session): &(usize, usize)| self.core.table.session(*session).is_some_and(|one| !one.is_doubtful(now));
        if live.iter().any(&mut answers) {
            live.retain(answers);
        }
        let none = if live.is_empty() { ResetCode::Lost } else { ResetCode::TooOld };
        let mut measured = |(number, session): (usize, usize)| {
            let machine = self.core.table.session(session).filter(|machine| machine.bears(carries))?;
            let far_ms = machine.round_trip().map_or(UNKNOWN_MS, |trip| trip.as_secs_f64() * 1e3);
            Some((number, session, far_ms))
        };
        let found: Vec<(usize, usize, f64)> = live.into_iter().filter_map(&mut measured).collect();
        let shortest = found.iter().map(|(_, _, far)| *far).fold(f64::MAX, f64::min);
        let near: Vec<_> = found.iter().filter(|(_, _, far)| *far <= shortest * NEAR_FACTOR + NEAR_MS).collect();
        let port = &mut self.ports[index];
        port.turn = port.turn.wrapping_add(1);
        let (number, session, _) = **near.get(port.turn % near.len().max(1)).ok_or(none)?;
        Ok((port.spec.ways[number].clone(), session))
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
        let fits = peer.must_be(Role::Agent, &self.credentials.own.trust_domain, Some(&meant.agent));
        fits.map(|()| peer.uid).map_err(|_| ResetCode::Unsealed)
    }

    pub(super) fn port_gone(&mut self, relay: usize, outcome: Outcome) {
        if self.goes_astray(relay, outcome) {
            return;
        }
        let Some(state) = self.core.table.relays.get(relay) else { return };
        let Some(port) = self.ports.get_mut(state.owner) else { return };
        if !port.connections.remove(&relay) {
            return;
        }
        port.meant.remove(&relay);
        let (now, flow, source) = (self.core.table.now, state.flow.as_ref(), state.who.address());
        if let (Some(door), Some(source)) = (port.door.as_mut(), source) {
            door.gone(source, relay, outcome, state.is_sealing(), now);
        }
        count(&mut port.totals, state);
        let record = FlowRecord {
            ended_unix_ms: unix_ms(),
            visitor: source.map(|address| address.to_string()).unwrap_or_default(),
            datagrams_in: flow.map_or(0, |flow| flow.datagrams_read),
            datagrams_out: flow.map_or(0, |flow| flow.datagrams_written),
            datagrams_dropped: flow.map_or(0, |flow| flow.dropped),
            service: port.spec.service.clone(),
            connection: port.key.clone(),
            stream_id: uuid_text(state.who.stream_id),
            bytes_in: state.bytes_read,
            bytes_out: state.bytes_written,
            duration_ms: now.saturating_duration_since(state.started).as_millis() as u64,
            outcome: outcome.map_or_else(ResetCode::words, |()| "finished").to_owned(),
            ..FlowRecord::default()
        };
        self.recent.push(record);
    }

    /// Refusals at UDP ports that are over are forgotten.
    pub(super) fn sweep_ports(&mut self) {
        let now = self.core.now();
        self.ports.iter_mut().filter_map(|(_, port)| port.door.as_mut()).for_each(|door| door.forget_over(now));
    }

    pub(super) fn port_stats(&self) -> impl Iterator<Item = ConnectionStats> + '_ {
        self.ports.iter().map(|(_, port)| {
            let mut totals = port.totals.clone();
            let live = port.connections.iter().filter_map(|relay| self.core.table.relays.get(*relay));
            live.for_each(|relay| count(&mut totals, relay));
            let usable = port.spec.ways.iter().any(|way| self.session_with(&way.server).is_some());
            ConnectionStats {
                service: port.spec.service.clone(),
                streams: port.connections.len() as u64,
                bound: Some(port.bound()),
                live: port.is_open() && usable,
                ..totals
            }
        })
    }
}

/// What a connection or flow has moved so far, from the program's side.
fn count(totals: &mut ConnectionStats, relay: &Relay) {
    totals.bytes_in += relay.bytes_read;
    totals.bytes_out += relay.bytes_written;
    if let Some(flow) = &relay.flow {
        totals.datagrams_in += flow.datagrams_read;
        totals.datagrams_out += flow.datagrams_written;
        totals.datagrams_dropped += flow.dropped;
    }
}

impl Port {
    fn is_open(&self) -> bool {
        self.listener.is_some() || self.door.is_some()
    }

    /// A connection that has not begun goes another way: this try of it never was.
    pub(super) fn forget(&mut self, relay: usize) {
        self.connections.remove(&relay);
        self.totals.streams_total -= 1;
    }

    /// One more connection or flow.
    pub(super) fn took(&mut self, relay: usize) {
        self.connections.insert(relay);
        self.totals.streams_total += 1;
    }

    /// Somebody was not let in.
    pub(super) fn refusal(&self, peer: Option<SocketAddr>, code: ResetCode) -> FlowRecord {
        FlowRecord {
            ended_unix_ms: unix_ms(),
            visitor: peer.map(|address| address.to_string()).unwrap_or_default(),
            service: self.spec.service.clone(),
            outcome: code.words().to_owned(),
            ..FlowRecord::default()
        }
    }

    fn admits(&self, ip: IpAddr) -> bool {
        self.allow.iter().any(|net| net.contains(&ip))
    }

    fn bound(&self) -> String {
        match &self.place {
            Place::Ip(address) => address.to_string(),
            Place::Unix(path) => path.display().to_string(),
        }
    }
}
