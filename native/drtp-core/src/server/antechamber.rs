//! Connections that have not yet shown who they are: counted in all and by address, so that nobody fills the room alone.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::access::block_of;

/// In a full room whoever has waited for so long makes place for a newcomer: an honest peer shows itself sooner, and a
/// crowd from many addresses must not keep everybody out for as long as a deadline lasts.
const PATIENCE: Duration = Duration::from_millis(500);
/// An address is known for so long after a peer of ours came from it.
const KNOWN_FOR: Duration = Duration::from_secs(3_600);
/// Known addresses; one more takes the place of any other.
const KNOWN_MAX: usize = 16_384;

/// A lane or a visitor: its slot, and the serial that tells it from later tenants of the slot.
pub(super) type Guest = (usize, u64);

/// How many may wait at a door: in all, and from one address.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub(super) all: u32,
    pub(super) of_address: u32,
}

impl Places {
    /// One room's: half is kept for known addresses, half is anybody's. No address fills a room alone.
    fn of_a_room(self) -> Places {
        let all = self.all / 2;
        Places { all, of_address: (all - all / 4).min(self.of_address) }
    }
}

/// One door's waiting rooms. Agents' doors, open to the world, and endpoints have one each: strangers at the former must
/// not keep gateways from the latter. And at either door a crowd of strangers must not keep out who came before: addresses
/// from which a peer has shown itself have a room of their own.
#[derive(Default)]
pub(super) struct Antechamber {
    strangers: Room,
    known: Room,
    known_since: HashMap<IpAddr, Instant>,
}

impl Antechamber {
    /// Takes a place; false if the room, or this address's share of it, is full.
    pub(super) fn enter(&mut self, ip: IpAddr, places: Places, now: Instant) -> bool {
        self.room(ip, now).enter(ip, places.of_a_room())
    }

    /// Who took the place, so that it can be asked back. `here`: whether a guest is still waiting.
    pub(super) fn seat(&mut self, guest: Guest, ip: IpAddr, now: Instant, here: impl Fn(Guest) -> bool) {
        let room = self.room(ip, now);
        room.forget_gone(here);
        room.waiting.push_back((guest, now));
    }

    /// The guest who must make place for one more from `ip`; nobody while there is room, or where only this address'
    /// share is taken.
    pub(super) fn longest_waiting(
        &mut self,
        ip: IpAddr,
        places: Places,
        now: Instant,
        here: impl Fn(Guest) -> bool,
    ) -> Option<Guest> {
        self.room(ip, now).longest_waiting(ip, places.of_a_room(), now, here)
    }

    /// A peer of ours has shown itself from here.
    pub(super) fn remember(&mut self, ip: IpAddr, now: Instant) {
        let block = block_of(ip);
        if self.known_since.len() >= KNOWN_MAX && !self.known_since.contains_key(&block) {
            let other = self.known_since.keys().next().copied();
            other.map(|other| self.known_since.remove(&other));
        }
        self.known_since.insert(block, now);
    }

    fn room(&mut self, ip: IpAddr, now: Instant) -> &mut Room {
        let since = self.known_since.get(&block_of(ip));
        let known = since.is_some_and(|since| now.saturating_duration_since(*since) < KNOWN_FOR);
        if known { &mut self.known } else { &mut self.strangers }
    }

    pub(super) fn total(&self) -> u32 {
        self.strangers.total + self.known.total
    }

    /// Gives a place back.
    pub(super) fn leave(&mut self, ip: IpAddr) {
        if !self.known.leave(ip) {
            self.strangers.leave(ip);
        }
    }
}

#[derive(Default)]
struct Room {
    by_block: HashMap<IpAddr, u32>,
    total: u32,
    /// In the order of their coming, some of whom have left.
    waiting: VecDeque<(Guest, Instant)>,
}

impl Room {
    fn held(&self, ip: IpAddr) -> u32 {
        self.by_block.get(&block_of(ip)).copied().unwrap_or(0)
    }

    fn enter(&mut self, ip: IpAddr, places: Places) -> bool {
        if self.total >= places.all || self.held(ip) >= places.of_address {
            return false;
        }
        *self.by_block.entry(block_of(ip)).or_default() += 1;
        self.total += 1;
        true
    }

    fn longest_waiting(
        &mut self,
        ip: IpAddr,
        places: Places,
        now: Instant,
        here: impl Fn(Guest) -> bool,
    ) -> Option<Guest> {
        if self.total < places.all || self.held(ip) >= places.of_address {
            return None;
        }
        self.forget_gone(here);
        let since = self.waiting.front().map(|(_, since)| *since)?;
        if now.saturating_duration_since(since) < PATIENCE {
            return None;
        }
        self.waiting.pop_front().map(|(guest, _)| guest)
    }

    fn forget_gone(&mut self, here: impl Fn(Guest) -> bool) {
        while self.waiting.front().is_some_and(|(guest, _)| !here(*guest)) {
            self.waiting.pop_front();
        }
    }

    fn leave(&mut self, ip: IpAddr) -> bool {
        let block = block_of(ip);
        let Some(held) = self.by_block.get_mut(&block) else { return false };
        *held -= 1;
        self.total -= 1;
        if *held == 0 {
            self.by_block.remove(&block);
        }
        true
    }
}
