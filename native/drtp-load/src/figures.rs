//! Latencies without loss of precision where it counts, and percentiles of them.

use std::time::Duration;

use serde::Serialize;

/// Linear buckets within each power of two: within 1.6 % of the truth at every size.
const SUB_BITS: u32 = 6;

/// How often each latency was seen, in nanoseconds.
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_ns: u64,
}

/// What the harness reads, in microseconds.
#[derive(Serialize)]
#[allow(clippy::struct_field_names, reason = "units come last")]
pub struct Latency {
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
}

impl Histogram {
    /// Empty.
    pub fn new() -> Self {
        Self { counts: vec![0; (64 << SUB_BITS) as usize], total: 0, max_ns: 0 }
    }

    /// Notes one.
    pub fn note(&mut self, latency: Duration) {
        let ns = latency.as_nanos() as u64;
        self.counts[index(ns)] += 1;
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many were noted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The usual percentiles.
    pub fn latency(&self) -> Latency {
        let us = |part: f64| self.percentile(part) as f64 / 1e3;
        Latency {
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: self.max_ns as f64 / 1e3,
        }
    }

    fn percentile(&self, part: f64) -> u64 {
        let wanted = (self.total as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && *count > 0 {
                return value(at).min(self.max_ns);
            }
        }
        self.max_ns
    }
}

/// Buckets: small values have one each; above, each power of two has as many as all the small ones together.
fn index(ns: u64) -> usize {
    let power = (ns | 1).ilog2();
    if power < SUB_BITS {
        return ns as usize;
    }
    let shift = power - SUB_BITS;
    (((shift + 1) << SUB_BITS) as usize) + ((ns >> shift) as usize & ((1 << SUB_BITS) - 1))
}

/// The largest value of a bucket.
fn value(index: usize) -> u64 {
    let (row, column) = (index >> SUB_BITS, index & ((1 << SUB_BITS) - 1));
    if row == 0 {
        return column as u64;
    }
    let shift = row - 1;
    ((((1 << SUB_BITS) | column) as u64 + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::{Histogram, index, value};
    use std::time::Duration;

    #[test]
    fn a_bucket_holds_what_it_names_within_two_percent() {
        for ns in (0..200).chain([1_000, 12_345, 999_999, 1_234_567_890, 60_000_000_000]) {
            let named = value(index(ns));
            assert!(named >= ns && named as f64 <= ns as f64 * 1.02 + 1.0, "{ns} reads as {named}");
        }
    }

    #[test]
    fn percentiles_are_by_rank() {
        let mut histogram = Histogram::new();
        (1..=100).for_each(|us| histogram.note(Duration::from_micros(us)));
        let latency = histogram.latency();
        assert!((latency.p50_us - 50.0).abs() < 1.0, "{}", latency.p50_us);
        assert!((latency.p99_us - 99.0).abs() < 2.0, "{}", latency.p99_us);
        assert!((latency.max_us - 100.0).abs() < f64::EPSILON);
    }
}
