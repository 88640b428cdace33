//! A session of `drtp/1` as a state machine: bytes in, events and bytes out, time an argument. No sockets, no clock.
//!
//! An agent opens lanes and answers streams; its server opens streams, one per visitor. A gateway opens both. All frames of a turn gather in
//! each lane's batch ([`Session::take_output`]); the driver seals and writes a batch once.

mod datagrams;
mod incoming;
mod lane;
mod outgoing;
mod stream;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod pair;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod play;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

use lane::{Lane, PingVerdict};
use stream::{Moment, Stream};

pub use stream::Budget;

use crate::config::{Flow, Liveness};
use crate::frame::{Frame, FrameError};
use crate::message::{
    CAPABILITY_DATAGRAMS, CAPABILITY_LANES, CAPABILITY_SEALED, CAPABILITY_SEALED_DATAGRAMS, Carries, GoAway,
    GoAwayCode, Hello, Open, ResetCode, VERSION,
};
use crate::report::LaneStats;

/// Lanes of one session at most.
pub const LANES_MAX: u8 = 4;
/// Low bits of a stream id are its slot, the rest the slot's generation, so that a late frame never meets a new stream.
const SLOT_BITS: u32 = 20;
/// Frames without substance (resets, pings, empty DATA, unknown streams) that a peer may send at once, and per second.
/// A busy honest agent refuses a few thousand visitors a second; ten times that is a flood (RUSTSEC-2026-0258).
const FLOOD_BURST: f64 = 50_000.0;
const FLOOD_PER_S: f64 = 20_000.0;

/// An agent that says goodbye stays for so long although nothing is open: visitors whom its POP had let in before it
/// heard are on their way. The POP ends the session sooner, once it has handed over the last of them.
const CROSSING: Duration = Duration::from_secs(2);

/// So long after a sparse stream's last bytes bulk ones hold back: its next question may be on the way.
const SPARSE_HOLD: Duration = Duration::from_millis(200);

/// So long after a datagram came more of them are expected.
const DATAGRAMS_HOLD: Duration = Duration::from_millis(200);

/// Which end of the lanes this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens lanes: an agent or a gateway.
    Dialler,
    /// Takes lanes.
    Server,
}

/// What this end does about streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streams {
    /// Opens them: a server towards an agent, a gateway towards a server.
    Opened,
    /// Answers them.
    Answered,
}

/// Where a session is in its life. The README's diagram is checked against this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// HELLO has not come (agent), or has not been judged (server).
    Greeting,
    /// Streams come and go.
    Open,
    /// No new streams; the rest has a deadline.
    Draining,
    /// Over, by either side's word or the loss of the last lane.
    Closed,
    /// Over for good: another instance of this agent serves.
    Fenced,
}

impl State {
    /// Every state, for the diagram's test.
    pub const ALL: [State; 5] = [State::Greeting, State::Open, State::Draining, State::Closed, State::Fenced];
}

/// What a session is told at birth.
#[derive(Debug, Clone, Copy)]
pub struct SessionConfig {
    /// Rhythm of pings.
    pub liveness: Liveness,
    /// Credit.
    pub flow: Flow,
    /// Streams borne.
    pub streams_max: u32,
    /// Streams borne whose local service has not answered.
    pub half_open_max: u32,
    /// Seed of the idle pings' jitter.
    pub seed: u64,
}

/// What happened; handed out in order while bytes are taken in.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Server: an agent says who it is; answer with [`Session::accept`] or [`Session::refuse`], or join it elsewhere.
    Hello(Hello),
    /// Agent: the server accepted; its HELLO.
    Ready(Hello),
    /// Agent: a further lane is in use.
    LaneReady(u8),
    /// Agent: a visitor came.
    Open {
        /// Stream id.
        stream: u32,
        /// What is known of it.
        open: Box<Open>,
    },
    /// Server: the local service answered.
    Connected {
        /// Stream id.
        stream: u32,
    },
    /// Bytes of a stream, in order. Credit returns by [`Session::consumed`].
    Data {
        /// Stream id.
        stream: u32,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// No more bytes of this stream's direction.
    Fin {
        /// Stream id.
        stream: u32,
    },
    /// The stream is over, badly; it is forgotten already.
    Reset {
        /// Stream id.
        stream: u32,
        /// Why.
        code: ResetCode,
    },
    /// The peer wants no more bytes of our direction.
    StopSending {
        /// Stream id.
        stream: u32,
    },
    /// More credit came for a stream that had none.
    Credit {
        /// Stream id.
        stream: u32,
    },
    /// A datagram of a stream.
    Datagram {
        /// Stream id.
        stream: u32,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// The peer drains or ends the session.
    GoAway(GoAway),
    /// The lane's peer is silent for too long: drop it.
    LaneDead(u8),
    /// Nothing is left: the state is `Closed` or `Fenced`; write what is queued, then close the lanes.
    Closed,
}

/// The peer's mistakes. Each ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// Not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// More bytes than credit.
    #[error("credit exceeded on stream {0}")]
    Credit(u32),
    /// A frame that this side or state does not take.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
    /// No version in common.
    #[error("no version in common: peer speaks {0} to {1}")]
    Version(u16, u16),
    /// More streams than announced.
    #[error("too many streams")]
    Streams,
    /// Frames without substance beyond the allowance.
    #[error("flood of empty frames")]
    Flood,
    /// A MOVE that does not fit.
    #[error("bad move of stream {0}")]
    Move(u32),
}

/// Why a stream cannot be opened now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenRefused {
    /// Greeting, draining or over.
    #[error("session takes no new streams")]
    NotOpen,
    /// A cap of either side.
    #[error("stream limit reached")]
    Busy,
}

/// Multiplicative hash of stream ids: they come from our own slots, or from an authenticated peer under a cap.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

/// By stream id.
pub(crate) type ById<T> = HashMap<u32, T, BuildHasherDefault<IdHasher>>;

/// Stream ids of the server side: a free slot, with the slot's next generation.
#[derive(Debug, Default)]
struct Slots {
    generations: Vec<u16>,
    free: Vec<u32>,
}

impl Slots {
    fn take(&mut self) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.generations.push(0);
            self.generations.len() as u32 - 1
        });
        let generation = &mut self.generations[slot as usize];
        // 12 bits, never 0, so that no id is 0.
        *generation = if *generation >= 0xfff { 1 } else { *generation + 1 };
        u32::from(*generation) << SLOT_BITS | slot
    }

    fn give(&mut self, id: u32) {
        self.free.push(id & ((1 << SLOT_BITS) - 1));
    }
}

/// One (agent, server) session.
#[derive(Debug)]
pub struct Session {
    side: Side,
    role: Streams,
    state: State,
    config: SessionConfig,
    budget: Budget,
    own: Hello,
    peer: Hello,
    lanes: [Option<Lane>; LANES_MAX as usize],
    /// In boxes: a table of them as they are keeps room for half as many again, and leaves holes as it grows.
    streams: ById<Box<Stream>>,
    slots: Slots,
    half_open: u32,
    drain_until: Option<Instant>,
    /// A draining session without streams ends from here on.
    settles_at: Option<Instant>,
    /// It ended so: every stream had finished both ways.
    settled: bool,
    peer_drains: bool,
    flood_tokens: f64,
    flood_at: Instant,
    born: Instant,
    next_bulk_lane: u8,
    /// The sparse stream that brought bytes last, and when.
    sparse: Option<(u32, Instant)>,
    /// When a datagram came last.
    datagram_at: Option<Instant>,
    random: u64,
}

impl Session {
    /// The agent's end: its HELLO is queued at once on lane 0.
    pub fn agent(
        config: SessionConfig,
        budget: Budget,
        epoch: u64,
        token: [u8; 16],
        attempt: u32,
        now: Instant,
    ) -> Self {
        Self::dialler(Streams::Answered, config, budget, (epoch, token, attempt), now)
    }

    /// The gateway's end: dials as an agent does, and opens streams.
    pub fn gateway(
        config: SessionConfig,
        budget: Budget,
        epoch: u64,
        token: [u8; 16],
        attempt: u32,
        now: Instant,
    ) -> Self {
        Self::dialler(Streams::Opened, config, budget, (epoch, token, attempt), now)
    }

    fn dialler(
        role: Streams,
        config: SessionConfig,
        budget: Budget,
        (epoch, token, attempt): (u64, [u8; 16], u32),
        now: Instant,
    ) -> Self {
        let mut session = Self::new(Side::Dialler, role, config, budget, now);
        session.own = Hello { epoch, token, attempt, ..session.own };
        let hello = session.own;
        let mut lane = Lane::new(now);
        lane.say(0, &Frame::Hello(hello));
        session.lanes[0] = Some(lane);
        session
    }

    /// The server's end of a fresh lane, before anything is known of it.
    pub fn server(config: SessionConfig, budget: Budget, now: Instant) -> Self {
        let mut session = Self::new(Side::Server, Streams::Opened, config, budget, now);
        session.lanes[0] = Some(Lane::new(now));
        session
    }

    fn new(side: Side, role: Streams, config: SessionConfig, budget: Budget, now: Instant) -> Self {
        let own = Hello {
            version_min: VERSION,
            version_max: VERSION,
            capabilities: CAPABILITY_DATAGRAMS | CAPABILITY_LANES | CAPABILITY_SEALED | CAPABILITY_SEALED_DATAGRAMS,
            window: config.flow.window_initial_bytes,
            streams_max: config.streams_max.min(1 << SLOT_BITS),
            ..Hello::default()
        };
        Self {
            side,
            role,
            state: State::Greeting,
            config,
            budget,
            own,
            peer: Hello::default(),
            lanes: [const { None }; LANES_MAX as usize],
            streams: ById::default(),
            slots: Slots::default(),
            half_open: 0,
            drain_until: None,
            settles_at: None,
            settled: false,
            peer_drains: false,
            flood_tokens: FLOOD_BURST,
            flood_at: now,
            born: now,
            next_bulk_lane: 0,
            sparse: None,
            datagram_at: None,
            random: config.seed | 1,
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// The peer's HELLO; zero before it came.
    pub fn peer(&self) -> &Hello {
        &self.peer
    }

    /// Streams open now.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Streams whose local service has not answered yet.
    pub fn half_open_count(&self) -> u32 {
        self.half_open
    }

    /// Ids of all open streams.
    pub fn stream_ids(&self) -> Vec<u32> {
        self.streams.keys().copied().collect()
    }

    /// New streams may be opened.
    pub fn takes_streams(&self) -> bool {
        self.state == State::Open && !self.peer_drains
    }

    /// The peer understands streams of this kind.
    pub fn bears(&self, carries: Carries) -> bool {
        let needed = match carries {
            Carries::Bytes => 0,
            Carries::Datagrams => CAPABILITY_DATAGRAMS,
            Carries::Sealed => CAPABILITY_SEALED,
            Carries::SealedDatagrams => CAPABILITY_SEALED | CAPABILITY_SEALED_DATAGRAMS,
        };
        self.peer.capabilities & needed == needed
    }

    /// Server: a visitor who was let in before the agent's goodbye came may still be handed over.
    pub fn takes_stragglers(&self) -> bool {
        self.takes_streams() || (self.state == State::Draining && self.peer_drains)
    }

    /// Server: visitors are on their way to an agent that drains; the session stays until `until` although it is empty.
    pub fn expect_stragglers(&mut self, until: Instant) {
        self.settles_at = self.settles_at.max(Some(until));
    }

    // ---- lanes -----------------------------------------------------------------------------------------------------

    /// Server: the agent is welcome. `token` is what further lanes must show.
    pub fn accept(&mut self, token: [u8; 16], now: Instant) {
        self.own = Hello { epoch: self.peer.epoch, token, attempt: self.peer.attempt, ..self.own };
        self.state = State::Open;
        let hello = self.own;
        if let Some(lane) = self.lanes[0].as_mut() {
            lane.pings.heard(now);
            lane.say(0, &Frame::Hello(hello));
        }
    }

    /// Server, before [`Session::accept`]: the peer is a gateway, which opens the streams.
    pub fn answer_streams(&mut self) {
        self.role = Streams::Answered;
    }

    /// Ends a session that must not be, telling the peer why. `retry_ms` paces its return.
    pub fn refuse(&mut self, code: GoAwayCode, retry_ms: u32, reason: &str) {
        let frame = Frame::GoAway(GoAway { code: code as u32, deadline_ms: retry_ms, reason: reason.to_owned() });
        for lane in self.lanes.iter_mut().flatten() {
            lane.say(0, &frame);
        }
        self.end(State::Closed);
    }

    /// Adds a lane: at the agent its HELLO is queued, at the server the answer to one that was judged elsewhere.
    pub fn join(&mut self, lane: u8, now: Instant) -> bool {
        let vacant = self.lanes.get(usize::from(lane)).is_some_and(Option::is_none);
        if !vacant || self.state != State::Open || self.peer.capabilities & CAPABILITY_LANES == 0 {
            return false;
        }
        let mut fresh = Lane::new(now);
        let token = if self.side == Side::Dialler { self.peer.token } else { self.own.token };
        fresh.say(0, &Frame::Hello(Hello { token, lane, ..self.own }));
        fresh.greeted = self.side == Side::Server;
        self.lanes[usize::from(lane)] = Some(fresh);
        true
    }

    /// Server: the secret that a joining lane must show.
    pub fn join_token(&self) -> [u8; 16] {
        self.own.token
    }

    /// Lanes in use.
    pub fn lane_count(&self) -> usize {
        self.lanes.iter().flatten().count()
    }

    /// A lane's socket is gone. Its streams are lost, and with the last lane the session.
    pub fn lane_lost(&mut self, lane: u8, sink: &mut impl FnMut(Event<'_>)) {
        if self.lanes[usize::from(lane)].take().is_none() {
            return;
        }
        let lost: Vec<u32> = self.streams.iter().filter(|(_, s)| s.uses(lane)).map(|(id, _)| *id).collect();
        for stream in lost {
            self.forget(stream);
            if let Some(any) = self.lanes.iter_mut().flatten().next() {
                any.say(stream, &Frame::Rst(ResetCode::Lost as u32));
            }
            sink(Event::Reset { stream, code: ResetCode::Lost });
        }
        if self.lane_count() == 0 && !matches!(self.state, State::Closed | State::Fenced) {
            self.end(State::Closed);
            sink(Event::Closed);
        }
    }

    /// Measurements per lane, by lane number.
    pub fn lane_stats(&self) -> Vec<(u8, LaneStats)> {
        let stats = |lane: &Lane| LaneStats { datagrams_dropped: lane.datagrams.dropped(), ..lane.pings.stats() };
        let numbered = self.lanes.iter().enumerate();
        numbered.filter_map(|(n, lane)| lane.as_ref().map(|lane| (n as u8, stats(lane)))).collect()
    }

    /// Somebody waits for small answers: turns are short.
    pub fn has_sparse(&self, now: Instant) -> bool {
        self.streams.len() > 1 && self.sparse.is_some_and(|(_, at)| now.saturating_duration_since(at) < SPARSE_HOLD)
    }

    /// Datagrams come: turns are short, for what waits for a slower one is dropped.
    pub fn has_datagrams(&self, now: Instant) -> bool {
        self.datagram_at.is_some_and(|at| now.saturating_duration_since(at) < DATAGRAMS_HOLD)
    }

    /// The shortest round trip of the first lane that has one: what the path itself takes.
    fn round_trip_floor(&self) -> Duration {
        self.lanes.iter().flatten().find_map(|lane| lane.pings.round_trip_floor()).unwrap_or_default()
    }

    /// Smoothed round trip of the first lane that has one.
    pub fn round_trip(&self) -> Option<Duration> {
        self.lanes.iter().flatten().find_map(|lane| lane.pings.round_trip())
    }

    /// Nothing is heard on any lane: whoever has another way takes that.
    pub fn is_doubtful(&self, now: Instant) -> bool {
        self.lanes.iter().flatten().all(|lane| lane.pings.is_overdue(now))
    }

    /// Bytes of frames that wait to be sealed for a lane.
    pub fn queued(&self, lane: u8) -> usize {
        self.lanes[usize::from(lane)].as_ref().map_or(0, Lane::queued)
    }

    /// Moves a lane's batch into the empty `out`.
    pub fn take_output(&mut self, lane: u8, out: &mut Vec<u8>) {
        if let Some(lane) = self.lanes[usize::from(lane)].as_mut() {
            lane.take(out);
        }
    }

    // ---- time ------------------------------------------------------------------------------------------------------

    /// Starts draining: the peer is told, no new streams, the rest is reset at the deadline.
    pub fn drain(&mut self, deadline: Duration, reason: &str, now: Instant) {
        let until = now + deadline;
        match self.state {
            State::Open => {
                let crossing = if self.role == Streams::Answered { CROSSING } else { Duration::ZERO };
                self.settles_at = Some(now + crossing);
            }
            // It has more time than that: it was only replaced, and now its end goes altogether.
            State::Draining if self.drain_until.is_none_or(|own| until < own) => {}
            _ => return,
        }
        self.state = State::Draining;
        self.drain_until = Some(until);
        let deadline_ms = deadline.as_millis().min(u128::from(u32::MAX)) as u32;
        let frame = Frame::GoAway(GoAway { code: GoAwayCode::Drain as u32, deadline_ms, reason: reason.to_owned() });
        if let Some(lane) = self.lanes.iter_mut().flatten().next() {
            lane.say(0, &frame);
        }
    }

    /// When [`Session::tick`] has something to do.
    pub fn next_tick(&self) -> Option<Instant> {
        if matches!(self.state, State::Closed | State::Fenced) {
            return None;
        }
        let active = !self.streams.is_empty();
        let pings = self.lanes.iter().flatten().filter(|_| self.state != State::Greeting);
        let due = pings.map(|lane| lane.pings.due_at(&self.config.liveness, active));
        let draining = self.state == State::Draining;
        let drain = self.drain_until.filter(|_| draining);
        let settled = self.settles_at.filter(|_| draining && self.streams.is_empty());
        due.chain(drain).chain(settled).min()
    }

    /// Sends pings, notices death, ends a drain.
    pub fn tick(&mut self, now: Instant, sink: &mut impl FnMut(Event<'_>)) {
        if matches!(self.state, State::Greeting | State::Closed | State::Fenced) {
            return;
        }
        let active = !self.streams.is_empty();
        for number in 0..LANES_MAX {
            let unit = self.unit();
            let Some(lane) = self.lanes[usize::from(number)].as_mut() else { continue };
            match lane.pings.tick(now, &self.config.liveness, active, unit) {
                PingVerdict::Quiet => {}
                PingVerdict::Send(nonce) => lane.say(0, &Frame::Ping(nonce)),
                PingVerdict::Dead => sink(Event::LaneDead(number)),
            }
        }
        if self.state == State::Draining {
            self.drained(now, sink);
        }
    }

    /// The lane's peer has been silent for too long, and still is.
    pub fn lane_is_silent(&self, lane: u8, now: Instant) -> bool {
        let active = !self.streams.is_empty();
        let state = self.lanes.get(usize::from(lane)).and_then(Option::as_ref);
        state.is_some_and(|state| state.pings.is_dead(now, &self.config.liveness, active))
    }

    fn drained(&mut self, now: Instant, sink: &mut impl FnMut(Event<'_>)) {
        let over = self.drain_until.is_some_and(|until| now >= until);
        if over {
            for stream in self.stream_ids() {
                self.reset(stream, ResetCode::GoingAway);
                sink(Event::Reset { stream, code: ResetCode::GoingAway });
            }
        }
        if self.streams.is_empty() && (over || self.settles_at.is_none_or(|at| now >= at)) {
            self.settled = true;
            self.end(State::Closed);
            sink(Event::Closed);
        }
    }

    /// It drains or has drained, and no stream is left unfinished: what it brought is whole.
    pub fn is_settled(&self) -> bool {
        self.settled || (self.state == State::Draining && self.streams.is_empty())
    }

    fn moment(&self, now: Instant) -> Moment {
        Moment { now, ms: now.saturating_duration_since(self.born).as_millis() as u32 }
    }

    /// xorshift: jitter needs no better.
    fn unit(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The budget outlives the session.
        self.end(State::Closed);
    }
}
