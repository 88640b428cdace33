//! The bodies that have a shape of their own: HELLO, OPEN, GOAWAY; and the codes of resets and goodbyes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The one version spoken.
pub const VERSION: u16 = 1;
/// Capability bit: DGRAM frames are understood.
pub const CAPABILITY_DATAGRAMS: u32 = 1;
/// Capability bit: MOVE and several lanes are understood.
pub const CAPABILITY_LANES: u32 = 2;
/// Capability bit: streams that are sealed from end to end are understood.
pub const CAPABILITY_SEALED: u32 = 4;
/// Capability bit: sealed streams of datagrams are understood.
pub const CAPABILITY_SEALED_DATAGRAMS: u32 = 8;
/// Longest connection id taken. UIDs are UUIDs (36); the slack is for other uid forms.
const CONNECTION_BYTES_MAX: usize = 128;

/// A body that does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It ends too soon.
    #[error("too short")]
    Short,
    /// A field holds what it must not.
    #[error("bad field")]
    Field,
}

/// Why a stream was reset. Numbers are the wire's; unknown ones read as `Cancelled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ResetCode {
    /// The other end reset its socket.
    Reset = 0,
    /// The local service refused, or could not be reached.
    Refused = 1,
    /// Resolving or connecting took too long.
    Timeout = 2,
    /// The connection is not known (any more) over there.
    NoRoute = 3,
    /// Access was denied, or taken away.
    Denied = 4,
    /// A cap was reached.
    Busy = 5,
    /// The local name does not resolve.
    Unresolved = 6,
    /// TLS to the local service failed.
    TlsFailed = 7,
    /// The session is going away.
    GoingAway = 8,
    /// The service is disabled.
    Disabled = 9,
    /// The target is not allowed: not pinned, or a forbidden address.
    TargetForbidden = 10,
    /// Cancelled for another reason.
    Cancelled = 11,
    /// The session or its lane was lost.
    Lost = 12,
    /// A flow of datagrams was silent for its time: its ordinary end.
    Idle = 13,
    /// The end-to-end encryption broke: not who was expected, changed bytes, or an end without a word.
    Unsealed = 14,
    /// Inside the encryption came what is no datagram.
    Misframed = 15,
    /// The agent is of a version that does not know what the stream carries.
    TooOld = 16,
}

impl ResetCode {
    /// Reads the wire's number.
    pub fn from_wire(code: u32) -> Self {
        match code {
            0 => Self::Reset,
            1 => Self::Refused,
            2 => Self::Timeout,
            3 => Self::NoRoute,
            4 => Self::Denied,
            5 => Self::Busy,
            6 => Self::Unresolved,
            7 => Self::TlsFailed,
            8 => Self::GoingAway,
            9 => Self::Disabled,
            10 => Self::TargetForbidden,
            12 => Self::Lost,
            13 => Self::Idle,
            14 => Self::Unsealed,
            15 => Self::Misframed,
            16 => Self::TooOld,
            _ => Self::Cancelled,
        }
    }

    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Reset => "reset by the other end",
            Self::Refused => "local service refused",
            Self::Timeout => "local service timed out",
            Self::NoRoute => "unknown connection",
            Self::Denied => "access denied",
            Self::Busy => "limit reached",
            Self::Unresolved => "local name does not resolve",
            Self::TlsFailed => "TLS to the local service failed",
            Self::GoingAway => "going away",
            Self::Disabled => "disabled",
            Self::TargetForbidden => "target forbidden",
            Self::Cancelled => "cancelled",
            Self::Lost => "tunnel lost",
            Self::Idle => "idle",
            Self::Unsealed => "end-to-end encryption broke",
            Self::Misframed => "malformed datagram",
            Self::TooOld => "the other end is too old for UDP",
        }
    }
}

/// Why a session ends or drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum GoAwayCode {
    /// An orderly end: no new streams, the rest drains.
    Drain = 0,
    /// A newer (or cloned) instance of the same agent serves. Terminal.
    Fenced = 1,
    /// The agent is not known here yet; try again.
    UnknownAgent = 2,
    /// No version in common.
    Version = 3,
    /// The peer broke the protocol.
    Protocol = 4,
    /// The identity is on the deny-list.
    Denied = 5,
    /// No room here.
    Busy = 6,
    /// The certificate has run out.
    Expired = 7,
    /// A code of a later version.
    Other = 0xffff,
}

impl GoAwayCode {
    /// Reads the wire's number.
    pub fn from_wire(code: u32) -> Self {
        match code {
            0 => Self::Drain,
            1 => Self::Fenced,
            2 => Self::UnknownAgent,
            3 => Self::Version,
            4 => Self::Protocol,
            5 => Self::Denied,
            6 => Self::Busy,
            7 => Self::Expired,
            _ => Self::Other,
        }
    }
}

/// First frame of a lane, both ways. Later versions append; readers ignore what follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hello {
    /// Lowest version spoken.
    pub version_min: u16,
    /// Highest version spoken.
    pub version_max: u16,
    /// `CAPABILITY_*` bits.
    pub capabilities: u32,
    /// The agent's epoch; the server repeats it.
    pub epoch: u64,
    /// Random per agent process: tells a reconnect from a clone. The server answers with the session's join token.
    pub token: [u8; 16],
    /// Grows with every session that this process opens here: the newer of two fences the older.
    pub attempt: u32,
    /// Which lane of the session this is, 0 to 3; above 0 `token` is the join token.
    pub lane: u8,
    /// Credit for each fresh stream, bytes.
    pub window: u32,
    /// Streams that this side bears.
    pub streams_max: u32,
}

impl Hello {
    /// Encoded length of this version.
    pub const BYTES: usize = 45;

    /// To the wire.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0..2].copy_from_slice(&self.version_min.to_be_bytes());
        out[2..4].copy_from_slice(&self.version_max.to_be_bytes());
        out[4..8].copy_from_slice(&self.capabilities.to_be_bytes());
        out[8..16].copy_from_slice(&self.epoch.to_be_bytes());
        out[16..32].copy_from_slice(&self.token);
        out[32..36].copy_from_slice(&self.attempt.to_be_bytes());
        out[36] = self.lane;
        out[37..41].copy_from_slice(&self.window.to_be_bytes());
        out[41..45].copy_from_slice(&self.streams_max.to_be_bytes());
        out
    }

    /// From the wire.
    pub fn decode(body: &[u8]) -> Result<Self, MessageError> {
        let mut r = Reader(body);
        Ok(Self {
            version_min: r.u16()?,
            version_max: r.u16()?,
            capabilities: r.u32()?,
            epoch: r.u64()?,
            token: r.array()?,
            attempt: r.u32()?,
            lane: r.u8()?,
            window: r.u32()?,
            streams_max: r.u32()?,
        })
    }
}

/// What a stream carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Carries {
    /// Bytes in order, as TCP does: DATA frames.
    #[default]
    Bytes,
    /// Datagrams, as UDP does: DGRAM frames. Such a stream is a flow.
    Datagrams,
    /// Bytes of a TLS connection between connector and agent: DATA frames, which nobody between them can read.
    Sealed,
    /// The same, and inside are datagrams ([`crate::framed`]). Silence ends it, as a flow.
    SealedDatagrams,
}

impl Carries {
    const fn wire(self) -> u8 {
        match self {
            Self::Bytes => 0,
            Self::Datagrams => 1,
            Self::Sealed => 2,
            Self::SealedDatagrams => 3,
        }
    }

    /// Only its two ends can read it.
    pub const fn is_sealed(self) -> bool {
        matches!(self, Self::Sealed | Self::SealedDatagrams)
    }

    /// What the local service sees of it: sealed bytes are bytes by then.
    #[must_use]
    pub const fn inside(self) -> Self {
        match self {
            Self::Bytes | Self::Sealed => Self::Bytes,
            Self::Datagrams | Self::SealedDatagrams => Self::Datagrams,
        }
    }
}

/// A visitor came. It names a connection, never an address to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// Connection uid.
    pub connection: String,
    /// The visitor, if known; never invented.
    pub visitor: Option<SocketAddr>,
    /// Where the visitor connected to, if known.
    pub destination: Option<SocketAddr>,
    /// The gateway's stream id, a UUID and the trace id; zero if none came.
    pub stream_id: [u8; 16],
    /// A stream: the local service must answer within this, ms. A flow: it may be silent for so long.
    pub deadline_ms: u32,
    /// What it carries.
    pub carries: Carries,
}

impl Open {
    /// Shortest body: no addresses, no connection.
    pub const BYTES_MIN: usize = 16 + 4 + 1 + 1 + 1;

    /// To the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.extend_from_slice(&self.stream_id);
        out.extend_from_slice(&self.deadline_ms.to_be_bytes());
        put_address(&mut out, self.visitor);
        put_address(&mut out, self.destination);
        let name = self.connection.as_bytes();
        let name = &name[..name.len().min(CONNECTION_BYTES_MAX)];
        out.push(name.len() as u8);
        out.extend_from_slice(name);
        out.push(self.carries.wire());
        out
    }

    /// From the wire.
    pub fn decode(body: &[u8]) -> Result<Self, MessageError> {
        let mut r = Reader(body);
        let stream_id = r.array()?;
        let deadline_ms = r.u32()?;
        let visitor = r.address()?;
        let destination = r.address()?;
        let length = usize::from(r.u8()?);
        if length > CONNECTION_BYTES_MAX {
            return Err(MessageError::Field);
        }
        let connection = std::str::from_utf8(r.take(length)?).map_err(|_| MessageError::Field)?.to_owned();
        // Who says nothing here is older than flows.
        let carries = match r.u8() {
            Ok(0) | Err(_) => Carries::Bytes,
            Ok(1) => Carries::Datagrams,
            Ok(2) => Carries::Sealed,
            Ok(3) => Carries::SealedDatagrams,
            Ok(_) => return Err(MessageError::Field),
        };
        Ok(Self { connection, visitor, destination, stream_id, deadline_ms, carries })
    }
}

/// No new streams; or the end, by code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoAway {
    /// See [`GoAwayCode`].
    pub code: u32,
    /// Streams still open then are reset, ms. For a refusal: come back not before, ms.
    pub deadline_ms: u32,
    /// For people; control characters are not trusted.
    pub reason: String,
}

impl GoAway {
    /// To the wire; the reason is cut at 256 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.code.to_be_bytes().to_vec();
        out.extend_from_slice(&self.deadline_ms.to_be_bytes());
        let mut cut = self.reason.len().min(256);
        while !self.reason.is_char_boundary(cut) {
            cut -= 1;
        }
        out.extend_from_slice(&self.reason.as_bytes()[..cut]);
        out
    }

    /// From the wire.
    pub fn decode(body: &[u8]) -> Result<Self, MessageError> {
        let mut r = Reader(body);
        let (code, deadline_ms) = (r.u32()?, r.u32()?);
        let text = String::from_utf8_lossy(r.0);
        let reason = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        Ok(Self { code, deadline_ms, reason })
    }
}

/// A cursor that never reads past the end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], MessageError> {
        if self.0.len() < count {
            return Err(MessageError::Short);
        }
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        self.take(N)?.try_into().map_err(|_| MessageError::Short)
    }

    fn u8(&mut self) -> Result<u8, MessageError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, MessageError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, MessageError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, MessageError> {
        self.array().map(u64::from_be_bytes)
    }

    fn address(&mut self) -> Result<Option<SocketAddr>, MessageError> {
        let ip: IpAddr = match self.u8()? {
            0 => return Ok(None),
            4 => Ipv4Addr::from(self.array::<4>()?).into(),
            6 => Ipv6Addr::from(self.array::<16>()?).into(),
            _ => return Err(MessageError::Field),
        };
        Ok(Some(SocketAddr::new(ip, self.u16()?)))
    }
}

fn put_address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    match address {
        None => out.push(0),
        Some(SocketAddr::V4(v4)) => {
            out.push(4);
            out.extend_from_slice(&v4.ip().octets());
            out.extend_from_slice(&v4.port().to_be_bytes());
        }
        Some(SocketAddr::V6(v6)) => {
            out.push(6);
            out.extend_from_slice(&v6.ip().octets());
            out.extend_from_slice(&v6.port().to_be_bytes());
        }
    }
}

/// UUID text to its bytes; `None` if it is none.
pub fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let dashed = |(at, byte): (usize, u8)| matches!(at, 8 | 13 | 18 | 23) == (byte == b'-');
    if text.len() != 36 || !text.bytes().enumerate().all(dashed) {
        return None;
    }
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == 32).map(u128::to_be_bytes)
}

/// The UUID text of `bytes`; "" for zero, which stands for none.
pub fn uuid_text(bytes: [u8; 16]) -> String {
    if bytes == [0; 16] {
        return String::new();
    }
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_keeps_both_address_families() {
        for (visitor, destination) in [("1.2.3.4:5", "[::1]:6"), ("[2001:db8::1]:7", "9.9.9.9:8")] {
            let open = Open {
                connection: "c-1".into(),
                visitor: visitor.parse().ok(),
                destination: destination.parse().ok(),
                stream_id: [7; 16],
                deadline_ms: 5_000,
                carries: Carries::Datagrams,
            };
            assert_eq!(Open::decode(&open.encode()), Ok(open.clone()));
            let (older, bytes) = (open.encode(), Open { carries: Carries::Bytes, ..open });
            assert_eq!(Open::decode(&older[..older.len() - 1]), Ok(bytes));
        }
    }

    #[test]
    fn uuid_round_trips_and_other_text_is_none() {
        let text = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(uuid_bytes(text).map(uuid_text).as_deref(), Some(text));
        assert_eq!(uuid_bytes("not a uuid"), None);
        for wrong in [
            "+f8fad5b-d9cb-469f-a165-70867728950e",
            "0f8fad5bd9cb-469f-a165-7086772-8950e",
            "----0f8fad5bd9cb469fa16570867728950e",
            "0f8fad5b-d9cb-469f-a165-7086772895é",
        ] {
            assert_eq!(uuid_bytes(wrong), None, "{wrong}");
        }
        assert_eq!(uuid_text([0; 16]), "");
    }

    #[test]
    fn a_goodbye_cannot_inject_into_a_terminal() {
        let goaway = GoAway { code: 0, deadline_ms: 0, reason: "a\u{1b}[2Jb".into() };
        assert_eq!(GoAway::decode(&goaway.encode()).unwrap().reason, "a?[2Jb");
    }
}
