//! One stream's books: offsets, credit and its tuning, half-close, and what waits for a MOVE.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Loopback round trips are shorter than the driver's turns, so tuning never assumes less than this.
const ROUND_TRIP_MIN: Duration = Duration::from_millis(2);
/// A stream that brings at most this much in one span is sparse: somebody waits for each of its answers.
const SPARSE_BYTES: u64 = 32 * 1024;
const SPAN: Duration = Duration::from_millis(50);
/// What a bulk stream may have under way beside sparse ones, beyond what the path itself holds.
const BESIDE_SPARSE_BYTES: u64 = 128 * 1024;

/// Credit beyond the initial windows, shared by all sessions of a process.
#[derive(Debug, Clone)]
pub struct Budget {
    used: Arc<AtomicU64>,
    max: u64,
}

impl Budget {
    /// A budget of `max` bytes.
    pub fn new(max: u64) -> Self {
        Self { used: Arc::new(AtomicU64::new(0)), max }
    }

    /// Takes up to `want`; returns what was granted.
    pub(crate) fn take(&self, want: u64) -> u64 {
        let granted = want.min(self.max.saturating_sub(self.used.load(Ordering::Relaxed)));
        self.used.fetch_add(granted, Ordering::Relaxed);
        granted
    }

    pub(crate) fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes granted now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// What came on a lane before the MOVE that makes it current.
#[derive(Debug)]
pub(super) enum Held {
    Data(Vec<u8>),
    Fin,
    Move { lane: u8, offset: u64 },
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) send_lane: u8,
    pub(super) recv_lane: u8,
    pub(super) send_offset: u64,
    pub(super) send_max: u64,
    /// Bytes handed on in order.
    pub(super) recv_offset: u64,
    /// Bytes announced by the peer, held ones included: what credit is checked against.
    pub(super) recv_total: u64,
    pub(super) recv_max: u64,
    consumed: u64,
    window: u64,
    extra: u64,
    pub(super) local_fin: bool,
    pub(super) remote_fin: bool,
    /// The sending side has finished, though its FIN may still be held behind a MOVE.
    pub(super) remote_fin_seen: bool,
    /// The local service has not answered yet.
    pub(super) half_open: bool,
    pub(super) held: Vec<(u8, Held)>,
    tuned_at: Instant,
    tuned_consumed: u64,
    /// Bytes a second that the local socket took when it was last looked at.
    rate: f64,
    span_at: Instant,
    span_bytes: u64,
    bulk: bool,
}

impl Stream {
    pub(super) fn new(lane: u8, send_window: u32, recv_window: u32, now: Instant) -> Self {
        Self {
            send_lane: lane,
            recv_lane: lane,
            send_offset: 0,
            send_max: u64::from(send_window),
            recv_offset: 0,
            recv_total: 0,
            recv_max: u64::from(recv_window),
            consumed: 0,
            window: u64::from(recv_window),
            extra: 0,
            local_fin: false,
            remote_fin: false,
            remote_fin_seen: false,
            half_open: true,
            held: Vec::new(),
            tuned_at: now,
            tuned_consumed: 0,
            rate: 0.0,
            span_at: now,
            span_bytes: 0,
            bulk: false,
        }
    }

    /// Bytes came. Whether they are those of a sparse stream.
    pub(super) fn is_sparse(&mut self, bytes: u64, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.span_at);
        if elapsed >= SPAN {
            self.bulk = self.span_bytes > SPARSE_BYTES && elapsed < 2 * SPAN;
            (self.span_at, self.span_bytes) = (now, 0);
        }
        self.span_bytes += bytes;
        !self.bulk && self.span_bytes <= SPARSE_BYTES
    }

    pub(super) fn done(&self) -> bool {
        self.local_fin && self.remote_fin
    }

    pub(super) fn uses(&self, lane: u8) -> bool {
        self.send_lane == lane || self.recv_lane == lane || self.held.iter().any(|(held, _)| *held == lane)
    }

    /// The local socket accepted `bytes` more. Returns the new limit when it is worth a WINDOW frame.
    /// `beside_sparse`: the path's shortest round trip, if sparse streams wait beside this one.
    pub(super) fn consume(
        &mut self,
        bytes: u64,
        now: Instant,
        round_trip: Option<Duration>,
        window_max: u64,
        budget: &Budget,
        beside_sparse: Option<Duration>,
    ) -> Option<u64> {
        self.consumed = (self.consumed + bytes).min(self.recv_offset);
        if self.remote_fin_seen {
            return None;
        }
        let window = self.window_beside(beside_sparse);
        // A short window returns in smaller pieces, or the path would run empty between them.
        let worth = if beside_sparse.is_some() { window / 8 } else { window / 4 };
        if self.consumed + window < self.recv_max + worth {
            return None;
        }
        self.tune(now, round_trip.unwrap_or_default().max(ROUND_TRIP_MIN), window_max, budget);
        // What was announced is never taken back.
        self.recv_max = self.recv_max.max(self.consumed + self.window_beside(beside_sparse));
        Some(self.recv_max)
    }

    /// Beside sparse streams a bulk one gets what the idle path holds and a little more: what is under way beyond that
    /// only waits in a queue, and the sparse ones wait behind it. `floor`: the path's shortest round trip.
    fn window_beside(&self, floor: Option<Duration>) -> u64 {
        let held = |floor: Duration| (1.25 * self.rate * floor.as_secs_f64()) as u64;
        let pinned = floor.map(|floor| BESIDE_SPARSE_BYTES + held(floor));
        pinned.map_or(self.window, |pinned| pinned.min(self.window))
    }

    /// The window follows 2 × round trip × drain rate: up at once, down by an eighth at a time.
    fn tune(&mut self, now: Instant, round_trip: Duration, window_max: u64, budget: &Budget) {
        let elapsed = now.saturating_duration_since(self.tuned_at);
        if elapsed < round_trip {
            return;
        }
        let rate = (self.consumed - self.tuned_consumed) as f64 / elapsed.as_secs_f64();
        // A pause of the sender is not the path's pace: down by an eighth at a time.
        self.rate = rate.max(self.rate * 0.875);
        let want = ((2.0 * rate * round_trip.as_secs_f64()) as u64).min(window_max);
        (self.tuned_at, self.tuned_consumed) = (now, self.consumed);
        if want > self.window {
            let granted = budget.take(want - self.window);
            self.extra += granted;
            self.window += granted;
        } else if want < self.window / 4 && self.extra > 0 {
            let back = (self.window / 8).min(self.extra);
            // A limit once announced is never taken back, so the window shrinks only as far as it was passed.
            let back = back.min((self.consumed + self.window).saturating_sub(self.recv_max));
            budget.give(back);
            self.extra -= back;
            self.window -= back;
        }
    }

    /// Gives back what tuning took.
    pub(super) fn release(&mut self, budget: &Budget) {
        budget.give(std::mem::take(&mut self.extra));
    }
}
