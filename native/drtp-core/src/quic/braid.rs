//! One QUIC connection as a lane: frames parted over QUIC streams on the way out, whole frames on the way in.
//!
//! The dialler's first stream is the session's own (HELLO, PING, GOAWAY). OPEN begins a QUIC stream, on which both
//! directions' frames of that stream follow. RST is QUIC's own reset, which nothing lost holds up; a QUIC stream ends
//! in order when FIN has gone both ways. Datagrams go in QUIC's datagrams once the peer has been heard on their
//! stream, if they fit, else on the stream.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::crypto::rustls::HandshakeData;
use quinn_proto::{
    Connection, ConnectionEvent, ConnectionHandle, Dir, EndpointEvent, Event, ReadError, ReadableError, Side,
    StreamEvent, StreamId, Transmit, VarInt,
};
use rustls_pki_types::CertificateDer;

use super::part::{Head, Part};
use crate::frame::{Frame, HEADER_BYTES, Kind, put};
use crate::identity::{IdentityError, PeerIdentity};
use crate::session::ById;

/// Bytes read in one turn, so that others get theirs.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// The session's own frames go before visitors' bytes.
const FIRST: i32 = 1;

/// Why a QUIC lane is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// QUIC's own end: the peer's close, its silence, or its mistake.
    #[error("QUIC: {0}")]
    Lost(String),
    /// The peer ended the session's own stream in order.
    #[error("peer closed the connection")]
    Ended,
    /// A frame on a stream where it does not belong.
    #[error("frame on the wrong QUIC stream")]
    Misplaced,
    /// A stream that ended in the midst of a frame, or before FIN had gone both ways.
    #[error("QUIC stream cut off")]
    Cut,
}

/// One QUIC stream.
#[derive(Debug, Default)]
struct Strand {
    /// Whose it is, once its first frame has come or gone; 0 is the session's own.
    stream: Option<u32>,
    /// What QUIC does not take yet.
    out: VecDeque<u8>,
    part: Part,
    said_fin: bool,
    came_fin: bool,
    /// The peer has been heard on it.
    heard: bool,
    finished: bool,
}

impl Strand {
    fn of(stream: u32) -> Self {
        Self { stream: Some(stream), ..Self::default() }
    }

    fn done(&self) -> bool {
        self.said_fin && self.came_fin
    }
}

/// What a stream says before it has a QUIC stream.
#[derive(Debug)]
struct Unopened {
    stream: u32,
    bytes: Vec<u8>,
    said_fin: bool,
}

pub(crate) struct Braid {
    handle: ConnectionHandle,
    connection: Connection,
    control: Option<StreamId>,
    strands: BTreeMap<StreamId, Strand>,
    by_stream: ById<StreamId>,
    /// Streams for which the peer has not let us begin a QUIC stream yet, in order.
    unopened: VecDeque<Unopened>,
    readable: BTreeSet<StreamId>,
    /// The session's own stream has brought its first frame: before it nothing else is read.
    greeted: bool,
    waiting: usize,
    established: bool,
    /// Our last words were said, and heard.
    said_bye: bool,
    bye_heard: bool,
    fault: Option<Fault>,
    whole: Vec<u8>,
}

impl Braid {
    pub(super) fn new(handle: ConnectionHandle, connection: Connection) -> Self {
        Self {
            handle,
            connection,
            control: None,
            strands: BTreeMap::new(),
            by_stream: ById::default(),
            unopened: VecDeque::new(),
            readable: BTreeSet::new(),
            greeted: false,
            waiting: 0,
            established: false,
            said_bye: false,
            bye_heard: false,
            fault: None,
            whole: Vec::new(),
        }
    }

    // ---- what it is ------------------------------------------------------------------------------------------------

    /// The handshake is complete, the peer's chain verified.
    pub(crate) fn established(&self) -> bool {
        self.established
    }

    /// Who the peer is, from its leaf alone, where it said that it speaks as we do.
    pub(crate) fn peer(&self) -> Result<PeerIdentity, IdentityError> {
        let session = self.connection.crypto_session();
        let data = session.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        let alpn = data.and_then(|data| data.protocol);
        if alpn.as_deref() != Some(super::ALPN_QUIC) {
            return Err(IdentityError::Unreadable);
        }
        let chain = session.peer_identity().and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        let chain = chain.ok_or(IdentityError::Unreadable)?;
        PeerIdentity::of_leaf(chain.first().ok_or(IdentityError::Unreadable)?)
    }

    /// Bytes that QUIC has not taken.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The peer has all that was said before [`Braid::say_bye`].
    pub(crate) fn bye_heard(&self) -> bool {
        self.bye_heard
    }

    /// QUIC itself has told its port of the end.
    pub(super) fn is_drained(&self) -> bool {
        self.connection.is_drained()
    }

    /// What its port calls it.
    pub(crate) fn handle(&self) -> ConnectionHandle {
        self.handle
    }

    // ---- QUIC's own ------------------------------------------------------------------------------------------------

    pub(crate) fn take(&mut self, event: ConnectionEvent) {
        self.connection.handle_event(event);
        self.note();
    }

    pub(super) fn endpoint_event(&mut self) -> Option<EndpointEvent> {
        self.connection.poll_endpoint_events()
    }

    /// When [`Braid::tick`] has something to do.
    pub(crate) fn next_tick(&mut self) -> Option<Instant> {
        self.connection.poll_timeout()
    }

    pub(crate) fn tick(&mut self, now: Instant) {
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
            self.note();
        }
    }

    /// Fills the empty `out` with at most `runs` datagrams for one send.
    pub(crate) fn transmit(&mut self, now: Instant, runs: usize, out: &mut Vec<u8>) -> Option<Transmit> {
        self.connection.poll_transmit(now, runs, out)
    }

    /// Ends the connection at once; what was not heard is lost.
    pub(crate) fn close(&mut self, now: Instant) {
        self.connection.close(now, VarInt::from_u32(0), Bytes::new());
    }

    fn note(&mut self) {
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => {
                    self.established = true;
                    self.open_waiting();
                }
                Event::ConnectionLost { reason } => {
                    self.fault.get_or_insert(Fault::Lost(reason.to_string()));
                }
                Event::Stream(StreamEvent::Readable { id }) => {
                    self.readable.insert(id);
                }
                Event::Stream(StreamEvent::Writable { id }) => self.flush(id),
                Event::Stream(StreamEvent::Finished { id }) => {
                    self.bye_heard |= Some(id) == self.control && self.said_bye;
                }
                Event::Stream(StreamEvent::Available { .. }) => self.open_waiting(),
                Event::Stream(StreamEvent::Opened { .. }) => self.accept(),
                // Its reset comes on the other direction.
                Event::Stream(StreamEvent::Stopped { .. })
                | Event::HandshakeDataReady
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
    }

    fn accept(&mut self) {
        while let Some(id) = self.connection.streams().accept(Dir::Bi) {
            let first = self.connection.side() == Side::Server && self.control.is_none();
            if first {
                self.control = Some(id);
                self.prefer(id);
            }
            self.strands.insert(id, if first { Strand::of(0) } else { Strand::default() });
            self.readable.insert(id);
        }
    }

    fn prefer(&mut self, id: StreamId) {
        // It is open: this cannot fail, and would only cost its preference.
        let _ = self.connection.send_stream(id).set_priority(FIRST);
    }

    // ---- out -------------------------------------------------------------------------------------------------------

    /// Takes a session's batch: whole frames.
    pub(crate) fn send(&mut self, batch: &[u8]) {
        let mut rest = batch;
        while let Some(head) = rest.first_chunk::<HEADER_BYTES>().map(|bytes| Head::of(*bytes)) {
            let (frame, after) = rest.split_at((HEADER_BYTES + head.length).min(rest.len()));
            self.send_frame(head, frame);
            rest = after;
        }
    }

    fn send_frame(&mut self, head: Head, frame: &[u8]) {
        if head.is(Kind::Rst) && head.stream != 0 {
            let code = frame.last_chunk::<4>().map_or(0, |code| u32::from_be_bytes(*code));
            return self.cut(head.stream, code);
        }
        if head.is(Kind::Open) || (head.stream == 0 && self.control.is_none()) {
            self.unopened.push_back(Unopened { stream: head.stream, bytes: frame.to_vec(), said_fin: false });
            self.waiting += frame.len();
            return self.open_waiting();
        }
        let id = if head.stream == 0 { self.control } else { self.by_stream.get(&head.stream).copied() };
        let Some(id) = id else {
            // It is over, or it waits to be begun.
            if let Some(waiting) = self.unopened.iter_mut().find(|waiting| waiting.stream == head.stream) {
                waiting.bytes.extend_from_slice(frame);
                waiting.said_fin |= head.is(Kind::Fin);
                self.waiting += frame.len();
            }
            return;
        };
        let Some(strand) = self.strands.get_mut(&id) else { return };
        if head.is(Kind::Dgram) && strand.heard {
            let mut datagrams = self.connection.datagrams();
            let fits = datagrams.max_size().is_some_and(|max| frame.len() <= max);
            if fits && datagrams.send(Bytes::copy_from_slice(frame), true).is_ok() {
                return;
            }
        }
        strand.said_fin |= head.is(Kind::Fin);
        strand.out.extend(frame);
        self.waiting += frame.len();
        self.flush(id);
    }

    /// Begins QUIC streams for those that wait, as far as the peer lets us. The session's own is the dialler's first.
    fn open_waiting(&mut self) {
        while let Some(first) = self.unopened.front() {
            let own = first.stream == 0;
            if own && self.connection.side() == Side::Server {
                // The peer begins it.
                let Some(id) = self.control else { return };
                let Some(waiting) = self.unopened.pop_front() else { return };
                self.strands.entry(id).or_default().out.extend(waiting.bytes);
                self.flush(id);
                continue;
            }
            let Some(id) = self.connection.streams().open(Dir::Bi) else { return };
            let Some(Unopened { stream, bytes, said_fin }) = self.unopened.pop_front() else { return };
            if own {
                self.control = Some(id);
                self.prefer(id);
            } else {
                self.by_stream.insert(stream, id);
            }
            let strand = Strand { out: bytes.into(), said_fin, ..Strand::of(stream) };
            self.strands.insert(id, strand);
            self.flush(id);
        }
    }

    fn flush(&mut self, id: StreamId) {
        let Some(strand) = self.strands.get_mut(&id) else { return };
        while !strand.out.is_empty() {
            let Ok(count) = self.connection.send_stream(id).write(strand.out.as_slices().0) else { break };
            strand.out.drain(..count);
            self.waiting -= count;
        }
        if strand.out.is_empty() {
            strand.out = VecDeque::new();
            let ends = if Some(id) == self.control { self.said_bye } else { strand.done() };
            if ends && !std::mem::replace(&mut strand.finished, true) {
                // The peer may have stopped it already.
                let _ = self.connection.send_stream(id).finish();
                if let Some(stream) = strand.stream.filter(|stream| *stream != 0) {
                    self.by_stream.remove(&stream);
                }
            }
        }
    }

    /// Nothing follows: see [`Braid::bye_heard`].
    pub(crate) fn say_bye(&mut self) {
        self.said_bye = true;
        match self.control {
            Some(id) => self.flush(id),
            None => self.bye_heard = true,
        }
    }

    /// A stream is over, badly, in both directions.
    fn cut(&mut self, stream: u32, code: u32) {
        if let Some(at) = self.unopened.iter().position(|waiting| waiting.stream == stream) {
            self.waiting -= self.unopened.remove(at).map_or(0, |waiting| waiting.bytes.len());
        }
        if let Some(id) = self.by_stream.remove(&stream) {
            self.forget(id, code);
        }
    }

    fn forget(&mut self, id: StreamId, code: u32) {
        let Some(strand) = self.strands.remove(&id) else { return };
        self.waiting -= strand.out.len();
        self.readable.remove(&id);
        let code = VarInt::from_u32(code);
        // What is closed already needs no more.
        let _ = self.connection.send_stream(id).reset(code);
        let _ = self.connection.recv_stream(id).stop(code);
    }

    // ---- in --------------------------------------------------------------------------------------------------------

    /// Gives whole frames to `sink`. True: there is more.
    pub(crate) fn receive(&mut self, sink: &mut impl FnMut(&[u8])) -> Result<bool, Fault> {
        let mut room = READ_BYTES_MAX;
        if let Some(id) = self.control.filter(|id| self.readable.contains(id)) {
            self.read(id, &mut room, sink)?;
        }
        if self.greeted {
            for id in self.readable.iter().copied().collect::<Vec<_>>() {
                if room == 0 {
                    return Ok(true);
                }
                self.read(id, &mut room, sink)?;
            }
            while let Some(datagram) = self.connection.datagrams().recv() {
                let head = datagram.first_chunk::<HEADER_BYTES>().map(|bytes| Head::of(*bytes));
                let known = head.filter(|head| {
                    let whole = datagram.len() == HEADER_BYTES + head.length;
                    whole && head.is(Kind::Dgram) && self.by_stream.contains_key(&head.stream)
                });
                if known.is_some() {
                    sink(&datagram);
                }
            }
        }
        // What came before the end is handed over first.
        self.fault.clone().map_or(Ok(false), Err)
    }

    fn read(&mut self, id: StreamId, room: &mut usize, sink: &mut impl FnMut(&[u8])) -> Result<(), Fault> {
        let own = Some(id) == self.control;
        let Some(strand) = self.strands.get_mut(&id) else {
            self.readable.remove(&id);
            return Ok(());
        };
        self.whole.clear();
        let mut stream = self.connection.recv_stream(id);
        let mut end = End::None;
        match stream.read(true) {
            Ok(mut chunks) => {
                while *room > 0 && matches!(end, End::None) {
                    match chunks.next(*room) {
                        Ok(Some(chunk)) => {
                            *room -= chunk.bytes.len();
                            strand.heard = true;
                            let (bound, by_stream) = (&mut strand.stream, &mut self.by_stream);
                            let came_fin = &mut strand.came_fin;
                            strand.part.feed(&chunk.bytes, &mut self.whole, &mut |head| {
                                place(head, own, id, bound, came_fin, by_stream)
                            })?;
                        }
                        Ok(None) => end = End::InOrder,
                        Err(ReadError::Reset(code)) => end = End::Reset(code.into_inner() as u32),
                        Err(ReadError::Blocked) => end = End::Later,
                    }
                }
                // Whoever has read also sends: what it says is sent in any case.
                let _ = chunks.finalize();
            }
            Err(ReadableError::ClosedStream) => end = End::Later,
            Err(ReadableError::IllegalOrderedRead) => return Err(Fault::Cut),
        }
        if !matches!(end, End::None) {
            self.readable.remove(&id);
        }
        let (part_empty, done, owner) = (strand.part.is_empty(), strand.done(), strand.stream);
        if !self.whole.is_empty() {
            self.greeted |= own;
            sink(&self.whole);
        }
        match end {
            End::None | End::Later => {}
            End::InOrder if own => return Err(Fault::Ended),
            End::InOrder if part_empty && done => {
                self.flush(id);
                self.strands.remove(&id);
            }
            End::InOrder => return Err(Fault::Cut),
            End::Reset(_) if own => return Err(Fault::Cut),
            End::Reset(code) => {
                if let Some(stream) = owner {
                    self.by_stream.remove(&stream);
                    let mut frame = Vec::new();
                    put(&mut frame, stream, &Frame::Rst(code));
                    sink(&frame);
                }
                self.forget(id, code);
            }
        }
        if done {
            self.flush(id);
        }
        Ok(())
    }
}

enum End {
    None,
    /// Nothing more now.
    Later,
    InOrder,
    Reset(u32),
}

/// Holds a frame that came to the QUIC stream that it belongs on.
fn place(
    head: Head,
    own: bool,
    id: StreamId,
    bound: &mut Option<u32>,
    came_fin: &mut bool,
    by_stream: &mut ById<StreamId>,
) -> Result<(), Fault> {
    match bound {
        Some(stream) if *stream == head.stream && (own || !head.is(Kind::Rst)) => {}
        None if !own && head.stream != 0 && head.is(Kind::Open) && !by_stream.contains_key(&head.stream) => {
            *bound = Some(head.stream);
            by_stream.insert(head.stream, id);
        }
        _ => return Err(Fault::Misplaced),
    }
    *came_fin |= head.is(Kind::Fin) && !own;
    Ok(())
}

#[cfg(test)]
impl Braid {
    pub(super) fn open_strands(&self) -> usize {
        self.strands.len()
    }

    /// Says bytes on a stream's QUIC stream, whatever they are.
    pub(super) fn misplace(&mut self, stream: u32, bytes: &[u8]) {
        let id = self.by_stream[&stream];
        self.strands.get_mut(&id).unwrap().out.extend(bytes);
        self.waiting += bytes.len();
        self.flush(id);
    }
}
