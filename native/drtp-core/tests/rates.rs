//! Limits in bytes per second, over real sockets. How exact buckets are is tested in virtual time, beside them.

mod world;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use drtp_core::{CoreLimits, Flow, ServerConfig, TunnelServer};
use serde_json::{Value, json};
use world::*;

const MB: usize = 1_000_000;

/// Sends `count` bytes to each who comes.
fn source(count: usize) -> SocketAddr {
    service(move |mut stream| {
        // The agent's probe does not read.
        let _ = stream.write_all(&pattern(count, 9));
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

fn limited(bytes_per_s: usize) -> Value {
    json!({"limits": {"bytesPerS": bytes_per_s}})
}

fn at_rate(service: SocketAddr, bytes_per_s: usize) -> World {
    World::build(service, |route| with(route, limited(bytes_per_s)), |config| config, |service| service)
}

fn download(mut visitor: TcpStream, count: usize) -> Duration {
    let began = Instant::now();
    let mut all = Vec::new();
    visitor.shutdown(Shutdown::Write).unwrap();
    visitor.read_to_end(&mut all).unwrap();
    assert!(all == pattern(count, 9), "bytes differ");
    began.elapsed()
}

/// What is beyond the burst takes its time; more is a busy machine's.
fn takes_about(took: Duration, expected: Duration) {
    assert!(took >= expected.mul_f64(0.9), "{took:?} is too quick, {expected:?} expected");
    assert!(took <= expected.mul_f64(1.5) + Duration::from_secs(1), "{took:?} is too slow, {expected:?} expected");
}

#[test]
fn a_download_arrives_at_the_limited_rate_and_whole_and_a_neighbour_on_the_lane_is_not_slowed() {
    let other = service(echo);
    let limit = |route| with(route, limited(2 * MB));
    let world = World::build(source(6 * MB), limit, |config| with_neighbour(config, other), |service| service);
    let endpoint = neighbour(&world, other, json!({}));
    let slow = world.visit();
    let reader = std::thread::spawn(move || download(slow, 6 * MB));
    until("the limit to hold", || world.pop.stats().connections.iter().any(|one| one.held_ms_total > 0));
    let began = Instant::now();
    there_and_back(visit(endpoint), &pattern(8 * MB, 4));
    assert!(began.elapsed() < Duration::from_secs(3), "16 MB took {:?}", began.elapsed());
    takes_about(reader.join().unwrap(), Duration::from_secs(2));
}

#[test]
fn both_ways_of_all_visitors_draw_on_one_bucket() {
    let world = at_rate(service(echo), 2 * MB);
    let began = Instant::now();
    let visitors: Vec<_> = (0..3)
        .map(|_| {
            let visitor = world.visit();
            std::thread::spawn(move || there_and_back(visitor, &pattern(MB, 5)))
        })
        .collect();
    visitors.into_iter().for_each(|visitor| visitor.join().unwrap());
    takes_about(began.elapsed(), Duration::from_secs(2));
    until_stats("the books", || world.pop.stats(), |stats| stats.streams == 0);
    let books = world.pop.stats().connections[0].clone();
    assert_eq!((books.bytes_in, books.bytes_out), (3 * MB as u64, 3 * MB as u64));
}

#[test]
fn a_limit_that_comes_holds_for_live_streams_and_one_that_goes_releases_them_at_once() {
    let world = World::new(service(echo));
    let mut visitor = world.visit();
    let mut writer = visitor.try_clone().unwrap();
    let (go_on, wait) = std::sync::mpsc::channel();
    let data = pattern(9 * MB, 6);
    let sent = data.clone();
    let sender = std::thread::spawn(move || {
        writer.write_all(&sent[..MB]).unwrap();
        wait.recv().unwrap();
        writer.write_all(&sent[MB..]).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = vec![0; MB];
    visitor.read_exact(&mut back).unwrap();
    assert_ok(&world.pop.apply(&route_of(&world, limited(1_000))));
    go_on.send(()).unwrap();
    until("the limit to be spent", || world.pop.stats().connections[0].held_ms_total > 0);
    let before = world.pop.stats().connections[0].bytes_in;
    assert!(before < 2 * MB as u64, "{before}");
    assert_ok(&world.pop.apply(&route_of(&world, json!({}))));
    let began = Instant::now();
    visitor.read_to_end(&mut back).unwrap();
    sender.join().unwrap();
    assert!(back == data, "bytes differ");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn another_rate_holds_at_once() {
    let world = at_rate(source(4 * MB), 10_000);
    let visitor = world.visit();
    let reader = std::thread::spawn(move || download(visitor, 4 * MB));
    until("the limit to hold", || world.pop.stats().connections[0].held_ms_total > 0);
    assert_ok(&world.pop.apply(&route_of(&world, limited(2 * MB))));
    takes_about(reader.join().unwrap(), Duration::from_secs(2));
}

#[test]
fn connections_of_one_share_have_its_rate_together() {
    let second = source(2 * MB);
    let shares = json!({"shares": [{"name": "acme", "bytesPerS": 2 * MB}]});
    let first = |route| with(route, shares.clone());
    let world = World::build(source(2 * MB), first, |config| with_neighbour(config, second), |service| service);
    let endpoint = neighbour(&world, second, shares.clone());
    let began = Instant::now();
    let visitors = [world.visit(), visit(endpoint)];
    let readers = visitors.map(|visitor| std::thread::spawn(move || download(visitor, 2 * MB)));
    for reader in readers {
        reader.join().unwrap();
    }
    takes_about(began.elapsed(), Duration::from_secs(1));
}

#[test]
fn visitors_who_leave_while_they_wait_leave_nothing_and_a_drain_ends_in_time() {
    let world = at_rate(source(8 * MB), 50_000);
    let visitors: Vec<_> = (0..20).map(|_| world.visit()).collect();
    until("the limit to hold", || world.pop.stats().connections[0].held_ms_total > 0);
    drop(visitors);
    until_stats("all to be gone", || world.pop.stats(), |stats| stats.streams == 0 && stats.parked_bytes == 0);
    let mut last = world.visit();
    until_stats("the last one", || world.pop.stats(), |stats| stats.streams == 1);
    world.pop.drain(Duration::from_secs(1));
    let mut all = Vec::new();
    assert!(last.read_to_end(&mut all).is_err(), "a reset at the deadline, not a clean end");
}

#[test]
fn more_shares_than_there_may_be_are_no_entry() {
    let world = World::new(service(echo));
    let share = json!({"name": "acme", "bytesPerS": MB});
    let outcome = world.pop.apply(&route_of(&world, json!({"shares": [share, share, share]})));
    assert!(!outcome.entries["route/c-1"].ok);
}

#[test]
fn visitors_of_one_bucket_come_to_an_end_together() {
    let world = at_rate(source(MB), 2 * MB);
    // Who comes first has the burst.
    download(world.visit(), MB);
    download(world.visit(), MB);
    let visitors: Vec<_> = (0..4).map(|_| world.visit()).collect();
    let readers = visitors.into_iter().map(|visitor| std::thread::spawn(move || download(visitor, MB)));
    let took: Vec<Duration> = readers.collect::<Vec<_>>().into_iter().map(|reader| reader.join().unwrap()).collect();
    let (first, last) = (took.iter().min().unwrap(), took.iter().max().unwrap());
    takes_about(*last, Duration::from_secs(2));
    assert!(*first >= last.mul_f64(0.6), "{took:?}");
}

#[test]
fn who_waits_makes_no_work() {
    let world = at_rate(source(MB), 20_000);
    let mut visitor = world.visit();
    // The burst, and what has come by then.
    visitor.read_exact(&mut vec![0; 25_000]).unwrap();
    let before = world.pop.stats().ticks;
    visitor.read_exact(&mut vec![0; 20_000]).unwrap();
    let turns = world.pop.stats().ticks - before;
    assert!(turns < 400, "{turns} in a second");
}

#[test]
fn what_waits_for_a_limit_takes_no_room_from_a_slow_reader_of_another_service() {
    let other = source(8 * MB);
    let authority = Authority::new();
    // What one stream may hold is less than half of the budget: of two groups the one that holds more pays.
    let flow = Flow { budget_bytes: 4 * MB as u64, window_max_bytes: MB as u32, ..Flow::default() };
    let pop = TunnelServer::new(ServerConfig { flow, ..server_config(&authority, CoreLimits::default()) }).unwrap();
    let limit = |route| with(route, limited(10_000));
    let change = |config| with_neighbour(config, other);
    let world = World::on(pop, authority, source(8 * MB), limit, change, |service| service);
    let slow = visit(neighbour(&world, other, json!({})));
    until("the slow reader to park", || world.pop.stats().parked_bytes > 100_000);
    let many: Vec<_> = (0..30).map(|_| world.visit()).collect();
    until("the budget to be used up", || {
        world.pop.stats().recent.iter().any(|one| one.outcome != "finished" && one.connection == CONNECTION)
    });
    download(slow, 8 * MB);
    drop(many);
}
