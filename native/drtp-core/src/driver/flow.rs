//! A flow: one UDP visitor's datagrams at this end. Its relay keeps the books; here is where the datagrams go and wait.
//!
//! A sealed flow's are framed inside a stream of bytes. What waits for that stream's credit loses its oldest, as what waits
//! for a lane does; what came by it waits in the stream until the socket can take it, so credit holds the sender back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;

use super::batch::{Batches, Reading, refuses_runs, split};
use super::relay::{Backlog, Phase};
use super::relays::classify;
use super::socket::would_block;
use super::table::Table;
use super::waiting::{Front, Waiting};
use super::{Core, Read};
use crate::framed;
use crate::message::{Open, ResetCode};

/// What one flow may have waiting for its socket. In bytes it is several reads of a lane, each of which is sent on before
/// the next; small datagrams of one read may be a thousand.
const DATAGRAMS_MAX: usize = 2_048;
const BYTES_MAX: usize = 256 * 1024;
/// From here on they are sent before the turn's end.
const DATAGRAMS_SOON: usize = 512;
const BYTES_SOON: usize = 64 * 1024;
/// Calls that read one socket in one turn, so that others get theirs; each reads many datagrams.
pub(crate) const READS_PER_TURN: usize = 8;
/// The side of the visitor decides how long a flow may be silent, up to this; the others wait a little longer.
const IDLE_MAX: Duration = Duration::from_secs(600);
const GRACE: Duration = Duration::from_secs(5);
/// While its session drains a flow may be silent for so long.
const DRAIN_IDLE: Duration = Duration::from_secs(1);
/// Answers before the visitor has proved that it hears them: so many times what it sent, and so much in any case.
const UNPROVEN_FACTOR: u64 = 10;
const UNPROVEN_BYTES: u64 = 4 * 1024;

/// Who takes what comes from the session.
pub(crate) enum Taker {
    /// Nobody yet: the target's name is being resolved.
    Nobody,
    /// Agent: the local service, by a socket of the flow's own.
    Local(UdpSocket, SocketAddr),
    /// Gateway: the visitor, by its listener's socket.
    Visitor(Arc<UdpSocket>, SocketAddr),
    /// POP: the relay of the other session.
    Relay(usize),
}

pub(crate) struct Flow {
    pub(crate) taker: Taker,
    pub(crate) idle: Duration,
    pub(crate) last: Instant,
    /// Socket or other session to this session.
    pub(crate) datagrams_read: u64,
    /// This session to the socket or the other session.
    pub(crate) datagrams_written: u64,
    /// Dropped at this end: no room, too long for the path, or unproven.
    pub(crate) dropped: u64,
    /// In front of each datagram to the local service.
    pub(crate) header: Vec<u8>,
    waiting: Waiting,
    /// Sealed: for the stream's credit.
    unsent: Waiting,
    /// Its path takes no runs.
    one_by_one: bool,
    guard: Guard,
}

/// Keeps a forged source address from being worth anything: until the visitor has answered an answer, it gets little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// No guard: the visitor is judged elsewhere, or has proved that it hears us.
    Proven,
    /// Bytes that came and went so far.
    Unproven { came: u64, went: u64 },
}

impl Guard {
    /// The beginning, at a gateway.
    pub(crate) const fn new() -> Self {
        Guard::Unproven { came: 0, went: 0 }
    }

    fn came(&mut self, bytes: u64) {
        match self {
            // It spoke again after it was answered.
            Guard::Unproven { went, .. } if *went > 0 => *self = Guard::Proven,
            Guard::Unproven { came, .. } => *came += bytes,
            Guard::Proven => {}
        }
    }

    /// Whether an answer may go.
    fn may_go(&mut self, bytes: u64) -> bool {
        let Guard::Unproven { came, went } = self else { return true };
        if *went + bytes > UNPROVEN_BYTES.max(*came * UNPROVEN_FACTOR) {
            return false;
        }
        // An empty answer is an answer too.
        *went += bytes.max(1);
        true
    }
}

impl Flow {
    pub(crate) fn new(taker: Taker, idle: Duration, guard: Guard, now: Instant) -> Box<Self> {
        Box::new(Self {
            taker,
            idle,
            last: now,
            datagrams_read: 0,
            datagrams_written: 0,
            dropped: 0,
            header: Vec::new(),
            waiting: Waiting::default(),
            unsent: Waiting::default(),
            one_by_one: false,
            guard,
        })
    }

    /// At the far end of its OPEN; its target is not known yet.
    pub(crate) fn opened_by(open: &Open, now: Instant) -> Box<Self> {
        let idle = Duration::from_millis(u64::from(open.deadline_ms)).min(IDLE_MAX) + GRACE;
        Self::new(Taker::Nobody, idle, Guard::Proven, now)
    }

    /// Keeps a datagram until the turn's end, or until the socket takes it. True: it should be sent before the turn's end.
    fn keep(&mut self, bytes: &[u8]) -> bool {
        self.waiting.push(&self.header, bytes);
        self.dropped += shorten(&mut self.waiting, BYTES_MAX);
        is_filling(&self.waiting)
    }

    /// The same for a sealed flow's stream. `bytes_max`: fewer where all flows together have much waiting.
    fn keep_unsent<'a>(&mut self, datagrams: impl Iterator<Item = &'a [u8]>, bytes_max: usize) -> bool {
        for datagram in datagrams {
            self.unsent.push(&[], datagram);
            self.dropped += shorten(&mut self.unsent, bytes_max.min(BYTES_MAX));
        }
        is_filling(&self.unsent)
    }

    /// Datagrams wait for the stream's credit.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    pub(crate) fn unsent_bytes(&self) -> usize {
        self.unsent.bytes()
    }

    /// It is over: what waits for the stream goes nowhere. Gives its bytes.
    pub(crate) fn forget_unsent(&mut self) -> usize {
        self.dropped += self.unsent.count() as u64;
        std::mem::take(&mut self.unsent).bytes()
    }

    /// The oldest that wait for the stream go into `frames`: one, and others as far as there is `room`.
    fn frame(&mut self, frames: &mut Vec<u8>, room: usize) {
        let mut count = 0;
        for datagram in self.unsent.each() {
            if count > 0 && frames.len() + framed::HEAD_BYTES + datagram.len() > room {
                break;
            }
            framed::put(frames, datagram);
            count += 1;
        }
        self.unsent.forget(count);
    }

    /// Takes whole datagrams out of `backlog`, as many as the socket should have at once; gives the bytes that they took.
    /// True: there may be more.
    fn unpack(&mut self, backlog: &mut Backlog) -> Result<(usize, bool), framed::TooLong> {
        let mut taken = 0;
        while !is_filling(&self.waiting) {
            let Some(datagram) = framed::first(backlog.waiting())? else { return Ok((taken, false)) };
            let whole = framed::HEAD_BYTES + datagram.len();
            self.waiting.push(&self.header, datagram);
            backlog.took(whole);
            taken += whole;
        }
        Ok((taken, true))
    }

    /// What came before the target was known gets its header now.
    pub(crate) fn begin(&mut self, socket: UdpSocket, target: SocketAddr, header: Vec<u8>) {
        let early = std::mem::take(&mut self.waiting);
        early.each().for_each(|datagram| self.waiting.push(&header, datagram));
        self.header = header;
        self.taker = Taker::Local(socket, target);
    }

    /// The other half is there. What came before it, for it.
    pub(crate) fn meet(&mut self, other: usize) -> Waiting {
        self.taker = Taker::Relay(other);
        self.datagrams_written += self.waiting.count() as u64;
        std::mem::take(&mut self.waiting)
    }

    /// Datagrams wait for the socket.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Bytes that wait.
    pub(crate) fn parked(&self) -> usize {
        self.waiting.bytes()
    }

    /// Sends what waits, as far as the socket takes it; the payload bytes that went. The error is the service's refusal.
    fn flush(&mut self, batches: &Batches) -> (u64, Option<io::Error>) {
        match &self.taker {
            Taker::Nobody | Taker::Relay(_) => (0, None),
            Taker::Local(..) | Taker::Visitor(..) => {
                self.hand_over(|each| batches.run_max(each), |taker, front| taker.send(batches, front))
            }
        }
    }

    /// `run_max`: datagrams of a length that one call takes. Whatever `send` does not take stays, or is counted as dropped.
    fn hand_over(
        &mut self,
        run_max: impl Fn(usize) -> usize,
        mut send: impl FnMut(&Taker, &Front<'_>) -> io::Result<()>,
    ) -> (u64, Option<io::Error>) {
        let (mut went, mut refused, mut retried) = (0, None, false);
        loop {
            let one_by_one = self.one_by_one;
            let Some(front) = self.waiting.front(|each| if one_by_one { 1 } else { run_max(each) }) else { break };
            let count = front.count;
            match send(&self.taker, &front) {
                Ok(()) => {
                    went += (front.bytes.len() - count * self.header.len()) as u64;
                    self.datagrams_written += count as u64;
                }
                Err(error) if would_block(&error) => break,
                // The error belongs to an earlier datagram (ICMP); these were not sent, and go now.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && !retried => {
                    (refused, retried) = (Some(error), true);
                    continue;
                }
                Err(error) if count > 1 && refuses_runs(&error) => {
                    self.one_by_one = true;
                    continue;
                }
                // Too long for the path, no memory, or no way there: lost, as UDP loses.
                Err(_) => self.dropped += count as u64,
            }
            self.waiting.forget(count);
            retried = false;
        }
        (went, refused)
    }
}

/// Drops the oldest beyond what may wait; how many.
fn shorten(waiting: &mut Waiting, bytes_max: usize) -> u64 {
    let mut dropped = 0;
    while waiting.count() > DATAGRAMS_MAX || waiting.bytes() > bytes_max {
        waiting.forget(1);
        dropped += 1;
    }
    dropped
}

/// It should be sent before the turn's end.
fn is_filling(waiting: &Waiting) -> bool {
    waiting.count() >= DATAGRAMS_SOON || waiting.bytes() >= BYTES_SOON
}

impl Taker {
    fn send(&self, batches: &Batches, front: &Front<'_>) -> io::Result<()> {
        match self {
            Taker::Local(socket, _) if front.count == 1 => socket.send(front.bytes).map(drop),
            Taker::Local(socket, to) => batches.send(socket, *to, front.bytes, front.each),
            Taker::Visitor(socket, to) => batches.send(socket, *to, front.bytes, front.each),
            Taker::Nobody | Taker::Relay(_) => Ok(()),
        }
    }
}

impl Table {
    /// A datagram came from a relay's session.
    pub(super) fn take_datagram(&mut self, relay: usize, bytes: &[u8]) {
        let now = self.now;
        let Some(state) = self.relays.get_mut(relay).filter(|relay| !relay.dead) else { return };
        // A stream of bytes takes none, and a sealed flow none that is not inside the seal.
        let Some(flow) = state.flow.as_mut().filter(|_| state.sealed.is_none()) else { return };
        flow.last = now;
        if let Taker::Relay(other) = flow.taker {
            if state.brake.as_ref().is_some_and(|brake| !self.brakes.passes(brake, bytes.len(), now)) {
                flow.dropped += 1;
                return;
            }
            flow.datagrams_written += 1;
            state.bytes_written += bytes.len() as u64;
            return self.pass_on(other, bytes);
        }
        if !flow.guard.may_go(bytes.len() as u64) {
            flow.dropped += 1;
            return;
        }
        if flow.waiting.is_bare() {
            flow.waiting.furnish(self.spare_queues.pop().unwrap_or_default());
        }
        if flow.keep(bytes) {
            self.full_flows.push(relay);
        }
        self.flush_later(relay);
    }

    /// A datagram goes to a relay's session.
    pub(crate) fn pass_on(&mut self, relay: usize, bytes: &[u8]) {
        self.pass_on_each(relay, bytes, bytes.len());
    }

    /// Datagrams of `each` bytes (the last may be shorter) go to a relay's session.
    pub(crate) fn pass_on_each(&mut self, relay: usize, bytes: &[u8], each: usize) {
        let now = self.now;
        let Some(state) = self.relays.get_mut(relay).filter(|relay| !relay.dead) else { return };
        let Some(flow) = state.flow.as_mut() else { return };
        flow.last = now;
        for datagram in split(bytes, each) {
            flow.guard.came(datagram.len() as u64);
            flow.datagrams_read += 1;
        }
        state.bytes_read += bytes.len() as u64;
        if state.sealed.is_some() {
            return self.keep_unsent(relay, split(bytes, each));
        }
        let (index, stream) = (state.session, state.stream);
        if let Some(session) = self.session(index) {
            let soon = session.datagrams(stream, split(bytes, each));
            if soon {
                self.full_sessions.push(index);
            }
        }
        self.touch(index);
    }

    /// Datagrams wait for the credit of a sealed flow's stream. Many flows that nobody reads may not take the machine.
    fn keep_unsent<'a>(&mut self, relay: usize, datagrams: impl Iterator<Item = &'a [u8]>) {
        let room = self.parked_max.saturating_sub(self.unsent) as usize;
        let Some(flow) = self.relays.get_mut(relay).and_then(|relay| relay.flow.as_mut()) else { return };
        if flow.unsent.is_bare() {
            flow.unsent.furnish(self.spare_queues.pop().unwrap_or_default());
        }
        let before = flow.unsent_bytes();
        let soon = flow.keep_unsent(datagrams, before + room);
        self.unsent = self.unsent + flow.unsent_bytes() as u64 - before as u64;
        if soon {
            self.full_senders.push(relay);
        }
    }

    /// When a flow has been silent for its time; `None` for what is no flow.
    pub(super) fn silent_at(&self, relay: usize, serial: u64) -> Option<Instant> {
        let state = self.relays.get(relay).filter(|relay| relay.serial == serial && !relay.dead)?;
        state.flow.as_ref().map(|flow| flow.last + flow.idle)
    }
}

impl Core {
    /// Begins to watch a flow's silence.
    pub(crate) fn watch_silence(&mut self, relay: usize) {
        let Some(serial) = self.table.relays.get(relay).map(|relay| relay.serial) else { return };
        if let Some(at) = self.table.silent_at(relay, serial) {
            self.silence_deadline(relay, serial, at);
        }
    }

    /// A session drains, or (`None`) all do. A flow has no end of its own, so a short silence is one now.
    pub(crate) fn hurry_flows(&mut self, session: Option<usize>) {
        let mut hurried = Vec::new();
        for (index, relay) in self.table.relays.iter_mut() {
            let concerned = session.is_none_or(|session| relay.session == session);
            if let Some(flow) = relay.flow.as_mut().filter(|_| concerned && !relay.dead) {
                flow.idle = flow.idle.min(DRAIN_IDLE);
                hurried.push(index);
            }
        }
        for relay in hurried {
            self.watch_silence(relay);
        }
    }

    /// Queues that fill are emptied before the turn's end, so that only who outruns the way ahead loses anything.
    pub(crate) fn relieve(&mut self) {
        for session in std::mem::take(&mut self.table.full_sessions) {
            let lanes = self.table.sessions.get(session).map(|sess| sess.lanes).unwrap_or_default();
            lanes.into_iter().flatten().for_each(|lane| self.flush_lane(lane));
        }
        for relay in std::mem::take(&mut self.table.full_flows) {
            self.flush_flow(relay);
        }
        for relay in std::mem::take(&mut self.table.full_senders) {
            if let Some(lane) = self.queue_for_lane(relay) {
                self.pump_lane(lane);
                self.flush_lane(lane);
            }
        }
    }

    /// Sends what a flow has waiting. Nothing goes out before a sealed one's other end is proven.
    pub(super) fn flush_flow(&mut self, index: usize) {
        loop {
            match self.unpack(index) {
                Ok(more) => {
                    self.flush_waiting(index);
                    let relay = self.table.relays.get(index).filter(|relay| !relay.dead);
                    if !more || relay.and_then(|relay| relay.flow.as_ref()).is_none_or(|flow| flow.has_waiting()) {
                        return;
                    }
                }
                Err(code) => return self.table.end_relay(index, Err(code)),
            }
        }
    }

    /// Datagrams that came sealed go to the queue for the socket, and their credit returns. True: there are more.
    fn unpack(&mut self, index: usize) -> Result<bool, ResetCode> {
        let now = self.table.now;
        let Some(relay) = self.table.relays.get_mut(index).filter(|relay| relay.sealed.is_some()) else {
            return Ok(false);
        };
        if relay.dead || relay.phase != Phase::Open {
            return Ok(false);
        }
        let (session, stream) = (relay.session, relay.stream);
        let (Some(flow), Some(backlog)) = (relay.flow.as_mut(), relay.backlog.as_mut()) else { return Ok(false) };
        if flow.waiting.is_bare() {
            flow.waiting.furnish(self.table.spare_queues.pop().unwrap_or_default());
        }
        let (taken, more) = flow.unpack(backlog).map_err(|_| ResetCode::Misframed)?;
        if taken > 0 {
            flow.last = now;
            self.table.unpark(index, taken as u64);
            self.table.reclaim(index);
            if let Some(machine) = self.table.session(session) {
                machine.consumed(stream, taken as u64, now);
            }
            self.table.touch(session);
        }
        Ok(more)
    }

    /// Datagrams that wait for a sealed flow's stream go into it, as far as its credit goes.
    pub(super) fn send_framed(&mut self, index: usize, room: usize) -> Read {
        let Some(relay) = self.table.relays.get_mut(index).filter(|relay| !relay.dead) else { return Read::Stop };
        let (Some(flow), Some(sealed)) = (relay.flow.as_mut(), relay.sealed.as_ref()) else { return Read::Stop };
        if room == 0 || sealed.waiting() > 0 {
            return Read::Stop;
        }
        let mut frames = std::mem::take(&mut self.frames);
        frames.clear();
        let before = flow.unsent_bytes();
        flow.frame(&mut frames, room);
        self.table.unsent -= (before - flow.unsent_bytes()) as u64;
        relay.bulk = classify(relay.bulk, frames.len());
        let (session, more) = (relay.session, flow.has_unsent());
        let emptied = (!more).then(|| flow.unsent.strip());
        if let Some(buffer) = emptied {
            self.table.reclaim_queue(buffer);
        }
        self.table.touch(session);
        self.table.send_from(index, &frames);
        self.frames = frames;
        if more { Read::More } else { Read::Stop }
    }

    fn flush_waiting(&mut self, index: usize) {
        let Some(relay) = self.table.relays.get_mut(index).filter(|relay| !relay.dead && !relay.is_sealing()) else {
            return;
        };
        let Some(flow) = relay.flow.as_mut() else { return };
        let (went, refused) = flow.flush(&self.batches);
        relay.bytes_written += went;
        let emptied = flow.waiting.is_empty().then(|| flow.waiting.strip());
        let waits_for_listener = flow.has_waiting() && matches!(flow.taker, Taker::Visitor(..));
        if waits_for_listener {
            self.table.blocked.push(index);
        }
        if let Some(buffer) = emptied {
            self.table.reclaim_queue(buffer);
        }
        if refused.is_some() {
            self.table.refused.push(index);
        }
    }

    /// Reads what the local service answered.
    pub(super) fn read_flow(&mut self, index: usize) {
        let mut reading = std::mem::take(&mut self.datagrams);
        for _ in 0..READS_PER_TURN {
            if !self.read_flow_once(index, &mut reading) {
                self.datagrams = reading;
                return;
            }
        }
        self.datagrams = reading;
        // There may be more: the next turn goes on.
        self.table.wakeful_next.push(index);
    }

    /// One call; false when there is no more.
    fn read_flow_once(&mut self, index: usize, reading: &mut Reading) -> bool {
        let Some(relay) = self.table.relays.get_mut(index).filter(|relay| !relay.dead) else { return false };
        let Some(Taker::Local(socket, _)) = relay.flow.as_ref().map(|flow| &flow.taker) else { return false };
        match self.batches.receive(socket, reading) {
            Ok(()) => {
                // Behind the last datagram there may be an error, which only another call tells.
                relay.readable = relay.hung_up || !reading.is_drained();
                let more = relay.readable;
                for number in 0..reading.count() {
                    let (_, bytes, each) = reading.message(number);
                    self.table.pass_on_each(index, bytes, each);
                    self.relieve();
                }
                more
            }
            Err(error) if would_block(&error) => {
                (relay.readable, relay.hung_up) = (false, false);
                false
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.table.refused.push(index);
                true
            }
            Err(_) => {
                self.table.end_relay(index, Err(ResetCode::Reset));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_unproven_visitor_gets_little_and_a_proven_one_everything() {
        let mut guard = Guard::new();
        guard.came(40);
        assert!(guard.may_go(4_096));
        assert!(!guard.may_go(1));
        guard.came(40);
        assert!(guard.may_go(1_000_000));
        let mut large = Guard::new();
        large.came(6_000);
        assert!(large.may_go(60_000));
        assert!(!large.may_go(1));
    }

    #[test]
    fn asking_often_before_any_answer_proves_nothing() {
        let mut guard = Guard::new();
        (0..10).for_each(|_| guard.came(1));
        assert!(!guard.may_go(5_000));
    }

    fn flow_of(datagrams: &[&[u8]]) -> Flow {
        let mut flow = *Flow::new(Taker::Nobody, Duration::from_secs(60), Guard::Proven, Instant::now());
        for datagram in datagrams {
            flow.keep(datagram);
        }
        flow
    }

    /// The system's own words; on loopback it never says them.
    fn says(errno: i32) -> io::Error {
        io::Error::from_raw_os_error(errno)
    }
    const EAGAIN: i32 = 11;
    const EMSGSIZE: i32 = 90;
    const ENOBUFS: i32 = 105;
    const ECONNREFUSED: i32 = 111;

    #[test]
    fn a_full_socket_leaves_the_rest_waiting_in_order() {
        let mut flow = flow_of(&[b"a1", b"a2", b"b10", b"b20", b"b30", b"c"]);
        let mut wire = Vec::new();
        let mut with_room = |flow: &mut Flow, mut room: usize| {
            let send = |_: &Taker, front: &Front<'_>| {
                room = room.checked_sub(1).ok_or_else(|| says(EAGAIN))?;
                wire.extend(split(front.bytes, front.each).map(<[u8]>::to_vec));
                Ok(())
            };
            flow.hand_over(|_| 2, send)
        };
        let (went, refused) = with_room(&mut flow, 2);
        assert_eq!((went, refused.is_some(), flow.waiting.count(), flow.dropped), (10, false, 2, 0));
        let (went, _) = with_room(&mut flow, 9);
        assert_eq!((went, flow.waiting.count(), flow.dropped, flow.datagrams_written), (4, 0, 0, 6));
        assert_eq!(wire.concat(), b"a1a2b10b20b30c");
    }

    #[test]
    fn what_the_system_has_no_memory_for_is_counted() {
        let mut flow = flow_of(&[b"aa", b"bb", b"cc", b"dddd"]);
        let mut calls = 0;
        let (went, _) = flow.hand_over(
            |_| 64,
            |_, _| {
                calls += 1;
                if calls == 1 { Err(says(ENOBUFS)) } else { Ok(()) }
            },
        );
        assert_eq!((went, flow.dropped, flow.datagrams_written, flow.waiting.count()), (4, 3, 1, 0));
    }

    #[test]
    fn a_path_that_takes_no_runs_gets_the_same_datagrams_one_by_one() {
        let mut flow = flow_of(&[b"aa", b"bb", b"cc"]);
        let mut wire = Vec::new();
        let send = |_: &Taker, front: &Front<'_>| {
            if front.count > 1 {
                return Err(says(EMSGSIZE));
            }
            wire.push(front.bytes.to_vec());
            Ok(())
        };
        let (went, _) = flow.hand_over(|_| 64, send);
        assert_eq!((went, flow.dropped, wire.concat()), (6, 0, b"aabbcc".to_vec()));
        assert!(flow.one_by_one);
    }

    #[test]
    fn an_earlier_datagrams_refusal_costs_no_later_one() {
        let mut flow = flow_of(&[b"aa", b"b", b"cc", b"d"]);
        let mut calls = 0;
        let (went, refused) = flow.hand_over(
            |_| 1,
            |_, _| {
                calls += 1;
                if calls % 2 == 1 { Err(says(ECONNREFUSED)) } else { Ok(()) }
            },
        );
        assert_eq!((went, refused.is_some(), flow.dropped), (6, true, 0));
    }

    #[test]
    fn a_datagram_that_is_too_long_harms_none_beside_it() {
        let service = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        service.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let target = service.local_addr().unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(target).unwrap();
        let mut flow = flow_of(&[b"one", b"two", &vec![7; 65_520], b"three"]);
        flow.taker = Taker::Local(UdpSocket::from_std(socket), target);
        let (went, refused) = flow.flush(&Batches::probe());
        assert_eq!((went, refused.is_some(), flow.dropped, flow.datagrams_written), (11, false, 1, 3));
        for expected in [b"one".as_slice(), b"two", b"three"] {
            let mut buffer = [0; 64];
            let count = service.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], expected);
        }
    }

    proptest! {
        #[test]
        fn a_forged_source_is_never_worth_more_than_the_factor(
            came in proptest::collection::vec(0_u64..70_000, 1..20),
            answers in proptest::collection::vec(0_u64..70_000, 0..50),
        ) {
            let mut guard = Guard::new();
            came.iter().for_each(|bytes| guard.came(*bytes));
            let went: u64 = answers.iter().filter(|bytes| guard.may_go(**bytes)).sum();
            prop_assert!(went <= UNPROVEN_BYTES.max(UNPROVEN_FACTOR * came.iter().sum::<u64>()));
        }

        #[test]
        fn what_waits_for_a_socket_is_bounded_and_the_newest_stay(sizes in proptest::collection::vec(0_usize..65_508, 1..300)) {
            let mut flow = Flow::new(Taker::Nobody, Duration::from_secs(60), Guard::Proven, Instant::now());
            for (at, size) in sizes.iter().enumerate() {
                flow.keep(&vec![at as u8; *size]);
                prop_assert!(flow.waiting.count() <= DATAGRAMS_MAX && flow.waiting.bytes() <= BYTES_MAX);
            }
            let left: Vec<usize> = flow.waiting.each().map(<[u8]>::len).collect();
            prop_assert_eq!(left.as_slice(), &sizes[sizes.len() - left.len()..]);
            prop_assert_eq!(left.len() as u64 + flow.dropped, sizes.len() as u64);
        }
    }
}
