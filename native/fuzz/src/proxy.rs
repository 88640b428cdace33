//! PROXY headers: a verdict never changes by what follows, a header is Partial until it is whole, and what was read is
//! written and read again unchanged.

use std::net::SocketAddr;

use drtp_core::message::uuid_text;
use drtp_core::proxy::{Header, Parsed, ProxyError, Transport, parse_any, parse_v2, write_v1, write_v2};

type Reader = fn(&[u8]) -> Result<Parsed, ProxyError>;

/// The first two bytes say where the input is cut; the rest comes from the wire.
pub fn proxy(input: &[u8]) {
    let Some(([high, low], wire)) = input.split_first_chunk() else { return };
    let cut = usize::from(u16::from_be_bytes([*high, *low])) % (wire.len() + 1);
    for read in [parse_v2 as Reader, parse_any] {
        let whole = read(wire);
        match read(&wire[..cut]) {
            Ok(Parsed::Partial) => {}
            early => assert_eq!(early, whole, "a verdict changed by what follows"),
        }
        if let Ok(Parsed::Whole(header, length)) = whole {
            assert!(length <= wire.len(), "longer than what came");
            assert!(cut >= length || read(&wire[..cut]) == Ok(Parsed::Partial), "whole before its end");
            written_is_read(&header);
        }
    }
}

fn written_is_read(header: &Header) {
    let id = uuid_text(header.stream_id);
    let again = reread(parse_v2, &write_v2(Transport::Bytes, header.source, header.destination, &id));
    let expected = if header.source.is_some() { (header.source, header.destination) } else { (None, None) };
    assert_eq!((again.source, again.destination, again.stream_id), (expected.0, expected.1, header.stream_id));
    let line: (Option<SocketAddr>, Option<SocketAddr>) = {
        let again = reread(parse_any, &write_v1(header.source, header.destination));
        (again.source, again.destination)
    };
    assert_eq!(line, expected);
}

fn reread(read: Reader, written: &[u8]) -> Header {
    match read(written) {
        Ok(Parsed::Whole(header, length)) if length == written.len() => *header,
        other => panic!("{written:?} was read as {other:?}"),
    }
}
