//! How many visitors: caps and rates of one route, and of routes that share them.

use std::collections::HashMap;
use std::time::Instant;

use super::{Route, Server};

/// A token bucket with a burst of two seconds' worth. It begins full, whatever its rate.
pub(super) struct Pace {
    tokens: f64,
    at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: f64::INFINITY, at: now }
    }

    /// Whether one more may come now, at so many a second; 0 is any number.
    fn allows(&mut self, per_s: u32, now: Instant) -> bool {
        let rate = f64::from(per_s);
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * rate;
        (self.tokens, self.at) = ((self.tokens + earned).min(rate * 2.0), now);
        per_s == 0 || self.tokens >= 1.0
    }

    fn take(&mut self) {
        self.tokens = (self.tokens - 1.0).max(0.0);
    }
}

/// What all routes with a share of one name have together.
struct Pool {
    streams: usize,
    streams_max: u32,
    new_streams_per_s: u32,
    pace: Pace,
}

/// By the share's name.
#[derive(Default)]
pub(super) struct Pools(HashMap<String, Pool>);

impl Pools {
    /// As the routes are now. A pool that stays keeps its bucket, so that no edit gives a new burst; of limits that differ
    /// the lowest counts.
    pub(super) fn settle<'a>(&mut self, routes: impl Iterator<Item = &'a Route>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        for route in routes {
            for share in &route.spec.shares {
                let pool = self.0.entry(share.name.clone()).or_insert_with(|| Pool {
                    streams: 0,
                    streams_max: 0,
                    new_streams_per_s: 0,
                    pace: before.remove(&share.name).map_or_else(|| Pace::new(now), |pool| pool.pace),
                });
                pool.streams += route.visitors.len();
                pool.streams_max = lowest(pool.streams_max, share.streams_max);
                pool.new_streams_per_s = lowest(pool.new_streams_per_s, share.new_streams_per_s);
            }
        }
    }

    /// A visitor of the route has come.
    pub(super) fn enter(&mut self, route: &Route) {
        self.each(route, |pool| pool.streams += 1);
    }

    /// One has gone.
    pub(super) fn leave(&mut self, route: &Route) {
        self.each(route, |pool| pool.streams = pool.streams.saturating_sub(1));
    }

    fn each(&mut self, route: &Route, mut act: impl FnMut(&mut Pool)) {
        for share in &route.spec.shares {
            if let Some(pool) = self.0.get_mut(&share.name) {
                act(pool);
            }
        }
    }
}

/// 0 is no limit.
fn lowest(one: u32, other: u32) -> u32 {
    if one == 0 || other == 0 { one.max(other) } else { one.min(other) }
}

impl Server {
    /// One more visitor would be within the caps of the route, and of all that share with it.
    pub(super) fn has_room(&self, route: &Route) -> bool {
        let below = |count: usize, cap: u32| cap == 0 || count < cap as usize;
        let pools = route.spec.shares.iter().filter_map(|share| self.pools.0.get(&share.name));
        below(route.visitors.len(), route.spec.limits.streams_max)
            && pools.into_iter().all(|pool| below(pool.streams, pool.streams_max))
    }

    /// One new stream more, if the rates of its connection, project and organisation have room for it.
    pub(super) fn within_rate(&mut self, route: usize) -> bool {
        let within = self.has_pace(route);
        if let Some(route) = self.routes.get_mut(route).filter(|_| within) {
            route.pace.take();
            self.pools.each(route, |pool| pool.pace.take());
        }
        within
    }

    /// Whether those rates have room. A stranger who has shown nothing yet is asked this, and takes nothing.
    pub(super) fn has_pace(&mut self, route: usize) -> bool {
        let now = self.core.now();
        let common = self.config.limits.new_streams_per_s;
        let Some(route) = self.routes.get_mut(route) else { return false };
        let own = route.spec.limits.new_streams_per_s;
        let own = if own > 0 { own } else { common };
        let mut within = route.pace.allows(own, now);
        self.pools.each(route, |pool| within &= pool.pace.allows(pool.new_streams_per_s, now));
        within
    }
}
