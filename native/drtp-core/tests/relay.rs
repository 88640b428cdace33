//! A visitor's bytes through POP and agent, over real sockets.

mod world;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde_json::json;
use world::*;

#[test]
fn bytes_come_back() {
    let world = World::new(service(echo));
    let mut visitor = world.visit();
    visitor.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    visitor.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    until_stats(
        "the books",
        || world.pop.stats(),
        |s| s.connections[0].bytes_in == 5 && s.connections[0].bytes_out == 5,
    );
}

#[test]
fn a_hundred_megabytes_come_back_whole() {
    let world = World::new(service(echo));
    let data = pattern(100_000_000, 42);
    there_and_back(world.visit(), &data);
    until_stats("both ends to be done", || world.pop.stats(), |s| s.streams == 0 && s.recent.len() == 1);
    assert_eq!(world.pop.stats().recent[0].outcome, "finished");
    let counts = world.pop.counts();
    assert!(counts.recent.is_empty() && counts.connections[0].streams_total == 1, "{counts:?}");
}

#[test]
fn half_close_towards_the_service_leaves_the_answer_open() {
    let world = World::new(service(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(format!("got {}", all.len()).as_bytes()).unwrap();
    }));
    let mut visitor = world.visit();
    visitor.write_all(&[7; 1000]).unwrap();
    visitor.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "got 1000");
}

#[test]
fn half_close_towards_the_visitor_leaves_the_question_open() {
    let (got, rest) = channel();
    let world = World::new(service(move |mut stream| {
        let mut all = String::new();
        let said = stream.write_all(b"banner").and_then(|()| stream.shutdown(Shutdown::Write));
        // The agent's probe says nothing.
        if said.is_ok() && stream.read_to_string(&mut all).is_ok() && !all.is_empty() {
            got.send(all).unwrap();
        }
    }));
    let mut visitor = world.visit();
    let mut banner = String::new();
    visitor.read_to_string(&mut banner).unwrap();
    assert_eq!(banner, "banner");
    visitor.write_all(b"late").unwrap();
    visitor.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest.recv_timeout(PATIENCE).unwrap(), "late");
}

#[test]
fn the_services_reset_reaches_the_visitor() {
    let world = World::new(service(|mut stream| {
        let mut one = [0];
        stream.read_exact(&mut one).unwrap();
        reset(stream);
    }));
    let mut visitor = world.visit();
    visitor.write_all(b"x").unwrap();
    read_to_reset(&mut visitor);
}

#[test]
fn the_visitors_reset_reaches_the_service() {
    let (got, seen) = channel();
    let world = World::new(service(move |mut stream| {
        let mut all = Vec::new();
        let end = stream.read_to_end(&mut all).map_err(|error| error.kind());
        // The agent's probe says nothing.
        if !all.is_empty() {
            got.send(end).unwrap();
        }
    }));
    let mut visitor = world.visit();
    visitor.write_all(b"x").unwrap();
    until_stats("the service to be there", || world.agent.stats(), |s| s.connections[0].bytes_in == 1);
    reset(visitor);
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_slow_reader_parks_its_window_and_blocks_nobody() {
    let world = World::new(service(|mut stream| {
        let mut kind = [0];
        stream.read_exact(&mut kind).unwrap();
        if kind == *b"f" {
            // A flood until the visitor has had enough.
            while stream.write_all(&[1; 64 * 1024]).is_ok() {}
        } else {
            echo(stream);
        }
    }));
    let mut slow = world.visit();
    slow.write_all(b"f").unwrap();
    until_stats("the flood to be parked", || world.pop.stats(), |s| s.parked_bytes > 0);
    let started = Instant::now();
    let active: Vec<_> = (0..100)
        .map(|_| {
            let endpoint = world.endpoint;
            std::thread::spawn(move || {
                let mut visitor = visit(endpoint);
                visitor.write_all(b"e").unwrap();
                for _ in 0..20 {
                    visitor.write_all(&[9; 500]).unwrap();
                    visitor.read_exact(&mut [0; 500]).unwrap();
                }
            })
        })
        .collect();
    active.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(started.elapsed() < Duration::from_secs(10));
    let stats = world.pop.stats();
    assert!(stats.parked_bytes <= 17 * 1024 * 1024, "parked {}", stats.parked_bytes);
}

#[test]
fn ipv6_from_end_to_end() {
    let service = service_on("::1", echo);
    let authority = Authority::new();
    let pop = pop(&authority);
    let port = free_port("::1");
    let entry = with(route(port), json!({"bind": {"address": "::1", "port": port}}));
    assert_ok(&pop.apply(&whole(json!({"route/c-1": entry}))));
    let target = target(service);
    let agent = drtp_core::TunnelAgent::new(agent_config(&authority, "a-1", 1, target.clone())).unwrap();
    let v6 = pop.agent_addresses()[1];
    assert!(v6.is_ipv6());
    assert_ok(&agent.apply(&whole(json!({"server/p-1": plan_server(v6), "service/c-1": plan_service(&target)}))));
    until("the endpoint to be live", || pop.stats().connections[0].live);
    let mut visitor = visit(format!("[::1]:{port}").parse().unwrap());
    visitor.write_all(b"six").unwrap();
    visitor.read_exact(&mut [0; 3]).unwrap();
}

#[test]
fn round_trips_are_reported_by_both_ends() {
    let world = World::new(service(echo));
    let measured = |s: &drtp_core::Stats| s.sessions.first().is_some_and(|s| s.lanes[0].round_trip_ms.is_some());
    until_stats("the POP's", || world.pop.stats(), measured);
    until_stats("the agent's", || world.agent.stats(), measured);
    let before = world.pop.stats().ticks;
    until_stats("the watchdog's counter to move", || world.pop.stats(), |s| s.ticks > before);
}

#[test]
fn three_hundred_visitors_at_once_are_all_served() {
    let world = World::new(service(echo));
    let visitors: Vec<_> = (0..300_u32).map(|n| (n, world.visit())).collect();
    for (n, visitor) in &visitors {
        let mut visitor = visitor;
        visitor.write_all(&n.to_be_bytes()).unwrap();
    }
    for (n, visitor) in &visitors {
        let mut visitor = visitor;
        let mut back = [0; 4];
        visitor.read_exact(&mut back).unwrap();
        assert_eq!(u32::from_be_bytes(back), *n);
    }
    drop(visitors);
    until_stats(
        "all to be forgotten",
        || world.pop.stats(),
        |s| s.streams == 0 && s.connections[0].streams_total == 300,
    );
    until_stats("and at the agent", || world.agent.stats(), |s| s.streams == 0);
}
