//! A link whose way is QUIC: one connection in the place of all its session's lanes.

use std::net::SocketAddr;
use std::time::Duration;

use mio::net::UdpSocket;

use super::Agent;

/// Where UDP is dropped nobody says so: another way is taken after this.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

impl Agent {
    /// The way that a link takes, or another of its course, is QUIC.
    pub(super) fn is_quic(&self, link: usize, way: Option<usize>) -> bool {
        let course = self.links.get(link).map(|state| &state.course);
        course.is_some_and(|course| course.way_at(way.unwrap_or_else(|| course.at())).quic)
    }

    /// The handshake follows.
    pub(super) fn add_quic_lane(
        &mut self,
        link: usize,
        session: usize,
        socket: UdpSocket,
        address: SocketAddr,
    ) -> Result<(), String> {
        let until = self.core.now() + self.config.limits.patience().min(ANSWER_WITHIN);
        let name = self.links[link].spec.name.clone();
        let config = crate::quic::client(&self.credentials.tunnel_client, self.config.limits.streams_max)
            .map_err(|error| error.to_string())?;
        let (door, braid) = self.core.dial_quic(socket, config, address, &name)?;
        self.core.add_quic_lane(door, braid, session, 0, address, until);
        Ok(())
    }
}
