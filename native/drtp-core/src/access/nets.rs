//! Networks of many rules as one search: the address space cut at every network's bounds, and for each piece the rules
//! that have it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Mask;

/// Words that one list may hold for its pieces: 32 MiB. The API's own caps stay far below.
const WORDS_MAX: usize = 4 << 20;

/// One family. Each piece begins at `starts[i]` and ends before the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Pieces<T> {
    starts: Vec<T>,
    masks: Vec<u64>,
}

/// Which rules have an address, by rule number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Nets {
    words: usize,
    /// Rules that name no network.
    anywhere: Mask,
    v4: Pieces<u32>,
    v6: Pieces<u128>,
}

impl Nets {
    /// `None`: more than may be held.
    pub(super) fn new(rules: &[Vec<IpNet>], words: usize) -> Option<Self> {
        let mut anywhere = Mask::none(words);
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (rule, nets) in rules.iter().enumerate() {
            if nets.is_empty() {
                anywhere.set(rule);
            }
            for net in nets {
                match net {
                    IpNet::V4(net) => v4.push((u32::from(net.network()), u32::from(net.broadcast()), rule)),
                    IpNet::V6(net) => v6.push((u128::from(net.network()), u128::from(net.broadcast()), rule)),
                }
            }
        }
        if (v4.len() + v6.len() + 1).saturating_mul(2 * words) > WORDS_MAX {
            return None;
        }
        let v4 = pieces(&v4, &anywhere, |high| high.checked_add(1));
        let v6 = pieces(&v6, &anywhere, |high| high.checked_add(1));
        Some(Self { words, anywhere, v4, v6 })
    }

    /// The rules whose networks have this address, those without networks among them.
    pub(super) fn of(&self, address: IpAddr) -> &[u64] {
        let found = match address {
            IpAddr::V4(v4) => self.v4.at(u32::from(v4), self.words),
            IpAddr::V6(v6) => self.v6.at(u128::from(v6), self.words),
        };
        found.unwrap_or(&self.anywhere.0)
    }

    /// The rules that name no network.
    pub(super) fn anywhere(&self) -> &[u64] {
        &self.anywhere.0
    }
}

impl<T: Ord + Copy> Pieces<T> {
    fn at(&self, address: T, words: usize) -> Option<&[u64]> {
        let piece = self.starts.partition_point(|start| *start <= address).checked_sub(1)?;
        self.masks.get(piece * words..(piece + 1) * words)
    }
}

fn pieces<T: Ord + Copy>(nets: &[(T, T, usize)], anywhere: &Mask, after: impl Fn(T) -> Option<T>) -> Pieces<T> {
    let mut bounds: Vec<(T, i32, usize)> = Vec::with_capacity(nets.len() * 2);
    for (low, high, rule) in nets {
        bounds.push((*low, 1, *rule));
        bounds.extend(after(*high).map(|end| (end, -1, *rule)));
    }
    bounds.sort_unstable();
    let rules = bounds.iter().map(|(_, _, rule)| rule + 1).max().unwrap_or(0);
    let mut depth = vec![0_i32; rules];
    let mut mask = anywhere.clone();
    let mut found = Pieces { starts: Vec::new(), masks: Vec::new() };
    let mut at = 0;
    while let Some((start, ..)) = bounds.get(at).copied() {
        while let Some((_, step, rule)) = bounds.get(at).copied().filter(|(bound, ..)| *bound == start) {
            depth[rule] += step;
            if depth[rule] > 0 {
                mask.set(rule);
            } else {
                mask.clear(rule);
            }
            at += 1;
        }
        found.starts.push(start);
        found.masks.extend(&mask.0);
    }
    found
}
