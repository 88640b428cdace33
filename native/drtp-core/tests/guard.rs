//! Who is let in, who is cut, and how soon.

mod world;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use drtp_core::{CoreLimits, Event, Identity, ServerConfig, TunnelAgent, TunnelServer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use world::*;

const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// A client of an `mtls` endpoint, as Envoy is one for HTTP: a PROXY header says whom it brings.
fn dial_mtls(endpoint: SocketAddr, identity: &Identity) -> Tls {
    dial_as(endpoint, identity, "p-1.tunnel.test", &[])
}

/// As Envoy is one for TCP: its ClientHello introduces the visitor.
fn introduce(endpoint: SocketAddr, identity: &Identity, visitor: &str, service: &str) -> Tls {
    let words = format!("drtp-visitor/1;{visitor};10.0.0.1:80;{ID}");
    dial_as(endpoint, identity, &format!("{service}.p-1.tunnel.test"), &[&words])
}

fn dial_as(endpoint: SocketAddr, identity: &Identity, name: &str, protocols: &[&str]) -> Tls {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(identity.roots_pem.as_bytes()).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(identity.chain_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    rustls::StreamOwned::new(rustls::ClientConnection::new(Arc::new(config), name).unwrap(), visit(endpoint))
}

/// PROXY v2 as the gateway writes it, with stream id and service.
fn header(visitor: [u8; 4], service: &str) -> Vec<u8> {
    proxy_v2(visitor, &[(0xe0, ID), (0xe1, service)])
}

fn mtls_world(service: SocketAddr) -> World {
    World::build(service, |r| with(r, json!({"mode": "mtls"})), |c| c, |s| s)
}

fn gateway(world: &World, uid: &str) -> Identity {
    world.authority.identity(&format!("spiffe://td/gateway/{uid}"), &[])
}

fn refused(mut tls: Tls, first: &[u8]) {
    let said = tls.write_all(first).and_then(|()| tls.flush());
    let mut back = [0; 1];
    let heard = said.and_then(|()| tls.read(&mut back));
    assert!(heard.is_err(), "must end by reset, got {heard:?}");
}

#[test]
fn a_gateway_brings_its_visitor_and_half_closes_both_ways() {
    let world = mtls_world(service(|mut stream| {
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).is_ok() && !all.is_empty() {
            stream.write_all(format!("got {}", all.len()).as_bytes()).unwrap();
        }
    }));
    let mut tls = dial_mtls(world.endpoint, &gateway(&world, "g-1"));
    tls.write_all(&header([203, 0, 113, 9], "s-1")).unwrap();
    tls.write_all(&[1; 100_000]).unwrap();
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "got 100000");
    until_stats("the record", || world.agent.stats(), |s| !s.recent.is_empty());
    let record = world.agent.stats().recent[0].clone();
    assert_eq!((record.visitor.as_str(), record.stream_id.as_str()), ("203.0.113.9:4660", ID));
}

#[test]
fn an_introduced_visitor_needs_no_header_and_hears_a_service_that_speaks_first() {
    let world = mtls_world(service(|mut stream| {
        stream.write_all(b"220 ready").unwrap();
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).is_ok() {
            stream.write_all(format!(", got {}", all.len()).as_bytes()).unwrap();
        }
    }));
    let mut tls = introduce(world.endpoint, &gateway(&world, "g-1"), "203.0.113.9:4660", "s-1");
    let mut greeting = [0; 9];
    tls.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ready");
    tls.write_all(&[1; 100_000]).unwrap();
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    let mut answer = String::new();
    tls.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, ", got 100000");
    until_stats("the record", || world.agent.stats(), |s| !s.recent.is_empty());
    let record = world.agent.stats().recent[0].clone();
    assert_eq!((record.visitor.as_str(), record.stream_id.as_str()), ("203.0.113.9:4660", ID));
}

#[test]
fn a_visitor_stays_beyond_its_gateways_certificate_if_the_gateway_has_shown_another() {
    let world = mtls_world(service(echo));
    let brief = || world.authority.identity_until("spiffe://td/gateway/g-1", &[], Duration::from_secs(3));
    let mut there = introduce(world.endpoint, &brief(), "203.0.113.9:1", "s-1");
    let ask = |tls: &mut Tls| -> std::io::Result<()> {
        tls.write_all(b"word")?;
        tls.read_exact(&mut [0; 4])
    };
    ask(&mut there).unwrap();
    ask(&mut introduce(world.endpoint, &gateway(&world, "g-1"), "203.0.113.9:2", "s-1")).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    until("the first certificate's end", || Instant::now() >= end);
    ask(&mut there).unwrap();

    let alone = mtls_world(service(echo));
    let brief = alone.authority.identity_until("spiffe://td/gateway/g-1", &[], Duration::from_secs(2));
    let mut cut = introduce(alone.endpoint, &brief, "203.0.113.9:1", "s-1");
    ask(&mut cut).unwrap();
    assert!(cut.read(&mut [0]).is_err(), "nothing else proves this gateway");
}

#[test]
fn an_introduction_counts_as_much_as_who_makes_it() {
    let world = mtls_world(service(echo));
    let (visitor, trusted) = ("1.2.3.4:5", gateway(&world, "g-1"));
    refused(introduce(world.endpoint, &world.authority.agent("a-1"), visitor, "s-1"), b"hello");
    refused(introduce(world.endpoint, &gateway(&world, "g-unknown"), visitor, "s-1"), b"hello");
    refused(introduce(world.endpoint, &trusted, visitor, "s-2"), b"hello");
    refused(introduce(world.endpoint, &trusted, "nobody", "s-1"), b"hello");
    let twice = format!("drtp-visitor/1;{visitor};10.0.0.1:80;{ID}");
    refused(dial_as(world.endpoint, &trusted, "s-1.p-1.tunnel.test", &[&twice, &twice]), b"hello");
    // One by one: the service behind it is whole.
    let mut tls = introduce(world.endpoint, &trusted, visitor, "s-1");
    tls.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    tls.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
}

#[test]
fn an_agents_certificate_opens_no_endpoint() {
    let world = mtls_world(service(echo));
    refused(dial_mtls(world.endpoint, &world.authority.agent("a-1")), &header([1, 2, 3, 4], "s-1"));
    refused(dial_mtls(world.endpoint, &gateway(&world, "g-unknown")), &header([1, 2, 3, 4], "s-1"));
    let stranger = Authority::new();
    let foreign =
        Identity { roots_pem: world.authority.roots_pem(), ..stranger.identity("spiffe://td/gateway/g-1", &[]) };
    refused(dial_mtls(world.endpoint, &foreign), &header([1, 2, 3, 4], "s-1"));
}

#[test]
fn a_service_tlv_of_another_service_is_refused() {
    let world = mtls_world(service(echo));
    refused(dial_mtls(world.endpoint, &gateway(&world, "g-1")), &header([1, 2, 3, 4], "s-2"));
}

#[test]
fn bytes_without_a_proxy_header_are_refused_on_mtls() {
    let world = mtls_world(service(echo));
    refused(dial_mtls(world.endpoint, &gateway(&world, "g-1")), b"GET / HTTP/1.1\r\n\r\n");
}

#[test]
fn a_silent_gateway_connection_is_let_go_soon_after_its_handshake() {
    let world = mtls_world(service(echo));
    let mut tls = dial_mtls(world.endpoint, &gateway(&world, "g-1"));
    tls.conn.complete_io(&mut tls.sock).unwrap();
    let started = Instant::now();
    assert!(tls.read(&mut [0]).is_err());
    assert!(started.elapsed() < Duration::from_millis(4_500), "{:?}", started.elapsed());
}

#[test]
fn a_gateway_that_is_trusted_no_more_loses_its_visitors() {
    let world = mtls_world(service(echo));
    let mut tls = dial_mtls(world.endpoint, &gateway(&world, "g-1"));
    tls.write_all(&header([1, 2, 3, 4], "s-1")).unwrap();
    tls.write_all(b"x").unwrap();
    tls.read_exact(&mut [0]).unwrap();
    assert_ok(&world.pop.apply(&upsert("trust", &json!({"type": "trust", "gateways": ["g-2"]}))));
    assert!(tls.read(&mut [0]).is_err());
}

#[test]
fn a_gateways_end_without_close_notify_resets_the_service() {
    let (got, seen) = std::sync::mpsc::channel();
    let world = mtls_world(service(move |mut stream| {
        let mut all = Vec::new();
        let end = stream.read_to_end(&mut all).map_err(|error| error.kind());
        if !all.is_empty() {
            got.send(end).unwrap();
        }
    }));
    let mut tls = dial_mtls(world.endpoint, &gateway(&world, "g-1"));
    tls.write_all(&header([1, 2, 3, 4], "s-1")).unwrap();
    tls.write_all(b"x").unwrap();
    until_stats("the byte", || world.agent.stats(), |s| s.connections[0].bytes_in == 1);
    tls.sock.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn without_an_agent_no_handshake_is_completed() {
    let authority = Authority::new();
    let pop = pop(&authority);
    let port = free_port("127.0.0.1");
    let entry = with(route(port), json!({"mode": "mtls"}));
    assert_ok(&pop.apply(&whole(json!({"route/c-1": entry, "trust": {"type": "trust", "gateways": ["g-1"]}}))));
    let mut gateway = TcpStream::connect(("127.0.0.1", port)).unwrap();
    read_to_reset(&mut gateway);
}

#[test]
fn a_plain_endpoint_without_an_agent_does_not_listen() {
    let authority = Authority::new();
    let pop = pop(&authority);
    let port = free_port("127.0.0.1");
    let outcome = pop.apply(&whole(json!({"route/c-1": route(port)})));
    assert_eq!(outcome.entries["route/c-1"].bound.as_deref(), Some(format!("127.0.0.1:{port}").as_str()));
    let error = TcpStream::connect(("127.0.0.1", port)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn access_is_denied_before_any_byte_reaches_the_target_cve_2026_48113() {
    let visits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&visits);
    let closed =
        json!({"access": {"lists": [{"default": "Allow", "rules": [{"action": "Deny", "cidrs": ["127.0.0.0/8"]}]}]}});
    let world = World::build(
        service(move |mut stream| {
            let mut one = [0; 1];
            if stream.read(&mut one).is_ok_and(|n| n > 0) {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }),
        |r| with(r, closed),
        |c| c,
        |s| s,
    );
    // The reset may come before the connection looks made.
    let heard = TcpStream::connect(world.endpoint).and_then(|mut visitor| {
        visitor.set_read_timeout(Some(PATIENCE))?;
        visitor.write_all(b"let me in")?;
        visitor.read(&mut [0; 1])
    });
    assert!(heard.is_err());
    until_stats("the refusal in the books", || world.pop.stats(), |s| s.connections[0].denied_total == 1);
    assert_eq!((world.pop.stats().connections[0].denied_total, visits.load(Ordering::SeqCst)), (1, 0));
}

#[test]
fn a_revoked_visitor_is_cut_within_one_apply_cve_2026_48113() {
    let world = World::new(service(echo));
    for change in [json!({"access": {"lists": []}}), json!({"enabled": false}), json!({"agents": ["a-2"]})] {
        let entry = route(world.endpoint.port());
        assert_ok(&world.pop.apply(&upsert("route/c-1", &entry)));
        world.wait_live();
        let mut visitor = world.visit();
        visitor.write_all(b"x").unwrap();
        visitor.read_exact(&mut [0]).unwrap();
        let started = Instant::now();
        assert_ok(&world.pop.apply(&upsert("route/c-1", &with(entry, change))));
        read_to_reset(&mut visitor);
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn an_unchanged_apply_cuts_nobody_and_removal_cuts_all() {
    let world = World::new(service(echo));
    let mut visitor = world.visit();
    visitor.write_all(b"x").unwrap();
    visitor.read_exact(&mut [0]).unwrap();
    let all = whole(json!({"route/c-1": route(world.endpoint.port())}));
    assert_ok(&world.pop.apply(&all));
    visitor.write_all(b"y").unwrap();
    visitor.read_exact(&mut [0]).unwrap();
    assert_ok(&world.pop.apply(&whole(json!({}))));
    read_to_reset(&mut visitor);
    assert!(TcpStream::connect(world.endpoint).is_err());
}

#[test]
fn a_revoked_identity_loses_its_session_and_stays_out() {
    let world = World::new(service(echo));
    let mut visitor = world.visit();
    visitor.write_all(b"x").unwrap();
    visitor.read_exact(&mut [0]).unwrap();
    let deny = json!({"type": "deny", "minimumGeneration": {"a-1": -1}});
    assert_ok(&world.pop.apply(&upsert("deny", &deny)));
    read_to_reset(&mut visitor);
    event(|n| world.agent.events(n), |e| matches!(e, Event::Refused { reason, .. } if reason.contains("revoked")));
    assert!(world.pop.stats().sessions.is_empty());
}

#[test]
fn one_bad_entry_never_stops_another() {
    let world = World::new(service(echo));
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = with(route(busy.local_addr().unwrap().port()), json!({"connection": "c-2"}));
    let unreadable = with(route(world.endpoint.port()), json!({"access": {"lists": [{"default": "Perhaps"}]}}));
    let outcome = world.pop.apply(
        &json!({"upsert": {"route/c-2": taken, "route/c-3": unreadable, "route/c-4": 7}}).to_string().into_bytes(),
    );
    assert!(outcome.entries.values().all(|entry| !entry.ok && entry.error.is_some()), "{outcome:?}");
    let mut visitor = world.visit();
    visitor.write_all(b"x").unwrap();
    visitor.read_exact(&mut [0]).unwrap();
    drop(busy);
    event(|n| world.pop.events(n), |e| matches!(e, Event::RouteBound { key, .. } if key == "route/c-2"));
}

/// frp#5391, #3543, #5383: the newer never waits for the older.
#[test]
fn a_higher_epoch_fences_the_lower_and_the_loser_stays_down() {
    let world = World::new(service(echo));
    let mut visitor = world.visit();
    visitor.write_all(b"x").unwrap();
    visitor.read_exact(&mut [0]).unwrap();
    let newer = TunnelAgent::new(agent_config(&world.authority, "a-1", 2, target(service(echo)))).unwrap();
    newer.apply(&whole(json!({"server/p-1": world.plan["server/p-1"]})));
    event(|n| world.agent.events(n), |e| matches!(e, Event::Fenced { .. }));
    read_to_reset(&mut visitor);
    until_stats("the newer one", || world.pop.stats(), |s| s.sessions.first().is_some_and(|s| s.epoch == 2));
    assert_eq!(world.agent.stats().sessions[0].state, "Fenced");
}

#[test]
fn a_clone_with_the_same_epoch_is_refused_for_good() {
    let world = World::new(service(echo));
    let clone = TunnelAgent::new(agent_config(&world.authority, "a-1", 1, target(service(echo)))).unwrap();
    clone.apply(&whole(json!({"server/p-1": world.plan["server/p-1"]})));
    let fenced = event(|n| clone.events(n), |e| matches!(e, Event::Fenced { .. }));
    assert!(format!("{fenced:?}").contains("copy"));
    let mut visitor = world.visit();
    visitor.write_all(b"x").unwrap();
    visitor.read_exact(&mut [0]).unwrap();
}

#[test]
fn an_unknown_agent_is_refused_and_comes_in_when_the_snapshot_does() {
    let world = World::new(service(echo));
    let late = TunnelAgent::new(agent_config(&world.authority, "a-9", 1, target(service(echo)))).unwrap();
    late.apply(&whole(json!({"server/p-1": world.plan["server/p-1"]})));
    event(|n| late.events(n), |e| matches!(e, Event::Refused { .. }));
    let entry = with(route(free_port("127.0.0.1")), json!({"connection": "c-9", "agents": ["a-9"]}));
    assert_ok(&world.pop.apply(&upsert("route/c-9", &entry)));
    event(|n| late.events(n), |e| matches!(e, Event::TunnelUp { .. }));
}

#[test]
fn a_gateways_or_foreign_certificate_opens_no_session_cve_2024_1052() {
    let world = World::new(service(echo));
    // The right name in a certificate of one's own making: the session that it would take stays whose it is.
    let stranger = Authority::new();
    let mut config = agent_config(&world.authority, "a-1", 9, target(service(echo)));
    config.identity = Identity { roots_pem: world.authority.roots_pem(), ..stranger.agent("a-1") };
    let forger = TunnelAgent::new(config).unwrap();
    forger.apply(&whole(json!({"server/p-1": world.plan["server/p-1"]})));
    event(|n| forger.events(n), |e| matches!(e, Event::TunnelDown { .. }));
    assert_eq!(world.pop.stats().sessions[0].epoch, 1, "a forged certificate took a session over");
    let mut config = agent_config(&world.authority, "a-1", 5, target(service(echo)));
    config.identity = world.authority.identity("spiffe://elsewhere/agent/a-1", &[]);
    let foreign = TunnelAgent::new(config).unwrap();
    foreign.apply(&whole(json!({"server/p-1": world.plan["server/p-1"]})));
    event(|n| foreign.events(n), |e| matches!(e, Event::TunnelDown { .. }));
    assert_eq!(world.pop.stats().sessions.len(), 1);
    let mut config = agent_config(&world.authority, "a-1", 5, target(service(echo)));
    config.identity = world.authority.identity("spiffe://td/gateway/g-1", &[]);
    assert!(TunnelAgent::new(config).is_err());
}

#[test]
fn an_agent_speaks_only_to_the_server_of_its_plan() {
    let world = World::new(service(echo));
    let agent = TunnelAgent::new(agent_config(&world.authority, "a-1", 9, target(service(echo)))).unwrap();
    let other = with(world.plan["server/p-1"].clone(), json!({"server": "p-2"}));
    agent.apply(&whole(json!({"server/p-2": other})));
    let down = event(|n| agent.events(n), |e| matches!(e, Event::TunnelDown { .. }));
    assert!(format!("{down:?}").contains("wanted pop/p-2"), "{down:?}");
    assert_eq!(world.pop.stats().sessions[0].epoch, 1, "nothing was said to the wrong server");
}

#[test]
fn silent_clients_block_nobody_and_are_let_go_cve_2026_7776() {
    let authority = Authority::new();
    let limits =
        CoreLimits { handshake_ms: 300, first_frame_ms: 100, pre_auth_per_address_max: 50, ..CoreLimits::default() };
    let pop = pop_with(&authority, limits);
    let silent: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(pop.agent_addresses()[0]).unwrap()).collect();
    until_stats("them to be let go", || pop.stats(), |s| s.pre_auth == 0);
    for mut stream in silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    }
    let port = free_port("127.0.0.1");
    pop.apply(&whole(json!({"route/c-1": route(port)})));
    let target = target(service(echo));
    let agent = TunnelAgent::new(agent_config(&authority, "a-1", 1, target)).unwrap();
    agent.apply(&whole(json!({"server/p-1": plan_server(pop.agent_addresses()[0])})));
    event(|n| agent.events(n), |e| matches!(e, Event::TunnelUp { .. }));
}

#[test]
fn a_header_that_never_ends_is_let_go_cve_2021_23409() {
    let world = World::build(service(echo), |r| with(r, json!({"plainFrom": ["127.0.0.0/8"]})), |c| c, |s| s);
    let mut visitor = world.visit();
    visitor.write_all(b"PROXY TCP4 1.2.3.4").unwrap();
    let started = Instant::now();
    read_to_reset(&mut visitor);
    assert!(started.elapsed() < Duration::from_millis(4_500));
}

#[test]
fn a_declared_peer_may_name_the_visitor_and_others_may_not() {
    let (got, seen) = std::sync::mpsc::channel();
    let serve = move |mut stream: TcpStream| {
        let mut all = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(n) = stream.read(&mut buffer) {
            all.extend_from_slice(&buffer[..n]);
            if n == 0 || all.ends_with(b"!") {
                break;
            }
        }
        if !all.is_empty() {
            got.send(all).unwrap();
        }
    };
    let v1 = |s| with(s, json!({"proxyProtocol": "V1"}));
    let world = World::build(service(serve), |r| with(r, json!({"plainFrom": ["127.0.0.1/32"]})), |c| c, v1);
    world.visit().write_all(b"PROXY TCP4 203.0.113.7 10.0.0.1 4000 443\r\nhi!").unwrap();
    assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), b"PROXY TCP4 203.0.113.7 10.0.0.1 4000 443\r\nhi!");
    let undeclared = with(route(world.endpoint.port()), json!({"plainFrom": []}));
    assert_ok(&world.pop.apply(&upsert("route/c-1", &undeclared)));
    world.visit().write_all(b"PROXY TCP4 203.0.113.7 10.0.0.1 4000 443\r\nhi!").unwrap();
    let forged = String::from_utf8(seen.recv_timeout(PATIENCE).unwrap()).unwrap();
    assert!(forged.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{forged}");
    assert!(forged.ends_with("\r\nPROXY TCP4 203.0.113.7 10.0.0.1 4000 443\r\nhi!"), "the claim is payload: {forged}");
}

/// Enumerations are closed: `tests/unit/test_vectors.py` has Python's half.
#[test]
fn a_kind_that_nobody_knows_is_refused_whole_cve_2026_30836_cve_2025_44005() {
    let world = World::new(service(echo));
    let entry = route(world.endpoint.port());
    let changes = [
        json!({"type": "router"}),
        json!({"type": null}),
        json!({"mode": "open"}),
        json!({"access": {"lists": [{"default": "Audit"}]}}),
        json!({"access": {"lists": [{"default": "Allow", "rules": [{"action": "Maybe"}]}]}}),
    ];
    for change in changes {
        assert_ok(&world.pop.apply(&upsert("route/c-1", &entry)));
        world.wait_live();
        let mut visitor = world.visit();
        visitor.write_all(b"x").unwrap();
        visitor.read_exact(&mut [0]).unwrap();
        let outcome = world.pop.apply(&upsert("route/c-1", &with(entry.clone(), change.clone())));
        assert!(!outcome.entries["route/c-1"].ok, "{change}");
        read_to_reset(&mut visitor);
        assert!(TcpStream::connect(world.endpoint).is_err(), "{change}");
    }
    let planned = with(world.plan["service/c-1"].clone(), json!({"proxyProtocol": "V3"}));
    assert!(!world.agent.apply(&upsert("service/c-1", &planned)).entries["service/c-1"].ok);
}

#[test]
fn sessions_end_with_their_certificate() {
    let authority = Authority::new();
    let pop = pop(&authority);
    pop.apply(&whole(json!({"route/c-1": route(free_port("127.0.0.1"))})));
    let mut config = agent_config(&authority, "a-1", 1, target(service(echo)));
    config.identity = authority.identity_until("spiffe://td/agent/a-1", &[], Duration::from_secs(2));
    let agent = TunnelAgent::new(config).unwrap();
    agent.apply(&whole(json!({"server/p-1": plan_server(pop.agent_addresses()[0])})));
    event(|n| pop.events(n), |e| matches!(e, Event::SessionUp { .. }));
    let down = event(|n| pop.events(n), |e| matches!(e, Event::SessionDown { .. }));
    assert!(format!("{down:?}").contains("expired"), "{down:?}");
}

#[test]
fn a_bad_identity_is_refused_and_the_old_one_stays() {
    let world = World::new(service(echo));
    let bad = Identity { key_pem: "nonsense".into(), ..world.authority.pop() };
    assert!(world.pop.rotate(bad).is_err());
    world.pop.rotate(world.authority.pop()).unwrap();
    world.agent.rotate(world.authority.agent("a-1")).unwrap();
    let mut visitor = world.visit();
    visitor.write_all(b"x").unwrap();
    visitor.read_exact(&mut [0]).unwrap();
    assert!(!format!("{:?}", world.authority.pop()).contains("PRIVATE"));
    let config = ServerConfig {
        quic: false,
        web: None,
        pulse: None,
        country_database: None,
        identity: world.authority.agent("a-1"),
        listeners: vec![],
        liveness: quick(),
        flow: drtp_core::Flow::default(),
        limits: CoreLimits::default(),
    };
    assert!(TunnelServer::new(config).is_err(), "an agent's identity makes no POP");
}

#[test]
fn a_visitor_that_says_all_and_ends_at_once_is_served() {
    let (got, seen) = std::sync::mpsc::channel();
    let world = World::build(
        service(move |mut stream| {
            let mut all = Vec::new();
            let end = stream.read_to_end(&mut all);
            if !all.is_empty() {
                got.send((end.map_err(|error| error.kind()), stream.write_all(b"seen").is_ok())).unwrap();
            }
        }),
        |r| with(r, json!({"plainFrom": ["127.0.0.0/8"]})),
        |c| c,
        |s| s,
    );
    let mut words = header([203, 0, 113, 9], "s-1");
    words.extend_from_slice(b"all");
    for turn in 0..200 {
        let mut visitor = world.visit();
        // Header, words and end come in one event more often than not.
        std::thread::park_timeout(Duration::from_micros(500));
        visitor.write_all(&words).unwrap();
        visitor.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        assert!(visitor.read_to_string(&mut answer).is_ok() && answer == "seen", "turn {turn}: {answer:?}");
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), (Ok(3), true));
    }
}

#[test]
fn a_preamble_that_ends_early_is_let_go_at_once() {
    let world = World::build(service(echo), |r| with(r, json!({"plainFrom": ["127.0.0.0/8"]})), |c| c, |s| s);
    let mut visitor = world.visit();
    visitor.write_all(&header([203, 0, 113, 9], "s-1")[..20]).unwrap();
    let started = Instant::now();
    visitor.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(visitor.read(&mut [0]).is_err());
    assert!(started.elapsed() < Duration::from_millis(800), "{:?}", started.elapsed());
}

#[test]
fn a_gateway_that_lost_its_trust_before_its_header_brings_nobody() {
    let world = mtls_world(service(echo));
    let mut tls = dial_mtls(world.endpoint, &gateway(&world, "g-1"));
    tls.flush().unwrap();
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).unwrap();
    }
    until_stats("the visitor in its preamble", || world.pop.stats(), |s| s.pre_auth == 1);
    assert_ok(&world.pop.apply(&upsert("deny", &json!({"type": "deny", "minimumGeneration": {"g-1": -1}}))));
    refused(tls, &[header([1, 2, 3, 4], "s-1"), b"x".to_vec()].concat());
}

#[test]
fn an_unreadable_deny_list_forgives_nobody() {
    let world = World::new(service(echo));
    assert_ok(&world.pop.apply(&upsert("deny", &json!({"type": "deny", "minimumGeneration": {"a-1": -1}}))));
    until_stats("the session's end", || world.pop.stats(), |s| s.sessions.is_empty());
    let outcome = world.pop.apply(&upsert("deny", &json!({"type": "deny", "minimumGeneration": "?"})));
    assert!(!outcome.entries["deny"].ok);
    let again = TunnelAgent::new(agent_config(&world.authority, "a-1", 9, target(service(echo)))).unwrap();
    again.apply(&whole(world.plan.clone()));
    event(|n| again.events(n), |e| matches!(e, Event::Refused { reason, .. } if reason.contains("revoked")));
}

#[test]
fn strangers_at_the_agents_door_keep_no_gateway_out() {
    let authority = Authority::new();
    let limits = CoreLimits { pre_auth_max: 64, pre_auth_per_address_max: 64, ..CoreLimits::default() };
    let pop = pop_with(&authority, limits);
    let port = free_port("127.0.0.1");
    pop.apply(&whole(json!({"route/c-1": route(port)})));
    let target = target(service(echo));
    let agent = TunnelAgent::new(agent_config(&authority, "a-1", 1, target.clone())).unwrap();
    let plan = json!({"server/p-1": plan_server(pop.agent_addresses()[0]), "service/c-1": plan_service(&target)});
    agent.apply(&whole(plan));
    until("the endpoint to be live", || pop.stats().connections.iter().any(|c| c.live));
    let _silent: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(pop.agent_addresses()[0]).unwrap()).collect();
    until_stats("a full room", || pop.stats(), |s| s.pre_auth == 24);
    let mut visitor = visit(SocketAddr::from(([127, 0, 0, 1], port)));
    visitor.write_all(b"x").unwrap();
    visitor.read_exact(&mut [0]).unwrap();
}

/// A silent connection from an address of its own.
#[cfg(target_os = "linux")]
fn stranger(number: u8, door: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 9, number], 0)).into()).unwrap();
    socket.connect(&door.into()).unwrap();
    socket.into()
}

#[test]
#[cfg(target_os = "linux")]
fn in_a_room_full_of_many_addresses_the_longest_silent_makes_place() {
    let authority = Authority::new();
    let limits = CoreLimits {
        pre_auth_max: 16,
        pre_auth_per_address_max: 4,
        handshake_ms: 60_000,
        proxy_header_ms: 60_000,
        ..CoreLimits::default()
    };
    let pop = pop_with(&authority, limits);
    let port = free_port("127.0.0.1");
    let declared = with(route(port), json!({"plainFrom": ["127.0.0.0/8"]}));
    pop.apply(&whole(json!({"route/c-1": declared})));
    let door = pop.agent_addresses()[0];
    let _silent: Vec<TcpStream> = (1..=16).map(|number| stranger(number, door)).collect();
    until_stats("a room full of strangers", || pop.stats(), |s| s.pre_auth == 8);
    let target = target(service(echo));
    let agent = TunnelAgent::new(agent_config(&authority, "a-1", 1, target.clone())).unwrap();
    let plan = json!({"server/p-1": plan_server(door), "service/c-1": plan_service(&target)});
    agent.apply(&whole(plan));
    until("an agent to come in all the same", || pop.stats().connections.iter().any(|c| c.live));
    let endpoint = SocketAddr::from(([127, 0, 0, 1], port));
    let before = pop.stats().pre_auth;
    let _waiting: Vec<TcpStream> = (17..=32).map(|number| stranger(number, endpoint)).collect();
    until_stats("a room full of visitors", || pop.stats(), |s| s.pre_auth == before + 8);
    until("a visitor to be served all the same", || {
        let asked = try_visit(endpoint).and_then(|mut visitor| {
            visitor.write_all(b"x")?;
            visitor.read_exact(&mut [0])
        });
        asked.is_ok()
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_crowd_of_strangers_does_not_keep_out_a_gateway_that_was_here_before() {
    let authority = Authority::new();
    let pop = pop_with(&authority, CoreLimits { pre_auth_max: 16, handshake_ms: 60_000, ..CoreLimits::default() });
    let port = free_port("127.0.0.1");
    let endpoint = SocketAddr::from(([127, 0, 0, 1], port));
    let trust = json!({"type": "trust", "gateways": ["g-1"]});
    pop.apply(&whole(json!({"route/c-1": with(route(port), json!({"mode": "mtls"})), "trust": trust})));
    let target = target(service(echo));
    let agent = TunnelAgent::new(agent_config(&authority, "a-1", 1, target.clone())).unwrap();
    let plan = json!({"server/p-1": plan_server(pop.agent_addresses()[0]), "service/c-1": plan_service(&target)});
    agent.apply(&whole(plan));
    until("the endpoint to be live", || pop.stats().connections.iter().any(|c| c.live));
    let identity = authority.identity("spiffe://td/gateway/g-1", &[]);
    let visit_as_gateway = || {
        let mut tls = dial_mtls(endpoint, &identity);
        tls.write_all(&header([203, 0, 113, 9], "s-1")).unwrap();
        tls.write_all(b"x").unwrap();
        tls.read_exact(&mut [0]).unwrap();
    };
    visit_as_gateway();
    let _silent: Vec<TcpStream> = (1..=16).map(|number| stranger(number, endpoint)).collect();
    until_stats("a room full of strangers who have just come", || pop.stats(), |s| s.pre_auth == 8);
    (0..8).for_each(|_| visit_as_gateway());
}

#[test]
fn six_hundred_handshakes_of_one_gateway_at_once_all_succeed() {
    let world = mtls_world(service(echo));
    let identity = gateway(&world, "g-1");
    let mut waiting: Vec<Tls> = (0..600).map(|_| dial_mtls(world.endpoint, &identity)).collect();
    until_stats("all of them at the door", || world.pop.stats(), |s| s.pre_auth == 600);
    for tls in &mut waiting {
        tls.write_all(&header([203, 0, 113, 9], "s-1")).unwrap();
        tls.write_all(b"x").unwrap();
    }
    for tls in &mut waiting {
        tls.read_exact(&mut [0]).unwrap();
    }
}

/// cloudflared#129, newt#268, frp#4508.
#[test]
fn readers_that_do_not_read_cannot_take_the_pops_memory() {
    let authority = Authority::new();
    let flow = drtp_core::Flow { budget_bytes: 2 * 1024 * 1024, ..drtp_core::Flow::default() };
    let pop = TunnelServer::new(ServerConfig {
        quic: false,
        web: None,
        pulse: None,
        country_database: None,
        identity: authority.pop(),
        listeners: vec!["127.0.0.1:0".parse().unwrap()],
        liveness: quick(),
        flow,
        limits: CoreLimits::default(),
    })
    .unwrap();
    let port = free_port("127.0.0.1");
    pop.apply(&whole(json!({"route/c-1": route(port)})));
    let target = target(service(|mut stream| while stream.write_all(&[7; 65_536]).is_ok() {}));
    let agent = TunnelAgent::new(agent_config(&authority, "a-1", 1, target.clone())).unwrap();
    let plan = json!({"server/p-1": plan_server(pop.agent_addresses()[0]), "service/c-1": plan_service(&target)});
    agent.apply(&whole(plan));
    until("the endpoint to be live", || pop.stats().connections.iter().any(|c| c.live));
    let endpoint = SocketAddr::from(([127, 0, 0, 1], port));
    let _sleepers: Vec<TcpStream> = (0..40).map(|_| visit(endpoint)).collect();
    until_stats("some to be reset", || pop.stats(), |s| s.recent.iter().any(|flow| flow.outcome == "limit reached"));
    assert!(pop.stats().parked_bytes <= 4 * 1024 * 1024, "{}", pop.stats().parked_bytes);
    let mut reader = visit(endpoint);
    let mut all = vec![0; 3_000_000];
    reader.read_exact(&mut all).unwrap();
}

/// The gateway may try another POP: it is reset before any handshake, and sooner than one that is waited for.
fn is_turned_away(world: &World) {
    let began = Instant::now();
    visit_in_vain(world.endpoint);
    let handshake = Duration::from_millis(u64::from(CoreLimits::default().handshake_ms));
    assert!(began.elapsed() < handshake, "{:?}", began.elapsed());
}

/// A visitor whose gateway has completed its handshake and has not written the header yet: nobody can retry it.
fn past_the_handshake(world: &World) -> Tls {
    let mut tls = dial_mtls(world.endpoint, &gateway(world, "g-1"));
    tls.conn.complete_io(&mut tls.sock).unwrap();
    tls
}

fn is_served(mut tls: Tls) {
    tls.write_all(&header([1, 2, 3, 4], "s-1")).unwrap();
    tls.write_all(b"still").unwrap();
    let mut back = [0; 5];
    tls.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still");
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    assert_eq!(tls.read(&mut [0]).unwrap(), 0, "a clean end");
}

#[test]
fn who_is_past_the_handshake_is_served_by_a_pop_that_drains_and_who_comes_later_is_turned_away_before_it() {
    let world = mtls_world(service(echo));
    let waiting = past_the_handshake(&world);
    world.pop.drain(Duration::from_secs(10));
    until_stats("the drain", || world.pop.stats(), |s| s.draining);
    is_served(waiting);
    is_turned_away(&world);
    event(|n| world.agent.events(n), |e| matches!(e, Event::TunnelDown { message, .. } if message.contains("drain")));
}

#[test]
fn who_is_past_the_handshake_is_served_by_an_agent_that_drains_and_who_comes_later_is_turned_away_before_it() {
    let world = mtls_world(service(echo));
    let waiting = past_the_handshake(&world);
    world.agent.drain(Duration::from_secs(10));
    until("the endpoint to serve nobody new", || !world.pop.stats().connections[0].live);
    is_served(waiting);
    is_turned_away(&world);
    until("the session to end with its last visitor", || world.pop.stats().sessions.is_empty());
}

#[test]
fn a_silent_visitor_does_not_hold_up_a_goodbye() {
    let world = mtls_world(service(echo));
    let _silent = visit(world.endpoint);
    until_stats("the silent one", || world.pop.stats(), |s| s.pre_auth > 0);
    let began = Instant::now();
    world.pop.drain(Duration::from_secs(10));
    event(|n| world.agent.events(n), |e| matches!(e, Event::TunnelDown { message, .. } if message.contains("drain")));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_burst_of_visitors_who_have_spoken_is_served_whole_by_rooms_that_are_smaller() {
    let authority = Authority::new();
    let pop =
        pop_with(&authority, CoreLimits { pre_auth_max: 128, pre_auth_per_address_max: 128, ..CoreLimits::default() });
    let port = free_port("127.0.0.1");
    let declared = with(route(port), json!({"plainFrom": ["127.0.0.0/8"]}));
    assert_ok(&pop.apply(&whole(json!({"route/c-1": declared}))));
    let target = target(service(echo));
    let agent = TunnelAgent::new(agent_config(&authority, "a-1", 1, target.clone())).unwrap();
    let plan = json!({"server/p-1": plan_server(pop.agent_addresses()[0]), "service/c-1": plan_service(&target)});
    assert_ok(&agent.apply(&whole(plan)));
    until("the endpoint to be live", || pop.stats().connections.iter().any(|c| c.live));
    let endpoint = SocketAddr::from(([127, 0, 0, 1], port));
    for burst in 0..10_u8 {
        let mut visitors: Vec<TcpStream> = (0..150)
            .map(|_| {
                let mut visitor = visit(endpoint);
                visitor.write_all(&[burst]).unwrap();
                visitor
            })
            .collect();
        for visitor in &mut visitors {
            let mut back = [0];
            visitor.read_exact(&mut back).unwrap();
            assert_eq!(back, [burst]);
        }
    }
}

#[test]
fn a_visitor_inside_a_gateways_tls_is_held_to_the_bytes_per_second_both_ways() {
    let world = mtls_world(service(|mut stream| {
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).is_ok() && !all.is_empty() {
            stream.write_all(&all).unwrap();
        }
    }));
    let limited = with(route(world.endpoint.port()), json!({"mode": "mtls", "limits": {"bytesPerS": 2_000_000}}));
    assert_ok(&world.pop.apply(&upsert("route/c-1", &limited)));
    let (data, began) = (pattern(3_000_000, 2), Instant::now());
    let mut tls = introduce(world.endpoint, &gateway(&world, "g-1"), "203.0.113.9:4660", "s-1");
    tls.write_all(&data).unwrap();
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    let mut back = Vec::new();
    tls.read_to_end(&mut back).unwrap();
    assert!(back == data, "bytes differ");
    // 6 MB, of which 2 MB are the burst.
    let took = began.elapsed().as_secs_f64();
    assert!((1.8..4.0).contains(&took), "{took}");
    let books = world.pop.stats().connections[0].clone();
    assert_eq!((books.bytes_in, books.bytes_out), (3_000_000, 3_000_000));
}

#[test]
fn strangers_at_an_endpoint_take_nothing_of_the_rate_of_its_owner() {
    let limits = json!({"mode": "mtls", "limits": {"newStreamsPerS": 5}});
    let world = World::build(service(echo), |route| with(route, limits), |config| config, |service| service);
    let introduction = [header([1, 2, 3, 4], "s-1"), b"x".to_vec()].concat();
    let (stranger, known) = (world.authority.agent("a-1"), gateway(&world, "g-1"));
    let mut silent = Vec::new();
    for _ in 0..30 {
        refused(dial_mtls(world.endpoint, &stranger), &introduction);
        silent.push(TcpStream::connect(world.endpoint).unwrap());
    }
    // None of them has said whom it brings, so all have a place; then the rate holds for those.
    let mut visitors: Vec<Tls> = (0..30).map(|_| dial_mtls(world.endpoint, &known)).collect();
    let mut let_in = 0;
    for visitor in &mut visitors {
        let said = visitor.write_all(&introduction).and_then(|()| visitor.read_exact(&mut [0; 1]));
        let_in += usize::from(said.is_ok());
    }
    assert!((5..30).contains(&let_in), "{let_in} of 30 came in, at 5 a second");
}

#[test]
fn a_key_that_was_left_behind_is_refused_under_the_name_that_is_trusted() {
    let world = mtls_world(service(echo));
    let (stolen, fresh) = (gateway(&world, "g-1"), gateway(&world, "g-1"));
    let introduction = [header([1, 2, 3, 4], "s-1"), b"x".to_vec()].concat();
    let mut visitor = dial_mtls(world.endpoint, &stolen);
    visitor.write_all(&introduction).unwrap();
    let mut answer = [0; 1];
    visitor.read_exact(&mut answer).unwrap();
    let deny = json!({"type": "deny", "keys": [fingerprint(&stolen)]});
    assert_ok(&world.pop.apply(&upsert("deny", &deny)));
    assert!(visitor.read_exact(&mut answer).is_err(), "a live visitor went on");
    refused(dial_mtls(world.endpoint, &stolen), &introduction);
    let mut welcome = dial_mtls(world.endpoint, &fresh);
    welcome.write_all(&introduction).unwrap();
    welcome.read_exact(&mut answer).unwrap();
    let short = upsert("deny", &json!({"type": "deny", "minimumGeneration": {}, "keys": ["ab"]}));
    assert!(world.pop.apply(&short).entries["deny"].error.as_deref().unwrap().contains("64 hexadecimal"));
    refused(dial_mtls(world.endpoint, &stolen), &introduction);
}
