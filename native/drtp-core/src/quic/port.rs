//! A UDP socket's end without the socket: whom a datagram is for, who is new, and who has to show first that it is
//! where it says.
//!
//! Nothing is kept of a stranger whose address has not been proven by a Retry's answer, and what goes there is shorter
//! than what came.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{
    ClientConfig, ConnectionEvent, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, EndpointEvent, Incoming,
    ServerConfig,
};

use super::Braid;

/// What a datagram was.
#[allow(clippy::large_enum_variant, reason = "it never lies anywhere: news are most of what comes")]
pub(crate) enum Came {
    /// Garbage, late, or answered.
    Nothing,
    /// Somebody who is where it says: [`Port::admit`] or [`Port::turn_away`].
    Stranger(Box<Incoming>),
    /// For a connection.
    News(ConnectionHandle, ConnectionEvent),
}

/// See the module.
pub(crate) struct Port {
    endpoint: Endpoint,
    /// Taken by whoever sends; what does not go at once is lost, as any datagram may be.
    answer: Option<(SocketAddr, Vec<u8>)>,
}

impl Port {
    /// Without a configuration nobody is taken in: it only dials.
    pub(crate) fn new(server: Option<Arc<ServerConfig>>) -> Self {
        // A peer's path is looked for by datagrams of growing length: none that is longer gets through as fragments.
        Self { endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), server, true, None), answer: None }
    }

    /// Whom a datagram is for. Its answer, if any, is in [`Port::answer`].
    pub(crate) fn take(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Came {
        let mut out = Vec::new();
        match self.endpoint.handle(now, from, None, None, BytesMut::from(datagram), &mut out) {
            None => Came::Nothing,
            Some(DatagramEvent::ConnectionEvent(handle, event)) => Came::News(handle, event),
            Some(DatagramEvent::Response(transmit)) => {
                out.truncate(transmit.size);
                self.answer = Some((transmit.destination, out));
                Came::Nothing
            }
            Some(DatagramEvent::NewConnection(incoming)) if incoming.remote_address_validated() => {
                Came::Stranger(Box::new(incoming))
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                match self.endpoint.retry(incoming, &mut out) {
                    Ok(transmit) => {
                        out.truncate(transmit.size);
                        self.answer = Some((transmit.destination, out));
                    }
                    Err(error) => self.endpoint.ignore(error.into_incoming()),
                }
                Came::Nothing
            }
        }
    }

    /// A datagram outside of any connection, for the last one that came.
    pub(crate) fn answer(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.answer.take()
    }

    /// Lets a stranger begin its handshake.
    pub(crate) fn admit(&mut self, stranger: Incoming, config: &Arc<ServerConfig>, now: Instant) -> Option<Braid> {
        let mut out = Vec::new();
        match self.endpoint.accept(stranger, now, &mut out, Some(Arc::clone(config))) {
            Ok((handle, connection)) => Some(Braid::new(handle, connection)),
            Err(error) => {
                if let Some(transmit) = error.response {
                    out.truncate(transmit.size);
                    self.answer = Some((transmit.destination, out));
                }
                None
            }
        }
    }

    /// No place is left: it is told so.
    pub(crate) fn turn_away(&mut self, stranger: Incoming) {
        let mut out = Vec::new();
        let transmit = self.endpoint.refuse(stranger, &mut out);
        out.truncate(transmit.size);
        self.answer = Some((transmit.destination, out));
    }

    /// Begins a connection to a server that must have this name in its certificate.
    pub(crate) fn dial(
        &mut self,
        config: ClientConfig,
        to: SocketAddr,
        name: &str,
        now: Instant,
    ) -> Result<Braid, String> {
        let begun = self.endpoint.connect(now, config, to, name);
        begun.map(|(handle, connection)| Braid::new(handle, connection)).map_err(|error| error.to_string())
    }

    /// What a connection and the port have to say to each other; after each turn in which it did anything.
    pub(crate) fn settle(&mut self, braid: &mut Braid) {
        while let Some(event) = braid.endpoint_event() {
            if let Some(event) = self.endpoint.handle_event(braid.handle(), event) {
                braid.take(event);
            }
        }
    }

    /// A connection is not there any more: what comes for it is answered by a reset without a state.
    pub(crate) fn forget(&mut self, braid: &Braid) {
        if !braid.is_drained() {
            self.endpoint.handle_event(braid.handle(), EndpointEvent::drained());
        }
    }

    /// Connections that it keeps anything of.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.endpoint.open_connections()
    }
}
