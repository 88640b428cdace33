//! The agent's statistics.

use super::Agent;
use crate::driver::flow::Flow;
use crate::driver::relay::Relay;
use crate::handle::Flows;
use crate::message::Carries;
use crate::report::{ConnectionStats, SessionStats, Stats};

impl Agent {
    pub(super) fn stats(&mut self, flows: Flows) -> Stats {
        let links: Vec<usize> = self.links.iter().map(|(index, _)| index).collect();
        let sessions = links.into_iter().map(|link| self.link_stats(link)).collect();
        let services = self.services.iter().map(|(index, _)| self.service_stats(index));
        let connections = services.chain(self.listener_stats()).chain(self.port_stats()).collect();
        let relays = &self.core.table.relays;
        Stats {
            sessions,
            connections,
            recent: self.recent.list(flows),
            streams: relays.iter().filter(|(_, relay)| relay.has_stream()).count() as u64,
            dials: self.dials.len() as u64,
            parked_bytes: relays.iter().map(|(_, relay)| relay.parked() as u64).sum(),
            draining: self.draining(),
            ..Stats::default()
        }
    }

    fn link_stats(&mut self, link: usize) -> SessionStats {
        let state = &self.links[link];
        let mut report = SessionStats {
            peer: state.spec.server.clone(),
            address: state.peer.clone(),
            state: if self.fenced { "Fenced" } else { "Connecting" }.to_owned(),
            epoch: self.config.epoch,
            message: state.message.clone(),
            way: state.way(),
            ..SessionStats::default()
        };
        let Some(session) = state.session else { return report };
        report.lanes = self.core.lane_stats(session);
        self.core.table.state_words(session).clone_into(&mut report.state);
        report.since_unix_ms = self.core.table.sessions.get(session).map_or(0, |sess| sess.since_unix_ms);
        if let Some(machine) = self.core.table.session(session) {
            report.streams = machine.stream_count() as u64;
            report.carries_datagrams = machine.bears(Carries::SealedDatagrams);
        }
        report
    }

    fn service_stats(&self, index: usize) -> ConnectionStats {
        let service = &self.services[index];
        let now = |count: fn(&Relay) -> u64| -> u64 {
            service.visitors.iter().filter_map(|relay| self.core.table.relays.get(*relay)).map(count).sum()
        };
        ConnectionStats {
            connection: service.spec.connection.clone(),
            service: service.spec.service(),
            streams: service.visitors.len() as u64,
            streams_total: service.streams_total,
            denied_total: service.denied_total,
            would_refuse_total: 0,
            held_ms_total: 0,
            datagrams_over_limit_total: 0,
            bytes_in: service.bytes_in + now(|relay| relay.bytes_written),
            bytes_out: service.bytes_out + now(|relay| relay.bytes_read),
            // Read from the service is what it answered.
            datagrams_in: service.datagrams_in + now(|relay| of_flow(relay, |flow| flow.datagrams_written)),
            datagrams_out: service.datagrams_out + now(|relay| of_flow(relay, |flow| flow.datagrams_read)),
            datagrams_dropped: service.datagrams_dropped + now(|relay| of_flow(relay, |flow| flow.dropped)),
            bound: None,
            live: service.spec.enabled && service.target.is_ok(),
            local: Some(service.local.clone()),
        }
    }
}

/// A figure of a relay's flow; 0 for a connection.
fn of_flow(relay: &Relay, figure: fn(&Flow) -> u64) -> u64 {
    relay.flow.as_deref().map_or(0, figure)
}
