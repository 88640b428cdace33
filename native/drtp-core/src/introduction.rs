//! How a gateway introduces a visitor in its ClientHello: the server name says which service is meant, one of the
//! protocols that it offers who comes. The handshake proves both to be the gateway's words, before any byte of the visitor's.
//!
//! `drtp-visitor/1;<visitor>;<where it came to>;<stream id>`, addresses as `192.0.2.1:443` and `[2001:db8::1]:443`.

use std::net::SocketAddr;

use crate::message::uuid_bytes;
use crate::proxy::Header;
use crate::tls::Hello;

/// What the protocol's name begins with.
const VISITOR: &[u8] = b"drtp-visitor/1;";

/// An introduction that must not be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed introduction")]
pub struct Malformed;

/// Who comes, and for which service; nothing if the gateway says it in a PROXY header instead.
pub fn introduced(hello: &Hello) -> Result<Option<Header>, Malformed> {
    let mut said = hello.protocols.iter().filter_map(|protocol| protocol.strip_prefix(VISITOR));
    let Some(words) = said.next() else { return Ok(None) };
    if said.next().is_some() {
        return Err(Malformed); // Of two, who reads the first and who reads the last would see different visitors.
    }
    let words: Vec<&str> = std::str::from_utf8(words).map_err(|_| Malformed)?.split(';').collect();
    let [visitor, came_to, stream_id] = words.as_slice() else { return Err(Malformed) };
    let service = hello.server_name.as_deref().and_then(|name| name.split_once('.')).ok_or(Malformed)?.0;
    Ok(Some(Header {
        source: Some(address(visitor)?),
        destination: Some(address(came_to)?),
        stream_id: uuid_bytes(stream_id).ok_or(Malformed)?,
        service: Some(service.to_owned()),
        gateway: None,
        signed_in: None, // Its bytes are not HTTP: nobody signs in there.
    }))
}

fn address(text: &str) -> Result<SocketAddr, Malformed> {
    let address: SocketAddr = text.parse().map_err(|_| Malformed)?;
    Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

    fn hello(server_name: &str, protocols: &[&str]) -> Hello {
        let protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Hello { server_name: Some(server_name.to_owned()), protocols }
    }

    #[test]
    fn a_visitor_is_introduced_with_the_service_it_is_for() {
        for (visitor, came_to) in [("203.0.113.9:4660", "10.0.0.1:80"), ("[2001:db8::1]:5", "[::2]:443")] {
            let said = hello("s-1.p-1.tunnel.test", &["h2", &format!("drtp-visitor/1;{visitor};{came_to};{ID}")]);
            let header = introduced(&said).unwrap().unwrap();
            assert_eq!((header.source, header.destination), (visitor.parse().ok(), came_to.parse().ok()));
            assert_eq!((header.service.as_deref(), Some(header.stream_id)), (Some("s-1"), uuid_bytes(ID)));
        }
    }

    #[test]
    fn an_ipv4_visitor_of_an_ipv6_socket_is_an_ipv4_visitor() {
        let words = format!("drtp-visitor/1;[::ffff:203.0.113.9]:5;[::ffff:10.0.0.1]:80;{ID}");
        let header = introduced(&hello("s-1.p", &[&words])).unwrap().unwrap();
        assert_eq!(header.source, "203.0.113.9:5".parse().ok());
    }

    #[test]
    fn other_protocols_introduce_nobody() {
        for protocols in [&[][..], &["h2"], &["drtp/1"], &["drtp-visitor/2;x"]] {
            assert_eq!(introduced(&hello("s-1.p", protocols)), Ok(None));
        }
    }

    #[test]
    fn half_an_introduction_is_refused() {
        let good = format!("drtp-visitor/1;1.2.3.4:5;6.7.8.9:10;{ID}");
        for wrong in [
            "drtp-visitor/1;".to_owned(),
            format!("drtp-visitor/1;1.2.3.4:5;{ID}"),
            format!("drtp-visitor/1;1.2.3.4;6.7.8.9:10;{ID}"),
            format!("drtp-visitor/1;-;6.7.8.9:10;{ID}"),
            "drtp-visitor/1;1.2.3.4:5;6.7.8.9:10;-".to_owned(),
            format!("{good};more"),
        ] {
            assert_eq!(introduced(&hello("s-1.p", &[&wrong])), Err(Malformed), "{wrong}");
        }
        assert_eq!(introduced(&hello("s-1.p", &[&good, &good])), Err(Malformed));
        assert_eq!(introduced(&hello("nameless", &[&good])), Err(Malformed));
        let nameless = Hello { server_name: None, ..hello("", &[&good]) };
        assert_eq!(introduced(&nameless), Err(Malformed));
    }

    proptest! {
        #[test]
        fn any_words_are_read_or_refused(words in proptest::collection::vec(any::<u8>(), 0..200), name in ".{0,40}") {
            let protocols = vec![[VISITOR, words.as_slice()].concat()];
            if let Ok(Some(header)) = introduced(&Hello { server_name: Some(name), protocols }) {
                prop_assert!(header.source.is_some() && header.service.is_some());
            }
        }
    }
}
