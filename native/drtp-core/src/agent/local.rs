//! The local service: dialled per visitor at its pinned target, watched while idle, told who the visitor is if it asks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UdpSocket};
use rustls::ClientConfig;

use super::Agent;
use super::dial::Purpose;
use super::plan::{CallerSpec, ProxyMode, ServiceSpec};
use crate::access::{Access, Asking};
use crate::config::Target;
use crate::driver::flow::Flow;
use crate::driver::relay::{Outcome, Phase};
use crate::driver::socket::Socket;
use crate::driver::table::{unix_ms, unix_s};
use crate::event::Event;
use crate::identity::Role;
use crate::message::{Carries, ResetCode, uuid_text};
use crate::proxy::{Transport, write_v1, write_v2_of};
use crate::report::{FlowRecord, LocalStats};
use crate::tls::{Tls, local_client};

/// A UDP service that refused a datagram counts as away for this long.
const REFUSAL_HOLDS: Duration = Duration::from_secs(10);

pub(super) struct Service {
    pub(super) spec: ServiceSpec,
    /// What policies say of callers; `None` where none does.
    caller_access: Option<Access>,
    /// When a schedule may next change that, Unix seconds.
    access_edge: Option<i64>,
    /// What may be dialled, or why nothing may.
    pub(super) target: Result<Target, String>,
    tls: Option<Arc<ClientConfig>>,
    pub(super) local: LocalStats,
    pub(super) visitors: BTreeSet<usize>,
    pub(super) probe_at: Instant,
    probing: bool,
    /// UDP: when a datagram came back as refused.
    refused_at: Option<Instant>,
    pub(super) streams_total: u64,
    pub(super) denied_total: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) datagrams_in: u64,
    pub(super) datagrams_out: u64,
    pub(super) datagrams_dropped: u64,
}

impl Service {
    pub(super) fn new(spec: ServiceSpec, target: Result<Target, String>, now: Instant) -> Self {
        let caller_access = spec.caller_access();
        let mut service = Self {
            access_edge: caller_access.as_ref().and_then(|access| access.edge(unix_s())),
            caller_access,
            spec,
            target: Err(String::new()),
            tls: None,
            local: LocalStats { state: "Unknown".into(), ..LocalStats::default() },
            visitors: BTreeSet::new(),
            probe_at: now,
            probing: false,
            refused_at: None,
            streams_total: 0,
            denied_total: 0,
            bytes_in: 0,
            bytes_out: 0,
            datagrams_in: 0,
            datagrams_out: 0,
            datagrams_dropped: 0,
        };
        service.aim(target);
        service
    }

    /// Another entry for the same service.
    pub(super) fn take(&mut self, spec: ServiceSpec) {
        self.spec = spec;
        self.caller_access = self.spec.caller_access();
        self.access_edge = self.next_edge(unix_s());
    }

    fn next_edge(&self, now: i64) -> Option<i64> {
        self.caller_access.as_ref().and_then(|access| access.edge(now))
    }

    /// Whether a schedule has begun or ended since this was last asked.
    pub(super) fn turned(&mut self) -> bool {
        let now = unix_s();
        let turned = self.access_edge.is_some_and(|edge| edge <= now);
        if turned {
            self.access_edge = self.next_edge(now);
        }
        turned
    }

    /// The caller behind a connector, if the plan names it and policies do not keep it out, as far as is known here: who
    /// it is, and the hour. Where it is and what carried it are a POP's word, which counts for nothing here; the POP
    /// has held these against the same policies.
    pub(super) fn admitted(&self, connector: &str) -> Option<&CallerSpec> {
        let spec = self.spec.caller(connector)?;
        let Some(access) = &self.caller_access else { return Some(spec) };
        let caller = spec.caller();
        access.might(&Asking { now: unix_s(), caller: Some(&caller), ..Asking::default() }).then_some(spec)
    }

    /// Sets the target, and what trusts it.
    pub(super) fn aim(&mut self, target: Result<Target, String>) {
        self.tls = None;
        self.target = target.and_then(|target| {
            if let Some(trust) = &target.tls {
                let client = local_client(trust, self.spec.alpn(&target)).map_err(|error| error.to_string())?;
                self.tls = Some(client);
            }
            Ok(target)
        });
        self.local.target = self.target.as_ref().map(|t| format!("{}:{}", t.host, t.port)).unwrap_or_default();
    }
}

impl Agent {
    /// A visitor came; its early bytes may wait in the relay already.
    pub(super) fn visitor(&mut self, relay: usize) {
        let Some(state) = self.core.table.relays.get(relay).filter(|relay| !relay.dead) else { return };
        let Some(open) = state.open.as_ref() else { return };
        let Some(service) = self.by_connection.get(&open.connection).copied() else {
            return self.core.table.end_relay(relay, Err(ResetCode::NoRoute));
        };
        let deadline_ms = open.deadline_ms.clamp(1, self.config.limits.dial_ms);
        let within = Duration::from_millis(u64::from(deadline_ms));
        let carries = open.carries;
        // One in clear is a flow already.
        let flow = (carries == Carries::SealedDatagrams).then(|| Flow::opened_by(open, self.core.now()));
        self.core.table.relays[relay].owner = service;
        let known = &mut self.services[service];
        let refusal = match &known.target {
            _ if !known.spec.enabled => Err(ResetCode::Disabled),
            _ if known.spec.sealed_only && !carries.is_sealed() => Err(ResetCode::Denied),
            _ if known.spec.carries() != carries.inside() => Err(ResetCode::NoRoute),
            Err(_) => Err(ResetCode::TargetForbidden),
            Ok(target) => Ok((target.host.clone(), target.port)),
        };
        match refusal {
            Ok((host, port)) => {
                known.visitors.insert(relay);
                known.streams_total += 1;
                if carries.is_sealed() {
                    self.core.table.relays[relay].flow = flow;
                    return self.caller_came(relay, carries);
                }
                self.dial(Purpose::Visitor { relay, service }, &host, port, within);
            }
            Err(code) => {
                known.denied_total += 1;
                self.core.table.end_relay(relay, Err(code));
            }
        }
    }

    /// The local service took the connection: PROXY header first, then TLS if asked for, then the visitor's bytes.
    pub(super) fn visitor_connected(&mut self, relay: usize, service: usize, stream: TcpStream, took_ms: f64) {
        self.local_up(service, took_ms);
        let (now, limits) = (self.core.now(), self.config.limits);
        let caller = self.caller_of(relay).map(CallerSpec::label);
        let Some(state) = self.core.table.relays.get_mut(relay).filter(|relay| !relay.dead) else { return };
        let Some(known) = self.services.get(service) else { return };
        let (Some(open), Ok(mut socket)) = (state.open.take(), Socket::relay(stream)) else {
            return self.core.table.end_relay(relay, Err(ResetCode::Refused));
        };
        let header = match known.spec.proxy_protocol {
            ProxyMode::None => Vec::new(),
            ProxyMode::V1 => write_v1(open.visitor, open.destination),
            ProxyMode::V2 => {
                let id = uuid_text(open.stream_id);
                write_v2_of(Transport::Bytes, open.visitor, open.destination, &id, caller.as_deref())
            }
        };
        let (session, id) = (state.session, state.stream);
        let tls = match (&known.tls, &known.target) {
            (Some(client), Ok(target)) => {
                let trust = target.tls.as_ref();
                let name = trust.and_then(|trust| trust.server_name.clone()).unwrap_or_else(|| target.host.clone());
                let name = name.trim_start_matches('[').trim_end_matches(']');
                // As Envoy and HAProxy do, the header goes in clear before the handshake; it fits an empty socket buffer.
                let clear = header.is_empty() || socket.write(&header).is_ok_and(|count| count == header.len());
                match Tls::client(client, name) {
                    Ok(tls) if clear => Some(tls),
                    _ => return self.core.table.end_relay(relay, Err(ResetCode::TlsFailed)),
                }
            }
            _ => None,
        };
        if tls.is_none() && !header.is_empty() {
            let backlog = self.core.table.backlog(relay);
            backlog.uncredited = header.len() as u64;
            backlog.pending.splice(0..0, header);
        }
        let state = &mut self.core.table.relays[relay];
        state.phase = if tls.is_some() { Phase::Handshake } else { Phase::Open };
        let until = now + Duration::from_millis(u64::from(limits.handshake_ms));
        let plain = tls.is_none();
        if self.core.attach(relay, socket, (!plain).then_some(until)).is_err() {
            return self.core.table.end_relay(relay, Err(ResetCode::Busy));
        }
        // What it says by itself comes as an event: it is seldom there already.
        self.core.table.relays[relay].readable = false;
        match tls {
            Some(tls) => self.core.start_tls(relay, tls),
            None => self.answered(session, id),
        }
    }

    /// The target of a flow is known: what waits goes out, each datagram behind its PROXY header if the service asks.
    pub(super) fn flow_connected(&mut self, relay: usize, service: usize, socket: UdpSocket) {
        let caller = self.caller_of(relay).map(CallerSpec::label);
        let Some(state) = self.core.table.relays.get(relay).filter(|relay| !relay.dead) else { return };
        let (Some(open), Some(known)) = (state.open.as_ref(), self.services.get(service)) else { return };
        let header = match known.spec.proxy_protocol {
            // Version 1 is text for TCP alone; admission refuses it for UDP.
            ProxyMode::None | ProxyMode::V1 => Vec::new(),
            ProxyMode::V2 => {
                let id = uuid_text(open.stream_id);
                write_v2_of(Transport::Datagrams, open.visitor, open.destination, &id, caller.as_deref())
            }
        };
        let (session, id) = (state.session, state.stream);
        if self.core.attach_flow(relay, socket, header).is_err() {
            return self.core.table.end_relay(relay, Err(ResetCode::Busy));
        }
        self.core.watch_silence(relay);
        self.answered(session, id);
    }

    /// A datagram of a flow came back: nobody listens at the local service's port.
    pub(super) fn flow_refused(&mut self, relay: usize) {
        let Some(owner) = self.core.table.relays.get(relay).map(|relay| relay.owner) else { return };
        let now = self.core.now();
        let Some(known) = self.services.get_mut(owner) else { return };
        known.refused_at = Some(now);
        let message = format!("{}: connection refused", known.local.target);
        self.local_down(owner, &message);
    }

    /// UDP has no handshake: a service counts as there unless it refused a datagram of late.
    pub(super) fn datagrams_probed(&mut self, service: usize) {
        let now = self.core.now();
        let Some(known) = self.services.get_mut(service) else { return };
        let refused = |at: Instant| now.saturating_duration_since(at) < REFUSAL_HOLDS;
        if known.refused_at.is_some_and(refused) {
            known.probing = false;
            known.probe_at = now + REFUSAL_HOLDS / 4;
            return;
        }
        self.local_up(service, 0.0);
    }

    /// TLS with the local service is up.
    pub(super) fn local_ready(&mut self, relay: usize) {
        if let Some(state) = self.core.table.relays.get(relay) {
            let (session, stream) = (state.session, state.stream);
            self.answered(session, stream);
        }
    }

    fn answered(&mut self, session: usize, stream: u32) {
        if let Some(machine) = self.core.table.session(session) {
            machine.connected(stream);
        }
        self.core.table.touch(session);
    }

    pub(super) fn visitor_failed(&mut self, relay: usize, service: usize, error: &str, code: ResetCode) {
        self.local_down(service, error);
        self.core.table.end_relay(relay, Err(code));
    }

    // ---- state of the local service --------------------------------------------------------------------------------

    pub(super) fn local_up(&mut self, service: usize, took_ms: f64) {
        let at = self.core.now() + Duration::from_millis(u64::from(self.config.limits.probe_every_ms));
        let Some(known) = self.services.get_mut(service) else { return };
        known.probe_at = at;
        known.probing = false;
        let local = &mut known.local;
        if let Some(last) = local.connect_ms.replace(took_ms) {
            local.jitter_ms += ((last - took_ms).abs() - local.jitter_ms) / 16.0;
        }
        local.message.clear();
        if std::mem::replace(&mut local.state, "Reachable".into()) != "Reachable" {
            let (service, connection) = (known.spec.service(), known.spec.connection.clone());
            self.emit(Event::LocalUp { service, connection });
        }
    }

    pub(super) fn local_down(&mut self, service: usize, message: &str) {
        // Tried again sooner than a healthy one, so that its return is seen.
        let every = Duration::from_millis(u64::from(self.config.limits.probe_every_ms));
        let at = self.core.now() + every.min(Duration::from_secs(2));
        let Some(known) = self.services.get_mut(service) else { return };
        known.probe_at = at;
        known.probing = false;
        known.local.failures_total += 1;
        message.clone_into(&mut known.local.message);
        if std::mem::replace(&mut known.local.state, "Unreachable".into()) != "Unreachable" {
            let (service, connection) = (known.spec.service(), known.spec.connection.clone());
            self.emit(Event::LocalDown { service, connection, message: message.to_owned() });
        }
    }

    /// Services without news are tried.
    pub(super) fn probe_due(&mut self) {
        let now = self.core.now();
        let within = Duration::from_millis(u64::from(self.config.limits.dial_ms));
        let due = |service: &Service| service.probe_at <= now && !service.probing && service.spec.enabled;
        let services: Vec<usize> = self.services.iter().filter(|(_, s)| due(s)).map(|(index, _)| index).collect();
        for index in services {
            let service = &mut self.services[index];
            match &service.target {
                Ok(target) => {
                    let (host, port) = (target.host.clone(), target.port);
                    service.probing = true;
                    self.dial(Purpose::Probe(index), &host, port, within);
                }
                Err(why) => {
                    let why = why.clone();
                    self.local_down(index, &why);
                }
            }
        }
    }

    // ---- the end of a visitor --------------------------------------------------------------------------------------

    pub(super) fn relay_gone(&mut self, relay: usize, outcome: Outcome) {
        match self.role {
            Role::Gateway => return self.flow_gone(relay, outcome),
            Role::Connector => return self.port_gone(relay, outcome),
            _ => {}
        }
        let caller = self.caller_of(relay).map(CallerSpec::label).unwrap_or_default();
        self.cancel_dial(relay);
        let Some(state) = self.core.table.relays.get(relay) else { return };
        let Some(service) = self.services.get_mut(state.owner) else { return };
        if !service.visitors.remove(&relay) {
            return;
        }
        let (who, flow) = (state.who, state.flow.as_ref());
        let record = FlowRecord {
            // Read from the service is what it answered.
            datagrams_in: flow.map_or(0, |flow| flow.datagrams_written),
            datagrams_out: flow.map_or(0, |flow| flow.datagrams_read),
            datagrams_dropped: flow.map_or(0, |flow| flow.dropped),
            listener: String::new(),
            caller,
            ended_unix_ms: unix_ms(),
            visitor: who.address().map(|address| address.to_string()).unwrap_or_default(),
            service: service.spec.service(),
            connection: service.spec.connection.clone(),
            stream_id: uuid_text(who.stream_id),
            bytes_in: state.bytes_written,
            bytes_out: state.bytes_read,
            duration_ms: self.core.table.now.saturating_duration_since(state.started).as_millis() as u64,
            outcome: outcome.map_or_else(ResetCode::words, |()| "finished").to_owned(),
        };
        service.bytes_in += record.bytes_in;
        service.bytes_out += record.bytes_out;
        service.datagrams_in += record.datagrams_in;
        service.datagrams_out += record.datagrams_out;
        service.datagrams_dropped += record.datagrams_dropped;
        self.recent.push(record);
    }
}
