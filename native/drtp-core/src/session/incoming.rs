//! What a lane's bytes do to a session: every frame judged, every mistake of the peer answered by the session's end.

use std::time::{Duration, Instant};

use super::stream::Held;
use super::{Event, FLOOD_BURST, FLOOD_PER_S, LANES_MAX, Session, SessionError, Side, State, Streams};
use crate::frame::{Frame, Item};
use crate::message::{GoAway, GoAwayCode, Hello, Open, ResetCode, VERSION};

/// Pieces of one stream that wait for their MOVE. Peers of ours move a stream once; to and fro for ever is nobody's need.
const HELD_MAX: usize = 256;

impl Session {
    /// Takes a lane's plain bytes. An error ends the session: the peer has been told in the lane's batch.
    pub fn input(
        &mut self,
        lane: u8,
        bytes: &[u8],
        now: Instant,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), SessionError> {
        let Some(state) = self.lanes.get_mut(usize::from(lane)).and_then(Option::as_mut) else { return Ok(()) };
        state.pings.heard(now);
        let mut parser = std::mem::take(&mut state.parser);
        let mut input = bytes;
        let result = loop {
            if matches!(self.state, State::Closed | State::Fenced) {
                break Ok(());
            }
            match parser.next(&mut input) {
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
                Ok(Some(item)) => {
                    if let Err(error) = self.take_item(lane, item, now, sink) {
                        break Err(error);
                    }
                }
            }
        };
        if let Some(state) = self.lanes[usize::from(lane)].as_mut() {
            state.parser = parser;
        }
        if let Err(error) = result {
            let version = matches!(error, SessionError::Version(..));
            let code = if version { GoAwayCode::Version } else { GoAwayCode::Protocol };
            self.refuse(code, 0, &error.to_string());
        }
        result
    }

    fn take_item(
        &mut self,
        lane: u8,
        item: Item<'_>,
        now: Instant,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), SessionError> {
        match item {
            Item::Skipped => self.hollow(now),
            Item::Frame { stream: _, frame: Frame::Hello(hello) } => self.hello(lane, hello, sink),
            // A server may refuse instead of greeting; nobody else says goodbye before hello.
            Item::Frame { stream: _, frame: Frame::GoAway(goaway) }
                if self.side == Side::Dialler || self.greeted(lane) =>
            {
                self.go_away(goaway, now, sink);
                self.hollow(now)
            }
            _ if !self.greeted(lane) => Err(SessionError::Unexpected("frame before HELLO")),
            Item::Data { stream, bytes, announced } => self.data(lane, stream, bytes, announced, now, sink),
            Item::Datagram { stream, bytes } => {
                if stream == 0 {
                    return Err(SessionError::Unexpected("stream frame on stream 0"));
                }
                if !self.streams.contains_key(&stream) {
                    return self.hollow(now);
                }
                self.datagram_at = Some(now);
                sink(Event::Datagram { stream, bytes: &bytes });
                Ok(())
            }
            Item::Frame { stream: 0, frame } => self.session_frame(lane, &frame, now),
            Item::Frame { stream, frame } => self.stream_frame(lane, stream, frame, now, sink),
        }
    }

    fn greeted(&self, lane: u8) -> bool {
        self.state != State::Greeting && self.lanes[usize::from(lane)].as_ref().is_some_and(|l| l.greeted)
    }

    /// Counts a frame without substance.
    fn hollow(&mut self, now: Instant) -> Result<(), SessionError> {
        self.flood_tokens -= 1.0;
        if self.flood_tokens < 0.0 {
            let earned = now.saturating_duration_since(self.flood_at).as_secs_f64() * FLOOD_PER_S;
            self.flood_tokens = (self.flood_tokens + earned).min(FLOOD_BURST);
            self.flood_at = now;
        }
        if self.flood_tokens < 0.0 { Err(SessionError::Flood) } else { Ok(()) }
    }

    fn hello(&mut self, lane: u8, hello: Hello, sink: &mut impl FnMut(Event<'_>)) -> Result<(), SessionError> {
        let Some(state) = self.lanes[usize::from(lane)].as_mut() else { return Ok(()) };
        if std::mem::replace(&mut state.greeted, true) {
            return Err(SessionError::Unexpected("second HELLO"));
        }
        if hello.version_min > VERSION || hello.version_max < VERSION {
            return Err(SessionError::Version(hello.version_min, hello.version_max));
        }
        match (self.side, self.state) {
            (Side::Server, State::Greeting) => {
                self.peer = hello;
                sink(Event::Hello(hello));
            }
            (Side::Dialler, State::Greeting) => {
                self.peer = hello;
                self.state = State::Open;
                sink(Event::Ready(hello));
            }
            (Side::Dialler, _) => sink(Event::LaneReady(lane)),
            (Side::Server, _) => return Err(SessionError::Unexpected("HELLO")),
        }
        Ok(())
    }

    fn go_away(&mut self, goaway: GoAway, now: Instant, sink: &mut impl FnMut(Event<'_>)) {
        let code = GoAwayCode::from_wire(goaway.code);
        if code == GoAwayCode::Drain {
            self.peer_drains = true;
            let until = now + Duration::from_millis(u64::from(goaway.deadline_ms));
            sink(Event::GoAway(goaway));
            // The peer resets at its deadline; a second later it is not going to.
            let until = until + Duration::from_secs(1);
            // The nearer deadline holds: nobody prolongs the other's drain.
            self.drain_until = Some(self.drain_until.map_or(until, |own| own.min(until)));
            if self.state == State::Open {
                self.state = State::Draining;
                self.settles_at = Some(now);
            }
            return;
        }
        let lost = self.stream_ids();
        self.end(if code == GoAwayCode::Fenced { State::Fenced } else { State::Closed });
        for stream in lost {
            sink(Event::Reset { stream, code: ResetCode::Lost });
        }
        sink(Event::GoAway(goaway));
        sink(Event::Closed);
    }

    fn session_frame(&mut self, lane: u8, frame: &Frame, now: Instant) -> Result<(), SessionError> {
        let Some(state) = self.lanes[usize::from(lane)].as_mut() else { return Ok(()) };
        match frame {
            Frame::Ping(nonce) => {
                state.say(0, &Frame::Pong(*nonce));
                self.hollow(now)
            }
            Frame::Pong(nonce) => {
                state.pings.pong(*nonce, now);
                self.hollow(now)
            }
            _ => Err(SessionError::Unexpected("stream frame on stream 0")),
        }
    }

    fn data(
        &mut self,
        lane: u8,
        id: u32,
        bytes: &[u8],
        announced: Option<u32>,
        now: Instant,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), SessionError> {
        let at = self.moment(now);
        let Some(stream) = self.streams.get_mut(&id) else {
            // Late bytes of a stream that we reset: their count is bounded by the credit given before.
            return if announced.is_some() { self.hollow(now) } else { Ok(()) };
        };
        if let Some(length) = announced {
            stream.recv_total += u64::from(length);
            if stream.recv_total > stream.recv_max {
                return Err(SessionError::Credit(id));
            }
            if stream.remote_fin || stream.holds_fin_of(lane) {
                return Err(SessionError::Unexpected("DATA after FIN"));
            }
        }
        if bytes.is_empty() {
            return if announced == Some(0) { self.hollow(now) } else { Ok(()) };
        }
        if stream.is_sparse(bytes.len(), at) {
            self.sparse = Some((id, now));
        }
        if lane != stream.recv_lane {
            // Small pieces gather in one, so that what is held costs what its credit says.
            match stream.held_mut().iter_mut().rev().find(|(held, _)| *held == lane) {
                Some((_, Held::Data(waiting))) => waiting.extend_from_slice(bytes),
                _ => stream.held_mut().push((lane, Held::Data(bytes.to_vec()))),
            }
            return Ok(());
        }
        stream.recv_offset += bytes.len() as u64;
        let first = self.role == Streams::Opened && std::mem::replace(&mut stream.half_open, false);
        if first {
            self.half_open -= 1;
            sink(Event::Connected { stream: id });
        }
        sink(Event::Data { stream: id, bytes });
        Ok(())
    }

    fn stream_frame(
        &mut self,
        lane: u8,
        id: u32,
        frame: Frame,
        now: Instant,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), SessionError> {
        if let Frame::Open(open) = frame {
            return self.opened(lane, id, open, now, sink);
        }
        let Some(stream) = self.streams.get_mut(&id) else { return self.hollow(now) };
        match frame {
            Frame::Fin if lane == stream.recv_lane => self.fin(id, sink),
            Frame::Fin => {
                if stream.holds_fin_of(lane) {
                    return Err(SessionError::Unexpected("second FIN"));
                }
                stream.remote_fin_seen = true;
                stream.held_mut().push((lane, Held::Fin));
                Ok(())
            }
            Frame::Rst(code) => {
                self.forget(id);
                sink(Event::Reset { stream: id, code: ResetCode::from_wire(code) });
                self.hollow(now)
            }
            Frame::StopSending(_) => {
                sink(Event::StopSending { stream: id });
                self.hollow(now)
            }
            Frame::Window(limit) => {
                let gave = self.window(id, limit, sink);
                // An honest WINDOW gives something; the first one from an agent may only say that its service answered.
                if gave { Ok(()) } else { self.hollow(now) }
            }
            Frame::Move { lane: to, offset } if lane == stream.recv_lane => self.moved(id, to, offset, sink),
            Frame::Move { lane: to, offset } => {
                stream.held_mut().push((lane, Held::Move { lane: to, offset }));
                if stream.held().len() > HELD_MAX {
                    return Err(SessionError::Move(id));
                }
                Ok(())
            }
            _ => Err(SessionError::Unexpected("session frame on a stream")),
        }
    }

    fn opened(
        &mut self,
        lane: u8,
        id: u32,
        open: Box<Open>,
        now: Instant,
        sink: &mut impl FnMut(Event<'_>),
    ) -> Result<(), SessionError> {
        if self.role != Streams::Answered || self.streams.contains_key(&id) || id == 0 {
            return Err(SessionError::Unexpected("OPEN"));
        }
        if self.streams.len() >= self.own.streams_max as usize {
            return Err(SessionError::Streams);
        }
        self.add(id, lane, now);
        if self.half_open > self.config.half_open_max {
            self.reset(id, ResetCode::Busy);
        } else {
            // Also while we drain: our GOAWAY and this OPEN crossed, and its visitor is past the point of a retry.
            sink(Event::Open { stream: id, open });
        }
        Ok(())
    }

    fn fin(&mut self, id: u32, sink: &mut impl FnMut(Event<'_>)) -> Result<(), SessionError> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if std::mem::replace(&mut stream.remote_fin, true) {
            return Err(SessionError::Unexpected("second FIN"));
        }
        stream.remote_fin_seen = true;
        let done = stream.done();
        sink(Event::Fin { stream: id });
        if done {
            self.forget(id);
        }
        Ok(())
    }

    /// Takes credit; false if the frame changed nothing.
    fn window(&mut self, id: u32, limit: u64, sink: &mut impl FnMut(Event<'_>)) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let first = self.role == Streams::Opened && std::mem::replace(&mut stream.half_open, false);
        let starved = stream.send_offset == stream.send_max;
        let gave = limit > stream.send_max;
        stream.send_max = stream.send_max.max(limit);
        if first {
            self.half_open -= 1;
            sink(Event::Connected { stream: id });
        }
        if starved && gave {
            sink(Event::Credit { stream: id });
        }
        first || gave
    }

    fn moved(&mut self, id: u32, to: u8, offset: u64, sink: &mut impl FnMut(Event<'_>)) -> Result<(), SessionError> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if to >= LANES_MAX || offset != stream.recv_offset || to == stream.recv_lane {
            return Err(SessionError::Move(id));
        }
        if self.lanes[usize::from(to)].is_none() {
            // The lane was lost on our side while the MOVE was on its way: the stream is lost with it.
            self.reset(id, ResetCode::Lost);
            sink(Event::Reset { stream: id, code: ResetCode::Lost });
            return Ok(());
        }
        stream.recv_lane = to;
        let (now_due, rest): (Vec<_>, Vec<_>) = stream.take_held().into_iter().partition(|(lane, _)| *lane == to);
        if !rest.is_empty() {
            *stream.held_mut() = rest;
        }
        self.replay(id, now_due, sink)
    }

    /// Hands on what had come ahead of its MOVE. Where a MOVE among it leads elsewhere, the rest waits again.
    fn replay(&mut self, id: u32, held: Vec<(u8, Held)>, sink: &mut impl FnMut(Event<'_>)) -> Result<(), SessionError> {
        let mut held = held.into_iter();
        while let Some((lane, piece)) = held.next() {
            let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
            if lane != stream.recv_lane {
                let rest = std::iter::once((lane, piece)).chain(held);
                let waiting = stream.take_held();
                *stream.held_mut() = rest.chain(waiting).collect();
                return Ok(());
            }
            match piece {
                Held::Data(bytes) => {
                    stream.recv_offset += bytes.len() as u64;
                    sink(Event::Data { stream: id, bytes: &bytes });
                }
                Held::Fin => self.fin(id, sink)?,
                Held::Move { lane, offset } => self.moved(id, lane, offset, sink)?,
            }
        }
        Ok(())
    }
}
