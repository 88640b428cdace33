//! Who dials POPs: an agent, which dials the pinned local service for each visitor that comes; a gateway, which brings
//! the flows of its UDP listeners; and a connector, which brings what comes to its local ports.

mod astray;
mod by_udp;
mod course;
mod datagram_door;
mod dial;
mod link;
mod listener;
mod local;
mod plan;
mod policy;
mod port;
mod refusals;
mod report;
mod resolve;
mod sealed;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Poll, Waker};
use slab::Slab;

pub(crate) use course::Ways;
use dial::{Attempt, Dial, Purpose};
use link::{Link, REVOKED, Reached};
use listener::Listener;
use local::Service;
use plan::{Entry, ServerSpec, ServiceSpec};
use port::Port;
use resolve::Resolver;

use crate::config::AgentConfig;
use crate::driver::socket::Socket;
use crate::driver::table::{Upcall, unix_s};
use crate::driver::{Core, LaneConn};
use crate::event::Event;
use crate::handle::{Command, Inbox};
use crate::identity::{DenyList, PeerIdentity, Role, proven};
use crate::message::{GoAwayCode, ResetCode};
use crate::report::{ApplyOutcome, EntryOutcome, Recent};
use crate::server::{Delta, random_token};
use crate::session::{Budget, SessionConfig};
use crate::tls::Credentials;

/// How often probes and certificates' ends are looked at.
const SWEEP: Duration = Duration::from_millis(500);

/// What a timer of the agent is for.
#[derive(Debug, Clone, Copy)]
enum What {
    Sweep,
    Link(usize, u64),
    DialStep(usize, u64),
    Dials,
    Listener(usize),
    Astray(usize),
}

pub(crate) struct Agent {
    core: Core,
    /// `Agent`, `Gateway` or `Connector`.
    role: Role,
    config: AgentConfig,
    credentials: Credentials,
    budget: Budget,
    resolver: Resolver,
    links: Slab<Link>,
    link_by_key: HashMap<String, usize>,
    services: Slab<Service>,
    service_by_key: HashMap<String, usize>,
    by_connection: HashMap<String, usize>,
    listeners: Slab<Listener>,
    listener_by_key: HashMap<String, usize>,
    ports: Slab<Port>,
    port_by_key: HashMap<String, usize>,
    dials: Slab<Dial>,
    dial_of: HashMap<usize, usize>,
    attempts: Slab<Attempt>,
    /// When dials are looked at for late ones: one timer for all, for most are over long before.
    dials_looked_at: Option<Instant>,
    timers: HashMap<u64, What>,
    recent: Recent,
    /// Tells a reconnect of this process from a clone with the same epoch.
    token: [u8; 16],
    attempt_number: u32,
    /// How each POP may be reached, by server uid; straight where nothing is said.
    ways: BTreeMap<String, Ways>,
    random: u64,
    /// Proxies that refused our credentials: until when they are left alone, and how often in a row.
    refusals: HashMap<String, (Instant, u32)>,
    /// POPs that are believed no more, by the plan's entry that says so.
    denied: Option<(String, DenyList)>,
    fenced: bool,
    /// Until when visitors may finish, once this agent is stopping.
    drain_until: Option<Instant>,
    closed: bool,
}

impl Agent {
    pub(crate) fn new(
        config: AgentConfig,
        credentials: Credentials,
        poll: Poll,
        inbox: Inbox,
        waker: Arc<Waker>,
    ) -> Self {
        let token = random_token();
        let seed = u64::from_be_bytes([token[0], token[1], token[2], token[3], token[4], token[5], token[6], token[7]]);
        Self {
            core: Core::new(poll, inbox, config.flow.budget_bytes),
            role: credentials.own.role,
            budget: Budget::new(config.flow.budget_bytes),
            config,
            credentials,
            resolver: Resolver::new(waker),
            links: Slab::new(),
            link_by_key: HashMap::new(),
            services: Slab::new(),
            service_by_key: HashMap::new(),
            by_connection: HashMap::new(),
            listeners: Slab::new(),
            listener_by_key: HashMap::new(),
            ports: Slab::new(),
            port_by_key: HashMap::new(),
            dials: Slab::new(),
            dial_of: HashMap::new(),
            attempts: Slab::new(),
            dials_looked_at: None,
            timers: HashMap::new(),
            recent: Recent::default(),
            // A copy of these bytes must not predict the jitter, nor the other way round: only the seed is shared.
            token,
            attempt_number: 0,
            ways: BTreeMap::new(),
            random: seed | 1,
            refusals: HashMap::new(),
            denied: None,
            fenced: false,
            drain_until: None,
            closed: false,
        }
    }

    /// The driver thread's life.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(1_024);
        let first = self.core.now();
        self.later(first, What::Sweep);
        while !self.closed {
            self.core.wait(&mut events);
            self.core.read_lanes();
            self.decide();
            self.core.write_out();
            self.decide();
            self.core.write_out();
            self.core.bury();
        }
        self.core.reset_all();
    }

    fn decide(&mut self) {
        while let Some(upcall) = self.core.table.upcalls.pop_front() {
            self.handle(upcall);
        }
        for relay in std::mem::take(&mut self.core.table.refused) {
            self.flow_refused(relay);
        }
        self.core.authenticated.clear();
        self.core.mourn();
    }

    fn handle(&mut self, upcall: Upcall) {
        match upcall {
            Upcall::Wake => self.wake(),
            Upcall::Own(attempt) => self.attempt_news(attempt),
            Upcall::LaneEstablished(lane) => self.lane_established(lane),
            Upcall::Ready { session } => self.link_ready(session),
            Upcall::Dial { relay } => self.visitor(relay),
            Upcall::LocalReady { relay } => self.local_ready(relay),
            Upcall::GoAway { session, goaway } => self.link_goaway(session, &goaway),
            Upcall::LaneFailed { session, reason, refused } => self.lane_failed(session, &reason, refused),
            Upcall::SessionGone { session, reason } => self.session_over(session, &reason),
            Upcall::RelayGone { relay, outcome } => self.relay_gone(relay, outcome),
            Upcall::Timer(what) => self.timer(what),
            Upcall::Accept(listener) => self.socket_news(listener),
            Upcall::Proven { relay } => self.proven(relay),
            Upcall::Hello { .. }
            | Upcall::Stranger(_)
            | Upcall::LaneReady
            | Upcall::Connected
            | Upcall::Preamble { .. } => {}
        }
    }

    fn wake(&mut self) {
        for answer in self.resolver.answers() {
            self.resolved(answer.dial, answer.serial, answer.addresses);
        }
        loop {
            // The host is asked for nothing: an answer that nobody waits for any more is dropped.
            match self.core.inbox.commands.try_recv() {
                Ok(Command::Apply(delta, answer)) => drop(answer.send(self.apply(&delta))),
                Ok(Command::Stats(flows, answer)) => drop(answer.send(self.stats(flows))),
                Ok(Command::Rotate(identity, answer)) => {
                    let fresh = Credentials::new(&identity).map(|credentials| self.credentials = credentials);
                    drop(answer.send(fresh));
                }
                Ok(Command::Drain(deadline)) => self.drain(deadline),
                Ok(Command::Close) | Err(std::sync::mpsc::TryRecvError::Disconnected) => {
                    self.closed = true;
                    return;
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return,
            }
        }
    }

    /// A listening socket of ours: a gateway's for datagrams, a connector's port.
    fn socket_news(&mut self, index: usize) {
        if self.role == Role::Connector { self.port_news(index) } else { self.listener_news(index) }
    }

    fn emit(&self, event: Event) {
        self.core.inbox.shared.events.push(event);
    }

    fn later(&mut self, at: Instant, what: What) {
        let number = self.core.table.next_serial();
        self.timers.insert(number, what);
        self.core.role_timer(at, number);
    }

    fn timer(&mut self, number: u64) {
        match self.timers.remove(&number) {
            Some(What::Sweep) => self.sweep(),
            Some(What::Link(link, serial)) if self.links.get(link).is_some_and(|state| state.serial == serial) => {
                self.start_link(link);
            }
            Some(What::Listener(listener)) => self.socket_news(listener),
            Some(What::Astray(port)) => self.look_for_ways(port),
            Some(What::DialStep(dial, serial)) => self.dial_step(dial, serial),
            Some(What::Dials) => self.end_late_dials(),
            Some(What::Link(..)) | None => {}
        }
    }

    fn sweep(&mut self) {
        let at = self.core.now() + SWEEP;
        self.later(at, What::Sweep);
        self.probe_due();
        self.sweep_listeners();
        self.sweep_ports();
        self.turn_with_the_clock();
        self.refresh_one_link();
        self.look_for_better_ways();
        let now_s = unix_s();
        let peers = self.core.lanes.iter().filter_map(|(_, lane)| lane.peer.as_ref());
        let proven = proven(peers, |not_after| not_after >= now_s);
        let expired = |lane: &LaneConn| lane.peer.as_ref().is_some_and(|peer| !proven.contains(&peer.uid));
        let sessions: Vec<usize> = self.core.lanes.iter().filter(|(_, l)| expired(l)).map(|(_, l)| l.session).collect();
        for session in sessions {
            if let Some(machine) = self.core.table.session(session) {
                machine.refuse(GoAwayCode::Expired, 0, "the server's certificate has expired");
            }
            self.session_over(session, "the server's certificate has expired");
        }
    }

    /// xorshift in 0..1: jitter needs no better.
    fn unit(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn draining(&self) -> bool {
        self.drain_until.is_some()
    }

    fn session_config(&self, seed: u64) -> SessionConfig {
        SessionConfig {
            liveness: self.config.liveness,
            flow: self.config.flow,
            streams_max: self.config.limits.streams_max,
            half_open_max: self.config.limits.streams_half_open_max,
            seed,
        }
    }

    // ---- dials that ended ------------------------------------------------------------------------------------------

    fn dialled(&mut self, purpose: Purpose, stream: TcpStream, address: SocketAddr, took_ms: f64) {
        match purpose {
            Purpose::Link(link) => self.link_connected(link, Reached::Tcp(stream), address),
            Purpose::Lane { .. } => self.lane_connected(purpose, stream, address),
            Purpose::Better { link, serial, way } => {
                self.better_connected(link, serial, way, Reached::Tcp(stream), address);
            }
            Purpose::Visitor { relay, service } => self.visitor_connected(relay, service, stream, took_ms),
            Purpose::Probe(service) => {
                // An orderly end: a probe must not look like a fault in the service's log.
                if let Ok(socket) = Socket::relay(stream) {
                    socket.end_orderly();
                }
                self.local_up(service, took_ms);
            }
        }
    }

    fn dial_failed(&mut self, purpose: Purpose, error: &str, code: ResetCode) {
        match purpose {
            Purpose::Link(link) => self.link_failed(link, error),
            // The session goes on with the lanes that it has, and in the way that it has.
            Purpose::Lane { .. } | Purpose::Better { .. } => {}
            Purpose::Visitor { relay, service } => self.visitor_failed(relay, service, error, code),
            Purpose::Probe(service) => self.local_down(service, error),
        }
    }

    // ---- the plan --------------------------------------------------------------------------------------------------

    /// Idempotent; one bad entry never stops another.
    fn apply(&mut self, delta: &[u8]) -> ApplyOutcome {
        let mut delta: Delta = match serde_json::from_slice(delta) {
            Ok(delta) => delta,
            Err(error) => return ApplyOutcome { error: Some(error.to_string()), ..ApplyOutcome::default() },
        };
        if let Some(targets) = delta.targets.take() {
            self.config.targets = targets;
        }
        if let Some(ways) = delta.ways.take() {
            self.ways = ways;
            self.revise_courses();
        }
        let mut outcome = ApplyOutcome::default();
        // First of all, for a POP that is denied leaves the plan at once, and gets no time to finish.
        self.heed_denials(&mut delta, &mut outcome);
        let known = self.link_by_key.keys().chain(self.service_by_key.keys()).chain(self.listener_by_key.keys());
        let known = known.chain(self.port_by_key.keys());
        let gone: Vec<String> = if delta.whole {
            known.filter(|key| !delta.upsert.contains_key(*key)).cloned().collect()
        } else {
            delta.remove.iter().filter(|key| !delta.upsert.contains_key(*key)).cloned().collect()
        };
        for key in gone {
            self.remove(&key);
        }
        for (key, value) in delta.upsert {
            let result = match serde_json::from_value::<Entry>(value) {
                Ok(Entry::Server(spec)) => self.upsert_server(&key, spec),
                Ok(Entry::Service(spec)) if self.role == Role::Agent => self.upsert_service(&key, *spec),
                Ok(Entry::Listener(spec)) if self.role == Role::Gateway => {
                    outcome.entries.insert(key.clone(), self.upsert_listener(&key, *spec));
                    continue;
                }
                Ok(Entry::Port(spec)) if self.role == Role::Connector => {
                    outcome.entries.insert(key.clone(), self.upsert_port(&key, *spec));
                    continue;
                }
                Ok(_) => Err(format!("a plan of {} has no such entries", self.role.segment())),
                Err(error) => {
                    // A listener that cannot be read must not go on by its old meaning.
                    self.remove_listener(&key);
                    self.remove_port(&key);
                    Err(error.to_string())
                }
            };
            let entry = EntryOutcome { ok: result.is_ok(), error: result.err(), ..EntryOutcome::default() };
            outcome.entries.insert(key, entry);
        }
        self.probe_due();
        outcome
    }

    /// Takes the list of denied POPs out of `delta`, and ends what leads to them.
    fn heed_denials(&mut self, delta: &mut Delta, outcome: &mut ApplyOutcome) {
        if let Some((key, _)) = &self.denied {
            if delta.remove.contains(key) || delta.whole && !delta.upsert.contains_key(key) {
                self.denied = None;
            }
        }
        let said = |value: &serde_json::Value| value.get("type").is_some_and(|tag| tag == "deny");
        let Some(key) = delta.upsert.iter().find(|(_, value)| said(value)).map(|(key, _)| key.clone()) else { return };
        let Some(value) = delta.upsert.remove(&key) else { return };
        // One that cannot be read leaves the former in force.
        let error = match serde_json::from_value::<Entry>(value) {
            Ok(Entry::Deny(spec)) => {
                self.denied = Some((key.clone(), spec.list()));
                self.cut_denied();
                None
            }
            Ok(_) => Some("a list of the denied of another kind".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        outcome.entries.insert(key, EntryOutcome { ok: error.is_none(), error, ..EntryOutcome::default() });
    }

    fn is_denied(&self, pop: &str) -> bool {
        self.denied.as_ref().is_some_and(|(_, pops)| pops.names(pop))
    }

    /// A POP whose certificate proves nothing any more.
    fn disbelieves(&self, pop: &PeerIdentity) -> bool {
        self.denied.as_ref().is_some_and(|(_, pops)| pops.holds(pop))
    }

    fn remove(&mut self, key: &str) {
        self.remove_listener(key);
        self.remove_port(key);
        if let Some(link) = self.link_by_key.remove(key) {
            self.drop_link(link);
        }
        if let Some(service) = self.service_by_key.remove(key) {
            self.cancel_dials_of(service);
            let state = self.services.remove(service);
            self.by_connection.retain(|_, index| *index != service);
            for relay in state.visitors {
                self.core.table.end_relay(relay, Err(ResetCode::NoRoute));
            }
        }
    }

    fn upsert_server(&mut self, key: &str, spec: ServerSpec) -> Result<(), String> {
        if self.is_denied(&spec.server) {
            self.remove(key);
            return Err(REVOKED.to_owned());
        }
        if let Some(link) = self.link_by_key.get(key).copied() {
            if self.links[link].spec == spec {
                return Ok(());
            }
            self.remove(key);
        }
        let serial = self.core.table.next_serial();
        let ways = self.ways.get(&spec.server).cloned().unwrap_or_default();
        let link = self.links.insert(Link::new(spec, ways, serial));
        self.link_by_key.insert(key.to_owned(), link);
        self.start_link(link);
        Ok(())
    }

    fn upsert_service(&mut self, key: &str, spec: ServiceSpec) -> Result<(), String> {
        let target = spec.target(&self.config);
        let now = self.core.now();
        let index = if let Some(index) = self.service_by_key.get(key).copied() {
            let service = &mut self.services[index];
            let cut = !spec.enabled || service.target != target || service.spec.connection != spec.connection;
            if !cut && service.spec.differs_in_callers_alone(&spec) {
                service.take(spec);
            } else if cut || service.spec != spec {
                service.take(spec);
                service.aim(target);
                service.probe_at = now;
            }
            if cut {
                for relay in service.visitors.clone() {
                    self.core.table.end_relay(relay, Err(ResetCode::Disabled));
                }
            }
            index
        } else {
            let index = self.services.insert(Service::new(spec, target, now));
            self.service_by_key.insert(key.to_owned(), index);
            index
        };
        self.cut_callers(index);
        self.by_connection.retain(|_, other| *other != index);
        let service = &self.services[index];
        self.by_connection.insert(service.spec.connection.clone(), index);
        service.target.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    fn drain(&mut self, deadline: Duration) {
        let now = self.core.now();
        self.drain_until = Some(now + deadline);
        self.shut_ports();
        let sessions: Vec<usize> = self.core.table.sessions.iter().map(|(index, _)| index).collect();
        for session in sessions {
            if let Some(machine) = self.core.table.session(session) {
                machine.drain(deadline, "agent is stopping", now);
            }
            self.core.table.touch(session);
        }
        self.core.hurry_flows(None);
    }
}
