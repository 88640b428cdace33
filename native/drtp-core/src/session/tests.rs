//! Facts about sessions, stated on a `Pair`.

use std::time::Duration;

use proptest::prelude::*;

use super::pair::{Pair, Seen, config, visitor};
use super::play::{Op, arrived_in_order, play};
use super::*;
use crate::frame::{Kind, put, put_data, put_header};

const MS: Duration = Duration::from_millis(1);

fn pattern(count: usize, seed: u8) -> Vec<u8> {
    (0..count).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

#[test]
fn data_flows_before_any_answer() {
    let mut pair = Pair::open();
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    assert_eq!(pair.server.send(id, b"early"), 5);
    pair.run(6 * MS);
    let seen = pair.agent_log.of(id).clone();
    assert_eq!(seen.open.unwrap().connection, "c");
    assert_eq!(seen.data, b"early");
}

#[test]
fn half_close_goes_per_direction() {
    let mut pair = Pair::open();
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.server.send(id, b"q");
    pair.server.finish(id);
    pair.run(10 * MS);
    assert!(pair.agent_log.of(id).fin);
    pair.agent.connected(id);
    pair.agent.send(id, b"answer");
    pair.run(10 * MS);
    assert!(pair.server_log.of(id).connected);
    assert!(!pair.server_log.of(id).fin);
    pair.agent.finish(id);
    pair.run(10 * MS);
    assert!(pair.server_log.of(id).fin);
    assert_eq!((pair.agent.stream_count(), pair.server.stream_count()), (0, 0));
}

#[test]
fn reset_passes_its_code_and_frees_the_slot() {
    let mut pair = Pair::open();
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(10 * MS);
    pair.agent.reset(id, ResetCode::Refused);
    pair.run(10 * MS);
    assert_eq!(pair.server_log.of(id).reset, Some(ResetCode::Refused));
    let again = pair.server.open(visitor("c"), pair.now).unwrap();
    assert_ne!(again, id, "a reused slot has another generation");
    assert_eq!(pair.server.half_open_count(), 1);
}

#[test]
fn no_credit_no_bytes_and_credit_returns_when_consumed() {
    let mut pair = Pair::open();
    pair.consume = false;
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    let mut sent = 0;
    while pair.server.sendable(id) > 0 {
        sent += pair.server.send(id, &pattern(64 * 1024, 0));
    }
    assert_eq!(sent, 256 * 1024);
    pair.run(20 * MS);
    assert_eq!(pair.server.sendable(id), 0);
    pair.agent.consumed(id, 128 * 1024, pair.now);
    pair.run(20 * MS);
    assert!(pair.server.sendable(id) > 0);
    assert_eq!(pair.server_log.of(id).credits, 1);
}

#[test]
fn credit_violation_ends_the_session() {
    let mut pair = Pair::open();
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(10 * MS);
    let mut wire = Vec::new();
    put_header(&mut wire, id, Kind::Data, 256 * 1024 + 1);
    pair.inject(true, 0, &wire);
    assert_eq!(pair.error, Some(SessionError::Credit(id)));
    pair.run(10 * MS);
    assert_eq!(pair.server_log.goaway.as_ref().map(|g| g.code), Some(GoAwayCode::Protocol as u32));
}

#[test]
fn windows_grow_on_a_long_path_and_the_budget_gets_its_credit_back() {
    let mut pair = Pair::open_over(25 * MS);
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    let mut sent = 0;
    for _ in 0..2_000 {
        while pair.server.sendable(id) > 0 {
            sent += pair.server.send(id, &[7; 64 * 1024]);
        }
        pair.run(MS);
        pair.agent_log.of(id).data.clear();
    }
    // 256 KiB per 50 ms would be 10 MB in 2 s.
    assert!(sent > 40_000_000, "sent {sent}");
    assert!(pair.agent.budget.used() > 0);
    pair.server.reset(id, ResetCode::Cancelled);
    pair.run(60 * MS);
    assert_eq!(pair.agent.budget.used(), 0);
}

/// A bulk stream whose reader takes 50 kB a millisecond.
struct Bulk {
    stream: u32,
    read: u64,
}

impl Bulk {
    fn open(pair: &mut Pair) -> Self {
        pair.consume = false;
        let stream = pair.server.open(visitor("c"), pair.now).unwrap();
        pair.run(25 * MS);
        Self { stream, read: 0 }
    }

    /// Goes on for `ms`, with a question on `sparse`, if there is one, every 5 ms. Gives the bytes read.
    fn go_on(&mut self, pair: &mut Pair, sparse: Option<u32>, ms: u64) -> u64 {
        let (piece, before) = (vec![7; 256 * 1024], self.read);
        for millisecond in 0..ms {
            while pair.server.send(self.stream, &piece) > 0 {}
            if let Some(sparse) = sparse.filter(|_| millisecond % 5 == 0) {
                assert_eq!(pair.server.send(sparse, &[1; 100]), 100);
                pair.agent.consumed(sparse, 100, pair.now);
            }
            let taken = (pair.agent.streams[&self.stream].recv_offset - self.read).min(50_000);
            pair.agent.consumed(self.stream, taken, pair.now);
            self.read += taken;
            pair.run(MS);
        }
        self.read - before
    }

    fn under_way(&self, pair: &Pair) -> u64 {
        pair.server.streams[&self.stream].send_offset - self.read
    }
}

#[test]
fn a_bulk_stream_beside_a_sparse_one_fills_the_path_and_no_queue() {
    let mut pair = Pair::open_over(20 * MS);
    let mut bulk = Bulk::open(&mut pair);
    bulk.go_on(&mut pair, None, 1_000);
    let alone = bulk.go_on(&mut pair, None, 1_000);
    let queued = bulk.under_way(&pair);
    let sparse = pair.server.open(visitor("c"), pair.now).unwrap();
    bulk.go_on(&mut pair, Some(sparse), 500);
    let beside = bulk.go_on(&mut pair, Some(sparse), 1_000);
    assert!(bulk.under_way(&pair) + 700_000 < queued, "{} of {queued}", bulk.under_way(&pair));
    assert!(beside * 100 >= alone * 95, "{beside} beside, {alone} alone");
    bulk.go_on(&mut pair, None, 1_500);
    assert!(bulk.under_way(&pair) + 100_000 > queued, "alone again: {} of {queued}", bulk.under_way(&pair));
}

#[test]
fn bulk_streams_do_not_take_each_other_for_sparse() {
    let mut pair = Pair::open_over(20 * MS);
    let (mut one, mut other) = (Bulk::open(&mut pair), Bulk::open(&mut pair));
    for _ in 0..200 {
        one.go_on(&mut pair, None, 5);
        other.go_on(&mut pair, None, 5);
    }
    assert!(!pair.agent.has_sparse(pair.now));
}

/// chisel#213, #560, frp#4374, rathole#145: a dead link was noticed after a quarter of an hour.
#[test]
fn a_silent_peer_is_dead_within_two_and_a_half_seconds_of_traffic() {
    let mut pair = Pair::open();
    pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(1_000 * MS);
    pair.black_hole = true;
    pair.run(3_400 * MS);
    assert!(pair.server_log.dead.contains(&0) && pair.agent_log.dead.contains(&0));
}

#[test]
fn death_is_noticed_within_its_patience_whenever_the_path_was_cut() {
    let quick = Liveness { ping_ms: 800, dead_ms: 2_500, idle_ping_ms: 800, idle_dead_ms: 2_500 };
    for lead_ms in [0, 100, 400, 790, 810, 1_300] {
        let mut pair = Pair::with(SessionConfig { liveness: quick, ..config() });
        pair.run(Duration::from_millis(20));
        pair.server.accept([9; 16], pair.now);
        pair.run(Duration::from_millis(1_000 + lead_ms));
        pair.black_hole = true;
        // What was on its way still arrives: 5 ms.
        pair.run(Duration::from_millis(2_506));
        assert!(!pair.server_log.dead.is_empty() && !pair.agent_log.dead.is_empty(), "cut after {lead_ms} ms");
    }
}

#[test]
fn what_is_heard_after_a_pause_of_our_own_is_no_silence() {
    let mut pair = Pair::open();
    pair.server.open(visitor("c"), pair.now).unwrap();
    pair.black_hole = true;
    pair.run(Duration::from_secs(2));
    pair.now += Duration::from_secs(10);
    pair.server.tick(pair.now, &mut |_| {});
    assert!(pair.server.lane_is_silent(0, pair.now));
    let mut ping = Vec::new();
    put(&mut ping, 0, &Frame::Ping(77));
    pair.inject(false, 0, &ping);
    assert!(!pair.server.lane_is_silent(0, pair.now));
}

#[test]
fn goodbye_before_hello_ends_the_session_and_a_flood_of_goodbyes_too() {
    let drain = Frame::GoAway(GoAway { code: GoAwayCode::Drain as u32, deadline_ms: 60_000, reason: String::new() });
    let mut pair = Pair::with(config());
    let mut bytes = Vec::new();
    put(&mut bytes, 0, &drain);
    pair.inject(false, 0, &bytes);
    assert_eq!(pair.error, Some(SessionError::Unexpected("frame before HELLO")));
    let mut pair = Pair::open();
    pair.server.open(visitor("c"), pair.now).unwrap();
    let flood = bytes.repeat(60_000);
    pair.inject(false, 0, &flood);
    assert_eq!(pair.error, Some(SessionError::Flood));
}

#[test]
fn a_peer_prolongs_no_drain() {
    let mut pair = Pair::open();
    let stream = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(Duration::from_millis(50));
    pair.server.drain(Duration::from_secs(2), "maintenance", pair.now);
    let mut bytes = Vec::new();
    let drain = GoAway { code: GoAwayCode::Drain as u32, deadline_ms: u32::MAX, reason: String::new() };
    put(&mut bytes, 0, &Frame::GoAway(drain));
    pair.inject(false, 0, &bytes);
    pair.run(Duration::from_millis(2_100));
    assert_eq!(pair.server_log.of(stream).reset, Some(ResetCode::GoingAway));
}

#[test]
fn crumbs_that_overtake_a_move_cost_what_their_credit_says() {
    let mut pair = Pair::open();
    pair.add_lane(1);
    let stream = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(Duration::from_millis(50));
    let mut bytes = Vec::new();
    for _ in 0..10_000 {
        put_data(&mut bytes, stream, b"x");
    }
    pair.inject(false, 1, &bytes);
    assert_eq!(pair.error, None);
    assert_eq!(pair.server.streams[&stream].held().len(), 1);
}

#[test]
fn round_trips_are_measured_both_ways() {
    let mut pair = Pair::open();
    pair.run(3_000 * MS);
    for side in [&pair.agent, &pair.server] {
        let (_, stats) = side.lane_stats().remove(0);
        let round_trip = stats.round_trip_ms.unwrap();
        assert!((9.0..16.0).contains(&round_trip), "{round_trip}");
        let floor = stats.round_trip_floor_ms.unwrap();
        assert!((9.0..=round_trip).contains(&floor), "{floor} of {round_trip}");
        assert!(stats.loss < 0.01);
    }
}

#[test]
fn drain_lets_streams_finish_and_resets_the_rest_at_the_deadline() {
    let mut pair = Pair::open();
    let quick = pair.server.open(visitor("c"), pair.now).unwrap();
    let slow = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(10 * MS);
    pair.agent.drain(500 * MS, "stopping", pair.now);
    pair.run(10 * MS);
    assert_eq!(pair.server.open(visitor("c"), pair.now), Err(OpenRefused::NotOpen));
    pair.server.finish(quick);
    pair.agent.finish(quick);
    pair.run(100 * MS);
    assert!(pair.server_log.of(quick).fin && !pair.agent_log.closed);
    pair.run(500 * MS);
    assert_eq!(pair.server_log.of(slow).reset, Some(ResetCode::GoingAway));
    assert!(pair.agent_log.closed);
}

#[test]
fn a_visitor_who_crosses_the_agents_goodbye_is_served() {
    let mut pair = Pair::open();
    let stream = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.agent.drain(Duration::from_secs(5), "stopping", pair.now);
    pair.run(10 * MS);
    assert!(pair.agent_log.of(stream).open.is_some() && pair.server_log.goaway.is_some());
    pair.agent.send(stream, b"served");
    pair.server.finish(stream);
    pair.agent.finish(stream);
    pair.run(10 * MS);
    let seen = pair.server_log.of(stream);
    assert_eq!((seen.data.as_slice(), seen.fin, seen.reset), (b"served".as_slice(), true, None));
    pair.run(10 * MS);
    assert!(pair.server_log.closed, "the last visitor has gone");
}

#[test]
fn a_server_hands_stragglers_to_an_agent_that_drains_and_ends_the_session_then() {
    let mut pair = Pair::open();
    pair.agent.drain(Duration::from_secs(5), "stopping", pair.now);
    while pair.server_log.goaway.is_none() {
        pair.run(MS);
        pair.server.expect_stragglers(pair.now + 200 * MS);
    }
    pair.run(100 * MS);
    assert!(!pair.server.takes_streams() && pair.server.takes_stragglers());
    let stream = pair.server.open_late(visitor("c"), pair.now).unwrap();
    pair.run(10 * MS);
    assert!(pair.agent_log.of(stream).open.is_some());
    pair.server.reset(stream, ResetCode::Reset);
    pair.run(200 * MS);
    assert!(pair.server_log.closed);
    assert_eq!(pair.server.open_late(visitor("c"), pair.now), Err(OpenRefused::NotOpen));
}

#[test]
fn an_agent_that_nobody_answers_ends_its_goodbye_by_itself() {
    let mut pair = Pair::open();
    pair.black_hole = true;
    pair.agent.drain(Duration::from_secs(5), "stopping", pair.now);
    pair.run(1_900 * MS);
    assert!(!pair.agent_log.closed, "somebody may be on the way");
    pair.run(200 * MS);
    assert!(pair.agent_log.closed);
}

#[test]
fn fenced_is_terminal_and_told() {
    let mut pair = Pair::open();
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(10 * MS);
    pair.server.refuse(GoAwayCode::Fenced, 0, "a newer instance serves");
    pair.run(10 * MS);
    assert_eq!(pair.agent.state(), State::Fenced);
    assert_eq!(pair.agent_log.of(id).reset, Some(ResetCode::Lost));
    assert!(!pair.agent.join(1, pair.now), "nothing leads out of Fenced");
}

#[test]
fn elephants_move_to_a_bulk_lane_and_stay_in_order_though_it_is_faster() {
    let mut pair = Pair::open();
    pair.add_lane(1);
    pair.skew[0] = 30 * MS;
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    let all = pattern(6_000_000, 3);
    let mut sent = 0;
    while sent < all.len() {
        sent += pair.server.send(id, &all[sent..]);
        if pair.server.sendable(id) == 0 {
            pair.run(MS);
        }
    }
    pair.server.finish(id);
    assert_eq!(pair.server.lane_of(id), Some(1));
    pair.run(300 * MS);
    assert_eq!(pair.error, None);
    let seen = pair.agent_log.of(id);
    assert!(seen.fin);
    assert!(seen.data == all, "bytes arrive whole and in order");
}

/// Found by fuzzing: what followed a held MOVE was handed on as if it had not moved.
#[test]
fn a_stream_that_moves_to_and_fro_keeps_its_order() {
    let mut pair = Pair::open();
    pair.add_lane(1);
    pair.skew[1] = 20 * MS;
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    for (round, to) in [1, 0, 1, 0, 1].into_iter().enumerate() {
        pair.server.send(id, &[b'a' + round as u8]);
        assert!(pair.server.move_stream(id, to));
    }
    pair.server.send(id, b"f");
    pair.server.finish(id);
    pair.run(60 * MS);
    assert_eq!(pair.error, None);
    let seen = pair.agent_log.of(id);
    assert_eq!((seen.data.as_slice(), seen.fin), (&b"abcdef"[..], true));
}

#[test]
fn moves_that_are_held_have_a_bound() {
    let mut pair = Pair::open();
    pair.add_lane(1);
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(10 * MS);
    let mut wire = Vec::new();
    for _ in 0..300 {
        put(&mut wire, id, &Frame::Move { lane: 0, offset: 0 });
    }
    pair.inject(true, 1, &wire);
    assert_eq!(pair.error, Some(SessionError::Move(id)));
}

#[test]
fn a_move_at_the_wrong_offset_ends_the_session() {
    let mut pair = Pair::open();
    pair.add_lane(1);
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(10 * MS);
    let mut wire = Vec::new();
    put(&mut wire, id, &Frame::Move { lane: 1, offset: 5 });
    pair.inject(true, 0, &wire);
    assert_eq!(pair.error, Some(SessionError::Move(id)));
}

#[test]
fn a_move_to_a_lane_that_was_lost_on_the_way_loses_its_stream_only() {
    let mut pair = Pair::open();
    pair.add_lane(1);
    let mouse = pair.server.open(visitor("c"), pair.now).unwrap();
    let moved = pair.server.open(visitor("c"), pair.now).unwrap();
    assert!(pair.server.move_stream(moved, 1));
    assert!(pair.server.move_stream(moved, 0));
    pair.lose_lane(1);
    pair.run(20 * MS);
    assert_eq!(pair.error, None);
    assert_eq!(pair.server_log.of(moved).reset, Some(ResetCode::Lost));
    assert_eq!(pair.server_log.of(mouse).reset, None);
}

#[test]
fn a_lost_lane_takes_its_own_streams_only() {
    let mut pair = Pair::open();
    pair.add_lane(1);
    let mouse = pair.server.open(visitor("c"), pair.now).unwrap();
    let elephant = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(10 * MS);
    assert!(pair.server.move_stream(elephant, 1));
    pair.run(20 * MS);
    pair.lose_lane(1);
    pair.run(10 * MS);
    assert_eq!(pair.server_log.of(elephant).reset, Some(ResetCode::Lost));
    assert_eq!(pair.server_log.of(mouse).reset, None);
    pair.lose_lane(0);
    assert!(pair.server_log.closed && pair.agent_log.closed);
}

#[test]
fn empty_frame_flood_ends_the_session_rustsec_2026_0258() {
    let mut pair = Pair::open();
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(10 * MS);
    let mut wire = Vec::new();
    for _ in 0..60_000 {
        put_header(&mut wire, id, Kind::Data, 0);
    }
    pair.inject(true, 0, &wire);
    assert_eq!(pair.error, Some(SessionError::Flood));
}

/// What is held costs memory: a peer does not say the same end for ever on a lane that is not the stream's.
#[test]
fn ends_that_overtake_a_move_are_held_once() {
    let mut pair = Pair::open();
    pair.add_lane(1);
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(10 * MS);
    let mut wire = Vec::new();
    put(&mut wire, id, &Frame::Fin);
    pair.inject(true, 1, &wire);
    assert_eq!(pair.error, None);
    pair.inject(true, 1, &wire);
    assert_eq!(pair.error, Some(SessionError::Unexpected("second FIN")));
}

/// Every number that a peer may say at its greatest, before anybody knows who it is and after. The profiles that are
/// released check their arithmetic too: a wrapped sum would be a panic here and there.
#[test]
fn numbers_at_their_ends_wrap_nothing_cve_2026_73564_rustsec_2026_0007() {
    let greatest = Hello {
        version_min: 0,
        version_max: u16::MAX,
        capabilities: u32::MAX,
        epoch: u64::MAX,
        token: [0xff; 16],
        attempt: u32::MAX,
        lane: u8::MAX,
        window: u32::MAX,
        streams_max: u32::MAX,
    };
    for (stream, frame) in [
        (u32::MAX, Frame::Window(u64::MAX)),
        (u32::MAX, Frame::Move { lane: u8::MAX, offset: u64::MAX }),
        (0, Frame::Ping(u64::MAX)),
        (0, Frame::GoAway(GoAway { code: u32::MAX, deadline_ms: u32::MAX, reason: String::new() })),
    ] {
        let mut stranger = Pair::with(config());
        let mut wire = Vec::new();
        put(&mut wire, stream, &frame);
        stranger.inject(false, 0, &wire);
        assert_eq!(stranger.error, Some(SessionError::Unexpected("frame before HELLO")), "{frame:?}");
    }
    let mut header_alone = Pair::with(config());
    header_alone.inject(false, 0, &[0xff, 0xff, 0xff, 0xff, Kind::Hello as u8, 0xff, 0xff, 0xff]);
    assert!(matches!(header_alone.error, Some(SessionError::Frame(_))));

    let mut pair = Pair::with(config());
    let mut wire = Vec::new();
    put(&mut wire, 0, &Frame::Hello(greatest));
    pair.inject(false, 0, &wire);
    pair.server.accept([9; 16], pair.now);
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    let mut wire = Vec::new();
    put(&mut wire, id, &Frame::Window(u64::MAX));
    put(&mut wire, 0, &Frame::Pong(u64::MAX));
    put(&mut wire, 0, &Frame::GoAway(GoAway { code: 0, deadline_ms: u32::MAX, reason: String::new() }));
    pair.inject(false, 0, &wire);
    assert_eq!(pair.server.send(id, b"still fine"), 10);
    let mut wire = Vec::new();
    put_header(&mut wire, id, Kind::Data, 0x00ff_ffff);
    pair.inject(false, 0, &wire);
    assert_eq!(pair.error, Some(SessionError::Credit(id)));
    assert_eq!(pair.server.state(), State::Closed);
}

#[test]
fn unknown_frames_open_nothing_cve_2026_30836_cve_2025_44005() {
    let mut pair = Pair::with(config());
    pair.inject(false, 0, &[0, 0, 0, 1, 0x40, 0, 0, 2, 9, 9]);
    assert_eq!((pair.error, pair.server.state()), (None, State::Greeting));
    assert!(pair.server_log.hello.is_none());
    let mut wire = Vec::new();
    put_data(&mut wire, 1, b"x");
    pair.inject(false, 0, &wire);
    assert_eq!(pair.error, Some(SessionError::Unexpected("frame before HELLO")));
}

#[test]
fn half_open_streams_are_limited() {
    let mut pair = Pair::open();
    for _ in 0..config().half_open_max {
        pair.server.open(visitor("c"), pair.now).unwrap();
    }
    assert_eq!(pair.server.open(visitor("c"), pair.now), Err(OpenRefused::Busy));
}

#[test]
fn datagrams_drop_the_oldest_under_pressure() {
    let mut pair = Pair::open();
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    for n in 0..9_000_u32 {
        pair.server.datagram(id, &n.to_be_bytes());
    }
    pair.run(10 * MS);
    let seen = pair.agent_log.of(id);
    assert_eq!(seen.datagrams.last().map(Vec::as_slice), Some(&8_999_u32.to_be_bytes()[..]));
    assert_eq!(seen.datagrams.len(), 2_048);
}

#[test]
fn a_gateway_opens_flows_over_the_lanes_that_it_dialled() {
    let mut pair = Pair::with_gateway();
    let id = pair.agent.open(visitor("c"), pair.now).unwrap();
    pair.agent.datagram(id, b"question");
    pair.run(10 * MS);
    assert_eq!(pair.server_log.of(id).datagrams, [b"question".to_vec()]);
    pair.server.connected(id);
    pair.server.datagram(id, b"answer");
    pair.server.datagram(id, b"");
    pair.run(10 * MS);
    let seen = pair.agent_log.of(id);
    assert!(seen.connected);
    assert_eq!(seen.datagrams, [b"answer".to_vec(), Vec::new()]);
    pair.agent.reset(id, ResetCode::Idle);
    pair.run(10 * MS);
    assert_eq!(pair.server_log.of(id).reset, Some(ResetCode::Idle));
    assert_eq!((pair.agent.stream_count(), pair.server.stream_count()), (0, 0));
}

#[test]
fn a_server_opens_no_streams_towards_a_gateway() {
    let mut pair = Pair::with_gateway();
    assert_eq!(pair.server.open(visitor("c"), pair.now), Err(OpenRefused::NotOpen));
}

#[test]
fn versions_apart_are_refused() {
    let mut pair = Pair::with(config());
    let mut wire = Vec::new();
    put(&mut wire, 0, &Frame::Hello(Hello { version_min: 7, version_max: 9, ..Hello::default() }));
    pair.inject(false, 0, &wire);
    assert_eq!(pair.error, Some(SessionError::Version(7, 9)));
}

#[test]
fn stop_sending_reaches_the_sender() {
    let mut pair = Pair::open();
    let id = pair.server.open(visitor("c"), pair.now).unwrap();
    pair.run(10 * MS);
    pair.agent.stop_sending(id, ResetCode::Cancelled);
    pair.run(10 * MS);
    assert!(pair.server_log.of(id).stop);
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0_usize..6;
    prop_oneof![
        3 => Just(Op::Open),
        6 => (any::<bool>(), at.clone(), 1_usize..200_000).prop_map(|(up, stream, count)| Op::Send { up, stream, count }),
        2 => (any::<bool>(), at.clone()).prop_map(|(up, stream)| Op::Finish { up, stream }),
        1 => (any::<bool>(), at.clone()).prop_map(|(up, stream)| Op::Reset { up, stream }),
        2 => at.clone().prop_map(|stream| Op::Connected { stream }),
        2 => (any::<bool>(), at.clone(), 0_u8..4).prop_map(|(up, stream, lane)| Op::Move { up, stream, lane }),
        1 => (1_u8..4).prop_map(Op::LoseLane),
        1 => (any::<bool>(), at).prop_map(|(up, stream)| Op::Datagram { up, stream }),
        4 => (1_u16..40).prop_map(Op::Pass),
        1 => any::<bool>().prop_map(|up| Op::Drain { up }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_sequence_of_operations_keeps_credit_and_ends(ops in proptest::collection::vec(op(), 1..60), skew in 0_u32..20) {
        let mut pair = Pair::open();
        pair.add_lane(1);
        pair.add_lane(2);
        pair.skew[1] = skew * MS;
        play(&mut pair, &ops);
        pair.agent.drain(100 * MS, "end", pair.now);
        pair.run(2_000 * MS);
        prop_assert_eq!(pair.error, None);
        prop_assert!(arrived_in_order(&pair));
        prop_assert_eq!(pair.agent.stream_count() + pair.server.stream_count(), 0);
        prop_assert_eq!(pair.agent.budget.used() + pair.server.budget.used(), 0);
    }

    #[test]
    fn chunking_changes_nothing(ops in proptest::collection::vec(op(), 1..30), chunk in 1_usize..2_000) {
        // Where credit binds, what a sender gets in depends on when the last WINDOW was worth a frame, and so on the cuts.
        let flow = Flow { window_initial_bytes: 64 << 20, ..Flow::default() };
        let outcome = |chunk: usize| {
            let mut pair = Pair::open_with(SessionConfig { flow, ..config() }, 5 * MS);
            pair.chunk = chunk;
            play(&mut pair, &ops);
            pair.run(300 * MS);
            (pair.agent_log.streams, pair.server_log.streams, pair.error)
        };
        let (mut whole, mut cut) = (outcome(usize::MAX), outcome(chunk));
        for log in [&mut whole.0, &mut whole.1, &mut cut.0, &mut cut.1] {
            // How often credit is announced may differ, and with it whether a credit says that the service answered.
            log.values_mut().for_each(|seen| (seen.credits, seen.connected) = (0, false));
            log.retain(|_, seen| *seen != Seen::default());
        }
        prop_assert_eq!(whole.2, cut.2);
        prop_assert!(whole.0 == cut.0 && whole.1 == cut.1);
    }
}

#[test]
fn the_readmes_diagram_names_every_state_and_no_other() {
    let readme = include_str!("../../README.md");
    let diagram = readme.split("```mermaid").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let arrows = diagram.lines().filter_map(|line| line.trim().split_once(" --> "));
    let ends = arrows.flat_map(|(from, to)| [from, to.split(':').next().unwrap_or_default().trim()]);
    let drawn: std::collections::BTreeSet<&str> = ends.filter(|name| *name != "[*]").collect();
    let known: Vec<String> = State::ALL.iter().map(|state| format!("{state:?}")).collect();
    assert_eq!(drawn, known.iter().map(String::as_str).collect());
}
