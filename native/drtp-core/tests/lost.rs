//! What is lost with a lane, and with an agent among a hundred: what was on it, and nothing else.

mod world;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use drtp_core::{CoreLimits, Flow, Liveness, ServerConfig, TunnelAgent, TunnelServer};
use serde_json::json;
use world::*;

/// As POPs and agents have it in production.
const LIVENESS: Liveness = Liveness { ping_ms: 800, dead_ms: 2_500, idle_ping_ms: 800, idle_dead_ms: 2_500 };
/// A dead lane is found in this time, and no new visitor meets it later.
const RECOVERED: Duration = Duration::from_millis(2_500);
/// A busy machine's own.
const SLACK: Duration = Duration::from_millis(700);
const STAYING: usize = 12;

/// What a path does with a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Both ends are reset.
    Cut,
    /// Nothing is taken any more, and nothing closed: senders see a full window.
    Frozen,
    /// Everything is taken, and nothing arrives.
    BlackHoled,
}

/// A path to the POP whose present connections can fail; new ones are whole.
struct Fragile {
    address: SocketAddr,
    fault: Arc<Mutex<Arc<AtomicU8>>>,
}

impl Fragile {
    fn to(target: SocketAddr) -> Self {
        let fault = Arc::new(Mutex::new(Arc::new(AtomicU8::new(Fault::None as u8))));
        let now = Arc::clone(&fault);
        if over_quic() {
            // Of UDP nobody tells who cut, froze or swallowed it.
            let address = udp_path(target, move || {
                let mine = Arc::clone(&now.lock().unwrap());
                move || mine.load(Ordering::SeqCst) != Fault::None as u8
            });
            return Self { address, fault };
        }
        let address = service(move |stream| {
            let mine = Arc::clone(&now.lock().unwrap());
            let upstream = TcpStream::connect(target).unwrap();
            let pump = |from: &TcpStream, to: &TcpStream| {
                let (from, to, mine) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(&mine));
                move || carry(from, to, &mine)
            };
            let (up, down) = (pump(&stream, &upstream), pump(&upstream, &stream));
            let other = std::thread::spawn(down);
            up();
            let _ = other.join();
        });
        Self { address, fault }
    }

    /// Strikes all connections there are.
    fn strike(&self, fault: Fault) {
        let mut current = self.fault.lock().unwrap();
        current.store(fault as u8, Ordering::SeqCst);
        *current = Arc::new(AtomicU8::new(Fault::None as u8));
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, fault: &AtomicU8) {
    let is = |wanted: Fault| fault.load(Ordering::SeqCst) == wanted as u8;
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if is(Fault::Cut) {
            reset(from);
            return reset(to);
        }
        if is(Fault::Frozen) {
            std::thread::park_timeout(Duration::from_millis(20));
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => return drop(to.shutdown(Shutdown::Write)),
            Ok(_) if is(Fault::BlackHoled) => {}
            Ok(count) if to.write_all(&buffer[..count]).is_ok() => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            _ => return,
        }
    }
}

fn pop_as_in_production(authority: &Authority) -> TunnelServer {
    TunnelServer::new(ServerConfig {
        identity: authority.pop(),
        listeners: vec!["127.0.0.1:0".parse().unwrap()],
        quic: over_quic(),
        web: None,
        country_database: None,
        pulse: None,
        liveness: LIVENESS,
        flow: Flow::default(),
        limits: CoreLimits::default(),
    })
    .unwrap()
}

fn agent_by(authority: &Authority, uid: &str, pop: SocketAddr, connection: &str, service: SocketAddr) -> TunnelAgent {
    let target = target(service);
    let mut config = agent_config(authority, uid, 1, target.clone());
    config.liveness = LIVENESS;
    let agent = TunnelAgent::new(config).unwrap();
    let mine = with(plan_service(&target), json!({"connection": connection}));
    let plan = json!({"server/p-1": plan_server(pop), format!("service/{connection}"): mine});
    assert_ok(&agent.apply(&whole(plan)));
    agent
}

fn word(visitor: &mut TcpStream, seed: u64) -> std::io::Result<()> {
    let said = pattern(200, seed);
    visitor.write_all(&said)?;
    let mut back = vec![0; said.len()];
    visitor.read_exact(&mut back)?;
    assert!(back == said, "somebody else's bytes");
    Ok(())
}

/// Under load one of two agents of a service loses its lane.
fn lose_a_lane(fault: Fault) {
    let authority = Authority::new();
    let pop = pop_as_in_production(&authority);
    let port = free_port("127.0.0.1");
    let endpoint = SocketAddr::new([127, 0, 0, 1].into(), port);
    assert_ok(&pop.apply(&whole(json!({"route/c-1": with(route(port), json!({"agents": ["a-1", "a-2"]}))}))));
    let path = Fragile::to(pop.agent_addresses()[0]);
    let local = service(echo);
    let fragile = agent_by(&authority, "a-1", path.address, CONNECTION, local);
    let sound = agent_by(&authority, "a-2", pop.agent_addresses()[0], CONNECTION, local);
    until("both agents", || pop.stats().sessions.iter().filter(|one| one.state == "Open").count() == 2);

    // Those who stay, turn by turn on either agent, and speak all the time.
    let over = Arc::new(AtomicBool::new(false));
    let staying: Vec<_> = (0..STAYING as u64)
        .map(|number| {
            let (mut visitor, over) = (visit(endpoint), Arc::clone(&over));
            word(&mut visitor, number + 1).unwrap();
            std::thread::spawn(move || -> Result<(), (Instant, std::io::ErrorKind)> {
                let mut round = 0;
                while !over.load(Ordering::SeqCst) {
                    round += 1;
                    word(&mut visitor, number * 1_000 + round).map_err(|error| (Instant::now(), error.kind()))?;
                    std::thread::park_timeout(Duration::from_millis(10));
                }
                Ok(())
            })
        })
        .collect();
    // Those who come: each must be served who comes when the lane has been found dead.
    let struck = Instant::now();
    path.strike(fault);
    let mut late = Vec::new();
    while struck.elapsed() < RECOVERED + SLACK + Duration::from_secs(1) {
        let came = struck.elapsed();
        let served = try_visit(endpoint).and_then(|mut visitor| {
            visitor.set_read_timeout(Some(Duration::from_millis(200)))?;
            word(&mut visitor, 99)
        });
        if served.is_err() && came > RECOVERED + SLACK {
            late.push(came);
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert!(late.is_empty(), "{fault:?}: not served, though they came after {late:?}");
    over.store(true, Ordering::SeqCst);
    let ends: Vec<_> = staying.into_iter().map(|thread| thread.join().unwrap()).collect();
    let cut: Vec<_> = ends.iter().filter_map(|end| end.err()).collect();
    assert_eq!(cut.len(), STAYING / 2, "{fault:?}: those of the lane, and nobody else: {ends:?}");
    for (when, kind) in cut {
        assert_eq!(kind, std::io::ErrorKind::ConnectionReset, "{fault:?}");
        assert!(when - struck < RECOVERED + SLACK, "{fault:?}: told after {:?}", when - struck);
    }
    // It is back by itself, on a new lane.
    until("the agent to be back", || fragile.stats().sessions.iter().any(|one| one.state == "Open"));
    drop(sound);
}

#[test]
fn a_lane_that_is_cut_under_load_loses_what_was_on_it() {
    lose_a_lane(Fault::Cut);
}

#[test]
fn a_lane_that_is_frozen_under_load_loses_what_was_on_it() {
    lose_a_lane(Fault::Frozen);
}

#[test]
fn a_lane_that_is_black_holed_under_load_loses_what_was_on_it() {
    lose_a_lane(Fault::BlackHoled);
}

#[test]
fn of_a_hundred_agents_each_serves_its_own_and_ten_that_die_take_nobody_elses_visitors() {
    const AGENTS: usize = 100;
    let authority = Authority::new();
    let pop = pop_as_in_production(&authority);
    let uid = |number: usize| format!("a-{number}");
    let mut entries = serde_json::Map::new();
    for number in 0..AGENTS {
        let own =
            json!({"connection": format!("c-{number}"), "agents": [uid(number)], "service": format!("s-{number}")});
        entries.insert(format!("route/c-{number}"), with(route(0), own));
    }
    let outcome = pop.apply(&whole(entries.into()));
    assert_ok(&outcome);
    let endpoints: Vec<SocketAddr> = (0..AGENTS)
        .map(|number| outcome.entries[&format!("route/c-{number}")].bound.as_ref().unwrap().parse().unwrap())
        .collect();
    let mut agents: Vec<TunnelAgent> = (0..AGENTS)
        .map(|number| {
            // Each says whose it is.
            let local = service(move |mut stream| {
                let _ = stream.write_all(&(number as u32).to_be_bytes());
                echo(stream);
            });
            agent_by(&authority, &uid(number), pop.agent_addresses()[0], &format!("c-{number}"), local)
        })
        .collect();
    until("a hundred live endpoints", || pop.stats().connections.iter().filter(|one| one.live).count() == AGENTS);
    let mut visitors: Vec<TcpStream> = endpoints
        .iter()
        .enumerate()
        .map(|(number, endpoint)| {
            let mut visitor = visit(*endpoint);
            let mut whose = [0; 4];
            visitor.read_exact(&mut whose).unwrap();
            assert_eq!(u32::from_be_bytes(whose) as usize, number);
            word(&mut visitor, number as u64 + 1).unwrap();
            visitor
        })
        .collect();
    for agent in agents.drain(..10) {
        agent.close();
    }
    for visitor in &mut visitors[..10] {
        assert!(read_to_reset(visitor).is_empty());
    }
    for (number, visitor) in visitors[10..].iter_mut().enumerate() {
        word(visitor, number as u64 + 7).unwrap();
    }
    until("ten deaf endpoints", || pop.stats().connections.iter().filter(|one| one.live).count() == AGENTS - 10);
}

#[test]
fn a_session_that_goes_silent_is_dead_for_its_visitors_within_its_patience() {
    // A path that swallows everything: the agent reaches the POP through it until it is cut.
    let world = World::new(service(echo));
    let hole = Hole::to(world.pop.agent_addresses()[0]);
    let authority = &world.authority;
    world.agent.close();
    let target = target(service(echo));
    let agent = drtp_core::TunnelAgent::new(agent_config(authority, "a-1", 7, target.clone())).unwrap();
    agent.apply(&whole(json!({"server/p-1": plan_server(hole.address), "service/c-1": plan_service(&target)})));
    until_stats("the session", || world.pop.stats(), |s| s.sessions.first().is_some_and(|s| s.epoch == 7));
    let mut visitor = world.visit();
    visitor.write_all(b"x").unwrap();
    visitor.read_exact(&mut [0]).unwrap();
    hole.swallow();
    let cut = Instant::now();
    read_to_reset(&mut visitor);
    assert!(cut.elapsed() < Duration::from_millis(2_500), "{:?}", cut.elapsed());
}
