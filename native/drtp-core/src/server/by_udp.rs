//! Agents that come by QUIC: on UDP of the same numbers, under the same caps and deadlines as by TCP.

use std::net::SocketAddr;
use std::sync::Arc;

use mio::net::UdpSocket;
use quinn_proto::Incoming;

use super::Server;
use crate::driver::batch::bound;
use crate::error::CoreError;

/// UDP beside each listener.
pub(super) fn bind(addresses: &[SocketAddr]) -> Result<Vec<UdpSocket>, CoreError> {
    let named =
        |address: &SocketAddr| bound(*address).map_err(|error| CoreError::io(format!("listener {address}/udp"), error));
    addresses.iter().map(named).collect()
}

impl Server {
    /// The bound sockets become the driver's.
    pub(super) fn open_udp(&mut self) {
        for socket in std::mem::take(&mut self.udp_sockets) {
            let opened = self
                .quic_config()
                .map_err(|error| error.to_string())
                .and_then(|config| self.core.add_udp(socket, Some(config)).map_err(|error| error.to_string()));
            if let Err(error) = opened {
                self.local_complaint = Some(format!("no QUIC: {error}"));
            }
        }
    }

    /// What is offered by QUIC, with the certificate of now.
    fn quic_config(&mut self) -> Result<Arc<quinn_proto::ServerConfig>, CoreError> {
        let config = match self.quic.take() {
            Some(config) => config,
            None => crate::quic::server(&self.credentials.tunnel_server, self.config.limits.streams_max)?,
        };
        Ok(Arc::clone(self.quic.insert(config)))
    }

    pub(super) fn strangers_by_udp(&mut self, door: usize) {
        while let Some((peer, stranger)) = self.core.next_stranger(door) {
            self.admit_by_udp(door, peer, stranger);
        }
    }

    fn admit_by_udp(&mut self, door: usize, peer: SocketAddr, stranger: Incoming) {
        if !self.find_place(peer.ip()) {
            self.core.meet_stranger(door, stranger, None);
            return;
        }
        let config = self.quic_config().ok();
        let Some(braid) = self.core.meet_stranger(door, stranger, config.as_ref()) else {
            return self.leave_pre_auth(peer.ip());
        };
        let session = self.begin_session(peer);
        let until = self.core.now() + self.config.limits.patience();
        let index = self.core.add_quic_lane(door, braid, session, 0, peer, until);
        self.seat(index, peer.ip());
    }
}
