//! One lane of a session: its parser, the batch that waits to be sealed, and what its pings say.

use std::time::{Duration, Instant};

use super::datagrams::Datagrams;
use crate::config::Liveness;
use crate::frame::{Frame, Parser, put};
use crate::report::LaneStats;

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) parser: Parser,
    /// Frames that may overtake data: sealed first.
    pub(super) control: Vec<u8>,
    /// Frames whose order matters: DATA, FIN, MOVE.
    pub(super) data: Vec<u8>,
    pub(super) datagrams: Datagrams,
    pub(super) pings: Pings,
    /// The peer's HELLO came on this lane.
    pub(super) greeted: bool,
}

impl Lane {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            parser: Parser::default(),
            control: Vec::new(),
            data: Vec::new(),
            datagrams: Datagrams::default(),
            pings: Pings::new(now),
            greeted: false,
        }
    }

    pub(super) fn say(&mut self, stream: u32, frame: &Frame) {
        put(&mut self.control, stream, frame);
    }

    pub(super) fn say_in_order(&mut self, stream: u32, frame: &Frame) {
        put(&mut self.data, stream, frame);
    }

    pub(super) fn queued(&self) -> usize {
        self.control.len() + self.data.len() + self.datagrams.bytes()
    }

    /// Moves the batch into `out`, which is empty: control, datagrams, data. Swaps buffers where it can instead of copying.
    pub(super) fn take(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.control);
        self.datagrams.take(out);
        if out.is_empty() {
            std::mem::swap(&mut self.data, out);
        } else {
            out.append(&mut self.data);
        }
    }
}

/// A ping that waits for longer than this, and than four usual round trips, makes its path doubtful.
const OVERDUE: Duration = Duration::from_millis(250);

/// Liveness and round trips of one lane.
#[derive(Debug)]
pub(super) struct Pings {
    outstanding: Option<(u64, Instant)>,
    counted_late: bool,
    heard_at: Instant,
    next_at: Instant,
    nonce: u64,
    round_trip: Option<Duration>,
    /// The shortest of late, rising slowly: paths change.
    floor: Option<Duration>,
    jitter: Duration,
    loss: f64,
}

impl Pings {
    fn new(now: Instant) -> Self {
        Self {
            outstanding: None,
            counted_late: false,
            heard_at: now,
            next_at: now,
            nonce: 0,
            round_trip: None,
            floor: None,
            jitter: Duration::ZERO,
            loss: 0.0,
        }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    pub(super) fn round_trip_floor(&self) -> Option<Duration> {
        self.floor
    }

    /// A stream opened: the quick rhythm holds from now on.
    pub(super) fn hurry(&mut self, now: Instant, liveness: &Liveness) {
        self.next_at = self.next_at.min(now + millis(liveness.ping_ms));
    }

    pub(super) fn pong(&mut self, nonce: u64, now: Instant) {
        let Some((sent_nonce, sent_at)) = self.outstanding else { return };
        if sent_nonce != nonce {
            return;
        }
        self.outstanding = None;
        if !self.counted_late {
            self.loss *= 0.9;
        }
        self.sample(now.saturating_duration_since(sent_at));
    }

    /// Smoothed as RFC 6298 does; jitter as the mean deviation between neighbours (RFC 3550).
    pub(super) fn sample(&mut self, sample: Duration) {
        self.floor = Some(self.floor.map_or(sample, |floor| sample.min(floor + floor / 16)));
        match self.round_trip {
            None => self.round_trip = Some(sample),
            Some(smooth) => {
                let deviation = smooth.abs_diff(sample);
                self.jitter = (self.jitter * 15 + deviation) / 16;
                self.round_trip = Some((smooth * 7 + sample) / 8);
            }
        }
    }

    /// When an unanswered ping means death. Silence counts from what was last heard, which may be one interval before
    /// the ping; at least two thirds of the patience are left for the answer.
    fn dead_at(&self, sent: Instant, liveness: &Liveness, active: bool) -> Instant {
        let patience = millis(dead_ms(liveness, active));
        let before = millis(ping_ms(liveness, active)).min(patience / 3);
        sent.checked_sub(before).unwrap_or(sent).max(self.heard_at) + patience
    }

    pub(super) fn is_dead(&self, now: Instant, liveness: &Liveness, active: bool) -> bool {
        self.outstanding.is_some_and(|(_, sent)| now >= self.dead_at(sent, liveness, active))
    }

    /// Silent for longer than a ping takes, though not for so long that it counts as dead.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let patience = self.round_trip.map_or(OVERDUE, |usual| (usual * 4).max(OVERDUE));
        self.outstanding.is_some_and(|(_, sent)| self.heard_at < sent && now >= sent + patience)
    }

    /// When `tick` has something to do next.
    pub(super) fn due_at(&self, liveness: &Liveness, active: bool) -> Instant {
        match self.outstanding {
            Some((_, sent)) => {
                let dead_at = self.dead_at(sent, liveness, active);
                if self.counted_late { dead_at } else { dead_at.min(sent + millis(ping_ms(liveness, active))) }
            }
            None => self.next_at,
        }
    }

    /// Says whether a ping is to be sent now, with its nonce, or that the lane is dead. `unit` is in 0..1, for jitter.
    pub(super) fn tick(&mut self, now: Instant, liveness: &Liveness, active: bool, unit: f64) -> PingVerdict {
        let interval = millis(ping_ms(liveness, active));
        if let Some((_, sent)) = self.outstanding {
            if now >= self.dead_at(sent, liveness, active) {
                return PingVerdict::Dead;
            }
            if !self.counted_late && now >= sent + interval {
                self.counted_late = true;
                self.loss = self.loss * 0.9 + 0.1;
            }
            return PingVerdict::Quiet;
        }
        if now < self.next_at {
            return PingVerdict::Quiet;
        }
        self.nonce += 1;
        self.outstanding = Some((self.nonce, now));
        self.counted_late = false;
        let spread = if active { 1.0 } else { 0.8 + 0.4 * unit };
        self.next_at = now + interval.mul_f64(spread);
        PingVerdict::Send(self.nonce)
    }

    pub(super) fn stats(&self) -> LaneStats {
        LaneStats {
            round_trip_ms: self.round_trip.map(|d| d.as_secs_f64() * 1e3),
            round_trip_floor_ms: self.floor.map(|d| d.as_secs_f64() * 1e3),
            jitter_ms: self.jitter.as_secs_f64() * 1e3,
            loss: self.loss,
            ..LaneStats::default()
        }
    }
}

pub(super) enum PingVerdict {
    Quiet,
    Send(u64),
    Dead,
}

fn millis(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}

fn ping_ms(liveness: &Liveness, active: bool) -> u32 {
    if active { liveness.ping_ms } else { liveness.idle_ping_ms }
}

fn dead_ms(liveness: &Liveness, active: bool) -> u32 {
    if active { liveness.dead_ms } else { liveness.idle_dead_ms }
}
