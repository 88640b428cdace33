//! UDP sockets with QUIC lanes on them: datagrams in to their connections, connections' datagrams out in runs.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mio::Interest;
use mio::net::UdpSocket;
use quinn_proto::{ConnectionHandle, Incoming, ServerConfig};

use super::batch::{Batches, refuses_runs, split};
use super::socket::would_block;
use super::table::{Upcall, canonical};
use super::{Carrier, Core, LaneConn, Timer, UDP, token};
use crate::quic::{Braid, Came, Port};

/// Reads of one socket per turn, so that others get theirs.
const READS_PER_TURN: usize = 16;
/// Datagrams of one connection in one send.
const RUN_MAX: usize = 16;
/// Datagrams of one connection in one turn.
const SENDS_PER_TURN: usize = 64;
/// Strangers whose address is proven that wait for the role; more are turned away.
const STRANGERS_MAX: usize = 64;

/// A UDP socket and the connections on it.
pub(crate) struct UdpDoor {
    socket: UdpSocket,
    batches: Batches,
    port: Port,
    lanes: HashMap<ConnectionHandle, usize>,
    strangers: VecDeque<Incoming>,
    /// POP: its life is the server's. Else it ends with its one connection.
    listens: bool,
    reading: bool,
}

/// A lane's QUIC connection.
pub(super) struct OverQuic {
    pub(super) braid: Braid,
    door: usize,
    /// What the socket had no room for: datagrams and the length of each.
    unsent: Option<(SocketAddr, Vec<u8>, usize)>,
    armed: Option<Instant>,
}

impl Core {
    /// Takes over a bound socket. With a configuration strangers may come.
    pub(crate) fn add_udp(
        &mut self,
        mut socket: UdpSocket,
        server: Option<Arc<ServerConfig>>,
    ) -> std::io::Result<usize> {
        let entry = self.udp.vacant_entry();
        let index = entry.key();
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, token(UDP, index), both)?;
        let batches = Batches::of(&socket);
        entry.insert(UdpDoor {
            socket,
            batches,
            listens: server.is_some(),
            port: Port::new(server),
            lanes: HashMap::new(),
            strangers: VecDeque::new(),
            reading: false,
        });
        Ok(index)
    }

    /// A connection as lane `number` of a session.
    pub(crate) fn add_quic_lane(
        &mut self,
        door: usize,
        braid: Braid,
        session: usize,
        number: u8,
        address: SocketAddr,
        until: Instant,
    ) -> usize {
        let (serial, handle) = (self.table.next_serial(), braid.handle());
        let over = OverQuic { braid, door, unsent: None, armed: None };
        let lane = LaneConn::new(Carrier::Quic(Box::new(over)), session, number, address, serial);
        let index = self.lanes.insert(lane);
        if let Some(door) = self.udp.get_mut(door) {
            door.lanes.insert(handle, index);
        }
        self.begin_lane(index, until);
        self.flush_lane(index);
        index
    }

    /// The next stranger at a door, and the door's end of it.
    pub(crate) fn next_stranger(&mut self, door: usize) -> Option<(SocketAddr, Incoming)> {
        let stranger = self.udp.get_mut(door)?.strangers.pop_front()?;
        Some((canonical(stranger.remote_address()), stranger))
    }

    /// Lets a stranger begin its handshake, or, without a configuration, tells it that there is no place.
    pub(crate) fn meet_stranger(
        &mut self,
        door: usize,
        stranger: Incoming,
        config: Option<&Arc<ServerConfig>>,
    ) -> Option<Braid> {
        let now = self.table.now;
        let door = self.udp.get_mut(door)?;
        let met = if let Some(config) = config {
            door.port.admit(stranger, config, now)
        } else {
            door.port.turn_away(stranger);
            None
        };
        door.answer();
        met
    }

    /// Begins a connection on a door of its own.
    pub(crate) fn dial_quic(
        &mut self,
        socket: UdpSocket,
        config: quinn_proto::ClientConfig,
        to: SocketAddr,
        name: &str,
    ) -> Result<(usize, Braid), String> {
        let now = self.table.now;
        let door = self.add_udp(socket, None).map_err(|error| error.to_string())?;
        match self.udp[door].port.dial(config, to, name, now) {
            Ok(braid) => Ok((door, braid)),
            Err(error) => {
                self.buried_udp.push(door);
                Err(error)
            }
        }
    }

    pub(super) fn note_udp(&mut self, index: usize, event: &mio::event::Event) {
        let Some(door) = self.udp.get_mut(index) else { return };
        if (event.is_readable() || event.is_error()) && !std::mem::replace(&mut door.reading, true) {
            self.udp_reading.push(index);
        }
        if event.is_writable() {
            for lane in door.lanes.values().copied().collect::<Vec<_>>() {
                if matches!(&self.lanes.get(lane), Some(LaneConn { carrier: Carrier::Quic(quic), .. }) if quic.unsent.is_some())
                {
                    self.flush_lane(lane);
                }
            }
        }
    }

    pub(super) fn read_udp(&mut self, index: usize) {
        let mut reading = std::mem::take(&mut self.datagrams);
        let mut drained = false;
        for _ in 0..READS_PER_TURN {
            let Some(door) = self.udp.get_mut(index) else {
                drained = true;
                break;
            };
            door.reading = false;
            match door.batches.receive(&door.socket, &mut reading) {
                Ok(()) => {}
                Err(error) if would_block(&error) => {
                    drained = true;
                    break;
                }
                Err(error) => {
                    self.refused_by_udp(index, &error.to_string());
                    continue;
                }
            }
            for number in 0..reading.count() {
                let (from, bytes, each) = reading.message(number);
                for datagram in split(bytes, each) {
                    self.datagram_came(index, from, datagram);
                }
            }
        }
        self.datagrams = reading;
        if let Some(door) = self.udp.get_mut(index).filter(|_| !drained) {
            door.reading = true;
            self.udp_reading.push(index);
        }
    }

    /// A dialled socket hears that nobody is there. Of a connection that is up it is no proof: anybody may say so.
    fn refused_by_udp(&mut self, index: usize, error: &str) {
        let Some(door) = self.udp.get(index).filter(|door| !door.listens) else { return };
        for lane in door.lanes.values().copied().collect::<Vec<_>>() {
            if self.lanes.get(lane).is_some_and(|lane| !lane.established) {
                self.drop_lane(lane, error);
            }
        }
    }

    fn datagram_came(&mut self, index: usize, from: SocketAddr, datagram: &[u8]) {
        let now = self.table.now;
        let Some(door) = self.udp.get_mut(index) else { return };
        match door.port.take(from, datagram, now) {
            Came::Nothing => door.answer(),
            Came::Stranger(stranger) if door.strangers.len() < STRANGERS_MAX => {
                door.strangers.push_back(*stranger);
                self.table.upcalls.push_back(Upcall::Stranger(index));
            }
            Came::Stranger(stranger) => {
                door.port.turn_away(*stranger);
                door.answer();
            }
            Came::News(handle, event) => {
                let Some(lane) = door.lanes.get(&handle).copied() else { return };
                let Some(state) = self.lanes.get_mut(lane).filter(|lane| !lane.dead) else { return };
                state.bytes_in += datagram.len() as u64;
                if let Carrier::Quic(quic) = &mut state.carrier {
                    quic.braid.take(event);
                }
                self.read_quic_soon(lane);
            }
        }
    }

    fn read_quic_soon(&mut self, lane: usize) {
        let Some(state) = self.lanes.get_mut(lane) else { return };
        state.readable = true;
        if !std::mem::replace(&mut state.reading, true) {
            self.reading.push(lane);
        }
    }

    /// Whole frames go to the session.
    pub(super) fn read_quic(&mut self, index: usize) {
        let Some(lane) = self.lanes.get_mut(index).filter(|lane| !lane.dead) else { return };
        let (session, number, closing) = (lane.session, lane.number, lane.closing);
        lane.readable = false;
        let Carrier::Quic(quic) = &mut lane.carrier else { return };
        let table = &mut self.table;
        let result = quic.braid.receive(&mut |frames| {
            if !closing {
                table.input(session, number, frames);
            }
        });
        if quic.braid.established() && !std::mem::replace(&mut lane.established, true) {
            // Before what the same read brought: the peer is judged first.
            self.table.upcalls.push_front(Upcall::LaneEstablished(index));
        }
        let over = closing && quic.braid.bye_heard();
        self.relieve();
        match result {
            Err(fault) => return self.drop_lane(index, &fault.to_string()),
            Ok(_) if over => return self.drop_lane(index, "said all"),
            Ok(true) => self.read_quic_soon(index),
            Ok(false) => {}
        }
        self.flush_lane(index);
    }

    /// What the connection has to say goes out, and its timer is armed.
    pub(super) fn write_quic(&mut self, index: usize) {
        let now = self.table.now;
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let Carrier::Quic(quic) = &mut lane.carrier else { return };
        let Some(door) = self.udp.get_mut(quic.door) else { return };
        if lane.closing && !std::mem::replace(&mut lane.said_bye, true) {
            quic.braid.say_bye();
        }
        let mut again = false;
        for sends in 0.. {
            let (to, run, each) = match quic.unsent.take() {
                Some(unsent) => unsent,
                None if sends >= SENDS_PER_TURN => {
                    again = true;
                    break;
                }
                None => {
                    let mut run = Vec::new();
                    let runs = door.batches.run_max(1_500).min(RUN_MAX);
                    let Some(transmit) = quic.braid.transmit(now, runs, &mut run) else { break };
                    run.truncate(transmit.size);
                    (transmit.destination, run, transmit.segment_size.unwrap_or(transmit.size))
                }
            };
            match door.send(to, &run, each) {
                Err(error) if would_block(&error) => {
                    quic.unsent = Some((to, run, each));
                    break;
                }
                // Lost, as any datagram may be.
                Err(_) => {}
                Ok(()) => lane.bytes_out += run.len() as u64,
            }
        }
        door.port.settle(&mut quic.braid);
        let next = if again { Some(now) } else { quic.braid.next_tick() };
        if let Some(at) = next.filter(|at| quic.armed.is_none_or(|armed| *at < armed)) {
            quic.armed = Some(at);
            self.timers.push(Reverse((at, Timer::Quic(index, lane.serial))));
        }
    }

    pub(super) fn tick_quic(&mut self, index: usize, serial: u64) {
        let now = self.table.now;
        let Some(lane) = self.lanes.get_mut(index).filter(|lane| lane.serial == serial && !lane.dead) else { return };
        let Carrier::Quic(quic) = &mut lane.carrier else { return };
        if quic.armed.is_some_and(|armed| armed > now) {
            return;
        }
        quic.armed = None;
        quic.braid.tick(now);
        self.read_quic_soon(index);
    }

    /// A lane is over: its peer is told once, and nothing of the connection is kept.
    pub(super) fn end_quic(&mut self, index: usize) {
        let now = self.table.now;
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let Carrier::Quic(quic) = &mut lane.carrier else { return };
        let Some(door) = self.udp.get_mut(quic.door) else { return };
        quic.braid.close(now);
        let mut last = Vec::new();
        if let Some(transmit) = quic.braid.transmit(now, 1, &mut last) {
            last.truncate(transmit.size);
            let each = last.len();
            let _ = door.send(transmit.destination, &last, each);
        }
        door.port.settle(&mut quic.braid);
        door.port.forget(&quic.braid);
        door.lanes.remove(&quic.braid.handle());
        if !door.listens {
            self.buried_udp.push(quic.door);
        }
    }
}

impl UdpDoor {
    fn send(&self, to: SocketAddr, run: &[u8], each: usize) -> std::io::Result<()> {
        match self.batches.send(&self.socket, to, run, each) {
            Err(error) if run.len() > each && refuses_runs(&error) => {
                split(run, each).try_for_each(|one| self.batches.send(&self.socket, to, one, one.len()))
            }
            result => result,
        }
    }

    /// What is outside of any connection; lost if the socket has no room.
    fn answer(&mut self) {
        if let Some((to, answer)) = self.port.answer() {
            let _ = self.batches.send(&self.socket, to, &answer, answer.len());
        }
    }
}
