//! Datagrams that wait for a socket, side by side, so that a run of equal length is one slice and one send.

use std::collections::VecDeque;

/// Sent bytes in front are cut off when they are at least this much, and half of the buffer.
const CUT_BYTES: usize = 64 * 1024;

/// Neighbours of one length.
#[derive(Debug, Clone, Copy)]
struct Run {
    count: usize,
    each: usize,
}

/// Oldest first.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    bytes: Vec<u8>,
    at: usize,
    runs: VecDeque<Run>,
    count: usize,
}

/// What one send takes.
#[derive(Debug)]
pub(crate) struct Front<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) count: usize,
    /// Length of each but the last, which may be shorter.
    pub(crate) each: usize,
}

impl Waiting {
    /// Datagrams.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether it has a buffer at all.
    pub(crate) fn is_bare(&self) -> bool {
        self.bytes.capacity() == 0
    }

    /// Gives an empty queue a buffer.
    pub(crate) fn furnish(&mut self, buffer: Vec<u8>) {
        debug_assert!(self.is_empty() && buffer.is_empty(), "datagrams would be lost");
        self.bytes = buffer;
    }

    /// Takes the buffer of an empty queue away: whoever waits for nothing holds nothing.
    pub(crate) fn strip(&mut self) -> Vec<u8> {
        debug_assert!(self.is_empty(), "datagrams would be lost");
        std::mem::take(self).bytes
    }

    /// One more, behind its header.
    pub(crate) fn push(&mut self, header: &[u8], datagram: &[u8]) {
        if self.at >= CUT_BYTES && self.at >= self.bytes() {
            self.bytes.drain(..self.at);
            self.at = 0;
        }
        self.bytes.extend_from_slice(header);
        self.bytes.extend_from_slice(datagram);
        self.count += 1;
        let each = header.len() + datagram.len();
        match self.runs.back_mut() {
            Some(run) if run.each == each => run.count += 1,
            _ => self.runs.push_back(Run { count: 1, each }),
        }
    }

    /// The oldest ones that one send may take: neighbours of one length, and a shorter one that ends them. `limit` says
    /// how many of a length.
    pub(crate) fn front(&self, limit: impl Fn(usize) -> usize) -> Option<Front<'_>> {
        let Run { count, each } = *self.runs.front()?;
        let most = limit(each).max(1);
        let mut taken = count.min(most);
        let mut length = taken * each;
        if let Some(tail) =
            self.runs.get(1).filter(|tail| taken == count && taken < most && (1..each).contains(&tail.each))
        {
            (taken, length) = (taken + 1, length + tail.each);
        }
        Some(Front { bytes: &self.bytes[self.at..self.at + length], count: taken, each })
    }

    /// The oldest `count` are gone.
    pub(crate) fn forget(&mut self, count: usize) {
        for _ in 0..count {
            let Some(run) = self.runs.front_mut() else { break };
            (self.at, self.count, run.count) = (self.at + run.each, self.count - 1, run.count - 1);
            if run.count == 0 {
                self.runs.pop_front();
            }
        }
        if self.count == 0 {
            self.bytes.clear();
            self.at = 0;
        }
    }

    /// Each datagram, oldest first.
    pub(crate) fn each(&self) -> impl Iterator<Item = &[u8]> {
        let lengths = self.runs.iter().flat_map(|run| std::iter::repeat_n(run.each, run.count));
        lengths.scan(self.at, |at, length| {
            let datagram = &self.bytes[*at..*at + length];
            *at += length;
            Some(datagram)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(waiting: &mut Waiting, most: usize) -> Vec<(usize, usize, Vec<u8>)> {
        let mut sends = Vec::new();
        while let Some(front) = waiting.front(|each| if each == 0 { 1 } else { most }) {
            let (count, each, bytes) = (front.count, front.each, front.bytes.to_vec());
            waiting.forget(count);
            sends.push((count, each, bytes));
        }
        sends
    }

    #[test]
    fn neighbours_of_one_length_go_together_and_a_shorter_one_ends_them() {
        let mut waiting = Waiting::default();
        for datagram in ["aaa", "bbb", "cc", "ddd", "eeeee", "", ""] {
            waiting.push(b"", datagram.as_bytes());
        }
        let sends: Vec<(usize, usize, String)> = taken(&mut waiting, 64)
            .into_iter()
            .map(|(count, each, bytes)| (count, each, String::from_utf8(bytes).unwrap()))
            .collect();
        let expected = [(3, 3, "aaabbbcc"), (1, 3, "ddd"), (1, 5, "eeeee"), (1, 0, ""), (1, 0, "")]
            .map(|(c, e, b)| (c, e, b.to_owned()));
        assert_eq!(sends, expected);
        assert!(waiting.is_empty());
    }

    #[test]
    fn each_datagram_has_its_header_in_front() {
        let mut waiting = Waiting::default();
        waiting.push(b"HH", b"one");
        waiting.push(b"HH", b"");
        assert_eq!(waiting.each().collect::<Vec<_>>(), [b"HHone".as_slice(), b"HH"]);
        assert_eq!(waiting.bytes(), 7);
    }

    proptest! {
        #[test]
        fn cut_again_at_its_lengths_every_send_is_what_was_put_in(
            sizes in proptest::collection::vec(prop_oneof![Just(0_usize), Just(64), Just(1_200), 0_usize..9_000], 0..300),
            most in 1_usize..70,
            forget_every in 1_usize..50,
        ) {
            let (mut waiting, mut expected) = (Waiting::default(), VecDeque::new());
            for (at, size) in sizes.iter().enumerate() {
                let datagram = vec![at as u8; *size];
                waiting.push(b"", &datagram);
                expected.push_back(datagram);
                if at % forget_every == 0 {
                    waiting.forget(1);
                    expected.pop_front();
                }
            }
            prop_assert_eq!(waiting.count(), expected.len());
            prop_assert_eq!(waiting.bytes(), expected.iter().map(Vec::len).sum::<usize>());
            for (count, each, bytes) in taken(&mut waiting, most) {
                prop_assert!(count <= most.max(1));
                let cut: Vec<&[u8]> = super::super::batch::split(&bytes, each).collect();
                prop_assert_eq!(cut.len(), count);
                for one in cut {
                    prop_assert_eq!(Some(one.to_vec()), expected.pop_front());
                }
            }
            prop_assert!(expected.is_empty());
        }
    }
}
