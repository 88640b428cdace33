//! The POP's role: agents come in on lanes, visitors at endpoints, and a visitor meets an agent only by the RouteTable.

mod accept;
mod antechamber;
mod apply;
mod by_udp;
mod caps;
mod entries;
mod farewell;
mod flows;
mod guard;
mod joins;
pub(crate) mod listener;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Events, Poll};
use slab::Slab;

use antechamber::Antechamber;
use caps::{Pace, Pools};
use entries::RouteSpec;
pub(crate) use entries::{BindSpec, Delta, Place};
use guard::Guard;
use listener::{Bound, Listener, Reserve};

use crate::access::{Access, Asking, Caller, Countries, Verdict};
use crate::config::ServerConfig;
use crate::driver::relay::{Outcome, Phase};
use crate::driver::table::{Table, Upcall, unix_ms, unix_s};
use crate::driver::{Core, listener_token};
use crate::error::CoreError;
use crate::event::Event;
use crate::handle::{Command, Inbox};
use crate::identity::{DenyList, PeerIdentity, Role, proven};
use crate::message::{GoAwayCode, Hello, ResetCode};
use crate::proxy::SignedIn;
use crate::report::{FlowRecord, Recent};
use crate::session::{Budget, SessionConfig, State};
use crate::tls::Credentials;

/// How often certificates' ends and failed binds are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// Timer of the sweep; others are listeners to try again.
const SWEEP_TIMER: u64 = u64::MAX;
/// Timer of the goodbye after a farewell.
const FAREWELL_TIMER: u64 = u64::MAX - 1;
/// Sessions of one agent that may drain beside its newest one.
const DRAINING_MAX: usize = 16;
/// An unknown agent comes back after this: its snapshot and ours are seldom further apart.
const UNKNOWN_RETRY_MS: u32 = 500;

/// What is behind a listening socket.
enum Door {
    Agents(Listener),
    Endpoint(usize, Listener),
    /// Says to gateways on this machine that the driver runs.
    Pulse(Listener),
}

/// One socket of an endpoint.
struct Entrance {
    place: Place,
    /// Bound but deaf: without TLS an entrance listens only while an agent is there.
    deaf: Option<Bound>,
    door: Option<usize>,
    bound: Option<String>,
}

impl Entrance {
    fn new(place: Place) -> Self {
        Self { place, deaf: None, door: None, bound: None }
    }

    /// It is neither bound nor listening.
    fn is_shut(&self) -> bool {
        self.door.is_none() && self.deaf.is_none()
    }
}

/// What one `deny` entry says: whose certificates prove nothing, and people by name.
#[derive(Default)]
struct Denied {
    list: DenyList,
    people: BTreeSet<String>,
}

/// One connection's endpoint.
struct Route {
    key: String,
    spec: RouteSpec,
    guard: Guard,
    /// When a schedule may next change what `guard` says, Unix seconds.
    access_edge: Option<i64>,
    plain_from: Vec<ipnet::IpNet>,
    /// The one with an address first.
    entrances: Vec<Entrance>,
    /// Streams by relay index.
    visitors: BTreeSet<usize>,
    /// Of the driver's, once its bytes per second are or were limited.
    group: Option<usize>,
    next_agent: usize,
    streams_total: u64,
    denied_total: u64,
    /// Visitors let in whom a list that only counts would have refused.
    would_refuse_total: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// Of new visitors.
    pace: Pace,
}

impl Route {
    fn new(
        key: &str,
        spec: RouteSpec,
        guard: Guard,
        plain_from: Vec<ipnet::IpNet>,
        places: Vec<Place>,
        now: Instant,
    ) -> Self {
        Self {
            key: key.to_owned(),
            spec,
            access_edge: guard.edge(unix_s()),
            guard,
            plain_from,
            entrances: places.into_iter().map(Entrance::new).collect(),
            visitors: BTreeSet::new(),
            group: None,
            next_agent: 0,
            streams_total: 0,
            denied_total: 0,
            would_refuse_total: 0,
            bytes_in: 0,
            bytes_out: 0,
            pace: Pace::new(now),
        }
    }

    /// `address:port`, once bound.
    fn bound(&self) -> Option<String> {
        self.entrances.iter().find(|one| matches!(one.place, Place::Ip(_))).and_then(|one| one.bound.clone())
    }

    /// The Unix socket, once bound.
    fn path(&self) -> Option<String> {
        self.entrances.iter().find(|one| matches!(one.place, Place::Unix(_))).and_then(|one| one.bound.clone())
    }
}

pub(crate) struct Server {
    core: Core,
    config: ServerConfig,
    credentials: Credentials,
    countries: Option<Countries>,
    budget: Budget,
    doors: Slab<Door>,
    /// Bound for QUIC lanes, on their way to the driver.
    udp_sockets: Vec<UdpSocket>,
    /// What agents by QUIC are met with, once the first has come.
    quic: Option<Arc<quinn_proto::ServerConfig>>,
    routes: Slab<Route>,
    by_key: HashMap<String, usize>,
    /// Agent uid -> the routes that list it, so that a change costs what it changes.
    by_agent: HashMap<String, Vec<usize>>,
    gateways: BTreeSet<String>,
    denied: DenyList,
    /// Users by name who are let in nowhere.
    shut_out: BTreeSet<String>,
    /// Keys of the `trust` and `deny` entries in force.
    trust_keys: BTreeMap<String, BTreeSet<String>>,
    deny_keys: BTreeMap<String, Denied>,
    /// Agent uid -> its live session.
    agents: HashMap<String, usize>,
    /// Gateway uid -> its live session, which brings flows of datagrams.
    bringers: HashMap<String, usize>,
    /// Gateways (uids) that have brought a visitor, and the newest end of a certificate that they did it with.
    gateways_seen: HashMap<String, i64>,
    /// Connector uid -> its live session, which brings sealed streams.
    connectors: HashMap<String, usize>,
    /// Connectors that some route is for.
    by_caller: BTreeSet<String>,
    /// Doors at which more wait than one turn takes.
    going_on: BTreeSet<usize>,
    /// By connection, as the table names them now.
    route_of: HashMap<String, usize>,
    /// What routes share.
    pools: Pools,
    /// Who dialled as an agent and has not said who it is.
    strangers: Antechamber,
    /// Who came to an endpoint and has not shown its header.
    visitors: Antechamber,
    /// Visitors in their preamble, with their socket's peer.
    waiting_peer: HashMap<usize, SocketAddr>,
    reserve: Reserve,
    /// Why the endpoint that was opened last has no Unix socket, though it has an address.
    local_complaint: Option<String>,
    accept_paused_total: u64,
    recent: Recent,
    draining: Option<Instant>,
    said_goodbye: bool,
    closed: bool,
}

/// Binds the agents' doors; the driver thread runs the returned server.
pub(crate) fn bind(config: &ServerConfig, poll: &Poll) -> Result<(Vec<SocketAddr>, Doors), CoreError> {
    let mut addresses = Vec::new();
    let mut doors = Slab::new();
    for address in &config.listeners {
        let what = || format!("listener {address}");
        let bound = Bound::bind(&Place::Ip(*address)).map_err(|error| CoreError::io(what(), error))?;
        if let Place::Ip(real) = &bound.place {
            addresses.push(*real);
        }
        let slot = doors.vacant_entry();
        let listening = bound.listen(poll.registry(), listener_token(slot.key()));
        slot.insert(Door::Agents(listening.map_err(|error| CoreError::io(what(), error))?));
    }
    if let Some(path) = &config.pulse {
        let what = || format!("pulse {}", path.display());
        let bound = Bound::bind(&Place::Unix(path.clone())).map_err(|error| CoreError::io(what(), error))?;
        let slot = doors.vacant_entry();
        let listening = bound.listen(poll.registry(), listener_token(slot.key()));
        slot.insert(Door::Pulse(listening.map_err(|error| CoreError::io(what(), error))?));
    }
    let udp = if config.quic { by_udp::bind(&addresses)? } else { Vec::new() };
    Ok((addresses, Doors(doors, udp)))
}

/// The agents' doors, on their way to the driver thread.
pub(crate) struct Doors(Slab<Door>, Vec<UdpSocket>);

impl Server {
    pub(crate) fn new(
        config: ServerConfig,
        (credentials, countries): (Credentials, Option<Countries>),
        poll: Poll,
        inbox: Inbox,
        doors: Doors,
    ) -> Self {
        let budget = Budget::new(config.flow.budget_bytes);
        Self {
            core: Core::new(poll, inbox, config.flow.budget_bytes),
            config,
            credentials,
            countries,
            budget,
            doors: doors.0,
            udp_sockets: doors.1,
            quic: None,
            routes: Slab::new(),
            by_key: HashMap::new(),
            by_agent: HashMap::new(),
            gateways: BTreeSet::new(),
            denied: DenyList::default(),
            shut_out: BTreeSet::new(),
            trust_keys: BTreeMap::new(),
            deny_keys: BTreeMap::new(),
            agents: HashMap::new(),
            bringers: HashMap::new(),
            gateways_seen: HashMap::new(),
            connectors: HashMap::new(),
            by_caller: BTreeSet::new(),
            going_on: BTreeSet::new(),
            route_of: HashMap::new(),
            pools: Pools::default(),
            strangers: Antechamber::default(),
            visitors: Antechamber::default(),
            waiting_peer: HashMap::new(),
            reserve: Reserve::new(),
            local_complaint: None,
            accept_paused_total: 0,
            recent: Recent::default(),
            draining: None,
            said_goodbye: false,
            closed: false,
        }
    }

    /// The driver thread's life.
    pub(crate) fn run(mut self) {
        let mut events = Events::with_capacity(1_024);
        self.open_udp();
        let now = self.core.now();
        self.core.role_timer(now + SWEEP, SWEEP_TIMER);
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
        for address in std::mem::take(&mut self.core.authenticated) {
            self.leave_pre_auth(address.ip());
        }
        self.core.mourn();
        if self.draining.is_some() && self.visitors.total() == 0 {
            self.say_goodbye();
        }
    }

    fn handle(&mut self, upcall: Upcall) {
        match upcall {
            Upcall::Wake => self.commands(),
            Upcall::Accept(door) => self.come(door),
            Upcall::Stranger(door) => self.strangers_by_udp(door),
            Upcall::Hello { session, hello } => self.hello(session, &hello),
            Upcall::LaneFailed { session, .. } => {
                self.core.close_session(session, "lane failed");
            }
            Upcall::GoAway { session, .. } => self.agent_leaves(session),
            Upcall::SessionGone { session, reason } => self.session_gone(session, &reason),
            Upcall::Preamble { relay } => self.preamble(relay),
            Upcall::Dial { relay } => self.flow_came(relay),
            Upcall::RelayGone { relay, outcome } => self.relay_gone(relay, outcome),
            Upcall::Timer(SWEEP_TIMER) => self.sweep(),
            Upcall::Timer(FAREWELL_TIMER) => self.say_goodbye(),
            Upcall::Timer(door) => self.go_on(door as usize),
            Upcall::LaneEstablished(lane) => {
                let patience = Duration::from_millis(u64::from(self.config.limits.first_frame_ms));
                let until = self.core.now() + patience;
                self.core.lane_deadline(lane, until);
            }
            Upcall::Own(_)
            | Upcall::Ready { .. }
            | Upcall::LaneReady
            | Upcall::Connected
            | Upcall::Proven { .. }
            | Upcall::LocalReady { .. } => {}
        }
    }

    fn commands(&mut self) {
        loop {
            // The host is asked for nothing: an answer that nobody waits for any more is dropped.
            match self.core.inbox.commands.try_recv() {
                Ok(Command::Apply(delta, answer)) => drop(answer.send(self.apply(&delta))),
                Ok(Command::Stats(flows, answer)) => drop(answer.send(self.stats(flows))),
                Ok(Command::Rotate(identity, answer)) => {
                    let fresh = Credentials::new(&identity).and_then(|fresh| fresh.with_web(self.config.web.as_ref()));
                    let fresh = fresh.map(|credentials| (self.credentials, self.quic) = (credentials, None));
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

    fn emit(&self, event: Event) {
        self.core.inbox.shared.events.push(event);
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

    // ---- sessions --------------------------------------------------------------------------------------------------

    /// An agent or a gateway says who it is. Certificate first, then the RouteTable, then the epoch.
    fn hello(&mut self, session: usize, hello: &Hello) {
        let Some(lane) = self.core.table.sessions.get(session).and_then(|sess| sess.lanes[0]) else { return };
        let Some(state) = self.core.lanes.get_mut(lane) else { return };
        let address = state.address;
        let judged = state.shown().and_then(|peer| {
            let role = match peer.role {
                Role::Gateway | Role::Connector => peer.role,
                _ => Role::Agent,
            };
            peer.must_be(role, &self.credentials.own.trust_domain, None)?;
            Ok(peer)
        });
        let peer = match judged {
            Ok(peer) if state.speaks_drtp() => peer,
            Ok(_) => return self.turn_away(session, "", "no ALPN drtp/1"),
            Err(error) => return self.turn_away(session, "", &error.to_string()),
        };
        state.trusted = true;
        state.peer = Some(peer.clone());
        if std::mem::take(&mut state.pre_auth) {
            self.leave_pre_auth(address.ip());
        }
        self.strangers.remember(address.ip(), self.core.now());
        if let Some((code, retry_ms, reason)) = self.unwelcome(&peer) {
            return self.refuse(session, &peer.uid, code, retry_ms, &reason);
        }
        if hello.lane > 0 {
            return self.join(session, lane, &peer, hello);
        }
        if let Some(old) = self.live(peer.role).get(&peer.uid).copied() {
            if let Some(reason) = self.fence(old, hello) {
                return self.refuse(session, &peer.uid, GoAwayCode::Fenced, 0, &reason);
            }
        }
        self.welcome(session, peer, hello, address);
    }

    /// Sessions that peers of a role have here now, by uid.
    fn live(&mut self, role: Role) -> &mut HashMap<String, usize> {
        match role {
            Role::Gateway => &mut self.bringers,
            Role::Connector => &mut self.connectors,
            _ => &mut self.agents,
        }
    }

    /// Why an agent or a gateway may not have a session here.
    fn unwelcome(&self, peer: &PeerIdentity) -> Option<(GoAwayCode, u32, String)> {
        let PeerIdentity { role, uid, not_after, .. } = peer;
        if self.denied.holds(peer) {
            return Some((GoAwayCode::Denied, 0, "this identity was revoked".into()));
        }
        if expired(*not_after) {
            return Some((GoAwayCode::Expired, 0, "certificate has expired".into()));
        }
        if self.draining.is_some() {
            return Some((GoAwayCode::Busy, 1_000, "server is draining".into()));
        }
        if *role == Role::Gateway {
            let reason = "this gateway is not trusted here (yet)".into();
            return (!self.trusts(uid)).then_some((GoAwayCode::UnknownAgent, UNKNOWN_RETRY_MS, reason));
        }
        // A crowd of connectors must not keep agents out.
        let most = self.config.limits.sessions_max as usize;
        let full = if *role == Role::Connector { self.connectors.len() >= most / 4 } else { self.agents.len() >= most };
        if full {
            return Some((GoAwayCode::Busy, 5_000, "server is full".into()));
        }
        if *role == Role::Connector {
            let reason = self.unwelcome_connector(peer)?;
            return Some((GoAwayCode::UnknownAgent, UNKNOWN_RETRY_MS, reason.into()));
        }
        if !self.by_agent.contains_key(uid) {
            let reason = "no connection here lists this agent (yet)".into();
            return Some((GoAwayCode::UnknownAgent, UNKNOWN_RETRY_MS, reason));
        }
        None
    }

    /// A newer epoch fences the older at once, and so does a newer session of the same process; anything else is
    /// refused, with the reason.
    fn fence(&mut self, old: usize, hello: &Hello) -> Option<String> {
        let held = *self.core.table.session(old)?.peer();
        let same_process = hello.epoch == held.epoch && hello.token == held.token;
        if hello.epoch < held.epoch || (same_process && hello.attempt <= held.attempt) {
            return Some("a newer instance of this agent serves".into());
        }
        if hello.epoch == held.epoch && !same_process {
            return Some("another instance serves with the same epoch: is its state directory a copy?".into());
        }
        if same_process && self.leaves_by_itself(old) {
            return None;
        }
        if !same_process {
            // Sessions that drain beside the newest one are the same instance's: it is over, everywhere.
            for former in self
                .uid_of(old)
                .map(|uid| self.sessions_of(&uid))
                .unwrap_or_default()
                .into_iter()
                .filter(|former| *former != old)
            {
                if let Some(session) = self.core.table.session(former) {
                    session.refuse(GoAwayCode::Fenced, 0, "a newer instance of this agent serves");
                }
                self.session_gone(former, "fenced by a newer session");
            }
        }
        if let Some(session) = self.core.table.session(old) {
            if same_process {
                session.refuse(GoAwayCode::Drain, 0, "replaced by a newer session");
            } else {
                session.refuse(GoAwayCode::Fenced, 0, "a newer instance of this agent serves");
            }
        }
        self.session_gone(old, "fenced by a newer session");
        None
    }

    /// An agent that replaces a session, because certificates end, drains the old one first; its visitors may finish there.
    fn leaves_by_itself(&mut self, session: usize) -> bool {
        let drains = self.core.table.session(session).is_some_and(|machine| machine.state() == State::Draining);
        drains && self.uid_of(session).is_some_and(|uid| self.sessions_of(&uid).len() <= DRAINING_MAX)
    }

    /// Live and draining sessions of one agent.
    fn sessions_of(&self, uid: &str) -> Vec<usize> {
        let known = self.judged_sessions().into_iter().filter(|(agent, _)| agent == uid);
        known.map(|(_, session)| session).collect()
    }

    /// Every session whose agent is known, with its uid: the live ones, and those that drain beside them.
    fn judged_sessions(&self) -> Vec<(String, usize)> {
        let alive = self.core.table.sessions.iter().filter(|(_, session)| !session.gone);
        alive.filter_map(|(index, session)| Some((session.peer.as_ref()?.uid.clone(), index))).collect()
    }

    fn welcome(&mut self, index: usize, peer: PeerIdentity, hello: &Hello, address: SocketAddr) {
        let (uid, role, epoch, now) = (peer.uid.clone(), peer.role, hello.epoch, self.core.now());
        let Some(session) = self.core.table.session(index) else { return };
        if role != Role::Agent {
            session.answer_streams();
        }
        session.accept(random_token(), now);
        self.core.table.sessions[index].peer = Some(peer);
        self.core.table.touch(index);
        self.live(role).insert(uid.clone(), index);
        if role != Role::Agent {
            return;
        }
        let connections = self.connections_of(&uid);
        self.emit(Event::SessionUp { agent: uid.clone(), epoch, peer: address.to_string(), connections });
        self.refresh_doors(&uid);
    }

    /// A further lane shows the session's join token.
    fn join(&mut self, fresh: usize, lane: usize, peer: &PeerIdentity, hello: &Hello) {
        let (now, uid) = (self.core.now(), peer.uid.as_str());
        let joined = self.live(peer.role).get(uid).copied().filter(|session| {
            let token_fits = |s: &mut crate::session::Session| {
                s.state() == State::Open && s.join_token() == hello.token && s.join(hello.lane, now)
            };
            self.core.table.session(*session).is_some_and(token_fits)
        });
        match joined {
            Some(session) => self.core.move_lane(lane, session, hello.lane),
            None => self.refuse(fresh, uid, GoAwayCode::Busy, 0, "no session to join"),
        }
    }

    /// Before the peer is trusted nothing is said to it.
    fn turn_away(&mut self, session: usize, subject: &str, reason: &str) {
        self.emit(Event::Refused { subject: subject.to_owned(), reason: reason.to_owned() });
        let lane = self.core.table.sessions.get(session).and_then(|sess| sess.lanes[0]);
        self.core.close_session(session, reason);
        if let Some(lane) = lane {
            self.core.drop_lane(lane, reason);
        }
    }

    fn refuse(&mut self, session: usize, uid: &str, code: GoAwayCode, retry_ms: u32, reason: &str) {
        self.emit(Event::Refused { subject: uid.to_owned(), reason: reason.to_owned() });
        if let Some(machine) = self.core.table.session(session) {
            machine.refuse(code, retry_ms, reason);
        }
        self.core.close_session(session, reason);
    }

    /// A session drains or opens: its endpoints may have to open or close.
    fn session_changed(&mut self, session: usize) {
        if let Some(uid) = self.uid_of(session) {
            self.refresh_doors(&uid);
        }
    }

    fn session_gone(&mut self, session: usize, reason: &str) {
        let uid = self.uid_of(session);
        self.core.close_session(session, reason);
        let Some(uid) = uid else { return };
        self.bringers.retain(|_, live| *live != session);
        self.connectors.retain(|_, live| *live != session);
        if self.agents.get(&uid) == Some(&session) {
            self.agents.remove(&uid);
            self.emit(Event::SessionDown { agent: uid.clone(), reason: reason.to_owned() });
            self.refresh_doors(&uid);
        }
    }

    fn uid_of(&self, session: usize) -> Option<String> {
        self.core.table.sessions.get(session)?.peer.as_ref().map(|peer| peer.uid.clone())
    }

    fn connections_of(&self, uid: &str) -> Vec<String> {
        let routes = self.by_agent.get(uid).into_iter().flatten().filter_map(|index| self.routes.get(*index));
        routes.map(|route| route.spec.connection.clone()).collect()
    }

    /// Somebody takes visitors of a route now.
    fn is_served(&self, route: usize) -> bool {
        let takes = |uid: &String| self.agents.get(uid).is_some_and(|session| self.core.table.takes_streams(*session));
        self.routes.get(route).is_some_and(|route| route.spec.enabled && route.spec.agents.iter().any(takes))
    }

    /// A visitor of a route has its stream.
    fn count_in(&mut self, owner: usize, relay: usize, would_refuse: bool) {
        let route = &mut self.routes[owner];
        route.visitors.insert(relay);
        self.pools.enter(route);
        route.streams_total += 1;
        route.would_refuse_total += u64::from(would_refuse);
        if let Some(group) = route.group {
            self.core.table.limit(relay, group);
        }
    }

    /// A session that takes visitors of a route, turn by turn; else one that drains, for the visitor was let in before.
    fn session_for(&mut self, route: usize) -> Option<usize> {
        let route = self.routes.get_mut(route).filter(|route| route.spec.enabled)?;
        let count = route.spec.agents.len();
        for takes in [Table::takes_streams, Table::takes_stragglers] {
            for step in 0..count {
                let at = (route.next_agent + step) % count;
                let session = self.agents.get(&route.spec.agents[at]).copied();
                if let Some(session) = session.filter(|session| takes(&self.core.table, *session)) {
                    route.next_agent = at + 1;
                    return Some(session);
                }
            }
        }
        None
    }

    // ---- ends ------------------------------------------------------------------------------------------------------

    fn relay_gone(&mut self, relay: usize, outcome: Outcome) {
        let Some(state) = self.core.table.relays.get(relay) else { return };
        let owner = state.owner;
        let was_open = state.phase != Phase::Preamble;
        let mut record = FlowRecord {
            ended_unix_ms: unix_ms(),
            bytes_in: state.bytes_read,
            bytes_out: state.bytes_written,
            duration_ms: self.core.now().saturating_duration_since(state.started).as_millis() as u64,
            outcome: outcome.map_or_else(ResetCode::words, |()| "finished").to_owned(),
            ..FlowRecord::default()
        };
        if let Some(flow) = &state.flow {
            (record.datagrams_in, record.datagrams_out) = (flow.datagrams_read, flow.datagrams_written);
        }
        if was_open {
            record.visitor = state.who.address().map(|address| address.to_string()).unwrap_or_default();
            record.stream_id = crate::message::uuid_text(state.who.stream_id);
        }
        if !was_open {
            self.preamble_over(relay);
            self.waiting_peer.remove(&relay);
        }
        let Some(route) = self.routes.get_mut(owner) else { return };
        if !route.visitors.remove(&relay) {
            return;
        }
        self.pools.leave(route);
        route.bytes_in += record.bytes_in;
        route.bytes_out += record.bytes_out;
        record.connection.clone_from(&route.spec.connection);
        record.service = format!("{}/{}", route.spec.namespace, route.spec.name);
        self.recent.push(record);
    }

    /// Certificates run out under live sessions and visitors; failed binds are tried again.
    fn sweep(&mut self) {
        let at = self.core.now() + SWEEP;
        self.core.role_timer(at, SWEEP_TIMER);
        let proven = self.proven();
        let ended = |uid: &str, not_after: i64| expired(not_after) && !proven.contains(uid);
        for (uid, session) in self.judged_sessions() {
            let peer = self.core.table.sessions.get(session).and_then(|session| session.peer.as_ref());
            if peer.is_some_and(|peer| ended(&uid, peer.not_after)) {
                if let Some(machine) = self.core.table.session(session) {
                    machine.refuse(GoAwayCode::Expired, 0, "certificate has expired");
                }
                self.session_gone(session, "certificate has expired");
            }
        }
        let relays = self.core.table.relays.iter();
        let over = relays.filter(|(_, relay)| {
            relay
                .bringer
                .as_ref()
                .is_some_and(|who| ended(&who.uid, who.not_after) || who.visit_ends().is_some_and(expired))
        });
        for relay in over.map(|(index, _)| index).collect::<Vec<_>>() {
            self.core.table.end_relay(relay, Err(ResetCode::Denied));
        }
        self.turn_with_the_clock();
        self.retry_doors();
    }

    /// Peers whose certificate holds: with sessions, or gateways that bring visitors on connections of their own.
    fn proven(&mut self) -> HashSet<String> {
        self.gateways_seen.retain(|_, not_after| !expired(*not_after));
        let peers = self.core.table.sessions.iter().filter_map(|(_, session)| session.peer.as_ref());
        let mut found = proven(peers, |not_after| !expired(not_after));
        found.extend(self.gateways_seen.keys().cloned());
        found
    }

    /// What `route` says of a visitor.
    fn visitor_verdict(&self, route: &Route, address: Option<IpAddr>, signed_in: Option<&SignedIn>) -> Verdict {
        if signed_in.is_some_and(|person| self.shut_out.contains(&person.name) || person.until.is_some_and(expired)) {
            return Verdict::default();
        }
        let person = signed_in.map(|person| route.guard.person(person));
        self.verdict(route, route.guard.of_visitors(), address, person.as_ref())
    }

    /// What `route` says of a caller whom it names.
    fn caller_verdict(&self, route: &Route, address: Option<IpAddr>, caller: &Caller) -> Verdict {
        let policies = route.guard.of_callers();
        policies.map_or(Verdict { allowed: true, would_refuse: false }, |access| {
            self.verdict(route, access, address, Some(caller))
        })
    }

    /// By all that is known here.
    fn verdict(&self, route: &Route, access: &Access, address: Option<IpAddr>, caller: Option<&Caller>) -> Verdict {
        let named = if access.asks_countries() { self.countries.as_ref() } else { None };
        let country = named.zip(address).and_then(|(countries, address)| countries.of(address));
        let place = route.spec.place.as_ref();
        access.decide(&Asking { address, country, now: unix_s(), caller, place })
    }
}

/// A certificate's end has come. Its last second is not waited for: what hangs on it is cut within the next two.
fn expired(not_after: i64) -> bool {
    unix_s() >= not_after
}

/// An unguessable token. Without randomness there are no keys either, so zeros can only mean a broken machine.
pub(crate) fn random_token() -> [u8; 16] {
    let mut token = [0; 16];
    if aws_lc_rs::rand::fill(&mut token).is_err() {
        token = [0; 16];
    }
    token
}
