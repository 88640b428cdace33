//! Relays whose bytes per second are limited: they move as far as their buckets go, and wait at an empty one without
//! being read or written.
//!
//! The lane is never held: what comes for a stream that waits stays at its relay, within the credit of that stream, and
//! its credit returns when it moves on. A stream that reads waits with the visitor's socket unread.

use std::cmp::Reverse;

use super::brake::{Brake, ByteLimits, Waiter, Way};
use super::flow::Taker;
use super::relays::write_relay;
use super::splice::unmated;
use super::table::Table;
use super::{Core, Read, Timer};
use crate::message::ResetCode;

impl Table {
    /// From now on a relay is of a group; so is the other half of what it is joined to.
    pub(crate) fn limit(&mut self, relay: usize, group: usize) {
        let Some(state) = self.relays.get_mut(relay).filter(|relay| !relay.dead) else { return };
        state.brake = Some(Box::new(Brake::new(group)));
        let half = state.flow.as_ref().and_then(|flow| match flow.taker {
            Taker::Relay(other) => Some(other),
            _ => None,
        });
        let other = state.mate.map(unmated).or(half);
        if let Some(other) = other.and_then(|other| self.relays.get_mut(other)).filter(|relay| !relay.dead) {
            other.brake = Some(Box::new(Brake::new(group)));
        }
    }

    /// What a group draws on is this from now on; who waited for what limits it no more goes on at once.
    pub(crate) fn set_limits(&mut self, group: usize, limits: &ByteLimits) {
        for waiter in self.brakes.set(group, limits, self.now) {
            if let Some(brake) = self.braked(&waiter) {
                brake.released(waiter.way);
                self.go_on(&waiter);
            }
        }
    }

    /// Whether a datagram that came for a flow passes to the other half; one that does not is counted.
    pub(crate) fn may_pass(&mut self, relay: usize, bytes: usize) -> bool {
        let Some(state) = self.relays.get_mut(relay) else { return false };
        let open = state.brake.as_ref().is_none_or(|brake| self.brakes.passes(brake, bytes, self.now));
        if let Some(flow) = state.flow.as_mut().filter(|_| !open) {
            flow.dropped += 1;
        }
        open
    }

    fn braked(&mut self, waiter: &Waiter) -> Option<&mut Brake> {
        let state = self.relays.get_mut(waiter.relay).filter(|relay| relay.serial == waiter.serial && !relay.dead)?;
        state.brake.as_deref_mut()
    }

    fn go_on(&mut self, waiter: &Waiter) {
        match waiter.way {
            Way::In => self.wakeful.push(waiter.relay),
            Way::Out => self.flush_later(waiter.relay),
        }
    }

    /// Bytes that a relay may move one way now; at 0 it is woken when it may.
    fn allow(&mut self, relay: usize, way: Way) -> usize {
        let Some(state) = self.relays.get_mut(relay) else { return 0 };
        let who = (relay, state.serial);
        state.brake.as_mut().map_or(usize::MAX, |brake| self.brakes.allow(brake, who, way, self.now))
    }

    fn spent(&mut self, relay: usize, way: Way, bytes: u64) {
        let brake = self.relays.get_mut(relay).and_then(|relay| relay.brake.as_mut());
        if let Some(brake) = brake {
            self.brakes.spent(brake, way, bytes);
        }
    }
}

impl Core {
    /// One read of a relay, as far as its buckets go.
    pub(super) fn read_braked(&mut self, index: usize, quantum: usize) -> Read {
        let Some(relay) = self.table.relays.get(index).filter(|relay| !relay.dead) else { return Read::Stop };
        let (session, stream, before) = (relay.session, relay.stream, relay.bytes_read);
        let something = !relay.read_done && (relay.readable || !relay.unsent().is_empty());
        if !something || self.table.session(session).map_or(0, |session| session.sendable(stream)) == 0 {
            return Read::Stop;
        }
        let room = self.table.allow(index, Way::In);
        if room == 0 {
            return Read::Stop;
        }
        let read = self.read_freely(index, quantum.min(room));
        let moved = self.table.relays.get(index).map_or(0, |relay| relay.bytes_read - before);
        self.table.spent(index, Way::In, moved);
        read
    }

    /// Writes what waits for a relay's socket, as far as its buckets go.
    pub(super) fn write_braked(&mut self, index: usize) -> Result<u64, ResetCode> {
        let mut taken = 0;
        loop {
            let Some(relay) = self.table.relays.get(index) else { return Ok(taken) };
            let waits = relay.backlog.as_ref().is_some_and(|backlog| !backlog.waiting().is_empty());
            let room = if waits && relay.writable { self.table.allow(index, Way::Out) } else { 0 };
            // Records that are sealed already go out in any case.
            let written = write_relay(&mut self.table.relays[index], room)?;
            self.table.spent(index, Way::Out, written);
            taken += written;
            if room == 0 || written == 0 {
                return Ok(taken);
            }
        }
    }

    /// Whoever waits longest goes on with what has come in.
    pub(super) fn give_out(&mut self) {
        if self.table.brakes.next().is_none_or(|at| at > self.table.now) {
            return;
        }
        let now = self.table.now;
        let table = &mut self.table;
        let mut brakes = std::mem::take(&mut table.brakes);
        brakes.give_out(now, &mut |waiter, grant| {
            let Some(brake) = table.braked(waiter) else { return false };
            brake.granted(waiter.way, grant);
            table.go_on(waiter);
            true
        });
        table.brakes = brakes;
    }

    /// One timer for all who wait.
    pub(super) fn await_buckets(&mut self) {
        let Some(at) = self.table.brakes.next() else { return };
        if self.buckets_armed.is_none_or(|armed| at < armed) {
            self.buckets_armed = Some(at);
            self.timers.push(Reverse((at, Timer::Buckets)));
        }
    }
}
