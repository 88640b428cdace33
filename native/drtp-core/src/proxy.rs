//! PROXY protocol: read from gateways (v1 and v2), written to local services. Strict, because an address is believed by it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Deserialize;

use crate::message::uuid_bytes;

/// First bytes of v2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest v2 body taken: two IPv6 addresses and room for TLVs that a gateway of ours never fills.
const V2_BODY_MAX: usize = 1_024;
/// Longest v1 line by its specification.
const V1_LINE_MAX: usize = 107;
/// TLV: the gateway's stream id, UUID text.
const TLV_STREAM_ID: u8 = 0xe0;
/// TLV: the service id.
const TLV_SERVICE: u8 = 0xe1;
/// TLV: the gateway's uid, which counts where nothing but a file's mode says who it is.
const TLV_GATEWAY: u8 = 0xe2;
/// TLV, to local services only: who called by `connect`, `user:<name>` or `app:<name>`, as it has proven to the agent.
const TLV_CALLER: u8 = 0xe3;
/// TLV: who has signed in at the gateway, JSON.
const TLV_VISITOR: u8 = 0xe4;
/// Text of one TLV that is written.
const TLV_TEXT_MAX: usize = 256;

/// What a header says. Addresses are absent for LOCAL, UNKNOWN and UNSPEC: they are never invented.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// The visitor.
    pub source: Option<SocketAddr>,
    /// Where the visitor connected to.
    pub destination: Option<SocketAddr>,
    /// The gateway's stream id; zero if none came.
    pub stream_id: [u8; 16],
    /// The service that the gateway meant.
    pub service: Option<String>,
    /// The gateway's own uid, as it says.
    pub gateway: Option<String>,
    /// Who has signed in at the gateway, as it says.
    pub signed_in: Option<SignedIn>,
}

/// A person whom a gateway knows, by a token of the control plane's sign-in or by a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct SignedIn {
    /// The user's.
    pub name: String,
    /// Groups of the sign-in, as roles are bound to them; none where they are not known, which is not to be in none.
    #[serde(default = "no_groups")]
    pub groups: Option<Vec<String>>,
    /// When what was shown ends, Unix seconds, where that ends the visit too.
    #[serde(default)]
    pub until: Option<i64>,
}

#[allow(clippy::unnecessary_wraps, reason = "serde's default for a field that may say that it is not known")]
fn no_groups() -> Option<Vec<String>> {
    Some(Vec::new())
}

/// A header that must not be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The first bytes are no PROXY header.
    #[error("no PROXY header")]
    Missing,
    /// Longer than any honest one.
    #[error("PROXY header too long")]
    TooLong,
    /// A field that the specification does not allow.
    #[error("malformed PROXY header")]
    Malformed,
}

/// Outcome of a look at the first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Partial,
    /// A header and its length.
    Whole(Box<Header>, usize),
}

/// Reads v2 only: what gateways of ours send.
pub fn parse_v2(input: &[u8]) -> Result<Parsed, ProxyError> {
    let known = input.len().min(SIGNATURE.len());
    if input[..known] != SIGNATURE[..known] {
        return Err(ProxyError::Missing);
    }
    let Some(head) = input.get(12..16) else { return Ok(Parsed::Partial) };
    let body_len = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if body_len > V2_BODY_MAX {
        return Err(ProxyError::TooLong);
    }
    let local = match head[0] {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Malformed),
    };
    let Some(body) = input.get(16..16 + body_len) else { return Ok(Parsed::Partial) };
    let mut header = Header::default();
    let addresses = address_length(head[1])?;
    if body.len() < addresses {
        return Err(ProxyError::Malformed);
    }
    // CVE-2024-23327: a LOCAL header carries no addresses to be believed, whatever its body holds.
    if !local {
        (header.source, header.destination) = addresses_of(head[1], body);
    }
    tlvs(&body[addresses..], &mut header)?;
    Ok(Parsed::Whole(Box::new(header), 16 + body_len))
}

/// Reads v1 or v2: from declared peers in `plain` mode.
pub fn parse_any(input: &[u8]) -> Result<Parsed, ProxyError> {
    let known = input.len().min(6);
    if input[..known] == b"PROXY "[..known] && !input.is_empty() { parse_v1(input) } else { parse_v2(input) }
}

fn address_length(family: u8) -> Result<usize, ProxyError> {
    match family {
        0x00 => Ok(0),
        0x11 | 0x12 => Ok(12),
        0x21 | 0x22 => Ok(36),
        0x31 | 0x32 => Ok(216),
        _ => Err(ProxyError::Malformed),
    }
}

fn addresses_of(family: u8, body: &[u8]) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    match family >> 4 {
        1 => {
            let ip = |at: usize| Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]);
            (Some((ip(0), port(8)).into()), Some((ip(4), port(10)).into()))
        }
        2 => {
            let ip = |at: usize| {
                let mut octets = [0_u8; 16];
                octets.copy_from_slice(&body[at..at + 16]);
                IpAddr::from(Ipv6Addr::from(octets)).to_canonical()
            };
            (Some((ip(0), port(32)).into()), Some((ip(16), port(34)).into()))
        }
        _ => (None, None),
    }
}

/// Of ours each may be there once: of two, who reads the first and who reads the last would see different visitors
/// (CVE-2026-26308).
fn tlvs(mut rest: &[u8], header: &mut Header) -> Result<(), ProxyError> {
    let mut identified = false;
    while !rest.is_empty() {
        let [kind, high, low, tail @ ..] = rest else { return Err(ProxyError::Malformed) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let value = tail.get(..length).ok_or(ProxyError::Malformed)?;
        rest = &tail[length..];
        match *kind {
            TLV_STREAM_ID => {
                let text = std::str::from_utf8(value).map_err(|_| ProxyError::Malformed)?;
                header.stream_id = uuid_bytes(text).ok_or(ProxyError::Malformed)?;
                if std::mem::replace(&mut identified, true) {
                    return Err(ProxyError::Malformed);
                }
            }
            TLV_SERVICE | TLV_GATEWAY => {
                let field = if *kind == TLV_SERVICE { &mut header.service } else { &mut header.gateway };
                let text = std::str::from_utf8(value).map_err(|_| ProxyError::Malformed)?;
                if field.replace(text.to_owned()).is_some() {
                    return Err(ProxyError::Malformed);
                }
            }
            TLV_VISITOR if !value.is_empty() => {
                let before = header.signed_in.replace(person(value).ok_or(ProxyError::Malformed)?);
                before.is_none().then_some(()).ok_or(ProxyError::Malformed)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// An object; a list of the same values is none.
fn person(said: &[u8]) -> Option<SignedIn> {
    let said: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(said).ok()?;
    serde_json::from_value(said.into()).ok()
}

fn parse_v1(input: &[u8]) -> Result<Parsed, ProxyError> {
    let window = &input[..input.len().min(V1_LINE_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if input.len() >= V1_LINE_MAX { Err(ProxyError::TooLong) } else { Ok(Parsed::Partial) };
    };
    let line = std::str::from_utf8(&input[..end]).map_err(|_| ProxyError::Malformed)?;
    let words: Vec<&str> = line.split(' ').collect();
    let mut header = Header::default();
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => {}
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port] => {
            let address = |ip: &str, port: &str| -> Option<SocketAddr> {
                let ip: IpAddr = ip.parse().ok()?;
                let plain = port == "0" || port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
                let port = port.parse().ok().filter(|_| plain)?;
                (ip.is_ipv4() == (*family == "TCP4")).then(|| SocketAddr::new(ip.to_canonical(), port))
            };
            header.source = Some(address(source, source_port).ok_or(ProxyError::Malformed)?);
            header.destination = Some(address(destination, destination_port).ok_or(ProxyError::Malformed)?);
        }
        _ => return Err(ProxyError::Malformed),
    }
    Ok(Parsed::Whole(Box::new(header), end + 2))
}

/// A v1 line. Without both addresses it says UNKNOWN.
pub fn write_v1(source: Option<SocketAddr>, destination: Option<SocketAddr>) -> Vec<u8> {
    let Some((source, destination)) = same_family(source, destination) else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// What a header introduces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A TCP connection: the header comes once.
    Bytes,
    /// A UDP datagram: the header comes in front of each.
    Datagrams,
}

/// A v2 header with the stream id as TLV. Without both addresses it says LOCAL.
pub fn write_v2(
    transport: Transport,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    stream_id: &str,
) -> Vec<u8> {
    write_v2_of(transport, source, destination, stream_id, None)
}

/// The same, with the caller who has proven itself to the agent as another TLV.
pub fn write_v2_of(
    transport: Transport,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    stream_id: &str,
    caller: Option<&str>,
) -> Vec<u8> {
    let transport = if transport == Transport::Bytes { 0x01 } else { 0x02 };
    let mut body = Vec::with_capacity(96);
    let (command, family) = match same_family(source, destination) {
        None => (0x20, 0x00),
        Some((source, destination)) => {
            for ip in [source.ip(), destination.ip()] {
                match ip {
                    IpAddr::V4(v4) => body.extend_from_slice(&v4.octets()),
                    IpAddr::V6(v6) => body.extend_from_slice(&v6.octets()),
                }
            }
            body.extend_from_slice(&source.port().to_be_bytes());
            body.extend_from_slice(&destination.port().to_be_bytes());
            (0x21, transport | if source.is_ipv4() { 0x10 } else { 0x20 })
        }
    };
    for (kind, text) in [(TLV_STREAM_ID, stream_id), (TLV_CALLER, caller.unwrap_or_default())] {
        let text = &text.as_bytes()[..text.len().min(TLV_TEXT_MAX)];
        if !text.is_empty() {
            body.push(kind);
            body.extend_from_slice(&(text.len() as u16).to_be_bytes());
            body.extend_from_slice(text);
        }
    }
    let mut out = SIGNATURE.to_vec();
    out.extend_from_slice(&[command, family]);
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(&body);
    out
}

/// Both addresses in one family: mixed ones meet in IPv6.
fn same_family(source: Option<SocketAddr>, destination: Option<SocketAddr>) -> Option<(SocketAddr, SocketAddr)> {
    let (source, destination) = (source?, destination?);
    if source.is_ipv4() == destination.is_ipv4() {
        return Some((source, destination));
    }
    let wide = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    Some((wide(source), wide(destination)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    fn whole(parsed: Result<Parsed, ProxyError>) -> (Header, usize) {
        match parsed {
            Ok(Parsed::Whole(header, length)) => (*header, length),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for (a, b) in [("1.2.3.4:5", "6.7.8.9:10"), ("[2001:db8::1]:5", "[::2]:443")] {
            let (a, b): (SocketAddr, SocketAddr) = (a.parse().unwrap(), b.parse().unwrap());
            let v2 = write_v2(Transport::Bytes, Some(a), Some(b), ID);
            let (header, length) = whole(parse_v2(&v2));
            assert_eq!((header.source, header.destination, length), (Some(a), Some(b), v2.len()));
            assert_eq!(Some(header.stream_id), uuid_bytes(ID));
            let v1 = write_v1(Some(a), Some(b));
            assert_eq!(whole(parse_any(&v1)).0.source, Some(a));
            for cut in 0..v2.len() {
                assert_eq!(parse_v2(&v2[..cut]), Ok(Parsed::Partial));
            }
            for cut in 0..v1.len() {
                assert_eq!(parse_any(&v1[..cut]), Ok(Parsed::Partial));
            }
        }
    }

    #[test]
    fn unknown_visitors_are_never_invented() {
        assert_eq!(write_v1(None, None), b"PROXY UNKNOWN\r\n");
        let (header, _) = whole(parse_v2(&write_v2(Transport::Bytes, None, "1.2.3.4:5".parse().ok(), "")));
        assert_eq!(header, Header::default());
    }

    #[test]
    fn a_local_header_carries_no_address_cve_2024_23327() {
        let mut v2 = write_v2(Transport::Bytes, "1.2.3.4:5".parse().ok(), "6.7.8.9:10".parse().ok(), "");
        v2[12] = 0x20;
        assert_eq!(whole(parse_v2(&v2)).0.source, None);
    }

    #[test]
    fn oversized_and_foreign_bytes_are_refused() {
        let mut long = SIGNATURE.to_vec();
        long.extend_from_slice(&[0x21, 0x11, 0xff, 0xff]);
        assert_eq!(parse_v2(&long), Err(ProxyError::TooLong));
        assert_eq!(parse_v2(b"GET / HTTP/1.1"), Err(ProxyError::Missing));
        assert_eq!(parse_any(&[b'P', b'R', b'O', b'X', b'Y', b' '].repeat(30)), Err(ProxyError::TooLong));
        assert_eq!(parse_any(b"PROXY TCP4 ::1 ::1 1 2\r\n"), Err(ProxyError::Malformed));
        assert_eq!(parse_v2(&write_v1("1.2.3.4:5".parse().ok(), "1.2.3.4:5".parse().ok())), Err(ProxyError::Missing));
    }

    #[test]
    fn ports_are_written_without_leading_zeros() {
        let line = |port: &str| format!("PROXY TCP4 1.2.3.4 5.6.7.8 {port} 0\r\n").into_bytes();
        assert_eq!(whole(parse_any(&line("80"))).0.source, "1.2.3.4:80".parse().ok());
        for port in ["080", "+80", "00", "65536", ""] {
            assert_eq!(parse_any(&line(port)), Err(ProxyError::Malformed), "{port}");
        }
    }

    #[test]
    fn the_stream_id_is_read_once_cve_2026_26308() {
        let mut v2 = write_v2(Transport::Bytes, "1.2.3.4:5".parse().ok(), "6.7.8.9:10".parse().ok(), ID);
        let tlv = v2[28..].to_vec();
        v2.extend_from_slice(&tlv);
        v2[15] += tlv.len() as u8;
        assert_eq!(parse_v2(&v2), Err(ProxyError::Malformed));
    }

    #[test]
    fn the_service_tlv_is_read_once() {
        let mut v2 = write_v2(Transport::Bytes, "1.2.3.4:5".parse().ok(), "6.7.8.9:10".parse().ok(), "");
        let add = |v2: &mut Vec<u8>| {
            v2.extend_from_slice(&[TLV_SERVICE, 0, 1, b's']);
            v2[15] += 4;
        };
        add(&mut v2);
        assert_eq!(whole(parse_v2(&v2)).0.service.as_deref(), Some("s"));
        add(&mut v2);
        assert_eq!(parse_v2(&v2), Err(ProxyError::Malformed));
    }

    #[test]
    fn whoever_has_signed_in_is_read_once_and_whole() {
        let with = |text: &str| {
            let mut v2 = write_v2(Transport::Bytes, "1.2.3.4:5".parse().ok(), "6.7.8.9:10".parse().ok(), "");
            let add = |v2: &mut Vec<u8>| {
                v2.extend_from_slice(&[TLV_VISITOR, 0, text.len() as u8]);
                v2.extend_from_slice(text.as_bytes());
                v2[15] += 3 + text.len() as u8;
            };
            add(&mut v2);
            let once = parse_v2(&v2);
            add(&mut v2);
            (once, parse_v2(&v2))
        };
        let (once, twice) = with(r#"{"name": "anna", "groups": ["g"]}"#);
        let anna = SignedIn { name: "anna".to_owned(), groups: Some(vec!["g".to_owned()]), until: None };
        assert_eq!(whole(once).0.signed_in, Some(anna));
        assert_eq!(twice, Err(ProxyError::Malformed));
        for unreadable in ["anna", "{}", r#"{"name": 1}"#, "[", r#"["anna"]"#] {
            assert_eq!(with(unreadable).0, Err(ProxyError::Malformed), "{unreadable}");
        }
        assert_eq!(whole(with("").0).0.signed_in, None);
    }

    proptest! {
        #[test]
        fn no_input_panics(mut input in proptest::collection::vec(any::<u8>(), 0..300), signed in any::<bool>()) {
            if signed {
                let n = input.len().min(12);
                input[..n].copy_from_slice(&SIGNATURE[..n]);
            }
            let _ = parse_any(&input);
            let _ = parse_v2(&input);
        }
    }
}
