//! The driver: one thread, one `mio` loop. A turn handles all ready sockets, then seals and writes each dirty lane once.
//!
//! `Core` moves bytes; what to accept, open, dial or refuse is the role's to decide (`server`, `agent`), by [`Upcall`]s.

pub(crate) mod batch;
pub(crate) mod brake;
mod braked;
pub(crate) mod flow;
pub(crate) mod hop;
mod lanes;
pub(crate) mod quic;
pub(crate) mod relay;
mod relays;
pub(crate) mod sealed;
pub(crate) mod socket;
mod splice;
pub(crate) mod table;
mod waiting;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use rustls::ServerConfig;
use slab::Slab;

use crate::handle::Inbox;
use crate::identity::PeerIdentity;
use crate::message::ResetCode;
use crate::session::State;
use crate::tls::{OutBuffer, Tls};
use batch::{Batches, Reading};
use quic::{OverQuic, UdpDoor};
use socket::Socket;
use table::{Table, Upcall};

/// Bytes that may wait for one lane, sealed or not, before visitors are read no further.
const LANE_BACKLOG_BYTES: usize = 256 * 1024;
/// A lane whose control frames alone pile up beyond this is not read by its peer: it is dropped.
const LANE_BACKLOG_MAX: usize = 8 * 1024 * 1024;
/// Read of a lane; larger reads won for bulk.
const LANE_READ_BYTES: usize = 256 * 1024;
/// Reads of one lane per turn, so that others get theirs.
const LANE_READS_PER_TURN: usize = 4;
/// Read of one visitor per turn.
const QUANTUM_BYTES: usize = 64 * 1024;
/// The same while sparse streams wait beside it.
const QUANTUM_BESIDE_SPARSE_BYTES: usize = 32 * 1024;
/// Reads of a visitor that has a lane for itself, per turn.
const LONE_READS_PER_TURN: usize = 4;
/// One preamble read: a PROXY header is far smaller.
const PREAMBLE_READ_BYTES: usize = 4 * 1024;
/// Room in the scratch buffer for the incomplete record before a read.
const RECORD_ROOM: usize = 72 * 1024;
/// The last words of a lane (GOAWAY) are given this long to be read.
const CLOSING: Duration = Duration::from_secs(1);
/// The loop turns at least this often, which is what the host's watchdog looks for.
const TURN_MAX: Duration = Duration::from_millis(500);

const KIND_BITS: usize = 3;
const WAKE: usize = 0;
const LISTENER: usize = 1;
const LANE: usize = 2;
const RELAY: usize = 3;
const OWN: usize = 4;
const UDP: usize = 5;

pub(crate) fn token(kind: usize, index: usize) -> Token {
    Token(index << KIND_BITS | kind)
}

/// The token that wakes the loop from another thread.
pub(crate) const WAKE_TOKEN: Token = Token(WAKE);

pub(crate) fn listener_token(index: usize) -> Token {
    token(LISTENER, index)
}

/// A socket that the role watches itself.
pub(crate) fn own_token(index: usize) -> Token {
    token(OWN, index)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Session(usize, u64),
    Lane(usize, u64),
    /// QUIC's own, of a lane.
    Quic(usize, u64),
    Relay(usize, u64),
    Early,
    Buckets,
    Role(u64),
}

/// What a lane goes by.
enum Carrier {
    Tls(Box<OverTcp>),
    Quic(Box<OverQuic>),
}

/// TLS over TCP, or over what stands in for it.
struct OverTcp {
    socket: Socket,
    tls: Tls,
    out: OutBuffer,
}

/// One TLS or QUIC connection between agent and POP.
pub(crate) struct LaneConn {
    carrier: Carrier,
    pub(crate) session: usize,
    number: u8,
    /// Its peer's identity was judged: our frames may go out.
    pub(crate) trusted: bool,
    pub(crate) peer: Option<PeerIdentity>,
    pub(crate) address: SocketAddr,
    pub(crate) serial: u64,
    readable: bool,
    writable: bool,
    hung_up: bool,
    established: bool,
    reading: bool,
    pumping: bool,
    /// The session is over: what is queued goes out, what comes in is ignored.
    closing: bool,
    said_bye: bool,
    dead: bool,
    /// Still counted among the connections that have not shown who they are.
    pub(crate) pre_auth: bool,
    /// POP: the outer and the inner side of a WebSocket, for who does not speak `drtp/1`.
    pub(crate) web: Option<(Arc<ServerConfig>, Arc<ServerConfig>)>,
    sparse: VecDeque<usize>,
    bulk: VecDeque<usize>,
    bytes_in: u64,
    bytes_out: u64,
}

/// Deadlines of relays on which bytes do not flow yet: one timer for all, for most are past that long before.
#[derive(Default)]
struct Early {
    waiting: VecDeque<(Instant, usize, u64)>,
    armed: Option<Instant>,
}

enum Read {
    /// There may be more; come again.
    More,
    /// Nothing now, or no credit, or over.
    Stop,
}

/// The engine that both roles share.
pub(crate) struct Core {
    pub(crate) poll: Poll,
    pub(crate) inbox: Inbox,
    pub(crate) table: Table,
    pub(crate) lanes: Slab<LaneConn>,
    /// UDP sockets of QUIC lanes.
    pub(crate) udp: Slab<UdpDoor>,
    udp_reading: Vec<usize>,
    buried_udp: Vec<usize>,
    timers: BinaryHeap<Reverse<(Instant, Timer)>>,
    early: Early,
    /// When the timer of those goes off that wait at a bucket.
    buckets_armed: Option<Instant>,
    reading: Vec<usize>,
    pumping: Vec<usize>,
    buried_lanes: Vec<usize>,
    /// Of the buried relays, sessions and lanes: how many the role has read the books of.
    mourned: [usize; 3],
    scratch: Vec<u8>,
    batch: Vec<u8>,
    /// Datagrams on their way into a sealed stream.
    frames: Vec<u8>,
    pub(crate) batches: Batches,
    /// Datagrams of the last call.
    pub(crate) datagrams: Reading,
    /// Connections whose pre-authentication count ended; the role gives them back.
    pub(crate) authenticated: Vec<SocketAddr>,
}

impl Core {
    pub(crate) fn new(poll: Poll, inbox: Inbox, parked_max: u64) -> Self {
        Self {
            poll,
            inbox,
            table: Table::new(Instant::now(), parked_max),
            lanes: Slab::new(),
            udp: Slab::new(),
            udp_reading: Vec::new(),
            buried_udp: Vec::new(),
            timers: BinaryHeap::new(),
            early: Early::default(),
            buckets_armed: None,
            reading: Vec::new(),
            pumping: Vec::new(),
            buried_lanes: Vec::new(),
            mourned: [0; 3],
            scratch: vec![0; LANE_READ_BYTES + RECORD_ROOM],
            batch: Vec::new(),
            frames: Vec::new(),
            batches: Batches::probe(),
            datagrams: Reading::default(),
            authenticated: Vec::new(),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.table.now
    }

    // ---- the turn --------------------------------------------------------------------------------------------------

    /// Waits for sockets, timers or the host, and takes note of them.
    pub(crate) fn wait(&mut self, events: &mut Events) {
        let runnable = !self.reading.is_empty()
            || !self.udp_reading.is_empty()
            || self.pump_is_runnable()
            || !self.table.upcalls.is_empty()
            || !self.table.wakeful.is_empty();
        let until = self.timers.peek().map(|Reverse((at, _))| at.saturating_duration_since(Instant::now()));
        let timeout = if runnable { Duration::ZERO } else { until.unwrap_or(TURN_MAX).min(TURN_MAX) };
        if let Err(error) = self.poll.poll(events, Some(timeout)) {
            debug_assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "poll fails by signals only");
        }
        self.table.now = Instant::now();
        self.inbox.shared.ticks.fetch_add(1, Ordering::Relaxed);
        for event in events.iter() {
            self.note(event);
        }
        self.fire_timers();
    }

    fn note(&mut self, event: &mio::event::Event) {
        let index = event.token().0 >> KIND_BITS;
        match event.token().0 & ((1 << KIND_BITS) - 1) {
            WAKE => self.table.upcalls.push_back(Upcall::Wake),
            LISTENER => self.table.upcalls.push_back(Upcall::Accept(index)),
            OWN => self.table.upcalls.push_back(Upcall::Own(index)),
            LANE => self.note_lane(index, event),
            RELAY => self.note_relay(index, event),
            UDP => self.note_udp(index, event),
            _ => {}
        }
    }

    fn note_lane(&mut self, index: usize, event: &mio::event::Event) {
        let Some(lane) = self.lanes.get_mut(index).filter(|lane| !lane.dead) else { return };
        lane.hung_up |= event.is_read_closed() || event.is_error();
        lane.writable |= event.is_writable();
        if let Carrier::Tls(tcp) = &mut lane.carrier {
            if event.is_writable() {
                tcp.socket.flush();
            }
        }
        if event.is_readable() || lane.hung_up {
            lane.readable = true;
            if !std::mem::replace(&mut lane.reading, true) {
                self.reading.push(index);
            }
        }
        if lane.writable {
            let session = lane.session;
            if lane.waiting() > 0 || !lane.sparse.is_empty() || !lane.bulk.is_empty() || lane.closing {
                self.table.touch(session);
            }
            if lane.session == usize::MAX || lane.closing {
                self.flush_lane(index);
            }
        }
    }

    fn note_relay(&mut self, index: usize, event: &mio::event::Event) {
        let Some(relay) = self.table.relays.get_mut(index).filter(|relay| !relay.dead) else { return };
        if event.is_error() && relay.socket.as_ref().is_some_and(|socket| socket.failure().is_some()) {
            self.table.end_relay(index, Err(ResetCode::Reset));
            return;
        }
        if let Some(flow) = &relay.flow {
            // An error is a refusal that came back; reading takes it, to the end.
            relay.hung_up |= event.is_error();
            relay.readable |= event.is_readable() || relay.hung_up;
            if flow.has_waiting() {
                self.table.flush_later(index);
            }
            return self.read_soon(index);
        }
        if event.is_read_closed() {
            relay.hung_up = true;
            if let Some(socket) = relay.socket.as_mut() {
                socket.note_end(event.is_write_closed());
                if socket.is_deserted() {
                    return self.table.end_relay(index, Err(ResetCode::Reset));
                }
            }
        }
        relay.readable |= event.is_readable() || relay.hung_up;
        if event.is_writable() && !relay.writable {
            relay.writable = true;
            self.table.flush_later(index);
        }
        if self.table.relays[index].readable {
            self.read_soon(index);
        }
    }

    fn fire_timers(&mut self) {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied() {
            if at > self.table.now {
                break;
            }
            self.timers.pop();
            match timer {
                Timer::Session(index, serial) => {
                    let due = self.table.sessions.get_mut(index).filter(|sess| sess.serial == serial);
                    if let Some(sess) = due {
                        if sess.timer_at.is_some_and(|armed| armed <= self.table.now) {
                            sess.timer_at = None;
                            self.table.tick(index);
                        }
                    }
                }
                Timer::Lane(index, serial) => {
                    let due = self.lanes.get(index).is_some_and(|lane| lane.serial == serial);
                    let late = due && (self.lanes[index].closing || !self.greeted(index));
                    if late {
                        let waits_for = self.lanes[index].waits_for();
                        self.drop_lane(index, waits_for.as_deref().unwrap_or("no HELLO in time"));
                    }
                }
                Timer::Quic(index, serial) => self.tick_quic(index, serial),
                Timer::Relay(index, serial) => match self.table.silent_at(index, serial) {
                    Some(at) if at > self.table.now => self.silence_deadline(index, serial, at),
                    Some(_) => self.table.end_relay(index, Err(ResetCode::Idle)),
                    None => {}
                },
                Timer::Early => self.end_late(),
                Timer::Buckets => self.buckets_armed = None,
                Timer::Role(what) => self.table.upcalls.push_back(Upcall::Timer(what)),
            }
        }
    }

    fn greeted(&mut self, lane: usize) -> bool {
        let Some(lane) = self.lanes.get(lane) else { return false };
        let (session, trusted) = (lane.session, lane.trusted);
        trusted && self.table.session(session).is_some_and(|session| session.state() != State::Greeting)
    }

    /// Reads what is ready. The role handles the upcalls after it.
    pub(crate) fn read_lanes(&mut self) {
        for door in std::mem::take(&mut self.udp_reading) {
            self.read_udp(door);
        }
        for index in std::mem::take(&mut self.reading) {
            if let Some(lane) = self.lanes.get_mut(index) {
                lane.reading = false;
                self.read_lane(index);
            }
        }
        for (session, number) in std::mem::take(&mut self.table.dead_lanes) {
            let lane = self.table.sessions.get(session).and_then(|sess| sess.lanes[usize::from(number)]);
            let now = self.table.now;
            // What this very turn read may have been the answer: our own pause must not look like the peer's silence.
            let silent = self.table.session(session).is_some_and(|machine| machine.lane_is_silent(number, now));
            if let Some(lane) = lane.filter(|_| silent) {
                self.drop_lane(lane, "peer is silent");
            }
        }
    }

    /// Moves bytes from visitors to lanes, to sockets, and to the wire.
    pub(crate) fn write_out(&mut self) {
        for (relay, code) in std::mem::take(&mut self.table.doomed) {
            self.table.end_relay(relay, Err(code));
        }
        self.tend_all_sealed();
        self.give_out();
        for relay in std::mem::take(&mut self.table.wakeful) {
            self.read_soon(relay);
        }
        self.table.wakeful.append(&mut self.table.wakeful_next);
        for lane in std::mem::take(&mut self.pumping) {
            self.pump_lane(lane);
        }
        for relay in std::mem::take(&mut self.table.flush) {
            if let Some(state) = self.table.relays.get_mut(relay) {
                state.flushing = false;
                self.flush_relay(relay);
            }
        }
        for session in std::mem::take(&mut self.table.dirty) {
            self.settle(session);
        }
        self.await_buckets();
    }

    /// The role has answered every upcall: what is buried by now may be freed at the end of the turn.
    pub(crate) fn mourn(&mut self) {
        self.mourned = [self.table.buried_relays.len(), self.table.buried_sessions.len(), self.buried_lanes.len()];
    }

    /// Frees what ended in this turn: events of the same turn must not meet a new tenant of the slot. What ended after
    /// the role's last look waits for the next turn; waiting for a turn without any would let a busy POP's slots pile up.
    pub(crate) fn bury(&mut self) {
        let [relays, sessions, lanes] = std::mem::take(&mut self.mourned);
        for relay in self.table.buried_relays.drain(..relays) {
            self.table.relays.forget(relay);
        }
        for session in self.table.buried_sessions.drain(..sessions) {
            self.table.sessions.try_remove(session);
        }
        for lane in self.buried_lanes.drain(..lanes) {
            self.lanes.try_remove(lane);
        }
        for door in self.buried_udp.drain(..) {
            self.udp.try_remove(door);
        }
    }
}
