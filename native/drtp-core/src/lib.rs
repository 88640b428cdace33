//! The DRTP tunnel core: a sans-I/O protocol (`drtp/1`) and the driver that moves the bytes.
//!
//! Hosts use [`TunnelServer`] (a POP), [`TunnelAgent`], [`TunnelGateway`] and [`TunnelConnector`]. Each runs one driver thread of their own; every method may be
//! called from any thread, and none waits for a peer.

pub mod access;
mod agent;
mod config;
mod driver;
mod error;
mod event;
pub mod frame;
pub mod framed;
mod handle;
mod identity;
mod introduction;
pub mod message;
pub mod proxy;
mod quic;
mod report;
mod server;
pub mod session;
mod stdio;
pub mod through;
mod tls;

pub use config::{
    AgentConfig, AppProtocol, CoreLimits, Flow, GatewayConfig, Identity, Liveness, ServerConfig, Target, TargetTls,
    WebIdentity,
};
pub use error::CoreError;
pub use event::Event;
pub use handle::{TunnelAgent, TunnelConnector, TunnelGateway, TunnelServer};
pub use report::{ApplyOutcome, ConnectionStats, EntryOutcome, FlowRecord, LaneStats, LocalStats, SessionStats, Stats};
pub use stdio::carry_stdio;
