//! One end of one visitor's way: the visitor's socket at a POP, the local service's at an agent.

use std::time::Instant;

use super::flow::Flow;
use super::socket::Socket;
use crate::message::{Open, ResetCode};
use crate::tls::{OutBuffer, Tls};

/// Where a relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// POP: handshake or PROXY header; no stream yet.
    Preamble,
    /// Agent: the local service is being dialled; no socket yet.
    Dialing,
    /// Agent: TLS with the local service.
    Handshake,
    /// Bytes flow.
    Open,
}

/// A relay holds no buffer while nothing waits for its socket.
pub(crate) struct Relay {
    pub(crate) phase: Phase,
    pub(crate) socket: Option<Socket>,
    pub(crate) tls: Option<Box<Tls>>,
    /// Sealed bytes on their way to the socket, TLS only.
    pub(crate) out: OutBuffer,
    /// Session and stream, once there is one.
    pub(crate) session: usize,
    pub(crate) stream: u32,
    /// Route at the POP, service at the agent.
    pub(crate) owner: usize,
    /// The identity of the gateway that brought it, `mtls` endpoints only, and its certificate's end (unix s).
    pub(crate) gateway: Option<Box<(String, i64)>>,
    pub(crate) open: Option<Box<Open>>,
    /// Datagrams instead of bytes.
    pub(crate) flow: Option<Box<Flow>>,
    pub(crate) serial: u64,
    pub(crate) started: Instant,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The event said that the other end closed: read until 0, a short read means nothing.
    pub(crate) hung_up: bool,
    /// Its end came while it was still in its preamble: what it said before it may suffice.
    pub(crate) ended_early: bool,
    pub(crate) queued: bool,
    pub(crate) flushing: bool,
    pub(crate) bulk: bool,
    /// Read to the end; FIN went to the session.
    pub(crate) read_done: bool,
    pub(crate) fin_wanted: bool,
    pub(crate) fin_done: bool,
    pub(crate) dead: bool,
    /// From the session, not yet taken by the socket.
    pub(crate) pending: Vec<u8>,
    pub(crate) pending_at: usize,
    /// Bytes of the stream that the socket has not taken.
    pub(crate) parked: u64,
    /// When it last took any.
    pub(crate) unparked_at: Instant,
    /// Plain bytes in `out` whose credit returns when it is written.
    pub(crate) sealed: u64,
    /// Plain bytes read ahead of credit: PROXY header at first, then the tail of a TLS record.
    pub(crate) unsent: Vec<u8>,
    /// Socket to session.
    pub(crate) bytes_read: u64,
    /// Session to socket.
    pub(crate) bytes_written: u64,
    /// Bytes that the session's stream carried before PROXY bytes of ours, not to be given credit for.
    pub(crate) uncredited: u64,
}

impl Relay {
    pub(crate) fn new(phase: Phase, owner: usize, serial: u64, now: Instant) -> Self {
        Self {
            phase,
            socket: None,
            tls: None,
            out: OutBuffer::default(),
            session: usize::MAX,
            stream: 0,
            owner,
            gateway: None,
            open: None,
            flow: None,
            serial,
            started: now,
            readable: false,
            writable: false,
            hung_up: false,
            ended_early: false,
            queued: false,
            flushing: false,
            bulk: false,
            read_done: false,
            fin_wanted: false,
            fin_done: false,
            dead: false,
            pending: Vec::new(),
            pending_at: 0,
            parked: 0,
            unparked_at: now,
            sealed: 0,
            unsent: Vec::new(),
            bytes_read: 0,
            bytes_written: 0,
            uncredited: 0,
        }
    }

    /// Bytes that wait for a slow socket.
    pub(crate) fn parked(&self) -> usize {
        self.pending.len() - self.pending_at
            + self.out.waiting().len()
            + self.flow.as_ref().map_or(0, |flow| flow.parked())
    }

    pub(crate) fn has_stream(&self) -> bool {
        self.stream != 0
    }
}

/// How a relay ended.
pub(crate) type Outcome = Result<(), ResetCode>;
