//! Listening sockets: bound early, listening only while somebody can be served, and never killed by missing descriptors.

use std::fs::{File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::time::Duration;

use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockAddr, Socket as RawSocket, TcpKeepalive, Type};

use super::Place;
use crate::driver::hop::{Hop, SuddenEnd};
use crate::driver::socket::{Socket, inherited};

/// A visitor that is silent for this long is asked whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// Connections that the kernel may keep for us.
const BACKLOG: i32 = 1024;

pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A bound socket that refuses connections until it listens.
pub(crate) struct Bound {
    socket: RawSocket,
    pub(crate) place: Place,
}

impl Bound {
    /// Binds. An address in use, or a path that is not ours to replace, is the caller's to report.
    pub(crate) fn bind(place: &Place) -> io::Result<Self> {
        match place {
            Place::Ip(address) => {
                let socket = RawSocket::new(Domain::for_address(*address), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                if address.is_ipv6() {
                    socket.set_only_v6(true)?;
                }
                inherited(&socket)?;
                // Inherited too. Visitors vanish without a word, and would be kept for ever.
                let alive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_EVERY);
                socket.set_tcp_keepalive(&alive)?;
                socket.set_nonblocking(true)?;
                socket.bind(&(*address).into())?;
                let bound = socket.local_addr()?.as_socket().unwrap_or(*address);
                Ok(Self { socket, place: Place::Ip(bound) })
            }
            Place::Unix(path) => {
                clear_path(path)?;
                let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                socket.bind(&SockAddr::unix(path)?)?;
                // Before it listens: nobody connects by a looser mode.
                std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
                Ok(Self { socket, place: place.clone() })
            }
        }
    }

    pub(crate) fn listen(self, registry: &Registry, token: Token) -> io::Result<Listener> {
        self.socket.listen(BACKLOG)?;
        match self.place {
            Place::Ip(_) => {
                let mut listener = TcpListener::from_std(self.socket.into());
                registry.register(&mut listener, token, Interest::READABLE)?;
                Ok(Listener::Tcp(listener))
            }
            Place::Unix(_) => {
                let mut listener =
                    UnixListener::from_std(StdUnixListener::from(std::os::fd::OwnedFd::from(self.socket)));
                registry.register(&mut listener, token, Interest::READABLE)?;
                Ok(Listener::Unix(listener))
            }
        }
    }
}

/// Removes a socket that an earlier run left; anything else at the path is left alone.
fn clear_path(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path holds something that is no socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Listener {
    /// One connection, with its peer; `None` peer on a Unix socket.
    pub(crate) fn accept(&self, sudden: SuddenEnd) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept()?;
                Ok((Socket::accepted(stream), Some(peer)))
            }
            Listener::Unix(listener) => Ok((Socket::Unix(Hop::new(listener.accept()?.0, sudden)), None)),
        }
    }
}

/// One descriptor kept aside: when all others are gone it lets a waiting connection be taken and turned away, so that
/// the listener does not spin (frp#752).
pub(crate) struct Reserve(Option<File>);

impl Reserve {
    pub(crate) fn new() -> Self {
        Self(File::open("/dev/null").ok())
    }

    /// Turns one waiting connection away.
    pub(crate) fn turn_away(&mut self, listener: &Listener) {
        self.0 = None;
        // Taking it is all; dropping it resets it.
        let _ = listener.accept(SuddenEnd::Reset);
        self.0 = File::open("/dev/null").ok();
    }
}

/// The process or the machine has no descriptor left.
pub(crate) fn out_of_descriptors(error: &io::Error) -> bool {
    // EMFILE and ENFILE have the same numbers on every Unix that we build for.
    matches!(error.raw_os_error(), Some(23 | 24))
}
