//! A UDP socket with batches: several datagrams a call, and runs of equal length as one send. And the echo on it.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Type};

/// One message may hold as much as the longest datagram.
const MESSAGE_BYTES: usize = 65_536;
/// Bursts wait here while the program is elsewhere.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// What the kernel takes as one send: datagrams, and bytes of all of them.
pub const SEGMENTS_MAX: usize = 64;
const SEND_BYTES_MAX: usize = 65_000;

/// A socket, bound.
pub struct Socket {
    pub socket: UdpSocket,
    state: UdpSocketState,
}

/// Where datagrams are read to; one serves many sockets.
pub struct Inbox {
    bytes: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
}

impl Inbox {
    /// Empty.
    pub fn new() -> Self {
        Self { bytes: vec![0; MESSAGE_BYTES * BATCH_SIZE], meta: [RecvMeta::default(); BATCH_SIZE] }
    }
}

impl Socket {
    /// On an address; port 0 takes a free one.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        socket.set_nonblocking(true)?;
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.bind(&address.into())?;
        let socket = UdpSocket::from_std(socket.into());
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state })
    }

    /// How many datagrams of a size go in one send.
    pub fn segments(&self, bytes: usize, wanted: usize) -> usize {
        wanted.min(self.state.max_gso_segments()).min(SEGMENTS_MAX).min(SEND_BYTES_MAX / bytes.max(1)).max(1)
    }

    /// Datagrams of `each` bytes (the last may be shorter) to one address. False: the socket is full.
    pub fn send(&self, to: SocketAddr, contents: &[u8], each: usize) -> io::Result<bool> {
        let segment_size = (contents.len() > each).then_some(each);
        let transmit = Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
        match self.state.try_send((&self.socket).into(), &transmit) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Hands on what one call reads: sender, bytes, length of each datagram in them. False: there was nothing.
    pub fn receive(&self, inbox: &mut Inbox, mut take: impl FnMut(SocketAddr, &[u8], usize)) -> io::Result<bool> {
        let mut rooms = inbox.bytes.chunks_mut(MESSAGE_BYTES);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(rooms.next().unwrap_or_default()));
        let count = match self.state.recv((&self.socket).into(), &mut slices, &mut inbox.meta) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // What was sent to a port that nobody holds any more comes back so.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(true),
            Err(error) => return Err(error),
        };
        for (slice, meta) in slices.iter().zip(&inbox.meta[..count]) {
            take(meta.addr, &slice[..meta.len], meta.stride);
        }
        Ok(true)
    }
}

/// Answers each datagram with itself, in a thread that ends with the program.
pub fn echo(address: SocketAddr) -> io::Result<()> {
    let mut socket = Socket::bind(address)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut socket.socket, Token(0), Interest::READABLE)?;
    std::thread::spawn(move || {
        let (mut events, mut inbox) = (Events::with_capacity(4), Inbox::new());
        loop {
            if poll.poll(&mut events, None).is_err() {
                continue;
            }
            // A full socket loses the answer, as UDP does; whoever asked counts it.
            while let Ok(true) = socket.receive(&mut inbox, |from, bytes, each| {
                for part in pieces(bytes, each) {
                    let _ = socket.send(from, part, each.max(1));
                }
            }) {}
        }
    });
    Ok(())
}

/// Cuts what one read gave into what one send takes. An empty datagram is one piece.
fn pieces(bytes: &[u8], each: usize) -> impl Iterator<Item = &[u8]> {
    let at_once = each.max(1) * SEGMENTS_MAX.min(SEND_BYTES_MAX / each.max(1)).max(1);
    let empty = bytes.is_empty().then_some(bytes);
    bytes.chunks(at_once).chain(empty)
}
