//! Connections that have not yet shown who they are: counted in all and by address, so that nobody fills the room alone.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::access::block_of;

/// In a full room whoever has waited for so long makes place for a newcomer: an honest peer shows itself sooner, and a
/// crowd from many addresses must not keep everybody out for as long as a deadline lasts.
const PATIENCE: Duration = Duration::from_millis(500);

/// A lane or a visitor: its slot, and the serial that tells it from later tenants of the slot.
pub(super) type Guest = (usize, u64);

/// One door's waiting room. Agents' doors, open to the world, and endpoints have one each: strangers at the former must
/// not keep gateways from the latter.
#[derive(Default)]
pub(super) struct Antechamber {
    by_block: HashMap<IpAddr, u32>,
    total: u32,
    /// In the order of their coming, some of whom have left.
    waiting: VecDeque<(Guest, Instant)>,
}

impl Antechamber {
    /// Takes a place; false if the room, or this address's share of it, is full.
    pub(super) fn enter(&mut self, ip: IpAddr, most: u32, most_of_address: u32) -> bool {
        let held = self.by_block.get(&block_of(ip)).copied().unwrap_or(0);
        if self.total >= most || held >= most_of_address {
            return false;
        }
        self.by_block.insert(block_of(ip), held + 1);
        self.total += 1;
        true
    }

    /// Who took the place, so that it can be asked back. `here`: whether a guest is still waiting.
    pub(super) fn seat(&mut self, guest: Guest, now: Instant, here: impl Fn(Guest) -> bool) {
        self.forget_gone(here);
        self.waiting.push_back((guest, now));
    }

    /// The guest who must make place for one more from `ip`; nobody while there is room, or where only this address'
    /// share is taken.
    pub(super) fn longest_waiting(
        &mut self,
        ip: IpAddr,
        (most, most_of_address): (u32, u32),
        now: Instant,
        here: impl Fn(Guest) -> bool,
    ) -> Option<Guest> {
        let held = self.by_block.get(&block_of(ip)).copied().unwrap_or(0);
        if self.total < most || held >= most_of_address {
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

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    /// Gives a place back.
    pub(super) fn leave(&mut self, ip: IpAddr) {
        let block = block_of(ip);
        let Some(held) = self.by_block.get_mut(&block) else { return };
        *held -= 1;
        self.total -= 1;
        if *held == 0 {
            self.by_block.remove(&block);
        }
    }
}
