//! A small world for tests: an authority, a POP and an agent on loopback, and local services of several tempers.
#![allow(dead_code, reason = "each test file uses its own part of the world")]

pub mod panel;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use drtp_core::{
    AgentConfig, ApplyOutcome, CoreLimits, Event, Flow, Identity, Liveness, ServerConfig, Stats, Target, TargetTls,
    TunnelAgent, TunnelServer,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use serde_json::{Value, json};

/// No wait in a test is longer.
pub const PATIENCE: Duration = Duration::from_secs(15);
pub const CONNECTION: &str = "c-1";

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn roots_pem(&self) -> String {
        self.issuer.pem()
    }

    /// An identity with one SPIFFE URI and DNS names.
    pub fn identity(&self, uri: &str, names: &[&str]) -> Identity {
        self.identity_until(uri, names, Duration::from_secs(3_600))
    }

    pub fn identity_until(&self, uri: &str, names: &[&str], left: Duration) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = std::time::SystemTime::now();
        params.not_before = (now - Duration::from_secs(300)).into();
        params.not_after = (now + left).into();
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Identity { chain_pem: leaf.pem(), key_pem: key.serialize_pem(), roots_pem: self.roots_pem() }
    }

    pub fn pop(&self) -> Identity {
        self.identity("spiffe://td/pop/p-1", &["p-1.tunnel.test", "*.p-1.tunnel.test"])
    }

    pub fn agent(&self, uid: &str) -> Identity {
        self.identity(&format!("spiffe://td/org/o/project/p/agent/{uid}"), &[])
    }
}

pub fn quick() -> Liveness {
    Liveness { ping_ms: 300, dead_ms: 1_500, idle_ping_ms: 300, idle_dead_ms: 1_500 }
}

pub fn pop(authority: &Authority) -> TunnelServer {
    pop_with(authority, CoreLimits::default())
}

pub fn pop_with(authority: &Authority, limits: CoreLimits) -> TunnelServer {
    TunnelServer::new(server_config(authority, limits)).unwrap()
}

pub fn server_config(authority: &Authority, limits: CoreLimits) -> ServerConfig {
    server_config_of(authority.pop(), limits)
}

fn server_config_of(identity: Identity, limits: CoreLimits) -> ServerConfig {
    ServerConfig {
        quic: over_quic(),
        web: None,
        pulse: None,
        country_database: None,
        identity,
        listeners: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
        liveness: quick(),
        flow: Flow::default(),
        limits,
    }
}

/// One of several: POP `p-<number>`.
pub fn numbered_pop(authority: &Authority, number: usize) -> TunnelServer {
    let (uri, name) = (format!("spiffe://td/pop/p-{number}"), format!("p-{number}.tunnel.test"));
    let identity = authority.identity(&uri, &[&name]);
    TunnelServer::new(server_config_of(identity, CoreLimits::default())).unwrap()
}

/// What agents, connectors and gateways are told of it.
pub fn plan_numbered(number: usize, pop: &TunnelServer) -> Value {
    let names = json!({"server": format!("p-{number}"), "name": format!("p-{number}.tunnel.test")});
    with(plan_server(pop.agent_addresses()[0]), names)
}

pub fn target(address: SocketAddr) -> Target {
    Target {
        host: address.ip().to_string(),
        port: address.port(),
        tls: None,
        app_protocol: drtp_core::AppProtocol::default(),
    }
}

pub fn agent_config(authority: &Authority, uid: &str, epoch: u64, target: Target) -> AgentConfig {
    AgentConfig {
        identity: authority.agent(uid),
        epoch,
        targets: BTreeMap::from([("ns/web".to_owned(), target)]),
        allow_target: false,
        liveness: quick(),
        flow: Flow::default(),
        limits: CoreLimits::default(),
        lanes: 1,
    }
}

pub fn free_port(ip: &str) -> u16 {
    TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap().local_addr().unwrap().port()
}

/// A `plain` route that everybody on loopback may use.
pub fn route(port: u16) -> Value {
    json!({
        "type": "route", "connection": CONNECTION, "service": "s-1", "namespace": "ns", "name": "web",
        "agents": ["a-1"], "mode": "plain", "enabled": true,
        "access": {"lists": [{"default": "Allow"}]},
        "bind": {"address": "127.0.0.1", "port": port},
    })
}

/// PROXY v2 for this visitor as a gateway writes it, with what it says of them: kinds of our own, and texts.
pub fn proxy_v2(visitor: [u8; 4], told: &[(u8, &str)]) -> Vec<u8> {
    let mut body = visitor.to_vec();
    body.extend_from_slice(&[10, 0, 0, 1, 0x12, 0x34, 0, 80]);
    for (kind, value) in told {
        body.extend_from_slice(&[*kind, 0, value.len() as u8]);
        body.extend_from_slice(value.as_bytes());
    }
    let mut out = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend(body);
    out
}

pub fn with(mut value: Value, changes: Value) -> Value {
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    value
}

/// The same facts are stated of QUIC lanes in `over_quic.rs`: nothing else differs.
pub fn over_quic() -> bool {
    module_path!().starts_with("over_quic")
}

/// A whole table or plan. In a plan over QUIC no POP may be reached in another way.
pub fn whole(entries: Value) -> Vec<u8> {
    let servers = entries.as_object().unwrap().values().filter_map(|entry| entry["server"].as_str());
    let by_quic = |server: &str| (server.to_owned(), json!({"ways": [{"quic": true}]}));
    let ways: serde_json::Map<String, Value> = servers.filter(|_| over_quic()).map(by_quic).collect();
    let mut delta = json!({"whole": true, "upsert": entries});
    if !ways.is_empty() {
        delta["ways"] = ways.into();
    }
    delta.to_string().into_bytes()
}

pub fn upsert(key: &str, entry: &Value) -> Vec<u8> {
    json!({"upsert": {key: entry}}).to_string().into_bytes()
}

pub fn plan_server(address: SocketAddr) -> Value {
    json!({
        "type": "server", "server": "p-1", "name": "p-1.tunnel.test", "pop": "here",
        "address": address.ip().to_string(), "port": address.port(), "role": "Primary",
    })
}

pub fn plan_service(target: &Target) -> Value {
    json!({
        "type": "service", "connection": CONNECTION, "connectionName": "c", "service": "s-1", "namespace": "ns",
        "name": "web", "protocol": "TCP",
        "local": {"host": target.host, "port": target.port, "tls": target.tls.as_ref().map(|_| json!({}))},
    })
}

/// One visitor's way, end to end.
pub struct World {
    pub authority: Authority,
    pub pop: TunnelServer,
    pub agent: TunnelAgent,
    pub endpoint: SocketAddr,
    pub plan: Value,
}

impl World {
    /// Waits until the endpoint serves.
    pub fn new(service: SocketAddr) -> Self {
        Self::build(service, |route| route, |config| config, |service| service)
    }

    pub fn build(
        service: SocketAddr,
        route_change: impl FnOnce(Value) -> Value,
        config_change: impl FnOnce(AgentConfig) -> AgentConfig,
        service_change: impl FnOnce(Value) -> Value,
    ) -> Self {
        let authority = Authority::new();
        let pop = pop(&authority);
        Self::on(pop, authority, service, route_change, config_change, service_change)
    }

    pub fn on(
        pop: TunnelServer,
        authority: Authority,
        service: SocketAddr,
        route_change: impl FnOnce(Value) -> Value,
        config_change: impl FnOnce(AgentConfig) -> AgentConfig,
        service_change: impl FnOnce(Value) -> Value,
    ) -> Self {
        let port = free_port("127.0.0.1");
        let outcome = pop.apply(&whole(
            json!({"route/c-1": route_change(route(port)), "trust": {"type": "trust", "gateways": ["g-1"]}}),
        ));
        assert_ok(&outcome);
        let target = target(service);
        let config = config_change(agent_config(&authority, "a-1", 1, target.clone()));
        let target = config.targets["ns/web"].clone();
        let agent = TunnelAgent::new(config).unwrap();
        let plan = json!({
            "server/p-1": plan_server(pop.agent_addresses()[0]),
            "service/c-1": service_change(plan_service(&target)),
        });
        assert_ok(&agent.apply(&whole(plan.clone())));
        let world = Self { authority, pop, agent, endpoint: SocketAddr::new([127, 0, 0, 1].into(), port), plan };
        world.wait_live();
        world
    }

    pub fn wait_live(&self) {
        until("the endpoint to be live", || self.pop.stats().connections.iter().any(|c| c.live));
    }

    pub fn visit(&self) -> TcpStream {
        visit(self.endpoint)
    }
}

pub fn assert_ok(outcome: &ApplyOutcome) {
    assert!(outcome.error.is_none() && outcome.entries.values().all(|entry| entry.ok), "{outcome:?}");
}

pub fn visit(endpoint: SocketAddr) -> TcpStream {
    try_visit(endpoint).unwrap()
}

/// The endpoint may reset a visitor before `connect` has returned.
pub fn try_visit(endpoint: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&endpoint, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    Ok(stream)
}

/// A visitor that nobody serves: it is reset, at once or a moment later.
pub fn visit_in_vain(endpoint: SocketAddr) {
    match try_visit(endpoint) {
        Ok(mut stream) => assert!(read_to_reset(&mut stream).is_empty()),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

/// Polls a fact with a deadline: for facts that have no descriptor to wait on.
pub fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !fact() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

pub fn until_stats(what: &str, stats: impl Fn() -> Arc<Stats>, fact: impl Fn(&Stats) -> bool) {
    until(what, || fact(&stats()));
}

/// The route of a world as it is, but for some changes.
pub fn route_of(world: &World, changes: Value) -> Vec<u8> {
    upsert("route/c-1", &with(route(world.endpoint.port()), changes))
}

/// A second service at the same agent, on the same lane; its endpoint.
pub fn neighbour(world: &World, neighbour: SocketAddr, changes: Value) -> SocketAddr {
    let port = free_port("127.0.0.1");
    let names = json!({"connection": "c-2", "service": "s-2", "name": "other"});
    assert_ok(&world.pop.apply(&upsert("route/c-2", &with(with(route(port), names.clone()), changes))));
    let served = with(with(plan_service(&target(neighbour)), names), json!({"connectionName": "c2"}));
    assert_ok(&world.agent.apply(&upsert("service/c-2", &served)));
    until("the neighbour", || world.pop.stats().connections.iter().filter(|one| one.live).count() == 2);
    SocketAddr::new([127, 0, 0, 1].into(), port)
}

/// A configuration that lets its agent serve a `neighbour`.
pub fn with_neighbour(config: AgentConfig, neighbour: SocketAddr) -> AgentConfig {
    let mut targets = config.targets.clone();
    targets.insert("ns/other".to_owned(), target(neighbour));
    AgentConfig { targets, ..config }
}

/// Waits for an event.
pub fn event(take: impl Fn(usize) -> Vec<Event>, wanted: impl Fn(&Event) -> bool) -> Event {
    let mut found = None;
    until("an event", || {
        found = take(100).into_iter().find(|event| wanted(event));
        found.is_some()
    });
    found.unwrap()
}

/// A service that runs `serve` for each connection.
pub fn service(serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    service_on("127.0.0.1", serve)
}

pub fn service_on(ip: &str, serve: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

pub fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = stream.read(&mut buffer) {
        if count == 0 || stream.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

/// Says `data` and its end, and hears all of it back.
pub fn there_and_back(mut stream: TcpStream, data: &[u8]) {
    let (mut writer, said) = (stream.try_clone().unwrap(), data.to_vec());
    let sender = std::thread::spawn(move || {
        writer.write_all(&said).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut back = Vec::with_capacity(data.len());
    stream.read_to_end(&mut back).unwrap();
    sender.join().unwrap();
    assert!(back == data, "bytes differ");
}

/// A socket on loopback in which a few datagrams of the largest size have room, as far as the system allows.
pub fn udp_socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20);
    socket
}

/// Answers each datagram.
pub fn udp_service(answer: impl Fn(SocketAddr, &[u8]) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let socket = udp_socket();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&answer(from, &buffer[..count]), from);
        }
    });
    address
}

/// Answers each datagram with itself.
pub fn udp_echo() -> SocketAddr {
    udp_service(|_, bytes| bytes.to_vec())
}

pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// The stream ended by a reset, not cleanly; what came before is returned.
pub fn read_to_reset(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let error = stream.read_to_end(&mut all).expect_err("a reset, not a clean end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    all
}

pub fn tls_target(address: SocketAddr, tls: TargetTls) -> Target {
    Target { tls: Some(tls), ..target(address) }
}

/// Deterministic bytes, and a checksum to compare.
pub fn pattern(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(count + 8);
    while out.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(count);
    out
}

/// A UDP path to `target`. Each flow has what `swallows` gives when it comes, and loses everything once that says so.
pub fn udp_path<S>(target: SocketAddr, swallows: impl Fn() -> S + Send + 'static) -> SocketAddr
where
    S: Fn() -> bool + Clone + Send + 'static,
{
    let front = Arc::new(udp_socket());
    let address = front.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut flows: HashMap<SocketAddr, (Arc<UdpSocket>, S)> = HashMap::new();
        let mut buffer = vec![0; 65_536];
        while let Ok((count, from)) = front.recv_from(&mut buffer) {
            let (there, swallowed) = flows.entry(from).or_insert_with(|| {
                let (there, swallowed) = (Arc::new(udp_socket()), swallows());
                there.connect(target).unwrap();
                let (back, front, lost) = (Arc::clone(&there), Arc::clone(&front), swallowed.clone());
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 65_536];
                    while let Ok(count) = back.recv(&mut buffer) {
                        if !lost() {
                            let _ = front.send_to(&buffer[..count], from);
                        }
                    }
                });
                (there, swallowed)
            });
            if !swallowed() {
                let _ = there.send(&buffer[..count]);
            }
        }
    });
    address
}

/// A relay that can be told to swallow everything, as a path without a route does.
pub struct Hole {
    pub address: SocketAddr,
    closed: Arc<AtomicBool>,
}

impl Hole {
    pub fn to(target: SocketAddr) -> Self {
        let closed = Arc::new(AtomicBool::new(false));
        let swallowing = Arc::clone(&closed);
        if over_quic() {
            let swallows = move || {
                let swallowing = Arc::clone(&swallowing);
                move || swallowing.load(Ordering::SeqCst)
            };
            return Self { address: udp_path(target, swallows), closed };
        }
        let address = service(move |stream| {
            let upstream = TcpStream::connect(target).unwrap();
            let pump = |mut from: TcpStream, mut to: TcpStream| {
                let swallowing = Arc::clone(&swallowing);
                move || {
                    let mut buffer = [0; 16 * 1024];
                    while let Ok(count) = from.read(&mut buffer) {
                        let swallow = swallowing.load(Ordering::SeqCst);
                        if count == 0 || (!swallow && to.write_all(&buffer[..count]).is_err()) {
                            break;
                        }
                    }
                }
            };
            let down = pump(upstream.try_clone().unwrap(), stream.try_clone().unwrap());
            let mut up = pump(stream, upstream);
            let other = std::thread::spawn(down);
            up();
            let _ = other.join();
        });
        Self { address, closed }
    }

    pub fn swallow(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

/// SHA-256 of its public key, as deny-lists name it.
pub fn fingerprint(identity: &Identity) -> String {
    let key = KeyPair::from_pem(&identity.key_pem).unwrap();
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &rcgen::PublicKeyData::subject_public_key_info(&key));
    digest.as_ref().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
