//! Policies on callers, at the POP and at the agent: each refuses by itself, whatever the control plane let pass.

mod world;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use drtp_core::{AgentConfig, CoreLimits, Flow, GatewayConfig, TunnelAgent, TunnelConnector, TunnelServer};
use serde_json::{Value, json};
use world::*;

const CALLER: &str = "x-1";

/// A POP in Frankfurt that knows countries, an agent, and Joe's connector, which both are told to let in.
struct Panel {
    pop: TunnelServer,
    agent: TunnelAgent,
    connector: TunnelConnector,
    at: SocketAddr,
    route: Value,
    service: Value,
}

impl Panel {
    fn new() -> Self {
        let authority = Authority::new();
        let named = json!([{"identity": CALLER, "kind": "user", "name": "joe", "organizations": ["acme"]}]);
        let place = json!({"pop": "fra", "country": "DE"});
        let sealed = json!({"access": {"lists": []}, "mode": "mtls", "callers": named, "place": place});
        let route = with(route(free_port("127.0.0.1")), sealed);
        let mut config = server_config(&authority, CoreLimits::default());
        config.country_database =
            Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/countries.mmdb"));
        let pop = TunnelServer::new(config).unwrap();
        assert_ok(&pop.apply(&whole(json!({"route/c-1": route}))));
        let target = target(service(echo));
        let identity = authority.identity("spiffe://td/org/o/project/p/agent/a-1", &["a-1.agent.td"]);
        let agent =
            TunnelAgent::new(AgentConfig { identity, ..agent_config(&authority, "a-1", 1, target.clone()) }).unwrap();
        let service = with(plan_service(&target), json!({"callers": named}));
        let server = plan_server(pop.agent_addresses()[0]);
        assert_ok(&agent.apply(&whole(json!({"service/c-1": service, "server/p-1": server}))));
        let connector = TunnelConnector::new(GatewayConfig {
            identity: authority.identity(&format!("spiffe://td/user/u-1/connector/{CALLER}"), &[]),
            epoch: 1,
            liveness: quick(),
            flow: Flow::default(),
            limits: CoreLimits::default(),
        })
        .unwrap();
        let way = json!({"connection": CONNECTION, "agent": "a-1", "server": server["server"]});
        let port = json!({"type": "port", "service": "ns/web", "bind": {"address": "127.0.0.1", "port": 0},
            "allow": ["127.0.0.0/8"], "ways": [way]});
        let outcome = connector.apply(&whole(json!({"server/p-1": server, "port/web": port})));
        let at = outcome.entries["port/web"].bound.as_ref().unwrap().parse().unwrap();
        let panel = Self { pop, agent, connector, at, route, service };
        until("the agent", || panel.agent.stats().sessions.iter().all(|s| s.state == "Open"));
        until("the connector", || panel.connector.stats().sessions.iter().all(|s| s.state == "Open"));
        panel
    }

    fn at_the_pop(&self, rules: &Value) {
        self.route_with(json!({"callerAccess": {"lists": [{"clauses": rules}]}}));
    }

    fn route_with(&self, change: Value) {
        assert_ok(&self.pop.apply(&upsert("route/c-1", &with(self.route.clone(), change))));
    }

    fn at_the_agent(&self, access: &Value) {
        let service = with(self.service.clone(), json!({"callerAccess": access}));
        assert_ok(&self.agent.apply(&upsert("service/c-1", &service)));
    }

    fn call(&self) -> TcpStream {
        let mut stream = visit(self.at);
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream
    }

    fn refused(&self) -> (u64, u64) {
        visit_in_vain(self.at);
        (self.pop.stats().connections[0].denied_total, self.agent.stats().connections[0].denied_total)
    }
}

fn soon(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds
}

fn is_cut(stream: &mut TcpStream) {
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_pop_holds_callers_to_all_that_it_knows_of_them() {
    let panel = Panel::new();
    for passes in [
        json!([{"action": "Allow", "principals": ["user:joe"]}]),
        json!([{"action": "Allow", "organizations": ["acme"]}]),
        json!([{"action": "Allow", "cidrs": ["127.0.0.0/8"]}]),
        json!([{"action": "Allow", "countries": ["DE"]}]),
        json!([{"action": "Allow", "through": {"pops": ["fra"]}}]),
        json!([{"action": "Allow", "schedule": {"notAfter": soon(600)}}]),
    ] {
        panel.at_the_pop(&passes);
        panel.call();
    }
    assert_eq!(panel.pop.stats().connections[0].denied_total, 0);
    for (number, denies) in [
        json!([{"action": "Allow", "principals": ["user:ann"]}]),
        json!([{"action": "Deny", "organizations": ["acme"]}, {"action": "Allow"}]),
        json!([{"action": "Allow", "cidrs": ["203.0.113.0/24"]}]),
        json!([{"action": "Allow", "countries": ["FR"]}]),
        json!([{"action": "Allow", "through": {"countries": ["FR"]}}]),
        json!([{"action": "Allow", "schedule": {"notAfter": 1}}]),
        json!([{"action": "Allow", "cidrs": ["nonsense"]}]),
    ]
    .iter()
    .enumerate()
    {
        assert_ok_or_complaint(&panel, denies);
        assert_eq!(panel.refused(), (number as u64 + 1, 0), "{denies}");
    }
}

fn assert_ok_or_complaint(panel: &Panel, rules: &Value) {
    let change = json!({"callerAccess": {"lists": [{"clauses": rules}]}});
    let outcome = panel.pop.apply(&upsert("route/c-1", &with(panel.route.clone(), change)));
    assert!(outcome.entries["route/c-1"].ok, "{outcome:?}");
}

#[test]
fn an_agent_refuses_whom_nothing_that_it_does_not_know_could_let_in() {
    let panel = Panel::new();
    for passes in [
        json!([{"action": "Allow", "principals": ["user:joe"]}]),
        // Where a caller is and what carried it are a POP's word: the POP has judged by them.
        json!([{"action": "Allow", "cidrs": ["203.0.113.0/24"]}]),
        json!([{"action": "Deny", "countries": ["FR"]}, {"action": "Allow", "organizations": ["acme"]}]),
        json!([{"action": "Allow", "through": {"countries": ["FR"]}}]),
    ] {
        panel.at_the_agent(&json!({"lists": [{"clauses": passes}]}));
        panel.call();
    }
    for (number, denies) in [
        json!({"lists": [{"clauses": [{"action": "Allow", "principals": ["user:ann"]}]}]}),
        json!({"lists": [{"clauses": [{"action": "Deny", "organizations": ["acme"]}, {"action": "Allow"}]}]}),
        json!({"lists": [{"clauses": [{"action": "Allow", "schedule": {"notAfter": 1}}]}]}),
        json!({"lists": [{"clauses": [{"action": "Allow", "cidrs": ["203.0.113.0/24"], "principals": ["user:ann"]}]}]}),
        json!({"lists": [{"clauses": [{"action": "Allow", "moon": "full"}]}]}),
        json!({"lists": []}),
    ]
    .iter()
    .enumerate()
    {
        panel.at_the_agent(denies);
        assert_eq!(panel.refused(), (0, number as u64 + 1), "{denies}");
    }
}

#[test]
fn a_change_cuts_a_live_caller_at_each_of_them() {
    let panel = Panel::new();
    let mut stream = panel.call();
    panel.at_the_pop(&json!([{"action": "Allow", "principals": ["user:ann"]}]));
    is_cut(&mut stream);
    panel.at_the_pop(&json!([{"action": "Allow"}]));
    let mut stream = panel.call();
    panel.at_the_agent(&json!({"lists": [{}]}));
    is_cut(&mut stream);
}

#[test]
fn a_schedule_that_ends_cuts_a_live_caller_at_each_of_them() {
    for agent in [false, true] {
        let panel = Panel::new();
        let rules = json!([{"action": "Allow", "schedule": {"notAfter": soon(3)}}]);
        if agent {
            panel.at_the_agent(&json!({"lists": [{"clauses": rules}]}));
        } else {
            panel.at_the_pop(&rules);
        }
        let (mut stream, began) = (panel.call(), Instant::now());
        is_cut(&mut stream);
        assert!(began.elapsed() < Duration::from_secs(6));
        assert_eq!(panel.refused(), if agent { (0, 1) } else { (1, 0) });
    }
}

#[test]
fn a_caller_on_whom_the_control_plane_could_not_decide_passes_by_the_same_rules() {
    let panel = Panel::new();
    let conditional = panel.route["callers"].clone();
    for (net, passes) in [("127.0.0.0/8", true), ("203.0.113.0/24", false)] {
        let access = json!({"lists": [{"clauses": [{"action": "Allow", "cidrs": [net]}]}]});
        panel.route_with(json!({"callers": [], "conditional": conditional, "callerAccess": access}));
        until("the connector", || panel.connector.stats().sessions.iter().any(|s| s.state == "Open"));
        if passes {
            panel.call();
        } else {
            assert_eq!(panel.refused(), (1, 0));
        }
    }
}

#[test]
fn a_policy_that_only_counts_refuses_no_caller_and_counts() {
    let panel = Panel::new();
    panel.route_with(json!({"callerAccess": {"lists": [{"dryRun": true}]}}));
    panel.call();
    until_stats("the count", || panel.pop.stats(), |s| s.connections[0].would_refuse_total == 1);
}
