//! `connect` of a UDP service: datagrams through a connector's port, sealed, through a POP and an agent, on real sockets.

mod world;

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use drtp_core::{CoreLimits, Flow, GatewayConfig, Stats, TunnelConnector};
use serde_json::{Value, json};
use world::panel::*;
use world::*;

/// Long enough for any answer, short enough to show that none comes.
const SILENCE: Duration = Duration::from_millis(300);

fn udp() -> Value {
    json!({"protocol": "UDP"})
}

fn panel(service: SocketAddr) -> Panel {
    Panel::of(service, 1, udp(), json!({}), json!({}))
}

fn program(panel: &Panel) -> UdpSocket {
    let socket = udp_socket();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(panel.at).unwrap();
    socket
}

fn answer(program: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let count = program.recv(&mut buffer).expect("an answer");
    buffer.truncate(count);
    buffer
}

fn ask(program: &UdpSocket, question: &[u8]) -> Vec<u8> {
    program.send(question).unwrap();
    answer(program)
}

fn assert_silent(program: &UdpSocket) {
    program.set_read_timeout(Some(SILENCE)).unwrap();
    let got = program.recv(&mut [0; 64]);
    assert!(got.is_err(), "{got:?}");
    program.set_read_timeout(Some(PATIENCE)).unwrap();
}

#[test]
fn datagrams_of_every_size_come_back_whole_and_are_counted() {
    let panel = panel(udp_echo());
    let program = program(&panel);
    let sizes = [0, 1, 2, 511, 1_200, 1_472, 9_000, 16_384, 40_000, 60_000, 65_506, 65_507];
    for size in sizes {
        let data = pattern(size, size as u64);
        assert!(ask(&program, &data) == data, "{size} bytes");
    }
    let counted = panel.connector.stats().connections[0].clone();
    assert_eq!((counted.streams, counted.streams_total, counted.datagrams_dropped), (1, 1, 0));
    assert_eq!((counted.datagrams_in, counted.datagrams_out), (sizes.len() as u64, sizes.len() as u64));
    assert_eq!(counted.bytes_in, sizes.iter().sum::<usize>() as u64);
    let served = panel.agent.stats().connections[0].clone();
    assert_eq!((served.datagrams_in, served.datagrams_out), (sizes.len() as u64, sizes.len() as u64));
}

#[test]
fn a_burst_on_a_path_that_keeps_up_loses_nothing() {
    let panel = panel(udp_echo());
    let program = program(&panel);
    assert_eq!(ask(&program, b"first"), b"first");
    for round in 0..50_u32 {
        let sent: Vec<Vec<u8>> = (0..40_u32).map(|n| pattern(1_200, u64::from(round * 40 + n + 1))).collect();
        sent.iter().for_each(|one| assert_eq!(program.send(one).unwrap(), one.len()));
        let got: BTreeSet<Vec<u8>> = sent.iter().map(|_| answer(&program)).collect();
        assert!(got == sent.into_iter().collect(), "round {round}");
    }
}

#[test]
fn each_source_has_a_flow_of_its_own_and_gets_its_own_answers() {
    let panel = panel(udp_service(|from, bytes| [from.to_string().as_bytes(), bytes].concat()));
    let programs: Vec<UdpSocket> = (0..20).map(|_| program(&panel)).collect();
    for (number, program) in programs.iter().enumerate() {
        program.send(format!("/{number}").as_bytes()).unwrap();
    }
    let seen: BTreeSet<String> = programs
        .iter()
        .enumerate()
        .map(|(number, program)| {
            let (said, own) = (String::from_utf8(answer(program)).unwrap(), format!("/{number}"));
            said.strip_suffix(&own).unwrap_or_else(|| panic!("{said} came to {number}")).to_owned()
        })
        .collect();
    assert_eq!(seen.len(), 20, "one socket of the agent for each");
}

#[test]
fn what_comes_before_the_stream_is_ready_waits_and_the_oldest_go_first() {
    let panel = panel(udp_echo());
    let program = program(&panel);
    // 256 KiB may wait; the handshake takes longer than these sends.
    for number in 0..6_u8 {
        program.send(&vec![number; 60_000]).unwrap();
    }
    let (mut got, mut dropped) = (BTreeSet::new(), 0);
    program.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    // A busy machine's kernel may keep the last ones from the connector.
    until("all that came in to be answered or dropped", || {
        let mut datagram = vec![0; 60_001];
        while let Ok(length) = program.recv(&mut datagram) {
            assert!(length == 60_000 && datagram[..length].iter().all(|byte| *byte == datagram[0]));
            got.insert(datagram[0]);
        }
        let counted = &panel.connector.stats().connections[0];
        dropped = counted.datagrams_dropped;
        counted.datagrams_in >= 4 && dropped + got.len() as u64 == counted.datagrams_in
    });
    assert!(got.len() >= 3 && u64::from(*got.first().unwrap()) >= dropped, "{got:?}, {dropped} dropped");
}

#[test]
fn the_service_is_told_who_calls_in_front_of_each_datagram() {
    let panel = Panel::of(udp_echo(), 1, udp(), json!({"proxyProtocol": "V2"}), json!({}));
    let program = program(&panel);
    for question in [b"one".as_slice(), b"", b"three"] {
        let seen = ask(&program, question);
        assert_eq!((seen[12], seen[13]), (0x20, 0), "no address is known");
        let caller = b"\xe3\x00\x08user:joe";
        let at = seen.windows(caller.len()).position(|window| window == caller).unwrap();
        assert_eq!(&seen[at + caller.len()..], question);
    }
}

#[test]
fn a_caller_who_loses_the_right_is_cut_at_the_pop_and_at_the_agent_by_itself() {
    let panel = panel(udp_echo());
    let program = program(&panel);
    assert_eq!(ask(&program, b"a"), b"a");
    let closed = with(panel.service.clone(), json!({"callers": []}));
    assert_ok(&panel.agent.apply(&upsert("service/c-1", &closed)));
    assert_eq!(panel.outcome(), "access denied");
    program.send(b"b").unwrap();
    assert_silent(&program);
    assert_ok(&panel.agent.apply(&upsert("service/c-1", &panel.service)));
    // A source that was refused is left alone for a moment.
    let second = self::program(&panel);
    assert_eq!(ask(&second, b"c"), b"c");
    let closed = with(panel.routes[0].clone(), json!({"callers": []}));
    assert_ok(&panel.pops[0].apply(&upsert("route/c-1", &closed)));
    until_stats("the cut", || panel.agent.stats(), |stats| stats.streams == 0);
    second.send(b"d").unwrap();
    assert_silent(&second);
}

#[test]
fn new_datagrams_go_on_through_the_other_pop_when_one_is_gone() {
    let mut panel = Panel::of(udp_echo(), 2, udp(), json!({}), json!({}));
    let programs: Vec<UdpSocket> = (0..8).map(|_| program(&panel)).collect();
    programs.iter().for_each(|program| assert_eq!(ask(program, b"one"), b"one"));
    panel.pops.remove(0).close();
    until("the loss to be seen", || panel.connector.stats().sessions.iter().filter(|s| s.state == "Open").count() == 1);
    programs.iter().for_each(|program| assert_eq!(ask(program, b"two"), b"two"));
    assert_eq!(panel.connector.stats().connections[0].streams, 8);
}

#[test]
fn a_draining_pop_hands_its_flows_over() {
    let panel = Panel::of(udp_echo(), 2, udp(), json!({}), json!({}));
    let programs: Vec<UdpSocket> = (0..8).map(|_| program(&panel)).collect();
    programs.iter().for_each(|program| assert_eq!(ask(program, b"one"), b"one"));
    panel.pops[0].drain(Duration::from_secs(30));
    until("the connector to hear of it", || panel.connector.stats().sessions.iter().any(|s| s.state != "Open"));
    programs.iter().for_each(|program| assert_eq!(ask(program, b"two"), b"two"));
    until_stats("the first POP to be empty", || panel.pops[0].stats(), |stats| stats.streams == 0);
}

#[test]
fn a_silent_flow_ends_at_all_three_and_the_next_datagram_begins_another() {
    let panel = Panel::of(udp_echo(), 1, udp(), json!({}), json!({"idleMs": 100}));
    let program = program(&panel);
    assert_eq!(ask(&program, b"x"), b"x");
    assert_eq!(panel.outcome(), "idle");
    until_stats("the POP", || panel.pops[0].stats(), |stats| stats.streams == 0);
    let by_joe = |stats: &Stats| stats.recent.first().is_some_and(|ended| ended.caller == "user:joe");
    until_stats("the agent", || panel.agent.stats(), |stats| stats.streams == 0 && by_joe(stats));
    let ended = panel.connector.stats().recent[0].clone();
    assert_eq!((ended.datagrams_in, ended.datagrams_out), (1, 1));
    assert_eq!(ended.visitor, program.local_addr().unwrap().to_string());
    assert_eq!(ask(&program, b"y"), b"y");
}

#[test]
fn a_stopping_connector_waits_for_no_silent_flow_and_answers_still_come() {
    let panel = panel(udp_service(|_, bytes| {
        std::thread::park_timeout(Duration::from_millis(200));
        bytes.to_vec()
    }));
    let program = program(&panel);
    program.send(b"late").unwrap();
    until_stats("the question to be there", || panel.agent.stats(), |stats| stats.connections[0].datagrams_in == 1);
    let since = Instant::now();
    panel.connector.drain(Duration::from_secs(30));
    assert_eq!(answer(&program), b"late");
    until_stats("the flow to end", || panel.connector.stats(), |stats| stats.streams == 0);
    assert!(since.elapsed() < Duration::from_secs(10), "an idle minute was waited for");
}

#[test]
fn a_port_takes_no_datagram_from_a_network_that_is_not_allowed() {
    let panel = Panel::of(udp_echo(), 1, udp(), json!({}), json!({"allow": ["127.0.0.1/32"]}));
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    stranger.connect(panel.at).unwrap();
    for _ in 0..5 {
        stranger.send(b"hello").unwrap();
        assert_silent(&stranger);
    }
    let stats = panel.connector.stats();
    assert_eq!((stats.connections[0].streams_total, stats.connections[0].denied_total), (0, 5));
    assert!(stats.recent.len() <= 2, "said once in a while: {}", stats.recent.len());
    assert_eq!(ask(&program(&panel), b"x"), b"x");
}

#[test]
fn a_service_that_refuses_datagrams_is_seen_and_its_return_too() {
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let panel = panel(nobody);
    let program = program(&panel);
    program.send(b"is anybody there?").unwrap();
    let refused = |event: &drtp_core::Event| matches!(event, drtp_core::Event::LocalDown { .. });
    event(|max| panel.agent.events(max), refused);
    let back = UdpSocket::bind(nobody).unwrap();
    back.set_read_timeout(Some(PATIENCE)).unwrap();
    program.send(b"now").unwrap();
    let mut buffer = [0; 64];
    let (count, from) = back.recv_from(&mut buffer).unwrap();
    back.send_to(&buffer[..count], from).unwrap();
    assert_eq!(answer(&program), b"now");
}

#[test]
fn what_a_pop_brings_in_clear_to_a_udp_service_that_is_only_for_callers_is_refused() {
    let panel = Panel::of(udp_echo(), 1, udp(), json!({"sealedOnly": true}), json!({}));
    assert_eq!(ask(&program(&panel), b"sealed"), b"sealed");
}

#[test]
fn an_agent_that_was_not_meant_is_not_believed() {
    let panel = panel(udp_echo());
    let wrong = with(port(&[way("a-2", "p-1")]), udp());
    assert_ok(&panel.connector.apply(&upsert("port/web", &wrong)));
    let program = program(&panel);
    program.send(b"secret").unwrap();
    assert_eq!(panel.outcome(), "end-to-end encryption broke");
    assert_silent(&program);
}

#[test]
fn ends_that_mean_different_kinds_meet_nobody() {
    // The connector takes the service for TCP, then the other way round.
    let panel = panel(udp_echo());
    let outcome = panel.connector.apply(&upsert("port/tcp", &port(&[way("a-1", "p-1")])));
    visit_in_vain(outcome.entries["port/tcp"].bound.as_ref().unwrap().parse().unwrap());
    assert_eq!(panel.outcome(), "unknown connection");
    let tcp = Panel::of(service(echo), 1, json!({}), json!({}), udp());
    program(&tcp).send(b"x").unwrap();
    assert_eq!(tcp.outcome(), "unknown connection");
}

#[test]
fn a_path_takes_no_datagrams_and_udp_and_tcp_have_one_number_each_for_themselves() {
    let panel = panel(udp_echo());
    let path = std::env::temp_dir().join(format!("drtp-connect-udp-{}.sock", std::process::id()));
    let unix = with(port(&[way("a-1", "p-1")]), json!({"bind": {"path": path}, "protocol": "UDP"}));
    let outcome = panel.connector.apply(&upsert("port/unix", &unix));
    assert!(outcome.entries["port/unix"].error.as_ref().unwrap().contains("no datagram comes by a path"));
    // A number that nobody else has by either protocol.
    let number = std::iter::repeat_with(|| UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port())
        .take(100)
        .find(|number| std::net::TcpListener::bind(("127.0.0.1", *number)).is_ok())
        .unwrap();
    for (key, kind) in [("port/tcp", json!({})), ("port/udp", udp())] {
        let entry =
            with(with(port(&[way("a-1", "p-1")]), kind), json!({"bind": {"address": "127.0.0.1", "port": number}}));
        assert_ok(&panel.connector.apply(&upsert(key, &entry)));
    }
    let program = program(&panel);
    program.connect(("127.0.0.1", number)).unwrap();
    assert_eq!(ask(&program, b"x"), b"x");
}

#[test]
fn open_flows_at_rest_leave_every_driver_at_rest() {
    let panel = panel(udp_echo());
    let programs: Vec<UdpSocket> = (0..20).map(|_| program(&panel)).collect();
    programs.iter().for_each(|program| assert_eq!(ask(program, b"x"), b"x"));
    let turns = || [panel.connector.stats().ticks, panel.pops[0].stats().ticks, panel.agent.stats().ticks];
    let before = turns();
    std::thread::park_timeout(Duration::from_millis(500));
    for (now, before) in turns().into_iter().zip(before) {
        assert!(now - before < 40, "{} turns for nothing", now - before);
    }
}

/// A connector with room for four, at a port that only 127.0.0.1 may use, and the four programs that have the room.
fn full(panel: &Panel) -> (TunnelConnector, SocketAddr, Vec<UdpSocket>) {
    let narrow = TunnelConnector::new(GatewayConfig {
        identity: panel.authority.identity(&format!("spiffe://td/user/u-1/connector/{CALLER}"), &[]),
        epoch: 2,
        liveness: quick(),
        flow: Flow::default(),
        limits: CoreLimits { streams_max: 4, ..CoreLimits::default() },
    })
    .unwrap();
    let server = plan_server(panel.pops[0].agent_addresses()[0]);
    let place = with(with(port(&[way("a-1", "p-1")]), udp()), json!({"allow": ["127.0.0.1/32"]}));
    let table = json!({"server/p-1": server, "port/web": place});
    let at = narrow.apply(&whole(table)).entries["port/web"].bound.as_ref().unwrap().parse().unwrap();
    until("the session", || narrow.stats().sessions.iter().any(|session| session.state == "Open"));
    let programs: Vec<UdpSocket> = (0..4).map(|_| program(panel)).collect();
    for program in &programs {
        program.connect(at).unwrap();
        assert_eq!(ask(program, b"x"), b"x");
    }
    (narrow, at, programs)
}

#[test]
fn a_full_port_gives_the_place_of_the_longest_silent_and_never_of_who_speaks() {
    let panel = panel(udp_echo());
    let (narrow, at, programs) = full(&panel);
    let (speaks, mut refused) = (&programs[0], 0);
    until("a place", || {
        assert_eq!(ask(speaks, b"still here"), b"still here");
        let newcomer = program(&panel);
        newcomer.connect(at).unwrap();
        newcomer.set_read_timeout(Some(SILENCE)).unwrap();
        newcomer.send(b"?").unwrap();
        let answered = newcomer.recv(&mut [0; 8]).is_ok();
        refused += u32::from(!answered);
        answered
    });
    assert!(refused > 0, "everybody had spoken of late");
    let stats = narrow.stats();
    assert_eq!((stats.connections[0].streams, stats.connections[0].streams_total), (4, 5));
    assert!(stats.recent.iter().any(|record| record.outcome == "idle"));
    assert_eq!(ask(speaks, b"and still"), b"and still");
}

#[test]
fn who_may_not_come_takes_nobodys_place_at_a_full_port() {
    let panel = panel(udp_echo());
    let (narrow, at, _programs) = full(&panel);
    // By now they have been silent for long enough to make place for one who may.
    let silent = Instant::now() + Duration::from_secs(2);
    until("everybody to be silent", || Instant::now() >= silent);
    let stranger = UdpSocket::bind("127.0.0.2:0").unwrap();
    stranger.connect(at).unwrap();
    let denied = || narrow.stats().connections[0].denied_total;
    until("the refusal", || stranger.send(b"?").is_ok() && denied() > 0);
    assert_eq!(narrow.stats().connections[0].streams, 4);
}
