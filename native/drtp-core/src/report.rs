//! What the core answers: the outcome of an apply, and statistics. All serialise to camelCase JSON.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::Serialize;

use crate::handle::Flows;

/// How each entry of a delta was taken. One bad entry never stops another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyOutcome {
    /// Entry key -> how it went; removed keys are not listed.
    pub entries: BTreeMap<String, EntryOutcome>,
    /// The delta itself could not be read; nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How one entry was taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryOutcome {
    /// In force. An entry may be in force and still carry an `error`, when part of it denies (an unreadable access list).
    pub ok: bool,
    /// What is wrong, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// POP: the endpoint's `address:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    /// POP: its Unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A lane as measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneStats {
    /// Smoothed round trip.
    pub round_trip_ms: Option<f64>,
    /// The shortest of late: what the path takes without queues.
    pub round_trip_floor_ms: Option<f64>,
    /// Mean deviation between round trips.
    pub jitter_ms: f64,
    /// Share of pings that came back late or never, 0 to 1, decaying.
    pub loss: f64,
    /// Datagrams dropped because the lane was slower than their flow.
    pub datagrams_dropped: u64,
    /// Bytes on the wire in, TLS included.
    pub bytes_in: u64,
    /// Bytes on the wire out, TLS included.
    pub bytes_out: u64,
}

/// A session with one peer.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStats {
    /// Agent uid at the POP, server uid at the agent.
    pub peer: String,
    /// Its address.
    pub address: String,
    /// `Connecting`, `Greeting`, `Open`, `Draining`, `Closed`.
    pub state: String,
    /// The agent's epoch.
    pub epoch: u64,
    /// Live since.
    pub since_unix_ms: u64,
    /// Open streams.
    pub streams: u64,
    /// Lanes.
    pub lanes: Vec<LaneStats>,
    /// Agent side: the way to it, as in [`crate::Event::TunnelUp`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub way: String,
    /// Its POP carries sealed datagrams; agent side.
    pub carries_datagrams: bool,
    /// What went wrong last, agent side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// One connection (a service at one agent), totals since start.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionStats {
    /// Connection uid.
    pub connection: String,
    /// Service `<namespace>/<name>`.
    pub service: String,
    /// Open now.
    pub streams: u64,
    /// Opened since start.
    pub streams_total: u64,
    /// Visitors refused or reset by access, caps, or no agent.
    pub denied_total: u64,
    /// Let in, though a policy that only counts would have refused them.
    pub would_refuse_total: u64,
    /// POP: how long its streams have waited because of a limit in bytes per second, all together.
    pub held_ms_total: u64,
    /// POP: datagrams dropped because of such a limit.
    pub datagrams_over_limit_total: u64,
    /// Visitor to service, bytes.
    pub bytes_in: u64,
    /// Service to visitor, bytes.
    pub bytes_out: u64,
    /// Agent, connector: datagrams of UDP, visitor to service.
    pub datagrams_in: u64,
    /// The same, service to visitor.
    pub datagrams_out: u64,
    /// The same, dropped at this end.
    pub datagrams_dropped: u64,
    /// POP: endpoint bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
    /// POP: it accepts visitors now. Agent: the plan enables it.
    pub live: bool,
    /// Agent: its local service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalStats>,
}

/// The local service as the agent sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalStats {
    /// `Unknown`, `Reachable` or `Unreachable`.
    pub state: String,
    /// `host:port` as pinned.
    pub target: String,
    /// Last successful connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_ms: Option<f64>,
    /// Mean deviation between connect times.
    pub jitter_ms: f64,
    /// Failed connects since start.
    pub failures_total: u64,
    /// Last failure, for people.
    pub message: String,
}

/// One finished visitor, for a live screen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRecord {
    /// When it ended.
    pub ended_unix_ms: u64,
    /// Visitor `address:port`, "" if unknown.
    pub visitor: String,
    /// Agent: who called by `connect`, as it has proven: `user:joe`, `app:reports`; "" for a gateway's visitor.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub caller: String,
    /// Service `<namespace>/<name>`.
    pub service: String,
    /// Connection uid.
    pub connection: String,
    /// The gateway's stream id (UUID text, also the trace id), "" if none came.
    pub stream_id: String,
    /// Visitor to service, bytes.
    pub bytes_in: u64,
    /// Service to visitor, bytes.
    pub bytes_out: u64,
    /// UDP, visitor to service.
    pub datagrams_in: u64,
    /// UDP, service to visitor.
    pub datagrams_out: u64,
    /// UDP, dropped at this end.
    pub datagrams_dropped: u64,
    /// Gateway: key of the listener's entry.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub listener: String,
    /// From accept or OPEN to the end.
    pub duration_ms: u64,
    /// `finished`, or a reset code in words.
    pub outcome: String,
}

/// Flows kept for a live screen.
const RECENT_MAX: usize = 256;

/// Finished flows; who reads them shares them.
#[derive(Default)]
pub(crate) struct Recent(VecDeque<Arc<FlowRecord>>);

impl Recent {
    pub(crate) fn push(&mut self, record: FlowRecord) {
        if self.0.len() >= RECENT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Arc::new(record));
    }

    /// Newest last; none for who wants none.
    pub(crate) fn list(&self, flows: Flows) -> Vec<Arc<FlowRecord>> {
        if flows == Flows::With { self.0.iter().cloned().collect() } else { Vec::new() }
    }
}

/// Everything the core counts.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Grows while the driver lives: a watchdog compares two readings.
    pub ticks: u64,
    /// The driver did not answer in time; the rest is the last answer.
    pub stale: bool,
    /// Sessions.
    pub sessions: Vec<SessionStats>,
    /// Connections.
    pub connections: Vec<ConnectionStats>,
    /// Newest last; the oldest are dropped.
    pub recent: Vec<Arc<FlowRecord>>,
    /// Open streams.
    pub streams: u64,
    /// Connections that have not yet shown who they are.
    pub pre_auth: u64,
    /// Dials to local services under way.
    pub dials: u64,
    /// Bytes parked for slow receivers.
    pub parked_bytes: u64,
    /// Events lost to a host that did not read them.
    pub events_dropped: u64,
    /// Times that accepting paused because descriptors ran out.
    pub accept_paused_total: u64,
    /// Draining, or drained.
    pub draining: bool,
}
