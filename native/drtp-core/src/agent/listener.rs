//! A gateway's UDP listeners: who may begin a flow, through which POP it goes, and what becomes of live ones.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mio::Interest;
use mio::net::UdpSocket;
use serde::Deserialize;

use super::refusals::{REFUSED_FOR, Refusals};
use super::{Agent, What};
use crate::access::{Access, AccessSpec, block_of};
use crate::driver::batch::{Reading, bound, split};
use crate::driver::flow::{Flow, Guard, READS_PER_TURN, Taker};
use crate::driver::listener_token;
use crate::driver::relay::{Outcome, Phase, Relay};
use crate::driver::socket::would_block;
use crate::driver::table::{canonical, unix_ms};
use crate::event::Event;
use crate::message::{Carries, Open, ResetCode, uuid_text};
use crate::report::{ConnectionStats, EntryOutcome, FlowRecord};
use crate::server::random_token;

/// Flows of one listener, of one source address at one listener (IPv6: of one /64), and of the whole gateway.
const FLOWS_MAX: usize = 4_096;
const FLOWS_PER_SOURCE_MAX: u32 = 256;
const FLOWS_IN_ALL_MAX: usize = 32_768;

pub(super) const fn minute_ms() -> u32 {
    60_000
}

const fn yes() -> bool {
    true
}

/// A UDP listener of the GatewayTable, with what is behind it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListenerSpec {
    address: IpAddr,
    port: u16,
    #[serde(default)]
    access: AccessSpec,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default = "minute_ms")]
    idle_ms: u32,
    #[serde(default)]
    backends: Vec<BackendSpec>,
}

/// A service with its share of new flows.
#[derive(Debug, Clone, Deserialize)]
struct BackendSpec {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    weight: u32,
    #[serde(default)]
    endpoints: Vec<EndpointSpec>,
}

/// A connection on a POP; lower priority first.
#[derive(Debug, Clone, Deserialize)]
struct EndpointSpec {
    connection: String,
    server: String,
    #[serde(default)]
    priority: u32,
}

/// What becomes of datagrams of `each` bytes from one visitor, at the socket of an index.
type Take = fn(&mut Agent, usize, SocketAddr, &[u8], usize);

/// One public UDP socket.
pub(super) struct Listener {
    key: String,
    spec: ListenerSpec,
    access: Access,
    /// Absent while disabled, or while the address cannot be had.
    socket: Option<Arc<UdpSocket>>,
    flows: HashMap<SocketAddr, usize>,
    by_source: HashMap<IpAddr, u32>,
    refusals: Refusals,
    totals: ConnectionStats,
}

impl Agent {
    pub(super) fn upsert_listener(&mut self, key: &str, mut spec: ListenerSpec) -> EntryOutcome {
        for backend in &mut spec.backends {
            backend.endpoints.sort_by_key(|endpoint| endpoint.priority);
        }
        let (access, complaint) = Access::compile(&spec.access);
        let place = (spec.address, spec.port);
        if self.listener_by_key.get(key).is_some_and(|old| {
            let old = &self.listeners[*old].spec;
            (old.address, old.port) != place
        }) {
            self.remove_listener(key);
        }
        let index = if let Some(index) = self.listener_by_key.get(key).copied() {
            let listener = &mut self.listeners[index];
            (listener.spec, listener.access) = (spec, access);
            index
        } else {
            let totals = ConnectionStats { connection: key.to_owned(), ..ConnectionStats::default() };
            let index = self.listeners.insert(Listener {
                key: key.to_owned(),
                spec,
                access,
                socket: None,
                flows: HashMap::new(),
                by_source: HashMap::new(),
                refusals: Refusals::default(),
                totals,
            });
            self.listener_by_key.insert(key.to_owned(), index);
            index
        };
        self.judge_flows(index);
        let opened = self.open_listener(index);
        let bound = self.listeners[index].socket.as_ref().and_then(|socket| socket.local_addr().ok());
        EntryOutcome {
            ok: opened.is_ok(),
            error: opened.err().or(complaint),
            bound: bound.map(|address| address.to_string()),
            path: None,
        }
    }

    pub(super) fn remove_listener(&mut self, key: &str) {
        let Some(index) = self.listener_by_key.remove(key) else { return };
        for relay in self.listeners[index].flows.values().copied().collect::<Vec<_>>() {
            let outcome = Err(ResetCode::NoRoute);
            self.core.table.end_relay(relay, outcome);
            // The slot may get another tenant before the relay is buried: its books are closed now.
            self.flow_gone(relay, outcome);
            self.core.table.relays[relay].open = None;
        }
        self.listeners.remove(index);
    }

    /// Brings the socket to what it should be.
    fn open_listener(&mut self, index: usize) -> Result<(), String> {
        let listener = &mut self.listeners[index];
        if !listener.spec.enabled {
            listener.socket = None;
            return Ok(());
        }
        if listener.socket.is_some() {
            return Ok(());
        }
        let address = SocketAddr::new(listener.spec.address, listener.spec.port);
        let mut socket = bound(address).map_err(|error| format!("cannot bind {address}: {error}"))?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let registered = self.core.poll.registry().register(&mut socket, listener_token(index), both);
        registered.map_err(|error| format!("cannot watch {address}: {error}"))?;
        listener.socket = Some(Arc::new(socket));
        Ok(())
    }

    /// Listeners whose address could not be had are tried again; refusals that are over are forgotten.
    pub(super) fn sweep_listeners(&mut self) {
        let now = self.core.now();
        let mut shut = Vec::new();
        for (index, listener) in &mut self.listeners {
            listener.refusals.forget_over(now);
            if listener.socket.is_none() && listener.spec.enabled {
                shut.push(index);
            }
        }
        for index in shut {
            // Reported when it first failed; its success is an event of its own.
            if self.open_listener(index).is_ok() {
                let listener = &self.listeners[index];
                let bound = SocketAddr::new(listener.spec.address, listener.spec.port).to_string();
                self.emit(Event::RouteBound {
                    key: listener.key.clone(),
                    connection: String::new(),
                    bound,
                    path: None,
                });
            }
        }
    }

    // ---- datagrams -------------------------------------------------------------------------------------------------

    /// A listener's socket has datagrams, or room for them.
    pub(super) fn listener_news(&mut self, index: usize) {
        self.unblock();
        if let Some(socket) = self.listeners.get(index).and_then(|listener| listener.socket.clone()) {
            self.read_datagrams(index, &socket, Self::datagrams);
        }
    }

    /// A UDP socket may have room again.
    pub(super) fn unblock(&mut self) {
        for relay in std::mem::take(&mut self.core.table.blocked) {
            self.core.table.flush_later(relay);
        }
    }

    /// Reads what one UDP socket of many visitors has; `take` gets each message, by the index of the socket's owner.
    pub(super) fn read_datagrams(&mut self, index: usize, socket: &UdpSocket, take: Take) {
        let mut reading = std::mem::take(&mut self.core.datagrams);
        let more = (0..READS_PER_TURN).all(|_| self.read_once(index, socket, &mut reading, take));
        self.core.datagrams = reading;
        if more {
            let now = self.core.now();
            self.later(now, What::Listener(index));
        }
    }

    /// One call; false when there is no more.
    fn read_once(&mut self, index: usize, socket: &UdpSocket, reading: &mut Reading, take: Take) -> bool {
        match self.core.batches.receive(socket, reading) {
            Ok(()) => {
                for number in 0..reading.count() {
                    let (from, bytes, each) = reading.message(number);
                    take(self, index, from, bytes, each);
                    self.core.relieve();
                }
                !reading.is_drained()
            }
            // What was sent to a visitor that is gone may come back as an error; the next read goes on.
            Err(error) => !would_block(&error),
        }
    }

    /// Datagrams of `each` bytes came from one visitor.
    fn datagrams(&mut self, index: usize, from: SocketAddr, bytes: &[u8], each: usize) {
        let visitor = canonical(from);
        let held = self.listeners[index].flows.get(&visitor).copied();
        match self.flow_of(held, |agent| agent.begin_flow(index, from, visitor)) {
            Ok(relay) => self.core.table.pass_on_each(relay, bytes, each),
            Err(_) => self.listeners[index].totals.denied_total += split(bytes, each).count() as u64,
        }
    }

    /// The flow of a source, which may have one. Where its POP drains or is gone it goes on through another, if there is
    /// one.
    pub(super) fn flow_of(
        &mut self,
        held: Option<usize>,
        begin: impl FnOnce(&mut Self) -> Result<usize, ResetCode>,
    ) -> Result<usize, ResetCode> {
        let Some(relay) = held else { return begin(self) };
        if self.is_carried(relay) {
            return Ok(relay);
        }
        let Ok(fresh) = begin(self) else { return Ok(relay) };
        self.core.table.end_relay(relay, Err(ResetCode::GoingAway));
        Ok(fresh)
    }

    /// A flow whose POP takes new ones, so that it stays where it is.
    fn is_carried(&self, relay: usize) -> bool {
        let state = self.core.table.relays.get(relay).filter(|relay| !relay.dead);
        state.is_some_and(|state| self.core.table.takes_streams(state.session))
    }

    fn begin_flow(&mut self, index: usize, from: SocketAddr, visitor: SocketAddr) -> Result<usize, ResetCode> {
        let now = self.core.now();
        let spread = self.unit();
        let listener = &self.listeners[index];
        let source = block_of(visitor.ip());
        if self.draining() || !listener.access.allows(Some(visitor.ip())) {
            return Err(ResetCode::Denied);
        }
        let of_source = listener.by_source.get(&source).copied().unwrap_or(0);
        let full = listener.flows.len() >= FLOWS_MAX || self.core.table.relays.len() >= FLOWS_IN_ALL_MAX;
        if full || of_source >= FLOWS_PER_SOURCE_MAX || listener.refusals.holds(&visitor, now) {
            return Err(ResetCode::Busy);
        }
        let socket = listener.socket.clone().ok_or(ResetCode::Disabled)?;
        let (connection, session) = self.choose(listener, spread).ok_or(ResetCode::Lost)?;
        let open = Open {
            connection,
            visitor: Some(visitor),
            destination: socket.local_addr().ok().map(canonical),
            stream_id: trace_id(),
            deadline_ms: listener.spec.idle_ms,
            carries: Carries::Datagrams,
        };
        let idle = Duration::from_millis(u64::from(listener.spec.idle_ms));
        let serial = self.core.table.next_serial();
        let mut relay = Relay::new(Phase::Dialing, index, serial, now);
        relay.flow = Some(Flow::new(Taker::Visitor(socket, from), idle, Guard::new(), now));
        let relay = self.core.table.relays.insert(relay);
        if let Err(code) = self.core.table.open_stream(relay, session, &open) {
            self.core.table.relays[relay].owner = usize::MAX;
            self.core.table.end_relay(relay, Err(code));
            return Err(code);
        }
        self.core.watch_silence(relay);
        let listener = &mut self.listeners[index];
        listener.totals.streams_total += 1;
        if listener.flows.insert(visitor, relay).is_none() {
            *listener.by_source.entry(source).or_default() += 1;
        }
        Ok(relay)
    }

    /// A backend by its weight, then the others; of it the first connection whose POP has a session. `spread` is in 0..1.
    fn choose(&self, listener: &Listener, spread: f64) -> Option<(String, usize)> {
        let backends = &listener.spec.backends;
        let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        let mut drawn = (spread * total as f64) as u64;
        let first = backends.iter().position(|backend| {
            let mine = drawn < u64::from(backend.weight);
            drawn = drawn.saturating_sub(u64::from(backend.weight));
            mine
        })?;
        let in_turn = backends[first..].iter().chain(&backends[..first]).filter(|backend| backend.weight > 0);
        let endpoints = in_turn.flat_map(|backend| &backend.endpoints);
        endpoints.into_iter().find_map(|endpoint| {
            let session = self.session_with(&endpoint.server)?;
            Some((endpoint.connection.clone(), session))
        })
    }

    pub(super) fn session_with(&self, server: &str) -> Option<usize> {
        let link = self.links.iter().find(|(_, link)| link.spec.server == server).map(|(_, link)| link)?;
        link.session.filter(|session| link.up && self.core.table.takes_streams(*session))
    }

    // ---- ends ------------------------------------------------------------------------------------------------------

    /// Live flows are held to what is in force now.
    fn judge_flows(&mut self, index: usize) {
        let listener = &self.listeners[index];
        let known = |connection: &str| {
            let endpoints = listener.spec.backends.iter().flat_map(|backend| &backend.endpoints);
            endpoints.into_iter().any(|endpoint| endpoint.connection == connection)
        };
        let over = |visitor: &SocketAddr, relay: usize| {
            let open = self.core.table.relays.get(relay).and_then(|relay| relay.open.as_ref());
            if !listener.spec.enabled {
                Some(ResetCode::Disabled)
            } else if !listener.access.allows(Some(visitor.ip())) {
                Some(ResetCode::Denied)
            } else {
                (!open.is_some_and(|open| known(&open.connection))).then_some(ResetCode::NoRoute)
            }
        };
        let ends = listener.flows.iter().filter_map(|(visitor, relay)| Some((*relay, over(visitor, *relay)?)));
        for (relay, code) in ends.collect::<Vec<_>>() {
            self.core.table.end_relay(relay, Err(code));
        }
    }

    /// A flow is over: its books go to the access log.
    pub(super) fn flow_gone(&mut self, relay: usize, outcome: Outcome) {
        let Some(state) = self.core.table.relays.get(relay) else { return };
        let (Some(open), Some(flow)) = (state.open.as_ref(), state.flow.as_ref()) else { return };
        let Some(visitor) = open.visitor else { return };
        let now = self.core.table.now;
        let mut record = FlowRecord {
            ended_unix_ms: unix_ms(),
            visitor: visitor.to_string(),
            connection: open.connection.clone(),
            stream_id: uuid_text(open.stream_id),
            bytes_in: state.bytes_read,
            bytes_out: state.bytes_written,
            datagrams_in: flow.datagrams_read,
            datagrams_out: flow.datagrams_written,
            datagrams_dropped: flow.dropped,
            duration_ms: now.saturating_duration_since(state.started).as_millis() as u64,
            outcome: outcome.map_or_else(ResetCode::words, |()| "finished").to_owned(),
            ..FlowRecord::default()
        };
        if let Some(listener) = self.listeners.get_mut(state.owner) {
            let mut backends = listener.spec.backends.iter();
            let mine = |backend: &&BackendSpec| backend.endpoints.iter().any(|one| one.connection == open.connection);
            if let Some(backend) = backends.find(mine) {
                record.service = format!("{}/{}", backend.namespace, backend.name);
            }
            listener.key.clone_into(&mut record.listener);
            listener.totals.bytes_in += record.bytes_in;
            listener.totals.bytes_out += record.bytes_out;
            if listener.flows.get(&visitor) == Some(&relay) {
                listener.flows.remove(&visitor);
                leave(&mut listener.by_source, block_of(visitor.ip()));
            }
            if outcome.is_err_and(is_refusal) {
                listener.refusals.add(visitor, now + REFUSED_FOR);
            }
        }
        self.emit(Event::FlowEnded { flow: Box::new(record) });
    }

    pub(super) fn listener_stats(&self) -> impl Iterator<Item = ConnectionStats> + '_ {
        self.listeners.iter().map(|(_, listener)| {
            let live = listener.flows.values().filter_map(|relay| self.core.table.relays.get(*relay));
            let (came, went) =
                live.fold((0, 0), |(came, went), relay| (came + relay.bytes_read, went + relay.bytes_written));
            ConnectionStats {
                streams: listener.flows.len() as u64,
                bytes_in: listener.totals.bytes_in + came,
                bytes_out: listener.totals.bytes_out + went,
                bound: listener.socket.as_ref().and_then(|s| s.local_addr().ok()).map(|address| address.to_string()),
                live: listener.socket.is_some(),
                ..listener.totals.clone()
            }
        })
    }
}

/// A POP or an agent will say the same again at once.
pub(super) fn is_refusal(code: ResetCode) -> bool {
    use ResetCode::{
        Busy, Denied, Disabled, Misframed, NoRoute, TargetForbidden, Timeout, TooOld, Unresolved, Unsealed,
    };
    matches!(
        code,
        Busy | Denied | Disabled | Misframed | NoRoute | TargetForbidden | Timeout | TooOld | Unresolved | Unsealed
    )
}

fn leave(by_source: &mut HashMap<IpAddr, u32>, source: IpAddr) {
    let Some(count) = by_source.get_mut(&source) else { return };
    *count -= 1;
    if *count == 0 {
        by_source.remove(&source);
    }
}

/// A random UUID.
fn trace_id() -> [u8; 16] {
    let mut id = random_token();
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    id
}
