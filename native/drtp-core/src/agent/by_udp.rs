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

    /// A socket towards a POP: the handshake and HELLO follow.
    pub(super) fn link_by_udp(&mut self, link: usize, socket: UdpSocket) {
        let Some(address) = socket.peer_addr().ok().filter(|_| !self.draining()) else { return };
        let session = self.begin_session(link, address);
        let state = &mut self.links[link];
        (state.session, state.peer, state.proven) = (Some(session), address.to_string(), false);
        if let Err(error) = self.add_quic_lane(link, session, socket, address) {
            self.link_down(link, session, &error);
        }
    }

    /// The same, to see whether this better way leads there.
    pub(super) fn better_by_udp(&mut self, link: usize, serial: u64, way: usize, socket: UdpSocket) {
        let Ok(address) = socket.peer_addr() else { return };
        if !self.links.get(link).is_some_and(|state| state.serial == serial && state.up) {
            return;
        }
        let session = self.begin_session(link, address);
        self.links[link].looking = Some((session, way));
        if self.add_quic_lane(link, session, socket, address).is_err() {
            self.links[link].looking = None;
            self.core.close_session(session, "cannot register");
        }
    }

    fn add_quic_lane(
        &mut self,
        link: usize,
        session: usize,
        socket: UdpSocket,
        address: SocketAddr,
    ) -> Result<(), String> {
        let until = self.core.now() + self.answer_within();
        let name = self.links[link].spec.name.clone();
        let config = crate::quic::client(&self.credentials.tunnel_client, self.config.limits.streams_max)
            .map_err(|error| error.to_string())?;
        let (door, braid) = self.core.dial_quic(socket, config, address, &name)?;
        self.core.add_quic_lane(door, braid, session, 0, address, until);
        Ok(())
    }

    fn answer_within(&self) -> Duration {
        let limits = self.config.limits;
        let most = Duration::from_millis(u64::from(limits.handshake_ms) + u64::from(limits.first_frame_ms));
        most.min(ANSWER_WITHIN)
    }
}
