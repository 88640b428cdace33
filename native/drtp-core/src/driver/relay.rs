//! One end of one visitor's way: the visitor's socket at a POP, the local service's at an agent.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};
use std::time::Instant;

use slab::Slab;

use super::brake::Brake;
use super::flow::Flow;
use super::sealed::Sealed;
use super::socket::Socket;
use crate::identity::{KeyFingerprint, PeerIdentity};
use crate::message::{Open, ResetCode};
use crate::proxy::SignedIn;
use crate::tls::{OutBuffer, Tls};

/// Bytes in front that were taken are cut off when they are at least this much, and half of what is held.
const CUT_BYTES: usize = 64 * 1024;

/// Where a relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// POP: handshake or PROXY header; no stream yet.
    Preamble,
    /// Agent: the local service is being dialled; no socket yet.
    Dialing,
    /// Agent, connector: the other end of a sealed stream has not proven itself.
    Sealing,
    /// Agent: TLS with the local service.
    Handshake,
    /// Bytes flow.
    Open,
}

/// TLS on a relay's socket.
pub(crate) struct RelayTls {
    pub(crate) tls: Tls,
    /// Sealed bytes on their way to the socket.
    pub(crate) out: OutBuffer,
    /// Plain bytes in `out` whose credit returns when it is written.
    pub(crate) sealed: u64,
}

/// What waits at a relay. An idle one has none.
pub(crate) struct Backlog {
    /// From the session, not yet taken by the socket.
    pub(crate) pending: Vec<u8>,
    pub(crate) pending_at: usize,
    /// Plain bytes read ahead of credit: PROXY header at first, then the tail of a TLS record.
    pub(crate) unsent: Vec<u8>,
    /// Bytes of the stream that the socket has not taken.
    pub(crate) parked: u64,
    /// When it last took any, or the first of them came.
    pub(crate) unparked_at: Instant,
    /// PROXY bytes of ours ahead of the stream's, not to be given credit for.
    pub(crate) uncredited: u64,
}

impl Backlog {
    pub(crate) fn new(now: Instant) -> Self {
        Self { pending: Vec::new(), pending_at: 0, unsent: Vec::new(), parked: 0, unparked_at: now, uncredited: 0 }
    }

    /// From the session, not yet taken by the socket.
    pub(crate) fn waiting(&self) -> &[u8] {
        &self.pending[self.pending_at..]
    }

    /// The socket took `count` bytes, or TLS did.
    pub(crate) fn took(&mut self, count: usize) {
        self.pending_at += count;
        if self.pending_at == self.pending.len() {
            self.pending.clear();
            self.pending_at = 0;
        } else if self.pending_at >= CUT_BYTES && self.pending_at >= self.waiting().len() {
            // Where something always waits it would grow by all that has passed.
            self.pending.drain(..self.pending_at);
            self.pending_at = 0;
        }
    }

    /// Memory that it keeps.
    pub(crate) fn capacity(&self) -> usize {
        self.pending.capacity() + self.unsent.capacity()
    }

    fn is_over(&self) -> bool {
        self.pending.is_empty() && self.unsent.is_empty() && self.parked == 0 && self.uncredited == 0
    }
}

/// Who the visitor is, for the access log and later judgement: what stays of an OPEN, in few bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Who {
    /// IPv4 in its mapped form.
    ip: [u8; 16],
    port: u16,
    known: bool,
    pub(crate) stream_id: [u8; 16],
}

impl Who {
    pub(crate) fn of(open: &Open) -> Self {
        let nobody = Self { stream_id: open.stream_id, ..Self::default() };
        open.visitor.map_or(nobody, |visitor| Self::at(visitor, open.stream_id))
    }

    pub(crate) fn at(address: SocketAddr, stream_id: [u8; 16]) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self { ip, port: address.port(), known: true, stream_id }
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.known.then(|| SocketAddr::new(IpAddr::V6(Ipv6Addr::from(self.ip)).to_canonical(), self.port))
    }
}

/// Whoever brings a visitor to a POP.
pub(crate) struct Bringer {
    pub(crate) uid: String,
    /// The end of its certificate, Unix seconds; of a gateway on a Unix socket never.
    pub(crate) not_after: i64,
    /// The key that it has shown; on a Unix socket none.
    pub(crate) key: Option<KeyFingerprint>,
    /// Who has signed in at it, as it says.
    pub(crate) signed_in: Option<SignedIn>,
}

impl Bringer {
    pub(crate) fn new(uid: String, not_after: i64, key: Option<KeyFingerprint>) -> Self {
        Self { uid, not_after, key, signed_in: None }
    }

    /// By the certificate that it has shown.
    pub(crate) fn shown(peer: &PeerIdentity) -> Self {
        Self::new(peer.uid.clone(), peer.not_after, Some(peer.key))
    }

    /// When what its visitor has shown ends, if anything does; Unix seconds.
    pub(crate) fn visit_ends(&self) -> Option<i64> {
        self.signed_in.as_ref().and_then(|person| person.until)
    }
}

/// Thousands of them idle: an idle one holds no buffer, and what only a few need is in a box.
pub(crate) struct Relay {
    pub(crate) socket: Option<Socket>,
    pub(crate) tls: Option<Box<RelayTls>>,
    pub(crate) backlog: Option<Box<Backlog>>,
    /// Session and stream, once there is one.
    pub(crate) session: usize,
    pub(crate) stream: u32,
    /// Route at the POP, service at the agent.
    pub(crate) owner: usize,
    /// POP: who brought it: a gateway, or a connector.
    pub(crate) bringer: Option<Box<Bringer>>,
    /// Until its local service has answered; of a flow for as long as it lives.
    pub(crate) open: Option<Box<Open>>,
    pub(crate) who: Who,
    /// End-to-end TLS on the stream.
    pub(crate) sealed: Option<Box<Sealed>>,
    /// POP: the relay of the stream that this one is joined to; neither has a socket.
    pub(crate) mate: Option<NonZeroU32>,
    /// Datagrams instead of bytes.
    pub(crate) flow: Option<Box<Flow>>,
    /// POP: its bytes per second are limited.
    pub(crate) brake: Option<Box<Brake>>,
    pub(crate) serial: u64,
    pub(crate) started: Instant,
    /// Socket to session.
    pub(crate) bytes_read: u64,
    /// Session to socket.
    pub(crate) bytes_written: u64,
    pub(crate) phase: Phase,
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
}

impl Relay {
    pub(crate) fn new(phase: Phase, owner: usize, serial: u64, now: Instant) -> Self {
        Self {
            socket: None,
            tls: None,
            backlog: None,
            session: usize::MAX,
            stream: 0,
            owner,
            bringer: None,
            open: None,
            who: Who::default(),
            sealed: None,
            mate: None,
            flow: None,
            brake: None,
            serial,
            started: now,
            bytes_read: 0,
            bytes_written: 0,
            phase,
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
        }
    }

    /// It got a stream. A flow's OPEN is kept.
    pub(crate) fn opened_by(&mut self, open: &Open) {
        self.who = Who::of(open);
        self.open = self.flow.is_some().then(|| Box::new(open.clone()));
    }

    /// Plain bytes read ahead of credit.
    pub(crate) fn unsent(&self) -> &[u8] {
        self.backlog.as_ref().map_or(&[], |backlog| &backlog.unsent)
    }

    /// Bytes from the session that wait for the socket, sealed or not.
    pub(crate) fn has_pending(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| !backlog.pending.is_empty())
            || self.tls.as_ref().is_some_and(|tls| !tls.out.waiting().is_empty())
    }

    /// Its backlog, if nothing waits there any more.
    pub(crate) fn spent_backlog(&mut self) -> Option<Box<Backlog>> {
        self.backlog.take_if(|backlog| backlog.is_over())
    }

    /// The peer of its TLS said that it sends no more.
    pub(crate) fn peer_closed(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.tls.peer_closed)
    }

    /// Bytes that wait for a slow socket.
    pub(crate) fn parked(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.waiting().len())
            + self.tls.as_ref().map_or(0, |tls| tls.out.waiting().len())
            + self.flow.as_ref().map_or(0, |flow| flow.parked() + flow.unsent_bytes())
            + self.sealed.as_ref().map_or(0, |sealed| sealed.waiting())
    }

    pub(crate) fn has_stream(&self) -> bool {
        self.stream != 0
    }
}

/// Relays by index, each in a box of its own: a row of them would leave holes of its former sizes as it grows.
#[derive(Default)]
pub(crate) struct Relays(Slab<Box<Relay>>);

impl Relays {
    pub(crate) fn insert(&mut self, relay: Relay) -> usize {
        self.0.insert(Box::new(relay))
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Relay> {
        self.0.get(index).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Relay> {
        self.0.get_mut(index).map(Box::as_mut)
    }

    pub(crate) fn forget(&mut self, index: usize) {
        self.0.try_remove(index);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Relay)> {
        self.0.iter().map(|(index, relay)| (index, relay.as_ref()))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Relay)> {
        self.0.iter_mut().map(|(index, relay)| (index, relay.as_mut()))
    }
}

impl Index<usize> for Relays {
    type Output = Relay;

    fn index(&self, index: usize) -> &Relay {
        &self.0[index]
    }
}

impl IndexMut<usize> for Relays {
    fn index_mut(&mut self, index: usize) -> &mut Relay {
        &mut self.0[index]
    }
}

/// How a relay ended.
pub(crate) type Outcome = Result<(), ResetCode>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_is_never_empty_holds_no_more_than_what_waits_and_as_much_again() {
        let mut backlog = Backlog::new(Instant::now());
        backlog.pending.extend_from_slice(&[0; 100_000]);
        for _ in 0..1_000 {
            backlog.pending.extend_from_slice(&[1; 50_000]);
            backlog.took(50_000);
            assert_eq!(backlog.waiting().len(), 100_000);
            assert!(backlog.pending.len() <= 200_000, "{}", backlog.pending.len());
        }
    }

    #[test]
    fn an_idle_relay_takes_less_than_two_hundred_bytes_and_no_box_but_its_own() {
        assert!(size_of::<Relay>() <= 192, "{}", size_of::<Relay>());
        let relay = Relay::new(Phase::Open, 0, 1, Instant::now());
        assert!(relay.backlog.is_none() && relay.tls.is_none() && relay.open.is_none() && relay.flow.is_none());
    }
}
