//! Stream sockets of both families, so set that death is a reset and never a clean end.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use socket2::SockRef;

/// Unacknowledged bytes for this long: the path is dead, whatever keeps the socket open.
const USER_TIMEOUT: Duration = Duration::from_secs(10);
/// A lane's kernel buffer takes no more than this ahead, so that order is decided late.
#[cfg(target_os = "linux")]
const NOTSENT_LOWAT_BYTES: u32 = 128 * 1024;

pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
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

    /// From now on closing is an orderly end.
    pub(crate) fn end_orderly(&self) {
        if let Socket::Tcp(stream) = self {
            // Failing leaves the reset, which is the safe side.
            let _ = SockRef::from(stream).set_linger(None);
        }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        match self {
            Socket::Tcp(stream) => registry.register(stream, token, both),
            Socket::Unix(stream) => registry.register(stream, token, both),
        }
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Socket::Tcp(stream) => stream.read(buffer),
                Socket::Unix(stream) => stream.read(buffer),
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
                Socket::Unix(stream) => stream.write(bytes),
            };
            if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::Interrupted) {
                return result;
            }
        }
    }

    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    pub(crate) fn failure(&self) -> Option<io::Error> {
        match self {
            Socket::Tcp(stream) => stream.take_error().ok().flatten(),
            Socket::Unix(stream) => stream.take_error().ok().flatten(),
        }
    }

    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Socket::Tcp(stream) => stream.local_addr().ok(),
            Socket::Unix(_) => None,
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
