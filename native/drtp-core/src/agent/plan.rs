//! TunnelPlan entries (`drtp.api.snapshots` JSON), and the pin: an agent dials only what its own side declared.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::listener::ListenerSpec;
use super::port::PortSpec;
use crate::access::{Access, AccessSpec, Caller};
use crate::config::{AgentConfig, AppProtocol, Target, TargetTls};
use crate::identity::{DenyList, KeyFingerprint};
use crate::message::Carries;

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Entry {
    Server(ServerSpec),
    Service(Box<ServiceSpec>),
    Listener(Box<ListenerSpec>),
    Port(Box<PortSpec>),
    Deny(DenySpec),
}

/// POPs (uids) whose certificates prove nothing any more: those below zero.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DenySpec {
    #[serde(default)]
    minimum_generation: BTreeMap<String, i64>,
    /// Keys that a POP has left behind.
    #[serde(default)]
    keys: BTreeSet<KeyFingerprint>,
}

impl DenySpec {
    pub(super) fn list(self) -> DenyList {
        DenyList::new(self.minimum_generation, self.keys)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ServerSpec {
    pub(super) server: String,
    /// What the POP's certificate must carry as DNS name.
    pub(super) name: String,
    pub(super) address: String,
    pub(super) port: u16,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) enum ProxyMode {
    #[default]
    None,
    V1,
    V2,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LocalSpec {
    host: String,
    port: u16,
    #[serde(default)]
    app_protocol: AppProtocol,
    #[serde(default)]
    tls: Option<LocalTlsSpec>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LocalTlsSpec {
    #[serde(default)]
    server_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceSpec {
    pub(super) connection: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    protocol: String,
    pub(super) local: LocalSpec,
    #[serde(default)]
    pub(super) proxy_protocol: ProxyMode,
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    /// Nobody may visit in clear: what a POP brings so is no visitor of this service.
    #[serde(default)]
    pub(super) sealed_only: bool,
    /// Whose connectors may open sealed streams, unless `caller_access` says otherwise.
    #[serde(default)]
    callers: Vec<CallerSpec>,
    /// Callers more, on whom the control plane could not decide.
    #[serde(default)]
    conditional: Vec<CallerSpec>,
    /// What policies say of callers; absent where none does. Read by itself: one that cannot be read denies.
    #[serde(default)]
    caller_access: Option<serde_json::Value>,
}

/// Somebody who may call, by its connector's identity, and who that is for the local service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct CallerSpec {
    pub(super) identity: String,
    /// `user` or `app`.
    #[serde(default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    organizations: Vec<String>,
}

impl CallerSpec {
    /// `user:joe`, `app:reports`.
    pub(super) fn label(&self) -> String {
        format!("{}:{}", self.kind, self.name)
    }

    /// As rules know it.
    pub(super) fn caller(&self) -> Caller {
        Caller::new(&self.kind, &self.name, self.organizations.clone())
    }
}

const fn yes() -> bool {
    true
}

impl ServiceSpec {
    /// `<namespace>/<name>`, the key of the pins.
    pub(super) fn service(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Nothing has changed but who may call: no reason to look at the local service again.
    pub(super) fn differs_in_callers_alone(&self, other: &Self) -> bool {
        let Self { callers, conditional, caller_access, .. } = other.clone();
        Self { callers, conditional, caller_access, ..self.clone() } == *other
    }

    /// A caller of this service.
    pub(super) fn caller(&self, identity: &str) -> Option<&CallerSpec> {
        self.callers.iter().chain(&self.conditional).find(|caller| caller.identity == identity)
    }

    /// What policies say of callers; one that cannot be read lets nobody pass.
    pub(super) fn caller_access(&self) -> Option<Access> {
        let spec = self.caller_access.as_ref().map(AccessSpec::deserialize)?;
        Some(Access::compile(&spec.unwrap_or_default()).0)
    }

    /// What its visitors bring.
    pub(super) fn carries(&self) -> Carries {
        if self.protocol == "UDP" { Carries::Datagrams } else { Carries::Bytes }
    }

    /// What to offer inside TLS; nothing for a service that is no HTTP, since a server may refuse what it does not know.
    pub(super) fn alpn(&self, target: &Target) -> Option<&'static [u8]> {
        let http = matches!(self.protocol.as_str(), "HTTP" | "HTTPS");
        http.then_some(match target.app_protocol {
            AppProtocol::Http1 => b"http/1.1".as_slice(),
            AppProtocol::H2c => b"h2".as_slice(),
        })
    }

    /// The target to dial: the pinned one, or the plan's where the agent's owner allows that.
    pub(super) fn target(&self, config: &AgentConfig) -> Result<Target, String> {
        let planned = &self.local;
        let pinned = config.targets.get(&self.service());
        if let Some(pin) = pinned {
            let same = pin.host.eq_ignore_ascii_case(&planned.host)
                && pin.port == planned.port
                && pin.tls.is_some() == planned.tls.is_some();
            if same || !config.allow_target {
                return if same { Ok(pin.clone()) } else { Err(self.differs(pin)) };
            }
        } else if !config.allow_target {
            return Err(format!("service {} is not declared on this agent's side", self.service()));
        }
        let trust = pinned.and_then(|pin| pin.tls.clone()).unwrap_or_default();
        let tls = planned.tls.as_ref().map(|tls| TargetTls { server_name: tls.server_name.clone(), ..trust });
        Ok(Target { host: planned.host.clone(), port: planned.port, tls, app_protocol: planned.app_protocol })
    }

    fn differs(&self, pin: &Target) -> String {
        let (host, port) = (&self.local.host, self.local.port);
        format!("the plan names {host}:{port}, but this agent is pinned to {}:{}", pin.host, pin.port)
    }
}
