//! A caller's side, a POP or more, and a serving agent: everything that `connect` needs.

use std::net::{SocketAddr, TcpStream};

use drtp_core::{CoreLimits, Flow, GatewayConfig, TunnelAgent, TunnelConnector, TunnelServer};
use serde_json::{Value, json};

use super::{
    Authority, CONNECTION, agent_config, assert_ok, free_port, numbered_pop, plan_numbered, plan_service, quick, route,
    target, until, visit, whole, with,
};

pub const CALLER: &str = "x-1";

pub fn agent_of(authority: &Authority, uid: &str, target: &drtp_core::Target) -> TunnelAgent {
    let identity =
        authority.identity(&format!("spiffe://td/org/o/project/p/agent/{uid}"), &[&format!("{uid}.agent.td")]);
    TunnelAgent::new(drtp_core::AgentConfig { identity, ..agent_config(authority, uid, 1, target.clone()) }).unwrap()
}

pub fn connector_of(authority: &Authority, uid: &str) -> TunnelConnector {
    TunnelConnector::new(GatewayConfig {
        identity: authority.identity(&format!("spiffe://td/user/u-1/connector/{uid}"), &[]),
        epoch: 1,
        liveness: quick(),
        flow: Flow::default(),
        limits: CoreLimits::default(),
    })
    .unwrap()
}

pub fn callers(uids: &[&str]) -> Value {
    let one = |uid: &&str| json!({"identity": uid, "kind": "user", "name": "joe"});
    Value::Array(uids.iter().map(one).collect())
}

/// No visitor from a gateway may pass: there is no list at all.
pub fn unexposed_route(callers: &Value) -> Value {
    with(route(free_port("127.0.0.1")), json!({"access": {"lists": []}, "mode": "mtls", "callers": callers}))
}

pub fn way(agent: &str, server: &str) -> Value {
    json!({"connection": CONNECTION, "agent": agent, "server": server})
}

pub fn port(ways: &[Value]) -> Value {
    json!({
        "type": "port", "service": "ns/web", "bind": {"address": "127.0.0.1", "port": 0},
        "allow": ["127.0.0.0/8"], "ways": ways,
    })
}

pub struct Panel {
    pub authority: Authority,
    pub pops: Vec<TunnelServer>,
    pub agent: TunnelAgent,
    pub connector: TunnelConnector,
    pub at: SocketAddr,
    pub service: Value,
    pub routes: Vec<Value>,
}

impl Panel {
    pub fn new(service: SocketAddr) -> Self {
        Self::build(service, 1, json!({}))
    }

    pub fn build(service: SocketAddr, pops: usize, service_change: Value) -> Self {
        Self::of(service, pops, json!({}), service_change, json!({}))
    }

    /// `kind`: what route, service and port have in common; `port_change`: of the connector's port.
    pub fn of(service: SocketAddr, pops: usize, kind: Value, service_change: Value, port_change: Value) -> Self {
        let authority = Authority::new();
        let route = || with(unexposed_route(&callers(&[CALLER])), kind.clone());
        let routes: Vec<Value> = (0..pops).map(|_| route()).collect();
        let pops: Vec<TunnelServer> = routes
            .iter()
            .enumerate()
            .map(|(at, route)| {
                let pop = numbered_pop(&authority, at + 1);
                assert_ok(&pop.apply(&whole(json!({"route/c-1": route}))));
                pop
            })
            .collect();
        let target = target(service);
        let agent = agent_of(&authority, "a-1", &target);
        let connector = connector_of(&authority, CALLER);
        let service = with(with(plan_service(&target), json!({"callers": callers(&[CALLER])})), kind.clone());
        let service = with(service, service_change);
        let (mut plan, mut table) = (json!({"service/c-1": service}), json!({}));
        let mut ways = Vec::new();
        for (at, pop) in pops.iter().enumerate() {
            let name = format!("p-{}", at + 1);
            let server = plan_numbered(at + 1, pop);
            plan[format!("server/{name}")] = server.clone();
            table[format!("server/{name}")] = server;
            ways.push(way("a-1", &name));
        }
        table["port/web"] = with(with(port(&ways), kind), port_change);
        assert_ok(&agent.apply(&whole(plan)));
        let outcome = connector.apply(&whole(table));
        assert_ok(&outcome);
        let at = outcome.entries["port/web"].bound.as_ref().unwrap().parse().unwrap();
        let panel = Self { authority, pops, agent, connector, at, service, routes };
        until("the agent", || panel.agent.stats().sessions.iter().all(|s| s.state == "Open"));
        until("the connector", || panel.connector.stats().sessions.iter().all(|s| s.state == "Open"));
        panel
    }

    pub fn call(&self) -> TcpStream {
        visit(self.at)
    }

    pub fn outcome(&self) -> String {
        let mut outcome = None;
        until("the end of a connection", || {
            outcome = self.connector.stats().recent.last().map(|record| record.outcome.clone());
            outcome.is_some()
        });
        outcome.unwrap()
    }
}
