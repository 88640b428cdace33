//! What this side does to its streams: open, send, move, finish, reset, give credit.

use std::time::Instant;

use super::stream::Stream;
use super::{LANES_MAX, OpenRefused, Session, State, Streams};
use crate::frame::{DATA_BYTES_MAX, DATAGRAM_BYTES_MAX, Frame, put_data};
use crate::message::{Open, ResetCode};

impl Session {
    /// A visitor came. Bytes may be sent at once.
    pub fn open(&mut self, open: Open, now: Instant) -> Result<u32, OpenRefused> {
        if self.takes_streams() { self.open_late(open, now) } else { Err(OpenRefused::NotOpen) }
    }

    /// The same for one who was let in before the agent's goodbye came ([`Session::takes_stragglers`]).
    pub fn open_late(&mut self, open: Open, now: Instant) -> Result<u32, OpenRefused> {
        if self.role != Streams::Opened || !self.takes_stragglers() {
            return Err(OpenRefused::NotOpen);
        }
        let cap = self.config.streams_max.min(self.peer.streams_max) as usize;
        if self.streams.len() >= cap || self.half_open >= self.config.half_open_max {
            return Err(OpenRefused::Busy);
        }
        let number = self.lanes.iter().position(Option::is_some).ok_or(OpenRefused::NotOpen)?;
        let id = self.slots.take();
        self.add(id, number as u8, now);
        if let Some(lane) = self.lanes[number].as_mut() {
            lane.say(id, &Frame::Open(Box::new(open)));
        }
        Ok(id)
    }

    pub(super) fn add(&mut self, id: u32, lane: u8, now: Instant) {
        let stream = Stream::new(lane, self.peer.window, self.config.flow.window_initial_bytes, self.moment(now));
        if self.streams.is_empty() {
            for lane in self.lanes.iter_mut().flatten() {
                lane.pings.hurry(now, &self.config.liveness);
            }
        }
        self.streams.insert(id, Box::new(stream));
        self.half_open += 1;
    }

    /// The lane that carries our direction of a stream.
    pub fn lane_of(&self, stream: u32) -> Option<u8> {
        self.streams.get(&stream).map(|s| s.send_lane)
    }

    /// Credit left for our direction, bytes; 0 for a stream that is over.
    pub fn sendable(&self, stream: u32) -> usize {
        let open = self.streams.get(&stream).filter(|state| !state.local_fin);
        open.map_or(0, |state| state.send_max - state.send_offset).min(DATA_BYTES_MAX as u64) as usize
    }

    /// Sends bytes, as many as credit allows; returns how many were taken.
    pub fn send(&mut self, stream: u32, bytes: &[u8]) -> usize {
        let count = self.sendable(stream).min(bytes.len());
        if count == 0 {
            return 0;
        }
        self.maybe_move(stream);
        let Some(state) = self.streams.get_mut(&stream) else { return 0 };
        let Some(lane) = self.lanes[usize::from(state.send_lane)].as_mut() else { return 0 };
        put_data(&mut lane.data, stream, &bytes[..count]);
        state.send_offset += count as u64;
        count
    }

    /// An elephant leaves the mice's lane, once.
    fn maybe_move(&mut self, stream: u32) {
        let Some(state) = self.streams.get(&stream) else { return };
        if state.send_offset < self.config.flow.bulk_after_bytes || self.lane_count() < 2 {
            return;
        }
        let mice = self.lanes.iter().position(Option::is_some).unwrap_or(0) as u8;
        if state.send_lane != mice {
            return;
        }
        let greeted = |n: &u8| self.lanes[usize::from(*n)].as_ref().is_some_and(|l| l.greeted);
        let bulk: Vec<u8> = (mice + 1..LANES_MAX).filter(greeted).collect();
        if let Some(to) = bulk.get(usize::from(self.next_bulk_lane) % bulk.len().max(1)).copied() {
            self.next_bulk_lane = self.next_bulk_lane.wrapping_add(1);
            self.move_stream(stream, to);
        }
    }

    /// Our direction of a stream goes on on another lane; false if it cannot.
    pub fn move_stream(&mut self, stream: u32, to: u8) -> bool {
        let usable = self.lanes.get(usize::from(to)).and_then(Option::as_ref).is_some_and(|l| l.greeted);
        let Some(state) = self.streams.get_mut(&stream) else { return false };
        if !usable || state.send_lane == to || state.local_fin {
            return false;
        }
        let frame = Frame::Move { lane: to, offset: state.send_offset };
        let from = std::mem::replace(&mut state.send_lane, to);
        if let Some(lane) = self.lanes[usize::from(from)].as_mut() {
            lane.say_in_order(stream, &frame);
        }
        true
    }

    /// Our direction is complete.
    pub fn finish(&mut self, stream: u32) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        if std::mem::replace(&mut state.local_fin, true) {
            return;
        }
        let done = state.done();
        if let Some(lane) = self.lanes[usize::from(state.send_lane)].as_mut() {
            lane.say_in_order(stream, &Frame::Fin);
        }
        if done {
            self.forget(stream);
        }
    }

    /// The stream is over, badly, in both directions.
    pub fn reset(&mut self, stream: u32, code: ResetCode) {
        let Some(lane) = self.streams.get(&stream).map(|s| s.send_lane) else { return };
        self.forget(stream);
        if let Some(lane) = self.lanes[usize::from(lane)].as_mut() {
            lane.say(stream, &Frame::Rst(code as u32));
        }
    }

    /// We want no more bytes of the peer's direction.
    pub fn stop_sending(&mut self, stream: u32, code: ResetCode) {
        let Some(lane) = self.streams.get(&stream).map(|s| s.send_lane) else { return };
        if let Some(lane) = self.lanes[usize::from(lane)].as_mut() {
            lane.say(stream, &Frame::StopSending(code as u32));
        }
    }

    /// Agent: the local service answered. Tells the server, by repeating the credit.
    pub fn connected(&mut self, stream: u32) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        if !std::mem::replace(&mut state.half_open, false) {
            return;
        }
        self.half_open -= 1;
        let frame = Frame::Window(state.recv_max);
        if let Some(lane) = self.lanes[usize::from(state.send_lane)].as_mut() {
            lane.say(stream, &frame);
        }
    }

    /// The local socket accepted `bytes` of a stream: their credit returns.
    pub fn consumed(&mut self, stream: u32, bytes: u64, now: Instant) {
        let round_trip = self.round_trip();
        let others = self.has_sparse(now) && self.sparse.is_some_and(|(sparse, _)| sparse != stream);
        let beside_sparse = others.then(|| self.round_trip_floor());
        let at = self.moment(now);
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let window_max = u64::from(self.config.flow.window_max_bytes);
        let limit = state.consume(bytes, at, round_trip, window_max, &self.budget, beside_sparse);
        let Some(limit) = limit else { return };
        if let Some(lane) = self.lanes[usize::from(state.send_lane)].as_mut() {
            lane.say(stream, &Frame::Window(limit));
        }
    }

    /// Sends datagrams; under pressure the oldest that wait are dropped. True: so much waits that it should be taken soon.
    pub fn datagrams<'a>(&mut self, stream: u32, datagrams: impl Iterator<Item = &'a [u8]>) -> bool {
        let Some(lane) = self.streams.get(&stream).map(|s| s.send_lane) else { return false };
        let Some(lane) = self.lanes[usize::from(lane)].as_mut() else { return false };
        lane.datagrams.push_all(stream, datagrams.filter(|bytes| bytes.len() <= DATAGRAM_BYTES_MAX))
    }

    /// Sends one datagram.
    pub fn datagram(&mut self, stream: u32, bytes: &[u8]) {
        self.datagrams(stream, std::iter::once(bytes));
    }

    pub(super) fn forget(&mut self, stream: u32) {
        let Some(mut state) = self.streams.remove(&stream) else { return };
        state.release(&self.budget);
        if state.half_open {
            self.half_open -= 1;
        }
        if self.role == Streams::Opened {
            self.slots.give(stream);
        }
    }

    pub(super) fn end(&mut self, state: State) {
        let all = self.stream_ids();
        for stream in all {
            self.forget(stream);
        }
        self.state = state;
    }
}
