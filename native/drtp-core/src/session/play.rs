//! Sequences of operations on a `Pair`: what property tests choose and what fuzzing finds. `up` is the agent's side.

use std::collections::BTreeMap;
use std::time::Duration;

use super::pair::{Pair, visitor};
use crate::message::ResetCode;

const MS: Duration = Duration::from_millis(1);

/// One step of a play.
#[derive(Debug, Clone)]
pub enum Op {
    Open,
    Send {
        up: bool,
        stream: usize,
        count: usize,
    },
    Finish {
        up: bool,
        stream: usize,
    },
    Reset {
        up: bool,
        stream: usize,
    },
    Connected {
        stream: usize,
    },
    Move {
        up: bool,
        stream: usize,
        lane: u8,
    },
    LoseLane(u8),
    Datagram {
        up: bool,
        stream: usize,
    },
    Pass(u16),
    Drain {
        up: bool,
    },
    Stop {
        up: bool,
        stream: usize,
    },
    /// Bytes that no honest peer need have sent, handed to one end as they are.
    Inject {
        up: bool,
        lane: u8,
        bytes: Vec<u8>,
    },
    /// The path swallows everything, or no longer does.
    BlackHole(bool),
    /// Whether the local sockets take what comes.
    Consume(bool),
}

/// Plays the operations; gives the streams that were opened. A stream is named by its place among them.
pub fn play(pair: &mut Pair, ops: &[Op]) -> Vec<u32> {
    let mut ids: Vec<u32> = Vec::new();
    let mut sent: BTreeMap<(bool, u32), usize> = BTreeMap::new();
    for op in ops {
        let id = |stream: &usize| ids.get(*stream).copied().unwrap_or(0x0100_0001);
        match op {
            Op::Open => ids.extend(pair.server.open(visitor("c"), pair.now).ok()),
            Op::Send { up, stream, count } => {
                let side = if *up { &mut pair.agent } else { &mut pair.server };
                let mut left = *count;
                while left > 0 {
                    let at = sent.entry((*up, id(stream))).or_default();
                    let taken = side.send(id(stream), &bytes_at(*at, left.min(65_536)));
                    *at += taken;
                    if taken == 0 {
                        break;
                    }
                    left -= taken;
                }
            }
            Op::Finish { up: true, stream } => pair.agent.finish(id(stream)),
            Op::Finish { up: false, stream } => pair.server.finish(id(stream)),
            Op::Reset { up: true, stream } => pair.agent.reset(id(stream), ResetCode::Reset),
            Op::Reset { up: false, stream } => pair.server.reset(id(stream), ResetCode::Reset),
            Op::Connected { stream } => pair.agent.connected(id(stream)),
            Op::Move { up: true, stream, lane } => drop(pair.agent.move_stream(id(stream), *lane)),
            Op::Move { up: false, stream, lane } => drop(pair.server.move_stream(id(stream), *lane)),
            Op::LoseLane(lane) => pair.lose_lane(*lane),
            Op::Datagram { up: true, stream } => pair.agent.datagram(id(stream), b"d"),
            Op::Datagram { up: false, stream } => pair.server.datagram(id(stream), b"d"),
            Op::Pass(ms) => pair.run(u32::from(*ms) * MS),
            Op::Stop { up: true, stream } => pair.agent.stop_sending(id(stream), ResetCode::Cancelled),
            Op::Stop { up: false, stream } => pair.server.stop_sending(id(stream), ResetCode::Cancelled),
            Op::Inject { up, lane, bytes } => pair.inject(!*up, *lane, bytes),
            Op::BlackHole(dark) => pair.black_hole = *dark,
            Op::Consume(taken) => pair.consume = *taken,
            Op::Drain { up: true } => pair.agent.drain(200 * MS, "d", pair.now),
            Op::Drain { up: false } => pair.server.drain(200 * MS, "d", pair.now),
        }
    }
    ids
}

/// What a play sends from this offset of any stream on: no two neighbourhoods are alike.
fn bytes_at(offset: usize, count: usize) -> Vec<u8> {
    (offset..offset + count).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 13) as u8).collect()
}

/// Whether all bytes that arrived are those that were sent, none lost between, none changed.
pub fn arrived_in_order(pair: &Pair) -> bool {
    let streams = pair.agent_log.streams.values().chain(pair.server_log.streams.values());
    streams.into_iter().all(|seen| seen.data == bytes_at(0, seen.data.len()))
}
