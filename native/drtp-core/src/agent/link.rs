//! A link is the agent's wish for a session with one POP: dialled, proven, greeted, and tried again with full jitter.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UdpSocket};

use super::course::{Course, Miss, Next, Ways};
use super::dial::Purpose;
use super::plan::ServerSpec;
use super::{Agent, What};
use crate::driver::LaneConn;
use crate::driver::socket::Socket;
use crate::driver::table::unix_s;
use crate::event::Event;
use crate::identity::{IdentityError, Role};
use crate::message::{GoAway, GoAwayCode};
use crate::session::{LANES_MAX, Session};
use crate::through::{Goal, Way};
use crate::tls::Tls;

/// The first hop of a link's way, or the POP itself.
pub(super) enum Reached {
    Tcp(TcpStream),
    /// For QUIC. Nobody has answered yet.
    Udp(UdpSocket),
}

/// First wait is up to this; it doubles up to the cap. Full jitter: a whole fleet must not come back at once.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A POP that says no for good reason is asked more seldom.
const REFUSED_WAIT: Duration = Duration::from_secs(20);
const REFUSED_WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// The first to come back finds out for the others.
const BARRED_APART: Duration = Duration::from_secs(5);
/// A session that lived this long starts the backoff anew.
const STABLE: Duration = Duration::from_secs(5);
/// A POP that says goodbye is likely to come back: it is tried at this pace, with full jitter, and refuses in the kernel
/// while it drains. So long after its deadline the usual backoff begins.
const RETURN_PACE: Duration = Duration::from_secs(2);
const RETURN_WITHIN: Duration = Duration::from_secs(20);
pub(super) const REVOKED: &str = "its POP was revoked";
/// Visitors may stay on a session that another took the place of, while both ends go on proving who they are.
const STAY_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A POP that left the plan finishes its visitors within this.
const LEAVING: Duration = Duration::from_secs(30);

/// After so many failures in a row a POP counts as lost.
const LOST: u32 = 6;

/// Looking for a better way becomes as seldom as so many times the first pause.
const LOOK_GROWTH_MAX: u32 = 20;

pub(super) struct Link {
    pub(super) spec: ServerSpec,
    pub(super) session: Option<usize>,
    pub(super) up: bool,
    pub(super) up_since: Option<Instant>,
    pub(super) failures: u32,
    /// Timers of an earlier wish are told apart by it.
    pub(super) serial: u64,
    pub(super) message: Option<String>,
    pub(super) peer: String,
    /// The POP's own word on why it ended the session.
    said: Option<String>,
    /// Not before this, by the POP's own word.
    not_before: Option<Duration>,
    /// Until when it is expected back from a planned stop.
    returns_by: Option<Instant>,
    /// From when, and until when at most, its session's certificates let it live, unix seconds.
    term: Option<(i64, i64)>,
    pub(super) course: Course,
    /// The POP proved itself on this try: what happens from then on is its own doing, not the way's.
    pub(super) proven: bool,
    /// When a better way is looked for, and how many first pauses after that again.
    look_at: Instant,
    looks: u32,
    /// A session that only looks whether a better way leads there.
    pub(super) looking: Option<(usize, usize)>,
}

impl Link {
    pub(super) fn new(spec: ServerSpec, ways: Ways, serial: u64) -> Self {
        Self {
            course: Course::new(ways),
            proven: false,
            look_at: Instant::now(),
            looks: 1,
            looking: None,
            spec,
            session: None,
            up: false,
            up_since: None,
            failures: 0,
            serial,
            message: None,
            peer: String::new(),
            said: None,
            not_before: None,
            returns_by: None,
            term: None,
        }
    }

    /// Where its way begins.
    fn hop(&self, way: usize) -> (String, u16) {
        let here = || (self.spec.address.clone(), self.spec.port);
        self.course.way_at(way).proxy.as_ref().map_or_else(here, |proxy| (proxy.host.clone(), proxy.port))
    }

    /// The way that is taken now, for people.
    pub(super) fn way(&self) -> String {
        self.course.way().to_string()
    }
}

impl Agent {
    fn connect_within(&self) -> Duration {
        Duration::from_millis(u64::from(self.config.limits.handshake_ms))
    }

    /// Many wrong passwords in a row lock an account: a proxy that refuses them is asked again seldom, and for all POPs
    /// together, until the host says anew what to say there.
    fn refused_by(&mut self, proxy: String) {
        let now = self.core.now();
        let (until, times) = self.refusals.entry(proxy).or_insert((now, 0));
        if *until <= now {
            *until = now + REFUSED_WAIT.saturating_mul(1 << (*times).min(10)).min(REFUSED_WAIT_MAX);
            *times += 1;
        }
    }

    /// Until when nobody asks the proxy at the beginning of a link's way.
    fn barred(&self, link: usize) -> Option<Instant> {
        let proxy = self.links.get(link)?.course.way().proxy.as_ref()?.to_string();
        self.refusals.get(&proxy).map(|(until, _)| *until).filter(|until| *until > self.core.now())
    }

    pub(super) fn start_link(&mut self, link: usize) {
        if self.fenced || self.draining() {
            return;
        }
        if let Some(until) = self.barred(link) {
            let (serial, apart) = (self.links[link].serial, BARRED_APART.mul_f64(self.unit()));
            return self.later(until + apart, What::Link(link, serial));
        }
        let Some(state) = self.links.get(link).filter(|state| state.session.is_none()) else { return };
        let (host, port) = state.hop(state.course.at());
        self.dial(Purpose::Link(link), &host, port, self.connect_within());
    }

    pub(super) fn begin_session(&mut self, link: usize, address: SocketAddr) -> usize {
        self.attempt_number += 1;
        let config = self.session_config(u64::from(self.attempt_number) << 8 | link as u64);
        let (epoch, budget, now) = (self.config.epoch, self.budget.clone(), self.core.now());
        let begin = if self.role == Role::Agent { Session::agent } else { Session::gateway };
        let machine = begin(config, budget, epoch, self.token, self.attempt_number, now);
        self.core.add_session(machine, link, address.to_string())
    }

    /// A POP, or its way's first hop, is reached: TLS and HELLO follow.
    pub(super) fn link_connected(&mut self, link: usize, reached: Reached, address: SocketAddr) {
        if self.draining() {
            return;
        }
        let session = self.begin_session(link, address);
        let state = &mut self.links[link];
        (state.session, state.peer, state.proven) = (Some(session), address.to_string(), false);
        let at = state.course.at();
        if let Err(error) = self.add_first_lane(link, at, session, reached, address) {
            self.link_down(link, session, &error);
        }
    }

    fn add_first_lane(
        &mut self,
        link: usize,
        way: usize,
        session: usize,
        reached: Reached,
        address: SocketAddr,
    ) -> Result<(), String> {
        match reached {
            Reached::Tcp(stream) => {
                let way = self.links[link].course.way_at(way).clone();
                self.add_lane(link, &way, session, 0, stream, address)
            }
            Reached::Udp(socket) => self.add_quic_lane(link, session, socket, address),
        }
    }

    /// A further lane's TCP is up.
    pub(super) fn lane_connected(&mut self, purpose: Purpose, stream: TcpStream, address: SocketAddr) {
        let Purpose::Lane { link, session, serial, number } = purpose else { return };
        let same = self.core.table.sessions.get(session).is_some_and(|sess| sess.serial == serial);
        let now = self.core.now();
        if same && self.core.table.session(session).is_some_and(|machine| machine.join(number, now)) {
            let way = self.links[link].course.way().clone();
            // Without it the session goes on with the lanes that it has.
            let _ = self.add_lane(link, &way, session, number, stream, address);
        }
    }

    fn add_lane(
        &mut self,
        link: usize,
        way: &Way,
        session: usize,
        number: u8,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<(), String> {
        let until = self.core.now() + self.config.limits.patience();
        let ServerSpec { name, address: host, port, .. } = self.links[link].spec.clone();
        let socket = Socket::lane_by(way, Goal { host, port, name: name.clone() }, stream)?;
        let tls = Tls::client(&self.credentials.tunnel_client, &name).map_err(|error| error.to_string())?;
        self.core.add_lane(socket, tls, session, number, address, until).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// The POP's certificate: chain and DNS name were verified; now role, uid and ALPN.
    pub(super) fn lane_established(&mut self, lane: usize) {
        let Some(state) = self.core.lanes.get_mut(lane) else { return };
        let session = state.session;
        let Some(link) = self.core.table.sessions.get(session).map(|sess| sess.owner) else { return };
        let Some(wish) = self.links.get_mut(link) else { return };
        let judged = state.shown().and_then(|peer| {
            peer.must_be(Role::Pop, &self.credentials.own.trust_domain, Some(&wish.spec.server))?;
            if self.denied.as_ref().is_some_and(|(_, pops)| pops.holds(&peer)) {
                return Err(IdentityError::Denied);
            }
            Ok(peer)
        });
        let failure = match judged {
            Ok(_) if state.speaks_drtp() && wish.looking.is_some_and(|(looking, _)| looking == session) => {
                return self.found_better(link);
            }
            Ok(peer) if state.speaks_drtp() => {
                wish.proven = true;
                wish.course.hit();
                if let Some(proxy) = &wish.course.way().proxy {
                    self.refusals.remove(&proxy.to_string());
                }
                state.trusted = true;
                state.peer = Some(peer);
                self.core.table.touch(session);
                return;
            }
            Ok(_) => "the server does not speak drtp/1".to_owned(),
            Err(error) => error.to_string(),
        };
        self.core.drop_lane(lane, &failure);
    }

    /// HELLO came back: the session is live.
    pub(super) fn link_ready(&mut self, session: usize) {
        let now = self.core.now();
        let Some((link, serial)) = self.core.table.sessions.get(session).map(|sess| (sess.owner, sess.serial)) else {
            return;
        };
        let lane = self.core.table.sessions[session].lanes[0].and_then(|lane| self.core.lanes.get(lane));
        let Some(lane) = lane.filter(|lane| lane.trusted) else { return };
        let theirs = lane.peer.as_ref().map_or(i64::MAX, |peer| peer.not_after);
        let term = (unix_s(), theirs.min(self.credentials.own.not_after));
        let Some(state) = self.links.get_mut(link).filter(|state| state.session == Some(session)) else { return };
        (state.up, state.up_since, state.message, state.term) = (true, Some(now), None, Some(term));
        state.returns_by = None;
        let (server, peer) = (state.spec.server.clone(), state.peer.clone());
        let (host, port) = state.hop(state.course.at());
        let way = state.way();
        self.look_later(link);
        self.emit(Event::TunnelUp { server, peer, way });
        if let Some(until) = self.drain_until {
            // It was being greeted when this agent was told to stop.
            if let Some(machine) = self.core.table.session(session) {
                machine.drain(until.saturating_duration_since(now), "agent is stopping", now);
            }
            return self.core.table.touch(session);
        }
        // A QUIC lane is all that its session needs.
        let lanes = if self.is_quic(link, None) { 1 } else { self.config.lanes.clamp(1, LANES_MAX) };
        for number in 1..lanes {
            let purpose = Purpose::Lane { link, session, serial, number };
            self.dial(purpose, &host, port, self.connect_within());
        }
    }

    pub(super) fn link_goaway(&mut self, session: usize, goaway: &GoAway) {
        let Some(link) = self.core.table.sessions.get(session).map(|sess| sess.owner) else { return };
        let Some(state) = self.links.get_mut(link).filter(|state| state.session == Some(session)) else { return };
        let server = state.spec.server.clone();
        let pace = Duration::from_millis(u64::from(goaway.deadline_ms));
        let now = self.core.now();
        match GoAwayCode::from_wire(goaway.code) {
            GoAwayCode::Fenced => self.fence(server, &goaway.reason),
            GoAwayCode::Drain => {
                self.core.hurry_flows(Some(session));
                // The old session drains by itself; its place is free for the next one.
                state.returns_by = Some(now + pace + RETURN_WITHIN);
                self.link_down(link, session, &format!("server drains: {}", goaway.reason));
            }
            code => {
                // A session that outlived its certificate comes back at once with the renewed one.
                let expired = code == GoAwayCode::Expired && self.credentials.own.not_after < unix_s();
                let long = expired || matches!(code, GoAwayCode::Denied | GoAwayCode::Version);
                state.not_before = Some(if long { REFUSED_WAIT } else { pace });
                state.said = Some(goaway.reason.clone());
                self.emit(Event::Refused { subject: server, reason: goaway.reason.clone() });
            }
        }
    }

    /// Sessions are held to the newest certificates that both ends have shown. When two thirds of a term are over a fresh
    /// session takes the place of one, a POP at a time, and proves both anew; visitors stay on the old one.
    pub(super) fn refresh_one_link(&mut self) {
        if self.fenced || self.draining() {
            return;
        }
        let (now_s, all_up) = (unix_s(), self.links.iter().all(|(_, link)| link.up));
        let due = |link: &Link| {
            let Some((since, until)) = link.term.filter(|_| link.up) else { return false };
            let (whole, left) = (until.saturating_sub(since), until.saturating_sub(now_s));
            let urgent = left.saturating_mul(6) <= whole;
            left > 1 && left.saturating_mul(3) <= whole && (all_up || urgent)
        };
        let Some(index) = self.links.iter().find_map(|(index, link)| due(link).then_some(index)) else { return };
        let link = &mut self.links[index];
        (link.up, link.up_since, link.term, link.failures) = (false, None, None, 0);
        if let Some(session) = link.session.take() {
            self.leave(session, STAY_MAX, "its certificates end: a fresh session follows");
        }
        self.start_link(index);
    }

    /// The host has said anew how POPs may be reached: sessions stay, and later tries go by the new word.
    pub(super) fn revise_courses(&mut self) {
        let mut waiting = Vec::new();
        let mut revised = Vec::new();
        for (index, link) in &mut self.links {
            let ways = self.ways.get(&link.spec.server).cloned().unwrap_or_default();
            link.looks = 1;
            if !link.course.revise(ways) {
                continue;
            }
            self.refusals.clear();
            // What is under way goes by numbers of the former word.
            link.serial = self.core.table.next_serial();
            revised.push(index);
            if link.session.is_none() {
                waiting.push(index);
            }
        }
        for link in revised {
            self.stop_looking(link);
        }
        for link in waiting {
            self.cancel_dials_to(link);
            self.start_link(link);
        }
    }

    /// Links on a lesser way look for a better one, beside the session that they have.
    pub(super) fn look_for_better_ways(&mut self) {
        if self.fenced || self.draining() {
            return;
        }
        let now = self.core.now();
        // A POP at a time: while one changes its way, visitors have the others. One that is lost is not waited for.
        if !self.links.iter().all(|(_, link)| (link.up || link.failures >= LOST) && link.looking.is_none()) {
            return;
        }
        let mut due = self.links.iter().filter(|(_, link)| link.up && link.look_at <= now);
        let Some((index, way)) = due.find_map(|(index, link)| Some((index, link.course.better()?))) else { return };
        self.look_later(index);
        let link = &mut self.links[index];
        link.looks = (link.looks * 2).min(LOOK_GROWTH_MAX);
        let (purpose, (host, port)) = (Purpose::Better { link: index, serial: link.serial, way }, link.hop(way));
        self.dial(purpose, &host, port, self.connect_within());
    }

    fn look_later(&mut self, link: usize) {
        let pause = Duration::from_millis(u64::from(self.config.limits.better_way_ms));
        let (now, jitter) = (self.core.now(), self.unit());
        if let Some(link) = self.links.get_mut(link) {
            link.look_at = now + (pause * link.looks).mul_f64(0.75 + jitter / 2.0);
        }
    }

    /// A look ends with the session that it is beside.
    fn stop_looking(&mut self, link: usize) {
        let looking = self.links.get_mut(link).and_then(|state| state.looking.take());
        if let Some((session, _)) = looking {
            if let Some(sess) = self.core.table.sessions.get_mut(session) {
                sess.owner = usize::MAX;
            }
            self.core.close_session(session, "looks no more");
        }
    }

    /// A better way's first hop is there: whether the POP is behind it shows in the handshake. No HELLO is said.
    pub(super) fn better_connected(
        &mut self,
        link: usize,
        serial: u64,
        way: usize,
        reached: Reached,
        address: SocketAddr,
    ) {
        if !self.links.get(link).is_some_and(|state| state.serial == serial && state.up) {
            return;
        }
        let session = self.begin_session(link, address);
        self.links[link].looking = Some((session, way));
        if self.add_first_lane(link, way, session, reached, address).is_err() {
            self.links[link].looking = None;
            self.core.close_session(session, "cannot register");
        }
    }

    /// The POP proved itself at the end of a better way: a fresh session takes it, the old one's visitors finish there.
    fn found_better(&mut self, link: usize) {
        let state = &mut self.links[link];
        let Some((looking, way)) = state.looking.take() else { return };
        let former = state.session.take();
        (state.up, state.up_since, state.term, state.failures) = (false, None, None, 0);
        state.course.take(way);
        state.looks = 1;
        if let Some(sess) = self.core.table.sessions.get_mut(looking) {
            sess.owner = usize::MAX;
        }
        self.core.close_session(looking, "a better way was found");
        if let Some(session) = former {
            self.leave(session, STAY_MAX, "a better way was found");
        }
        self.start_link(link);
    }

    /// A session without a link: its visitors finish, no new ones come.
    fn leave(&mut self, session: usize, within: Duration, reason: &str) {
        let now = self.core.now();
        if let Some(machine) = self.core.table.session(session) {
            machine.drain(within, reason, now);
        }
        self.core.hurry_flows(Some(session));
        // Its events must not meet the link's next tenant.
        if let Some(sess) = self.core.table.sessions.get_mut(session) {
            sess.owner = usize::MAX;
        }
        self.core.table.touch(session);
    }

    /// Another instance serves: this one never tries again, anywhere.
    fn fence(&mut self, server: String, message: &str) {
        if std::mem::replace(&mut self.fenced, true) {
            return;
        }
        self.emit(Event::Fenced { server, message: message.to_owned() });
        let sessions: Vec<usize> = self.core.table.sessions.iter().map(|(index, _)| index).collect();
        for session in sessions {
            self.session_over(session, "fenced");
        }
    }

    pub(super) fn session_over(&mut self, session: usize, reason: &str) {
        let link = self.core.table.sessions.get(session).map(|sess| sess.owner);
        self.core.close_session(session, reason);
        if let Some(link) = link {
            self.link_down(link, session, reason);
        }
    }

    /// A lane ended before its session was greeted: by a proxy's word, or because of what lies behind.
    pub(super) fn lane_failed(&mut self, session: usize, reason: &str, refused: bool) {
        let link = self.core.table.sessions.get(session).map(|sess| sess.owner);
        let Some(state) = link.and_then(|link| self.links.get_mut(link)) else {
            return self.session_over(session, reason);
        };
        if state.looking.is_some_and(|(looking, _)| looking == session) {
            state.looking = None;
        }
        if state.session != Some(session) || state.proven {
            return self.session_over(session, reason);
        }
        let (at, reason) = (state.course.at(), intercepted(reason, state.course.way()));
        let next = state.course.miss(if refused { Miss::Refused } else { Miss::Unproven });
        let wrong_credentials = refused && reason.starts_with("DRTP-4050");
        let proxy = state.course.way_at(at).proxy.as_ref().filter(|_| wrong_credentials).map(ToString::to_string);
        state.not_before = refused.then_some(REFUSED_WAIT);
        if let Some(proxy) = proxy {
            self.refused_by(proxy);
        }
        self.session_over(session, &reason);
        self.turn_aside(link.unwrap_or_default(), at, next);
    }

    /// Another way is taken at once, where the course says so.
    fn turn_aside(&mut self, link: usize, from: usize, next: Next) {
        let Some(state) = self.links.get_mut(link).filter(|state| state.session.is_none()) else { return };
        if next == Next::Now && state.course.at() != from {
            state.serial = self.core.table.next_serial();
            self.start_link(link);
        }
    }

    /// The link has no session any more; it wants another one, later.
    pub(super) fn link_down(&mut self, link: usize, session: usize, reason: &str) {
        let now = self.core.now();
        let Some(state) = self.links.get_mut(link).filter(|state| state.session == Some(session)) else { return };
        state.session = None;
        let was_up = std::mem::take(&mut state.up);
        if state.up_since.take().is_some_and(|since| now.saturating_duration_since(since) > STABLE) {
            state.failures = 0;
        }
        let message = state.said.take().unwrap_or_else(|| reason.to_owned());
        let first = state.message.as_ref() != Some(&message);
        state.message = Some(message.clone());
        let server = state.spec.server.clone();
        if was_up || first {
            self.emit(Event::TunnelDown { server, message });
        }
        self.stop_looking(link);
        self.retry_link(link);
    }

    /// Its way's first hop cannot be reached.
    pub(super) fn link_failed(&mut self, link: usize, error: &str) {
        let Some(state) = self.links.get_mut(link) else { return };
        let error = match &state.course.way().proxy {
            Some(proxy) => format!("DRTP-4054: the proxy {proxy} cannot be reached ({error})"),
            None => error.to_owned(),
        };
        let first = state.message.as_ref() != Some(&error);
        state.message = Some(error.clone());
        let server = state.spec.server.clone();
        let (at, next) = (state.course.at(), state.course.miss(Miss::Unreached));
        if first {
            self.emit(Event::TunnelDown { server, message: error });
        }
        self.retry_link(link);
        self.turn_aside(link, at, next);
    }

    fn retry_link(&mut self, link: usize) {
        if self.fenced || self.draining() {
            return;
        }
        let now = self.core.now();
        let Some(state) = self.links.get_mut(link) else { return };
        let ceiling = if state.returns_by.is_some_and(|by| now < by) {
            RETURN_PACE
        } else {
            let grown = BACKOFF_FIRST.saturating_mul(1 << state.failures.min(10)).min(BACKOFF_MAX);
            state.failures += 1;
            grown
        };
        let (floor, serial) = (state.not_before.take().unwrap_or_default(), state.serial);
        let wait = floor + ceiling.mul_f64(self.unit());
        self.later(now + wait, What::Link(link, serial));
    }

    /// Ends at once every session with a POP that is denied, those that only finish included.
    pub(super) fn cut_denied(&mut self) {
        let denied = |agent: &Self, link: usize| agent.links.get(link).is_some_and(|l| agent.is_denied(&l.spec.server));
        let gone: Vec<(String, usize)> = self
            .link_by_key
            .iter()
            .filter(|(_, link)| denied(self, **link))
            .map(|(key, link)| (key.clone(), *link))
            .collect();
        for (key, link) in gone {
            self.link_by_key.remove(&key);
            self.drop_link(link);
        }
        let to_them = |lane: &LaneConn| lane.peer.as_ref().is_some_and(|peer| self.disbelieves(peer));
        let live: Vec<usize> =
            self.core.lanes.iter().filter(|(_, lane)| to_them(lane)).map(|(_, lane)| lane.session).collect();
        for session in live {
            self.session_over(session, REVOKED);
        }
    }

    /// A POP that is not in the plan any more: its visitors finish, no new ones come.
    pub(super) fn drop_link(&mut self, link: usize) {
        self.cancel_dials_to(link);
        self.stop_looking(link);
        let Some(state) = self.links.try_remove(link) else { return };
        if let Some(session) = state.session {
            self.leave(session, LEAVING, "agent is assigned elsewhere");
            if !state.up {
                self.core.close_session(session, "not in the plan");
            }
        }
    }
}

/// A certificate that is not the POP's says that somebody looks into TLS on the way.
fn intercepted(reason: &str, way: &Way) -> String {
    if reason.contains("invalid peer certificate") && !way.web_socket {
        return format!("DRTP-4055: something on the way answers in the tunnel server's place ({reason})");
    }
    reason.to_owned()
}
