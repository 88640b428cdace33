//! RouteTable entries as the host hands them over: `drtp.api.snapshots` JSON, plus where to bind.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;

use crate::access::{AccessSpec, PopPlace};
use crate::agent::Ways;
use crate::config::Target;
use crate::driver::brake::ByteLimits;
use crate::identity::KeyFingerprint;
use crate::message::Carries;

/// A delta before its entries are looked at, so that a bad one fails alone.
#[derive(Debug, Deserialize)]
pub(crate) struct Delta {
    /// The upserts are everything there is.
    #[serde(default)]
    pub(crate) whole: bool,
    #[serde(default)]
    pub(crate) upsert: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    pub(crate) remove: Vec<String>,
    /// An agent's own pins, where they are others now. They hold for the upserts beside them, and from then on.
    #[serde(default)]
    pub(crate) targets: Option<BTreeMap<String, Target>>,
    /// How an agent may reach each POP, by server uid, where that is otherwise now. Live sessions stay as they are.
    #[serde(default)]
    pub(crate) ways: Option<BTreeMap<String, Ways>>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Entry {
    Route(Box<RouteSpec>),
    Trust {
        #[serde(default)]
        gateways: Vec<String>,
    },
    Deny {
        #[serde(default, rename = "minimumGeneration")]
        minimum_generation: BTreeMap<String, i64>,
        /// Keys that identities have left behind.
        #[serde(default)]
        keys: BTreeSet<KeyFingerprint>,
        /// Names of users who are let in nowhere.
        #[serde(default)]
        people: BTreeSet<String>,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    #[default]
    Mtls,
    Unix,
    Plain,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct LimitsSpec {
    pub(super) streams_max: u32,
    pub(super) streams_half_open_max: u32,
    pub(super) new_streams_per_s: u32,
    /// Of all its visitors together, both ways.
    pub(super) bytes_per_s: u64,
}

/// What every connection with a share of this name draws on; 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ShareSpec {
    pub(super) name: String,
    pub(super) bytes_per_s: u64,
    pub(super) streams_max: u32,
    pub(super) new_streams_per_s: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RouteSpec {
    pub(super) connection: String,
    #[serde(default)]
    pub(super) service: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) agents: Vec<String>,
    /// Whose connectors may open sealed streams to it, unless `caller_access` says otherwise.
    #[serde(default)]
    pub(super) callers: Vec<CallerSpec>,
    /// Callers more, on whom the control plane could not decide. Apart from the others, so that a POP that knows no
    /// `caller_access` lets none of them in.
    #[serde(default)]
    pub(super) conditional: Vec<CallerSpec>,
    /// What policies say of callers; absent where none does.
    #[serde(default)]
    pub(super) caller_access: Option<AccessSpec>,
    #[serde(default)]
    pub(super) protocol: String,
    #[serde(default)]
    pub(super) access: AccessSpec,
    /// Of the organisations that `access` names, for visitors who have signed in at a gateway.
    #[serde(default)]
    pub(super) memberships: Vec<MembershipSpec>,
    #[serde(default)]
    pub(super) mode: Mode,
    #[serde(default)]
    pub(super) plain_from: Vec<String>,
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    #[serde(default)]
    pub(super) limits: LimitsSpec,
    /// What it shares with other connections here: its project's limits, and its organisation's.
    #[serde(default)]
    pub(super) shares: Vec<ShareSpec>,
    /// Where this POP is, for rules that name carriers.
    #[serde(default)]
    pub(super) place: Option<PopPlace>,
    #[serde(default)]
    pub(super) bind: BindSpec,
}

/// A connector that the control plane lets through, by its identity, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct CallerSpec {
    pub(super) identity: String,
    /// `user` or `app`.
    #[serde(default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) organizations: Vec<String>,
}

/// Who is of an organisation: users by name, and groups of a sign-in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MembershipSpec {
    pub(super) organization: String,
    #[serde(default)]
    pub(super) users: Vec<String>,
    #[serde(default)]
    pub(super) groups: Vec<String>,
}

impl RouteSpec {
    /// What its visitors bring.
    pub(super) fn carries(&self) -> Carries {
        if self.protocol == "UDP" { Carries::Datagrams } else { Carries::Bytes }
    }

    /// The buckets that its visitors' bytes draw on.
    pub(super) fn byte_limits(&self) -> ByteLimits {
        let limited = self.shares.iter().filter(|share| share.bytes_per_s > 0);
        let shares = limited.map(|share| (share.name.clone(), share.bytes_per_s)).collect();
        ByteLimits { own: self.limits.bytes_per_s, shares }
    }
}

const fn yes() -> bool {
    true
}

/// `{"address": "127.0.0.1", "port": 31001}`, `{"path": "/run/…"}`, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct BindSpec {
    #[serde(default)]
    address: Option<IpAddr>,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    path: Option<PathBuf>,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Ip(SocketAddr),
    Unix(PathBuf),
}

impl BindSpec {
    /// A connector's port: a path, or an address.
    pub(crate) fn local(&self) -> Option<Place> {
        match (self.address, &self.path) {
            (Some(address), None) => Some(Place::Ip(SocketAddr::new(address, self.port))),
            (None, Some(path)) => Some(Place::Unix(path.clone())),
            _ => None,
        }
    }

    /// A `unix` endpoint has a path, and an address beside it for gateways elsewhere; the others have an address.
    pub(super) fn places(&self, mode: Mode) -> Result<Vec<Place>, String> {
        let address = self.address.map(|address| Place::Ip(SocketAddr::new(address, self.port)));
        let path = self.path.clone().map(Place::Unix);
        match (mode, &address, &path) {
            (Mode::Unix, _, Some(_)) | (Mode::Mtls | Mode::Plain, Some(_), None) => {
                Ok(address.into_iter().chain(path).collect())
            }
            _ => Err("bind does not fit the endpoint's mode".to_owned()),
        }
    }
}
