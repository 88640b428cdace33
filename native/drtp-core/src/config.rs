//! What a host gives the core when it starts: who it is, where it listens, what it may reach, and the caps.
//!
//! Every type reads from JSON with camelCase names, so that a binding passes one document.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A certificate, its key, and the private roots that peers must chain to. The key never shows in `Debug`.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// The leaf first, then intermediates, PEM.
    pub chain_pem: String,
    /// The private key, PEM (PKCS#8, SEC1 or PKCS#1). A secret.
    pub key_pem: String,
    /// Trusted private roots, PEM; several during a rotation.
    pub roots_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("key_pem", &"***").finish_non_exhaustive()
    }
}

/// A certificate that the public trusts, for a POP's WebSocket. The key never shows in `Debug`.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebIdentity {
    /// The leaf first, then intermediates, PEM.
    pub chain_pem: String,
    /// The private key, PEM. A secret.
    pub key_pem: String,
}

impl fmt::Debug for WebIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebIdentity").field("key_pem", &"***").finish_non_exhaustive()
    }
}

/// How soon a silent peer counts as dead, milliseconds.
///
/// The quick pair holds while visitors are on the session, the idle pair otherwise. A host that wants quick failover
/// at all times sets both pairs to the quick values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Liveness {
    /// Between pings while streams are open.
    pub ping_ms: u32,
    /// A ping unanswered, with nothing else heard, for this long: the lane is dead.
    pub dead_ms: u32,
    /// Between pings while idle, ±20 % jitter.
    pub idle_ping_ms: u32,
    /// As `dead_ms`, while idle.
    pub idle_dead_ms: u32,
}

impl Default for Liveness {
    /// Dead in 2.5 s under traffic; at most 2 s + 2.5 s when idle, well under the 15 s that users forgive.
    fn default() -> Self {
        Self { ping_ms: 800, dead_ms: 2_500, idle_ping_ms: 2_000, idle_dead_ms: 2_500 }
    }
}

/// Flow control, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Flow {
    /// Credit of a fresh stream, each direction.
    pub window_initial_bytes: u32,
    /// The most that tuning may give one stream.
    pub window_max_bytes: u32,
    /// All credit beyond the initial windows of one process; and the same again for all bytes that wait for slow sockets.
    pub budget_bytes: u64,
    /// A stream past this many bytes moves to a bulk lane, when the session has one.
    pub bulk_after_bytes: u64,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            window_initial_bytes: 256 * 1024,
            window_max_bytes: 16 * 1024 * 1024,
            budget_bytes: 512 * 1024 * 1024,
            bulk_after_bytes: 1024 * 1024,
        }
    }
}

/// Caps and deadlines on what strangers and peers may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CoreLimits {
    /// TLS handshake of an agent or a gateway.
    pub handshake_ms: u32,
    /// First frame (HELLO) after the handshake.
    pub first_frame_ms: u32,
    /// PROXY header after accept or handshake.
    pub proxy_header_ms: u32,
    /// Connections that have not yet shown who they are, in total. Half is kept for addresses from which a peer of ours
    /// has come before.
    pub pre_auth_max: u32,
    /// The same, for one address (IPv6: one /64) that dials as an agent. Endpoints, where gateways come from one
    /// address, may fill three quarters of what is theirs.
    pub pre_auth_per_address_max: u32,
    /// Live sessions.
    pub sessions_max: u32,
    /// Streams of one session.
    pub streams_max: u32,
    /// Streams of one session whose local service has not answered yet.
    pub streams_half_open_max: u32,
    /// New visitors of one connection each second; 0: no limit. An entry's own limit goes before.
    pub new_streams_per_s: u32,
    /// Resolving and connecting to the local service, per visitor.
    pub dial_ms: u32,
    /// A local service without visitors is tried this often.
    pub probe_every_ms: u32,
    /// An agent on a lesser way looks for a better one after this; the pause doubles, up to twenty times of it.
    pub better_way_ms: u32,
}

impl CoreLimits {
    /// From a lane's first byte to the end of its first frame.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_millis(u64::from(self.handshake_ms) + u64::from(self.first_frame_ms))
    }
}

impl Default for CoreLimits {
    fn default() -> Self {
        Self {
            handshake_ms: 5_000,
            first_frame_ms: 2_000,
            proxy_header_ms: 3_000,
            pre_auth_max: 2_048,
            pre_auth_per_address_max: 256,
            sessions_max: 20_000,
            streams_max: 65_536,
            streams_half_open_max: 1_024,
            new_streams_per_s: 0,
            dial_ms: 5_000,
            probe_every_ms: 15_000,
            better_way_ms: 30_000,
        }
    }
}

/// What a tunnel server (POP) starts with.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerConfig {
    /// The POP's own identity: `…/pop/<uid>`.
    pub identity: Identity,
    /// Where agents dial in. Port 0 takes a free one; see [`crate::TunnelServer::agent_addresses`].
    pub listeners: Vec<SocketAddr>,
    /// Agents may also come by QUIC: UDP on the numbers of `listeners`.
    #[serde(default)]
    pub quic: bool,
    /// What the WebSocket at the agents' door shows; the POP's own certificate when absent.
    #[serde(default)]
    pub web: Option<WebIdentity>,
    /// A Unix socket at which the driver answers each connection with one byte, and closes it: who waits in vain knows
    /// that it stands still.
    #[serde(default)]
    pub pulse: Option<PathBuf>,
    /// A database in MaxMind's format that says in which country a visitor's address is; unknown when absent.
    #[serde(default)]
    pub country_database: Option<std::path::PathBuf>,
    /// Liveness of agents' lanes.
    #[serde(default)]
    pub liveness: Liveness,
    /// Flow control.
    #[serde(default)]
    pub flow: Flow,
    /// Caps.
    #[serde(default)]
    pub limits: CoreLimits,
}

/// What the local service speaks inside HTTP; it chooses the ALPN when the agent originates TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppProtocol {
    /// HTTP/1.1, or anything that is not HTTP.
    #[default]
    #[serde(rename = "http1")]
    Http1,
    /// HTTP/2.
    #[serde(rename = "h2c")]
    H2c,
}

/// Trust in an `https` target, decided on the agent's own side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetTls {
    /// The name that its certificate must carry; the host when absent.
    pub server_name: Option<String>,
    /// Trusted roots, PEM; the system's when absent.
    pub roots_pem: Option<String>,
    /// Exactly this leaf (base64 of DER) is trusted, and no other: for self-made certificates.
    pub pinned_leaf_der: Option<String>,
}

/// A local target, pinned on the agent's own side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Host name or IP literal.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Present: the agent originates TLS to it.
    #[serde(default)]
    pub tls: Option<TargetTls>,
    /// What it speaks inside HTTP.
    #[serde(default)]
    pub app_protocol: AppProtocol,
}

/// What an agent starts with.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentConfig {
    /// The agent's own identity: `…/agent/<uid>`.
    pub identity: Identity,
    /// max(persisted + 1, unix ms), persisted by the host before it starts the core.
    pub epoch: u64,
    /// Service `<namespace>/<name>` -> the target it is pinned to; a delta may bring others.
    #[serde(default)]
    pub targets: BTreeMap<String, Target>,
    /// The control plane may name the target itself (`--allow-target`).
    #[serde(default)]
    pub allow_target: bool,
    /// Liveness of lanes.
    #[serde(default)]
    pub liveness: Liveness,
    /// Flow control.
    #[serde(default)]
    pub flow: Flow,
    /// Caps.
    #[serde(default)]
    pub limits: CoreLimits,
    /// Lanes per session, 1 to 4. More than one helps where packets are lost.
    #[serde(default = "one")]
    pub lanes: u8,
}

/// What a gateway's core, or a connector's, starts with: an agent's, without anything to serve.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayConfig {
    /// Its own identity: `…/gateway/<uid>`, or `…/connector/<uid>`.
    pub identity: Identity,
    /// As an agent's.
    pub epoch: u64,
    /// Liveness of lanes.
    #[serde(default)]
    pub liveness: Liveness,
    /// Flow control.
    #[serde(default)]
    pub flow: Flow,
    /// Caps.
    #[serde(default)]
    pub limits: CoreLimits,
}

impl From<GatewayConfig> for AgentConfig {
    fn from(config: GatewayConfig) -> Self {
        Self {
            identity: config.identity,
            epoch: config.epoch,
            targets: BTreeMap::new(),
            allow_target: false,
            liveness: config.liveness,
            flow: config.flow,
            limits: config.limits,
            lanes: 1,
        }
    }
}

const fn one() -> u8 {
    1
}
