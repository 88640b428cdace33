//! Limits in bytes per second: buckets that relays draw on, and the order in which those that wait are granted more.
//!
//! Relays of one connection are a group. A group draws on a bucket of its own and on those that it shares with other
//! groups; what moves is taken from each. Whoever finds one without a portion waits in its queue, behind those who
//! wait there already, and gets a part of what has come in since. A relay's two ways wait apart from each other.
//! Nothing here reads a clock, a socket or a relay.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use slab::Slab;

/// Buckets that one group draws on at most: its own, its project's and its organisation's.
pub(crate) const BUCKETS_MAX: usize = 3;
/// A bucket holds this much time's worth, and at least one record of TLS.
const BURST: Duration = Duration::from_secs(1);
const BURST_BYTES_MIN: f64 = 16.0 * 1024.0;
/// A portion, which must be there before anybody moves, is this much time's worth: less would be work without end at a
/// low rate, more would be choppy.
const PORTION: Duration = Duration::from_millis(16);
const PORTION_BYTES_MIN: f64 = 256.0;
const PORTION_BYTES_MAX: f64 = 16.0 * 1024.0;
/// One grant is no more than this, however much there is for few.
const GRANT_BYTES_MAX: f64 = 256.0 * 1024.0;
/// A bucket gives out no more often than this.
const TICK: Duration = Duration::from_millis(2);

/// A direction of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Into its stream.
    In,
    /// Out to its socket.
    Out,
}

/// One way of one relay that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiter {
    pub(crate) relay: usize,
    pub(crate) serial: u64,
    pub(crate) way: Way,
    group: usize,
    since: Instant,
}

/// What a group draws on. 0 limits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ByteLimits {
    /// Its own bucket's rate.
    pub(crate) own: u64,
    /// Those that it shares with every group that names them so, and their rates.
    pub(crate) shares: Vec<(String, u64)>,
}

impl ByteLimits {
    /// Nothing is limited.
    pub(crate) fn is_none(&self) -> bool {
        self.own == 0 && self.shares.iter().all(|(_, rate)| *rate == 0)
    }
}

/// What a relay of a group keeps.
pub(crate) struct Brake {
    group: usize,
    ways: [Pause; 2],
}

/// Where one way is between two movements.
#[derive(Debug, Clone, Copy, Default)]
struct Pause {
    /// Which of the group's sets of buckets the rest is about.
    round: u32,
    waiting: bool,
    /// So many of the group's buckets, in order, have granted.
    passed: usize,
    /// What each has given, and has not in it any more.
    paid: [u32; BUCKETS_MAX],
}

impl Brake {
    pub(crate) fn new(group: usize) -> Self {
        Self { group, ways: [Pause::default(); 2] }
    }

    /// A bucket gave `grant` bytes: the next one is asked.
    pub(crate) fn granted(&mut self, way: Way, grant: u32) {
        let pause = &mut self.ways[way as usize];
        pause.waiting = false;
        if let Some(paid) = pause.paid.get_mut(pause.passed) {
            *paid = grant;
            pause.passed += 1;
        }
    }

    /// The buckets are others now: it asks anew.
    pub(crate) fn released(&mut self, way: Way) {
        self.ways[way as usize] = Pause::default();
    }
}

#[derive(Debug)]
struct Bucket {
    /// Bytes per second.
    rate: f64,
    /// Below zero is a debt.
    held: f64,
    at: Instant,
    /// What datagrams may take while streams wait: half of what comes in.
    spare: f64,
    queue: VecDeque<Waiter>,
    users: usize,
}

impl Bucket {
    fn new(rate: f64, now: Instant) -> Self {
        let mut fresh = Self { rate, held: 0.0, at: now, spare: 0.0, queue: VecDeque::new(), users: 0 };
        fresh.held = fresh.burst();
        fresh
    }

    fn burst(&self) -> f64 {
        (self.rate * BURST.as_secs_f64()).max(BURST_BYTES_MIN)
    }

    fn portion(&self) -> f64 {
        (self.rate * PORTION.as_secs_f64()).clamp(PORTION_BYTES_MIN, PORTION_BYTES_MAX)
    }

    fn refill(&mut self, now: Instant) {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.rate;
        let burst = self.burst();
        self.held = (self.held + earned).min(burst);
        self.spare = (self.spare + earned / 2.0).min(burst / 2.0);
        self.at = self.at.max(now);
    }

    fn is_open(&self) -> bool {
        self.queue.is_empty() && self.held >= self.portion()
    }

    /// When there is a portion.
    fn due(&self) -> Instant {
        let missing = Duration::from_secs_f64((self.portion() - self.held).max(0.0) / self.rate);
        self.at + missing.max(TICK)
    }

    fn set_rate(&mut self, rate: f64, now: Instant) {
        self.refill(now);
        self.rate = rate;
        self.held = self.held.min(self.burst());
    }
}

#[derive(Debug, Default)]
struct Group {
    own: Option<usize>,
    buckets: Vec<usize>,
    /// Counts the sets of buckets that it has had.
    round: u32,
    waited: Duration,
    dropped: u64,
}

/// All buckets of a driver.
#[derive(Debug, Default)]
pub(crate) struct Brakes {
    groups: Slab<Group>,
    buckets: Slab<Bucket>,
    shared: HashMap<String, usize>,
    /// Buckets at which somebody waits.
    busy: Vec<usize>,
    /// When one of these may have a portion.
    next: Option<Instant>,
}

impl Brakes {
    /// A group that draws on nothing.
    pub(crate) fn group(&mut self) -> usize {
        self.groups.insert(Group::default())
    }

    /// A group draws on these from now on. Gives those who waited at what it draws on no more.
    pub(crate) fn set(&mut self, group: usize, limits: &ByteLimits, now: Instant) -> Vec<Waiter> {
        let Some(state) = self.groups.get(group) else { return Vec::new() };
        let (before, old_own) = (state.buckets.clone(), state.own);
        let own = (limits.own > 0).then(|| old_own.unwrap_or_else(|| self.buckets.insert(Bucket::new(1.0, now))));
        let mut buckets: Vec<(usize, u64)> = own.map(|own| (own, limits.own)).into_iter().collect();
        for (name, rate) in limits.shares.iter().filter(|(_, rate)| *rate > 0).take(BUCKETS_MAX - 1) {
            let found = self.shared.get(name).copied();
            let key = found.unwrap_or_else(|| self.buckets.insert(Bucket::new(1.0, now)));
            self.shared.insert(name.clone(), key);
            buckets.push((key, *rate));
        }
        for (key, rate) in &buckets {
            let bucket = &mut self.buckets[*key];
            let fresh = bucket.users == 0;
            bucket.users += 1;
            bucket.set_rate(*rate as f64, now);
            if fresh {
                bucket.held = bucket.burst();
            }
        }
        let keys: Vec<usize> = buckets.into_iter().map(|(key, _)| key).collect();
        let mut released = Vec::new();
        if keys != before {
            self.groups[group].round += 1;
            for key in &before {
                released.extend(self.leave(*key, group));
            }
        }
        self.groups[group].own = own;
        self.groups[group].buckets = keys;
        self.let_go(&before);
        // A rate that is another now may make a portion due.
        self.next = (!self.busy.is_empty()).then_some(now);
        released
    }

    /// A group is over, and so are its relays.
    pub(crate) fn forget(&mut self, group: usize) {
        let Some(state) = self.groups.try_remove(group) else { return };
        for key in &state.buckets {
            self.leave(*key, group);
        }
        self.let_go(&state.buckets);
    }

    /// Takes those of a group out of a queue.
    fn leave(&mut self, key: usize, group: usize) -> Vec<Waiter> {
        let Some(bucket) = self.buckets.get_mut(key) else { return Vec::new() };
        let (left, stay) = std::mem::take(&mut bucket.queue).into_iter().partition(|waiter| waiter.group == group);
        bucket.queue = VecDeque::from(stay);
        if bucket.queue.is_empty() {
            self.busy.retain(|busy| *busy != key);
        }
        left
    }

    /// One group fewer draws on each of these.
    fn let_go(&mut self, keys: &[usize]) {
        for key in keys {
            let bucket = &mut self.buckets[*key];
            bucket.users -= 1;
            if bucket.users == 0 {
                self.buckets.remove(*key);
                self.shared.retain(|_, shared| shared != key);
                self.busy.retain(|busy| busy != key);
            }
        }
    }

    /// Bytes that a relay may move this way now. At 0 it waits, until it is granted.
    pub(crate) fn allow(&mut self, brake: &mut Brake, (relay, serial): (usize, u64), way: Way, now: Instant) -> usize {
        let group = brake.group;
        let pause = &mut brake.ways[way as usize];
        if pause.waiting {
            return 0;
        }
        let (buckets, round) = self.groups.get(group).map_or((&[][..], 0), |group| (&group.buckets, group.round));
        if pause.round != round {
            *pause = Pause { round, ..Pause::default() };
        }
        let mut room = usize::MAX;
        for (number, key) in buckets.iter().enumerate() {
            let bucket = &mut self.buckets[*key];
            let paid = pause.paid[number] as usize;
            if number < pause.passed {
                // What it has waited for elsewhere it may have here, too, though it be a debt.
                room = if paid > 0 { room.min(paid) } else { room };
                continue;
            }
            bucket.refill(now);
            if bucket.is_open() {
                room = room.min(bucket.held as usize);
                continue;
            }
            bucket.queue.push_back(Waiter { relay, serial, way, group, since: now });
            (pause.waiting, pause.passed) = (true, number);
            if bucket.queue.len() == 1 {
                self.busy.push(*key);
            }
            let due = bucket.due().max(now + TICK);
            self.next = Some(self.next.map_or(due, |next| next.min(due)));
            return 0;
        }
        room
    }

    /// So much has moved.
    pub(crate) fn spent(&mut self, brake: &mut Brake, way: Way, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let pause = std::mem::take(&mut brake.ways[way as usize]);
        let Some(group) = self.groups.get(brake.group) else { return };
        let paid = if pause.round == group.round { pause.paid } else { Default::default() };
        for (key, paid) in group.buckets.iter().zip(paid) {
            self.buckets[*key].held -= bytes as f64 - f64::from(paid);
        }
    }

    /// Whether a datagram passes. One that does not is lost, and counted.
    pub(crate) fn passes(&mut self, brake: &Brake, bytes: usize, now: Instant) -> bool {
        let Some(group) = self.groups.get_mut(brake.group) else { return true };
        let bytes = bytes as f64;
        let open = group.buckets.iter().all(|key| {
            let bucket = &mut self.buckets[*key];
            bucket.refill(now);
            bucket.held > 0.0 && (bucket.queue.is_empty() || bucket.spare >= bytes)
        });
        if !open {
            group.dropped += 1;
            return false;
        }
        for key in &group.buckets {
            let bucket = &mut self.buckets[*key];
            bucket.held -= bytes;
            bucket.spare = (bucket.spare - bytes).max(0.0);
        }
        true
    }

    /// When a bucket is to give out.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Gives out what has come in, to those who wait longest first. `wake` says whether there still is who waits.
    pub(crate) fn give_out(&mut self, now: Instant, wake: &mut impl FnMut(&Waiter, u32) -> bool) {
        self.next = None;
        for key in std::mem::take(&mut self.busy) {
            let Some(bucket) = self.buckets.get_mut(key) else { continue };
            bucket.refill(now);
            let portion = bucket.portion();
            while bucket.held >= portion {
                let share = bucket.held / bucket.queue.len().max(1) as f64;
                let Some(waiter) = bucket.queue.pop_front() else { break };
                let grant = share.max(portion).min(GRANT_BYTES_MAX) as u32;
                if wake(&waiter, grant) {
                    bucket.held -= f64::from(grant);
                }
                if let Some(group) = self.groups.get_mut(waiter.group) {
                    group.waited += now.saturating_duration_since(waiter.since);
                }
            }
            if !bucket.queue.is_empty() {
                let due = bucket.due().max(now + TICK);
                self.next = Some(self.next.map_or(due, |next| next.min(due)));
                self.busy.push(key);
            }
        }
    }

    /// How long streams of a group have waited in all, and how many of its datagrams were dropped.
    pub(crate) fn books(&self, group: usize) -> (Duration, u64) {
        self.groups.get(group).map_or((Duration::ZERO, 0), |group| (group.waited, group.dropped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    /// Bulk streams in virtual time: each moves whatever it may, whenever it may.
    struct Pond {
        brakes: Brakes,
        now: Instant,
        streams: Vec<(Brake, u64)>,
    }

    impl Pond {
        fn new() -> Self {
            Self { brakes: Brakes::default(), now: Instant::now(), streams: Vec::new() }
        }

        fn group(&mut self, own: u64, shares: &[(&str, u64)]) -> usize {
            let group = self.brakes.group();
            self.set(group, own, shares);
            group
        }

        fn set(&mut self, group: usize, own: u64, shares: &[(&str, u64)]) {
            let shares = shares.iter().map(|(name, rate)| ((*name).to_owned(), *rate)).collect();
            for waiter in self.brakes.set(group, &ByteLimits { own, shares }, self.now) {
                self.streams[waiter.relay].0.released(waiter.way);
            }
        }

        fn stream(&mut self, group: usize) -> usize {
            self.streams.push((Brake::new(group), 0));
            self.streams.len() - 1
        }

        fn streams(&mut self, group: usize, count: usize) {
            for _ in 0..count {
                self.stream(group);
            }
        }

        /// Every stream that may moves, up to a read at a time.
        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                for (at, (brake, moved)) in self.streams.iter_mut().enumerate() {
                    for _ in 0..64 {
                        let room = self.brakes.allow(brake, (at, 0), Way::In, self.now).min(64 * 1024) as u64;
                        self.brakes.spent(brake, Way::In, room);
                        *moved += room;
                    }
                }
                let soon = self.now + Duration::from_millis(5);
                self.now = self.brakes.next().map_or(soon, |at| at.min(soon)).min(end);
                let streams = &mut self.streams;
                self.brakes.give_out(self.now, &mut |waiter, grant| {
                    streams[waiter.relay].0.granted(waiter.way, grant);
                    true
                });
            }
        }

        fn moved(&self) -> Vec<u64> {
            self.streams.iter().map(|(_, moved)| *moved).collect()
        }

        fn total(&self) -> u64 {
            self.moved().iter().sum()
        }
    }

    fn about(value: u64, expected: u64) {
        assert!(value.abs_diff(expected) <= expected / 20 + 20_000, "{value}, expected about {expected}");
    }

    #[test]
    fn a_bulk_stream_gets_the_rate_and_a_seconds_burst() {
        for rate in [10_000, 300_000, MB, 40 * MB] {
            let mut pond = Pond::new();
            let group = pond.group(rate, &[]);
            pond.stream(group);
            pond.run(Duration::from_secs(9));
            about(pond.total(), 10 * rate);
        }
    }

    #[test]
    fn streams_of_one_bucket_get_equal_parts() {
        let mut pond = Pond::new();
        let group = pond.group(MB, &[]);
        pond.streams(group, 10);
        pond.run(Duration::from_secs(19));
        about(pond.total(), 20 * MB);
        let first = pond.moved();
        pond.run(Duration::from_secs(20));
        for (now, before) in pond.moved().iter().zip(first) {
            about(now - before, 2 * MB);
        }
    }

    #[test]
    fn the_two_ways_of_a_stream_draw_on_one_bucket() {
        let (mut brakes, now) = (Brakes::default(), Instant::now());
        let group = brakes.group();
        brakes.set(group, &ByteLimits { own: MB, shares: Vec::new() }, now);
        let mut brake = Brake::new(group);
        assert_eq!(brakes.allow(&mut brake, (0, 0), Way::In, now), MB as usize);
        brakes.spent(&mut brake, Way::In, MB);
        assert_eq!(brakes.allow(&mut brake, (0, 0), Way::Out, now), 0);
    }

    #[test]
    fn a_shared_bucket_holds_for_all_its_groups_together() {
        let mut pond = Pond::new();
        let groups = [pond.group(0, &[("acme", MB)]), pond.group(0, &[("acme", MB)])];
        groups.into_iter().for_each(|group| pond.streams(group, 1));
        pond.run(Duration::from_secs(19));
        about(pond.total(), 20 * MB);
        let free = pond.group(0, &[]);
        pond.stream(free);
        pond.run(Duration::from_millis(1));
        assert!(pond.moved()[2] >= 256 * 1024, "another one's is not concerned");
    }

    #[test]
    fn the_lowest_of_several_buckets_counts_and_nobody_starves_between_them() {
        let mut pond = Pond::new();
        let slow = pond.group(MB / 4, &[("project", MB), ("acme", 2 * MB)]);
        let quick = pond.group(0, &[("project", MB), ("acme", 2 * MB)]);
        let other = pond.group(0, &[("acme", 2 * MB)]);
        for group in [slow, quick, other] {
            pond.streams(group, 3);
        }
        pond.run(Duration::from_secs(10));
        let first = pond.moved();
        pond.run(Duration::from_secs(20));
        let per_s: Vec<u64> = pond.moved().iter().zip(&first).map(|(now, then)| (now - then) / 20).collect();
        let by_group: Vec<u64> = per_s.chunks(3).map(|three| three.iter().sum()).collect();
        assert!(by_group[0] <= MB / 4 + MB / 50, "{by_group:?}");
        assert!(by_group[0] + by_group[1] <= MB + MB / 20, "{by_group:?}");
        about(by_group.iter().sum::<u64>(), 2 * MB);
        assert!(by_group[0] >= MB / 6 && by_group[2] >= MB / 2, "{by_group:?}");
    }

    #[test]
    fn another_rate_holds_at_once_and_none_releases_who_waits() {
        let mut pond = Pond::new();
        let group = pond.group(10_000, &[]);
        pond.stream(group);
        pond.run(Duration::from_secs(10));
        let before = pond.total();
        pond.set(group, 10 * MB, &[]);
        pond.run(Duration::from_secs(2));
        about(pond.total() - before, 20 * MB);
        pond.run(Duration::from_secs(1));
        let (brake, _) = &mut pond.streams[0];
        while let room @ 1.. = pond.brakes.allow(brake, (0, 0), Way::In, pond.now) {
            pond.brakes.spent(brake, Way::In, room as u64);
        }
        pond.set(group, 0, &[]);
        assert_eq!(pond.brakes.allow(&mut pond.streams[0].0, (0, 0), Way::In, pond.now), usize::MAX);
        assert!(pond.brakes.buckets.is_empty() && pond.brakes.busy.is_empty());
    }

    #[test]
    fn what_one_bucket_gave_is_not_taken_for_anothers_when_that_is_gone() {
        let mut pond = Pond::new();
        let (slow, other) = (pond.group(MB, &[("acme", MB)]), pond.group(0, &[("acme", MB)]));
        pond.streams(slow, 1);
        pond.streams(other, 1);
        pond.run(Duration::from_secs(3));
        // Its own bucket has given to each, and the next one has not been asked.
        let [mut asks, mut moves] = [(); 2].map(|()| {
            let mut brake = Brake::new(slow);
            assert_eq!(pond.brakes.allow(&mut brake, (0, 0), Way::In, pond.now), 0);
            brake.granted(Way::In, 200_000);
            brake
        });
        pond.set(slow, 0, &[("acme", MB)]);
        assert_eq!(pond.brakes.allow(&mut asks, (0, 0), Way::In, pond.now), 0, "the shared one is empty");
        let held = |pond: &Pond| pond.brakes.buckets[pond.brakes.shared["acme"]].held;
        let before = held(&pond);
        pond.brakes.spent(&mut moves, Way::In, 1_000);
        assert!((before - held(&pond) - 1_000.0).abs() < 1.0, "all of it is the shared one's");
    }

    #[test]
    fn datagrams_beyond_the_rate_are_lost_and_leave_half_to_streams_that_wait() {
        let mut pond = Pond::new();
        let flows = pond.group(0, &[("acme", MB)]);
        let brake = Brake::new(flows);
        let passed = |pond: &mut Pond| (0..20).filter(|_| pond.brakes.passes(&brake, 1_000, pond.now)).count() as u64;
        let mut alone = 0;
        for _ in 0..1_900 {
            pond.now += Duration::from_millis(1);
            alone += 1_000 * passed(&mut pond);
        }
        about(alone, 3 * MB - MB / 10);
        assert!(pond.brakes.books(flows).1 > 10_000);
        let streams = pond.group(0, &[("acme", MB)]);
        pond.stream(streams);
        let mut beside = 0;
        for _ in 0..10_000 {
            pond.run(Duration::from_millis(1));
            beside += 1_000 * passed(&mut pond);
        }
        about(beside + pond.total(), 10 * MB);
        assert!(pond.total() >= 4 * MB, "{}", pond.total());
    }

    #[test]
    fn who_is_gone_costs_nobody_anything() {
        let mut pond = Pond::new();
        let group = pond.group(MB, &[]);
        pond.streams(group, 1_000);
        pond.run(Duration::from_millis(1));
        let mut woken = Vec::new();
        pond.brakes.give_out(pond.now + Duration::from_secs(1), &mut |waiter, _| {
            woken.push(waiter.relay);
            waiter.relay == 999
        });
        assert!(woken.contains(&999));
        assert_eq!(pond.brakes.next(), None);
    }

    #[test]
    fn a_group_that_is_over_leaves_nothing() {
        let mut pond = Pond::new();
        let group = pond.group(MB, &[("acme", MB), ("shop", MB)]);
        pond.stream(group);
        pond.run(Duration::from_secs(2));
        pond.brakes.forget(group);
        assert!(pond.brakes.buckets.is_empty() && pond.brakes.shared.is_empty() && pond.brakes.busy.is_empty());
    }
}
