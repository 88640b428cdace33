//! `Pair`: an agent's and a server's session in memory, with virtual time, latency, chunking, and lanes that can be lost.
//! For tests and fuzzing.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Budget, Event, LANES_MAX, Session, SessionConfig, SessionError};
use crate::config::{Flow, Liveness};
use crate::message::{Carries, GoAway, Hello, Open, ResetCode};

/// What one end has seen of one stream.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    pub open: Option<Open>,
    pub data: Vec<u8>,
    pub datagrams: Vec<Vec<u8>>,
    pub fin: bool,
    pub reset: Option<ResetCode>,
    pub stop: bool,
    pub connected: bool,
    pub credits: usize,
}

/// What one end has seen of the session.
#[derive(Debug, Default)]
pub struct Log {
    pub streams: BTreeMap<u32, Seen>,
    pub hello: Option<Hello>,
    pub ready: bool,
    pub lanes_ready: usize,
    pub goaway: Option<GoAway>,
    pub dead: Vec<u8>,
    pub closed: bool,
}

impl Log {
    fn note(&mut self, event: Event<'_>) {
        match event {
            Event::Hello(hello) => self.hello = Some(hello),
            Event::Ready(_) => self.ready = true,
            Event::LaneReady(_) => self.lanes_ready += 1,
            Event::Open { stream, open } => self.of(stream).open = Some(*open),
            Event::Connected { stream } => self.of(stream).connected = true,
            Event::Data { stream, bytes } => self.of(stream).data.extend_from_slice(bytes),
            Event::Fin { stream } => self.of(stream).fin = true,
            Event::Reset { stream, code } => self.of(stream).reset = Some(code),
            Event::StopSending { stream } => self.of(stream).stop = true,
            Event::Credit { stream } => self.of(stream).credits += 1,
            Event::Datagram { stream, bytes } => self.of(stream).datagrams.push(bytes.to_vec()),
            Event::GoAway(goaway) => self.goaway = Some(goaway),
            Event::LaneDead(lane) => self.dead.push(lane),
            Event::Closed => self.closed = true,
        }
    }

    pub fn of(&mut self, stream: u32) -> &mut Seen {
        self.streams.entry(stream).or_default()
    }
}

/// One direction of one lane: bytes with the time they arrive.
type Wire = VecDeque<(Instant, Vec<u8>)>;

pub struct Pair {
    pub now: Instant,
    pub latency: Duration,
    /// Extra latency of a lane, so that lanes overtake each other.
    pub skew: [Duration; LANES_MAX as usize],
    pub chunk: usize,
    pub agent: Session,
    pub server: Session,
    pub agent_log: Log,
    pub server_log: Log,
    up: [Wire; LANES_MAX as usize],
    down: [Wire; LANES_MAX as usize],
    /// Swallows everything: a dead path.
    pub black_hole: bool,
    pub error: Option<SessionError>,
    /// Bytes handed on return their credit at once.
    pub consume: bool,
}

pub fn config() -> SessionConfig {
    SessionConfig { liveness: Liveness::default(), flow: Flow::default(), streams_max: 64, half_open_max: 32, seed: 7 }
}

pub fn visitor(connection: &str) -> Open {
    Open {
        connection: connection.into(),
        visitor: None,
        destination: None,
        stream_id: [0; 16],
        deadline_ms: 5_000,
        carries: Carries::Bytes,
    }
}

impl Pair {
    pub fn with(config: SessionConfig) -> Self {
        let now = Instant::now();
        let budget = || Budget::new(config.flow.budget_bytes);
        Self {
            now,
            latency: Duration::from_millis(5),
            skew: [Duration::ZERO; LANES_MAX as usize],
            chunk: usize::MAX,
            agent: Session::agent(config, budget(), 100, [1; 16], 1, now),
            server: Session::server(config, budget(), now),
            agent_log: Log::default(),
            server_log: Log::default(),
            up: Default::default(),
            down: Default::default(),
            black_hole: false,
            error: None,
            consume: true,
        }
    }

    /// Greeted and open.
    pub fn open() -> Self {
        Self::open_over(Duration::from_millis(5))
    }

    /// The same over a path of this one-way latency.
    pub fn open_over(latency: Duration) -> Self {
        Self::open_with(config(), latency)
    }

    /// The same with sessions of this configuration.
    pub fn open_with(config: SessionConfig, latency: Duration) -> Self {
        let mut pair = Self::with(config);
        pair.latency = latency;
        pair.run(latency * 2);
        pair.server.accept([9; 16], pair.now);
        pair.run(latency * 5);
        assert!(pair.agent_log.ready);
        pair
    }

    /// Credit that both ends hold of their budgets.
    pub fn credit_used(&self) -> u64 {
        self.agent.budget.used() + self.server.budget.used()
    }

    /// A gateway in the agent's place: it opens the streams.
    pub fn with_gateway() -> Self {
        let mut pair = Self::with(config());
        pair.agent = Session::gateway(config(), Budget::new(config().flow.budget_bytes), 100, [1; 16], 1, pair.now);
        pair.run(Duration::from_millis(10));
        pair.server.answer_streams();
        pair.server.accept([9; 16], pair.now);
        pair.run(Duration::from_millis(25));
        assert!(pair.agent_log.ready);
        pair
    }

    /// Adds a lane on both ends.
    pub fn add_lane(&mut self, lane: u8) {
        assert!(self.agent.join(lane, self.now));
        assert!(self.server.join(lane, self.now));
        // The server judged the HELLO elsewhere (in the driver), so it does not reach this session.
        let mut hello = Vec::new();
        self.agent.take_output(lane, &mut hello);
        self.run(Duration::from_millis(60));
    }

    pub fn lose_lane(&mut self, lane: u8) {
        self.up[usize::from(lane)].clear();
        self.down[usize::from(lane)].clear();
        self.agent.lane_lost(lane, &mut |event| self.agent_log.note(event));
        self.server.lane_lost(lane, &mut |event| self.server_log.note(event));
    }

    /// Moves virtual time on: a millisecond at least, further while neither end nor wire has anything to do.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.exchange();
            if self.now >= end {
                break;
            }
            self.now = self.next_event().unwrap_or(end).max(self.now + Duration::from_millis(1)).min(end);
        }
    }

    fn next_event(&self) -> Option<Instant> {
        if (0..LANES_MAX).any(|lane| self.agent.queued(lane) + self.server.queued(lane) > 0) {
            return Some(self.now);
        }
        let wires = self.up.iter().chain(&self.down).filter_map(|wire| wire.front().map(|(at, _)| *at));
        wires.chain(self.agent.next_tick()).chain(self.server.next_tick()).min()
    }

    fn exchange(&mut self) {
        self.agent.tick(self.now, &mut |event| self.agent_log.note(event));
        self.server.tick(self.now, &mut |event| self.server_log.note(event));
        for lane in 0..LANES_MAX {
            let at = self.now + self.latency + self.skew[usize::from(lane)];
            let index = usize::from(lane);
            let mut out = Vec::new();
            self.agent.take_output(lane, &mut out);
            if !out.is_empty() && !self.black_hole {
                self.up[index].push_back((at, out));
            }
            let mut out = Vec::new();
            self.server.take_output(lane, &mut out);
            if !out.is_empty() && !self.black_hole {
                self.down[index].push_back((at, out));
            }
            while self.up[index].front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, bytes) = self.up[index].pop_front().unwrap();
                self.deliver(false, lane, &bytes);
            }
            while self.down[index].front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, bytes) = self.down[index].pop_front().unwrap();
                self.deliver(true, lane, &bytes);
            }
        }
    }

    fn deliver(&mut self, to_agent: bool, lane: u8, bytes: &[u8]) {
        for piece in bytes.chunks(self.chunk.min(bytes.len()).max(1)) {
            self.inject(to_agent, lane, piece);
        }
    }

    /// Hands raw bytes to one end.
    pub fn inject(&mut self, to_agent: bool, lane: u8, bytes: &[u8]) {
        let (session, log) =
            if to_agent { (&mut self.agent, &mut self.agent_log) } else { (&mut self.server, &mut self.server_log) };
        let mut eaten: Vec<(u32, u64)> = Vec::new();
        let result = session.input(lane, bytes, self.now, &mut |event| {
            if let Event::Data { stream, bytes } = &event {
                eaten.push((*stream, bytes.len() as u64));
            }
            log.note(event);
        });
        if self.consume {
            for (stream, count) in eaten {
                session.consumed(stream, count, self.now);
            }
        }
        if let Err(error) = result {
            self.error = Some(error);
        }
    }
}
