//! When a clause speaks: minutes of a week and a table of offsets, as the control plane has compiled them. No database
//! of time zones here: a moment for which the table has no offset is unknown.

use serde::Deserialize;

const DAY_MINUTES: i64 = 24 * 60;
const WEEK_MINUTES: i64 = 7 * DAY_MINUTES;
/// 1 January 1970 was a Thursday: so many minutes after a Monday's beginning.
const MONDAY_OF_EPOCH: i64 = 3 * DAY_MINUTES;
/// Beyond this no arithmetic is done.
const SECONDS_MAX: i64 = 1 << 53;

/// `AccessSchedule` of `drtp.api.snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(super) struct Schedule {
    not_before: Option<i64>,
    not_after: Option<i64>,
    windows: Vec<(i64, i64)>,
    offsets: Vec<(i64, i64)>,
    offsets_end: i64,
}

impl Schedule {
    /// Windows inside the week, offsets in order and within a day.
    pub(super) fn is_readable(&self) -> bool {
        let moments = self.not_before.iter().chain(&self.not_after).chain([&self.offsets_end]);
        moments.chain(self.offsets.iter().map(|(since, _)| since)).all(|moment| moment.unsigned_abs() <= 1 << 53)
            && self.windows.iter().all(|(begin, end)| 0 <= *begin && begin < end && *end <= WEEK_MINUTES)
            && self.offsets.windows(2).all(|pair| pair[0].0 < pair[1].0)
            && self.offsets.iter().all(|(_, seconds)| seconds.unsigned_abs() < 86_400)
    }

    /// Whether it speaks at `now`, in Unix seconds. `None`: nobody knows what the zone's clocks show then.
    pub(super) fn speaks(&self, now: i64) -> Option<bool> {
        let now = now.clamp(-SECONDS_MAX, SECONDS_MAX);
        if self.not_before.is_some_and(|first| now < first) || self.not_after.is_some_and(|end| now >= end) {
            return Some(false);
        }
        if self.windows.is_empty() {
            return Some(true);
        }
        let minute = minute_of_week(now + self.offset_at(now)?);
        Some(self.windows.iter().any(|(begin, end)| *begin <= minute && minute < *end))
    }

    /// The next moment after `now` at which the answer may be another.
    pub(super) fn edge(&self, now: i64) -> Option<i64> {
        let now = now.clamp(-SECONDS_MAX, SECONDS_MAX);
        let mut moments: Vec<i64> = self.not_before.iter().chain(&self.not_after).copied().collect();
        if !self.windows.is_empty() {
            moments.push(self.offsets_end);
            moments.extend(self.offsets.iter().map(|(since, _)| since));
            if let Some(offset) = self.offset_at(now) {
                let minute = minute_of_week(now + offset);
                let begun = now - (now + offset).rem_euclid(60);
                let bounds = self.windows.iter().flat_map(|(begin, end)| [*begin, *end]);
                moments.extend(bounds.map(|bound| begun + 60 * ((bound - minute - 1).rem_euclid(WEEK_MINUTES) + 1)));
            }
        }
        moments.into_iter().filter(|moment| *moment > now).min()
    }

    fn offset_at(&self, now: i64) -> Option<i64> {
        if now >= self.offsets_end {
            return None;
        }
        let after = self.offsets.partition_point(|(since, _)| *since <= now);
        Some(self.offsets.get(after.checked_sub(1)?)?.1)
    }
}

fn minute_of_week(local: i64) -> i64 {
    (local.div_euclid(60) + MONDAY_OF_EPOCH).rem_euclid(WEEK_MINUTES)
}
