//! Lanes: records in to their sessions, batches out sealed once, and last words before an end.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::socket::{Socket, would_block};
use super::table::Upcall;
use super::{
    CLOSING, Carrier, Core, LANE, LANE_BACKLOG_BYTES, LANE_BACKLOG_MAX, LANE_READ_BYTES, LANE_READS_PER_TURN, LaneConn,
    OverTcp, QUANTUM_BYTES, Timer, token,
};
use crate::identity::{IdentityError, PeerIdentity};
use crate::report::LaneStats;
use crate::session::State;
use crate::tls::{ALPN, OutBuffer, Tls};

impl LaneConn {
    pub(super) fn new(carrier: Carrier, session: usize, number: u8, address: SocketAddr, serial: u64) -> Self {
        Self {
            carrier,
            session,
            number,
            trusted: false,
            peer: None,
            address,
            serial,
            readable: true,
            writable: true,
            hung_up: false,
            established: false,
            reading: true,
            pumping: false,
            closing: false,
            said_bye: false,
            dead: false,
            pre_auth: false,
            web: None,
            sparse: VecDeque::new(),
            bulk: VecDeque::new(),
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Bytes that its connection has not taken.
    pub(super) fn waiting(&self) -> usize {
        match &self.carrier {
            Carrier::Tls(tcp) => tcp.out.waiting().len(),
            Carrier::Quic(quic) => quic.braid.waiting(),
        }
    }

    /// Who the peer is, from its leaf alone.
    pub(crate) fn shown(&self) -> Result<PeerIdentity, IdentityError> {
        match &self.carrier {
            Carrier::Tls(tcp) => tcp.tls.peer(),
            Carrier::Quic(quic) => quic.braid.peer(),
        }
    }

    /// The peer said that it speaks as a lane of this kind does.
    pub(crate) fn speaks_drtp(&self) -> bool {
        match &self.carrier {
            Carrier::Tls(tcp) => tcp.tls.alpn() == Some(ALPN),
            // QUIC ends the handshake without it, and `shown` asks again.
            Carrier::Quic(_) => true,
        }
    }

    /// What a lane that is not up yet waits for, where its way knows.
    pub(super) fn waits_for(&self) -> Option<String> {
        match &self.carrier {
            Carrier::Tls(tcp) => tcp.socket.waits_for(),
            Carrier::Quic(quic) => {
                (!quic.braid.established()).then(|| "no answer by QUIC: UDP may be blocked on the way".to_owned())
            }
        }
    }

    /// A proxy on the way said no.
    fn refused(&self) -> bool {
        matches!(&self.carrier, Carrier::Tls(tcp) if tcp.socket.refused())
    }
}

impl Core {
    /// Takes over a connected socket as lane `number` of a session. `until` bounds its handshake and HELLO.
    pub(crate) fn add_lane(
        &mut self,
        mut socket: Socket,
        tls: Tls,
        session: usize,
        number: u8,
        address: SocketAddr,
        until: Instant,
    ) -> std::io::Result<usize> {
        let serial = self.table.next_serial();
        let entry = self.lanes.vacant_entry();
        let index = entry.key();
        socket.register(self.poll.registry(), token(LANE, index))?;
        let carrier = Carrier::Tls(Box::new(OverTcp { socket, tls, out: OutBuffer::default() }));
        entry.insert(LaneConn::new(carrier, session, number, address, serial));
        self.begin_lane(index, until);
        // A client speaks first.
        let begun = match &mut self.lanes[index].carrier {
            Carrier::Tls(tcp) => tcp.tls.input(&mut [], &mut tcp.out, &mut |_| {}).is_ok(),
            Carrier::Quic(_) => false,
        };
        if begun {
            self.flush_lane(index);
        }
        Ok(index)
    }

    /// A lane that has just been made is its session's, and has until then to be greeted.
    pub(super) fn begin_lane(&mut self, index: usize, until: Instant) {
        let lane = &self.lanes[index];
        let (session, number, serial) = (lane.session, lane.number, lane.serial);
        self.reading.push(index);
        self.timers.push(Reverse((until, Timer::Lane(index, serial))));
        if let Some(sess) = self.table.sessions.get_mut(session) {
            sess.lanes[usize::from(number)] = Some(index);
        }
    }

    /// A lane that was accepted into a session of its own belongs to another: its further lane.
    pub(crate) fn move_lane(&mut self, lane: usize, session: usize, number: u8) {
        let Some(state) = self.lanes.get_mut(lane) else { return };
        let old = std::mem::replace(&mut state.session, session);
        state.number = number;
        if let Some(sess) = self.table.sessions.get_mut(old) {
            sess.lanes = Default::default();
        }
        if let Some(sess) = self.table.sessions.get_mut(session) {
            sess.lanes[usize::from(number)] = Some(lane);
        }
        self.table.end_session(old, "joined another session");
        self.table.touch(session);
    }

    pub(super) fn read_lane(&mut self, index: usize) {
        let now = self.table.now;
        let session = self.lanes.get(index).map_or(usize::MAX, |lane| lane.session);
        let machine = self.table.session(session);
        let (beside_sparse, datagrams) =
            machine.map_or((false, false), |session| (session.has_sparse(now), session.has_datagrams(now)));
        let reads = if beside_sparse { 1 } else { LANE_READS_PER_TURN };
        // What one read brings must fit the queues that it goes to; a flow's is a few times this.
        let read_bytes = if beside_sparse || datagrams { QUANTUM_BYTES } else { LANE_READ_BYTES };
        for _ in 0..reads {
            let Some(lane) = self.lanes.get_mut(index).filter(|lane| !lane.dead && lane.readable) else { return };
            let Carrier::Tls(tcp) = &mut lane.carrier else { return self.read_quic(index) };
            let start = tcp.tls.prefix(&mut self.scratch);
            let room = (start + read_bytes).min(self.scratch.len());
            let count = match tcp.socket.read(&mut self.scratch[start..room]) {
                Ok(0) => return self.drop_lane(index, "peer closed the connection"),
                Ok(count) => count,
                Err(error) if would_block(&error) => {
                    lane.readable = false;
                    return;
                }
                Err(error) => return self.drop_lane(index, &error.to_string()),
            };
            // Edge-triggered: a short read means drained, unless data and FIN came in one edge.
            lane.readable = lane.hung_up || start + count == room;
            lane.bytes_in += count as u64;
            let goes_on = self.take_records(index, start + count);
            self.relieve();
            if !goes_on {
                return;
            }
        }
        if let Some(lane) = self.lanes.get_mut(index).filter(|lane| lane.readable && !lane.dead) {
            if !std::mem::replace(&mut lane.reading, true) {
                self.reading.push(index);
            }
        }
    }

    /// Opens records of a lane; false when it is over.
    fn take_records(&mut self, index: usize, length: usize) -> bool {
        let lane = &mut self.lanes[index];
        let (session, number, closing) = (lane.session, lane.number, lane.closing);
        let Carrier::Tls(tcp) = &mut lane.carrier else { return true };
        let table = &mut self.table;
        let result = tcp.tls.input(&mut self.scratch[..length], &mut tcp.out, &mut |plain| {
            if !closing {
                table.input(session, number, plain);
            }
        });
        let foreign = tcp.tls.is_foreign();
        let fresh = tcp.tls.established() && !std::mem::replace(&mut lane.established, true);
        if fresh {
            // Before what the same read brought: the peer is judged first.
            self.table.upcalls.push_front(Upcall::LaneEstablished(index));
        }
        if self.lanes[index].waiting() > 0 {
            self.flush_lane(index);
        }
        match result {
            Ok(()) => true,
            Err(_) if foreign => self.enter_web(index, length),
            Err(error) => {
                self.drop_lane(index, &error.to_string());
                false
            }
        }
    }

    /// Who came does not speak `drtp/1`: a WebSocket is offered, and the lane begins anew inside it. False if it is over.
    fn enter_web(&mut self, index: usize, length: usize) -> bool {
        let lane = &mut self.lanes[index];
        let ahead = self.scratch[..length].to_vec();
        let inside = lane.web.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::Unsupported));
        let entered = inside.and_then(|(outer, inner)| {
            let Carrier::Tls(tcp) = &mut lane.carrier else { return Err(std::io::ErrorKind::Unsupported.into()) };
            tcp.socket.enter_web(outer, ahead)?;
            tcp.tls = Tls::server(&inner).map_err(std::io::Error::other)?;
            Ok(())
        });
        if let Err(error) = entered {
            self.drop_lane(index, &error.to_string());
            return false;
        }
        // What came is in the socket's own hands now: it is to be asked again, whatever the kernel has.
        lane.readable = true;
        true
    }

    /// The socket is closed; the session hears of it.
    pub(crate) fn drop_lane(&mut self, index: usize, reason: &str) {
        let Some(lane) = self.lanes.get_mut(index) else { return };
        if std::mem::replace(&mut lane.dead, true) {
            return;
        }
        let (session, number, closing, refused) = (lane.session, lane.number, lane.closing, lane.refused());
        if std::mem::take(&mut lane.pre_auth) {
            self.authenticated.push(lane.address);
        }
        let waiting: Vec<usize> = lane.sparse.drain(..).chain(lane.bulk.drain(..)).collect();
        if let Carrier::Tls(tcp) = &lane.carrier {
            tcp.socket.end_orderly();
        }
        self.end_quic(index);
        self.buried_lanes.push(index);
        for relay in waiting {
            if let Some(state) = self.table.relays.get_mut(relay) {
                state.queued = false;
            }
        }
        if closing {
            return;
        }
        let greeting = self.table.session(session).is_some_and(|s| s.state() == State::Greeting);
        if greeting {
            let reason = reason.to_owned();
            self.table.upcalls.push_back(Upcall::LaneFailed { session, reason, refused });
        } else if self.table.session(session).is_some_and(|s| s.lane_count() == 1) {
            self.table.upcalls.push_back(Upcall::SessionGone { session, reason: reason.to_owned() });
        } else {
            self.table.lane_lost(session, number);
        }
    }

    /// The session is over: its last words go out, then its lanes close. Idempotent.
    pub(crate) fn close_session(&mut self, session: usize, reason: &str) {
        let lanes: Vec<usize> =
            self.table.sessions.get(session).map(|s| s.lanes.iter().flatten().copied().collect()).unwrap_or_default();
        if !self.table.end_session(session, reason) {
            return;
        }
        for index in lanes {
            self.flush_lane(index);
            let until = self.now() + CLOSING;
            if let Some(lane) = self.lanes.get_mut(index).filter(|lane| !lane.dead) {
                lane.closing = true;
                // The slot will have another tenant while the last words are still on their way.
                lane.session = usize::MAX;
                self.timers.push(Reverse((until, Timer::Lane(index, lane.serial))));
                self.flush_lane(index);
            }
        }
    }

    /// A session's turn ends: each lane is sealed and written once, and its next timer is armed.
    pub(super) fn settle(&mut self, index: usize) {
        let Some(sess) = self.table.sessions.get_mut(index) else { return };
        sess.dirty = false;
        if sess.gone {
            return;
        }
        let (lanes, serial, armed) = (sess.lanes, sess.serial, sess.timer_at);
        for lane in lanes.into_iter().flatten() {
            self.flush_lane(lane);
        }
        let next = self.table.session(index).and_then(|session| session.next_tick());
        if let Some(at) = next.filter(|at| armed.is_none_or(|armed| *at < armed)) {
            self.timers.push(Reverse((at, Timer::Session(index, serial))));
            self.table.sessions[index].timer_at = Some(at);
        }
    }

    /// One seal and one write.
    pub(super) fn flush_lane(&mut self, index: usize) {
        let Some(lane) = self.lanes.get_mut(index).filter(|lane| !lane.dead) else { return };
        let mut over: Option<String> = None;
        let waiting = lane.waiting();
        if let Some(session) = self.table.session(lane.session) {
            let queued = session.queued(lane.number);
            if queued + waiting > LANE_BACKLOG_MAX {
                over = Some("peer does not read".to_owned());
            } else if queued > 0 && lane.trusted && lane.established && waiting < LANE_BACKLOG_BYTES {
                self.batch.clear();
                session.take_output(lane.number, &mut self.batch);
                match &mut lane.carrier {
                    Carrier::Tls(tcp) => {
                        over = tcp.tls.seal(&self.batch, &mut tcp.out).err().map(|error| error.to_string());
                    }
                    Carrier::Quic(quic) => quic.braid.send(&self.batch),
                }
            }
        }
        if over.is_none() {
            match lane.carrier {
                Carrier::Tls(_) => over = Self::write_lane(lane).err(),
                Carrier::Quic(_) => self.write_quic(index),
            }
        }
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let more = lane.writable && (!lane.sparse.is_empty() || !lane.bulk.is_empty());
        if more && !std::mem::replace(&mut lane.pumping, true) {
            self.pumping.push(index);
        }
        if let Some(reason) = over {
            self.drop_lane(index, &reason);
        }
    }

    fn write_lane(lane: &mut LaneConn) -> Result<(), String> {
        let Carrier::Tls(tcp) = &mut lane.carrier else { return Ok(()) };
        if lane.closing && tcp.out.waiting().is_empty() && !std::mem::replace(&mut lane.said_bye, true) {
            // An error here only means that the peer has gone already.
            let _ = tcp.tls.close(&mut tcp.out);
        }
        while lane.writable && !tcp.out.waiting().is_empty() {
            match tcp.socket.write(tcp.out.waiting()) {
                Ok(count) => {
                    tcp.out.written(count);
                    lane.bytes_out += count as u64;
                }
                Err(error) if would_block(&error) => lane.writable = false,
                Err(error) => return Err(error.to_string()),
            }
        }
        if lane.said_bye && tcp.out.waiting().is_empty() {
            // A peer that has gone already has read all it wanted.
            let _ = tcp.socket.shutdown_write();
        }
        Ok(())
    }

    /// Measurements of a session's lanes, with the driver's byte counts.
    pub(crate) fn lane_stats(&mut self, session: usize) -> Vec<LaneStats> {
        let Some(lanes) = self.table.sessions.get(session).map(|sess| sess.lanes) else { return Vec::new() };
        let measured = self.table.session(session).map(|session| session.lane_stats()).unwrap_or_default();
        let fill = |(number, stats): (u8, LaneStats)| {
            let lane = lanes[usize::from(number)].and_then(|lane| self.lanes.get(lane));
            let (bytes_in, bytes_out) = lane.map_or((0, 0), |lane| (lane.bytes_in, lane.bytes_out));
            LaneStats { bytes_in, bytes_out, ..stats }
        };
        measured.into_iter().map(fill).collect()
    }
}
