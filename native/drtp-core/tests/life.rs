//! Births, restarts, drains and deaths; and the local service's side.

mod world;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use drtp_core::{AgentConfig, CoreLimits, Event, Target, TargetTls, TunnelAgent, TunnelServer};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use world::*;

fn echoed(endpoint: SocketAddr) -> TcpStream {
    let mut visitor = visit(endpoint);
    visitor.write_all(b"x").unwrap();
    visitor.read_exact(&mut [0]).unwrap();
    visitor
}

#[test]
fn an_agent_that_dies_without_a_word_resets_its_visitors() {
    let world = World::new(service(echo));
    let mut visitor = echoed(world.endpoint);
    drop(world.agent);
    read_to_reset(&mut visitor);
}

#[test]
fn a_pop_that_dies_without_a_word_resets_visitors_and_services() {
    let (got, seen) = channel();
    let world = World::new(service(move |mut stream| {
        let mut one = [0];
        if stream.read_exact(&mut one).is_ok() {
            stream.write_all(&one).unwrap();
            got.send(stream.read(&mut one).map_err(|error| error.kind())).unwrap();
        }
    }));
    let mut visitor = echoed(world.endpoint);
    drop(world.pop);
    read_to_reset(&mut visitor);
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Err(std::io::ErrorKind::ConnectionReset));
    event(|n| world.agent.events(n), |e| matches!(e, Event::TunnelDown { .. }));
}

#[test]
fn a_restarted_agent_serves_at_the_same_endpoint() {
    let world = World::new(service(echo));
    drop(echoed(world.endpoint));
    world.agent.close();
    event(|n| world.pop.events(n), |e| matches!(e, Event::SessionDown { .. }));
    let again = TunnelAgent::new(agent_config(&world.authority, "a-1", 2, target(service(echo)))).unwrap();
    let target = target(service(echo));
    let again_target = json!({
        "server/p-1": world.plan["server/p-1"],
        "service/c-1": plan_service(&target),
    });
    // The pin of this agent is another port than the plan's: it is refused, and said so.
    let outcome = again.apply(&whole(again_target));
    assert!(outcome.entries["service/c-1"].error.as_ref().unwrap().contains("pinned"));
    world.wait_live();
    visit_in_vain(world.endpoint);
    let config = agent_config(&world.authority, "a-1", 3, target.clone());
    let third = TunnelAgent::new(config).unwrap();
    third.apply(&whole(json!({"server/p-1": world.plan["server/p-1"], "service/c-1": plan_service(&target)})));
    event(|n| third.events(n), |e| matches!(e, Event::TunnelUp { .. }));
    echoed(world.endpoint);
}

#[test]
fn agents_come_back_to_a_restarted_pop() {
    let world = World::new(service(echo));
    let address = world.pop.agent_addresses()[0];
    let World { authority, pop, agent, endpoint, .. } = world;
    drop(pop);
    event(|n| agent.events(n), |e| matches!(e, Event::TunnelDown { .. }));
    let config = drtp_core::ServerConfig {
        quic: over_quic(),
        web: None,
        pulse: None,
        country_database: None,
        identity: authority.pop(),
        listeners: vec![address],
        liveness: quick(),
        flow: drtp_core::Flow::default(),
        limits: drtp_core::CoreLimits::default(),
    };
    let pop = drtp_core::TunnelServer::new(config).unwrap();
    assert_ok(&pop.apply(&whole(json!({"route/c-1": route(endpoint.port())}))));
    until("the endpoint to be live", || pop.stats().connections[0].live);
    echoed(endpoint);
}

#[test]
fn a_draining_agent_finishes_its_visitors_and_takes_no_new_ones() {
    let world = World::new(service(echo));
    let mut visitor = echoed(world.endpoint);
    world.agent.drain(Duration::from_secs(10));
    until("the endpoint to be deaf", || TcpStream::connect(world.endpoint).is_err());
    visitor.write_all(b"still").unwrap();
    visitor.read_exact(&mut [0; 5]).unwrap();
    visitor.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(visitor.read(&mut [0]).unwrap(), 0, "a clean end");
    until_stats("the drain", || world.agent.stats(), |s| s.draining && s.streams == 0);
}

#[test]
fn a_draining_pop_resets_who_stays_beyond_the_deadline() {
    let world = World::new(service(echo));
    let mut visitor = echoed(world.endpoint);
    let started = Instant::now();
    world.pop.drain(Duration::from_millis(300));
    read_to_reset(&mut visitor);
    assert!(started.elapsed() >= Duration::from_millis(250));
    assert!(TcpStream::connect(world.endpoint).is_err());
}

/// A visitor who is slow to read gets all of it, although the session that brought it has ended in good order.
#[test]
fn the_last_bytes_outlive_the_session_that_drained() {
    const ALL: usize = 12 << 20;
    for pop_drains in [true, false] {
        let world = World::new(service(move |mut stream| {
            let mut asked = Vec::new();
            if stream.read_to_end(&mut asked).is_ok() && !asked.is_empty() {
                stream.write_all(&pattern(ALL, 3)).unwrap();
            }
        }));
        let mut visitor = visit(world.endpoint);
        socket2::SockRef::from(&visitor).set_recv_buffer_size(64 << 10).unwrap();
        visitor.write_all(b"?").unwrap();
        visitor.shutdown(std::net::Shutdown::Write).unwrap();
        let mut head = vec![0; ALL - (256 << 10)];
        visitor.read_exact(&mut head).unwrap();
        until_stats("the service to be done", || world.agent.stats(), |s| s.streams == 0);
        if pop_drains {
            world.pop.drain(Duration::from_secs(10));
        } else {
            world.agent.drain(Duration::from_secs(10));
        }
        until("the session to end", || world.pop.stats().sessions.is_empty());
        let mut rest = Vec::new();
        visitor.read_to_end(&mut rest).unwrap();
        head.extend(rest);
        assert!(head == pattern(ALL, 3), "{} bytes", head.len());
    }
}

#[test]
fn an_agent_is_back_within_seconds_of_a_pop_that_said_goodbye() {
    let world = World::new(service(echo));
    let address = world.pop.agent_addresses()[0];
    let World { authority, pop, agent, endpoint, .. } = world;
    // Its deadline says nothing of when it returns: nobody was there, so it stops at once.
    pop.drain(Duration::from_secs(60));
    event(|n| agent.events(n), |e| matches!(e, Event::TunnelDown { .. }));
    until("agents to be refused by the kernel", || TcpStream::connect(address).is_err());
    drop(pop);
    let config = drtp_core::ServerConfig {
        quic: over_quic(),
        web: None,
        pulse: None,
        country_database: None,
        identity: authority.pop(),
        listeners: vec![address],
        liveness: quick(),
        flow: drtp_core::Flow::default(),
        limits: drtp_core::CoreLimits::default(),
    };
    let began = Instant::now();
    let pop = drtp_core::TunnelServer::new(config).unwrap();
    assert_ok(&pop.apply(&whole(json!({"route/c-1": route(endpoint.port())}))));
    until("the endpoint to be live", || pop.stats().connections[0].live);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    echoed(endpoint);
}

/// konnectivity#255, #276, #789: a dial that nobody answers is let go, and its room with it.
#[test]
fn a_dial_that_is_never_answered_has_a_deadline() {
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    deaf.listen(0).unwrap();
    let address = deaf.local_addr().unwrap().as_socket().unwrap();
    // The queue of a listener that never accepts is full after one or two; from then on nothing is answered.
    let mut fillers = Vec::new();
    while let Ok(filler) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        fillers.push(filler);
    }
    let quick = |c: AgentConfig| AgentConfig { limits: CoreLimits { dial_ms: 400, ..c.limits }, ..c };
    let world = World::build(address, |r| r, quick, |s| s);
    let started = Instant::now();
    let visitors: Vec<TcpStream> = (0..20).map(|_| world.visit()).collect();
    for mut visitor in visitors {
        read_to_reset(&mut visitor);
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    until_stats("the books to be empty", || world.pop.stats(), |s| s.sessions[0].streams == 0);
    until_stats("the agent's too", || world.agent.stats(), |s| s.sessions.iter().all(|s| s.streams == 0));
}

#[test]
fn a_vanished_local_service_is_reported_before_a_visitor_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let world = World::new(address);
    event(|n| world.agent.events(n), |e| matches!(e, Event::LocalUp { service, .. } if service == "ns/web"));
    drop(listener);
    visit_in_vain(world.endpoint);
    event(|n| world.agent.events(n), |e| matches!(e, Event::LocalDown { .. }));
    let local = world.agent.stats().connections[0].local.clone().unwrap();
    assert_eq!(local.state, "Unreachable");
    assert!(local.failures_total >= 1 && local.message.contains("refused"), "{local:?}");
    let _again = TcpListener::bind(address).unwrap();
    event(|n| world.agent.events(n), |e| matches!(e, Event::LocalUp { .. }));
    until_stats("the refusals in the books", || world.pop.stats(), |s| !s.recent.is_empty());
    assert_eq!(world.pop.stats().recent[0].outcome, "local service refused");
}

#[test]
fn an_undeclared_target_is_never_dialled() {
    let address = service(echo);
    let world = World::new(address);
    for (host, fault) in [("169.254.169.254", "pinned"), ("elsewhere.test", "pinned")] {
        let mut moved = plan_service(&target(address));
        moved["local"]["host"] = json!(host);
        let outcome = world.agent.apply(&upsert("service/c-1", &moved));
        assert!(outcome.entries["service/c-1"].error.as_ref().unwrap().contains(fault));
        visit_in_vain(world.endpoint);
    }
    until_stats("the records", || world.pop.stats(), |s| s.recent.len() == 2);
    assert!(world.pop.stats().recent.iter().all(|flow| flow.outcome == "target forbidden"));
}

#[test]
fn pins_that_a_delta_brings_replace_those_of_the_start() {
    let world = World::new(service(echo));
    echoed(world.endpoint);
    let elsewhere = target(service(echo));
    let moved = plan_service(&elsewhere);
    assert!(!world.agent.apply(&upsert("service/c-1", &moved)).entries["service/c-1"].ok);
    let pins = json!({"ns/web": {"host": elsewhere.host, "port": elsewhere.port}});
    let delta = json!({"upsert": {"service/c-1": moved}, "targets": pins}).to_string().into_bytes();
    assert_ok(&world.agent.apply(&delta));
    echoed(world.endpoint);
}

#[test]
fn metadata_addresses_are_never_dialled_even_when_the_plan_may_choose() {
    let address = service(echo);
    let world = World::build(address, |r| r, |c| drtp_core::AgentConfig { allow_target: true, ..c }, |s| s);
    echoed(world.endpoint);
    let mut moved = plan_service(&target(address));
    moved["local"]["host"] = json!("169.254.169.254");
    assert_ok(&world.agent.apply(&upsert("service/c-1", &moved)));
    visit_in_vain(world.endpoint);
    let down = event(|n| world.agent.events(n), |e| matches!(e, Event::LocalDown { .. }));
    assert!(format!("{down:?}").contains("metadata"), "{down:?}");
}

#[test]
fn names_are_resolved_and_localhost_declares_loopback() {
    let address = service(echo);
    let named = Target { host: "localhost".into(), ..target(address) };
    let world = World::build(
        address,
        |r| r,
        |mut c| {
            c.targets.insert("ns/web".into(), named);
            c
        },
        |s| s,
    );
    echoed(world.endpoint);
}

#[test]
fn proxy_v2_tells_the_service_who_the_visitor_is() {
    let (got, seen) = channel();
    let serve = move |mut stream: TcpStream| {
        let mut all = vec![0; 16 + 12 + 5];
        if stream.read_exact(&mut all).is_ok() {
            got.send(all).unwrap();
        }
    };
    let world = World::build(service(serve), |r| r, |c| c, |s| with(s, json!({"proxyProtocol": "V2"})));
    let mut visitor = world.visit();
    visitor.write_all(b"hello").unwrap();
    let header = seen.recv_timeout(PATIENCE).unwrap();
    let port = visitor.local_addr().unwrap().port().to_be_bytes();
    assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
    assert_eq!((&header[16..20], &header[24..26]), (&[127, 0, 0, 1][..], &port[..]));
    assert_eq!(&header[28..], b"hello");
}

/// A TLS echo service with a self-made certificate: address, and the leaf as PEM.
fn https_service() -> (SocketAddr, String) {
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["local.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let chain = vec![leaf.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let address = service(move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, stream);
        let mut buffer = [0; 16 * 1024];
        while let Ok(count) = tls.read(&mut buffer) {
            if count == 0 || tls.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        tls.conn.send_close_notify();
        let _ = tls.flush();
    });
    (address, leaf.pem())
}

fn https_world(tls: TargetTls, address: SocketAddr) -> World {
    World::build(
        address,
        |r| r,
        |mut c| {
            c.targets.insert("ns/web".into(), tls_target(address, tls));
            c
        },
        |s| s,
    )
}

#[test]
fn tls_to_the_local_service_by_roots_or_by_a_pinned_leaf() {
    let (address, pem) = https_service();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let name = Some("local.test".to_owned());
    for tls in [
        TargetTls { server_name: name.clone(), roots_pem: Some(pem.clone()), pinned_leaf_der: None },
        TargetTls { server_name: None, roots_pem: None, pinned_leaf_der: Some(body) },
    ] {
        let world = https_world(tls, address);
        let data = pattern(5_000_000, 3);
        there_and_back(world.visit(), &data);
    }
}

#[test]
fn a_local_certificate_that_is_not_trusted_resets_the_visitor() {
    let (address, _) = https_service();
    let (_, other) = https_service();
    let tls = TargetTls { server_name: Some("local.test".into()), roots_pem: Some(other), pinned_leaf_der: None };
    let world = https_world(tls, address);
    visit_in_vain(world.endpoint);
    until_stats("the record", || world.pop.stats(), |s| !s.recent.is_empty());
    assert_eq!(world.pop.stats().recent[0].outcome, "TLS to the local service failed");
}

#[test]
fn two_agents_share_the_visitors_of_one_connection() {
    let world = World::build(service(echo), |r| with(r, json!({"agents": ["a-1", "a-2"]})), |c| c, |s| s);
    let address = service(echo);
    let second = TunnelAgent::new(agent_config(&world.authority, "a-2", 1, target(address))).unwrap();
    let plan = json!({"server/p-1": world.plan["server/p-1"], "service/c-1": plan_service(&target(address))});
    assert_ok(&second.apply(&whole(plan)));
    event(|n| second.events(n), |e| matches!(e, Event::TunnelUp { .. }));
    until_stats("both", || world.pop.stats(), |s| s.sessions.len() == 2);
    let visitors: Vec<TcpStream> = (0..10).map(|_| echoed(world.endpoint)).collect();
    for agent in [&world.agent, &second] {
        assert_eq!(agent.stats().connections[0].streams_total, 5);
    }
    drop(visitors);
    second.close();
    until_stats("one to be gone", || world.pop.stats(), |s| s.sessions.len() == 1);
    (0..4).for_each(|_| drop(echoed(world.endpoint)));
}

#[test]
fn events_wake_by_a_descriptor_and_never_pile_up() {
    let world = World::new(service(echo));
    assert!(!world.pop.events(100).is_empty());
    // An empty queue is quiet, and the next event makes it readable again.
    for port in 0..3 {
        let entry = with(route(free_port("127.0.0.1")), json!({"connection": format!("c-x{port}")}));
        world.pop.apply(&upsert("route/x", &entry));
    }
    assert_eq!(world.pop.events(1).len(), 1);
    assert!(world.pop.event_fd() >= 0);
    assert_eq!(world.pop.events(100).len(), 2);
}

#[test]
fn a_burst_of_visitors_of_a_named_service_asks_for_its_name_once() {
    let address = service(echo);
    let named = Target { host: "localhost".into(), ..target(address) };
    let world = World::build(
        address,
        |r| r,
        |mut c| {
            c.targets.insert("ns/web".into(), named);
            c
        },
        |s| s,
    );
    let mut visitors: Vec<TcpStream> = (0..900).map(|_| world.visit()).collect();
    for visitor in &mut visitors {
        visitor.write_all(b"x").unwrap();
    }
    for visitor in &mut visitors {
        visitor.read_exact(&mut [0]).unwrap();
    }
}

/// The world's agent started anew with a certificate that ends soon, and a visitor on its first session; by now it has another
/// certificate, and a session that took the place of that one.
fn renewed(world: &World, lasts: Duration) -> (TunnelAgent, TcpStream) {
    world.agent.close();
    let echo_target = target(service(echo));
    let mut config = agent_config(&world.authority, "a-1", 5, echo_target.clone());
    config.identity = world.authority.identity_until("spiffe://td/org/o/project/p/agent/a-1", &[], lasts);
    let agent = TunnelAgent::new(config).unwrap();
    agent.apply(&whole(json!({"server/p-1": world.plan["server/p-1"], "service/c-1": plan_service(&echo_target)})));
    until_stats("the session", || world.pop.stats(), |s| s.sessions.first().is_some_and(|s| s.epoch == 5));
    let visitor = echoed(world.endpoint);
    agent.rotate(world.authority.agent("a-1")).unwrap();
    event(|n| agent.events(n), |e| matches!(e, Event::TunnelUp { .. }));
    event(|n| agent.events(n), |e| matches!(e, Event::TunnelUp { .. }));
    (agent, visitor)
}

#[test]
fn a_session_is_replaced_before_its_certificates_end_and_nobody_notices() {
    let world = World::new(service(echo));
    let (agent, mut visitor) = renewed(&world, Duration::from_secs(6));
    // The old session's visitor goes on there, a new one comes by the new session.
    visitor.write_all(b"still").unwrap();
    visitor.read_exact(&mut [0; 5]).unwrap();
    world.wait_live();
    let mut fresh = echoed(world.endpoint);
    // Beyond the first certificate's end the new session serves, and has proven anew who is at the old one's end.
    let end = Instant::now() + Duration::from_secs(6);
    until("the first certificate's end", || Instant::now() >= end);
    for visitor in [&mut fresh, &mut visitor] {
        visitor.write_all(b"on").unwrap();
        visitor.read_exact(&mut [0; 2]).unwrap();
    }
    assert!(!agent.events(100).iter().any(|e| matches!(e, Event::TunnelDown { .. })));
}

#[test]
fn an_agent_that_stops_waits_no_longer_for_visitors_of_a_replaced_session_than_for_others() {
    let world = World::new(service(echo));
    let (agent, mut visitor) = renewed(&world, Duration::from_secs(4));
    let asked = Instant::now();
    agent.drain(Duration::from_millis(500));
    read_to_reset(&mut visitor);
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
}

#[test]
fn a_denied_pop_loses_its_agent_at_once_and_gets_no_other() {
    let world = World::new(service(echo));
    let mut visitor = echoed(world.endpoint);
    let service = world.plan["service/c-1"].clone();
    let deny = json!({"type": "deny", "minimumGeneration": {"p-1": -1, "p-2": 3}});
    assert_ok(&world.agent.apply(&whole(json!({"service/c-1": service, "deny": deny}))));
    read_to_reset(&mut visitor);
    until("no session", || world.agent.stats().sessions.is_empty());

    let mut plan = world.plan.clone();
    plan["deny"] = deny;
    let refused = world.agent.apply(&whole(plan));
    assert_eq!(refused.entries["server/p-1"].error.as_deref(), Some("its POP was revoked"));
    assert!(refused.entries["deny"].ok && refused.entries["service/c-1"].ok, "{refused:?}");

    assert_ok(&world.agent.apply(&whole(world.plan.clone())));
    world.wait_live();
    drop(echoed(world.endpoint));
}

#[test]
fn a_key_that_its_pop_left_behind_is_believed_no_more() {
    let authority = Authority::new();
    let config = world::server_config(&authority, CoreLimits::default());
    let stolen = world::fingerprint(&config.identity);
    let pop = TunnelServer::new(config).unwrap();
    let world = World::on(pop, authority, service(echo), |route| route, |config| config, |service| service);
    let mut visitor = echoed(world.endpoint);
    let mut plan = world.plan.clone();
    plan["deny"] = json!({"type": "deny", "keys": ["0".repeat(64)]});
    assert_ok(&world.agent.apply(&whole(plan.clone())));
    world::there_and_back(world.visit(), b"another's key");
    plan["deny"]["keys"] = json!([stolen]);
    assert_ok(&world.agent.apply(&whole(plan)));
    read_to_reset(&mut visitor);
    until("no session", || world.pop.stats().sessions.is_empty());

    assert_ok(&world.agent.apply(&whole(world.plan.clone())));
    world.wait_live();
    drop(echoed(world.endpoint));
}
