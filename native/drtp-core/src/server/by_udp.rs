//! Agents that come by QUIC: on UDP of the same numbers, under the same caps and deadlines as by TCP.

use std::net::SocketAddr;
use std::time::Duration;

use mio::net::UdpSocket;
use quinn_proto::Incoming;
use socket2::{Domain, Socket as RawSocket, Type};

use super::Server;
use super::accept::is_stranger;
use super::antechamber::Places;
use crate::error::CoreError;
use crate::session::Session;

/// What the kernel may hold of what comes, and of what goes.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// UDP beside each listener.
pub(super) fn bind(addresses: &[SocketAddr]) -> Result<Vec<UdpSocket>, CoreError> {
    addresses.iter().map(|address| bound(*address)).collect()
}

fn bound(address: SocketAddr) -> Result<UdpSocket, CoreError> {
    let open = || {
        let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // The system may give less.
        let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(BUFFER_BYTES);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(UdpSocket::from_std(socket.into()))
    };
    open().map_err(|error| CoreError::io(format!("listener {address}/udp"), error))
}

impl Server {
    /// The bound sockets become the driver's.
    pub(super) fn open_udp(&mut self) {
        for socket in std::mem::take(&mut self.udp_sockets) {
            let config = crate::quic::server(&self.credentials.tunnel_server, self.config.limits.streams_max);
            let opened = config
                .map_err(|error| error.to_string())
                .and_then(|config| self.core.add_udp(socket, Some(config)).map_err(|error| error.to_string()));
            if let Err(error) = opened {
                self.local_complaint = Some(format!("no QUIC: {error}"));
            }
        }
    }

    pub(super) fn strangers_by_udp(&mut self, door: usize) {
        while let Some((peer, stranger)) = self.core.next_stranger(door) {
            self.admit_by_udp(door, peer, stranger);
        }
    }

    fn admit_by_udp(&mut self, door: usize, peer: SocketAddr, stranger: Incoming) {
        let now = self.core.now();
        let limits = self.config.limits;
        let places = Places { all: limits.pre_auth_max, of_address: limits.pre_auth_per_address_max };
        self.ask_a_lane_to_leave(peer.ip(), places, now);
        if !self.strangers.enter(peer.ip(), places, now) {
            self.core.meet_stranger(door, stranger, None);
            return;
        }
        let config = crate::quic::server(&self.credentials.tunnel_server, limits.streams_max).ok();
        let Some(braid) = self.core.meet_stranger(door, stranger, config.as_ref()) else {
            return self.leave_pre_auth(peer.ip());
        };
        let until = now + Duration::from_millis(u64::from(limits.handshake_ms) + u64::from(limits.first_frame_ms));
        let machine = Session::server(self.session_config(u64::from(peer.port()) | 1 << 20), self.budget.clone(), now);
        let session = self.core.add_session(machine, 0, peer.to_string());
        let index = self.core.add_quic_lane(door, braid, session, 0, peer, until);
        let Some(lane) = self.core.lanes.get_mut(index) else { return self.leave_pre_auth(peer.ip()) };
        lane.pre_auth = true;
        let guest = (index, lane.serial);
        let lanes = &self.core.lanes;
        self.strangers.seat(guest, peer.ip(), now, |guest| is_stranger(lanes, guest));
    }
}
