//! The vectors that Python reads too (`tests/unit/test_vectors.py`): both sides must agree.

mod world;

use std::path::Path;

use drtp_core::access::{Access, AccessSpec, Case};
use drtp_core::{Target, TargetTls, TunnelAgent};
use serde_json::{Value, json};
use world::*;

const TRUE: Value = Value::Bool(true);

fn vectors() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/snapshots.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn access_is_judged_the_same() {
    for case in vectors()["access"].as_array().unwrap() {
        let spec: AccessSpec = serde_json::from_value(case["access"].clone()).unwrap();
        let visitor = case["visitor"].as_str().unwrap().parse().ok();
        assert_eq!(Value::Bool(Access::compile(&spec).0.allows(visitor)), case["allowed"], "{case}");
    }
}

#[test]
fn every_case_is_judged_as_it_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/access.json");
    let vectors: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for vector in vectors {
        let case: Case = serde_json::from_value(vector["case"].clone()).unwrap();
        let verdict = case.decide();
        assert_eq!(Value::Bool(verdict & 1 == 1), vector["allowed"], "{}", vector["name"]);
        assert_eq!(Value::Bool(verdict & 2 == 2), vector["wouldRefuse"], "{}", vector["name"]);
        // What is said of prospects only; whoever is allowed has one.
        let might = vector.get("might").or(vector["allowed"].as_bool().filter(|allowed| *allowed).and(Some(&TRUE)));
        assert!(might.is_none_or(|might| *might == Value::Bool(verdict & 4 == 4)), "{}", vector["name"]);
    }
}

#[test]
fn every_entry_of_a_route_table_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let mut table = vectors()["routeTable"].clone();
    for entry in table.as_object_mut().unwrap().values_mut().filter(|entry| entry["type"] == "route") {
        // Ports and paths of this machine, not of the vectors.
        if entry["bind"]["path"].is_string() {
            entry["bind"] = json!({"path": folder.path().join("endpoint.sock")});
        } else {
            entry["bind"]["port"] = json!(0);
        }
    }
    let pop = pop(&Authority::new());
    assert_ok(&pop.apply(&whole(table)));
    assert_eq!(pop.stats().connections.len(), 3);
}

#[test]
fn every_entry_of_a_tunnel_plan_is_taken() {
    let authority = Authority::new();
    let mut plan = vectors()["tunnelPlan"].clone();
    // Nobody is looked up or dialled.
    plan["service/6f1c"]["enabled"] = json!(false);
    plan.as_object_mut().unwrap().remove("server/51a0");
    let tls = TargetTls { roots_pem: Some(authority.roots_pem()), ..TargetTls::default() };
    let local =
        |host: &str, port, tls| Target { host: host.into(), port, tls, app_protocol: drtp_core::AppProtocol::Http1 };
    let mut config = agent_config(&authority, "a7e4", 1, local("sqlserver.corp.com", 5432, None));
    config.targets = [
        ("joe/postgres".to_owned(), local("sqlserver.corp.com", 5432, None)),
        ("sam/web".to_owned(), local("localhost", 8443, Some(tls))),
    ]
    .into();
    let agent = TunnelAgent::new(config).unwrap();
    assert_ok(&agent.apply(&whole(plan)));
    let server = &vectors()["tunnelPlan"]["server/51a0"];
    assert_ok(&agent.apply(&upsert("server/51a0", server)));
}
