//! Who comes in by which door: agents' lanes, gateways' visitors. Nobody is ever waited for, everybody has a deadline.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::antechamber::{Guest, Places};
use super::entries::Mode;
use super::listener::out_of_descriptors;
use super::{Door, Server};
use crate::driver::LaneConn;
use crate::driver::hop::SuddenEnd;
use crate::driver::relay::{Bringer, Phase, Relay, Relays};
use crate::driver::socket::{Socket, would_block};
use crate::driver::table::canonical;
use crate::identity::{PeerIdentity, Role};
use crate::introduction::{Malformed, introduced};
use crate::message::{Carries, Open, ResetCode};
use crate::proxy::{Header, Parsed, parse_any, parse_v2};
use crate::session::Session;
use crate::tls::Tls;

/// Connections that are taken at a door before other sockets have their turn.
const ACCEPTS_PER_TURN: u32 = 64;
/// What the pulse says.
const PULSE: &[u8] = b".";
/// Accepting goes on after this when descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Server {
    /// Takes who waits at a door, but no more in a turn than find a place: what they have said already is read before the
    /// next ones come, so that a burst of honest peers never looks like a crowd of silent strangers.
    pub(super) fn accept(&mut self, door: usize) {
        for _ in 0..self.at_once() {
            let accepted = match self.doors.get(door) {
                Some(Door::Agents(listener) | Door::Pulse(listener)) => listener.accept(SuddenEnd::Finish),
                Some(Door::Endpoint(route, listener)) => listener.accept(self.sudden_end(*route)),
                None => return,
            };
            match accepted {
                Ok((socket, peer)) => self.admit(door, socket, peer.map(canonical)),
                Err(error) if would_block(&error) => return,
                Err(error) if out_of_descriptors(&error) => return self.pause(door),
                // The visitor went away before it was taken.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(_) => return self.pause(door),
            }
        }
        // Once: each turn that takes all it may would else ask for several more.
        if self.going_on.insert(door) {
            let next_turn = self.core.now();
            self.core.role_timer(next_turn, door as u64);
        }
    }

    /// Somebody has come: at a door where others wait already, they are next.
    pub(super) fn come(&mut self, door: usize) {
        if !self.going_on.contains(&door) {
            self.accept(door);
        }
    }

    pub(super) fn go_on(&mut self, door: usize) {
        self.going_on.remove(&door);
        self.accept(door);
    }

    fn at_once(&self) -> u32 {
        let limits = self.config.limits;
        (limits.pre_auth_max.min(limits.pre_auth_per_address_max) / 8).clamp(1, ACCEPTS_PER_TURN)
    }

    /// Out of descriptors: one waiting connection is turned away, the rest wait for a moment.
    fn pause(&mut self, door: usize) {
        self.accept_paused_total += 1;
        if let Some(Door::Agents(listener) | Door::Pulse(listener) | Door::Endpoint(_, listener)) = self.doors.get(door)
        {
            self.reserve.turn_away(listener);
        }
        let at = self.core.now() + ACCEPT_PAUSE;
        self.core.role_timer(at, door as u64);
    }

    fn admit(&mut self, door: usize, mut socket: Socket, peer: Option<SocketAddr>) {
        match self.doors.get(door) {
            Some(Door::Agents(_)) => self.admit_agent(socket, peer),
            Some(Door::Endpoint(route, _)) => self.admit_visitor(*route, socket, peer),
            // Whoever does not take it has asked in vain.
            Some(Door::Pulse(_)) => drop(socket.write(PULSE)),
            None => {}
        }
    }

    /// What a gateway's close means on the Unix hop of a route, where nothing else has ended yet.
    fn sudden_end(&self, route: usize) -> SuddenEnd {
        let http = self.routes.get(route).is_some_and(|route| matches!(route.spec.protocol.as_str(), "HTTP" | "HTTPS"));
        if http { SuddenEnd::Finish } else { SuddenEnd::Reset }
    }

    /// How a visitor came: a `unix` endpoint has an `mtls` entrance beside its own.
    fn mode_of(&self, route: usize, socket: Option<&Socket>) -> Mode {
        match self.routes.get(route).map(|route| route.spec.mode) {
            _ if matches!(socket, Some(Socket::Unix(_))) => Mode::Unix,
            Some(Mode::Plain) => Mode::Plain,
            _ => Mode::Mtls,
        }
    }

    // ---- counting those who have not shown who they are ------------------------------------------------------------

    /// An agent's lane has shown who it is, or is gone.
    pub(super) fn leave_pre_auth(&mut self, ip: IpAddr) {
        self.strangers.leave(ip);
    }

    pub(super) fn preamble_over(&mut self, relay: usize) {
        if let Some(ip) = self.preamble_peer(relay) {
            self.visitors.leave(ip);
        }
    }

    /// A gateway has shown itself: the next connections from its address find a place.
    fn remember_visitors_peer(&mut self, relay: usize) {
        if let Some(ip) = self.preamble_peer(relay) {
            self.visitors.remember(ip, self.core.now());
        }
    }

    /// A visitor in its preamble remembers its socket's peer as its visitor, until a header says better.
    fn preamble_peer(&self, relay: usize) -> Option<IpAddr> {
        self.waiting_peer.get(&relay).map(SocketAddr::ip)
    }

    // ---- agents ----------------------------------------------------------------------------------------------------

    fn admit_agent(&mut self, socket: Socket, peer: Option<SocketAddr>) {
        let (Some(peer), Socket::Tcp(stream)) = (peer, socket) else { return };
        if !self.find_place(peer.ip()) {
            return;
        }
        let Ok(lane) = Socket::lane(stream) else { return self.leave_pre_auth(peer.ip()) };
        let tls = Tls::at_door(&self.credentials.tunnel_server);
        let session = self.begin_session(peer);
        let until = self.core.now() + self.config.limits.patience();
        let Ok(index) = self.core.add_lane(lane, tls, session, 0, peer, until) else {
            self.core.close_session(session, "cannot register");
            return self.leave_pre_auth(peer.ip());
        };
        if let Some(lane) = self.core.lanes.get_mut(index) {
            lane.web = Some((Arc::clone(&self.credentials.web), Arc::clone(&self.credentials.tunnel_server)));
        }
        self.seat(index, peer.ip());
    }

    /// Whether there is a place for one more who has not shown who they are.
    pub(super) fn find_place(&mut self, ip: IpAddr) -> bool {
        let (now, limits) = (self.core.now(), self.config.limits);
        let places = Places { all: limits.pre_auth_max, of_address: limits.pre_auth_per_address_max };
        self.ask_a_lane_to_leave(ip, places, now);
        self.strangers.enter(ip, places, now)
    }

    pub(super) fn begin_session(&mut self, peer: SocketAddr) -> usize {
        let config = self.session_config(u64::from(peer.port()) | 1 << 20);
        let machine = Session::server(config, self.budget.clone(), self.core.now());
        self.core.add_session(machine, 0, peer.to_string())
    }

    /// The lane takes the place that was found.
    pub(super) fn seat(&mut self, index: usize, ip: IpAddr) {
        let Some(lane) = self.core.lanes.get_mut(index) else { return self.leave_pre_auth(ip) };
        lane.pre_auth = true;
        let (guest, now) = ((index, lane.serial), self.core.now());
        let lanes = &self.core.lanes;
        self.strangers.seat(guest, ip, now, |guest| is_stranger(lanes, guest));
    }

    /// In a full room the lane that has been a stranger for longest makes place.
    fn ask_a_lane_to_leave(&mut self, ip: IpAddr, places: Places, now: Instant) {
        let lanes = &self.core.lanes;
        let longest = self.strangers.longest_waiting(ip, places, now, |guest| is_stranger(lanes, guest));
        let Some((index, _)) = longest else { return };
        if let Some(lane) = self.core.lanes.get_mut(index) {
            lane.pre_auth = false;
            let address = lane.address;
            self.leave_pre_auth(address.ip());
            self.core.drop_lane(index, "another stranger needed the place");
        }
    }

    /// The same among visitors who have not shown their header.
    fn ask_a_visitor_to_leave(&mut self, ip: IpAddr, places: Places, now: Instant) {
        let relays = &self.core.table.relays;
        let longest = self.visitors.longest_waiting(ip, places, now, |guest| is_in_preamble(relays, guest));
        let Some((relay, _)) = longest else { return };
        self.preamble_over(relay);
        self.waiting_peer.remove(&relay);
        self.core.table.end_relay(relay, Err(ResetCode::Busy));
    }

    // ---- visitors --------------------------------------------------------------------------------------------------

    fn admit_visitor(&mut self, route: usize, socket: Socket, peer: Option<SocketAddr>) {
        let mode = self.mode_of(route, Some(&socket));
        let mut owner = route;
        // Without an agent the handshake is never completed: the gateway tries the next POP.
        if self.draining.is_some() || !self.is_served(route) || !self.may_come(route, mode) {
            if let Some(route) = self.routes.get_mut(route) {
                route.denied_total += 1;
            }
            if mode != Mode::Unix {
                return;
            }
            // There an end before its first byte would be a clean one: its header is awaited, and leads nowhere.
            owner = usize::MAX;
        }
        let known = peer.unwrap_or_else(|| SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
        let nets = self.routes.get(route).map_or(&[][..], |route| &route.plain_from);
        let declared = mode != Mode::Plain || nets.iter().any(|net| net.contains(&known.ip()));
        // All visitors of a gateway come from its one address, so a burst of them may take most of what there is.
        let most = self.config.limits.pre_auth_max;
        let places = Places { all: most, of_address: most };
        let now = self.core.now();
        self.ask_a_visitor_to_leave(known.ip(), places, now);
        if !self.visitors.enter(known.ip(), places, now) {
            return;
        }
        let serial = self.core.table.next_serial();
        let destination = if declared { None } else { socket.local_address().map(canonical) };
        let relay = self.core.table.relays.insert(Relay::new(Phase::Preamble, owner, serial, now));
        self.waiting_peer.insert(relay, known);
        let relays = &self.core.table.relays;
        self.visitors.seat((relay, serial), known.ip(), now, |guest| is_in_preamble(relays, guest));
        let limits = self.config.limits;
        let mut patience = Duration::from_millis(u64::from(limits.proxy_header_ms));
        if mode == Mode::Mtls {
            patience += Duration::from_millis(u64::from(limits.handshake_ms));
        }
        if self.core.attach(relay, socket, Some(now + patience)).is_err() {
            return self.core.table.end_relay(relay, Err(ResetCode::Busy));
        }
        if mode == Mode::Mtls {
            self.core.start_tls(relay, Tls::at_endpoint(&self.credentials.endpoint));
        } else if !declared {
            // An undeclared peer's bytes are never read as a header: it is the visitor itself.
            let header = Header { source: peer, destination, ..Header::default() };
            self.meet(relay, &header);
        }
    }

    /// Whether the rates have room. At an `mtls` endpoint this may be anybody: it counts once it has shown that it is a
    /// gateway.
    fn may_come(&mut self, route: usize, mode: Mode) -> bool {
        if mode == Mode::Mtls { self.has_pace(route) } else { self.within_rate(route) }
    }

    /// First bytes of a visitor: at an `mtls` endpoint a gateway's identity and maybe its introduction, else a PROXY header.
    pub(super) fn preamble(&mut self, relay: usize) {
        let Some(state) = self.core.table.relays.get(relay).filter(|r| !r.dead && r.phase == Phase::Preamble) else {
            return;
        };
        if !self.routes.contains(state.owner) {
            // Of who has said nothing yet the end would be a clean one on a Unix socket.
            if state.unsent().is_empty() && !state.ended_early && matches!(state.socket, Some(Socket::Unix(_))) {
                return;
            }
            return self.core.table.end_relay(relay, Err(ResetCode::NoRoute));
        }
        let mode = self.mode_of(state.owner, state.socket.as_ref());
        if mode == Mode::Mtls {
            let tls = state.tls.as_ref().map(|state| &state.tls).filter(|tls| tls.established());
            let Some(tls) = tls else { return self.give_up_if_ended(relay) };
            if state.bringer.is_none() {
                match self.judge_gateway(tls) {
                    Ok(gateway) => {
                        self.remember_visitors_peer(relay);
                        self.core.table.relays[relay].bringer = Some(Box::new(Bringer::shown(&gateway)));
                        let newest = self.gateways_seen.entry(gateway.uid).or_insert(gateway.not_after);
                        *newest = gateway.not_after.max(*newest);
                    }
                    Err(code) => return self.deny(relay, code),
                }
                match self.introduced(relay) {
                    Ok(Some(header)) => return self.meet(relay, &header),
                    Ok(None) => self.await_header(relay),
                    Err(_) => return self.deny(relay, ResetCode::Denied),
                }
            }
        }
        let state = &self.core.table.relays[relay];
        let parsed = if mode == Mode::Plain { parse_any(state.unsent()) } else { parse_v2(state.unsent()) };
        match parsed {
            Ok(Parsed::Partial) => self.give_up_if_ended(relay),
            Ok(Parsed::Whole(header, length)) => {
                self.core.table.backlog(relay).unsent.drain(..length);
                self.core.table.reclaim(relay);
                if mode != Mode::Mtls {
                    self.remember_visitors_peer(relay); // a gateway's was at its certificate
                }
                if mode == Mode::Unix && !self.brought_by(relay, &header) {
                    return self.deny(relay, ResetCode::Denied);
                }
                self.meet(relay, &header);
            }
            Err(crate::proxy::ProxyError::Missing) if mode == Mode::Plain => {
                // Optional from declared peers: without one, the socket's peer is the visitor.
                let peer = self.waiting_peer.get(&relay).copied();
                self.meet(relay, &Header { source: peer, ..Header::default() });
            }
            Err(_) => self.deny(relay, ResetCode::Denied),
        }
    }

    /// Whom its gateway brings, if it has said so in its ClientHello.
    fn introduced(&mut self, relay: usize) -> Result<Option<Header>, Malformed> {
        let tls = self.core.table.relays[relay].tls.as_mut();
        tls.and_then(|state| state.tls.take_hello()).map_or(Ok(None), |hello| introduced(&hello))
    }

    /// Its gateway has shown itself: a PROXY header has to come soon.
    fn await_header(&mut self, relay: usize) {
        let serial = self.core.table.relays[relay].serial;
        let patience = Duration::from_millis(u64::from(self.config.limits.proxy_header_ms));
        let until = self.core.now() + patience;
        self.core.relay_deadline(relay, serial, until);
    }

    /// Its end came before it had shown what is needed.
    fn give_up_if_ended(&mut self, relay: usize) {
        if self.core.table.relays[relay].ended_early {
            self.core.table.end_relay(relay, Err(ResetCode::Reset));
        }
    }

    /// A client of an `mtls` endpoint must be a gateway that this POP trusts. An agent's certificate is not enough.
    fn judge_gateway(&self, tls: &Tls) -> Result<PeerIdentity, ResetCode> {
        let peer = tls.peer().map_err(|_| ResetCode::Denied)?;
        peer.must_be(Role::Gateway, &self.credentials.own.trust_domain, None).map_err(|_| ResetCode::Denied)?;
        if !self.trusts(&peer.uid) || self.denied.holds(&peer) || super::expired(peer.not_after) {
            return Err(ResetCode::Denied);
        }
        Ok(peer)
    }

    /// On a Unix socket the file's mode says that this is a gateway of this machine, and the gateway which: one that this
    /// POP trusts, for as long as it does.
    fn brought_by(&mut self, relay: usize, header: &Header) -> bool {
        let Some(gateway) = header.gateway.as_ref().filter(|gateway| self.trusts(gateway)) else { return false };
        self.core.table.relays[relay].bringer = Some(Box::new(Bringer::new(gateway.clone(), i64::MAX, None)));
        true
    }

    /// A gateway of the table, and not revoked.
    pub(super) fn trusts(&self, gateway: &String) -> bool {
        self.gateways.contains(gateway) && !self.denied.names(gateway)
    }

    /// Trusted still, and so is the key that it has shown.
    pub(super) fn believes(&self, gateway: &Bringer) -> bool {
        self.trusts(&gateway.uid) && !gateway.key.is_some_and(|key| self.denied.has_key(key))
    }

    /// The visitor is known: the route decides, and an agent is told.
    fn meet(&mut self, relay: usize, header: &Header) {
        let owner = self.core.table.relays[relay].owner;
        let Some(route) = self.routes.get(owner) else { return self.deny(relay, ResetCode::NoRoute) };
        // Between its handshake and its header a gateway may have lost its trust.
        let bringer = self.core.table.relays[relay].bringer.as_ref();
        if bringer.is_some_and(|gateway| !self.believes(gateway)) {
            return self.deny(relay, ResetCode::Denied);
        }
        let meant = header.service.as_ref().is_none_or(|service| *service == route.spec.service);
        let visitor = header.source.map(canonical);
        // Datagrams come on gateways' lanes, never here.
        let meant = meant && route.spec.carries() == Carries::Bytes;
        // In the clear no gateway has shown itself whose word it could be.
        let signed_in = header.signed_in.as_ref().filter(|_| bringer.is_some());
        let verdict = self.visitor_verdict(route, visitor.map(|address| address.ip()), signed_in);
        if !meant || !route.spec.enabled || !verdict.allowed {
            return self.deny(relay, ResetCode::Denied);
        }
        let counts_now = bringer.is_some_and(|gateway| gateway.key.is_some());
        let signed_in = signed_in.cloned();
        if !self.has_room(route) || counts_now && !self.within_rate(owner) {
            return self.deny(relay, ResetCode::Busy);
        }
        let Some(route) = self.routes.get(owner) else { return self.deny(relay, ResetCode::NoRoute) };
        let half_open_cap = route.spec.limits.streams_half_open_max;
        let open = Open {
            connection: route.spec.connection.clone(),
            visitor,
            destination: header.destination,
            stream_id: header.stream_id,
            deadline_ms: self.config.limits.dial_ms,
            carries: Carries::Bytes,
        };
        let Some(session) = self.session_for(owner) else { return self.deny(relay, ResetCode::Lost) };
        let half_open = self.core.table.session(session).map_or(0, |s| s.half_open_count());
        if half_open_cap > 0 && half_open >= half_open_cap {
            return self.deny(relay, ResetCode::Busy);
        }
        if let Some(bringer) = self.core.table.relays[relay].bringer.as_mut() {
            bringer.signed_in = signed_in;
        }
        self.preamble_over(relay);
        self.waiting_peer.remove(&relay);
        match self.core.table.open_stream(relay, session, &open) {
            Ok(()) => self.count_in(owner, relay, verdict.would_refuse),
            Err(code) => self.deny(relay, code),
        }
    }

    fn deny(&mut self, relay: usize, code: ResetCode) {
        let owner = self.core.table.relays[relay].owner;
        if let Some(route) = self.routes.get_mut(owner) {
            route.denied_total += 1;
        }
        self.core.table.end_relay(relay, Err(code));
    }
}

pub(super) fn is_stranger(lanes: &Slab<LaneConn>, (index, serial): Guest) -> bool {
    lanes.get(index).is_some_and(|lane| lane.serial == serial && lane.pre_auth)
}

fn is_in_preamble(relays: &Relays, (index, serial): Guest) -> bool {
    relays.get(index).is_some_and(|relay| relay.serial == serial && !relay.dead && relay.phase == Phase::Preamble)
}
