//! Datagrams that wait for one lane. A flow that outruns it loses its own oldest ones, and nobody else's.

use std::collections::VecDeque;

use super::ById;
use crate::frame::{HEADER_BYTES, put_datagram};

/// What one flow may have waiting. In bytes it is several reads of whoever brings datagrams; small ones of one read may be
/// a thousand.
const FLOW_DATAGRAMS_MAX: usize = 2_048;
const FLOW_BYTES_MAX: usize = 256 * 1024;
/// From here on a flow's should be taken before the turn's end, and a lane's.
const FLOW_DATAGRAMS_SOON: usize = 512;
const FLOW_BYTES_SOON: usize = 64 * 1024;
const BYTES_SOON: usize = 256 * 1024;
/// What may wait in all; beyond it the fullest flow loses its oldest.
const BYTES_MAX: usize = 1024 * 1024;
const DATAGRAMS_MAX: usize = 16_384;
/// So many dropped ones may lie about before they are looked for to be forgotten: a search passes over them.
const DEAD_MAX: usize = 64;

/// One framed datagram.
#[derive(Debug)]
struct Waiting {
    stream: u32,
    length: usize,
    dropped: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Share {
    datagrams: usize,
    bytes: usize,
}

impl Share {
    fn is_over(&self) -> bool {
        self.datagrams > FLOW_DATAGRAMS_MAX || self.bytes > FLOW_BYTES_MAX
    }
}

/// The queue of one lane: frames side by side, so that a lane that keeps up takes them in one copy.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    frames: Vec<u8>,
    waiting: VecDeque<Waiting>,
    shares: ById<Share>,
    /// Of frames that are to go out, and of those that are not.
    live_bytes: usize,
    dead_bytes: usize,
    /// Frames that are not to go out.
    dead: usize,
    dropped: u64,
}

impl Datagrams {
    /// Adds a flow's datagrams. True: so much waits that it should be taken soon.
    pub(super) fn push_all<'a>(&mut self, stream: u32, datagrams: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut share = self.shares.get(&stream).copied().unwrap_or_default();
        for bytes in datagrams {
            put_datagram(&mut self.frames, stream, bytes);
            let length = HEADER_BYTES + bytes.len();
            self.waiting.push_back(Waiting { stream, length, dropped: false });
            self.live_bytes += length;
            share = Share { datagrams: share.datagrams + 1, bytes: share.bytes + length };
            if share.is_over() || self.is_over() {
                self.shares.insert(stream, share);
                self.drop_until_it_fits(stream);
                share = self.shares.get(&stream).copied().unwrap_or_default();
            }
        }
        if share.datagrams > 0 {
            self.shares.insert(stream, share);
        }
        share.datagrams >= FLOW_DATAGRAMS_SOON || share.bytes >= FLOW_BYTES_SOON || self.live_bytes >= BYTES_SOON
    }

    fn is_over(&self) -> bool {
        self.live_bytes > BYTES_MAX || self.waiting.len() - self.dead > DATAGRAMS_MAX
    }

    fn drop_until_it_fits(&mut self, stream: u32) {
        while self.shares.get(&stream).is_some_and(Share::is_over) {
            self.drop_oldest(stream);
        }
        while self.is_over() {
            let fullest = self.shares.iter().max_by_key(|(_, share)| share.bytes).map(|(stream, _)| *stream);
            let Some(fullest) = fullest else { break };
            self.drop_oldest(fullest);
        }
        if self.dead_bytes > BYTES_MAX || self.dead > DEAD_MAX.max(self.waiting.len() / 2) {
            self.compact();
        }
    }

    /// Bytes of frames that wait.
    pub(super) fn bytes(&self) -> usize {
        self.live_bytes
    }

    /// Dropped since the lane began.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Appends all that waits to `out`.
    pub(super) fn take(&mut self, out: &mut Vec<u8>) {
        if self.waiting.is_empty() {
            return;
        }
        if self.dead_bytes > 0 {
            self.compact();
        }
        if out.is_empty() {
            std::mem::swap(&mut self.frames, out);
        } else {
            out.append(&mut self.frames);
        }
        self.waiting.clear();
        self.shares.clear();
        self.live_bytes = 0;
    }

    fn drop_oldest(&mut self, stream: u32) {
        let oldest = self.waiting.iter_mut().find(|one| one.stream == stream && !one.dropped);
        let (Some(oldest), Some(share)) = (oldest, self.shares.get_mut(&stream)) else { return };
        oldest.dropped = true;
        share.datagrams -= 1;
        share.bytes -= oldest.length;
        self.live_bytes -= oldest.length;
        self.dead_bytes += oldest.length;
        self.dead += 1;
        self.dropped += 1;
    }

    /// Forgets the frames that were dropped.
    fn compact(&mut self) {
        let frames = std::mem::take(&mut self.frames);
        let mut rest = frames.as_slice();
        self.waiting.retain(|one| {
            let (frame, after) = rest.split_at(one.length);
            rest = after;
            if !one.dropped {
                self.frames.extend_from_slice(frame);
            }
            !one.dropped
        });
        (self.dead, self.dead_bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{DATAGRAM_BYTES_MAX, Item, Parser};

    impl Datagrams {
        fn push(&mut self, stream: u32, bytes: &[u8]) -> bool {
            self.push_all(stream, std::iter::once(bytes))
        }
    }

    fn taken(queue: &mut Datagrams) -> Vec<(u32, Vec<u8>)> {
        let mut wire = Vec::new();
        queue.take(&mut wire);
        let (mut parser, mut input, mut seen) = (Parser::default(), wire.as_slice(), Vec::new());
        while let Some(item) = parser.next(&mut input).unwrap() {
            let Item::Datagram { stream, bytes } = item else { panic!("{item:?}") };
            seen.push((stream, bytes.into_owned()));
        }
        seen
    }

    #[test]
    fn a_flow_that_outruns_its_lane_loses_its_own_oldest() {
        let mut queue = Datagrams::default();
        queue.push(1, b"quiet");
        for n in 0_u32..10_000 {
            queue.push(2, &n.to_be_bytes());
        }
        let seen = taken(&mut queue);
        assert_eq!(seen[0], (1, b"quiet".to_vec()));
        assert_eq!(seen.len(), 1 + FLOW_DATAGRAMS_MAX);
        assert_eq!(seen.last(), Some(&(2, 9_999_u32.to_be_bytes().to_vec())));
        assert_eq!(queue.dropped(), 10_000 - FLOW_DATAGRAMS_MAX as u64);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn dropped_ones_are_forgotten_before_a_search_for_the_oldest_gets_long() {
        let mut queue = Datagrams::default();
        for _ in 0..100_000 {
            queue.push(1, b"");
            assert!(queue.waiting.len() <= 2 * FLOW_DATAGRAMS_MAX + 2);
        }
        assert_eq!(taken(&mut queue).len(), FLOW_DATAGRAMS_MAX);
    }

    #[test]
    fn empty_datagrams_of_many_flows_are_counted_too() {
        let mut queue = Datagrams::default();
        for n in 0..20_000 {
            queue.push(1 + n % 100, b"");
        }
        assert_eq!(taken(&mut queue).len(), DATAGRAMS_MAX);
        assert_eq!(queue.dropped(), 20_000 - DATAGRAMS_MAX as u64);
    }

    #[test]
    fn the_largest_datagrams_pass_a_few_at_a_time() {
        let mut queue = Datagrams::default();
        for _ in 0..100 {
            queue.push(3, &[7; DATAGRAM_BYTES_MAX]);
        }
        assert_eq!(taken(&mut queue).len(), FLOW_BYTES_MAX / (HEADER_BYTES + DATAGRAM_BYTES_MAX));
    }

    proptest! {
        #[test]
        fn what_comes_out_went_in_in_order_within_the_caps(
            pushes in proptest::collection::vec((1_u32..6, 0_usize..40_000), 0..400),
            take_every in 1_usize..200,
        ) {
            let mut queue = Datagrams::default();
            let mut expected: Vec<(u32, Vec<u8>)> = Vec::new();
            let mut came = 0;
            for (at, (stream, length)) in pushes.iter().enumerate() {
                let mut body = vec![0; *length];
                body.extend_from_slice(&(at as u32).to_be_bytes());
                queue.push(*stream, &body);
                expected.push((*stream, body));
                prop_assert!(queue.bytes() <= BYTES_MAX);
                prop_assert!(queue.frames.len() <= 2 * BYTES_MAX + HEADER_BYTES + 40_004);
                if at % take_every == 0 {
                    let seen = taken(&mut queue);
                    came += seen.len();
                    let mut rest = expected.drain(..);
                    for one in &seen {
                        prop_assert!(rest.any(|other| other == *one), "out of order, or never sent");
                    }
                }
            }
            came += taken(&mut queue).len();
            prop_assert_eq!(came as u64 + queue.dropped(), pushes.len() as u64);
        }
    }
}
