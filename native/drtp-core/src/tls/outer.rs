//! The outer TLS of a WebSocket. It gets through networks that look into TLS, and proves nothing: whoever ends it sees the
//! records of the inner TLS, in which both sides prove who they are. So the client takes any certificate here.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme, StreamOwned,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::{TlsError, provider};
use crate::error::CoreError;

/// ALPN of what carries a WebSocket.
const HTTP: &[u8] = b"http/1.1";

/// TLS over `S`, either side.
pub enum Outer<S: Read + Write> {
    Client(Box<StreamOwned<ClientConnection, S>>),
    Server(Box<StreamOwned<ServerConnection, S>>),
}

impl<S: Read + Write> Outer<S> {
    /// The asking side.
    pub fn client(name: &str, stream: S) -> Result<Self, TlsError> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| TlsError(format!("bad server name {name:?}")))?;
        Ok(Self::Client(Box::new(StreamOwned::new(ClientConnection::new(client_config()?, name)?, stream))))
    }

    /// The answering side.
    pub fn server(config: Arc<ServerConfig>, stream: S) -> Result<Self, TlsError> {
        Ok(Self::Server(Box::new(StreamOwned::new(ServerConnection::new(config)?, stream))))
    }

    /// What is below.
    pub fn stream(&mut self) -> &mut S {
        match self {
            Outer::Client(tls) => &mut tls.sock,
            Outer::Server(tls) => &mut tls.sock,
        }
    }

    /// Says that no more comes, as far as the socket takes it now.
    pub fn say_bye(&mut self) {
        match self {
            Outer::Client(tls) => tls.conn.send_close_notify(),
            Outer::Server(tls) => tls.conn.send_close_notify(),
        }
        // A peer that does not hear it learns it from the socket's end.
        let _ = self.flush();
    }
}

impl<S: Read + Write> Read for Outer<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Outer::Client(tls) => tls.read(buffer),
            Outer::Server(tls) => tls.read(buffer),
        }
    }
}

impl<S: Read + Write> Write for Outer<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Outer::Client(tls) => tls.write(bytes),
            Outer::Server(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Outer::Client(tls) => tls.flush(),
            Outer::Server(tls) => tls.flush(),
        }
    }
}

fn client_config() -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// What a POP shows to whoever does not speak `drtp/1` at its door: no client certificate is asked for, since what looks
/// into TLS has none.
pub fn web_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, CoreError> {
    let wrong = |error: rustls::Error| CoreError::Identity(format!("web: {error}"));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(wrong)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(wrong)?;
    config.alpn_protocols = vec![HTTP.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Takes any certificate. The peer must have its key, so that a broken middle box is told from a working one.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
