//! The POP's statistics.

use super::{Route, Server};
use crate::handle::Flows;
use crate::report::{ConnectionStats, SessionStats, Stats};

impl Server {
    pub(super) fn stats(&mut self, flows: Flows) -> Stats {
        let agents: Vec<(String, usize)> = self.agents.iter().map(|(uid, session)| (uid.clone(), *session)).collect();
        let sessions: Vec<SessionStats> =
            agents.into_iter().map(|(uid, index)| self.session_stats(uid, index)).collect();
        let routes: Vec<usize> = self.routes.iter().map(|(index, _)| index).collect();
        let connections = routes.into_iter().map(|index| self.connection_stats(index)).collect();
        let relays = &self.core.table.relays;
        Stats {
            sessions,
            connections,
            recent: self.recent.list(flows),
            // A flow has two halves here; the gateway's has no route.
            streams: relays.iter().filter(|(_, relay)| relay.has_stream() && relay.owner != usize::MAX).count() as u64,
            pre_auth: u64::from(self.strangers.total() + self.visitors.total()),
            parked_bytes: relays.iter().map(|(_, relay)| relay.parked() as u64).sum(),
            accept_paused_total: self.accept_paused_total,
            draining: self.draining.is_some(),
            ..Stats::default()
        }
    }

    fn session_stats(&mut self, peer: String, index: usize) -> SessionStats {
        let lanes = self.core.lane_stats(index);
        let state = self.core.table.state_words(index).to_owned();
        let machine = self.core.table.session(index);
        let (epoch, streams) = machine.map_or((0, 0), |session| (session.peer().epoch, session.stream_count() as u64));
        let known = self.core.table.sessions.get(index);
        let (address, since_unix_ms) = known.map_or((String::new(), 0), |s| (s.address.clone(), s.since_unix_ms));
        SessionStats { peer, address, state, epoch, since_unix_ms, streams, lanes, ..SessionStats::default() }
    }

    fn connection_stats(&self, index: usize) -> ConnectionStats {
        let live = self.is_served(index);
        let route: &Route = &self.routes[index];
        let now = |count: fn(&crate::driver::relay::Relay) -> u64| -> u64 {
            route.visitors.iter().filter_map(|relay| self.core.table.relays.get(*relay)).map(count).sum()
        };
        let books = route.group.map(|group| self.core.table.brakes.books(group)).unwrap_or_default();
        ConnectionStats {
            connection: route.spec.connection.clone(),
            service: format!("{}/{}", route.spec.namespace, route.spec.name),
            streams: route.visitors.len() as u64,
            streams_total: route.streams_total,
            denied_total: route.denied_total,
            would_refuse_total: route.would_refuse_total,
            held_ms_total: books.0.as_millis() as u64,
            datagrams_over_limit_total: books.1,
            bytes_in: route.bytes_in + now(|relay| relay.bytes_read),
            bytes_out: route.bytes_out + now(|relay| relay.bytes_written),
            bound: route.bound().or_else(|| route.path()),
            live,
            ..ConnectionStats::default()
        }
    }
}
