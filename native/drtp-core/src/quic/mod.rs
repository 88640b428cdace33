//! The QUIC lane: one QUIC connection in the place of a session's TCP lanes, sans I/O.
//!
//! A stream of `drtp/1` has a QUIC stream for itself and what is the session's own has another, so that a lost packet
//! holds back only what was in it. The session's machine does not know: [`Braid`] parts a lane's batch by streams, and
//! gives whole frames back. TLS is QUIC's, with the certificates of a TCP lane. [`Port`] is a UDP socket's end without
//! the socket.

mod braid;
mod part;
mod port;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{ClientConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};

pub(crate) use braid::{Braid, Fault};
pub(crate) use port::{Came, Port};

use crate::error::CoreError;

/// ALPN of a QUIC lane: its frames are parted over streams, so its handshake is never taken for a TCP lane's.
pub const ALPN_QUIC: &[u8] = b"drtp-quic/1";

/// Bytes of one QUIC stream that may come before those that were sent ahead of them.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// The same of a whole connection, and what may wait for its peer's acknowledgement.
const WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Datagrams that wait to be read, or to be sent: the oldest go first.
const DATAGRAM_BUFFER_BYTES: usize = 1024 * 1024;
/// The most streams that a peer may have open at once: QUIC keeps a place for each.
const STREAMS_MAX: u32 = 16 * 1024;
/// Sessions ping; a connection whose session is gone ends by itself after this.
const IDLE: Duration = Duration::from_secs(10);

fn transport(streams_max: u32) -> Result<Arc<TransportConfig>, CoreError> {
    let mut transport = TransportConfig::default();
    // One more for the session's own, and room for those that are over on one side only.
    let streams = streams_max.min(STREAMS_MAX).saturating_add(64);
    let idle = IdleTimeout::try_from(IDLE).map_err(|error| CoreError::Config(error.to_string()))?;
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .send_window(u64::from(WINDOW_BYTES))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES)
        .max_idle_timeout(Some(idle));
    Ok(Arc::new(transport))
}

/// The POP's side, from the configuration of its TCP lanes.
pub(crate) fn server(lanes: &rustls::ServerConfig, streams_max: u32) -> Result<Arc<ServerConfig>, CoreError> {
    let mut tls = lanes.clone();
    tls.alpn_protocols = vec![ALPN_QUIC.to_vec()];
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| CoreError::Config(error.to_string()))?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    // Where a peer dialled from is judged once.
    config.transport_config(transport(streams_max)?).migration(false);
    Ok(Arc::new(config))
}

/// The dialler's side, from the configuration of its TCP lanes.
pub(crate) fn client(lanes: &rustls::ClientConfig, streams_max: u32) -> Result<ClientConfig, CoreError> {
    let mut tls = lanes.clone();
    tls.alpn_protocols = vec![ALPN_QUIC.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| CoreError::Config(error.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport(streams_max)?);
    Ok(config)
}
