//! Snapshots, on a real tunnel server and a real agent: every entry gets an outcome, an unreadable one fails alone,
//! and the driver goes on. Addresses are replaced by loopback: nothing is bound or dialled elsewhere.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use drtp_core::{
    AgentConfig, ApplyOutcome, CoreLimits, Flow, Identity, Liveness, ServerConfig, TunnelAgent, TunnelServer,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use serde_json::{Value, json};

/// Sockets that one input may ask for.
const ENTRIES_MAX: usize = 8;

struct World {
    pop: TunnelServer,
    agent: TunnelAgent,
}

static WORLD: OnceLock<World> = OnceLock::new();

/// The first byte's lowest bit chooses the reader; the rest is a delta.
pub fn snapshots(input: &[u8]) {
    let Some((reader, text)) = input.split_first() else { return };
    let world = WORLD.get_or_init(World::new);
    let Some(delta) = harmless(text) else { return };
    let outcome = if reader & 1 == 0 { world.pop.apply(&delta) } else { world.agent.apply(&delta) };
    judge(&delta, &outcome);
    let alive = if reader & 1 == 0 { world.pop.apply(NOTHING) } else { world.agent.apply(NOTHING) };
    assert_eq!(alive.error, None, "the driver is gone");
}

/// Leaves nothing behind for the next input.
const NOTHING: &[u8] = br#"{"whole":true}"#;

fn judge(delta: &[u8], outcome: &ApplyOutcome) {
    if outcome.error.is_some() {
        assert!(outcome.entries.is_empty(), "a delta that is no delta did something");
        return;
    }
    let delta: Value = serde_json::from_slice(delta).expect("it was taken");
    let asked: Vec<&String> = delta["upsert"].as_object().into_iter().flat_map(|upsert| upsert.keys()).collect();
    assert_eq!(outcome.entries.keys().collect::<Vec<_>>(), asked, "an entry without an outcome");
    for (key, entry) in &outcome.entries {
        assert!(entry.ok || entry.error.is_some(), "an entry failed without a word");
        let known = delta["upsert"][key]["type"].as_str();
        let kinds = ["route", "trust", "deny", "server", "service"];
        assert!(!entry.ok || known.is_some_and(|kind| kinds.contains(&kind)), "an entry of no known kind was taken");
    }
}

/// The same delta with addresses of loopback; `None` for text that only a laxer reader than ours may understand.
fn harmless(text: &[u8]) -> Option<Vec<u8>> {
    let Ok(mut delta) = serde_json::from_slice::<Value>(text) else {
        return serde_json::from_slice::<serde::de::IgnoredAny>(text).is_err().then(|| text.to_vec());
    };
    if let Some(upsert) = delta.get_mut("upsert").and_then(Value::as_object_mut) {
        if upsert.len() > ENTRIES_MAX {
            return None;
        }
        for entry in upsert.values_mut().filter_map(Value::as_object_mut) {
            if entry.get("bind").is_some_and(Value::is_object) {
                entry.insert("bind".into(), json!({"address": "127.0.0.1", "port": 0}));
            }
            if entry.get("address").is_some_and(Value::is_string) {
                entry.insert("address".into(), json!("127.0.0.1"));
            }
        }
    } else if delta.get("upsert").is_some() || !delta.is_object() {
        // Such as a list in the place of an object: serde reads structs from lists too, with whatever they hold.
        return None;
    }
    serde_json::to_vec(&delta).ok()
}

impl World {
    fn new() -> Self {
        let authority = authority();
        let pop = ServerConfig {
            quic: false,
            web: None,
            pulse: None,
            country_database: None,
            identity: identity(&authority, "spiffe://td/pop/p-1"),
            listeners: Vec::new(),
            liveness: Liveness::default(),
            flow: Flow::default(),
            limits: CoreLimits::default(),
        };
        let agent = AgentConfig {
            identity: identity(&authority, "spiffe://td/org/o/project/p/agent/a-1"),
            epoch: 1,
            targets: BTreeMap::new(),
            allow_target: false,
            liveness: Liveness::default(),
            flow: Flow::default(),
            limits: CoreLimits::default(),
            lanes: 1,
        };
        Self {
            pop: TunnelServer::new(pop).expect("a tunnel server starts"),
            agent: TunnelAgent::new(agent).expect("an agent starts"),
        }
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root")
}

fn identity(authority: &CertifiedIssuer<'static, KeyPair>, uri: &str) -> Identity {
    let mut params = CertificateParams::new(vec!["p-1.tunnel.test".to_owned()]).expect("parameters");
    params.subject_alt_names.push(SanType::URI(uri.try_into().expect("an ASCII URI")));
    let key = KeyPair::generate().expect("a key");
    let leaf = params.signed_by(&key, authority).expect("a leaf");
    Identity { chain_pem: leaf.pem(), key_pem: key.serialize_pem(), roots_pem: authority.pem() }
}
