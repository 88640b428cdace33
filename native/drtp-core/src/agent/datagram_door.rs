//! A connector's UDP port: whoever sends datagrams there has a flow of its own, sealed to an agent as a connection is.
//!
//! No guard against forged sources is needed as at a gateway's listener: the port is the caller's own, open to this machine
//! or to the networks that the caller has named, and no answer goes anywhere else.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};

use super::Agent;
use super::astray::Tries;
use super::listener::is_refusal;
use super::refusals::{LOST_FOR, REFUSED_FOR, Refusals};
use crate::driver::batch::{bound, split};
use crate::driver::flow::{Flow, Guard, Taker};
use crate::driver::relay::{Outcome, Phase, Relay, Who};
use crate::driver::table::canonical;
use crate::message::{Carries, ResetCode};

/// Where a port is full, flows that have been silent for this long make room: many programs ask each question from a source
/// port of its own.
const SILENT_FOR: Duration = Duration::from_secs(1);
/// So large a share of a full port makes room at once, so that it is seldom looked for.
const SHARE: usize = 16;
/// After a look that found none, and between refusals that are said.
const PAUSE: Duration = Duration::from_millis(250);

pub(super) struct DatagramDoor {
    socket: Arc<UdpSocket>,
    flows: HashMap<SocketAddr, usize>,
    refusals: Refusals,
    /// When room may be looked for again, and when a refusal may be said again: who sends may be many, or pretend to be.
    look_at: Instant,
    say_at: Instant,
}

impl DatagramDoor {
    pub(super) fn open(address: SocketAddr, registry: &Registry, token: Token, now: Instant) -> io::Result<Self> {
        let mut socket = bound(address)?;
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let (socket, refusals) = (Arc::new(socket), Refusals::default());
        Ok(Self { socket, flows: HashMap::new(), refusals, look_at: now, say_at: now })
    }

    pub(super) fn bound(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    pub(super) fn forget_over(&mut self, now: Instant) {
        self.refusals.forget_over(now);
    }

    /// A source's flow is over, with `outcome`; before anything could flow if it is `early`. Where another POP carries the
    /// source by now, that flow stays.
    pub(super) fn gone(&mut self, source: SocketAddr, relay: usize, outcome: Outcome, early: bool, now: Instant) {
        if self.flows.get(&source) != Some(&relay) {
            return;
        }
        self.flows.remove(&source);
        if outcome.is_err_and(is_refusal) {
            self.refusals.add(source, now + REFUSED_FOR);
        } else if early {
            self.refusals.add(source, now + LOST_FOR);
        }
    }
}

impl Agent {
    /// A UDP port's socket has datagrams, or room for them.
    pub(super) fn door_news(&mut self, index: usize) {
        self.unblock();
        if let Some(door) = self.ports.get(index).and_then(|port| port.door.as_ref()) {
            let socket = Arc::clone(&door.socket);
            self.read_datagrams(index, &socket, Self::door_datagrams);
        }
    }

    /// Datagrams of `each` bytes came from one source.
    fn door_datagrams(&mut self, index: usize, from: SocketAddr, bytes: &[u8], each: usize) {
        let source = canonical(from);
        let Some(door) = self.ports.get(index).and_then(|port| port.door.as_ref()) else { return };
        let held = door.flows.get(&source).copied();
        let relay = if held.is_none() && door.refusals.holds(&source, self.core.now()) {
            Err(ResetCode::Busy)
        } else {
            let found = self.flow_of(held, |agent| agent.begin_flow_of(index, from, source));
            found.inspect_err(|code| {
                if is_refusal(*code) {
                    self.note_refusal(index, source, *code);
                }
            })
        };
        match relay {
            Ok(relay) => {
                self.core.table.pass_on_each(relay, bytes, each);
                self.core.read_soon(relay);
            }
            Err(_) => self.ports[index].totals.denied_total += split(bytes, each).count() as u64,
        }
    }

    /// Its source is left alone for a moment; said once in a while.
    fn note_refusal(&mut self, index: usize, source: SocketAddr, code: ResetCode) {
        let now = self.core.now();
        let Some(port) = self.ports.get_mut(index) else { return };
        let Some(door) = port.door.as_mut() else { return };
        door.refusals.add(source, now + REFUSED_FOR);
        if door.say_at <= now {
            door.say_at = now + PAUSE;
            let record = port.refusal(Some(source), code);
            self.recent.push(record);
        }
    }

    /// The flows that have been silent for the longest end, if none of them has spoken of late.
    fn make_room(&mut self, index: usize) {
        let (now, share) = (self.core.now(), self.port_room().div_ceil(SHARE));
        let port = &mut self.ports[index];
        let Some(door) = port.door.as_mut().filter(|door| door.look_at <= now) else { return };
        let spoke = |relay: &usize| Some((self.core.table.relays.get(*relay)?.flow.as_ref()?.last, *relay));
        let mut silent: Vec<(Instant, usize)> = port.connections.iter().filter_map(spoke).collect();
        silent.retain(|(last, _)| now.saturating_duration_since(*last) >= SILENT_FOR);
        if silent.is_empty() {
            door.look_at = now + PAUSE;
        }
        silent.sort_unstable();
        for (_, relay) in silent.into_iter().take(share) {
            self.core.table.end_relay(relay, Err(ResetCode::Idle));
            // Its place is had at once: the books are closed now.
            self.port_gone(relay, Err(ResetCode::Idle));
            self.core.table.relays[relay].owner = usize::MAX;
        }
    }

    fn begin_flow_of(&mut self, index: usize, from: SocketAddr, source: SocketAddr) -> Result<usize, ResetCode> {
        // Whoever may not come takes nobody's place.
        self.may_begin(index, Some(source))?;
        if self.is_full(index) {
            self.make_room(index);
        }
        self.has_place(index)?;
        let now = self.core.now();
        let port = &self.ports[index];
        let door = port.door.as_ref().ok_or(ResetCode::Disabled)?;
        let (socket, idle_ms) = (Arc::clone(&door.socket), port.spec.idle_ms);
        let mut relay = Relay::new(Phase::Sealing, index, self.core.table.next_serial(), now);
        let idle = Duration::from_millis(u64::from(idle_ms));
        relay.flow = Some(Flow::new(Taker::Visitor(socket, from), idle, Guard::Proven, now));
        let carries = Carries::SealedDatagrams;
        let way = self.choose_way(index, carries, &[])?;
        let relay = self.seal_to_agent(index, relay, None, way, (carries, idle_ms), Tries::begun(now))?;
        // For this side's books; the agent is not told.
        let stream_id = self.core.table.relays[relay].who.stream_id;
        self.core.table.relays[relay].who = Who::at(source, stream_id);
        self.core.watch_silence(relay);
        let port = &mut self.ports[index];
        port.took(relay);
        if let Some(door) = port.door.as_mut() {
            door.flows.insert(source, relay);
        }
        Ok(relay)
    }
}
