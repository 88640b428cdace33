//! How an agent gets through: proxies, good and bad, and a network that looks into TLS.

mod world;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use drtp_core::{AgentConfig, CoreLimits, Event, Target, TunnelAgent, TunnelServer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use world::*;

/// A POP with an endpoint, and an agent that is told by which ways it may come.
struct Far {
    authority: Authority,
    pop: TunnelServer,
    agent: TunnelAgent,
    endpoint: SocketAddr,
    plan: Value,
    come: RefCell<VecDeque<Event>>,
}

impl Far {
    fn new(ways: &Value) -> Self {
        Self::with(CoreLimits::default(), |_| ways.clone(), |address| address)
    }

    /// `ways`: from the POP's address. `seen`: where the plan says that the POP is.
    fn with(
        limits: CoreLimits,
        ways: impl FnOnce(SocketAddr) -> Value,
        seen: impl FnOnce(SocketAddr) -> SocketAddr,
    ) -> Self {
        Self::at(pop, limits, ways, seen)
    }

    fn at(
        pop: impl FnOnce(&Authority) -> TunnelServer,
        limits: CoreLimits,
        ways: impl FnOnce(SocketAddr) -> Value,
        seen: impl FnOnce(SocketAddr) -> SocketAddr,
    ) -> Self {
        let authority = Authority::new();
        let pop = pop(&authority);
        let port = free_port("127.0.0.1");
        assert_ok(&pop.apply(&whole(json!({"route/c-1": route(port)}))));
        let target = target(service(echo));
        let mut config = agent_config(&authority, "a-1", 1, target.clone());
        config.limits = limits;
        let agent = TunnelAgent::new(config).unwrap();
        let door = pop.agent_addresses()[0];
        let plan = json!({"server/p-1": plan_server(seen(door)), "service/c-1": plan_service(&target)});
        let far = Self {
            authority,
            pop,
            agent,
            endpoint: SocketAddr::new([127, 0, 0, 1].into(), port),
            plan,
            come: RefCell::default(),
        };
        far.come_by(&ways(door));
        far
    }

    fn come_by(&self, ways: &Value) {
        let delta = json!({"whole": true, "upsert": self.plan, "ways": {"p-1": ways}});
        assert_ok(&self.agent.apply(delta.to_string().as_bytes()));
    }

    /// Waits for an event; those before it are passed over, those after it stay.
    fn next(&self, wanted: impl Fn(&Event) -> bool) -> Event {
        let mut found = None;
        until("an event", || {
            let mut come = self.come.borrow_mut();
            come.extend(self.agent.events(100));
            while let Some(event) = come.pop_front() {
                if wanted(&event) {
                    found = Some(event);
                    return true;
                }
            }
            false
        });
        found.unwrap()
    }

    fn up(&self) -> String {
        let event = self.next(|event| matches!(event, Event::TunnelUp { .. }));
        let Event::TunnelUp { way, .. } = event else { unreachable!() };
        until("the endpoint to be live", || self.pop.stats().connections.iter().any(|c| c.live));
        way
    }

    /// The first reason why there is no tunnel.
    fn down(&self) -> String {
        let event = self.next(|event| matches!(event, Event::TunnelDown { .. }));
        let Event::TunnelDown { message, .. } = event else { unreachable!() };
        message
    }

    /// A visitor's megabytes there and back.
    fn carries(&self) {
        there_and_back(visit(self.endpoint), &pattern(3_000_000, 7));
    }
}

fn way(kind: &str, proxy: SocketAddr, credentials: Option<(&str, &str)>, web_socket: bool) -> Value {
    let proxy = json!({
        "kind": kind, "host": proxy.ip().to_string(), "port": proxy.port(), "credentials": credentials,
    });
    json!({"proxy": proxy, "webSocket": web_socket})
}

fn only(way: Value) -> Value {
    json!({"ways": [way]})
}

/// Bytes both ways until both ends.
fn join(near: TcpStream, far: TcpStream) {
    let (mut near_in, mut far_out) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    let (mut far_in, mut near_out) = (far, near);
    let up = std::thread::spawn(move || {
        let _ = std::io::copy(&mut near_in, &mut far_out);
        let _ = far_out.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut far_in, &mut near_out);
    let _ = near_out.shutdown(Shutdown::Write);
    let _ = up.join();
}

fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A CONNECT proxy that wants `sam:secret`.
fn connect_proxy(mut near: TcpStream) {
    let asked = head(&mut near);
    if !asked.contains("Proxy-Authorization: Basic c2FtOnNlY3JldA==\r\n") {
        let no = b"HTTP/1.1 407 Authenticate\r\nProxy-Authenticate: Basic realm=\"corp\"\r\nContent-Length: 0\r\n\r\n";
        near.write_all(no).unwrap();
        return;
    }
    let target = asked.split(' ').nth(1).unwrap().to_owned();
    let far = TcpStream::connect(target).unwrap();
    near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
    join(near, far);
}

/// A SOCKS5 proxy that wants `sam:secret` and knows the name `pop.inside`.
fn socks_proxy(pop: SocketAddr) -> SocketAddr {
    service(move |mut near| {
        let mut buffer = [0; 512];
        near.read_exact(&mut buffer[..4]).unwrap();
        near.write_all(&[5, 2]).unwrap();
        near.read_exact(&mut buffer[..12]).unwrap();
        assert_eq!(&buffer[..12], b"\x01\x03sam\x06secret");
        near.write_all(&[1, 0]).unwrap();
        near.read_exact(&mut buffer[..5 + 10 + 2]).unwrap();
        assert_eq!(&buffer[..15], b"\x05\x01\x00\x03\x0apop.inside");
        near.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        join(near, TcpStream::connect(pop).unwrap());
    })
}

/// Whatever is asked, this is said, and then nothing.
fn saying(words: &'static [u8]) -> SocketAddr {
    service(move |mut near| {
        let _ = near.read(&mut [0; 1_024]);
        let _ = near.write_all(words);
        let _ = near.shutdown(Shutdown::Write);
        let _ = near.read_to_end(&mut Vec::new());
    })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// What asks for a WebSocket, behind the request's first line.
const UPGRADE: &str = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// TLS of whoever has no certificate, trusting these roots alone.
fn web_client(roots_pem: &str) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(roots_pem.as_bytes()).unwrap()).unwrap();
    let versions =
        rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    versions.with_root_certificates(roots).with_no_client_auth()
}

/// Ends TLS with a certificate of its own, and begins another one towards `pop`, as inspecting networks do.
fn inspecting(pop: SocketAddr, roots_pem: String) -> (SocketAddr, Arc<AtomicUsize>) {
    let corporate = Authority::new().identity("spiffe://corp/inspector", &["p-1.tunnel.test"]);
    let chain = vec![CertificateDer::from_pem_slice(corporate.chain_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(corporate.key_pem.as_bytes()).unwrap();
    let versions =
        rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut ours = versions.with_no_client_auth().with_single_cert(chain, key).unwrap();
    ours.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut theirs = web_client(&roots_pem);
    theirs.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (ours, theirs, seen) = (Arc::new(ours), Arc::new(theirs), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&seen);
    let address = service(move |near| {
        let mut inside = rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::clone(&ours)).unwrap(), near);
        if inside.conn.complete_io(&mut inside.sock).is_err() {
            return;
        }
        let name = ServerName::try_from("p-1.tunnel.test").unwrap();
        let far = TcpStream::connect(pop).unwrap();
        let mut outside =
            rustls::StreamOwned::new(rustls::ClientConnection::new(Arc::clone(&theirs), name).unwrap(), far);
        inside.sock.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        outside.sock.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        let mut buffer = vec![0; 64 * 1024];
        while pass(&mut inside, &mut outside, &mut buffer, &counted)
            && pass(&mut outside, &mut inside, &mut buffer, &counted)
        {}
    });
    (address, seen)
}

/// What is there now goes over in the clear between two TLS connections; false at an end.
fn pass(from: &mut impl Read, to: &mut impl Write, buffer: &mut [u8], seen: &AtomicUsize) -> bool {
    match from.read(buffer) {
        Ok(0) => false,
        Ok(count) => {
            seen.fetch_add(count, Ordering::SeqCst);
            to.write_all(&buffer[..count]).and_then(|()| to.flush()).is_ok()
        }
        Err(error) => matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    }
}

#[test]
fn a_connect_proxy_with_credentials_carries_visitors() {
    let proxy = service(connect_proxy);
    let far = Far::new(&only(way("connect", proxy, Some(("sam", "secret")), false)));
    assert_eq!(far.up(), "connect");
    far.carries();
    let session = far.agent.stats().sessions[0].clone();
    assert_eq!((session.address, session.way.as_str()), (proxy.to_string(), "connect"));
}

#[test]
fn a_socks_proxy_resolves_the_name_and_carries_visitors() {
    let far = Far::with(
        CoreLimits::default(),
        |pop| only(way("socks5", socks_proxy(pop), Some(("sam", "secret")), false)),
        |pop| pop,
    );
    let mut plan = far.plan.clone();
    plan["server/p-1"]["address"] = json!("pop.inside");
    far.agent.apply(&whole(plan));
    assert_eq!(far.up(), "socks5");
    far.carries();
}

#[test]
fn wrong_credentials_are_named_at_once_and_not_tried_again_soon() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let proxy = service(move |near| {
        counted.fetch_add(1, Ordering::SeqCst);
        connect_proxy(near);
    });
    let began = Instant::now();
    let ways =
        [way("connect", proxy, Some(("sam", "wrong")), false), way("connect", proxy, Some(("sam", "wrong")), true)];
    let far = Far::new(&json!({"ways": ways}));
    let reason = far.down();
    assert!(reason.starts_with(&format!("DRTP-4050: the proxy {proxy} refused")), "{reason}");
    assert!(!reason.contains("wrong\"") && !reason.contains("sam"), "{reason}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    until("the reason in the statistics", || {
        far.agent.stats().sessions[0].message.as_deref().is_some_and(|message| message.starts_with("DRTP-4050"))
    });
    std::thread::park_timeout(Duration::from_millis(500));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // Another POP behind the same proxy waits with the first.
    let mut plan = far.plan.clone();
    plan["server/p-2"] = with(plan_server(far.pop.agent_addresses()[0]), json!({"server": "p-2"}));
    let same = json!({"ways": ways});
    let delta = json!({"whole": true, "upsert": plan, "ways": {"p-1": same, "p-2": same}});
    assert_ok(&far.agent.apply(delta.to_string().as_bytes()));
    std::thread::park_timeout(Duration::from_millis(500));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    // With another password the proxy is asked at once.
    let right = json!({"ways": [way("connect", proxy, Some(("sam", "secret")), false)]});
    far.come_by(&right);
    far.up();
}

#[test]
fn whatever_a_proxy_answers_has_a_name() {
    for (words, code) in [
        (&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], "DRTP-4051"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "DRTP-4053"),
        (b"220 mail.corp ESMTP\r\n", "DRTP-4052"),
        (b"\x00\x01\x02\x03", "DRTP-4052"),
        (b"HTTP/1.1 200 OK\r\nBroken", "DRTP-4052"),
        (b"", "DRTP-4052"),
    ] {
        let far = Far::new(&only(way("connect", saying(words), None, false)));
        let reason = far.down();
        assert!(reason.starts_with(code), "{words:?}: {reason}");
    }
    for (words, code) in [
        (&b"\x05\xff"[..], "DRTP-4050"),
        (b"\x05\x07", "DRTP-4052"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "DRTP-4052"),
        (b"\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", "DRTP-4051"),
        (b"\x05\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", "DRTP-4053"),
    ] {
        let far = Far::new(&only(way("socks5", saying(words), None, false)));
        let reason = far.down();
        assert!(reason.starts_with(code), "{words:?}: {reason}");
    }
}

#[test]
fn an_endless_answer_is_cut_off() {
    let proxy = service(|mut near| {
        let _ = near.write_all(b"HTTP/1.1 200 OK\r\nX: ");
        while near.write_all(&[b'x'; 1_024]).is_ok() {}
    });
    let far = Far::new(&only(way("connect", proxy, None, false)));
    let reason = far.down();
    assert!(reason.starts_with("DRTP-4052") && reason.contains("longer than"), "{reason}");
}

#[test]
fn a_proxy_that_says_nothing_or_a_byte_now_and_then_is_given_up_and_named() {
    let limits = CoreLimits { handshake_ms: 300, first_frame_ms: 200, ..CoreLimits::default() };
    let silent = service(|mut near| drop(near.read_to_end(&mut Vec::new())));
    let slow = service(|mut near| {
        for byte in b"HTTP/1.1 200 Connection established but not soon".iter().cycle() {
            std::thread::park_timeout(Duration::from_millis(50));
            if near.write_all(&[*byte]).is_err() {
                break;
            }
        }
    });
    for proxy in [silent, slow] {
        let far = Far::with(limits, |_| only(way("connect", proxy, None, false)), |pop| pop);
        let reason = far.down();
        assert_eq!(reason, format!("DRTP-4054: the proxy {proxy} does not answer"));
    }
}

#[test]
fn where_the_proxy_cannot_be_reached_the_straight_way_is_taken() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port("127.0.0.1")));
    let ways = json!({"ways": [way("connect", nobody, None, false), way("connect", nobody, None, true), {}]});
    let far = Far::new(&ways);
    let reason = far.down();
    assert!(reason.starts_with(&format!("DRTP-4054: the proxy {nobody} cannot be reached")), "{reason}");
    assert_eq!(far.up(), "direct");
    far.carries();
}

#[test]
fn a_refusing_proxy_is_not_gone_around() {
    let proxy = saying(b"HTTP/1.1 403 Forbidden\r\n\r\n");
    let far = Far::new(&json!({"ways": [way("connect", proxy, None, false), {}]}));
    assert!(far.down().starts_with("DRTP-4051"));
    std::thread::park_timeout(Duration::from_millis(300));
    assert!(far.pop.stats().sessions.is_empty());
}

#[test]
fn a_web_socket_carries_visitors_to_the_same_door() {
    let far = Far::new(&only(json!({"webSocket": true})));
    assert_eq!(far.up(), "direct+websocket");
    far.carries();
    assert_eq!(far.pop.stats().pre_auth, 0);
}

#[test]
fn several_lanes_go_by_the_same_way() {
    let by_web = only(json!({"webSocket": true}));
    let world = World::build(service(echo), |route| route, |config| AgentConfig { lanes: 3, ..config }, |plan| plan);
    let delta = json!({"whole": true, "upsert": world.plan, "ways": {"p-1": by_web}});
    let again = AgentConfig { epoch: 2, lanes: 3, ..agent_config(&world.authority, "a-1", 2, world_target(&world)) };
    let agent = TunnelAgent::new(again).unwrap();
    assert_ok(&agent.apply(delta.to_string().as_bytes()));
    until("three lanes", || agent.stats().sessions.first().is_some_and(|session| session.lanes.len() == 3));
    assert_eq!(agent.stats().sessions[0].way, "direct+websocket");
}

/// The target that the world's plan names.
fn world_target(world: &World) -> Target {
    let local = &world.plan["service/c-1"]["local"];
    target(SocketAddr::from(([127, 0, 0, 1], local["port"].as_u64().unwrap() as u16)))
}

#[test]
fn through_a_network_that_looks_into_tls_a_web_socket_passes_and_shows_nothing() {
    let far = Far::with(
        CoreLimits::default(),
        |_| json!({"ways": []}),
        // Straight: told that the POP is where nobody is, until the inspector stands there.
        |_| SocketAddr::from(([127, 0, 0, 1], free_port("127.0.0.1"))),
    );
    let (inspector, seen) = inspecting(far.pop.agent_addresses()[0], far.authority.roots_pem());
    let mut plan = far.plan.clone();
    plan["server/p-1"] = plan_server(inspector);
    let delta = json!({"whole": true, "upsert": plan, "ways": {"p-1": {"ways": [{}, {"webSocket": true}]}}});
    assert_ok(&far.agent.apply(delta.to_string().as_bytes()));
    assert_eq!(far.up(), "direct+websocket");
    far.carries();
    assert!(seen.load(Ordering::SeqCst) > 6_000_000, "the inspector saw the bytes pass, sealed");
}

#[test]
fn a_better_way_is_found_later_and_no_visitor_is_cut() {
    let limits = CoreLimits { better_way_ms: 100, ..CoreLimits::default() };
    let far = Far::with(limits, |_| json!({"ways": [{}, {"webSocket": true}], "first": 1}), |pop| pop);
    assert_eq!(far.up(), "direct+websocket");
    let mut visitor = visit(far.endpoint);
    visitor.write_all(b"before").unwrap();
    visitor.read_exact(&mut [0; 6]).unwrap();
    assert_eq!(far.up(), "direct");
    visitor.write_all(b"after").unwrap();
    let mut back = [0; 5];
    visitor.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"after");
    far.carries();
    until("one session with the POP", || far.agent.stats().sessions[0].way == "direct");
}

#[test]
fn a_pop_that_is_lost_does_not_keep_another_on_a_lesser_way() {
    let limits = CoreLimits { better_way_ms: 100, ..CoreLimits::default() };
    let ways = json!({"ways": [{}, {"webSocket": true}], "first": 1});
    let far = Far::with(limits, |_| ways.clone(), |pop| pop);
    assert_eq!(far.up(), "direct+websocket");
    let mut lost = plan_server(SocketAddr::from(([127, 0, 0, 1], free_port("127.0.0.1"))));
    lost["server"] = json!("p-2");
    let mut plan = far.plan.clone();
    plan["server/p-2"] = lost;
    let delta = json!({"whole": true, "upsert": plan, "ways": {"p-1": ways}});
    assert_ok(&far.agent.apply(delta.to_string().as_bytes()));
    assert_eq!(far.up(), "direct");
    far.carries();
}

#[test]
fn a_better_way_that_leads_nowhere_changes_nothing() {
    let limits = CoreLimits { better_way_ms: 100, ..CoreLimits::default() };
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let proxy = service(move |mut near| {
        counted.fetch_add(1, Ordering::SeqCst);
        let _ = head(&mut near);
        let _ = near.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n");
    });
    let ways = json!({"ways": [way("connect", proxy, None, false), {}], "first": 1});
    let far = Far::with(limits, |_| ways, |pop| pop);
    assert_eq!(far.up(), "direct");
    until("some looks", || asked.load(Ordering::SeqCst) > 2);
    far.carries();
    let rest = far.agent.events(100);
    assert!(!rest.iter().any(|event| matches!(event, Event::TunnelDown { .. })), "{rest:?}");
}

#[test]
fn a_session_that_is_being_greeted_at_a_stop_drains_too() {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let told = Arc::new(std::sync::Mutex::new(told));
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let proxy = service(move |mut near| {
        let target = head(&mut near).split(' ').nth(1).unwrap().to_owned();
        counted.fetch_add(1, Ordering::SeqCst);
        told.lock().unwrap().recv().unwrap();
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        join(near, TcpStream::connect(target).unwrap());
    });
    let far = Far::new(&only(way("connect", proxy, None, false)));
    until("the proxy to be asked", || asked.load(Ordering::SeqCst) == 1);
    far.agent.drain(Duration::from_secs(60));
    until_stats("the drain", || far.agent.stats(), |s| s.draining);
    tell.send(()).unwrap();
    far.next(|event| matches!(event, Event::TunnelUp { .. }));
    until_stats("the session's end", || far.agent.stats(), |s| s.sessions.iter().all(|one| one.state == "Connecting"));
}

#[test]
fn a_web_server_of_somebody_else_is_named() {
    let authority = Authority::new();
    let other = authority.identity("spiffe://td/web", &["p-1.tunnel.test"]);
    let chain = vec![CertificateDer::from_pem_slice(other.chain_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(other.key_pem.as_bytes()).unwrap();
    let versions =
        rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(versions.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let web = service(move |near| {
        let mut tls = rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::clone(&config)).unwrap(), near);
        let _ = tls.read(&mut [0; 4_096]);
        let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        let _ = tls.read(&mut [0; 4_096]);
    });
    let far = Far::with(CoreLimits::default(), |_| only(json!({"webSocket": true})), |_| web);
    let reason = far.down();
    assert!(reason.starts_with("DRTP-4056") && reason.contains("200"), "{reason}");
}

#[test]
fn the_door_answers_other_requests_with_nothing_and_keeps_no_stranger() {
    let far = Far::new(&only(json!({"webSocket": true})));
    far.up();
    let config = Arc::new(web_client(&far.authority.roots_pem()));
    let name = ServerName::try_from("p-1.tunnel.test").unwrap();
    let ask = |request: &str| {
        let connection = rustls::ClientConnection::new(Arc::clone(&config), name.clone()).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, visit(far.pop.agent_addresses()[0]));
        tls.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // The end comes without a goodbye of TLS: what was said before it counts.
        let _ = tls.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    };
    assert!(ask(&format!("GET /other HTTP/1.1\r\n{UPGRADE}")).starts_with("HTTP/1.1 404"));
    assert_eq!(ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), "");
    assert_eq!(ask("POST /drtp/1 HTTP/1.1\r\nHost: x\r\n\r\n"), "");
    until("every stranger to be gone", || far.pop.stats().pre_auth == 0);
    far.carries();
}

#[test]
fn a_silent_web_client_is_let_go_like_any_stranger() {
    let authority = Authority::new();
    let limits = CoreLimits { handshake_ms: 300, first_frame_ms: 200, ..CoreLimits::default() };
    let pop = pop_with(&authority, limits);
    let config = Arc::new(web_client(&authority.roots_pem()));
    let connection = rustls::ClientConnection::new(config, ServerName::try_from("p-1.tunnel.test").unwrap()).unwrap();
    let mut tls = rustls::StreamOwned::new(connection, visit(pop.agent_addresses()[0]));
    tls.conn.complete_io(&mut tls.sock).unwrap();
    until_stats("a stranger", || pop.stats(), |s| s.pre_auth == 1);
    let began = Instant::now();
    assert!(tls.read(&mut [0]).map_or(true, |count| count == 0));
    assert!(began.elapsed() < Duration::from_secs(2));
    until_stats("nobody", || pop.stats(), |s| s.pre_auth == 0);
}

#[test]
fn a_web_client_whose_messages_carry_nothing_is_let_go_long_before_its_deadline() {
    let authority = Authority::new();
    let limits = CoreLimits { handshake_ms: 60_000, first_frame_ms: 60_000, ..CoreLimits::default() };
    let pop = pop_with(&authority, limits);
    let config = Arc::new(web_client(&authority.roots_pem()));
    let mask = [0x80, 0, 0, 0, 0];
    // Pings, empty messages, and one message of endless empty frames.
    for (first, then) in [(0x89, 0x89), (0x82, 0x82), (0x02, 0x00)] {
        let name = ServerName::try_from("p-1.tunnel.test").unwrap();
        let connection = rustls::ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, visit(pop.agent_addresses()[0]));
        tls.write_all(format!("GET /drtp/1 HTTP/1.1\r\n{UPGRADE}").as_bytes()).unwrap();
        assert!(tls.read(&mut [0; 1_024]).unwrap() > 0);
        until_stats("a stranger", || pop.stats(), |s| s.pre_auth == 1);
        let frame = |kind: u8| [&[kind][..], &mask].concat();
        let flood = [frame(first), frame(then).repeat(60_000)].concat();
        // It is dropped while it is still talking.
        let _ = tls.write_all(&flood);
        until_stats("nobody", || pop.stats(), |s| s.pre_auth == 0);
    }
}

/// A POP that agents may reach by QUIC too.
fn far_by_quic(ways: &Value) -> Far {
    Far::at(
        |authority| {
            let config = drtp_core::ServerConfig { quic: true, ..server_config(authority, CoreLimits::default()) };
            TunnelServer::new(config).unwrap()
        },
        CoreLimits::default(),
        |_| ways.clone(),
        |address| address,
    )
}

#[test]
fn by_quic_megabytes_arrive_whole_and_the_way_is_told() {
    let far = far_by_quic(&json!({"ways": [{"quic": true}]}));
    assert_eq!(far.up(), "quic");
    far.carries();
    let session = &far.agent.stats().sessions[0];
    assert_eq!((session.way.as_str(), session.lanes.len()), ("quic", 1));
}

#[test]
fn where_udp_is_dropped_tcp_is_taken_within_seconds() {
    let (mut swallows, began) = (None, Instant::now());
    let ways = |door: SocketAddr| {
        // Bound, and never read: what comes is swallowed.
        swallows = Some(std::net::UdpSocket::bind(door).unwrap());
        json!({"ways": [{"quic": true}, {}]})
    };
    let far = Far::with(CoreLimits::default(), ways, |address| address);
    assert!(far.down().contains("UDP may be blocked"));
    assert_eq!(far.up(), "direct");
    assert!(began.elapsed() < Duration::from_secs(6));
    far.carries();
    drop(swallows);
}

#[test]
fn a_flood_of_strangers_by_udp_costs_others_nothing() {
    let far = far_by_quic(&json!({"ways": [{"quic": true}]}));
    far.up();
    let flood = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    flood.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let door = far.pop.agent_addresses()[0];
    let mut sent = 0;
    for number in 0..20_000_u32 {
        // A long header of version 1 with an Initial's shape, and no Initial inside.
        let mut packet = vec![0; 1_200];
        packet[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
        packet[6..10].copy_from_slice(&number.to_be_bytes());
        packet[14] = 8;
        packet[24..26].copy_from_slice(&[0x44, 0x96]);
        sent += flood.send_to(&packet, door).unwrap();
    }
    far.carries();
    let (mut answered, mut room) = (0, [0; 2_048]);
    while let Ok((count, _)) = flood.recv_from(&mut room) {
        answered += count;
    }
    assert!(answered < sent, "{answered} bytes for {sent}");
}

/// A client who proves by a Retry's answer where it is, begins its handshake, and falls silent.
fn silent_after_its_retry(roots_pem: &str, door: SocketAddr) -> std::net::UdpSocket {
    let mut tls = web_client(roots_pem);
    tls.alpn_protocols = vec![b"drtp-quic/1".to_vec()];
    let crypto = quinn_proto::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = quinn_proto::Endpoint::new(Arc::default(), None, true, None);
    let config = quinn_proto::ClientConfig::new(Arc::new(crypto));
    let (handle, mut connection) = endpoint.connect(Instant::now(), config, door, "p-1.tunnel.test").unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let say = |connection: &mut quinn_proto::Connection| {
        let mut out = Vec::new();
        while let Some(transmit) = connection.poll_transmit(Instant::now(), 1, &mut out) {
            socket.send_to(&out[..transmit.size], door).unwrap();
            out.clear();
        }
    };
    say(&mut connection);
    let mut room = [0; 2_048];
    let (count, from) = socket.recv_from(&mut room).unwrap();
    let came = endpoint.handle(Instant::now(), from, None, None, room[..count].into(), &mut Vec::new());
    let Some(quinn_proto::DatagramEvent::ConnectionEvent(whose, retry)) = came else { panic!("no Retry") };
    assert_eq!(whose, handle);
    connection.handle_event(retry);
    say(&mut connection);
    socket
}

#[test]
fn a_handshake_by_quic_that_falls_silent_after_its_retry_is_let_go_in_time() {
    let authority = Authority::new();
    let limits = CoreLimits { handshake_ms: 1_500, first_frame_ms: 500, ..CoreLimits::default() };
    let config = drtp_core::ServerConfig { quic: true, ..server_config(&authority, limits) };
    let pop = TunnelServer::new(config).unwrap();
    let door = pop.agent_addresses()[0];
    let silent: Vec<_> = (0..5).map(|_| silent_after_its_retry(&authority.roots_pem(), door)).collect();
    until_stats("strangers", || pop.stats(), |s| s.pre_auth == 5);
    let began = Instant::now();
    until_stats("nobody", || pop.stats(), |s| s.pre_auth == 0 && s.sessions.is_empty());
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(silent);
}

#[test]
fn several_lanes_carry_elephants_in_order() {
    let world = World::build(service(echo), |r| r, |c| drtp_core::AgentConfig { lanes: 3, ..c }, |s| s);
    until_stats("three lanes", || world.pop.stats(), |s| s.sessions[0].lanes.len() == 3);
    let threads: Vec<_> = (0..3)
        .map(|seed| {
            let endpoint = world.endpoint;
            std::thread::spawn(move || there_and_back(visit(endpoint), &pattern(20_000_000, seed)))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
