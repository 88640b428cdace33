//! Two sessions back to back, and any sequence of operations on them: honest ones keep every promise, bytes that nobody
//! honest sends end one session, and never more than that.

use std::time::Duration;

use drtp_core::session::State;
use drtp_core::session::pair::Pair;
use drtp_core::session::play::{Op, arrived_in_order, play};

/// Longer plays find nothing that shorter ones do not, and are slow.
const OPS_MAX: usize = 64;
const MS: Duration = Duration::from_millis(1);

/// The first byte chooses how lanes overtake each other and how small pieces arrive; the rest are operations.
pub fn session(input: &[u8]) {
    let Some((path, script)) = input.split_first() else { return };
    let ops = ops(script);
    let mut pair = Pair::open_over(MS);
    pair.add_lane(1);
    pair.add_lane(2);
    pair.skew[1] = u32::from(path & 0x0f) * MS;
    pair.chunk = if path & 0x80 == 0 { usize::MAX } else { usize::from(path >> 4) };
    play(&mut pair, &ops);
    if ops.iter().all(is_honest) {
        honest_end(&mut pair);
    }
    any_end(&mut pair);
}

/// A dark path loses what no honest path loses: the middle of a stream.
fn is_honest(op: &Op) -> bool {
    !matches!(op, Op::Inject { .. } | Op::BlackHole(_))
}

fn honest_end(pair: &mut Pair) {
    assert_eq!(pair.error, None, "an honest peer was taken for a liar");
    assert!(arrived_in_order(pair), "bytes changed their order");
    pair.agent.drain(10 * MS, "end", pair.now);
    pair.run(400 * MS);
    assert_eq!(pair.error, None);
    // What crossed the goodbye, or came after a lane took it along, is not answered: the driver closes the lanes of a
    // session that is over, and that ends it.
    assert_eq!(pair.agent.stream_count(), 0, "streams outlive a drain");
    assert!(matches!(pair.agent.state(), State::Closed | State::Fenced), "a drain without an end");
}

fn any_end(pair: &mut Pair) {
    for session in [&pair.agent, &pair.server] {
        assert!(session.half_open_count() as usize <= session.stream_count());
        if matches!(session.state(), State::Closed | State::Fenced) {
            assert_eq!(session.stream_count(), 0, "streams outlive their session");
        }
    }
    for lane in 0..4 {
        pair.lose_lane(lane);
    }
    assert_eq!(pair.agent.stream_count() + pair.server.stream_count(), 0, "streams outlive their lanes");
    assert_eq!(pair.credit_used(), 0, "credit that nobody gives back");
}

/// Any bytes are a script.
fn ops(script: &[u8]) -> Vec<Op> {
    let mut script = Script(script);
    std::iter::from_fn(|| script.op()).take(OPS_MAX).collect()
}

struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The high bit of an operation's byte says which side acts.
    fn op(&mut self) -> Option<Op> {
        let kind = self.byte()?;
        let up = kind & 0x80 != 0;
        Some(match kind & 0x0f {
            0 => Op::Open,
            1 => Op::Send { up, stream: self.stream()?, count: usize::from(self.byte()?) * 700 + 1 },
            2 => Op::Finish { up, stream: self.stream()? },
            3 => Op::Reset { up, stream: self.stream()? },
            4 => Op::Connected { stream: self.stream()? },
            5 => Op::Move { up, stream: self.stream()?, lane: self.byte()? % 5 },
            6 => Op::LoseLane(self.byte()? % 4),
            7 => Op::Datagram { up, stream: self.stream()? },
            8 => Op::Drain { up },
            9 => Op::Stop { up, stream: self.stream()? },
            10 => Op::BlackHole(up),
            11 => Op::Consume(up),
            12 => self.inject(up)?,
            _ => Op::Pass(u16::from(self.byte()? % 64) + 1),
        })
    }

    fn stream(&mut self) -> Option<usize> {
        self.byte().map(|byte| usize::from(byte % 8))
    }

    fn inject(&mut self, up: bool) -> Option<Op> {
        let (lane, length) = (self.byte()? % 4, usize::from(self.byte()?));
        let (bytes, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        Some(Op::Inject { up, lane, bytes: bytes.to_vec() })
    }
}
