//! Relays: visitors' and local services' sockets to and from their streams, credit minded, ends exact.

use std::cmp::Reverse;
use std::time::Instant;

use mio::Interest;
use mio::net::UdpSocket;

use super::relay::{self, Outcome, Phase, RelayTls};
use super::socket::{Socket, would_block};
use super::table::Upcall;
use super::{
    Core, LANE_BACKLOG_BYTES, LONE_READS_PER_TURN, PREAMBLE_READ_BYTES, QUANTUM_BESIDE_SPARSE_BYTES, QUANTUM_BYTES,
    RELAY, Read, Timer, token,
};
use crate::message::ResetCode;
use crate::session::Session;
use crate::tls::{OutBuffer, Tls};

impl Core {
    /// Gives a relay its connected socket. `until` bounds everything before bytes flow.
    pub(crate) fn attach(&mut self, relay: usize, mut socket: Socket, until: Option<Instant>) -> std::io::Result<()> {
        socket.register(self.poll.registry(), token(RELAY, relay))?;
        let state = &mut self.table.relays[relay];
        state.socket = Some(socket);
        (state.readable, state.writable) = (true, true);
        let serial = state.serial;
        if let Some(until) = until {
            self.relay_deadline(relay, serial, until);
        }
        self.table.flush_later(relay);
        self.table.wakeful.push(relay);
        Ok(())
    }

    /// Gives a flow its connected socket and the header that its datagrams get.
    pub(crate) fn attach_flow(&mut self, relay: usize, mut socket: UdpSocket, header: Vec<u8>) -> std::io::Result<()> {
        let target = socket.peer_addr()?;
        self.poll.registry().register(&mut socket, token(RELAY, relay), Interest::READABLE | Interest::WRITABLE)?;
        let state = &mut self.table.relays[relay];
        (state.phase, state.readable, state.writable) = (Phase::Open, true, true);
        if let Some(flow) = state.flow.as_mut() {
            flow.begin(socket, target, header);
        }
        self.table.flush_later(relay);
        self.table.wakeful.push(relay);
        Ok(())
    }

    /// Looks at a flow's silence then.
    pub(super) fn silence_deadline(&mut self, relay: usize, serial: u64, at: Instant) {
        self.timers.push(Reverse((at, Timer::Relay(relay, serial))));
    }

    /// Bounds all that comes before bytes or datagrams flow.
    pub(crate) fn relay_deadline(&mut self, relay: usize, serial: u64, until: Instant) {
        while self.early.waiting.front().is_some_and(|(_, relay, serial)| !self.is_early(*relay, *serial)) {
            self.early.waiting.pop_front();
        }
        self.early.waiting.push_back((until, relay, serial));
        self.look_at_early(until);
    }

    fn is_early(&self, relay: usize, serial: u64) -> bool {
        let early = |relay: &relay::Relay| relay.serial == serial && relay.phase != Phase::Open && !relay.dead;
        self.table.relays.get(relay).is_some_and(early)
    }

    fn look_at_early(&mut self, at: Instant) {
        if self.early.armed.is_none_or(|armed| at < armed) {
            self.early.armed = Some(at);
            self.timers.push(Reverse((at, Timer::Early)));
        }
    }

    /// Ends whoever is not past its preamble or handshake in time.
    pub(super) fn end_late(&mut self) {
        let now = self.table.now;
        // A timer that an earlier one overtook finds nothing of its own.
        if self.early.armed.is_none_or(|at| at > now) {
            return;
        }
        self.early.armed = None;
        let mut waiting = std::mem::take(&mut self.early.waiting);
        waiting.retain(|(until, relay, serial)| {
            let early = self.is_early(*relay, *serial);
            if early && *until <= now {
                self.table.end_relay(*relay, Err(ResetCode::Timeout));
            }
            early && *until > now
        });
        let next = waiting.iter().map(|(until, ..)| *until).min();
        self.early.waiting = waiting;
        if let Some(next) = next {
            self.look_at_early(next);
        }
    }

    /// Bounds a lane's next step.
    pub(crate) fn lane_deadline(&mut self, lane: usize, until: Instant) {
        if let Some(state) = self.lanes.get(lane) {
            self.timers.push(Reverse((until, Timer::Lane(lane, state.serial))));
        }
    }

    pub(crate) fn role_timer(&mut self, at: Instant, what: u64) {
        self.timers.push(Reverse((at, Timer::Role(what))));
    }

    /// Starts TLS on a relay.
    pub(crate) fn start_tls(&mut self, relay: usize, tls: Tls) {
        let state = &mut self.table.relays[relay];
        let mut tls = Box::new(RelayTls { tls, out: OutBuffer::default(), sealed: 0 });
        if tls.tls.input(&mut [], &mut tls.out, &mut |_| {}).is_ok() {
            state.tls = Some(tls);
            self.table.flush_later(relay);
        } else {
            self.table.end_relay(relay, Err(ResetCode::TlsFailed));
        }
    }

    /// A relay may have something to read: it queues for its lane, or its preamble is read at once.
    pub(crate) fn read_soon(&mut self, index: usize) {
        let Some(relay) = self.table.relays.get_mut(index).filter(|relay| !relay.dead) else { return };
        match relay.phase {
            Phase::Dialing | Phase::Sealing => self.table.tend_sealed(index),
            Phase::Preamble | Phase::Handshake => {
                if relay.readable && relay.socket.is_some() {
                    self.read_early(index);
                }
            }
            Phase::Open => {
                if relay.flow.is_some() && relay.readable {
                    self.read_flow(index);
                }
                self.queue_for_lane(index);
            }
        }
    }

    /// An open relay that has credit, and something to send or to read: it queues for its lane, which this gives.
    pub(super) fn queue_for_lane(&mut self, index: usize) -> Option<usize> {
        self.table.tend_sealed(index);
        self.end_if_complete(index);
        let relay = self.table.relays.get(index).filter(|relay| !relay.dead && relay.phase == Phase::Open)?;
        let something = match &relay.flow {
            Some(flow) => flow.has_unsent(),
            None => relay.readable || !relay.unsent().is_empty(),
        };
        if !something || relay.queued || relay.read_done {
            return None;
        }
        let (session, stream, bulk) = (relay.session, relay.stream, relay.bulk);
        let machine = self.table.session(session)?;
        let number = machine.lane_of(stream)?;
        if machine.sendable(stream) == 0 {
            return None;
        }
        let lane = self.table.sessions[session].lanes[usize::from(number)]?;
        let state = self.lanes.get_mut(lane)?;
        if bulk {
            state.bulk.push_back(index);
        } else {
            state.sparse.push_back(index);
        }
        self.table.relays[index].queued = true;
        if !std::mem::replace(&mut state.pumping, true) {
            self.pumping.push(lane);
        }
        Some(lane)
    }

    fn backlog(&mut self, lane: usize) -> usize {
        let Some(state) = self.lanes.get(lane) else { return usize::MAX };
        let (session, number, waiting) = (state.session, state.number, state.waiting());
        waiting + self.table.session(session).map_or(0, |session| session.queued(number))
    }

    pub(super) fn pump_is_runnable(&mut self) -> bool {
        let lanes = std::mem::take(&mut self.pumping);
        let runnable = lanes.iter().any(|lane| self.backlog(*lane) < LANE_BACKLOG_BYTES);
        self.pumping = lanes;
        runnable
    }

    /// Reads queued visitors into a lane's batch while it has room: sparse ones first, then the bulk ones in turn.
    pub(super) fn pump_lane(&mut self, index: usize) {
        let now = self.table.now;
        let Some(lane) = self.lanes.get_mut(index) else { return };
        lane.pumping = false;
        let asked = self.table.session(lane.session).is_some_and(|session| session.has_sparse(now));
        let mut turns = (lane.sparse.len() + lane.bulk.len()).max(LONE_READS_PER_TURN);
        while turns > 0 && self.backlog(index) < LANE_BACKLOG_BYTES {
            turns -= 1;
            let Some(lane) = self.lanes.get_mut(index).filter(|lane| !lane.dead) else { return };
            let beside = asked || lane.sparse.len() > 1;
            let Some(relay) = lane.sparse.pop_front().or_else(|| lane.bulk.pop_front()) else { break };
            let Some(state) = self.table.relays.get_mut(relay).filter(|relay| !relay.dead) else { continue };
            state.queued = false;
            let quantum = if beside { QUANTUM_BESIDE_SPARSE_BYTES } else { QUANTUM_BYTES };
            if matches!(self.read_relay(relay, quantum), Read::More) {
                self.queue_for_lane(relay);
            }
        }
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let more = !lane.sparse.is_empty() || !lane.bulk.is_empty();
        // A lane without room comes back when it was flushed.
        if more && !lane.pumping && lane.writable {
            lane.pumping = true;
            self.pumping.push(index);
        }
    }

    /// One read of an open relay into its stream, as far as its limit in bytes per second goes.
    fn read_relay(&mut self, index: usize, quantum: usize) -> Read {
        let limited = self.table.relays.get(index).is_some_and(|relay| relay.brake.is_some());
        if limited { self.read_braked(index, quantum) } else { self.read_freely(index, quantum) }
    }

    /// One read of an open relay into its stream.
    pub(super) fn read_freely(&mut self, index: usize, quantum: usize) -> Read {
        let Some(relay) = self.table.relays.get_mut(index).filter(|relay| !relay.dead) else { return Read::Stop };
        let (session, stream) = (relay.session, relay.stream);
        if !relay.unsent().is_empty() && !self.send_unsent(index) {
            return Read::Stop;
        }
        let credit = self.table.session(session).map_or(0, |session| session.sendable(stream));
        let relay = &mut self.table.relays[index];
        if relay.flow.is_some() {
            return self.send_framed(index, quantum.min(credit));
        }
        if credit == 0 || relay.read_done || !relay.readable {
            return Read::Stop;
        }
        if relay.mate.is_some() {
            return self.read_mate(index, quantum.min(credit));
        }
        if relay.sealed.as_ref().is_some_and(|sealed| sealed.waiting() > 0) {
            return Read::Stop;
        }
        if relay.tls.is_some() {
            return self.read_relay_tls(index, quantum.min(credit));
        }
        let room = quantum.min(credit);
        let Some(socket) = relay.socket.as_mut() else { return Read::Stop };
        match socket.read(&mut self.scratch[..room]) {
            Ok(0) => self.read_ended(index),
            Ok(count) => {
                relay.readable = relay.hung_up || count == room;
                relay.bytes_read += count as u64;
                relay.bulk = classify(relay.bulk, count);
                let more = relay.readable;
                self.table.touch(session);
                self.table.send_from(index, &self.scratch[..count]);
                if more { Read::More } else { Read::Stop }
            }
            Err(error) if would_block(&error) => {
                relay.readable = false;
                Read::Stop
            }
            Err(_) => {
                self.table.end_relay(index, Err(ResetCode::Reset));
                Read::Stop
            }
        }
    }

    fn read_ended(&mut self, index: usize) -> Read {
        let relay = &mut self.table.relays[index];
        // On a gateway's TLS hop the end without a word is a reset that the hop could not show. Local services close
        // without a word every day, as plain ones do.
        if relay.bringer.is_some() && relay.tls.is_some() && !relay.peer_closed() {
            self.table.end_relay(index, Err(ResetCode::Reset));
            return Read::Stop;
        }
        self.finish_reading(index);
        Read::Stop
    }

    pub(super) fn finish_reading(&mut self, index: usize) {
        let relay = &mut self.table.relays[index];
        relay.readable = false;
        if std::mem::replace(&mut relay.read_done, true) {
            return;
        }
        let session = relay.session;
        self.table.touch(session);
        self.table.finish_stream(index);
        self.end_if_complete(index);
    }

    /// Both directions are complete and written: the orderly end.
    pub(super) fn end_if_complete(&mut self, index: usize) {
        let complete = |relay: &relay::Relay| relay.read_done && relay.fin_done && relay.parked() == 0;
        if self.table.relays.get(index).is_some_and(complete) {
            self.table.end_relay(index, Ok(()));
        }
    }

    /// Sends bytes read ahead; false if credit ran out first.
    fn send_unsent(&mut self, index: usize) -> bool {
        let relay = &mut self.table.relays[index];
        let session = relay.session;
        let mut bytes = relay.backlog.as_mut().map(|backlog| std::mem::take(&mut backlog.unsent)).unwrap_or_default();
        self.table.touch(session);
        let mut at = 0;
        while at < bytes.len() {
            let sent = self.table.send_from(index, &bytes[at..]);
            if sent == 0 {
                break;
            }
            at += sent;
        }
        let relay = &mut self.table.relays[index];
        relay.bytes_read += at as u64;
        bytes.drain(..at);
        if bytes.is_empty() {
            if relay.peer_closed() {
                self.finish_reading(index);
            }
            self.table.reclaim(index);
            return true;
        }
        self.table.backlog(index).unsent = bytes;
        false
    }

    fn read_relay_tls(&mut self, index: usize, room: usize) -> Read {
        match self.read_records(index, room) {
            Ok(count) => {
                let relay = &mut self.table.relays[index];
                relay.bulk = classify(relay.bulk, count);
                let more = relay.readable;
                if (!relay.unsent().is_empty() || relay.peer_closed()) && !self.send_unsent(index) {
                    return Read::Stop;
                }
                if more { Read::More } else { Read::Stop }
            }
            Err(None) => self.read_ended(index),
            Err(Some(code)) => {
                self.table.end_relay(index, Err(code));
                Read::Stop
            }
        }
    }

    /// Reads records of a relay; plain bytes gather in `unsent`. `Err(None)` is the end of file.
    fn read_records(&mut self, index: usize, room: usize) -> Result<usize, Option<ResetCode>> {
        let Some(relay) = self.table.relays.get_mut(index) else { return Ok(0) };
        let (Some(socket), Some(state)) = (relay.socket.as_mut(), relay.tls.as_mut()) else { return Ok(0) };
        let start = state.tls.prefix(&mut self.scratch);
        let count = match socket.read(&mut self.scratch[start..start + room]) {
            Ok(0) => return Err(None),
            Ok(count) => count,
            Err(error) if would_block(&error) => {
                relay.readable = false;
                return Ok(0);
            }
            Err(_) => return Err(Some(ResetCode::Reset)),
        };
        relay.readable = relay.hung_up || count == room;
        let table = &mut self.table;
        let mut unsent = std::mem::take(&mut table.backlog(index).unsent);
        let Some(state) = table.relays[index].tls.as_mut() else { return Ok(0) };
        let result = state.tls.input(&mut self.scratch[..start + count], &mut state.out, &mut |plain| {
            unsent.extend_from_slice(plain);
        });
        let answers = !state.out.waiting().is_empty();
        table.backlog(index).unsent = unsent;
        table.reclaim(index);
        if answers {
            table.flush_later(index);
        }
        result.map(|()| count).map_err(|_| Some(ResetCode::TlsFailed))
    }

    /// Reads before bytes flow: a handshake, or the PROXY header.
    fn read_early(&mut self, index: usize) {
        loop {
            let Some(relay) = self.table.relays.get_mut(index) else { return };
            if relay.dead || !relay.readable || relay.unsent().len() > PREAMBLE_READ_BYTES {
                break;
            }
            let outcome = if relay.tls.is_some() {
                self.read_records(index, PREAMBLE_READ_BYTES)
            } else {
                self.read_plain_early(index)
            };
            match outcome {
                Ok(0) => break,
                Ok(_) => {}
                Err(None) => {
                    self.table.relays[index].ended_early = true;
                    break;
                }
                Err(Some(code)) => {
                    self.flush_relay(index);
                    return self.table.end_relay(index, Err(code));
                }
            }
        }
        let relay = &self.table.relays[index];
        match relay.phase {
            Phase::Handshake if relay.ended_early && !relay.tls.as_ref().is_some_and(|tls| tls.tls.established()) => {
                self.table.end_relay(index, Err(ResetCode::TlsFailed));
            }
            Phase::Preamble => self.table.upcalls.push_back(Upcall::Preamble { relay: index }),
            Phase::Handshake if relay.tls.as_ref().is_some_and(|tls| tls.tls.established()) => {
                self.table.relays[index].phase = Phase::Open;
                self.table.upcalls.push_back(Upcall::LocalReady { relay: index });
                self.table.flush_later(index);
                self.table.wakeful.push(index);
            }
            _ => {}
        }
    }

    fn read_plain_early(&mut self, index: usize) -> Result<usize, Option<ResetCode>> {
        let relay = &mut self.table.relays[index];
        let Some(socket) = relay.socket.as_mut() else { return Ok(0) };
        match socket.read(&mut self.scratch[..PREAMBLE_READ_BYTES]) {
            Ok(0) => Err(None),
            Ok(count) => {
                relay.readable = relay.hung_up || count == PREAMBLE_READ_BYTES;
                self.table.backlog(index).unsent.extend_from_slice(&self.scratch[..count]);
                Ok(count)
            }
            Err(error) if would_block(&error) => {
                relay.readable = false;
                Ok(0)
            }
            Err(_) => Err(Some(ResetCode::Reset)),
        }
    }

    /// Writes what waits for a relay's socket; credit returns for what it took.
    pub(super) fn flush_relay(&mut self, index: usize) {
        let Some(relay) = self.table.relays.get_mut(index).filter(|relay| !relay.dead) else { return };
        if relay.flow.is_some() {
            return self.flush_flow(index);
        }
        if relay.mate.is_some() {
            return self.feed_mate(index);
        }
        if relay.is_sealing() {
            return;
        }
        let written = if relay.brake.is_some() { self.write_braked(index) } else { write_relay(relay, usize::MAX) };
        let taken = match written {
            Ok(taken) => taken,
            Err(code) => return self.table.end_relay(index, Err(code)),
        };
        let relay = &mut self.table.relays[index];
        let (session, stream) = (relay.session, relay.stream);
        let own = relay.backlog.as_mut().map_or(0, |backlog| {
            let own = taken.min(backlog.uncredited);
            backlog.uncredited -= own;
            own
        });
        relay.bytes_written += taken - own;
        let empty = !relay.has_pending();
        if taken > 0 {
            self.table.unpark(index, taken - own);
            let now = self.table.now;
            if let Some(session) = self.table.session(session) {
                session.consumed(stream, taken - own, now);
            }
            self.table.touch(session);
            self.table.reclaim(index);
        }
        let relay = &self.table.relays[index];
        if empty && relay.fin_wanted && !relay.fin_done && relay.phase == Phase::Open {
            self.finish_writing(index);
        }
        self.end_if_complete(index);
    }

    /// The session's direction is complete and written: FIN to the socket, or close_notify inside TLS.
    fn finish_writing(&mut self, index: usize) {
        let relay = &mut self.table.relays[index];
        relay.fin_done = true;
        let failed = match (&mut relay.tls, &mut relay.socket) {
            (Some(state), _) => state.tls.close(&mut state.out).is_err() || write_relay(relay, 0).is_err(),
            // Both ends are done: closing, which follows, says so too.
            (None, Some(_)) if relay.read_done => false,
            (None, Some(socket)) => socket.shutdown_write().is_err(),
            (None, None) => true,
        };
        if failed {
            self.table.end_relay(index, Err(ResetCode::Reset));
        }
    }

    /// All relays end; for the closing of the driver.
    pub(crate) fn reset_all(&mut self) {
        let relays: Vec<usize> = self.table.relays.iter().map(|(index, _)| index).collect();
        for relay in relays {
            self.table.end_relay(relay, Err(ResetCode::GoingAway) as Outcome);
        }
    }

    /// A fresh session on the server's or the agent's side.
    pub(crate) fn add_session(&mut self, session: Session, owner: usize, address: String) -> usize {
        self.table.add_session(session, owner, address)
    }
}

/// Plain bytes taken by the socket, at most `most` of them; whole records only when sealed.
pub(super) fn write_relay(relay: &mut relay::Relay, most: usize) -> Result<u64, ResetCode> {
    if relay.tls.is_some() {
        return write_sealed(relay, most);
    }
    let mut taken = 0;
    let (Some(socket), Some(backlog)) = (relay.socket.as_mut(), relay.backlog.as_mut()) else { return Ok(0) };
    let mut left = most;
    while relay.writable && left > 0 && !backlog.waiting().is_empty() {
        let waiting = backlog.waiting();
        match socket.write(&waiting[..waiting.len().min(left)]) {
            Ok(count) => {
                backlog.took(count);
                taken += count as u64;
                left -= count;
            }
            Err(error) if would_block(&error) => relay.writable = false,
            Err(_) => return Err(ResetCode::Reset),
        }
    }
    Ok(taken)
}

fn write_sealed(relay: &mut relay::Relay, most: usize) -> Result<u64, ResetCode> {
    let (mut taken, mut left) = (0, most);
    let (Some(socket), Some(state)) = (relay.socket.as_mut(), relay.tls.as_mut()) else { return Ok(0) };
    loop {
        if state.out.waiting().is_empty() {
            taken += std::mem::take(&mut state.sealed);
            let waiting = relay.backlog.as_ref().map_or(&[][..], |backlog| backlog.waiting());
            let chunk = waiting.len().min(QUANTUM_BYTES).min(left);
            if chunk == 0 || !state.tls.established() {
                state.out.release();
                return Ok(taken);
            }
            state.tls.seal(&waiting[..chunk], &mut state.out).map_err(|_| ResetCode::TlsFailed)?;
            if let Some(backlog) = relay.backlog.as_mut() {
                backlog.took(chunk);
            }
            state.sealed = chunk as u64;
            left -= chunk;
        }
        if !relay.writable {
            return Ok(taken);
        }
        match socket.write(state.out.waiting()) {
            Ok(count) => state.out.written(count),
            Err(error) if would_block(&error) => relay.writable = false,
            Err(_) => return Err(ResetCode::Reset),
        }
    }
}

/// Bulk is who fills half its quantum; it takes two small reads to lose the name.
pub(super) fn classify(bulk: bool, count: usize) -> bool {
    if bulk { count >= QUANTUM_BYTES / 16 } else { count >= QUANTUM_BYTES / 2 }
}
