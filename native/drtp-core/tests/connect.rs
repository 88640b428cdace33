//! `connect`, end to end and sealed: a program's connection through a connector's port, a POP and an agent, on real sockets.

mod world;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use serde_json::json;
use world::panel::*;
use world::*;

#[test]
fn bytes_pass_both_ways_whole_and_the_end_is_clean() {
    let panel = Panel::new(service(echo));
    let sent = pattern(8 * 1024 * 1024, 3);
    let mut stream = panel.call();
    let mut reading = stream.try_clone().unwrap();
    let expected = sent.clone();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        reading.read_to_end(&mut got).unwrap();
        assert!(got == expected, "{} of {} bytes", got.len(), expected.len());
    });
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    reader.join().unwrap();
    assert_eq!(panel.outcome(), "finished");
    until("the agent's books", || panel.agent.stats().recent.iter().any(|record| record.caller == "user:joe"));
    until("the POP's books", || panel.pops[0].stats().streams == 0);
    // What the POP passed on is more than the plain bytes: records around them, and nothing of a gateway's.
    assert!(panel.pops[0].stats().recent[0].bytes_in > sent.len() as u64);
}

#[test]
fn a_server_that_speaks_first_is_heard_and_a_half_close_passes() {
    let panel = Panel::new(service(|mut stream: TcpStream| {
        stream.write_all(b"hello\n").unwrap();
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).unwrap();
        stream.write_all(&asked).unwrap();
    }));
    let mut stream = panel.call();
    let mut greeting = [0; 6];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello\n");
    stream.write_all(b"and back").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"and back");
}

#[test]
fn a_reset_of_the_service_is_a_reset_and_a_refusal_is_told() {
    let panel = Panel::new(service(|mut stream: TcpStream| {
        stream.write_all(b"x").unwrap();
        let mut one = [0];
        let _ = stream.read_exact(&mut one);
        reset(stream);
    }));
    let mut stream = panel.call();
    let mut one = [0];
    stream.read_exact(&mut one).unwrap();
    stream.write_all(b"y").unwrap();
    read_to_reset(&mut stream);
    let away = Panel::new(SocketAddr::new([127, 0, 0, 1].into(), free_port("127.0.0.1")));
    visit_in_vain(away.at);
    assert_eq!(away.outcome(), "local service refused");
}

#[test]
fn a_caller_who_loses_the_right_is_cut_at_the_pop_and_at_the_agent_by_itself() {
    let panel = Panel::new(service(echo));
    let mut first = panel.call();
    first.write_all(b"a").unwrap();
    first.read_exact(&mut [0]).unwrap();
    // At the agent alone: the POP still lets it through.
    let closed = with(panel.service.clone(), json!({"callers": []}));
    assert_ok(&panel.agent.apply(&upsert("service/c-1", &closed)));
    read_to_reset(&mut first);
    visit_in_vain(panel.at);
    assert_ok(&panel.agent.apply(&upsert("service/c-1", &panel.service)));
    let mut second = panel.call();
    second.write_all(b"a").unwrap();
    second.read_exact(&mut [0]).unwrap();
    // At the POP: the stream ends, and the session too.
    let closed = with(panel.routes[0].clone(), json!({"callers": []}));
    assert_ok(&panel.pops[0].apply(&upsert("route/c-1", &closed)));
    read_to_reset(&mut second);
    until("the refusal", || panel.connector.stats().sessions.iter().all(|s| s.state != "Open"));
}

#[test]
fn a_connector_that_no_route_lists_has_no_session_and_one_of_another_service_no_stream() {
    let panel = Panel::new(service(echo));
    let stranger = connector_of(&panel.authority, "x-2");
    let server = plan_server(panel.pops[0].agent_addresses()[0]);
    let table = json!({"server/p-1": server, "port/web": port(&[way("a-1", "p-1")])});
    let at: SocketAddr = stranger.apply(&whole(table)).entries["port/web"].bound.as_ref().unwrap().parse().unwrap();
    event(|max| stranger.events(max), |event| matches!(event, drtp_core::Event::Refused { .. }));
    visit_in_vain(at);
    // It gets in by another service, and still has no way to this one.
    let other = with(unexposed_route(&callers(&["x-2"])), json!({"connection": "c-2"}));
    assert_ok(&panel.pops[0].apply(&upsert("route/c-2", &other)));
    until("the session", || stranger.stats().sessions.iter().any(|s| s.state == "Open"));
    visit_in_vain(at);
    assert_eq!(stranger.stats().recent.last().unwrap().outcome, "access denied");
    // Nor does the right to be let through by the POP move the agent.
    let route = with(panel.routes[0].clone(), json!({"callers": callers(&[CALLER, "x-2"])}));
    assert_ok(&panel.pops[0].apply(&upsert("route/c-1", &route)));
    visit_in_vain(at);
    assert!(panel.agent.stats().connections[0].denied_total > 0);
}

#[test]
fn an_agent_that_was_not_meant_is_not_believed() {
    let panel = Panel::new(service(echo));
    // The POP's snapshot says a-1, and so a-1 answers; the connector's plan means another one.
    let wrong = json!({"upsert": {"port/web": port(&[way("a-2", "p-1")])}});
    assert_ok(&panel.connector.apply(wrong.to_string().as_bytes()));
    visit_in_vain(panel.at);
    assert_eq!(panel.outcome(), "end-to-end encryption broke");
}

#[test]
fn the_service_is_told_who_calls_by_a_header_of_its_agent() {
    let service = service(|mut stream: TcpStream| {
        let mut header = vec![0; 256];
        let count = stream.read(&mut header).unwrap();
        stream.write_all(&header[..count]).unwrap();
    });
    let panel = Panel::build(service, 1, json!({"proxyProtocol": "V2"}));
    let mut told = Vec::new();
    panel.call().read_to_end(&mut told).unwrap();
    let caller = b"\xe3\x00\x08user:joe";
    assert!(told.windows(caller.len()).any(|window| window == caller), "{told:?}");
}

#[test]
fn new_connections_go_on_through_the_other_pop_when_one_is_gone() {
    let mut panel = Panel::build(service(echo), 2, json!({}));
    panel.pops.remove(0).close();
    until("the loss to be seen", || panel.connector.stats().sessions.iter().filter(|s| s.state == "Open").count() == 1);
    for _ in 0..20 {
        let mut stream = panel.call();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn new_connections_go_on_through_the_other_pop_while_one_drains_and_the_live_ones_finish() {
    let panel = Panel::build(service(echo), 2, json!({}));
    let mut live: Vec<TcpStream> = (0..4).map(|_| panel.call()).collect();
    let says = |stream: &mut TcpStream| {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    };
    live.iter_mut().for_each(says);
    panel.pops[0].drain(std::time::Duration::from_secs(30));
    until("the connector to hear of it", || panel.connector.stats().sessions.iter().any(|s| s.state != "Open"));
    for _ in 0..20 {
        says(&mut panel.call());
    }
    live.iter_mut().for_each(says);
    assert!(panel.connector.stats().recent.iter().all(|record| record.outcome != "going away"));
}

/// The agent leaves one POP; what it serves stays on the routes of both.
fn leave(panel: &Panel, server: &str) {
    assert_ok(&panel.agent.apply(json!({"remove": [format!("server/{server}")]}).to_string().as_bytes()));
    let pop: usize = server[2..].parse().unwrap();
    let is_here = |session: &drtp_core::SessionStats| session.peer == "a-1" && session.state == "Open";
    until("the agent to be gone", || !panel.pops[pop - 1].stats().sessions.iter().any(is_here));
}

#[test]
fn a_connection_whose_way_is_lost_before_it_began_goes_by_another_pop() {
    let panel = Panel::build(service(echo), 2, json!({}));
    leave(&panel, "p-1");
    for _ in 0..20 {
        let mut stream = panel.call();
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    assert!(panel.connector.stats().recent.iter().all(|record| record.outcome != "tunnel lost"));
}

#[test]
fn a_connection_waits_a_moment_for_a_way_and_no_longer() {
    let mut panel = Panel::build(service(echo), 2, json!({}));
    panel.pops.remove(1).close();
    leave(&panel, "p-1");
    until("the loss to be seen", || panel.connector.stats().sessions.iter().filter(|s| s.state == "Open").count() == 1);
    let began = std::time::Instant::now();
    visit_in_vain(panel.at);
    assert!(began.elapsed() < std::time::Duration::from_secs(3));
    assert_eq!(panel.outcome(), "tunnel lost");
    let refused = panel.pops[0].stats().connections.iter().map(|one| one.denied_total).sum::<u64>();
    assert!(refused < 30, "it is tried again and again, not without a pause: {refused}");
    // One that comes while nobody serves is served by whoever is back in time.
    let mut stream = panel.call();
    assert_ok(&panel.agent.apply(&upsert("server/p-1", &plan_numbered(1, &panel.pops[0]))));
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_hundred_connections_without_a_way_are_looked_at_together_and_let_go_in_time() {
    let panel = Panel::new(service(echo));
    let nowhere = panel.connector.apply(&upsert("port/nowhere", &port(&[])));
    let at: SocketAddr = nowhere.entries["port/nowhere"].bound.as_ref().unwrap().parse().unwrap();
    let began = std::time::Instant::now();
    let waiting: Vec<TcpStream> = (0..100).map(|_| visit(at)).collect();
    let mut live = panel.call();
    while began.elapsed() < std::time::Duration::from_millis(1_200) {
        let asked = std::time::Instant::now();
        live.write_all(b"x").unwrap();
        live.read_exact(&mut [0]).unwrap();
        assert!(asked.elapsed() < std::time::Duration::from_millis(500), "others are served meanwhile");
    }
    for mut stream in waiting {
        read_to_reset(&mut stream);
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(3));
}

#[test]
fn connections_pass_over_a_pop_that_has_gone_silent_and_those_that_met_it_go_by_another() {
    let panel = Panel::build(service(echo), 2, json!({}));
    let hole = Hole::to(panel.pops[0].agent_addresses()[0]);
    let by_hole = with(plan_numbered(1, &panel.pops[0]), plan_server(hole.address));
    let by_hole = with(by_hole, json!({"server": "p-1", "name": "p-1.tunnel.test"}));
    assert_ok(&panel.connector.apply(&upsert("server/p-1", &by_hole)));
    let address = hole.address.to_string();
    until("the way through the hole", || {
        let sessions = panel.connector.stats().sessions.clone();
        sessions.iter().any(|s| s.address == address && s.state == "Open") && sessions.iter().all(|s| s.state == "Open")
    });
    there_and_back(panel.call(), b"x");
    there_and_back(panel.call(), b"x");
    hole.swallow();
    let began = std::time::Instant::now();
    let mut callers = Vec::new();
    while began.elapsed() < std::time::Duration::from_millis(2_500) {
        let (at, came) = (panel.at, began.elapsed().as_millis());
        callers.push(std::thread::spawn(move || {
            let asked = std::time::Instant::now();
            there_and_back(visit(at), b"x");
            (came, asked.elapsed().as_millis())
        }));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    for (came, took) in callers.into_iter().map(|caller| caller.join().unwrap()) {
        assert!(took < if came > 1_000 { 500 } else { 4_000 }, "who came after {came} ms was served in {took} ms");
    }
}

#[test]
fn a_unix_port_is_the_owners_alone_and_goes_with_the_connector() {
    use std::os::unix::fs::PermissionsExt;
    let panel = Panel::new(service(echo));
    let path = std::env::temp_dir().join(format!("drtp-connect-{}.sock", std::process::id()));
    let unix = with(port(&[way("a-1", "p-1")]), json!({"bind": {"path": path}}));
    assert_ok(&panel.connector.apply(&upsert("port/unix", &unix)));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"over a path").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"over a path");
    assert_ok(&panel.connector.apply(json!({"remove": ["port/unix"]}).to_string().as_bytes()));
    assert!(!path.exists());
}

#[test]
fn a_port_takes_nobody_from_a_network_that_is_not_allowed() {
    let panel = Panel::new(service(echo));
    let narrow = with(port(&[way("a-1", "p-1")]), json!({"allow": ["10.0.0.0/8"]}));
    let outcome = panel.connector.apply(&upsert("port/narrow", &narrow));
    let at: SocketAddr = outcome.entries["port/narrow"].bound.as_ref().unwrap().parse().unwrap();
    visit_in_vain(at);
}

#[test]
fn what_a_pop_brings_in_clear_to_a_service_that_is_only_for_callers_is_refused() {
    let panel = Panel::build(service(echo), 1, json!({"sealedOnly": true}));
    let open = with(route(free_port("127.0.0.1")), json!({"callers": callers(&[CALLER])}));
    let outcome = panel.pops[0].apply(&upsert("route/c-1", &open));
    let endpoint = outcome.entries["route/c-1"].bound.as_ref().unwrap().parse().unwrap();
    until("the endpoint", || panel.pops[0].stats().connections.iter().any(|c| c.live));
    visit_in_vain(endpoint);
    let mut stream = panel.call();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

#[test]
fn sealed_streams_are_held_to_the_routes_bytes_per_second_both_ways() {
    let panel = Panel::new(service(echo));
    let route = with(panel.routes[0].clone(), json!({"limits": {"bytesPerS": 2_000_000}}));
    assert_ok(&panel.pops[0].apply(&upsert("route/c-1", &route)));
    let (sent, began) = (pattern(3_000_000, 8), std::time::Instant::now());
    there_and_back(panel.call(), &sent);
    // 6 MB, of which 2 MB are the burst.
    let took = began.elapsed().as_secs_f64();
    assert!((1.8..4.0).contains(&took), "{took}");
}
