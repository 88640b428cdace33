//! UDP sockets, many datagrams a call: several messages at once, and runs of equal length as one message, where the
//! system can (`recvmmsg`, `UDP_GRO`, `UDP_SEGMENT`). Elsewhere the same, one datagram at a time.
//!
//! `quinn-udp` makes the calls. Its own preparation of a socket is left out, for it forbids fragments: a datagram longer
//! than the path's packets is sent here as any program sends it.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::UdpSocket;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};

/// Room for one message: the longest datagram of either family, and all that the system gathers in one.
const MESSAGE_BYTES: usize = 65_536;
/// What the system takes as one send, in all.
const SEND_BYTES_MAX: usize = 65_000;

/// What one call read: messages, each of one sender, with datagrams of equal length of which the last may be shorter.
#[derive(Default)]
pub(crate) struct Reading {
    room: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
    count: usize,
}

impl Reading {
    /// Messages of the last call.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Fewer messages came than could have: there was no more.
    pub(crate) fn is_drained(&self) -> bool {
        self.count < BATCH_SIZE
    }

    /// Sender, bytes, and the length of each datagram in them.
    pub(crate) fn message(&self, number: usize) -> (SocketAddr, &[u8], usize) {
        let meta = &self.meta[number];
        let start = number * MESSAGE_BYTES;
        (meta.addr, &self.room[start..start + meta.len], meta.stride)
    }
}

/// The datagrams of a message. Of no bytes there is one, which is empty.
pub(crate) fn split(bytes: &[u8], each: usize) -> impl Iterator<Item = &[u8]> {
    let empty = bytes.is_empty().then_some(bytes);
    bytes.chunks(each.max(1)).chain(empty)
}

/// What this system can do.
pub(crate) struct Batches {
    state: Option<UdpSocketState>,
    segments_max: usize,
}

impl Batches {
    /// Asks the system, by a socket that is used for nothing else.
    pub(crate) fn probe() -> Self {
        let ask = |address: SocketAddr| {
            let socket = std::net::UdpSocket::bind(address)?;
            UdpSocketState::new((&socket).into())
        };
        let (four, six) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
        let state = ask(four).or_else(|_| ask(six)).ok();
        let segments_max = state.as_ref().map_or(1, UdpSocketState::max_gso_segments);
        Self { state, segments_max }
    }

    /// A system that can do nothing of it.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { state: None, segments_max: 1 }
    }

    /// How many datagrams of a length go in one send.
    pub(crate) fn run_max(&self, each: usize) -> usize {
        if each == 0 { 1 } else { self.segments_max.min(SEND_BYTES_MAX / each).max(1) }
    }

    /// Reads what one call gives.
    pub(crate) fn receive(&self, socket: &UdpSocket, reading: &mut Reading) -> io::Result<()> {
        reading.count = 0;
        if reading.room.is_empty() {
            // Pages that no message ever reaches are never the system's loss.
            reading.room = vec![0; MESSAGE_BYTES * BATCH_SIZE];
        }
        let Some(state) = &self.state else {
            let (count, from) = socket.recv_from(&mut reading.room[..MESSAGE_BYTES])?;
            (reading.meta[0].addr, reading.meta[0].len, reading.meta[0].stride) = (from, count, count);
            reading.count = 1;
            return Ok(());
        };
        let mut rooms = reading.room.chunks_mut(MESSAGE_BYTES);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(rooms.next().unwrap_or_default()));
        reading.count = state.recv(socket.into(), &mut slices, &mut reading.meta)?;
        Ok(())
    }

    /// Sends datagrams of `each` bytes (the last may be shorter); all of them, or none. More than one only up to
    /// [`Batches::run_max`].
    pub(crate) fn send(&self, socket: &UdpSocket, to: SocketAddr, run: &[u8], each: usize) -> io::Result<()> {
        match &self.state {
            Some(state) if run.len() > each => {
                let transmit =
                    Transmit { destination: to, ecn: None, contents: run, segment_size: Some(each), src_ip: None };
                state.try_send(socket.into(), &transmit)
            }
            _ => socket.send_to(run, to).map(drop),
        }
    }
}

/// Lets the system gather datagrams of one sender into one message; where it cannot, they come singly.
pub(crate) fn gather(socket: &UdpSocket) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::UdpGroSegment, &true);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = socket;
}

/// The path or its device takes no runs of this length; the same datagrams may go one by one.
pub(crate) fn refuses_runs(error: &io::Error) -> bool {
    // EIO (no checksum offload), EINVAL and EMSGSIZE (longer than the path's packets) have no kinds that say just this.
    const EIO: i32 = 5;
    const EINVAL: i32 = 22;
    const EMSGSIZE: i32 = 90;
    cfg!(any(target_os = "linux", target_os = "android"))
        && matches!(error.raw_os_error(), Some(EIO | EINVAL | EMSGSIZE))
}
