//! What a ClientHello says, read before anything of it is taken or answered.

use rustls::server::Acceptor;

use super::TlsError;

/// A ClientHello is at most this long; with post-quantum keys it is 2 kB.
const HELLO_BYTES_MAX: usize = 16 * 1024;
const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;

/// What the asking side says in the clear. The handshake proves it, together with everything else that it said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// Whom it means to reach.
    pub server_name: Option<String>,
    /// What it offers to speak, ALPN.
    pub protocols: Vec<Vec<u8>>,
}

impl Hello {
    /// Whether `protocol` is among what it offers.
    pub fn offers(&self, protocol: &[u8]) -> bool {
        self.protocols.iter().any(|offered| offered == protocol)
    }
}

/// Outcome of a look at the first bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// More must come.
    Partial,
    /// No ClientHello: TLS itself answers that.
    Unreadable,
    Whole(Hello),
}

/// Reads the first records of a connection.
pub(super) fn look(records: &[u8]) -> Result<Look, TlsError> {
    let [kind, _, _, high, low, ..] = *records else { return Ok(Look::Partial) };
    if kind != HANDSHAKE {
        return Ok(Look::Unreadable);
    }
    if records.len() < RECORD_HEADER + usize::from(u16::from_be_bytes([high, low])) && records.len() <= HELLO_BYTES_MAX
    {
        return Ok(Look::Partial);
    }
    let mut acceptor = Acceptor::default();
    let mut rest = &records[..records.len().min(HELLO_BYTES_MAX)];
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return Ok(Look::Unreadable);
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let said = accepted.client_hello();
                let protocols = said.alpn().map(|names| names.map(<[u8]>::to_vec).collect()).unwrap_or_default();
                return Ok(Look::Whole(Hello { server_name: said.server_name().map(str::to_owned), protocols }));
            }
            Ok(None) => {}
            Err(_) => return Ok(Look::Unreadable),
        }
    }
    if records.len() > HELLO_BYTES_MAX {
        return Err(TlsError("a ClientHello without end".into()));
    }
    Ok(Look::Partial)
}
