//! Every TLS call of the core. rustls' unbuffered API: records are processed where they were read, and a whole batch is
//! sealed at once. A later rustls replaces this API, so nothing of it shows outside this file.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::config::{Identity, TargetTls, WebIdentity};
use crate::error::CoreError;
use crate::identity::{IdentityError, PeerIdentity};
use crate::message::Carries;

mod hello;
mod outer;

pub use hello::Hello;
use hello::Look;
pub use outer::Outer;
use outer::web_config;

/// ALPN of tunnels, mandatory both ways.
pub const ALPN: &[u8] = b"drtp/1";
/// ALPN of the TLS inside a sealed stream: a lane's handshake is never taken for one, nor the other way round.
pub const ALPN_SEALED: &[u8] = b"drtp-sealed/1";
/// The same where datagrams are inside: both ends have said so to each other, and no POP in their place.
pub const ALPN_SEALED_DATAGRAMS: &[u8] = b"drtp-sealed-datagrams/1";
/// What sealing adds to each record of 16 KiB, rounded up.
const RECORD_SLACK: usize = 64;
/// Plain bytes per record.
const RECORD_BYTES: usize = 16 * 1024;
/// Room for a key update, tickets or an alert that goes out with a batch.
const BATCH_SLACK: usize = 512;

/// The peer's mistake, or a broken record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("TLS: {0}")]
pub struct TlsError(String);

impl TlsError {
    /// Bytes after the peer's close_notify.
    pub fn after_the_end() -> Self {
        Self("bytes after the end".into())
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self(error.to_string())
    }
}

/// TLS inside a stream: an agent is the server, a connector the client.
#[derive(Clone)]
pub struct Ends {
    /// The agent's.
    pub server: Arc<ServerConfig>,
    /// The connector's.
    pub client: Arc<ClientConfig>,
}

/// Our certificate in the three uses that the core makes of it.
#[derive(Clone)]
pub struct Credentials {
    /// Agents dialling in.
    pub tunnel_server: Arc<ServerConfig>,
    /// Gateways dialling endpoints.
    pub endpoint: Arc<ServerConfig>,
    /// Dialling a POP.
    pub tunnel_client: Arc<ClientConfig>,
    /// Both ends of sealed streams.
    pub sealed: Ends,
    /// The same where datagrams are inside.
    pub sealed_datagrams: Ends,
    /// Whoever comes to the agents' door without `drtp/1`: a WebSocket is offered, and inside it `tunnel_server`.
    pub web: Arc<ServerConfig>,
    /// Who we are.
    pub own: PeerIdentity,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn bad(what: &str) -> impl Fn(rustls_pki_types::pem::Error) -> CoreError + '_ {
    move |error| CoreError::Identity(format!("{what}: {error}"))
}

fn roots(pem: &str) -> Result<RootCertStore, CoreError> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let root = root.map_err(bad("roots"))?;
        store.add(root).map_err(|error| CoreError::Identity(format!("roots: {error}")))?;
    }
    if store.is_empty() { Err(CoreError::Identity("roots: none".into())) } else { Ok(store) }
}

impl Credentials {
    /// Builds all configurations, or none: a bad identity changes nothing.
    pub fn new(identity: &Identity) -> Result<Self, CoreError> {
        Self::with_provider(identity, provider())
    }

    fn with_provider(identity: &Identity, provider: Arc<CryptoProvider>) -> Result<Self, CoreError> {
        let wrong = |error: rustls::Error| CoreError::Identity(error.to_string());
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(bad("chain"))?;
        let leaf = chain.first().ok_or_else(|| CoreError::Identity("chain: empty".into()))?;
        let own = PeerIdentity::of_leaf(leaf).map_err(|error| CoreError::Identity(error.to_string()))?;
        let key = || PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(bad("key"));
        let roots = Arc::new(roots(&identity.roots_pem)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| CoreError::Identity(format!("roots: {error}")))?;
        let mut endpoint = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(wrong)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key()?)
            .map_err(wrong)?;
        // Resumption admits clients that a full handshake would refuse (CVE-2025-23419); early data repeats.
        endpoint.session_storage = Arc::new(NoServerSessionStorage {});
        endpoint.send_tls13_tickets = 0;
        endpoint.max_early_data_size = 0;
        let mut tunnel_server = endpoint.clone();
        tunnel_server.alpn_protocols = vec![ALPN.to_vec()];
        let web = web_config(chain.clone(), key()?)?;
        let mut tunnel_client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(wrong)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key()?)
            .map_err(wrong)?;
        tunnel_client.alpn_protocols = vec![ALPN.to_vec()];
        tunnel_client.resumption = Resumption::disabled();
        let ends = |alpn: &[u8]| {
            let (mut server, mut client) = (endpoint.clone(), tunnel_client.clone());
            server.alpn_protocols = vec![alpn.to_vec()];
            client.alpn_protocols = vec![alpn.to_vec()];
            Ends { server: Arc::new(server), client: Arc::new(client) }
        };
        Ok(Self {
            web,
            sealed: ends(ALPN_SEALED),
            sealed_datagrams: ends(ALPN_SEALED_DATAGRAMS),
            tunnel_server: Arc::new(tunnel_server),
            endpoint: Arc::new(endpoint),
            tunnel_client: Arc::new(tunnel_client),
            own,
        })
    }

    /// What both ends of a sealed stream say, by what it carries.
    pub fn ends(&self, carries: Carries) -> &Ends {
        if carries.inside() == Carries::Datagrams { &self.sealed_datagrams } else { &self.sealed }
    }

    /// With another certificate for whoever looks into TLS on the way: one that the public trusts.
    pub fn with_web(self, identity: Option<&WebIdentity>) -> Result<Self, CoreError> {
        let Some(identity) = identity else { return Ok(self) };
        let chain = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(bad("web chain"))?;
        let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(bad("web key"))?;
        Ok(Self { web: web_config(chain, key)?, ..self })
    }

    /// For tests: as `new`, but keys are worn out after `limit` records.
    #[cfg(test)]
    pub(crate) fn short_lived(identity: &Identity, limit: u64) -> Result<Self, CoreError> {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        for suite in &mut provider.cipher_suites {
            if let Some(tls13) = suite.tls13() {
                let common = rustls::crypto::CipherSuiteCommon {
                    suite: tls13.common.suite,
                    hash_provider: tls13.common.hash_provider,
                    confidentiality_limit: limit,
                };
                let worn = rustls::Tls13CipherSuite { common, ..*tls13 };
                *suite = rustls::SupportedCipherSuite::Tls13(Box::leak(Box::new(worn)));
            }
        }
        Self::with_provider(identity, Arc::new(provider))
    }
}

/// The client side of TLS to a local service, with trust decided on the agent's own side.
pub fn local_client(tls: &TargetTls, alpn: Option<&[u8]>) -> Result<Arc<ClientConfig>, CoreError> {
    let wrong = |error: rustls::Error| CoreError::Config(error.to_string());
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(wrong)?;
    let mut config = if let Some(pin) = &tls.pinned_leaf_der {
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", pin.trim());
        let leaf = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| CoreError::Config(format!("pinned leaf: {error}")))?;
        let verifier = Arc::new(PinnedLeaf { leaf, provider });
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    } else {
        let store = match &tls.roots_pem {
            Some(pem) => Arc::new(roots(pem)?),
            None => system_roots()?,
        };
        builder.with_root_certificates(store).with_no_client_auth()
    };
    config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn system_roots() -> Result<Arc<RootCertStore>, CoreError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let store = ROOTS.get_or_init(|| {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(store)
    });
    if store.is_empty() {
        Err(CoreError::Config("the system has no trusted roots".into()))
    } else {
        Ok(Arc::clone(store))
    }
}

/// Trusts one leaf, byte for byte, given by the agent's owner; the peer still proves that it has the key.
#[derive(Debug)]
struct PinnedLeaf {
    leaf: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedLeaf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if end_entity.as_ref() == self.leaf.as_ref() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Bytes on their way to a socket. Its memory is zeroed once and reused while it belongs to a lane.
#[derive(Debug, Default)]
pub struct OutBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl OutBuffer {
    /// Bytes not yet written.
    pub fn waiting(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The socket took `count`.
    pub fn written(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Gives the memory back: for connections that may idle.
    pub fn release(&mut self) {
        if self.start == self.end {
            *self = Self::default();
        }
    }

    fn room(&mut self, count: usize) -> &mut [u8] {
        if self.bytes.len() < self.end + count {
            self.bytes.resize(self.end + count, 0);
        }
        &mut self.bytes[self.end..]
    }
}

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
    /// Before the ClientHello has come.
    Undecided(Arc<ServerConfig>, Door),
    /// It has come, and is no tunnel's.
    Foreign,
}

/// Where a peer has come to, and so what its ClientHello is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// Agents': who does not offer `drtp/1` is none of them.
    Agents,
    /// An endpoint: gateways say in it whom they bring.
    Endpoint,
}

/// One TLS connection without buffers of its own, but for the incomplete record at rest.
pub struct Tls {
    connection: Connection,
    rest: Vec<u8>,
    hello: Option<Box<Hello>>,
    /// The peer said that it sends no more.
    pub peer_closed: bool,
    closed: bool,
    /// After an error rustls must not be asked anything more: it asserts.
    broken: bool,
}

/// What the pump is asked for beside taking records in.
enum Want<'a> {
    Nothing,
    Seal(&'a [u8]),
    Close,
}

macro_rules! pump {
    ($connection:expr, $records:expr, $want:expr, $out:expr, $sink:expr, $peer_closed:expr) => {{
        let mut start = 0;
        let mut want = $want;
        let result = loop {
            let UnbufferedStatus { mut discard, state } = $connection.process_tls_records(&mut $records[start..]);
            let step = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        Some(Ok(record)) => {
                            discard += record.discard;
                            $sink(record.payload);
                        }
                        Some(Err(error)) => break Some(Err(TlsError::from(error))),
                        None => break None,
                    }
                },
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode($out, |room| match data.encode(room) {
                    Ok(count) => Ok(count),
                    Err(EncodeError::InsufficientSize(size)) => Err(Some(size.required_size)),
                    Err(EncodeError::AlreadyEncoded) => Err(None),
                })
                .err()
                .map(Err),
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // What was encoded is in `out`, which keeps the order.
                    data.done();
                    None
                }
                Ok(ConnectionState::WriteTraffic(mut traffic)) => match std::mem::replace(&mut want, Want::Nothing) {
                    Want::Nothing => Some(Ok(())),
                    Want::Seal(plain) => {
                        Some(seal_all($out, plain, |piece, room| match traffic.encrypt(piece, room) {
                            Ok(count) => Ok(count),
                            Err(EncryptError::InsufficientSize(size)) => Err(Some(size.required_size)),
                            Err(EncryptError::EncryptExhausted) => Err(None),
                        }))
                    }
                    Want::Close => Some(encode($out, |room| match traffic.queue_close_notify(room) {
                        Ok(count) => Ok(count),
                        Err(EncryptError::InsufficientSize(size)) => Err(Some(size.required_size)),
                        Err(EncryptError::EncryptExhausted) => Err(None),
                    })),
                },
                Ok(ConnectionState::PeerClosed) => {
                    $peer_closed = true;
                    None
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => Some(Ok(())),
                Ok(_) => Some(Err(TlsError("unexpected state".into()))),
                Err(error) => Some(Err(TlsError::from(error))),
            };
            start += discard;
            if let Some(result) = step {
                break result;
            }
        };
        if result.is_err() {
            // The alert that says why is queued: hand it out too. Nothing else is asked of a broken connection, and the
            // same records go along, because rustls indexes what it counted before.
            while $connection.wants_write() {
                let state = $connection.process_tls_records(&mut $records[start..]).state;
                let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { break };
                let coded = encode($out, |room| {
                    data.encode(room).map_err(|error| match error {
                        EncodeError::InsufficientSize(size) => Some(size.required_size),
                        EncodeError::AlreadyEncoded => None,
                    })
                });
                if coded.is_err() {
                    break;
                }
            }
        }
        (start, result)
    }};
}

/// Runs `write` with enough room, asking again with what it says it needs.
fn encode(
    out: &mut OutBuffer,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), TlsError> {
    let mut room = BATCH_SLACK;
    loop {
        match write(out.room(room)) {
            Ok(count) => {
                out.end += count;
                return Ok(());
            }
            Err(Some(required)) if required > room => room = required,
            Err(_) => return Err(TlsError("cannot encode".into())),
        }
    }
}

/// Seals `plain` in one call. Pending key updates come out first, so the room has slack.
fn seal_all(
    out: &mut OutBuffer,
    plain: &[u8],
    mut encrypt: impl FnMut(&[u8], &mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), TlsError> {
    let mut room = plain.len() + plain.len().div_ceil(RECORD_BYTES) * RECORD_SLACK + BATCH_SLACK;
    loop {
        match encrypt(plain, out.room(room)) {
            Ok(count) => {
                out.end += count;
                return Ok(());
            }
            Err(Some(required)) if required > room => room = required + BATCH_SLACK,
            Err(_) => return Err(TlsError("sealing keys are worn out".into())),
        }
    }
}

impl Tls {
    /// The answering side.
    pub fn server(config: &Arc<ServerConfig>) -> Result<Self, TlsError> {
        Ok(Self::over(Connection::Server(UnbufferedServerConnection::new(Arc::clone(config))?)))
    }

    /// The answering side at a door that also takes who does not speak `drtp/1`; see [`Tls::is_foreign`].
    pub fn at_door(config: &Arc<ServerConfig>) -> Self {
        Self::over(Connection::Undecided(Arc::clone(config), Door::Agents))
    }

    /// The answering side at an endpoint, which keeps what the ClientHello says; see [`Tls::take_hello`].
    pub fn at_endpoint(config: &Arc<ServerConfig>) -> Self {
        Self::over(Connection::Undecided(Arc::clone(config), Door::Endpoint))
    }

    /// What the peer's ClientHello said, once; nothing anywhere but at an endpoint.
    pub fn take_hello(&mut self) -> Option<Box<Hello>> {
        self.hello.take()
    }

    /// Somebody came who does not speak `drtp/1`. Nothing was taken and nothing answered.
    pub fn is_foreign(&self) -> bool {
        matches!(self.connection, Connection::Foreign)
    }

    /// The asking side; `name` is what the peer's certificate must carry.
    pub fn client(config: &Arc<ClientConfig>, name: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError(format!("bad server name {name:?}")))?;
        Ok(Self::over(Connection::Client(UnbufferedClientConnection::new(Arc::clone(config), name)?)))
    }

    fn over(connection: Connection) -> Self {
        Self { connection, rest: Vec::new(), hello: None, peer_closed: false, closed: false, broken: false }
    }

    fn pump(
        &mut self,
        records: &mut [u8],
        want: Want<'_>,
        out: &mut OutBuffer,
        sink: &mut impl FnMut(&[u8]),
    ) -> (usize, Result<(), TlsError>) {
        if self.broken {
            return (records.len(), Err(TlsError("the connection is broken".into())));
        }
        if let Connection::Undecided(config, door) = &self.connection {
            let (config, door) = (Arc::clone(config), *door);
            if let Some(outcome) = self.decide(&config, door, records) {
                return (0, outcome);
            }
        }
        let peer_closed = &mut self.peer_closed;
        let (used, result) = match &mut self.connection {
            Connection::Client(c) => pump!(c, records, want, out, sink, *peer_closed),
            Connection::Server(c) => pump!(c, records, want, out, sink, *peer_closed),
            Connection::Undecided(..) | Connection::Foreign => (0, Ok(())),
        };
        self.broken = result.is_err();
        (used, result)
    }

    /// By its ClientHello, who has come; nothing if TLS goes on with it.
    fn decide(&mut self, config: &Arc<ServerConfig>, door: Door, records: &[u8]) -> Option<Result<(), TlsError>> {
        let hello = match hello::look(records) {
            Ok(Look::Partial) => return Some(Ok(())),
            Ok(Look::Unreadable) => None,
            Ok(Look::Whole(hello)) => Some(hello),
            Err(error) => return Some(Err(error)),
        };
        match door {
            Door::Agents if hello.as_ref().is_some_and(|hello| !hello.offers(ALPN)) => {
                self.connection = Connection::Foreign;
                return Some(Err(TlsError("no drtp/1".into())));
            }
            Door::Agents => {}
            Door::Endpoint => self.hello = hello.map(Box::new),
        }
        match UnbufferedServerConnection::new(Arc::clone(config)) {
            Ok(connection) => {
                self.connection = Connection::Server(connection);
                None
            }
            Err(error) => Some(Err(error.into())),
        }
    }

    /// Copies the incomplete record at rest to the front of `scratch`; the socket is read behind it.
    pub fn prefix(&mut self, scratch: &mut [u8]) -> usize {
        scratch[..self.rest.len()].copy_from_slice(&self.rest);
        self.rest.len()
    }

    /// Bytes of the incomplete record at rest.
    pub fn rest_bytes(&self) -> usize {
        self.rest.len()
    }

    /// As `prefix`, at the end of a buffer that grows.
    pub fn put_rest(&self, records: &mut Vec<u8>) {
        records.extend_from_slice(&self.rest);
    }

    /// Takes `records` (which starts with the `prefix`); plain bytes go to `sink`, handshake answers to `out`.
    pub fn input(
        &mut self,
        records: &mut [u8],
        out: &mut OutBuffer,
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<(), TlsError> {
        let (used, result) = self.pump(records, Want::Nothing, out, sink);
        let rest = &records[used.min(records.len())..];
        if rest.is_empty() {
            self.rest = Vec::new();
        } else {
            self.rest.clear();
            self.rest.extend_from_slice(rest);
        }
        result
    }

    /// Seals `plain` into `out`.
    pub fn seal(&mut self, plain: &[u8], out: &mut OutBuffer) -> Result<(), TlsError> {
        if plain.is_empty() {
            return Ok(());
        }
        self.outward(Want::Seal(plain), out)
    }

    /// Says that we send no more. Once.
    pub fn close(&mut self, out: &mut OutBuffer) -> Result<(), TlsError> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        self.outward(Want::Close, out)
    }

    fn outward(&mut self, want: Want<'_>, out: &mut OutBuffer) -> Result<(), TlsError> {
        // The record at rest goes along, because the connection counts offsets into it. It is incomplete: nothing comes in.
        let mut rest = std::mem::take(&mut self.rest);
        let (used, result) = self.pump(&mut rest, want, out, &mut |_: &[u8]| {});
        rest.drain(..used.min(rest.len()));
        self.rest = rest;
        result
    }

    /// The handshake is complete, the peer's certificate verified.
    pub fn established(&self) -> bool {
        match &self.connection {
            Connection::Client(c) => !c.is_handshaking(),
            Connection::Server(c) => !c.is_handshaking(),
            Connection::Undecided(..) | Connection::Foreign => false,
        }
    }

    /// What both sides agreed to speak.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.connection {
            Connection::Client(c) => c.alpn_protocol(),
            Connection::Server(c) => c.alpn_protocol(),
            Connection::Undecided(..) | Connection::Foreign => None,
        }
    }

    /// Who the peer is, from its leaf alone.
    pub fn peer(&self) -> Result<PeerIdentity, IdentityError> {
        let chain = match &self.connection {
            Connection::Client(c) => c.peer_certificates(),
            Connection::Server(c) => c.peer_certificates(),
            Connection::Undecided(..) | Connection::Foreign => None,
        };
        let leaf = chain.and_then(<[_]>::first).ok_or(IdentityError::Unreadable)?;
        PeerIdentity::of_leaf(leaf)
    }
}

#[cfg(test)]
mod tests;
