//! Sessions and relays side by side, and what the sessions' events do to the relays.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use slab::Slab;

use super::brake::Brakes;
use super::flow::{Flow, Taker};
use super::relay::{Backlog, Outcome, Phase, Relay, Relays, Who};
use super::splice::unmated;
use crate::identity::PeerIdentity;
use crate::message::{Carries, GoAway, Hello, Open, ResetCode};
use crate::session::{ById, Event, LANES_MAX, Session, State};

/// Buffers kept for relays that have something pending; idle ones hold none.
const SPARE_BUFFERS_MAX: usize = 64;
/// A kept buffer larger than this is given back to the system.
const SPARE_BYTES_MAX: usize = 512 * 1024;

/// What the driver asks its role (POP or agent) to decide, in order.
#[derive(Debug)]
pub(crate) enum Upcall {
    /// The host sent commands, or a thread of ours has news.
    Wake,
    /// A listener has connections.
    Accept(usize),
    /// Strangers wait at a UDP socket.
    Stranger(usize),
    /// A socket of the role's own has news.
    Own(usize),
    /// A lane's handshake is complete.
    LaneEstablished(usize),
    /// A lane is gone before its session was greeted.
    LaneFailed {
        session: usize,
        reason: String,
        /// By a proxy on the way.
        refused: bool,
    },
    Hello {
        session: usize,
        hello: Hello,
    },
    Ready {
        session: usize,
    },
    LaneReady,
    /// Agent: a relay waits for its local service.
    Dial {
        relay: usize,
    },
    Connected,
    GoAway {
        session: usize,
        goaway: GoAway,
    },
    SessionGone {
        session: usize,
        reason: String,
    },
    /// POP: first bytes came, or the handshake is complete.
    Preamble {
        relay: usize,
    },
    /// Agent: TLS with the local service is up.
    LocalReady {
        relay: usize,
    },
    /// Agent, connector: the handshake of a sealed stream is complete; who is there is to be judged.
    Proven {
        relay: usize,
    },
    RelayGone {
        relay: usize,
        outcome: Outcome,
    },
    Timer(u64),
}

/// A session with what the driver knows of it.
pub(crate) struct Sess {
    /// Absent only while its own events are being handled.
    live: Option<Box<Live>>,
    pub(crate) lanes: [Option<usize>; LANES_MAX as usize],
    pub(crate) serial: u64,
    /// The role's own index (server at the agent).
    pub(crate) owner: usize,
    pub(crate) peer: Option<PeerIdentity>,
    pub(crate) address: String,
    pub(crate) since_unix_ms: u64,
    pub(crate) dirty: bool,
    pub(crate) timer_at: Option<Instant>,
    pub(crate) gone: bool,
    pub(crate) reason: String,
}

pub(crate) struct Table {
    pub(crate) sessions: Slab<Sess>,
    pub(crate) relays: Relays,
    pub(crate) upcalls: VecDeque<Upcall>,
    /// Relays with bytes or an end for their sockets.
    pub(crate) flush: Vec<usize>,
    /// Relays that may read again, because credit came.
    pub(crate) wakeful: Vec<usize>,
    /// Flows that have more to read, in the next turn.
    pub(crate) wakeful_next: Vec<usize>,
    /// Flows that have so much for their sockets, and sessions that have so many datagrams for their lanes, that it should
    /// not wait for the turn's end.
    pub(crate) full_flows: Vec<usize>,
    pub(crate) full_sessions: Vec<usize>,
    /// The same of sealed flows, for their streams.
    pub(crate) full_senders: Vec<usize>,
    /// Flows that wait for room in their listener's socket.
    pub(crate) blocked: Vec<usize>,
    /// Flows whose local service refused a datagram.
    pub(crate) refused: Vec<usize>,
    /// Relays that must end: their peer wants no more of them, or they park more than their share.
    pub(crate) doomed: Vec<(usize, ResetCode)>,
    /// Bytes of all streams that wait for slow sockets, and how many may.
    pub(super) parked: u64,
    pub(super) parked_max: u64,
    /// Bytes of all sealed flows that wait for credit.
    pub(super) unsent: u64,
    /// Limits in bytes per second.
    pub(crate) brakes: Brakes,
    /// Sealed streams that took something in, or have something to send.
    pub(super) sealing: Vec<usize>,
    /// Records on their way through TLS.
    pub(super) records: Vec<u8>,
    pub(crate) dirty: Vec<usize>,
    pub(crate) dead_lanes: Vec<(usize, u8)>,
    pub(crate) buried_relays: Vec<usize>,
    pub(crate) buried_sessions: Vec<usize>,
    #[expect(clippy::vec_box, reason = "they go back into relays in their boxes")]
    spare: Vec<Box<Backlog>>,
    pub(super) spare_queues: Vec<Vec<u8>>,
    pub(crate) now: Instant,
    serial: u64,
}

impl Table {
    pub(crate) fn new(now: Instant, parked_max: u64) -> Self {
        Self {
            parked: 0,
            parked_max,
            unsent: 0,
            sessions: Slab::new(),
            relays: Relays::default(),
            upcalls: VecDeque::new(),
            flush: Vec::new(),
            wakeful: Vec::new(),
            wakeful_next: Vec::new(),
            full_flows: Vec::new(),
            full_sessions: Vec::new(),
            full_senders: Vec::new(),
            blocked: Vec::new(),
            refused: Vec::new(),
            doomed: Vec::new(),
            brakes: Brakes::default(),
            sealing: Vec::new(),
            records: Vec::new(),
            dirty: Vec::new(),
            dead_lanes: Vec::new(),
            buried_relays: Vec::new(),
            buried_sessions: Vec::new(),
            spare: Vec::new(),
            spare_queues: Vec::new(),
            now,
            serial: 0,
        }
    }

    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn add_session(&mut self, session: Session, owner: usize, address: String) -> usize {
        let serial = self.next_serial();
        let index = self.sessions.insert(Sess {
            live: Some(Box::new(Live { session, by_stream: ById::default() })),
            lanes: [None; LANES_MAX as usize],
            serial,
            owner,
            peer: None,
            address,
            since_unix_ms: unix_ms(),
            dirty: false,
            timer_at: None,
            gone: false,
            reason: String::new(),
        });
        self.touch(index);
        index
    }

    /// The session has output or another timer: the turn's end looks after it.
    pub(crate) fn touch(&mut self, session: usize) {
        if let Some(sess) = self.sessions.get_mut(session) {
            if !std::mem::replace(&mut sess.dirty, true) {
                self.dirty.push(session);
            }
        }
    }

    pub(crate) fn flush_later(&mut self, relay: usize) {
        if let Some(state) = self.relays.get_mut(relay) {
            if !std::mem::replace(&mut state.flushing, true) {
                self.flush.push(relay);
            }
        }
    }

    /// Plain bytes of a lane.
    pub(crate) fn input(&mut self, index: usize, lane: u8, bytes: &[u8]) {
        let now = self.now;
        self.touch(index);
        let Some(mut live) = self.lend(index) else { return };
        let Live { session, by_stream } = &mut *live;
        let result = session.input(lane, bytes, now, &mut |event| self.event(index, by_stream, event));
        if let Err(error) = result {
            self.upcalls.push_back(Upcall::SessionGone { session: index, reason: error.to_string() });
        }
        self.take_back(index, live);
    }

    /// Time passes for a session.
    pub(crate) fn tick(&mut self, index: usize) {
        let now = self.now;
        self.touch(index);
        let Some(mut live) = self.lend(index) else { return };
        let Live { session, by_stream } = &mut *live;
        session.tick(now, &mut |event| self.event(index, by_stream, event));
        self.take_back(index, live);
    }

    /// A lane's socket is gone.
    pub(crate) fn lane_lost(&mut self, index: usize, lane: u8) {
        self.touch(index);
        let Some(mut live) = self.lend(index) else { return };
        self.sessions[index].lanes[usize::from(lane)] = None;
        let Live { session, by_stream } = &mut *live;
        session.lane_lost(lane, &mut |event| self.event(index, by_stream, event));
        self.take_back(index, live);
    }

    /// Lends session and streams out, so that events can reach the rest of the table.
    fn lend(&mut self, index: usize) -> Option<Box<Live>> {
        self.sessions.get_mut(index).filter(|sess| !sess.gone)?.live.take()
    }

    fn take_back(&mut self, index: usize, live: Box<Live>) {
        if let Some(sess) = self.sessions.get_mut(index) {
            sess.live = Some(live);
        }
    }

    /// The state machine of a session.
    pub(crate) fn session(&mut self, index: usize) -> Option<&mut Session> {
        self.sessions.get_mut(index)?.live.as_mut().map(|live| &mut live.session)
    }

    /// Relays of a session.
    pub(crate) fn relays_of(&self, index: usize) -> Vec<usize> {
        let live = self.sessions.get(index).and_then(|sess| sess.live.as_ref());
        live.map(|live| live.by_stream.values().map(|relay| *relay as usize).collect()).unwrap_or_default()
    }

    fn event(&mut self, session: usize, by_stream: &mut ById<u32>, event: Event<'_>) {
        let at = |stream: u32| by_stream.get(&stream).map(|relay| *relay as usize);
        match event {
            Event::Data { stream, bytes } => {
                if let Some(relay) = at(stream) {
                    self.deliver(relay, bytes);
                }
            }
            Event::Fin { stream } => {
                if let Some(relay) = at(stream) {
                    self.stream_ended(relay);
                }
            }
            Event::Reset { stream, code } => {
                if let Some(relay) = by_stream.remove(&stream).map(|relay| relay as usize) {
                    self.relays[relay].stream = 0;
                    self.end_relay(relay, Err(code));
                }
            }
            // TCP has no word for it but the reset, which ends both directions.
            Event::StopSending { stream } => self.doomed.extend(at(stream).map(|relay| (relay, ResetCode::Cancelled))),
            Event::Credit { stream } => self.wakeful.extend(at(stream)),
            Event::Open { stream, open } => {
                let relay = self.new_dialing(session, stream, open);
                by_stream.insert(stream, relay as u32);
                self.upcalls.push_back(Upcall::Dial { relay });
            }
            Event::LaneDead(lane) => self.dead_lanes.push((session, lane)),
            Event::Hello(hello) => self.upcalls.push_back(Upcall::Hello { session, hello }),
            Event::Ready(_) => self.upcalls.push_back(Upcall::Ready { session }),
            Event::LaneReady(_) => self.upcalls.push_back(Upcall::LaneReady),
            Event::Connected { .. } => self.upcalls.push_back(Upcall::Connected),
            Event::GoAway(goaway) => self.upcalls.push_back(Upcall::GoAway { session, goaway }),
            Event::Datagram { stream, bytes } => {
                if let Some(relay) = at(stream) {
                    self.take_datagram(relay, bytes);
                }
            }
            Event::Closed => {
                let reason = "session ended".to_owned();
                self.upcalls.push_back(Upcall::SessionGone { session, reason });
            }
        }
    }

    fn new_dialing(&mut self, session: usize, stream: u32, open: Box<Open>) -> usize {
        let serial = self.next_serial();
        let mut relay = Relay::new(Phase::Dialing, usize::MAX, serial, self.now);
        if open.carries == Carries::Datagrams {
            relay.flow = Some(Flow::opened_by(&open, self.now));
        }
        (relay.session, relay.stream) = (session, stream);
        (relay.who, relay.open) = (Who::of(&open), Some(open));
        self.relays.insert(relay)
    }

    fn deliver(&mut self, relay: usize, bytes: &[u8]) {
        let Some(state) = self.relays.get_mut(relay) else { return };
        if state.dead || state.fin_done {
            return;
        }
        if state.sealed.is_some() {
            return self.unseal(relay, bytes);
        }
        let count = bytes.len() as u64;
        let backlog = self.backlog(relay);
        backlog.pending.extend_from_slice(bytes);
        backlog.parked += count;
        self.parked += count;
        if self.parked > self.parked_max {
            self.relieve();
        }
        self.flush_later(relay);
    }

    /// A relay's backlog, which it may not have had before.
    pub(crate) fn backlog(&mut self, relay: usize) -> &mut Backlog {
        let (now, spare) = (self.now, &mut self.spare);
        self.relays[relay].backlog.get_or_insert_with(|| {
            let mut backlog = spare.pop().unwrap_or_else(|| Box::new(Backlog::new(now)));
            backlog.unparked_at = now;
            backlog
        })
    }

    /// Thousands of readers that do not read may not take the machine: beyond the budget whoever has read nothing for the
    /// longest is reset. Of those with a limit in bytes per second, or of the others, whichever park more: neither pays
    /// for the other.
    pub(super) fn relieve(&mut self) {
        let (mut parked, mut oldest) = ([0; 2], [None; 2]);
        for (index, relay) in self.relays.iter().filter(|(_, relay)| !relay.dead) {
            let class = usize::from(relay.brake.is_some());
            let Some(backlog) = relay.backlog.as_ref().filter(|backlog| backlog.parked > 0) else { continue };
            parked[class] += backlog.parked;
            if oldest[class].is_none_or(|(since, _)| backlog.unparked_at < since) {
                oldest[class] = Some((backlog.unparked_at, index));
            }
        }
        let Some((_, relay)) = oldest[usize::from(parked[1] > parked[0])] else { return };
        if let Some(backlog) = self.relays[relay].backlog.as_mut() {
            // It ends with this turn; what it held counts no more, so that the next one is another.
            self.parked -= std::mem::take(&mut backlog.parked);
            self.doomed.push((relay, ResetCode::Busy));
        }
    }

    /// A relay's socket took bytes.
    pub(crate) fn unpark(&mut self, relay: usize, bytes: u64) {
        let Some(backlog) = self.relays.get_mut(relay).and_then(|relay| relay.backlog.as_mut()) else { return };
        let bytes = bytes.min(backlog.parked);
        (backlog.parked, backlog.unparked_at) = (backlog.parked - bytes, self.now);
        self.parked -= bytes;
    }

    /// A relay's backlog goes back if it is empty.
    pub(crate) fn reclaim(&mut self, relay: usize) {
        let spent = self.relays.get_mut(relay).and_then(Relay::spent_backlog);
        if let Some(backlog) = spent.filter(|backlog| backlog.capacity() <= SPARE_BYTES_MAX) {
            if self.spare.len() < SPARE_BUFFERS_MAX {
                self.spare.push(backlog);
            }
        }
    }

    /// The buffer of a flow's queue goes back.
    pub(super) fn reclaim_queue(&mut self, mut buffer: Vec<u8>) {
        let fits = buffer.capacity() > 0 && buffer.capacity() <= SPARE_BYTES_MAX;
        if fits && self.spare_queues.len() < SPARE_BUFFERS_MAX {
            buffer.clear();
            self.spare_queues.push(buffer);
        }
    }

    /// Gives a visitor a stream. The relay's unsent bytes follow at once.
    pub(crate) fn open_stream(&mut self, relay: usize, session: usize, open: &Open) -> Result<(), ResetCode> {
        let now = self.now;
        let live = self.sessions.get_mut(session).and_then(|sess| sess.live.as_mut()).ok_or(ResetCode::Lost)?;
        let stream = live.session.open_late(open.clone(), now).map_err(|_| ResetCode::Busy)?;
        live.by_stream.insert(stream, relay as u32);
        let state = &mut self.relays[relay];
        (state.session, state.stream, state.phase) = (session, stream, Phase::Open);
        state.opened_by(open);
        self.wakeful.push(relay);
        self.touch(session);
        Ok(())
    }

    /// Ends a relay: orderly, or by a reset of its socket and of its stream.
    pub(crate) fn end_relay(&mut self, relay: usize, outcome: Outcome) {
        let Some(state) = self.relays.get_mut(relay) else { return };
        if std::mem::replace(&mut state.dead, true) {
            return;
        }
        if let (Some(socket), Ok(())) = (&state.socket, &outcome) {
            socket.end_orderly();
        }
        // Of one whose way was lost before anything was read the role may want to try another.
        if !state.is_sealing() {
            state.socket = None;
        }
        state.tls = None;
        let mate = state.mate.take();
        let backlog = state.backlog.take();
        self.parked -= backlog.map_or(0, |backlog| backlog.parked);
        self.unsent -= state.flow.as_mut().map_or(0, |flow| flow.forget_unsent() as u64);
        let (session, stream) = (state.session, state.stream);
        if stream != 0 {
            if let Some(live) = self.sessions.get_mut(session).and_then(|sess| sess.live.as_mut()) {
                live.by_stream.remove(&stream);
                if let Err(code) = outcome {
                    live.session.reset(stream, code);
                }
            }
            self.touch(session);
        }
        self.upcalls.push_back(Upcall::RelayGone { relay, outcome });
        self.buried_relays.push(relay);
        let taker = self.relays[relay].flow.as_mut().map(|flow| std::mem::replace(&mut flow.taker, Taker::Nobody));
        // The two halves of a flow at a POP end together, and so do two joined streams.
        if let Some(Taker::Relay(other)) = taker {
            self.end_relay(other, outcome);
        }
        if let Some(mate) = mate {
            self.end_relay(unmated(mate), outcome);
        }
    }

    /// A session is over: its visitors are reset. Its lanes are closed by the driver.
    pub(crate) fn end_session(&mut self, session: usize, reason: &str) -> bool {
        let Some(sess) = self.sessions.get_mut(session) else { return false };
        if std::mem::replace(&mut sess.gone, true) {
            return false;
        }
        reason.clone_into(&mut sess.reason);
        let settled = sess.live.as_ref().is_some_and(|live| live.session.is_settled());
        for relay in self.relays_of(session) {
            let state = &mut self.relays[relay];
            if settled && state.read_done && state.fin_wanted {
                // Only its own socket has yet to take the last bytes, and needs no session for that.
                state.session = usize::MAX;
                continue;
            }
            state.stream = 0;
            self.end_relay(relay, Err(ResetCode::Lost));
        }
        self.buried_sessions.push(session);
        true
    }

    /// The session takes visitors.
    pub(crate) fn takes_streams(&self, session: usize) -> bool {
        self.sessions
            .get(session)
            .filter(|sess| !sess.gone)
            .and_then(|sess| sess.live.as_ref())
            .is_some_and(|live| live.session.takes_streams())
    }

    /// A visitor who was let in before its agent's goodbye came may be handed over.
    pub(crate) fn takes_stragglers(&self, session: usize) -> bool {
        let sess = self.sessions.get(session).filter(|sess| !sess.gone);
        sess.and_then(|sess| sess.live.as_ref()).is_some_and(|live| live.session.takes_stragglers())
    }

    /// For statistics and logs.
    pub(crate) fn state_words(&self, session: usize) -> &'static str {
        match self.sessions.get(session).and_then(|sess| sess.live.as_ref()).map(|live| live.session.state()) {
            Some(State::Greeting) => "Greeting",
            Some(State::Open) => "Open",
            Some(State::Draining) => "Draining",
            Some(State::Fenced) => "Fenced",
            Some(State::Closed) | None => "Closed",
        }
    }
}

/// The state machine, and the relay of each of its streams.
struct Live {
    session: Session,
    by_stream: ById<u32>,
}

/// The wall clock, in Unix milliseconds.
pub(crate) fn unix_ms() -> u64 {
    // A clock before 1970 reads as 0.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The same in seconds, as certificates and schedules count.
pub(crate) fn unix_s() -> i64 {
    (unix_ms() / 1_000) as i64
}

/// `address:port`, with IPv4 in its own clothes.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
