//! Stream sockets of both families, so set that death is a reset and never a clean end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::ServerConfig;
use socket2::SockRef;

use super::hop::Hop;
use crate::through::{Goal, Through, Way};

/// Unacknowledged bytes for this long: the path is dead, whatever keeps the socket open.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// A lane's kernel buffer takes no more than this ahead, so that order is decided late.
#[cfg(target_os = "linux")]
const NOTSENT_LOWAT_BYTES: u32 = 128 * 1024;

pub(crate) enum Socket {
    Tcp(TcpStream),
    /// A gateway's, on this machine.
    Unix(Hop),
    /// A lane's, by a proxy or in a WebSocket.
    Through(Box<Through>),
}

impl Socket {
    /// A visitor's or a local service's socket. Closing it without a word is a reset.
    pub(crate) fn relay(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        Ok(Socket::Tcp(stream))
    }

    /// The same of one that was accepted by a listener with [`inherited`] options.
    pub(crate) fn accepted(stream: TcpStream) -> Self {
        Socket::Tcp(stream)
    }

    /// A lane's socket.
    pub(crate) fn lane(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        {
            let options = SockRef::from(&stream);
            options.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
            options.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)?;
        }
        Ok(Socket::Tcp(stream))
    }

    /// A lane's socket over a connection to a way's first hop. The error is for people.
    pub(crate) fn lane_by(way: &Way, goal: Goal, stream: TcpStream) -> Result<Self, String> {
        let socket = Self::lane(stream).map_err(|error| error.to_string())?;
        match socket {
            Socket::Tcp(stream) if way.proxy.is_some() || way.web_socket => {
                Ok(Socket::Through(Box::new(Through::dialled(way, goal, stream)?)))
            }
            straight => Ok(straight),
        }
    }

    /// From now on closing is an orderly end.
    pub(crate) fn end_orderly(&self) {
        match self {
            // Failing leaves the reset, which is the safe side.
            Socket::Tcp(stream) => drop(SockRef::from(stream).set_linger(None)),
            Socket::Unix(hop) => hop.end_orderly(),
            Socket::Through(_) => {}
        }
    }

    /// The event said that the other end sends no more, or (`wholly`) that it is closed.
    pub(crate) fn note_end(&mut self, wholly: bool) {
        if let Socket::Unix(hop) = self {
            hop.note_end(wholly);
        }
    }

    /// The other end has gone before this one's bytes had ended, which TCP shows by a reset.
    pub(crate) fn is_deserted(&self) -> bool {
        matches!(self, Socket::Unix(hop) if hop.is_deserted())
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            Socket::Tcp(stream) => registry.register(stream, token, both),
            Socket::Unix(hop) => hop.register(registry, token, both),
            Socket::Through(way) => match way.stream() {
                Some(stream) => registry.register(stream, token, both),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        }
    }

    /// Watched no more, so that another relay may have it.
    pub(crate) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => registry.deregister(stream),
            Socket::Unix(hop) => hop.deregister(registry),
            Socket::Through(way) => way.stream().map_or(Ok(()), |stream| registry.deregister(stream)),
        }
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Socket::Tcp(stream) => stream.read(buffer),
                Socket::Unix(hop) => hop.read(buffer),
                Socket::Through(way) => way.read(buffer),
            };
            if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
                return result;
            }
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Socket::Tcp(stream) => stream.write(bytes),
                Socket::Unix(hop) => hop.write(bytes),
                Socket::Through(way) => way.write(bytes),
            };
            if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
                return result;
            }
        }
    }

    pub(crate) fn shutdown_write(&mut self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(hop) => hop.shutdown_write(),
            Socket::Through(way) => way.shutdown_write(),
        }
    }

    /// The socket takes more: what a way holds back goes on.
    pub(crate) fn flush(&mut self) {
        if let Socket::Through(way) = self {
            way.flush();
        }
    }

    /// What a lane that is not up yet waits for, where its way knows.
    pub(crate) fn waits_for(&self) -> Option<String> {
        if let Socket::Through(way) = self { way.waits_for() } else { None }
    }

    /// A proxy on the way said no.
    pub(crate) fn refused(&self) -> bool {
        matches!(self, Socket::Through(way) if way.refused)
    }

    /// The lane goes on inside a WebSocket, whose opening begins with `ahead`.
    pub(crate) fn enter_web(&mut self, config: Arc<ServerConfig>, ahead: Vec<u8>) -> io::Result<()> {
        match std::mem::replace(self, Socket::Through(Box::new(Through::nothing()))) {
            Socket::Tcp(stream) => {
                *self = Socket::Through(Box::new(Through::accepted(config, ahead, stream)?));
                Ok(())
            }
            Socket::Unix(_) | Socket::Through(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    pub(crate) fn failure(&self) -> Option<io::Error> {
        match self {
            Socket::Tcp(stream) => stream.take_error().ok().flatten(),
            Socket::Unix(hop) => hop.failure(),
            Socket::Through(_) => None,
        }
    }

    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Socket::Tcp(stream) => stream.local_addr().ok(),
            Socket::Unix(_) | Socket::Through(_) => None,
        }
    }
}

/// Gives a listening socket what [`Socket::relay`] gives a relay's: accepted ones inherit it, which saves calls for each.
pub(crate) fn inherited(listener: &socket2::Socket) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    listener.set_linger(Some(Duration::ZERO))
}

pub(crate) fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}
