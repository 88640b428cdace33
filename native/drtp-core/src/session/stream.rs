//! One stream's books: offsets, credit and its tuning, half-close, and what waits for a MOVE.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Loopback round trips are shorter than the driver's turns, so tuning never assumes less than this.
const ROUND_TRIP_MIN: Duration = Duration::from_millis(2);
/// A stream that brings at most this much in one span is sparse: somebody waits for each of its answers.
const SPARSE_BYTES: u32 = 32 * 1024;
const SPAN_MS: u32 = 50;
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

/// Now, and the session's age then: all that its streams keep of an instant, for it is short.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Instant,
    /// After 49 days from 0 again.
    pub(super) ms: u32,
}

/// Pieces that came on a lane ahead of the MOVE to it; few streams ever have any.
#[derive(Debug, Default)]
pub(super) struct Ahead(pub(super) Vec<(u8, Held)>);

/// How the window of a stream that carries much is tuned; most never need it.
#[derive(Debug)]
struct Tuning {
    at: Instant,
    consumed: u64,
    /// Bytes a second that the local socket took when it was last looked at.
    rate: f64,
    /// Of the window, what the budget granted.
    extra: u64,
}

/// Thousands of them idle: every byte here counts, and what only a busy one needs is in a box.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) send_offset: u64,
    pub(super) send_max: u64,
    /// Bytes handed on in order.
    pub(super) recv_offset: u64,
    /// Bytes announced by the peer, held ones included: what credit is checked against.
    pub(super) recv_total: u64,
    pub(super) recv_max: u64,
    consumed: u64,
    ahead: Option<Box<Ahead>>,
    tuning: Option<Box<Tuning>>,
    window: u32,
    /// When it was opened, and when its span began.
    opened_ms: u32,
    span_at_ms: u32,
    span_bytes: u32,
    pub(super) send_lane: u8,
    pub(super) recv_lane: u8,
    pub(super) local_fin: bool,
    pub(super) remote_fin: bool,
    /// The sending side has finished, though its FIN may still be held behind a MOVE.
    pub(super) remote_fin_seen: bool,
    /// The local service has not answered yet.
    pub(super) half_open: bool,
    bulk: bool,
}

impl Stream {
    pub(super) fn new(lane: u8, send_window: u32, recv_window: u32, at: Moment) -> Self {
        Self {
            send_offset: 0,
            send_max: u64::from(send_window),
            recv_offset: 0,
            recv_total: 0,
            recv_max: u64::from(recv_window),
            consumed: 0,
            ahead: None,
            tuning: None,
            window: recv_window,
            opened_ms: at.ms,
            span_at_ms: at.ms,
            span_bytes: 0,
            send_lane: lane,
            recv_lane: lane,
            local_fin: false,
            remote_fin: false,
            remote_fin_seen: false,
            half_open: true,
            bulk: false,
        }
    }

    /// What waits for a MOVE.
    pub(super) fn held(&self) -> &[(u8, Held)] {
        self.ahead.as_ref().map_or(&[], |ahead| &ahead.0)
    }

    /// The same, to add to.
    pub(super) fn held_mut(&mut self) -> &mut Vec<(u8, Held)> {
        &mut self.ahead.get_or_insert_default().0
    }

    pub(super) fn take_held(&mut self) -> Vec<(u8, Held)> {
        self.ahead.take().map(|ahead| ahead.0).unwrap_or_default()
    }

    /// A FIN waits that came on `lane`.
    pub(super) fn holds_fin_of(&self, lane: u8) -> bool {
        self.held().iter().any(|(held, piece)| *held == lane && matches!(piece, Held::Fin))
    }

    /// Bytes came. Whether they are those of a sparse stream.
    pub(super) fn is_sparse(&mut self, bytes: usize, at: Moment) -> bool {
        let elapsed = at.ms.wrapping_sub(self.span_at_ms);
        if elapsed >= SPAN_MS {
            self.bulk = self.span_bytes > SPARSE_BYTES && elapsed < 2 * SPAN_MS;
            (self.span_at_ms, self.span_bytes) = (at.ms, 0);
        }
        self.span_bytes = self.span_bytes.saturating_add(bytes as u32);
        !self.bulk && self.span_bytes <= SPARSE_BYTES
    }

    pub(super) fn done(&self) -> bool {
        self.local_fin && self.remote_fin
    }

    pub(super) fn uses(&self, lane: u8) -> bool {
        self.send_lane == lane || self.recv_lane == lane || self.held().iter().any(|(held, _)| *held == lane)
    }

    /// The local socket accepted `bytes` more. Returns the new limit when it is worth a WINDOW frame.
    /// `beside_sparse`: the path's shortest round trip, if sparse streams wait beside this one.
    pub(super) fn consume(
        &mut self,
        bytes: u64,
        at: Moment,
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
        self.tune(at, round_trip.unwrap_or_default().max(ROUND_TRIP_MIN), window_max, budget);
        // What was announced is never taken back.
        self.recv_max = self.recv_max.max(self.consumed + self.window_beside(beside_sparse));
        Some(self.recv_max)
    }

    /// Beside sparse streams a bulk one gets what the idle path holds and a little more: what is under way beyond that
    /// only waits in a queue, and the sparse ones wait behind it. `floor`: the path's shortest round trip.
    fn window_beside(&self, floor: Option<Duration>) -> u64 {
        let rate = self.tuning.as_ref().map_or(0.0, |tuning| tuning.rate);
        let held = |floor: Duration| (1.25 * rate * floor.as_secs_f64()) as u64;
        let pinned = floor.map(|floor| BESIDE_SPARSE_BYTES + held(floor));
        pinned.map_or(u64::from(self.window), |pinned| pinned.min(u64::from(self.window)))
    }

    /// The window follows 2 × round trip × drain rate: up at once, down by an eighth at a time.
    fn tune(&mut self, at: Moment, round_trip: Duration, window_max: u64, budget: &Budget) {
        let now = at.now;
        let open_for = Duration::from_millis(u64::from(at.ms.wrapping_sub(self.opened_ms)));
        let opened = now.checked_sub(open_for).unwrap_or(now);
        let tuning =
            self.tuning.get_or_insert_with(|| Box::new(Tuning { at: opened, consumed: 0, rate: 0.0, extra: 0 }));
        let elapsed = now.saturating_duration_since(tuning.at);
        if elapsed < round_trip {
            return;
        }
        let rate = (self.consumed - tuning.consumed) as f64 / elapsed.as_secs_f64();
        // A pause of the sender is not the path's pace: down by an eighth at a time.
        tuning.rate = rate.max(tuning.rate * 0.875);
        let want = ((2.0 * rate * round_trip.as_secs_f64()) as u64).min(window_max);
        (tuning.at, tuning.consumed) = (now, self.consumed);
        let window = u64::from(self.window);
        if want > window {
            let granted = budget.take(want - window);
            tuning.extra += granted;
            // `window_max` has 32 bits.
            self.window += granted as u32;
        } else if want < window / 4 && tuning.extra > 0 {
            let back = (window / 8).min(tuning.extra);
            // A limit once announced is never taken back, so the window shrinks only as far as it was passed.
            let back = back.min((self.consumed + window).saturating_sub(self.recv_max));
            budget.give(back);
            tuning.extra -= back;
            self.window -= back as u32;
        }
    }

    /// Gives back what tuning took.
    pub(super) fn release(&mut self, budget: &Budget) {
        budget.give(self.tuning.take().map_or(0, |tuning| tuning.extra));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With its id and its place in the table of ids. A visitor who stays has one at each end.
    #[test]
    fn an_idle_stream_takes_less_than_a_hundred_bytes() {
        assert!(size_of::<Stream>() <= 88, "{}", size_of::<Stream>());
    }
}
