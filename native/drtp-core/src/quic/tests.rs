//! Two ports with a network of virtual time between them, sessions on top.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::*;
use crate::config::{Flow, Identity};
use crate::message::ResetCode;
use crate::session::pair::{config, visitor};
use crate::session::{Budget, Event, Session};
use crate::tls::Credentials;

const POP: &str = "192.0.2.1:443";
const AGENT: &str = "192.0.2.2:40000";
const LATENCY: Duration = Duration::from_millis(20);

struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap())
    }

    fn credentials(&self, uri: &str, name: &str) -> Credentials {
        self.credentials_that_trust(&self.0.pem(), uri, name)
    }

    fn credentials_that_trust(&self, roots: &str, uri: &str, name: &str) -> Credentials {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().unwrap()));
        let key = rcgen::KeyPair::generate().unwrap();
        let chain_pem = params.signed_by(&key, &self.0).unwrap().pem();
        Credentials::new(&Identity { chain_pem, key_pem: key.serialize_pem(), roots_pem: roots.to_owned() }).unwrap()
    }

    fn pop(&self) -> Credentials {
        self.credentials("spiffe://td/pop/p", "p.test")
    }

    fn agent(&self) -> Credentials {
        self.credentials("spiffe://td/agent/a", "a.test")
    }
}

#[derive(Default)]
struct Seen {
    opened: bool,
    bytes: usize,
    /// When the last of them came.
    at: Option<Instant>,
    fin: bool,
    reset: Option<ResetCode>,
    datagrams: Vec<Vec<u8>>,
}

struct End {
    port: Port,
    braid: Option<Braid>,
    session: Session,
    seen: BTreeMap<u32, Seen>,
    ready: bool,
    fault: Option<Fault>,
}

impl End {
    fn new(port: Port, braid: Option<Braid>, session: Session) -> Self {
        Self { port, braid, session, seen: BTreeMap::new(), ready: false, fault: None }
    }

    /// Everything that is due: bytes in, bytes out.
    fn turn(&mut self, now: Instant, out: &mut impl FnMut(Vec<u8>)) {
        let Some(braid) = self.braid.as_mut() else { return };
        braid.tick(now);
        let (session, seen, ready) = (&mut self.session, &mut self.seen, &mut self.ready);
        let mut eaten = Vec::new();
        let result = braid.receive(&mut |frames| {
            let judged = session.input(0, frames, now, &mut |event| match event {
                Event::Hello(_) | Event::Ready(_) => *ready = true,
                Event::Open { stream, .. } => seen.entry(stream).or_default().opened = true,
                Event::Data { stream, bytes } => {
                    let seen = seen.entry(stream).or_default();
                    seen.bytes += bytes.len();
                    seen.at = Some(now);
                    eaten.push((stream, bytes.len() as u64));
                }
                Event::Fin { stream } => seen.entry(stream).or_default().fin = true,
                Event::Reset { stream, code } => seen.entry(stream).or_default().reset = Some(code),
                Event::Datagram { stream, bytes } => seen.entry(stream).or_default().datagrams.push(bytes.to_vec()),
                _ => {}
            });
            judged.unwrap();
        });
        if let Err(fault) = result {
            self.fault.get_or_insert(fault);
        }
        for (stream, count) in eaten {
            self.session.consumed(stream, count, now);
        }
        self.session.tick(now, &mut |_| {});
        let mut batch = Vec::new();
        if braid.established() {
            self.session.take_output(0, &mut batch);
            braid.send(&batch);
        }
        let mut datagram = Vec::new();
        while let Some(transmit) = braid.transmit(now, 1, &mut datagram) {
            datagram.truncate(transmit.size);
            out(std::mem::take(&mut datagram));
        }
        self.port.settle(braid);
    }
}

/// A POP and one dialler.
struct World {
    now: Instant,
    pop: End,
    agent: End,
    up: VecDeque<(Instant, Vec<u8>)>,
    down: VecDeque<(Instant, Vec<u8>)>,
    server: Arc<ServerConfig>,
    /// Datagrams that are on their way down are asked for by number and length.
    loses: Box<dyn FnMut(usize) -> bool>,
    bytes_up: usize,
    bytes_down: usize,
    strangers: usize,
}

impl World {
    fn dialled(pop: &Credentials, client: ClientConfig) -> Self {
        let now = Instant::now();
        let server = super::server(&pop.tunnel_server, 64).unwrap();
        let budget = || Budget::new(Flow::default().budget_bytes);
        let mut dialler = Port::new(None);
        let braid = dialler.dial(client, POP.parse().unwrap(), "p.test", now).unwrap();
        Self {
            now,
            pop: End::new(Port::new(Some(Arc::clone(&server))), None, Session::server(config(), budget(), now)),
            agent: End::new(dialler, Some(braid), Session::agent(config(), budget(), 100, [1; 16], 1, now)),
            up: VecDeque::new(),
            down: VecDeque::new(),
            server,
            loses: Box::new(|_| false),
            bytes_up: 0,
            bytes_down: 0,
            strangers: 0,
        }
    }

    /// Greeted and open.
    fn open() -> Self {
        let authority = Authority::new();
        let client = client(&authority.agent().tunnel_client, 64).unwrap();
        let mut world = Self::dialled(&authority.pop(), client);
        world.run(Duration::from_millis(300));
        assert!(world.pop.ready, "{:?} {:?}", world.agent.fault, world.pop.fault);
        world.pop.session.accept([9; 16], world.now);
        world.run(Duration::from_millis(100));
        assert!(world.agent.ready);
        world
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.turn();
            self.now += Duration::from_millis(1);
        }
    }

    fn turn(&mut self) {
        let (now, arrival) = (self.now, self.now + LATENCY);
        while self.up.front().is_some_and(|(at, _)| *at <= now) {
            let (_, datagram) = self.up.pop_front().unwrap();
            match self.pop.port.take(AGENT.parse().unwrap(), &datagram, now) {
                Came::Nothing => {}
                Came::Stranger(stranger) => {
                    self.strangers += 1;
                    self.pop.braid = self.pop.port.admit(*stranger, &self.server, now);
                }
                Came::News(_, event) => self.pop.braid.as_mut().unwrap().take(event),
            }
            if let Some((_, answer)) = self.pop.port.answer() {
                self.bytes_down += answer.len();
                self.down.push_back((arrival, answer));
            }
        }
        while self.down.front().is_some_and(|(at, _)| *at <= now) {
            let (_, datagram) = self.down.pop_front().unwrap();
            if let Came::News(_, event) = self.agent.port.take(POP.parse().unwrap(), &datagram, now) {
                self.agent.braid.as_mut().unwrap().take(event);
            }
        }
        let (up, down, loses) = (&mut self.up, &mut self.down, &mut self.loses);
        let (bytes_up, bytes_down) = (&mut self.bytes_up, &mut self.bytes_down);
        self.agent.turn(now, &mut |datagram| {
            *bytes_up += datagram.len();
            up.push_back((arrival, datagram));
        });
        self.pop.turn(now, &mut |datagram| {
            *bytes_down += datagram.len();
            if !loses(datagram.len()) {
                down.push_back((arrival, datagram));
            }
        });
    }

    fn visitor(&mut self) -> u32 {
        self.pop.session.open(visitor("c-1"), self.now).unwrap()
    }

    fn at_agent(&self, stream: u32) -> &Seen {
        &self.agent.seen[&stream]
    }
}

#[test]
fn the_handshake_proves_both_ends_by_their_leaves() {
    let world = World::open();
    assert_eq!(world.agent.braid.as_ref().unwrap().peer().unwrap().uid, "p");
    assert_eq!(world.pop.braid.as_ref().unwrap().peer().unwrap().uid, "a");
}

#[test]
fn bytes_go_both_ways_and_each_half_ends_by_itself() {
    let mut world = World::open();
    let stream = world.visitor();
    let sent = world.pop.session.send(stream, &[7; 60_000]);
    assert_eq!(sent, 60_000);
    world.pop.session.finish(stream);
    world.run(Duration::from_millis(500));
    let seen = world.at_agent(stream);
    assert!(seen.opened && seen.fin && seen.bytes == sent && seen.reset.is_none());
    world.agent.session.connected(stream);
    assert_eq!(world.agent.session.send(stream, &[8; 50_000]), 50_000);
    world.run(Duration::from_millis(500));
    assert!(world.pop.seen[&stream].bytes == 50_000 && !world.pop.seen[&stream].fin);
    world.agent.session.finish(stream);
    world.run(Duration::from_millis(500));
    assert!(world.pop.seen[&stream].fin);
    assert_eq!((world.pop.session.stream_count(), world.agent.session.stream_count()), (0, 0));
    assert_eq!((world.pop.fault.clone(), world.agent.fault.clone()), (None, None));
    for end in [&world.pop, &world.agent] {
        assert_eq!(end.braid.as_ref().unwrap().open_strands(), 1, "only the session's own stream stays");
    }
}

#[test]
fn a_lost_packet_holds_up_the_stream_that_was_in_it_and_no_other() {
    let mut world = World::open();
    let (struck, other) = (world.visitor(), world.visitor());
    world.run(Duration::from_millis(100));
    world.loses = Box::new(|length| length > 500);
    let began = world.now;
    world.pop.session.send(struck, &[1; 1_000]);
    world.turn();
    world.loses = Box::new(|_| false);
    world.pop.session.send(other, &[2; 1_000]);
    world.run(Duration::from_secs(1));
    let took = |stream: u32| world.at_agent(stream).at.unwrap() - began;
    assert!(took(other) <= LATENCY + Duration::from_millis(5), "{:?}", took(other));
    assert!(took(struck) > LATENCY * 2, "{:?}", took(struck));
    assert_eq!((world.at_agent(struck).bytes, world.at_agent(other).bytes), (1_000, 1_000));
}

#[test]
fn a_reset_is_a_reset_with_its_code_and_passes_what_was_lost() {
    let mut world = World::open();
    let stream = world.visitor();
    world.run(Duration::from_millis(100));
    world.loses = Box::new(|length| length > 500);
    world.pop.session.send(stream, &[1; 30_000]);
    world.turn();
    world.loses = Box::new(|_| false);
    world.pop.session.reset(stream, ResetCode::Idle);
    world.run(Duration::from_millis(100));
    let seen = world.at_agent(stream);
    assert_eq!((seen.reset, seen.fin), (Some(ResetCode::Idle), false));
    assert_eq!(world.agent.session.stream_count(), 0);
    let answered = world.visitor();
    world.run(Duration::from_millis(100));
    world.agent.session.reset(answered, ResetCode::Denied);
    world.run(Duration::from_millis(100));
    assert_eq!(world.pop.seen[&answered].reset, Some(ResetCode::Denied));
}

#[test]
fn a_thousand_visitors_one_after_another_find_room_for_64() {
    let mut world = World::open();
    for _ in 0..34 {
        let streams: Vec<u32> = (0..30).map(|_| world.visitor()).collect();
        world.run(Duration::from_millis(60));
        for stream in &streams {
            world.agent.session.connected(*stream);
            world.agent.session.finish(*stream);
            world.pop.session.finish(*stream);
        }
        world.run(Duration::from_millis(200));
        assert!(streams.iter().all(|stream| world.at_agent(*stream).fin));
    }
    assert_eq!(world.agent.braid.as_ref().unwrap().open_strands(), 1);
}

#[test]
fn datagrams_of_any_length_arrive() {
    let mut world = World::open();
    let stream = world.visitor();
    world.agent.session.connected(stream);
    world.run(Duration::from_millis(100));
    world.agent.session.connected(stream);
    world.run(Duration::from_millis(100));
    for length in [0, 1, 1_000, 60_000] {
        world.pop.session.datagram(stream, &vec![5; length]);
        world.run(Duration::from_millis(300));
    }
    let lengths: Vec<usize> = world.at_agent(stream).datagrams.iter().map(Vec::len).collect();
    assert_eq!(lengths, [0, 1, 1_000, 60_000]);
}

#[test]
fn bulk_arrives_whole_where_every_twentieth_packet_is_lost() {
    let mut world = World::open();
    let stream = world.visitor();
    let mut count = 0;
    world.loses = Box::new(move |_| {
        count += 1;
        count % 20 == 0
    });
    let (total, mut sent) = (2_000_000, 0);
    for _ in 0..20_000 {
        sent += world.pop.session.send(stream, &vec![3; (total - sent).min(20_000)]);
        world.run(Duration::from_millis(1));
        if world.agent.seen.get(&stream).is_some_and(|seen| seen.bytes == total) {
            break;
        }
    }
    assert_eq!(world.at_agent(stream).bytes, total);
}

#[test]
fn a_stranger_is_answered_with_less_than_it_sent_and_kept_only_where_it_is() {
    let mut world = World::open();
    assert_eq!(world.strangers, 1);
    let pop = &mut world.pop.port;
    let before = pop.count();
    let authority = Authority::new();
    for _ in 0..4 {
        let mut liar = Port::new(None);
        let client = client(&authority.agent().tunnel_client, 64).unwrap();
        let mut braid = liar.dial(client, POP.parse().unwrap(), "p.test", world.now).unwrap();
        let mut initial = Vec::new();
        let length = braid.transmit(world.now, 1, &mut initial).unwrap().size;
        for source in 0..500_u16 {
            let from = SocketAddr::from(([198, 51, 100, 1], 1_024 + source));
            assert!(matches!(pop.take(from, &initial[..length], world.now), Came::Nothing));
            let (to, answer) = pop.answer().unwrap();
            assert_eq!(to, from);
            assert!(answer.len() < length);
        }
    }
    assert_eq!(pop.count(), before, "nothing is kept of whom nobody has seen");
}

#[test]
fn garbage_is_nothing_and_others_go_on() {
    let mut world = World::open();
    let mut seed = 7_u64;
    for length in (0..1_500).step_by(3) {
        let garbage: Vec<u8> = (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (seed >> 33) as u8
            })
            .collect();
        let from = SocketAddr::from(([198, 51, 100, 2], 5_000));
        let came = world.pop.port.take(from, &garbage, world.now);
        assert!(matches!(came, Came::Nothing));
        assert!(world.pop.port.answer().is_none_or(|(_, answer)| answer.len() <= garbage.len()));
    }
    let stream = world.visitor();
    world.pop.session.send(stream, b"still here");
    world.run(Duration::from_millis(100));
    assert_eq!(world.at_agent(stream).bytes, 10);
}

/// Dials a POP that does not take it; gives both ends' words, and whether the POP ever took its handshake for complete.
fn refused(client: ClientConfig, authority: &Authority) -> World {
    let mut world = World::dialled(&authority.pop(), client);
    world.run(Duration::from_secs(1));
    assert!(!world.pop.ready);
    assert!(!world.pop.braid.as_ref().is_some_and(Braid::established));
    assert!(matches!(world.agent.fault, Some(Fault::Lost(_))), "{:?}", world.agent.fault);
    assert!(world.bytes_down <= 3 * world.bytes_up, "{} {}", world.bytes_down, world.bytes_up);
    world
}

#[test]
fn another_authoritys_agent_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    // It trusts the POP; the POP does not trust it.
    let stranger = other.credentials_that_trust(&authority.0.pem(), "spiffe://td/agent/a", "a.test");
    let world = refused(client(&stranger.tunnel_client, 64).unwrap(), &authority);
    assert_eq!(world.strangers, 1);
}

#[test]
fn who_speaks_a_tcp_lanes_protocol_is_refused() {
    let authority = Authority::new();
    let tls = (*authority.agent().tunnel_client).clone();
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    refused(ClientConfig::new(Arc::new(crypto)), &authority);
}

#[test]
fn a_frame_on_anothers_stream_ends_the_lane() {
    use crate::frame::{Frame, put};
    let mut world = World::open();
    let stream = world.visitor();
    world.run(Duration::from_millis(100));
    let mut astray = Vec::new();
    put(&mut astray, stream + 1, &Frame::Fin);
    world.pop.braid.as_mut().unwrap().misplace(stream, &astray);
    world.run(Duration::from_millis(100));
    assert_eq!(world.agent.fault, Some(Fault::Misplaced));
}

#[test]
fn a_dead_peer_is_never_a_clean_end() {
    let mut world = World::open();
    let stream = world.visitor();
    world.run(Duration::from_millis(100));
    let now = world.now;
    world.pop.braid.as_mut().unwrap().close(now);
    world.run(Duration::from_millis(100));
    assert!(matches!(world.agent.fault, Some(Fault::Lost(_))));
    assert!(!world.at_agent(stream).fin);
}

#[test]
fn last_words_are_heard_before_the_end() {
    let mut world = World::open();
    world.pop.session.refuse(crate::message::GoAwayCode::Denied, 0, "go");
    let mut lost = 0;
    world.loses = Box::new(move |_| {
        lost += 1;
        lost <= 2
    });
    world.turn();
    world.pop.braid.as_mut().unwrap().say_bye();
    world.run(Duration::from_millis(500));
    assert!(world.pop.braid.as_ref().unwrap().bye_heard());
    assert_eq!(world.agent.session.state(), crate::session::State::Closed);
    assert_eq!(world.agent.fault, Some(Fault::Ended));
}
