//! A gateway's connection over a Unix socket, so read that death is a reset there, too.
//!
//! A Unix socket has no `SO_LINGER`: whoever closes it, or dies, ends it cleanly, and a visitor would take half an answer
//! for a whole one. But the kernel tells the other end of a reset if there were bytes that nobody had taken. So the last
//! byte that came stays in the kernel: it is looked at, passed on, and taken only with the next ones, or at an orderly end.
//! The first is there at the latest with the PROXY header, before a byte of any answer.
//!
//! The other way round a reset is the end of both directions at once. An orderly gateway ends its own first.

use std::io::{self, Write};
use std::net::Shutdown;

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

/// What the other end's sudden close means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SuddenEnd {
    /// A visitor's reset.
    Reset,
    /// The end of its bytes: a gateway that speaks HTTP closes a connection that it has no more requests for.
    Finish,
}

pub(crate) struct Hop {
    stream: UnixStream,
    sudden: SuddenEnd,
    /// The first byte in the kernel was passed on already.
    kept: bool,
    /// The other end sends no more.
    ended: bool,
    /// It is closed, and this end had more to say.
    deserted: bool,
    finished: bool,
}

impl Hop {
    pub(crate) fn new(stream: UnixStream, sudden: SuddenEnd) -> Self {
        Self { stream, sudden, kept: false, ended: false, deserted: false, finished: false }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        registry.register(&mut self.stream, token, interest)
    }

    pub(crate) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        registry.deregister(&mut self.stream)
    }

    pub(crate) fn note_end(&mut self, wholly: bool) {
        self.ended = true;
        self.deserted |= wholly && !self.finished && self.sudden == SuddenEnd::Reset;
    }

    pub(crate) fn is_deserted(&self) -> bool {
        self.deserted
    }

    /// Bytes that were not passed on yet; 0 at the end, `WouldBlock` while there are none.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let kept = usize::from(self.kept);
        let seen = kernel::look(&self.stream, kept, buffer)?;
        if seen == kept {
            return if kept == 0 || self.ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let count = seen - kept;
        // All but the last.
        let mut taken = 0;
        while taken < seen - kernel::KEPT {
            let (before, from) = (kept.saturating_sub(taken), taken.saturating_sub(kept));
            match kernel::take(&self.stream, before, &mut buffer[from..count - kernel::KEPT])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => taken += more,
            }
        }
        self.kept = kernel::KEPT > 0;
        Ok(count)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    pub(crate) fn shutdown_write(&mut self) -> io::Result<()> {
        self.finished = true;
        self.stream.shutdown(Shutdown::Write)
    }

    pub(crate) fn failure(&self) -> Option<io::Error> {
        self.stream.take_error().ok().flatten()
    }

    /// Closing is an orderly end from now on. Failing leaves the reset, which is the safe side.
    pub(crate) fn end_orderly(&self) {
        if self.kept {
            drop(kernel::take(&self.stream, 1, &mut []));
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod kernel {
    use std::io::{self, IoSliceMut};
    use std::os::fd::AsRawFd;

    use mio::net::UnixStream;
    use nix::sys::socket::{MsgFlags, recvmsg};

    /// Bytes that stay.
    pub(super) const KEPT: usize = 1;

    /// Looks at what is there: at first `kept` bytes that nobody wants, 0 or 1, then what goes into `buffer`.
    pub(super) fn look(stream: &UnixStream, kept: usize, buffer: &mut [u8]) -> io::Result<usize> {
        receive(stream, kept, buffer, MsgFlags::MSG_PEEK)
    }

    /// The same, and they are gone.
    pub(super) fn take(stream: &UnixStream, kept: usize, buffer: &mut [u8]) -> io::Result<usize> {
        receive(stream, kept, buffer, MsgFlags::empty())
    }

    fn receive(stream: &UnixStream, kept: usize, buffer: &mut [u8], how: MsgFlags) -> io::Result<usize> {
        let mut known = [0; 1];
        let mut parts = [IoSliceMut::new(&mut known[..kept]), IoSliceMut::new(buffer)];
        Ok(recvmsg::<()>(stream.as_raw_fd(), &mut parts, None, how)?.bytes)
    }
}

/// Elsewhere a byte cannot be looked at and left, and death is a clean end.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod kernel {
    use std::io::{self, Read};

    use mio::net::UnixStream;

    pub(super) const KEPT: usize = 0;

    pub(super) fn look(mut stream: &UnixStream, _kept: usize, buffer: &mut [u8]) -> io::Result<usize> {
        stream.read(buffer)
    }

    pub(super) fn take(_stream: &UnixStream, _kept: usize, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }
}
