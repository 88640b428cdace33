//! A UDP visitor's datagrams through gateway, POP and agent, over real sockets.

mod world;

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use drtp_core::{AgentConfig, CoreLimits, Event, Flow, GatewayConfig, TunnelAgent, TunnelGateway, TunnelServer};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use serde_json::{Value, json};
use world::*;

/// Long enough for any answer, short enough to show that none comes.
const SILENCE: Duration = Duration::from_millis(300);

fn free_udp_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn allow(cidr: &str) -> Value {
    json!({"lists": [{"default": "Deny", "rules": [{"action": "Allow", "cidrs": [cidr]}]}]})
}

struct UdpWorld {
    authority: Authority,
    pops: Vec<TunnelServer>,
    agent: TunnelAgent,
    gateway: TunnelGateway,
    at: SocketAddr,
    route: Value,
    listener: Value,
}

impl UdpWorld {
    fn new(service: SocketAddr) -> Self {
        Self::build(service, 1, json!({}), json!({}))
    }

    fn build(service: SocketAddr, pops: usize, service_change: Value, listener_change: Value) -> Self {
        let authority = Authority::new();
        let udp_route = |port: u16| with(route(port), json!({"protocol": "UDP", "access": allow("127.0.0.1/32")}));
        let trust = json!({"type": "trust", "gateways": ["g-1"]});
        let pops: Vec<TunnelServer> = (1..=pops)
            .map(|n| {
                let pop = numbered_pop(&authority, n);
                let entries = json!({"route/c-1": udp_route(free_port("127.0.0.1")), "trust": trust});
                assert_ok(&pop.apply(&whole(entries)));
                pop
            })
            .collect();
        let servers: Vec<Value> = pops.iter().enumerate().map(|(at, pop)| plan_numbered(at + 1, pop)).collect();
        let target = target(service);
        let config = agent_config(&authority, "a-1", 1, target.clone());
        let agent = TunnelAgent::new(AgentConfig { limits: quick_limits(), ..config }).unwrap();
        let served = with(with(plan_service(&target), json!({"protocol": "UDP"})), service_change);
        let mut plan = json!({"service/c-1": served});
        let gateway = TunnelGateway::new(GatewayConfig {
            identity: authority.identity("spiffe://td/gateway/g-1", &[]),
            epoch: 1,
            liveness: quick(),
            flow: Flow::default(),
            limits: CoreLimits::default(),
        })
        .unwrap();
        let endpoints: Vec<Value> = (1..=pops.len())
            .map(|n| json!({"connection": CONNECTION, "server": format!("p-{n}"), "priority": n - 1}))
            .collect();
        let port = free_udp_port();
        let listener = json!({
            "type": "listener", "address": "127.0.0.1", "port": port, "access": allow("127.0.0.1/32"),
            "backends": [{"service": "s-1", "namespace": "ns", "name": "web", "weight": 1, "endpoints": endpoints}],
        });
        let listener = with(listener, listener_change);
        let mut table = json!({"udp/1": listener});
        for (at, server) in servers.iter().enumerate() {
            plan[format!("server/p-{}", at + 1)] = server.clone();
            table[format!("server/p-{}", at + 1)] = server.clone();
        }
        assert_ok(&agent.apply(&whole(plan)));
        assert_ok(&gateway.apply(&whole(table)));
        let at = SocketAddr::new([127, 0, 0, 1].into(), port);
        let world = Self { authority, pops, agent, gateway, at, route: udp_route(0), listener };
        for pop in &world.pops {
            until("the agent", || pop.stats().connections.iter().any(|c| c.live));
        }
        until("the gateway", || world.gateway.stats().sessions.iter().all(|s| s.state == "Open"));
        world
    }

    fn visitor(&self) -> UdpSocket {
        self.visitor_from("127.0.0.1")
    }

    fn visitor_from(&self, ip: &str) -> UdpSocket {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(self.at).unwrap();
        socket
    }
}

fn quick_limits() -> CoreLimits {
    CoreLimits { probe_every_ms: 200, ..CoreLimits::default() }
}

fn ask(visitor: &UdpSocket, question: &[u8]) -> Vec<u8> {
    visitor.send(question).unwrap();
    let mut buffer = vec![0; 65_536];
    let count = visitor.recv(&mut buffer).expect("an answer");
    buffer.truncate(count);
    buffer
}

fn assert_silent(visitor: &UdpSocket) {
    visitor.set_read_timeout(Some(SILENCE)).unwrap();
    let mut buffer = [0; 64];
    let got = visitor.recv(&mut buffer);
    assert!(got.is_err(), "{got:?}");
    visitor.set_read_timeout(Some(PATIENCE)).unwrap();
}

#[test]
fn datagrams_of_every_size_come_back_whole() {
    let world = UdpWorld::new(udp_echo());
    let visitor = world.visitor();
    assert_eq!(ask(&visitor, b"prove"), b"prove");
    for size in [0, 1, 2, 511, 512, 1_200, 1_472, 1_500, 9_000, 16_384, 40_000, 65_506, 65_507] {
        let data = pattern(size, size as u64);
        assert!(ask(&visitor, &data) == data, "{size} bytes");
    }
    let connections = &world.gateway.stats().connections;
    assert_eq!((connections[0].streams, connections[0].streams_total), (1, 1));
}

#[test]
fn who_is_not_on_the_list_gets_nothing_and_costs_no_flow() {
    let world = UdpWorld::new(udp_echo());
    let stranger = world.visitor_from("127.0.0.2");
    stranger.send(b"hello").unwrap();
    assert_silent(&stranger);
    let connections = &world.gateway.stats().connections;
    assert_eq!((connections[0].streams_total, connections[0].denied_total), (0, 1));
    assert_eq!(ask(&world.visitor(), b"x"), b"x");
}

#[test]
fn a_pop_judges_again_what_a_gateway_lets_in() {
    let world = UdpWorld::build(udp_echo(), 1, json!({}), json!({"access": allow("127.0.0.0/8")}));
    let stranger = world.visitor_from("127.0.0.2");
    stranger.send(b"hello").unwrap();
    until_stats("the denial", || world.pops[0].stats(), |s| s.connections[0].denied_total == 1);
    assert_silent(&stranger);
    stranger.send(b"again").unwrap();
    assert_silent(&stranger);
    // The refusal is remembered for a second: the POP is not asked for each datagram.
    assert!(world.pops[0].stats().connections[0].denied_total <= 2);
}

#[test]
fn each_visitor_has_a_flow_of_its_own() {
    let world = UdpWorld::new(udp_service(|from, _| from.to_string().into_bytes()));
    let visitors: Vec<UdpSocket> = (0..20).map(|_| world.visitor()).collect();
    let mut seen: Vec<Vec<u8>> = visitors.iter().map(|visitor| ask(visitor, b"?")).collect();
    let again: Vec<Vec<u8>> = visitors.iter().map(|visitor| ask(visitor, b"?")).collect();
    assert_eq!(seen, again, "a flow keeps its socket");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 20);
}

#[test]
fn the_service_hears_the_true_visitor_in_front_of_each_datagram() {
    let world = UdpWorld::build(udp_echo(), 1, json!({"proxyProtocol": "V2"}), json!({}));
    let visitor = world.visitor();
    for _ in 0..2 {
        let seen = ask(&visitor, b"payload");
        assert_eq!(seen[13], 0x12, "UDP over IPv4");
        let drtp_core::proxy::Parsed::Whole(header, length) = drtp_core::proxy::parse_v2(&seen).unwrap() else {
            panic!("no header")
        };
        assert_eq!(header.source, Some(visitor.local_addr().unwrap()));
        assert_eq!(header.destination, Some(world.at));
        assert_ne!(header.stream_id, [0; 16]);
        assert_eq!(&seen[length..], b"payload");
    }
}

#[test]
fn a_narrowed_list_cuts_a_live_flow_at_either_end() {
    for at_gateway in [true, false] {
        let world = UdpWorld::new(udp_echo());
        let visitor = world.visitor();
        assert_eq!(ask(&visitor, b"x"), b"x");
        let nobody = json!({"access": allow("192.0.2.0/24")});
        if at_gateway {
            assert_ok(&world.gateway.apply(&upsert("udp/1", &with(world.listener.clone(), nobody))));
        } else {
            let bind = json!({"bind": {"address": "127.0.0.1", "port": free_port("127.0.0.1")}});
            assert_ok(&world.pops[0].apply(&upsert("route/c-1", &with(with(world.route.clone(), nobody), bind))));
        }
        let ended = event(|max| world.gateway.events(max), |event| matches!(event, Event::FlowEnded { .. }));
        let Event::FlowEnded { flow } = ended else { unreachable!() };
        assert!(["access denied", "unknown connection"].contains(&flow.outcome.as_str()), "{flow:?}");
        assert_eq!((flow.bytes_in, flow.bytes_out, flow.datagrams_in, flow.datagrams_out), (1, 1, 1, 1));
        assert_eq!((flow.service.as_str(), flow.visitor), ("ns/web", visitor.local_addr().unwrap().to_string()));
        visitor.send(b"y").unwrap();
        assert_silent(&visitor);
        until_stats("the agent's socket to be gone", || world.agent.stats(), |s| s.streams == 0);
    }
}

#[test]
fn a_silent_flow_ends_at_all_three_and_the_next_datagram_begins_another() {
    let world = UdpWorld::build(udp_echo(), 1, json!({}), json!({"idleMs": 100}));
    let visitor = world.visitor();
    assert_eq!(ask(&visitor, b"x"), b"x");
    let ended = event(|max| world.gateway.events(max), |event| matches!(event, Event::FlowEnded { .. }));
    assert!(matches!(ended, Event::FlowEnded { flow } if flow.outcome == "idle"));
    until_stats("the POP", || world.pops[0].stats(), |s| s.streams == 0 && s.recent[0].outcome == "idle");
    until_stats("the agent", || world.agent.stats(), |s| s.streams == 0 && s.recent[0].datagrams_in == 1);
    assert_eq!(ask(&visitor, b"y"), b"y");
}

#[test]
fn a_lost_pop_moves_the_flow_with_the_visitors_next_datagram() {
    let mut world = UdpWorld::build(udp_echo(), 2, json!({}), json!({}));
    let visitor = world.visitor();
    assert_eq!(ask(&visitor, b"one"), b"one");
    let first = world.pops.remove(0);
    assert_eq!(first.stats().streams, 1);
    first.close();
    until("the gateway to notice", || {
        world.gateway.stats().sessions.iter().any(|s| s.peer == "p-1" && s.state != "Open")
    });
    assert_eq!(ask(&visitor, b"two"), b"two");
    assert_eq!(world.pops[0].stats().streams, 1);
}

#[test]
fn a_draining_pop_hands_its_flows_over() {
    let world = UdpWorld::build(udp_echo(), 2, json!({}), json!({}));
    let visitor = world.visitor();
    assert_eq!(ask(&visitor, b"one"), b"one");
    world.pops[0].drain(Duration::from_secs(30));
    until("the gateway to hear of it", || {
        world.gateway.stats().sessions.iter().any(|s| s.peer == "p-1" && s.state != "Open")
    });
    assert_eq!(ask(&visitor, b"two"), b"two");
    assert_eq!(world.pops[1].stats().streams, 1);
    until_stats("the first POP to be empty", || world.pops[0].stats(), |s| s.streams == 0);
}

#[test]
fn an_agent_that_drains_waits_for_no_silent_flow() {
    let world = UdpWorld::new(udp_echo());
    let visitor = world.visitor();
    assert_eq!(ask(&visitor, b"x"), b"x");
    let since = std::time::Instant::now();
    world.agent.drain(Duration::from_secs(30));
    until_stats("the flow to end", || world.agent.stats(), |s| s.streams == 0);
    assert!(since.elapsed() < Duration::from_secs(10), "an idle minute was waited for");
    assert_eq!(world.agent.stats().recent[0].outcome, "idle");
}

#[test]
fn a_gateway_that_is_not_trusted_brings_nobody() {
    let world = UdpWorld::new(udp_echo());
    let visitor = world.visitor();
    assert_eq!(ask(&visitor, b"x"), b"x");
    assert_ok(&world.pops[0].apply(&upsert("trust", &json!({"type": "trust", "gateways": []}))));
    event(|max| world.gateway.events(max), |event| matches!(event, Event::FlowEnded { .. }));
    visitor.send(b"y").unwrap();
    assert_silent(&visitor);
    assert_ok(&world.pops[0].apply(&upsert("trust", &json!({"type": "trust", "gateways": ["g-1"]}))));
    until("trust to be back", || world.gateway.stats().sessions.iter().all(|s| s.state == "Open"));
    assert_eq!(ask(&visitor, b"z"), b"z");
}

#[test]
fn an_agents_certificate_opens_no_flows() {
    let world = UdpWorld::new(udp_echo());
    let identity = world.authority.agent("a-1");
    let limits = CoreLimits::default();
    let config = GatewayConfig { identity, epoch: 2, liveness: quick(), flow: Flow::default(), limits };
    assert!(TunnelGateway::new(config).is_err());
}

#[test]
fn a_large_answer_waits_until_the_visitor_has_shown_that_it_hears() {
    let world = UdpWorld::new(udp_service(|_, bytes| vec![7; if bytes == b"big" { 50_000 } else { 10 }]));
    let visitor = world.visitor();
    visitor.send(b"big").unwrap();
    assert_silent(&visitor);
    assert_eq!(ask(&visitor, b"small").len(), 10);
    // It asked again after an answer: from now on it gets everything.
    assert_eq!(ask(&visitor, b"big").len(), 50_000);
}

#[test]
fn a_listener_that_is_gone_leaves_its_port() {
    let world = UdpWorld::new(udp_echo());
    assert_eq!(ask(&world.visitor(), b"x"), b"x");
    assert_ok(&world.gateway.apply(&json!({"remove": ["udp/1"]}).to_string().into_bytes()));
    let ended = event(|max| world.gateway.events(max), |event| matches!(event, Event::FlowEnded { .. }));
    assert!(matches!(ended, Event::FlowEnded { flow } if flow.service == "ns/web"));
    until("the port to be free", || UdpSocket::bind(world.at).is_ok());
}

#[test]
fn a_taken_port_is_reported_and_had_as_soon_as_it_is_free() {
    let world = UdpWorld::new(udp_echo());
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let outcome = world.gateway.apply(&upsert("udp/2", &with(world.listener.clone(), json!({"port": port}))));
    assert!(outcome.entries["udp/2"].error.as_deref().is_some_and(|error| error.contains("in use")), "{outcome:?}");
    let at = other.local_addr().unwrap();
    drop(other);
    event(|max| world.gateway.events(max), |event| matches!(event, Event::RouteBound { key, .. } if key == "udp/2"));
    let visitor = UdpSocket::bind("127.0.0.1:0").unwrap();
    visitor.set_read_timeout(Some(PATIENCE)).unwrap();
    visitor.connect(at).unwrap();
    assert_eq!(ask(&visitor, b"x"), b"x");
}

#[test]
fn a_service_that_refuses_is_reported_and_found_again() {
    let port = free_udp_port();
    let world = UdpWorld::new(SocketAddr::new([127, 0, 0, 1].into(), port));
    let visitor = world.visitor();
    visitor.send(b"x").unwrap();
    event(|max| world.agent.events(max), |event| matches!(event, Event::LocalDown { .. }));
    let service = UdpSocket::bind(("127.0.0.1", port)).unwrap();
    service.set_read_timeout(Some(PATIENCE)).unwrap();
    visitor.send(b"y").unwrap();
    let (count, from) = service.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(count, 1);
    service.send_to(b"z", from).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(visitor.recv(&mut buffer).unwrap(), 1);
}

#[test]
fn a_burst_of_datagrams_comes_through_in_order() {
    let world = UdpWorld::new(udp_echo());
    let visitor = world.visitor();
    assert_eq!(ask(&visitor, b"prove"), b"prove");
    let mut last = 0;
    for round in 0..200_u32 {
        for n in 0..10 {
            visitor.send(&(round * 10 + n + 1).to_be_bytes()).unwrap();
        }
        for _ in 0..10 {
            let mut buffer = [0; 8];
            assert_eq!(visitor.recv(&mut buffer).unwrap(), 4);
            let number = u32::from_be_bytes(buffer[..4].try_into().unwrap());
            assert!(number > last, "{number} after {last}");
            last = number;
        }
    }
    assert_eq!(last, 2_000);
}

/// A visitor, or a service, whose system joins and cuts runs of datagrams as ours does.
struct Runs {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Runs {
    fn new() -> Self {
        let socket = udp_socket();
        let state = UdpSocketState::new((&socket).into()).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, state }
    }

    fn send(&self, to: SocketAddr, run: &[u8], each: usize) {
        for part in run.chunks(each * self.state.max_gso_segments()) {
            let segment_size = (part.len() > each).then_some(each);
            let transmit = Transmit { destination: to, ecn: None, contents: part, segment_size, src_ip: None };
            self.state.try_send((&self.socket).into(), &transmit).unwrap();
        }
    }

    /// One message: who sent it, and its datagrams.
    fn receive(&self) -> Option<(SocketAddr, Vec<Vec<u8>>)> {
        let mut buffer = vec![0; 65_536];
        let mut meta = [RecvMeta::default()];
        let slices = &mut [IoSliceMut::new(&mut buffer)];
        self.state.recv((&self.socket).into(), slices, &mut meta).ok()?;
        let [RecvMeta { addr, len, stride, .. }] = meta;
        Some((addr, buffer[..len].chunks(stride.max(1)).map(<[u8]>::to_vec).collect()))
    }

    fn receive_count(&self, count: usize) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let Some((_, datagrams)) = self.receive() else { panic!("{} of {count} came back", seen.len()) };
            seen.extend(datagrams);
        }
        seen
    }
}

/// Answers each run with itself.
fn echo_of_runs() -> SocketAddr {
    let service = Runs::new();
    let address = service.socket.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Some((from, datagrams)) = service.receive() {
            let each = datagrams.first().map_or(1, Vec::len);
            service.send(from, &datagrams.concat(), each);
        }
    });
    address
}

#[test]
fn runs_of_datagrams_come_back_whole_and_in_order_whatever_their_length() {
    let world = UdpWorld::new(echo_of_runs());
    let visitor = Runs::new();
    visitor.send(world.at, b"prove", 5);
    assert_eq!(visitor.receive_count(1), [b"prove".to_vec()]);
    for (each, bytes) in [(1, 64), (64, 64 * 50), (64, 64 * 50 + 1), (1_200, 60_000), (1_472, 20_000), (9_000, 40_000)]
    {
        let run = pattern(bytes, each as u64);
        visitor.send(world.at, &run, each);
        let expected: Vec<Vec<u8>> = run.chunks(each).map(<[u8]>::to_vec).collect();
        assert!(visitor.receive_count(expected.len()) == expected, "{bytes} bytes in datagrams of {each}");
    }
}

#[test]
fn one_flow_that_bursts_beyond_its_queues_loses_nothing_on_a_way_that_keeps_up() {
    let world = UdpWorld::new(echo_of_runs());
    let visitor = Runs::new();
    visitor.send(world.at, b"prove", 5);
    assert_eq!(visitor.receive_count(1), [b"prove".to_vec()]);
    for round in 0..20 {
        // More than any queue of ours keeps of one flow.
        let run = pattern(3_000 * 32, round + 1);
        visitor.send(world.at, &run, 32);
        assert!(visitor.receive_count(3_000).concat() == run, "in order, and all of them");
    }
    drop(world.gateway.apply(&json!({"remove": ["udp/1"]}).to_string().into_bytes()));
    let ended = event(|max| world.gateway.events(max), |event| matches!(event, Event::FlowEnded { .. }));
    let Event::FlowEnded { flow } = ended else { unreachable!() };
    assert_eq!((flow.datagrams_in, flow.datagrams_out, flow.datagrams_dropped), (60_001, 60_001, 0));
}

#[test]
fn a_datagram_that_its_header_makes_too_long_is_dropped_alone_and_counted() {
    let world =
        UdpWorld::build(udp_service(|_, bytes| bytes[..20].to_vec()), 1, json!({"proxyProtocol": "V2"}), json!({}));
    let visitor = world.visitor();
    for size in [100, 65_507, 100] {
        visitor.send(&vec![1; size]).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(visitor.recv(&mut [0; 64]).unwrap(), 20);
    }
    assert_silent(&visitor);
    assert_ok(&world.gateway.apply(&json!({"remove": ["udp/1"]}).to_string().into_bytes()));
    until_stats(
        "the agent's record",
        || world.agent.stats(),
        |stats| stats.recent.first().is_some_and(|flow| (flow.datagrams_in, flow.datagrams_dropped) == (2, 1)),
    );
}

/// On loopback as it is every datagram fits one packet. In a network of its own, whose packets are as short as Ethernet's,
/// long ones go in fragments, and runs of long ones are refused by the system.
#[test]
fn long_datagrams_and_runs_of_them_cross_a_path_of_short_packets() {
    let short = |command: &str| {
        Command::new("unshare").args(["-rn", "sh", "-c", &format!("ip link set lo mtu 1500 up && {command}")]).output()
    };
    if !short("true").is_ok_and(|done| done.status.success()) {
        eprintln!("no network of our own can be had here");
        return;
    }
    let this = std::env::current_exe().unwrap();
    for test in [
        "datagrams_of_every_size_come_back_whole",
        "runs_of_long_datagrams_come_back",
        "the_service_hears_the_true_visitor_in_front_of_each_datagram",
    ] {
        let done = short(&format!("{} --exact {test}", this.display())).unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains("1 passed"), "{test}: {said}");
    }
}

#[test]
fn runs_of_long_datagrams_come_back() {
    let world = UdpWorld::new(udp_echo());
    let visitor = world.visitor();
    assert_eq!(ask(&visitor, b"prove"), b"prove");
    for round in 0..5_u8 {
        (0..5).for_each(|_| assert_eq!(visitor.send(&vec![round; 9_000]).unwrap(), 9_000));
        for _ in 0..5 {
            let mut buffer = vec![0; 9_001];
            assert_eq!(visitor.recv(&mut buffer).unwrap(), 9_000);
            assert!(buffer[..9_000].iter().all(|byte| *byte == round));
        }
    }
}

#[test]
fn datagrams_beyond_the_routes_bytes_per_second_are_dropped_and_counted() {
    let world = UdpWorld::new(udp_echo());
    let limited = with(world.route.clone(), json!({"limits": {"bytesPerS": 20_000}}));
    let bound = world.pops[0].stats().connections[0].bound.clone().unwrap();
    let port = bound.parse::<SocketAddr>().unwrap().port();
    let limited = with(limited, json!({"bind": {"address": "127.0.0.1", "port": port}}));
    let visitor = world.visitor();
    assert_eq!(ask(&visitor, b"before"), b"before");
    assert_ok(&world.pops[0].apply(&upsert("route/c-1", &limited)));
    for _ in 0..200 {
        visitor.send(&[7; 1_000]).unwrap();
    }
    let counted = |world: &UdpWorld| world.pops[0].stats().connections[0].datagrams_over_limit_total;
    until("most to be dropped", || counted(&world) > 150);
    assert!(world.pops[0].stats().connections[0].bytes_in < 60_000);
    let unlimited = with(limited, json!({"limits": {}}));
    assert_ok(&world.pops[0].apply(&upsert("route/c-1", &unlimited)));
    let dropped = counted(&world);
    visitor.send(b"after").unwrap();
    until("the last one", || {
        let mut buffer = [0; 2_000];
        visitor.recv(&mut buffer).is_ok_and(|count| &buffer[..count] == b"after")
    });
    assert_eq!(counted(&world), dropped);
}
