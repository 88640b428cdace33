//! A POP that was taken over: it has the POP's own key, sees every byte of a sealed stream, and may do with it what it
//! likes. It learns nothing, changes nothing, and is nobody's caller.

mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use drtp_core::framed;
use drtp_core::message::{Carries, Open, ResetCode};
use drtp_core::session::{Budget, Event, Session, SessionConfig};
use drtp_core::{AgentConfig, Flow, Identity, TunnelAgent, TunnelConnector};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use world::panel::{CALLER, callers, connector_of, port, unexposed_route, way};
use world::*;

/// What it does to records on their way up, from the connector to the agent: the whole ones that carry a lot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Nothing,
    /// A bit of the second.
    Change,
    /// The second twice.
    Repeat,
    /// The third before the second.
    Swap,
    /// The second is left out.
    Drop,
    /// An orderly end after the first.
    Cut,
    /// All of it goes to an agent that was not meant.
    Divert,
}

/// A record of this many bytes or more carries what the test sends.
const LARGE: usize = 4_000;

/// Whole TLS records out of a stream of bytes.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn take(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.0.extend_from_slice(bytes);
        let mut whole = Vec::new();
        while self.0.len() >= 5 {
            let length = 5 + usize::from(u16::from_be_bytes([self.0[3], self.0[4]]));
            if self.0.len() < length {
                break;
            }
            whole.push(self.0.drain(..length).collect());
        }
        whole
    }
}

struct Lane {
    socket: TcpStream,
    tls: Connection,
    session: Session,
    /// What its HELLO says that it understands, where that is less than all.
    understands: Option<u32>,
}

#[derive(Debug)]
enum News {
    Hello,
    Open(u32, Box<Open>),
    Data(u32, Vec<u8>),
    Fin(u32),
    Reset(u32, ResetCode),
}

fn rhythm() -> SessionConfig {
    SessionConfig { liveness: quick(), flow: Flow::default(), streams_max: 100, half_open_max: 100, seed: 7 }
}

impl Lane {
    fn new(socket: TcpStream, config: &Arc<ServerConfig>) -> Self {
        let session = Session::server(rhythm(), Budget::new(1 << 30), Instant::now());
        let tls = ServerConnection::new(Arc::clone(config)).unwrap();
        Self::over(socket, Connection::Server(tls), session)
    }

    fn over(socket: TcpStream, mut tls: Connection, session: Session) -> Self {
        socket.set_nonblocking(true).unwrap();
        socket.set_nodelay(true).unwrap();
        tls.set_buffer_limit(None);
        Self { socket, tls, session, understands: None }
    }

    /// By the identity in its certificate; nothing before the handshake.
    fn is_connector(&self) -> Option<bool> {
        let leaf = self.tls.peer_certificates()?.first()?;
        Some(leaf.windows(11).any(|window| window == b"/connector/"))
    }

    fn is(&self, agent: &str) -> bool {
        let wanted = format!("/agent/{agent}");
        let leaf = self.tls.peer_certificates().and_then(|chain| chain.first());
        leaf.is_some_and(|leaf| leaf.windows(wanted.len()).any(|window| window == wanted.as_bytes()))
    }

    fn read(&mut self) -> Vec<News> {
        let mut news = Vec::new();
        while self.tls.wants_read() && self.tls.read_tls(&mut self.socket).is_ok_and(|count| count > 0) {
            self.tls.process_new_packets().unwrap();
            let mut plain = Vec::new();
            let _ = self.tls.reader().read_to_end(&mut plain);
            let mut sink = |event: Event<'_>| match event {
                Event::Hello(_) => news.push(News::Hello),
                Event::Open { stream, open } => news.push(News::Open(stream, open)),
                Event::Data { stream, bytes } => news.push(News::Data(stream, bytes.to_vec())),
                Event::Fin { stream } => news.push(News::Fin(stream)),
                Event::Reset { stream, code } => news.push(News::Reset(stream, code)),
                _ => {}
            };
            self.session.input(0, &plain, Instant::now(), &mut sink).unwrap();
        }
        self.session.tick(Instant::now(), &mut |_| {});
        news
    }

    fn write(&mut self) {
        let mut out = Vec::new();
        self.session.take_output(0, &mut out);
        if let Some(capabilities) = self.understands.filter(|_| !out.is_empty()) {
            // Behind the frame's header and the versions.
            out[12..16].copy_from_slice(&capabilities.to_be_bytes());
            self.understands = None;
        }
        self.tls.writer().write_all(&out).unwrap();
        while self.tls.wants_write() && self.tls.write_tls(&mut self.socket).is_ok() {}
    }
}

struct Hacked {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Hacked {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = self.thread.take().unwrap().join();
    }
}

fn tls_of(identity: &Identity) -> Arc<ServerConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(identity.roots_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![b"drtp/1".to_vec()];
    Arc::new(config)
}

impl Hacked {
    fn new(identity: &Identity, deed: Deed) -> Self {
        let (listener, config) = (TcpListener::bind("127.0.0.1:0").unwrap(), tls_of(identity));
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (seen, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, ends) = (Arc::clone(&seen), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut lanes: Vec<Lane> = Vec::new();
            let mut pump = Pump { deed, up: Records::default(), large: 0, held: Vec::new(), streams: None };
            while !ends.load(Ordering::SeqCst) {
                if let Ok((socket, _)) = listener.accept() {
                    lanes.push(Lane::new(socket, &config));
                }
                for at in 0..lanes.len() {
                    for news in lanes[at].read() {
                        pump.handle(&mut lanes, at, news, &log);
                    }
                }
                lanes.iter_mut().for_each(Lane::write);
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        Self { address, seen, over, thread: Some(thread) }
    }
}

/// One stream at a time: (connector's lane and stream, agent's lane and stream).
struct Pump {
    deed: Deed,
    up: Records,
    large: usize,
    held: Vec<Vec<u8>>,
    streams: Option<((usize, u32), (usize, u32))>,
}

impl Pump {
    fn handle(&mut self, lanes: &mut [Lane], at: usize, news: News, log: &Mutex<Vec<u8>>) {
        match news {
            News::Hello => {
                if lanes[at].is_connector().unwrap() {
                    lanes[at].session.answer_streams();
                }
                lanes[at].session.accept([1; 16], Instant::now());
            }
            News::Open(stream, open) => {
                let meant = if self.deed == Deed::Divert { "a-2" } else { "a-1" };
                let agent = lanes.iter().position(|lane| lane.is(meant)).unwrap();
                let far = lanes[agent].session.open(*open, Instant::now()).unwrap();
                lanes[at].session.connected(stream);
                self.streams = Some(((at, stream), (agent, far)));
            }
            News::Data(stream, bytes) => {
                log.lock().unwrap().extend_from_slice(&bytes);
                lanes[at].session.consumed(stream, bytes.len() as u64, Instant::now());
                let Some((near, far)) = self.streams else { return };
                if (at, stream) == near {
                    for record in self.up.take(&bytes) {
                        self.pass(&mut lanes[far.0].session, far.1, record);
                    }
                } else {
                    assert_eq!(lanes[near.0].session.send(near.1, &bytes), bytes.len());
                }
            }
            News::Fin(stream) => self.other(lanes, at, stream, Session::finish),
            News::Reset(stream, code) => self.other(lanes, at, stream, |session, id| session.reset(id, code)),
        }
    }

    fn other(&self, lanes: &mut [Lane], at: usize, stream: u32, act: impl Fn(&mut Session, u32)) {
        let Some((near, far)) = self.streams else { return };
        let (lane, id) = if (at, stream) == near { far } else { near };
        act(&mut lanes[lane].session, id);
    }

    fn pass(&mut self, to: &mut Session, stream: u32, mut record: Vec<u8>) {
        if record.len() < LARGE {
            return send(to, stream, &record);
        }
        self.large += 1;
        match (self.deed, self.large) {
            (Deed::Change, 2) => {
                let middle = record.len() / 2;
                record[middle] ^= 1;
            }
            (Deed::Repeat, 2) => send(to, stream, &record),
            (Deed::Swap, 2) => return self.held.push(record),
            (Deed::Cut, 1) => {
                send(to, stream, &record);
                return to.finish(stream);
            }
            (Deed::Drop, 2) | (Deed::Cut, _) => return,
            _ => {}
        }
        send(to, stream, &record);
        for record in std::mem::take(&mut self.held) {
            send(to, stream, &record);
        }
    }
}

fn send(to: &mut Session, stream: u32, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        match to.send(stream, &bytes[at..]) {
            0 => return,
            sent => at += sent,
        }
    }
}

/// What the service got, and whether the end was an orderly one.
type Got = (Vec<u8>, bool);

struct Panel {
    hacked: Hacked,
    at: SocketAddr,
    got: Receiver<Got>,
    connector: TunnelConnector,
    _agents: Vec<TunnelAgent>,
}

fn panel(deed: Deed) -> Panel {
    let authority = Authority::new();
    let hacked = Hacked::new(&authority.pop(), deed);
    let (report, got) = channel();
    let report = Arc::new(Mutex::new(report));
    let service = service(move |mut stream: TcpStream| {
        let (mut all, mut buffer, mut whole) = (Vec::new(), vec![0; 65_536], true);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    all.extend_from_slice(&buffer[..count]);
                    let _ = stream.write_all(&buffer[..count]);
                }
                Err(_) => {
                    whole = false;
                    break;
                }
            }
        }
        let _ = report.lock().unwrap().send((all, whole));
    });
    let target = target(service);
    let caller = json!([{"identity": "x-1", "kind": "user", "name": "joe"}]);
    let plan = |_: &str| {
        json!({
            "server/p-1": plan_server(hacked.address),
            "service/c-1": with(plan_service(&target), json!({"callers": caller})),
        })
    };
    let agents: Vec<TunnelAgent> = ["a-1", "a-2"]
        .iter()
        .map(|uid| {
            let identity =
                authority.identity(&format!("spiffe://td/org/o/project/p/agent/{uid}"), &[&format!("{uid}.agent.td")]);
            let config = AgentConfig { identity, ..agent_config(&authority, uid, 1, target.clone()) };
            let agent = TunnelAgent::new(config).unwrap();
            assert_ok(&agent.apply(&whole(plan(uid))));
            agent
        })
        .collect();
    let connector = connector_of(&authority, CALLER);
    let table = json!({"server/p-1": plan_server(hacked.address), "port/web": port(&[way("a-1", "p-1")])});
    let outcome = connector.apply(&whole(table));
    let at = outcome.entries["port/web"].bound.as_ref().unwrap().parse().unwrap();
    for agent in &agents {
        until("an agent", || agent.stats().sessions.iter().all(|s| s.state == "Open"));
    }
    until("the connector", || connector.stats().sessions.iter().all(|s| s.state == "Open"));
    Panel { hacked, at, got, connector, _agents: agents }
}

/// A piece that is a record of its own, and others; gives them, how much of their echo came, and whether the caller was cut off.
fn talk(panel: &Panel, pieces: usize) -> (Vec<u8>, usize, bool) {
    let sent = pattern(pieces * 8_000, 11);
    let mut stream = visit(panel.at);
    let (mut echoed, mut cut) = (0, false);
    let mut note = |outcome: std::io::Result<usize>| match outcome {
        Ok(count) => echoed += count,
        // The system tells of a reset once.
        Err(error) => cut |= matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    };
    for (number, piece) in sent.chunks(8_000).enumerate() {
        note(stream.write_all(piece).map(|()| 0));
        // What follows the first follows at once, so that there are records to hold side by side.
        let mut echo = vec![0; piece.len()];
        if number == 0 {
            note(stream.read_exact(&mut echo).map(|()| echo.len()));
        }
    }
    note(stream.shutdown(std::net::Shutdown::Write).map(|()| 0));
    note(stream.read_to_end(&mut Vec::new()));
    (sent, echoed, cut)
}

impl Panel {
    /// What the service got of the one visitor; probes say nothing and end in order.
    fn delivered(&self) -> Got {
        loop {
            let got = self.got.recv_timeout(PATIENCE).unwrap();
            if !(got.0.is_empty() && got.1) {
                return got;
            }
        }
    }
}

#[test]
fn a_pop_that_listens_hears_none_of_a_thousand_markers() {
    let panel = panel(Deed::Nothing);
    let mut stream = visit(panel.at);
    let mut reading = stream.try_clone().unwrap();
    let echo = std::thread::spawn(move || {
        let mut all = Vec::new();
        reading.read_to_end(&mut all).map(|_| all)
    });
    let markers: Vec<String> = (0..1_000).map(|number| format!("planted-marker-{number:04}")).collect();
    for marker in &markers {
        stream.write_all(marker.as_bytes()).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let said = markers.concat().into_bytes();
    assert!(echo.join().unwrap().unwrap() == said);
    let (got, whole) = panel.delivered();
    assert!(whole && got == said);
    let seen = panel.hacked.seen.lock().unwrap();
    assert!(seen.len() > 2 * said.len(), "the POP carried it all, both ways");
    let found = markers.iter().filter(|marker| seen.windows(marker.len()).any(|window| window == marker.as_bytes()));
    assert_eq!(found.count(), 0);
}

#[test]
fn whatever_a_pop_does_to_a_stream_ends_it_and_no_changed_byte_is_delivered() {
    for deed in [Deed::Change, Deed::Repeat, Deed::Swap, Deed::Drop, Deed::Cut] {
        let panel = panel(deed);
        let (sent, _, cut) = talk(&panel, 4);
        let (got, whole) = panel.delivered();
        assert!(!whole, "{deed:?}: the service saw an orderly end after {} bytes", got.len());
        assert!(cut, "{deed:?}: the caller saw an orderly end");
        assert!(sent.starts_with(&got), "{deed:?}: other bytes than were sent");
        let most = if deed == Deed::Repeat { sent.len() - 1 } else { 8_000 };
        assert!(got.len() <= most, "{deed:?}: {} bytes", got.len());
        until("the caller's books", || {
            panel.connector.stats().recent.iter().any(|record| record.outcome != "finished")
        });
    }
}

#[test]
fn a_stream_that_a_pop_takes_elsewhere_is_refused_by_the_caller() {
    let panel = panel(Deed::Divert);
    let (_, echoed, cut) = talk(&panel, 2);
    assert!(cut && echoed == 0);
    let dialled = std::iter::from_fn(|| panel.got.recv_timeout(Duration::from_millis(200)).ok());
    assert_eq!(dialled.filter(|got| !got.0.is_empty()).count(), 0);
    assert_eq!(panel.connector.stats().recent[0].outcome, "end-to-end encryption broke");
}

const ALPN_SEALED_DATAGRAMS: &[u8] = b"drtp-sealed-datagrams/1";
/// All that a part of before sealed datagrams says in HELLO.
const UNDERSTOOD_BEFORE: u32 = 7;

/// A POP that has a caller's key as well, and says inside the seal what it likes.
struct Rogue {
    lane: Lane,
    caller: Arc<ClientConfig>,
    flows: Vec<(u32, ClientConnection, Vec<u8>)>,
    ended: Vec<(u32, ResetCode)>,
    _agent: TunnelAgent,
}

impl Rogue {
    fn new(service: SocketAddr) -> Self {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = target(service);
        let names = ["a-1.agent.td"];
        let config = AgentConfig {
            identity: authority.identity("spiffe://td/org/o/project/p/agent/a-1", &names),
            ..agent_config(&authority, "a-1", 1, target.clone())
        };
        let agent = TunnelAgent::new(config).unwrap();
        let served = json!({"protocol": "UDP", "sealedOnly": true,
            "callers": [{"identity": "x-1", "kind": "user", "name": "joe"}]});
        let plan = json!({
            "server/p-1": plan_server(listener.local_addr().unwrap()),
            "service/c-1": with(plan_service(&target), served),
        });
        assert_ok(&agent.apply(&whole(plan)));
        let lane = Lane::new(listener.accept().unwrap().0, &tls_of(&authority.pop()));
        let caller = client_of(&authority.identity("spiffe://td/user/u-1/connector/x-1", &[]), ALPN_SEALED_DATAGRAMS);
        let mut rogue = Self { lane, caller, flows: Vec::new(), ended: Vec::new(), _agent: agent };
        rogue.turn_until("the agent", |rogue| rogue.lane.session.takes_streams());
        rogue
    }

    fn begin(&mut self, carries: Carries) -> u32 {
        let open = Open {
            connection: CONNECTION.to_owned(),
            visitor: None,
            destination: None,
            stream_id: [7; 16],
            deadline_ms: 60_000,
            carries,
        };
        let stream = self.lane.session.open(open, Instant::now()).unwrap();
        let mut tls = ClientConnection::new(Arc::clone(&self.caller), "a-1.agent.td".try_into().unwrap()).unwrap();
        tls.set_buffer_limit(None);
        self.flows.push((stream, tls, Vec::new()));
        stream
    }

    fn say(&mut self, stream: u32, plain: &[u8]) {
        let (_, tls, _) = self.flows.iter_mut().find(|(id, ..)| *id == stream).unwrap();
        tls.writer().write_all(plain).unwrap();
    }

    fn turn(&mut self) {
        for news in self.lane.read() {
            match news {
                News::Hello => self.lane.session.accept([1; 16], Instant::now()),
                News::Data(stream, bytes) => {
                    self.lane.session.consumed(stream, bytes.len() as u64, Instant::now());
                    let Some((_, tls, plain)) = self.flows.iter_mut().find(|(id, ..)| *id == stream) else { continue };
                    let mut rest = bytes.as_slice();
                    while !rest.is_empty() {
                        tls.read_tls(&mut rest).unwrap();
                        if tls.process_new_packets().is_err() {
                            break;
                        }
                    }
                    let _ = tls.reader().read_to_end(plain);
                }
                News::Reset(stream, code) => self.ended.push((stream, code)),
                News::Open(..) | News::Fin(_) => {}
            }
        }
        for (stream, tls, _) in &mut self.flows {
            let mut sealed = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut sealed).unwrap();
            }
            send(&mut self.lane.session, *stream, &sealed);
        }
        self.lane.write();
    }

    fn turn_until(&mut self, what: &str, mut fact: impl FnMut(&Self) -> bool) {
        until(what, || {
            self.turn();
            fact(self)
        });
    }

    /// The answers that came to a flow.
    fn answers(&self, stream: u32) -> Vec<Vec<u8>> {
        let (_, _, plain) = self.flows.iter().find(|(id, ..)| *id == stream).unwrap();
        let (mut found, mut at) = (Vec::new(), 0);
        while let Ok(Some(datagram)) = framed::first(&plain[at..]) {
            at += framed::HEAD_BYTES + datagram.len();
            found.push(datagram.to_vec());
        }
        found
    }
}

fn client_of(identity: &Identity, alpn: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(identity.roots_pem.as_bytes()).unwrap()).unwrap();
    let chain = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes()).collect::<Result<_, _>>().unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap())
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

fn framed_of(datagrams: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    datagrams.iter().for_each(|datagram| framed::put(&mut out, datagram));
    out
}

/// Answers each datagram with itself, and reports it.
fn udp_echo_that_tells() -> (SocketAddr, Receiver<Vec<u8>>) {
    let (report, got) = channel();
    let address = udp_service(move |_, bytes| {
        let _ = report.send(bytes.to_vec());
        bytes.to_vec()
    });
    (address, got)
}

#[test]
fn a_caller_who_says_what_is_no_datagram_loses_that_flow_alone() {
    let (service, _got) = udp_echo_that_tells();
    let mut rogue = Rogue::new(service);
    let (good, bad) = (rogue.begin(Carries::SealedDatagrams), rogue.begin(Carries::SealedDatagrams));
    rogue.say(good, &framed_of(&[b"one", b""]));
    rogue.say(bad, &framed_of(&[b"two"]));
    rogue.turn_until("the answers", |rogue| rogue.answers(good).len() == 2 && rogue.answers(bad).len() == 1);
    // Longer than any datagram.
    rogue.say(bad, &[0xff, 0xe4]);
    rogue.turn_until("the end", |rogue| !rogue.ended.is_empty());
    assert_eq!(rogue.ended, [(bad, ResetCode::Misframed)]);
    rogue.say(good, &framed_of(&[b"three"]));
    rogue.turn_until("another answer", |rogue| rogue.answers(good).len() == 3);
    assert_eq!(rogue.answers(good), [b"one".to_vec(), Vec::new(), b"three".to_vec()]);
}

#[test]
fn half_a_datagram_is_none_and_the_rest_makes_it_one() {
    let (service, got) = udp_echo_that_tells();
    let mut rogue = Rogue::new(service);
    let flow = rogue.begin(Carries::SealedDatagrams);
    let (whole, large) = (pattern(60_000, 5), pattern(65_507, 6));
    let wire = framed_of(&[&whole, b"x", &large]);
    for piece in wire.chunks(7_001) {
        rogue.say(flow, piece);
        rogue.turn();
    }
    rogue.turn_until("the answers", |rogue| rogue.answers(flow).len() == 3);
    let heard: Vec<Vec<u8>> = got.try_iter().collect();
    assert!(heard == [whole, b"x".to_vec(), large]);
}

#[test]
fn a_datagram_beside_the_seal_reaches_nobody() {
    let (service, got) = udp_echo_that_tells();
    let mut rogue = Rogue::new(service);
    let flow = rogue.begin(Carries::SealedDatagrams);
    rogue.lane.session.datagram(flow, b"before the handshake");
    rogue.say(flow, &framed_of(&[b"sealed"]));
    rogue.turn_until("the answer", |rogue| rogue.answers(flow).len() == 1);
    rogue.lane.session.datagram(flow, b"after it");
    rogue.say(flow, &framed_of(&[b"sealed, too"]));
    rogue.turn_until("the answer", |rogue| rogue.answers(flow).len() == 2);
    assert_eq!(got.try_iter().collect::<Vec<_>>(), [b"sealed".to_vec(), b"sealed, too".to_vec()]);
}

#[test]
fn another_kind_than_the_services_is_refused_before_a_word_is_said() {
    let (service, got) = udp_echo_that_tells();
    let mut rogue = Rogue::new(service);
    // In clear; bytes; and datagrams by name, whose TLS says bytes.
    let kinds = [Carries::Datagrams, Carries::Bytes, Carries::Sealed].map(|carries| rogue.begin(carries));
    rogue.turn_until("the refusals", |rogue| rogue.ended.len() == 3);
    let codes: Vec<ResetCode> =
        kinds.iter().map(|kind| rogue.ended.iter().find(|(id, _)| id == kind).unwrap().1).collect();
    assert_eq!(codes, [ResetCode::Denied, ResetCode::Denied, ResetCode::NoRoute]);
    let mut other = ClientConfig::clone(&rogue.caller);
    other.alpn_protocols = vec![b"drtp-sealed/1".to_vec()];
    rogue.caller = Arc::new(other);
    rogue.flows.clear();
    let misnamed = rogue.begin(Carries::SealedDatagrams);
    rogue.say(misnamed, &framed_of(&[b"x"]));
    rogue.turn_until("the refusal", |rogue| rogue.ended.iter().any(|(id, _)| *id == misnamed));
    assert_eq!(got.try_iter().count(), 0);
}

#[test]
fn a_pop_from_before_sealed_datagrams_is_passed_over_and_said_to_be_old() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connector = connector_of(&authority, CALLER);
    let port = with(port(&[way("a-1", "p-1")]), json!({"protocol": "UDP"}));
    let table = json!({"server/p-1": plan_server(listener.local_addr().unwrap()), "port/web": port});
    let outcome = connector.apply(&whole(table));
    let at: SocketAddr = outcome.entries["port/web"].bound.as_ref().unwrap().parse().unwrap();
    let mut lane = Lane::new(listener.accept().unwrap().0, &tls_of(&authority.pop()));
    lane.understands = Some(UNDERSTOOD_BEFORE);
    let mut opened = 0;
    let mut turn = || {
        for news in lane.read() {
            match news {
                News::Hello => {
                    lane.session.answer_streams();
                    lane.session.accept([1; 16], Instant::now());
                }
                News::Open(..) => opened += 1,
                _ => {}
            }
        }
        lane.write();
    };
    until("the session", || {
        turn();
        connector.stats().sessions[0].state == "Open"
    });
    assert!(!connector.stats().sessions[0].carries_datagrams);
    let program = UdpSocket::bind("127.0.0.1:0").unwrap();
    program.send_to(b"x", at).unwrap();
    until("the refusal", || {
        turn();
        connector.stats().recent.last().is_some_and(|record| record.outcome == "the other end is too old for UDP")
    });
    assert_eq!(opened, 0);
}

#[test]
fn an_agent_from_before_sealed_datagrams_gets_none_and_the_caller_is_told_why() {
    let authority = Authority::new();
    let pop = pop(&authority);
    let route = with(unexposed_route(&callers(&[CALLER])), json!({"protocol": "UDP"}));
    assert_ok(&pop.apply(&whole(json!({"route/c-1": route}))));
    let identity = authority.agent("a-1");
    let session = Session::agent(rhythm(), Budget::new(1 << 30), 1, [9; 16], 1, Instant::now());
    let name = "p-1.tunnel.test".try_into().unwrap();
    let tls = ClientConnection::new(client_of(&identity, b"drtp/1"), name).unwrap();
    let socket = TcpStream::connect(pop.agent_addresses()[0]).unwrap();
    let mut agent = Lane::over(socket, Connection::Client(tls), session);
    agent.understands = Some(UNDERSTOOD_BEFORE);
    let mut opened = 0;
    let mut turn = || {
        opened += agent.read().iter().filter(|news| matches!(news, News::Open(..))).count();
        agent.write();
        opened
    };
    until("the agent's session", || {
        turn();
        pop.stats().sessions.iter().any(|session| session.state == "Open")
    });
    let connector = connector_of(&authority, CALLER);
    let port = with(port(&[way("a-1", "p-1")]), json!({"protocol": "UDP"}));
    let outcome =
        connector.apply(&whole(json!({"server/p-1": plan_server(pop.agent_addresses()[0]), "port/web": port})));
    let at: SocketAddr = outcome.entries["port/web"].bound.as_ref().unwrap().parse().unwrap();
    until("the connector's session", || {
        turn();
        connector.stats().sessions[0].state == "Open"
    });
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", at).unwrap();
    until("the refusal", || {
        turn();
        connector.stats().recent.last().is_some_and(|record| record.outcome == "the other end is too old for UDP")
    });
    assert_eq!(turn(), 0);
}
