//! UDP sockets, many datagrams a call: several messages at once, and runs of equal length as one message, where the
//! system can (`recvmmsg`, `UDP_GRO`, `UDP_SEGMENT`). Elsewhere the same, one datagram at a time.
//!
//! `quinn-udp` makes the calls. Its own preparation of a socket is left out, for it forbids fragments: a datagram longer
//! than the path's packets is sent here as any program sends it.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::UdpSocket;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, SockRef, Socket as RawSocket, Type};

/// Room for one message: the longest datagram of either family, and all that the system gathers in one.
const MESSAGE_BYTES: usize = 65_536;
/// What the system takes as one send, in all.
const SEND_BYTES_MAX: usize = 65_000;
/// Bursts wait here, either way, while the driver is elsewhere.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// What one call read: messages, each of one sender, with datagrams of equal length of which the last may be shorter.
#[derive(Default)]
pub(crate) struct Reading {
    room: Vec<u8>,
    meta: Vec<RecvMeta>,
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
        Self::with(ask(four).or_else(|_| ask(six)).ok())
    }

    /// The same of one socket, which is prepared for QUIC: fragments are forbidden, so that the path's length is found.
    pub(crate) fn of(socket: &UdpSocket) -> Self {
        Self::with(UdpSocketState::new(socket.into()).ok())
    }

    fn with(state: Option<UdpSocketState>) -> Self {
        let segments_max = state.as_ref().map_or(1, UdpSocketState::max_gso_segments);
        Self { state, segments_max }
    }

    /// A system that can do nothing of it.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::with(None)
    }

    /// How many datagrams of a length go in one send.
    pub(crate) fn run_max(&self, each: usize) -> usize {
        // Nothing can be joined to a datagram of no bytes.
        SEND_BYTES_MAX.checked_div(each).map_or(1, |fit| fit.min(self.segments_max).max(1))
    }

    /// Reads what one call gives.
    pub(crate) fn receive(&self, socket: &UdpSocket, reading: &mut Reading) -> io::Result<()> {
        reading.count = 0;
        if reading.room.is_empty() {
            // Pages that no message ever reaches are never the system's loss.
            reading.room = vec![0; MESSAGE_BYTES * BATCH_SIZE];
            reading.meta = vec![RecvMeta::default(); BATCH_SIZE];
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

/// A socket at which anybody may send. Exclusive: an address in use is the caller's to report.
pub(crate) fn bound(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let socket = UdpSocket::from_std(socket.into());
    prepare(&socket);
    Ok(socket)
}

/// A socket to one peer: of a flow to its local service, or of a link by QUIC.
pub(crate) fn connected(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    prepare(&socket);
    socket.connect(target)?;
    Ok(socket)
}

/// Room for bursts, and datagrams of one sender gathered into one message; the system gives less where it must.
fn prepare(socket: &UdpSocket) {
    let options = SockRef::from(socket);
    let _ = options.set_recv_buffer_size(BUFFER_BYTES);
    let _ = options.set_send_buffer_size(BUFFER_BYTES);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::UdpGroSegment, &true);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpSocket, UdpSocket, SocketAddr) {
        let socket = || UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (sender, receiver) = (socket(), socket());
        prepare(&receiver);
        let to = receiver.local_addr().unwrap();
        (sender, receiver, to)
    }

    /// All that is there: loopback delivers within the send.
    fn received(batches: &Batches, socket: &UdpSocket) -> Vec<Vec<u8>> {
        let (mut reading, mut seen) = (Reading::default(), Vec::new());
        while batches.receive(socket, &mut reading).is_ok() {
            for number in 0..reading.count() {
                let (_, bytes, each) = reading.message(number);
                seen.extend(split(bytes, each).map(<[u8]>::to_vec));
            }
        }
        seen
    }

    #[test]
    fn a_run_that_the_system_gathered_is_cut_where_it_was_joined() {
        let batches = Batches::probe();
        let (sender, receiver, to) = pair();
        for (count, each, tail) in [(10, 100, 40), (3, 1_200, 0), (1, 7, 0), (40, 9, 8)] {
            let mut run: Vec<u8> = (0..count * each).map(|at| (at / each) as u8).collect();
            run.extend(vec![0xee; tail]);
            let expected: Vec<Vec<u8>> = run.chunks(each).map(<[u8]>::to_vec).collect();
            if batches.run_max(each) < expected.len() {
                expected.iter().for_each(|one| batches.send(&sender, to, one, one.len()).unwrap());
            } else {
                batches.send(&sender, to, &run, each).unwrap();
            }
            batches.send(&sender, to, b"", 0).unwrap();
            let mut seen = received(&batches, &receiver);
            assert_eq!(seen.pop(), Some(Vec::new()));
            assert_eq!(seen, expected, "{count} of {each} and one of {tail}");
        }
    }

    #[test]
    fn one_call_gives_the_datagrams_of_many_senders_each_with_its_address() {
        let batches = Batches::probe();
        let (_, receiver, to) = pair();
        let senders: Vec<UdpSocket> = (0..50).map(|_| pair().0).collect();
        for sender in &senders {
            let own = sender.local_addr().unwrap().to_string();
            batches.send(sender, to, own.as_bytes(), own.len()).unwrap();
        }
        let (mut reading, mut seen) = (Reading::default(), 0);
        while batches.receive(&receiver, &mut reading).is_ok() {
            for number in 0..reading.count() {
                let (from, bytes, _) = reading.message(number);
                assert_eq!(from.to_string().as_bytes(), bytes);
            }
            seen += reading.count();
        }
        assert_eq!(seen, 50);
    }

    #[test]
    fn a_system_without_batches_passes_the_same_datagrams() {
        let (none, all) = (Batches::none(), Batches::probe());
        let (sender, receiver, to) = pair();
        assert_eq!(none.run_max(64), 1);
        for datagram in [b"one".as_slice(), b"", b"three"] {
            none.send(&sender, to, datagram, datagram.len()).unwrap();
        }
        assert_eq!(received(&all, &receiver), [b"one".to_vec(), Vec::new(), b"three".to_vec()]);
        let plain = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let run = if all.run_max(4) >= 3 { b"aaaabbbbcc".as_slice() } else { b"aaaa" };
        all.send(&sender, plain.local_addr().unwrap(), run, 4).unwrap();
        let expected: Vec<Vec<u8>> = run.chunks(4).map(<[u8]>::to_vec).collect();
        assert_eq!(received(&none, &plain), expected);
    }
}
