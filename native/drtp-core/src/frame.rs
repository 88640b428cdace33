//! Frames of `drtp/1` on a lane: an 8-byte header (stream id 32 bits, type 8, length 24, big endian), then the body.
//!
//! The parser streams: frames may cross TLS records and reads anywhere, DATA is handed on in pieces and never gathered,
//! and every length is judged from the header, before anything is allocated for the body.

use std::borrow::Cow;

use crate::message::{GoAway, Hello, MessageError, Open};

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 8;
/// Longest DATA body that we write. It keeps a visitor's share of one turn small; readers accept up to 24 bits.
pub const DATA_BYTES_MAX: usize = 64 * 1024;
/// Longest datagram: what fits a UDP packet over IPv4.
pub const DATAGRAM_BYTES_MAX: usize = 65_507;
/// Longest body of a frame of unknown type that is skipped.
const SKIP_BYTES_MAX: u32 = 64 * 1024;
/// Types from here on are critical: who does not know them must not go on.
const CRITICAL_FROM: u8 = 0x80;

/// Frame types on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// First frame of each lane, both ways.
    Hello = 1,
    /// A visitor came.
    Open = 2,
    /// A stream's bytes.
    Data = 3,
    /// No more bytes in this direction.
    Fin = 4,
    /// The stream ended badly, both directions.
    Rst = 5,
    /// The receiver wants no more bytes of this direction.
    StopSending = 6,
    /// Credit: the offset up to which the peer may send. The agent's first one says that the local service answered.
    Window = 7,
    /// A datagram of a UDP flow.
    Dgram = 8,
    /// This direction goes on on another lane, from this offset.
    Move = 9,
    /// Are you there?
    Ping = 10,
    /// Yes.
    Pong = 11,
    /// No new streams; or the end of the session, with a code.
    GoAway = 12,
}

impl Kind {
    fn known(byte: u8) -> Option<Self> {
        const ALL: [Kind; 12] = [
            Kind::Hello,
            Kind::Open,
            Kind::Data,
            Kind::Fin,
            Kind::Rst,
            Kind::StopSending,
            Kind::Window,
            Kind::Dgram,
            Kind::Move,
            Kind::Ping,
            Kind::Pong,
            Kind::GoAway,
        ];
        ALL.get(usize::from(byte).wrapping_sub(1)).copied()
    }

    /// Body lengths that this type may have.
    const fn bounds(self) -> (u32, u32) {
        match self {
            Kind::Hello => (Hello::BYTES as u32, 1_024),
            Kind::Open => (Open::BYTES_MIN as u32, 1_024),
            Kind::Data => (0, 0x00ff_ffff),
            Kind::Fin => (0, 0),
            Kind::Rst | Kind::StopSending => (4, 4),
            Kind::Window | Kind::Ping | Kind::Pong => (8, 8),
            Kind::Dgram => (0, DATAGRAM_BYTES_MAX as u32),
            Kind::Move => (9, 9),
            Kind::GoAway => (8, 512),
        }
    }
}

/// What a peer got wrong at this layer. Each ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length outside the type's bounds.
    #[error("a frame of type {kind} is {length} bytes long")]
    Length {
        /// Type byte.
        kind: u8,
        /// Length claimed.
        length: u32,
    },
    /// A critical type that this version does not know.
    #[error("unknown critical frame type {0}")]
    Critical(u8),
    /// A body that does not decode.
    #[error("malformed body: {0}")]
    Body(#[from] MessageError),
}

/// A parsed piece of the wire.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A piece of a DATA body, in order. An empty DATA frame is one empty piece.
    Data {
        /// Stream id.
        stream: u32,
        /// The piece, borrowed from the input.
        bytes: &'a [u8],
        /// Length of the whole body, at its first piece only: credit is checked against it.
        announced: Option<u32>,
    },
    /// A datagram, whole.
    Datagram {
        /// Stream id.
        stream: u32,
        /// Its bytes, borrowed from the input unless they came in pieces.
        bytes: Cow<'a, [u8]>,
    },
    /// Any other frame, whole.
    Frame {
        /// Stream id; 0 is the session's own.
        stream: u32,
        /// What it says.
        frame: Frame,
    },
    /// A frame of unknown type was skipped.
    Skipped,
}

/// Every frame but DATA and DGRAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// See [`Kind::Hello`].
    Hello(Hello),
    /// See [`Kind::Open`].
    Open(Box<Open>),
    /// See [`Kind::Fin`].
    Fin,
    /// See [`Kind::Rst`].
    Rst(u32),
    /// See [`Kind::StopSending`].
    StopSending(u32),
    /// See [`Kind::Window`].
    Window(u64),
    /// See [`Kind::Move`].
    Move {
        /// Lane that carries on.
        lane: u8,
        /// Bytes of this direction sent before.
        offset: u64,
    },
    /// See [`Kind::Ping`].
    Ping(u64),
    /// See [`Kind::Pong`].
    Pong(u64),
    /// See [`Kind::GoAway`].
    GoAway(GoAway),
}

#[derive(Debug, Default)]
enum Body {
    #[default]
    None,
    Data {
        stream: u32,
        left: u32,
        announced: Option<u32>,
    },
    Gather {
        stream: u32,
        kind: Kind,
        length: usize,
        got: Vec<u8>,
    },
    Skip {
        left: u32,
    },
}

/// Streaming parser of one lane.
#[derive(Debug, Default)]
pub struct Parser {
    head: [u8; HEADER_BYTES],
    head_len: usize,
    body: Body,
}

impl Parser {
    /// Takes the next piece off `input`; `None` when more bytes are needed. After an error the lane is of no more use.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Item<'a>>, FrameError> {
        if matches!(self.body, Body::None) && !self.header(input)? {
            return Ok(None);
        }
        match &mut self.body {
            Body::None => Ok(None),
            Body::Data { stream, left, announced } => {
                let first = announced.take();
                if input.is_empty() && *left > 0 && first.is_none() {
                    return Ok(None);
                }
                let (bytes, rest) = input.split_at(input.len().min(*left as usize));
                *input = rest;
                *left -= bytes.len() as u32;
                let item = Item::Data { stream: *stream, bytes, announced: first };
                if *left == 0 {
                    self.body = Body::None;
                }
                Ok(Some(item))
            }
            Body::Skip { left } => {
                let step = input.len().min(*left as usize);
                *input = &input[step..];
                *left -= step as u32;
                if *left > 0 {
                    return Ok(None);
                }
                self.body = Body::None;
                Ok(Some(Item::Skipped))
            }
            Body::Gather { stream, kind, length, got } => {
                let (stream, kind) = (*stream, *kind);
                let step = input.len().min(*length - got.len());
                let (bytes, rest) = input.split_at(step);
                *input = rest;
                let body = if got.is_empty() && step == *length {
                    Cow::Borrowed(bytes)
                } else {
                    got.extend_from_slice(bytes);
                    if got.len() < *length {
                        return Ok(None);
                    }
                    Cow::Owned(std::mem::take(got))
                };
                self.body = Body::None;
                if kind == Kind::Dgram {
                    return Ok(Some(Item::Datagram { stream, bytes: body }));
                }
                Ok(Some(Item::Frame { stream, frame: decode(kind, &body)? }))
            }
        }
    }

    /// Fills the header; true when it is whole and the body's state is set.
    fn header(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        let step = input.len().min(HEADER_BYTES - self.head_len);
        self.head[self.head_len..self.head_len + step].copy_from_slice(&input[..step]);
        *input = &input[step..];
        self.head_len += step;
        if self.head_len < HEADER_BYTES {
            return Ok(false);
        }
        self.head_len = 0;
        let [a, b, c, d, kind, x, y, z] = self.head;
        let stream = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, x, y, z]);
        self.body = match Kind::known(kind) {
            None if kind >= CRITICAL_FROM => return Err(FrameError::Critical(kind)),
            None if length > SKIP_BYTES_MAX => return Err(FrameError::Length { kind, length }),
            None => Body::Skip { left: length },
            Some(known) => {
                let (min, max) = known.bounds();
                if length < min || length > max {
                    return Err(FrameError::Length { kind, length });
                }
                if known == Kind::Data {
                    Body::Data { stream, left: length, announced: Some(length) }
                } else {
                    Body::Gather { stream, kind: known, length: length as usize, got: Vec::new() }
                }
            }
        };
        Ok(true)
    }
}

fn decode(kind: Kind, body: &[u8]) -> Result<Frame, FrameError> {
    let u32_at = |at: usize| body.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let u64_at = |at: usize| body.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    let short = MessageError::Short;
    Ok(match kind {
        Kind::Hello => Frame::Hello(Hello::decode(body)?),
        Kind::Open => Frame::Open(Box::new(Open::decode(body)?)),
        Kind::Data | Kind::Dgram | Kind::Fin => Frame::Fin,
        Kind::Rst => Frame::Rst(u32_at(0).ok_or(short)?),
        Kind::StopSending => Frame::StopSending(u32_at(0).ok_or(short)?),
        Kind::Window => Frame::Window(u64_at(0).ok_or(short)?),
        Kind::Move => Frame::Move { lane: *body.first().ok_or(short)?, offset: u64_at(1).ok_or(short)? },
        Kind::Ping => Frame::Ping(u64_at(0).ok_or(short)?),
        Kind::Pong => Frame::Pong(u64_at(0).ok_or(short)?),
        Kind::GoAway => Frame::GoAway(GoAway::decode(body)?),
    })
}

/// Appends a header. `length` is below 2^24 by the callers' caps.
pub fn put_header(out: &mut Vec<u8>, stream: u32, kind: Kind, length: usize) {
    debug_assert!(length < 1 << 24, "frame bodies are capped far below 24 bits");
    let [_, x, y, z] = (length as u32).to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    out.extend_from_slice(&[a, b, c, d, kind as u8, x, y, z]);
}

/// Appends a whole frame.
pub fn put(out: &mut Vec<u8>, stream: u32, frame: &Frame) {
    let mut body = |kind: Kind, bytes: &[u8]| {
        put_header(out, stream, kind, bytes.len());
        out.extend_from_slice(bytes);
    };
    match frame {
        Frame::Hello(hello) => body(Kind::Hello, &hello.encode()),
        Frame::Open(open) => body(Kind::Open, &open.encode()),
        Frame::Fin => body(Kind::Fin, &[]),
        Frame::Rst(code) => body(Kind::Rst, &code.to_be_bytes()),
        Frame::StopSending(code) => body(Kind::StopSending, &code.to_be_bytes()),
        Frame::Window(offset) => body(Kind::Window, &offset.to_be_bytes()),
        Frame::Move { lane, offset } => {
            let mut bytes = vec![*lane];
            bytes.extend_from_slice(&offset.to_be_bytes());
            body(Kind::Move, &bytes);
        }
        Frame::Ping(nonce) => body(Kind::Ping, &nonce.to_be_bytes()),
        Frame::Pong(nonce) => body(Kind::Pong, &nonce.to_be_bytes()),
        Frame::GoAway(goaway) => body(Kind::GoAway, &goaway.encode()),
    }
}

/// Appends a DGRAM frame.
pub fn put_datagram(out: &mut Vec<u8>, stream: u32, bytes: &[u8]) {
    put_header(out, stream, Kind::Dgram, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a DATA frame.
pub fn put_data(out: &mut Vec<u8>, stream: u32, bytes: &[u8]) {
    put_header(out, stream, Kind::Data, bytes.len());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(parser: &mut Parser, mut input: &[u8]) -> Result<Vec<String>, FrameError> {
        let mut seen = Vec::new();
        while let Some(item) = parser.next(&mut input)? {
            seen.push(format!("{item:?}"));
        }
        Ok(seen)
    }

    #[test]
    fn control_frames_survive_any_split() {
        let mut wire = Vec::new();
        put(&mut wire, 0, &Frame::Hello(Hello::default()));
        put(&mut wire, 9, &Frame::Window(77));
        put(&mut wire, 9, &Frame::Move { lane: 2, offset: 1 << 40 });
        put(&mut wire, 0, &Frame::GoAway(GoAway { code: 1, deadline_ms: 2, reason: "bye".into() }));
        let whole = items(&mut Parser::default(), &wire).unwrap();
        for cut in 0..wire.len() {
            let mut parser = Parser::default();
            let mut seen = items(&mut parser, &wire[..cut]).unwrap();
            seen.extend(items(&mut parser, &wire[cut..]).unwrap());
            assert_eq!(seen, whole);
        }
    }

    #[test]
    fn lengths_are_judged_before_the_body_comes() {
        let mut wire = Vec::new();
        put_header(&mut wire, 1, Kind::Open, 0x00ff_ffff);
        assert!(matches!(items(&mut Parser::default(), &wire), Err(FrameError::Length { kind: 2, .. })));
    }

    #[test]
    fn datagrams_come_whole_whatever_their_size_and_the_cuts() {
        for size in [0, 1, 1_200, 16_384, DATAGRAM_BYTES_MAX] {
            let body: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let mut wire = Vec::new();
            put_datagram(&mut wire, 5, &body);
            for cut in [0, 3, HEADER_BYTES, wire.len() / 2, wire.len()] {
                let mut parser = Parser::default();
                let mut seen = Vec::new();
                for mut part in [&wire[..cut], &wire[cut..]] {
                    while let Some(item) = parser.next(&mut part).unwrap() {
                        let Item::Datagram { stream: 5, bytes } = item else { panic!("{item:?}") };
                        seen.push(bytes.into_owned());
                    }
                }
                assert!(seen == std::slice::from_ref(&body), "{size} bytes cut at {cut}");
            }
        }
    }

    #[test]
    fn a_datagram_longer_than_udp_carries_ends_the_lane() {
        let mut wire = Vec::new();
        put_header(&mut wire, 5, Kind::Dgram, DATAGRAM_BYTES_MAX + 1);
        assert!(matches!(items(&mut Parser::default(), &wire), Err(FrameError::Length { kind: 8, .. })));
    }

    #[test]
    fn unknown_types_are_skipped_and_critical_ones_end_the_lane() {
        let skipped = [0, 0, 0, 1, 0x40, 0, 0, 2, 9, 9];
        assert_eq!(items(&mut Parser::default(), &skipped).unwrap(), ["Skipped"]);
        assert_eq!(items(&mut Parser::default(), &[0, 0, 0, 1, 0x81, 0, 0, 0]), Err(FrameError::Critical(0x81)));
        let long = [0, 0, 0, 1, 0x40, 0xff, 0, 0];
        assert!(items(&mut Parser::default(), &long).is_err());
    }

    proptest! {
        #[test]
        fn no_input_makes_the_parser_panic(input in proptest::collection::vec(any::<u8>(), 0..600), cut in 0_usize..600) {
            let mut parser = Parser::default();
            let cut = cut.min(input.len());
            if items(&mut parser, &input[..cut]).is_ok() {
                let _ = items(&mut parser, &input[cut..]);
            }
        }
    }
}
