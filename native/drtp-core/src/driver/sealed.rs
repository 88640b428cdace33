//! End-to-end TLS inside a stream: a relay's socket has plain bytes, its stream sealed ones that nobody between the two
//! ends can read or change.
//!
//! Credit is of sealed bytes. What plain bytes take of it returns when their socket took them, what records add to them
//! at once. An end is close_notify and then FIN; a FIN without one is a cut stream, and an error.

use super::Core;
use super::relay::{Phase, Relay};
use super::table::{Table, Upcall};
use crate::identity::{IdentityError, PeerIdentity};
use crate::message::ResetCode;
use crate::session::Session;
use crate::tls::{ALPN_SEALED, ALPN_SEALED_DATAGRAMS, OutBuffer, Tls, TlsError};

/// TLS on a relay's stream.
pub(crate) struct Sealed {
    tls: Tls,
    /// What both ends must have said that they speak.
    alpn: &'static [u8],
    /// Sealed bytes on their way into the stream.
    out: OutBuffer,
    /// Sealed bytes that came and are not records' plain bytes, nor part of a record that is not whole yet.
    overhead: u64,
    /// Sealed bytes that came, less the plain ones they brought and the overhead that was counted.
    unsettled: u64,
    /// The role was told that the peer has proven itself.
    told: bool,
    /// FIN follows when `out` is empty.
    closing: bool,
    /// Whom the role found at the other end.
    pub(crate) peer: String,
}

impl Sealed {
    fn new(tls: Tls, alpn: &'static [u8]) -> Self {
        let (out, peer) = (OutBuffer::default(), String::new());
        Self { tls, alpn, out, overhead: 0, unsettled: 0, told: false, closing: false, peer }
    }

    /// Who is at the other end, once its handshake is complete and its chain verified.
    pub(crate) fn judged(&self) -> Result<PeerIdentity, IdentityError> {
        if self.tls.alpn() == Some(self.alpn) { self.tls.peer() } else { Err(IdentityError::Unreadable) }
    }

    /// Sealed bytes that wait for credit.
    pub(crate) fn waiting(&self) -> usize {
        self.out.waiting().len()
    }

    /// The peer's end is in order: it said that it sends no more.
    pub(super) fn ended_well(&self) -> bool {
        self.tls.peer_closed
    }

    /// Takes sealed bytes; `plain` gets what they bring. Nothing of a record that was changed gets there.
    fn take(&mut self, sealed: &[u8], scratch: &mut Vec<u8>, plain: &mut Vec<u8>) -> Result<u64, TlsError> {
        if self.tls.peer_closed {
            return Err(TlsError::after_the_end());
        }
        let before = plain.len();
        scratch.clear();
        self.tls.put_rest(scratch);
        scratch.extend_from_slice(sealed);
        let result = self.tls.input(scratch, &mut self.out, &mut |bytes| plain.extend_from_slice(bytes));
        let brought = (plain.len() - before) as u64;
        // An incomplete record is nothing yet; a whole one is its plain bytes and what the record adds.
        self.unsettled = (self.unsettled + sealed.len() as u64).saturating_sub(brought);
        let added = self.unsettled.saturating_sub(self.tls.rest_bytes() as u64);
        self.unsettled -= added;
        self.overhead += added;
        result.map(|()| brought)
    }

    /// Sends what waits as far as credit goes, gives credit back for what records added, and FIN after the last byte.
    fn tend(&mut self, session: &mut Session, stream: u32, now: std::time::Instant) {
        while !self.out.waiting().is_empty() {
            match session.send(stream, self.out.waiting()) {
                0 => break,
                sent => self.out.written(sent),
            }
        }
        let overhead = std::mem::take(&mut self.overhead);
        if overhead > 0 {
            session.consumed(stream, overhead, now);
        }
        if self.out.waiting().is_empty() {
            self.out.release();
            if std::mem::take(&mut self.closing) {
                session.finish(stream);
            }
        }
    }
}

impl Relay {
    /// Sealed, and its peer is not proven yet: nothing goes in or out of its socket.
    pub(crate) fn is_sealing(&self) -> bool {
        self.phase == Phase::Sealing
    }
}

impl Table {
    /// Begins TLS on a relay's stream.
    pub(crate) fn seal_stream(&mut self, relay: usize, tls: Tls) {
        let Some(state) = self.relays.get_mut(relay).filter(|relay| !relay.dead) else { return };
        let alpn = if state.flow.is_some() { ALPN_SEALED_DATAGRAMS } else { ALPN_SEALED };
        let mut sealed = Box::new(Sealed::new(tls, alpn));
        // A client's first words.
        let begun = sealed.tls.input(&mut [], &mut sealed.out, &mut |_| {});
        state.sealed = Some(sealed);
        if begun.is_err() {
            return self.end_relay(relay, Err(ResetCode::Unsealed));
        }
        if state.fin_wanted {
            return self.end_relay(relay, Err(ResetCode::Unsealed));
        }
        // What came in the same turn as its OPEN is sealed already.
        let early = state.backlog.as_mut().map(|backlog| std::mem::take(&mut backlog.pending)).unwrap_or_default();
        if !early.is_empty() {
            self.unpark(relay, early.len() as u64);
            self.unseal(relay, &early);
        }
        self.sealing.push(relay);
    }

    /// Sealed bytes came for a relay.
    pub(super) fn unseal(&mut self, relay: usize, bytes: &[u8]) {
        let Some(mut sealed) = self.relays[relay].sealed.take() else { return };
        let mut scratch = std::mem::take(&mut self.records);
        let backlog = self.backlog(relay);
        let result = sealed.take(bytes, &mut scratch, &mut backlog.pending);
        let brought = *result.as_ref().unwrap_or(&0);
        backlog.parked += brought;
        self.records = scratch;
        self.parked += brought;
        let proven = sealed.tls.established() && !std::mem::replace(&mut sealed.told, true);
        self.relays[relay].sealed = Some(sealed);
        if result.is_err() {
            self.doomed.push((relay, ResetCode::Unsealed));
            return;
        }
        if proven {
            self.upcalls.push_back(Upcall::Proven { relay });
        }
        if self.parked > self.parked_max {
            self.relieve();
        }
        self.sealing.push(relay);
        self.flush_later(relay);
        self.reclaim(relay);
    }

    /// FIN came: of a sealed stream, after a close_notify the end of its bytes, without one a cut.
    pub(super) fn stream_ended(&mut self, relay: usize) {
        let state = &self.relays[relay];
        let whole = state.sealed.as_ref().is_none_or(|sealed| sealed.ended_well());
        if whole && state.flow.is_some() {
            // A flow has no half of an end: who says no more is gone.
            self.doomed.push((relay, ResetCode::Cancelled));
        } else if whole {
            self.relays[relay].fin_wanted = true;
            self.flush_later(relay);
        } else {
            self.doomed.push((relay, ResetCode::Unsealed));
        }
    }

    /// Sends bytes of a relay's socket into its stream, as many as credit allows; gives how many were taken.
    pub(super) fn send_from(&mut self, relay: usize, bytes: &[u8]) -> usize {
        let Some(state) = self.relays.get_mut(relay) else { return 0 };
        let (session, stream) = (state.session, state.stream);
        let Some(sealed) = state.sealed.as_mut() else {
            return self.session(session).map_or(0, |session| session.send(stream, bytes));
        };
        if sealed.waiting() > 0 {
            return 0;
        }
        if sealed.tls.seal(bytes, &mut sealed.out).is_err() {
            self.doomed.push((relay, ResetCode::Unsealed));
            return 0;
        }
        self.tend_sealed(relay);
        bytes.len()
    }

    /// The relay's socket has said all: FIN, behind a close_notify where the stream is sealed.
    pub(super) fn finish_stream(&mut self, relay: usize) {
        let Some(state) = self.relays.get_mut(relay) else { return };
        let (session, stream) = (state.session, state.stream);
        if let Some(sealed) = state.sealed.as_mut() {
            sealed.closing = true;
            if sealed.tls.close(&mut sealed.out).is_err() {
                self.doomed.push((relay, ResetCode::Unsealed));
                return;
            }
            return self.tend_sealed(relay);
        }
        if let Some(session) = self.session(session) {
            session.finish(stream);
        }
    }

    pub(super) fn tend_sealed(&mut self, relay: usize) {
        let Some(state) = self.relays.get_mut(relay).filter(|relay| !relay.dead) else { return };
        let (session, stream, now) = (state.session, state.stream, self.now);
        let Some(mut sealed) = state.sealed.take() else { return };
        if let Some(session) = self.session(session) {
            sealed.tend(session, stream, now);
        }
        self.relays[relay].sealed = Some(sealed);
        self.touch(session);
    }
}

impl Core {
    /// Sealed streams that took something in, or that may send again.
    pub(super) fn tend_all_sealed(&mut self) {
        for relay in std::mem::take(&mut self.table.sealing) {
            self.table.tend_sealed(relay);
            self.end_if_complete(relay);
        }
    }

    /// The peer of a sealed stream is who it should be: bytes flow. The agent's wait for its local service still.
    pub(crate) fn peer_proven(&mut self, relay: usize, peer: String, next: Phase) {
        let Some(state) = self.table.relays.get_mut(relay).filter(|relay| !relay.dead) else { return };
        state.phase = next;
        if let Some(sealed) = state.sealed.as_mut() {
            sealed.peer = peer;
        }
        self.table.flush_later(relay);
        self.table.wakeful.push(relay);
    }
}
