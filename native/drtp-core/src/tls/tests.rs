//! TLS in memory: worn keys, half-closes, broken and random bytes.

use proptest::prelude::*;

use super::*;

fn identities() -> (Identity, Identity) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let leaf = |uri: &str, names: Vec<String>| {
        let mut params = CertificateParams::new(names).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let chain_pem = params.signed_by(&key, &issuer).unwrap().pem();
        Identity { chain_pem, key_pem: key.serialize_pem(), roots_pem: issuer.pem() }
    };
    (leaf("spiffe://td/pop/p", vec!["p.test".into()]), leaf("spiffe://td/agent/a", vec![]))
}

/// Two ends in memory; records pass in pieces of any size.
struct Duo {
    client: Tls,
    server: Tls,
    up: OutBuffer,
    down: OutBuffer,
    at_server: Vec<u8>,
    at_client: Vec<u8>,
}

fn feed(tls: &mut Tls, bytes: &[u8], out: &mut OutBuffer, plain: &mut Vec<u8>, piece: usize) -> Result<(), TlsError> {
    let mut scratch = vec![0; 128 * 1024];
    for part in bytes.chunks(piece.max(1)) {
        let start = tls.prefix(&mut scratch);
        scratch[start..start + part.len()].copy_from_slice(part);
        tls.input(&mut scratch[..start + part.len()], out, &mut |p| plain.extend_from_slice(p))?;
    }
    Ok(())
}

impl Duo {
    fn new(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Self {
        Self {
            client: Tls::client(client, "p.test").unwrap(),
            server: Tls::server(server).unwrap(),
            up: OutBuffer::default(),
            down: OutBuffer::default(),
            at_server: Vec::new(),
            at_client: Vec::new(),
        }
    }

    fn exchange(&mut self, piece: usize) -> Result<(), TlsError> {
        self.client.input(&mut [], &mut self.up, &mut |_| {})?;
        while !self.up.waiting().is_empty() || !self.down.waiting().is_empty() {
            let bytes = self.up.waiting().to_vec();
            self.up.written(bytes.len());
            feed(&mut self.server, &bytes, &mut self.down, &mut self.at_server, piece)?;
            let bytes = self.down.waiting().to_vec();
            self.down.written(bytes.len());
            feed(&mut self.client, &bytes, &mut self.up, &mut self.at_client, piece)?;
        }
        Ok(())
    }
}

#[test]
fn worn_keys_are_renewed_under_the_batch() {
    let (pop, agent) = identities();
    let server = Credentials::short_lived(&pop, 8).unwrap();
    let client = Credentials::short_lived(&agent, 8).unwrap();
    let mut duo = Duo::new(&client.tunnel_client, &server.tunnel_server);
    duo.exchange(usize::MAX).unwrap();
    assert!(duo.client.established() && duo.server.established());
    assert_eq!(duo.server.alpn(), Some(ALPN));
    let batch = vec![7; 256 * 1024];
    for round in 1..=20 {
        duo.client.seal(&batch, &mut duo.up).unwrap();
        duo.server.seal(&batch, &mut duo.down).unwrap();
        duo.exchange(100_000).unwrap();
        assert_eq!((duo.at_server.len(), duo.at_client.len()), (round * batch.len(), round * batch.len()));
    }
}

#[test]
fn close_notify_is_told_from_silence() {
    let (pop, agent) = identities();
    let (server, client) = (Credentials::new(&pop).unwrap(), Credentials::new(&agent).unwrap());
    let mut duo = Duo::new(&client.tunnel_client, &server.tunnel_server);
    duo.exchange(1).unwrap();
    assert!(!duo.server.peer_closed);
    duo.client.close(&mut duo.up).unwrap();
    duo.client.close(&mut duo.up).unwrap();
    duo.exchange(1).unwrap();
    assert!(duo.server.peer_closed);
    duo.server.seal(b"half-closed, not deaf", &mut duo.down).unwrap();
    duo.exchange(3).unwrap();
    assert_eq!(duo.at_client, b"half-closed, not deaf");
    assert_eq!(duo.server.peer().unwrap().uid, "a");
}

#[test]
fn no_resumption_is_offered_cve_2025_23419() {
    let (pop, agent) = identities();
    let (server, client) = (Credentials::new(&pop).unwrap(), Credentials::new(&agent).unwrap());
    assert_eq!(server.tunnel_server.send_tls13_tickets, 0);
    assert_eq!(server.tunnel_server.max_early_data_size, 0);
    assert!(!client.tunnel_client.enable_early_data);
    let mut duo = Duo::new(&client.tunnel_client, &server.tunnel_server);
    duo.exchange(usize::MAX).unwrap();
    let mut again = Duo::new(&client.tunnel_client, &server.tunnel_server);
    again.exchange(usize::MAX).unwrap();
    let Connection::Server(connection) = &again.server.connection else { panic!() };
    assert_eq!(connection.handshake_kind(), Some(rustls::HandshakeKind::Full));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_broken_stream_ends_in_an_error_and_never_in_a_panic(
        at in 0_usize..6_000, flip in 1_u8..=255, piece in 1_usize..3_000, fragment in 32_usize..200, seal in any::<bool>(),
    ) {
        let (pop, agent) = identities();
        let (server, client) = (Credentials::new(&pop).unwrap(), Credentials::new(&agent).unwrap());
        let mut fragmented = (*client.tunnel_client).clone();
        fragmented.max_fragment_size = Some(fragment);
        let mut duo = Duo::new(&Arc::new(fragmented), &server.tunnel_server);
        duo.client.input(&mut [], &mut duo.up, &mut |_| {}).unwrap();
        let mut passed = 0;
        for _ in 0..8 {
            let mut bytes = duo.up.waiting().to_vec();
            duo.up.written(bytes.len());
            if (passed..passed + bytes.len()).contains(&at) {
                bytes[at - passed] ^= flip;
            }
            passed += bytes.len();
            let broken = feed(&mut duo.server, &bytes, &mut duo.down, &mut duo.at_server, piece).is_err();
            if seal {
                let _ = duo.server.seal(b"beside", &mut duo.down);
                let _ = duo.server.close(&mut duo.down);
            }
            let bytes = duo.down.waiting().to_vec();
            duo.down.written(bytes.len());
            let said = feed(&mut duo.client, &bytes, &mut duo.up, &mut duo.at_client, piece);
            if broken || said.is_err() {
                break;
            }
            if duo.client.established() {
                let _ = duo.client.seal(&[1; 700], &mut duo.up);
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(input in proptest::collection::vec(any::<u8>(), 0..400), piece in 1_usize..100, record in any::<bool>()) {
        let (pop, _) = identities();
        let server = Credentials::new(&pop).unwrap();
        let mut tls = Tls::server(&server.endpoint).unwrap();
        let mut bytes = input;
        if record && bytes.len() > 5 {
            let length = ((bytes.len() - 5) as u16).to_be_bytes();
            bytes[..5].copy_from_slice(&[22, 3, 1, length[0], length[1]]);
        }
        let _ = feed(&mut tls, &bytes, &mut OutBuffer::default(), &mut Vec::new(), piece);
    }
}
