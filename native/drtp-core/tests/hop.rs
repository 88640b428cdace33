//! The hop from a gateway on the same machine: a Unix socket that says as much as TCP does, resets included.

mod world;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use drtp_core::{CoreLimits, ServerConfig, TunnelServer};
use serde_json::{Value, json};
use tempfile::TempDir;
use world::*;

/// PROXY v2 as a gateway of this name writes it.
fn header(gateway: &str) -> Vec<u8> {
    let told = [(0xe1, "s-1"), (0xe2, gateway)];
    proxy_v2([203, 0, 113, 9], if gateway.is_empty() { &told[..1] } else { &told })
}

struct Hop {
    world: World,
    path: PathBuf,
    _folder: TempDir,
}

impl Hop {
    fn new(service: std::net::SocketAddr) -> Self {
        Self::with(service, json!({}))
    }

    fn with(service: std::net::SocketAddr, change: Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c-1.sock");
        let place = path.clone();
        let world = World::build(
            service,
            |mut route| {
                route["bind"]["path"] = json!(place);
                with(with(route, json!({"mode": "unix"})), change)
            },
            |config| config,
            |service| service,
        );
        Self { world, path, _folder: folder }
    }

    fn dial(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn visit(&self) -> UnixStream {
        let mut stream = self.dial();
        stream.write_all(&header("g-1")).unwrap();
        stream
    }

    fn served(&self) -> UnixStream {
        let mut visitor = self.visit();
        assert_echoes(&mut visitor, b"hello");
        visitor
    }
}

fn assert_echoes(visitor: &mut UnixStream, words: &[u8]) {
    visitor.write_all(words).unwrap();
    let mut back = vec![0; words.len()];
    visitor.read_exact(&mut back).unwrap();
    assert_eq!(back, words);
}

/// What came before a reset; a clean end fails.
fn to_reset(visitor: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let error = visitor.read_to_end(&mut all).expect_err("a reset, not a clean end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    all
}

/// A service that says how each connection ended: its bytes, or None for a reset. The agent's own looks say nothing.
fn told() -> (std::net::SocketAddr, mpsc::Receiver<Option<Vec<u8>>>) {
    let (tell, ends) = mpsc::channel();
    let address = service(move |mut stream| {
        let mut all = Vec::new();
        let _ = stream.write_all(b"banner");
        let clean = stream.read_to_end(&mut all).is_ok();
        if !all.is_empty() {
            let _ = tell.send(clean.then_some(all));
        }
    });
    (address, ends)
}

#[test]
fn the_socket_is_for_its_owner_alone_and_comes_and_goes_with_the_agent() {
    let hop = Hop::new(service(echo));
    assert_eq!(std::fs::metadata(&hop.path).unwrap().permissions().mode() & 0o777, 0o600);
    hop.served();
    hop.world.agent.close();
    until("the endpoint to be deaf", || UnixStream::connect(&hop.path).is_err());
}

#[test]
fn gateways_elsewhere_find_tls_at_the_address_beside_it() {
    let hop = Hop::new(service(echo));
    // Whoever speaks in the clear there is let go, header or not.
    let mut stranger = visit(hop.world.endpoint);
    stranger.write_all(&header("g-1")).unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"hello"), "{answer:?}");
    hop.served();
}

#[test]
fn the_address_serves_on_where_the_socket_cannot_be_had() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c-1.sock");
    std::fs::write(&path, "no socket").unwrap();
    let pop = pop(&Authority::new());
    let mut entry = with(route(free_port("127.0.0.1")), json!({"mode": "unix"}));
    entry["bind"]["path"] = json!(path);
    let outcome = pop.apply(&upsert("route/c-1", &entry));
    let taken = &outcome.entries["route/c-1"];
    assert!(taken.ok && taken.bound.is_some() && taken.path.is_none(), "{outcome:?}");
    assert!(taken.error.as_ref().is_some_and(|error| error.contains("cannot bind")), "{outcome:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"no socket");
}

#[test]
fn a_socket_that_a_killed_pop_left_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c-1.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let pop = pop(&Authority::new());
    let mut entry = with(route(free_port("127.0.0.1")), json!({"mode": "unix"}));
    entry["bind"]["path"] = json!(path);
    let outcome = pop.apply(&upsert("route/c-1", &entry));
    assert_eq!(outcome.entries["route/c-1"].path.as_deref(), path.to_str(), "{outcome:?}");
    assert_eq!(outcome.entries["route/c-1"].error, None);
}

#[test]
fn a_gateway_that_this_pop_does_not_trust_is_refused_and_so_is_who_says_no_name() {
    let hop = Hop::new(service(echo));
    for words in [header("g-unknown"), header(""), b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut visitor = hop.dial();
        visitor.write_all(&words).unwrap();
        assert!(to_reset(&mut visitor).is_empty());
    }
    hop.served();
}

#[test]
fn visitors_of_a_gateway_that_is_trusted_no_more_are_cut() {
    let hop = Hop::new(service(echo));
    let mut visitor = hop.served();
    let nobody = json!({"type": "trust", "gateways": []});
    assert_ok(&hop.world.pop.apply(&upsert("trust", &nobody)));
    assert!(to_reset(&mut visitor).is_empty());
}

#[test]
fn a_visitor_who_is_allowed_no_more_is_cut_while_his_gateway_stays() {
    let hop = Hop::new(service(echo));
    let mut visitor = hop.served();
    let deny = json!({"lists": [{"default": "Allow", "rules": [{"action": "Deny", "cidrs": ["203.0.113.0/24"]}]}]});
    let mut entry = with(route(hop.world.endpoint.port()), json!({"mode": "unix", "access": deny}));
    entry["bind"]["path"] = json!(hop.path);
    assert_ok(&hop.world.pop.apply(&upsert("route/c-1", &entry)));
    assert!(to_reset(&mut visitor).is_empty());
}

#[test]
fn strangers_who_say_nothing_are_let_go_and_keep_nobody_out() {
    let hop = Hop::new(service(echo));
    hop.served();
    let silent: Vec<UnixStream> = (0..40).map(|_| hop.dial()).collect();
    hop.served();
    for mut stranger in silent {
        assert_eq!(stranger.read(&mut [0]).unwrap_or(0), 0);
    }
}

#[test]
fn a_closed_pop_resets_its_visitors_whoever_has_spoken_last() {
    let hop = Hop::new(service(echo));
    let (mut active, mut ended) = (hop.served(), hop.served());
    ended.write_all(b"x").unwrap();
    ended.read_exact(&mut [0]).unwrap();
    hop.world.pop.close();
    assert!(to_reset(&mut active).is_empty());
    assert!(to_reset(&mut ended).is_empty());
}

#[test]
fn a_half_closed_visitor_is_reset_too_when_the_pop_goes() {
    let stays = service(move |mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = stream.write_all(b"half an answer");
        std::thread::park_timeout(PATIENCE);
    });
    let hop = Hop::new(stays);
    let mut visitor = hop.visit();
    visitor.write_all(b"question").unwrap();
    visitor.shutdown(Shutdown::Write).unwrap();
    let mut part = [0; 14];
    visitor.read_exact(&mut part).unwrap();
    hop.world.pop.close();
    assert!(to_reset(&mut visitor).is_empty());
}

#[test]
fn a_services_reset_is_a_reset_and_what_came_before_it_arrives() {
    let hop = Hop::new(service(|mut stream| {
        let mut one = [0; 1];
        let _ = stream.read_exact(&mut one);
        let _ = stream.write_all(b"part");
        let _ = stream.read_exact(&mut one);
        reset(stream);
    }));
    let mut visitor = hop.visit();
    visitor.write_all(b"a").unwrap();
    let mut part = [0; 4];
    visitor.read_exact(&mut part).unwrap();
    visitor.write_all(b"b").unwrap();
    assert!(to_reset(&mut visitor).is_empty());
}

#[test]
fn half_close_passes_both_ways_and_the_end_is_clean() {
    let (address, ends) = told();
    let hop = Hop::new(address);
    let mut visitor = hop.visit();
    let question = pattern(300_001, 7);
    visitor.write_all(&question).unwrap();
    visitor.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    visitor.read_to_end(&mut answer).expect("a clean end");
    assert_eq!(answer, b"banner");
    assert!(ends.recv_timeout(PATIENCE).unwrap().is_some_and(|all| all == question));
}

#[test]
fn the_service_may_end_first() {
    let hop = Hop::new(service(|mut stream| {
        let _ = stream.write_all(b"all");
        let _ = stream.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"late words");
    }));
    let mut visitor = hop.visit();
    let mut answer = Vec::new();
    visitor.read_to_end(&mut answer).expect("a clean end");
    assert_eq!(answer, b"all");
    visitor.write_all(b"late words").unwrap();
    visitor.shutdown(Shutdown::Write).unwrap();
    until("the visit to be over", || hop.world.pop.stats().recent.iter().any(|one| one.outcome == "finished"));
}

#[test]
fn a_gateway_that_closes_suddenly_resets_the_service_and_one_that_speaks_http_ends_it() {
    for (protocol, wanted) in [("TCP", None), ("HTTP", Some(b"word".to_vec())), ("HTTPS", Some(b"word".to_vec()))] {
        let (address, ends) = told();
        let hop = Hop::with(address, json!({"protocol": protocol}));
        let mut visitor = hop.visit();
        visitor.write_all(b"word").unwrap();
        visitor.read_exact(&mut [0; 6]).unwrap();
        drop(visitor);
        assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), wanted, "{protocol}");
    }
}

#[test]
fn bytes_of_every_size_arrive_once_and_in_order() {
    let hop = Hop::new(service(echo));
    let mut visitor = hop.visit();
    for (round, size) in [1, 2, 3, 1, 16_383, 65_535, 65_536, 65_537, 1, 250_000].into_iter().enumerate() {
        let words = pattern(size, round as u64 + 1);
        let mut writing = visitor.try_clone().unwrap();
        let copy = words.clone();
        let writer = std::thread::spawn(move || writing.write_all(&copy).unwrap());
        let mut back = vec![0; size];
        visitor.read_exact(&mut back).unwrap();
        writer.join().unwrap();
        assert!(back == words, "{size} bytes");
    }
    for byte in 0..200_u8 {
        assert_echoes(&mut visitor, &[byte]);
    }
}

#[test]
fn a_refused_visitor_hears_a_reset_even_if_he_has_said_nothing_yet() {
    let hop = Hop::with(service(echo), json!({"limits": {"newStreamsPerS": 1}}));
    let mut refused = 0;
    for _ in 0..6 {
        let mut visitor = hop.dial();
        // The POP has let it in, or refused it, before its first byte.
        std::thread::park_timeout(Duration::from_millis(20));
        visitor.write_all(&[header("g-1"), b"x".to_vec()].concat()).unwrap();
        match visitor.read(&mut [0]) {
            Ok(count) => assert_eq!(count, 1, "a clean end"),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
                refused += 1;
            }
        }
    }
    assert!(refused >= 3, "{refused}");
}

#[test]
fn the_pulse_answers_each_who_asks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pulse");
    let authority = Authority::new();
    let pop = TunnelServer::new(ServerConfig {
        identity: authority.pop(),
        listeners: vec!["127.0.0.1:0".parse().unwrap()],
        quic: false,
        web: None,
        country_database: None,
        pulse: Some(path.clone()),
        liveness: quick(),
        flow: drtp_core::Flow::default(),
        limits: CoreLimits::default(),
    })
    .unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for _ in 0..3 {
        let mut asked = UnixStream::connect(&path).unwrap();
        asked.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        asked.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b".");
    }
    pop.close();
    assert!(UnixStream::connect(&path).is_err());
}

#[test]
fn a_tcp_listener_in_the_way_is_said_as_before() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pop = pop(&Authority::new());
    let mut entry = with(route(taken.local_addr().unwrap().port()), json!({"mode": "unix"}));
    entry["bind"]["path"] = json!(folder.path().join("c-1.sock"));
    let outcome = pop.apply(&upsert("route/c-1", &entry));
    assert!(!outcome.entries["route/c-1"].ok, "{outcome:?}");
}
