//! Who a peer is: one SPIFFE URI of its leaf certificate, and nothing else (GHSA-mrpr-756c-xm47: never from another link of the chain).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use aws_lc_rs::digest;
use serde::Deserialize;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What may stand before the role in an identity.
const SCOPES: [&str; 4] = ["org", "project", "user", "app"];

/// What a certificate may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Serves from the private side.
    Agent,
    /// Accepts agents and gives endpoints.
    Pop,
    /// Brings visitors.
    Gateway,
    /// Brings what its user's or its application's own programs open: `datumctl connect`.
    Connector,
    /// Any other role of the system: never welcome here.
    Other,
}

impl Role {
    /// The path segment before the uid.
    pub const fn segment(self) -> &'static str {
        match self {
            Role::Agent => "agent",
            Role::Pop => "pop",
            Role::Gateway => "gateway",
            Role::Connector => "connector",
            Role::Other => "other",
        }
    }
}

/// SHA-256 of a public key's SubjectPublicKeyInfo; in text it is hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct KeyFingerprint([u8; 32]);

impl KeyFingerprint {
    /// Of a SubjectPublicKeyInfo in DER.
    fn of(spki: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, spki).as_ref());
        Self(bytes)
    }
}

impl TryFrom<String> for KeyFingerprint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("a key's fingerprint has 64 hexadecimal digits, this has {}", text.len());
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        let digits = digits.filter(|digits| digits.len() == 64).ok_or_else(wrong)?;
        Ok(Self(std::array::from_fn(|at| digits[2 * at] << 4 | digits[2 * at + 1])))
    }
}

/// Who is believed no more.
#[derive(Debug, Clone, Default)]
pub(crate) struct DenyList {
    identities: BTreeSet<String>,
    /// Keys that an identity left behind when it enrolled anew: it is in good standing, their certificates are not.
    keys: BTreeSet<KeyFingerprint>,
}

impl DenyList {
    /// What a `deny` entry says of certificates: identities below zero, and keys.
    pub(crate) fn new(minimum_generation: BTreeMap<String, i64>, keys: BTreeSet<KeyFingerprint>) -> Self {
        let denied = minimum_generation.into_iter().filter(|(_, least)| *least < 0);
        Self { identities: denied.map(|(uid, _)| uid).collect(), keys }
    }

    /// All that several entries say.
    pub(crate) fn merged<'a>(lists: impl Iterator<Item = &'a Self>) -> Self {
        lists.fold(Self::default(), |mut all, one| {
            all.identities.extend(one.identities.iter().cloned());
            all.keys.extend(&one.keys);
            all
        })
    }

    /// Whether nothing that this identity shows counts.
    pub(crate) fn names(&self, uid: &str) -> bool {
        self.identities.contains(uid)
    }

    /// Whether nothing that this key proves counts.
    pub(crate) fn has_key(&self, key: KeyFingerprint) -> bool {
        self.keys.contains(&key)
    }

    /// Whether this certificate proves nothing.
    pub(crate) fn holds(&self, peer: &PeerIdentity) -> bool {
        self.names(&peer.uid) || self.has_key(peer.key)
    }
}

/// A verified peer, as its leaf says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// `spiffe://<this>/…`.
    pub trust_domain: String,
    /// What it is.
    pub role: Role,
    /// Its uid.
    pub uid: String,
    /// Unix seconds; live sessions are held to the newest that the peer has shown.
    pub not_after: i64,
    /// The key that it has proven to hold.
    pub key: KeyFingerprint,
}

/// Uids of peers that have shown a certificate whose end is one that `holds`. What one certificate began goes on for as long as
/// the peer proves with another that it is still who it was.
pub fn proven<'a>(peers: impl Iterator<Item = &'a PeerIdentity>, holds: impl Fn(i64) -> bool) -> HashSet<String> {
    peers.filter(|peer| holds(peer.not_after)).map(|peer| peer.uid.clone()).collect()
}

/// A leaf that names nobody, or more than one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No certificate, or not one.
    #[error("no readable leaf certificate")]
    Unreadable,
    /// Zero or several URI names.
    #[error("the leaf must carry exactly one URI name, it carries {0}")]
    UriCount(usize),
    /// Not a DRTP SPIFFE id.
    #[error("the leaf's URI is not a DRTP identity")]
    Shape,
    /// Revoked, or of a key that its identity has left behind.
    #[error("the peer's certificate was revoked")]
    Denied,
    /// Another role, trust domain or uid than wanted.
    #[error("the peer is {found}, wanted {wanted}")]
    Wrong {
        /// `role/uid` as shown.
        found: String,
        /// What was wanted.
        wanted: String,
    },
}

impl PeerIdentity {
    /// Reads the leaf. The chain was verified by rustls before.
    pub fn of_leaf(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, leaf) = X509Certificate::from_der(der).map_err(|_| IdentityError::Unreadable)?;
        let names = leaf.subject_alternative_name().map_err(|_| IdentityError::Unreadable)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let uris: Vec<&str> =
            names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None }).collect();
        let [uri] = uris.as_slice() else { return Err(IdentityError::UriCount(uris.len())) };
        let not_after = leaf.validity().not_after.timestamp();
        let key = KeyFingerprint::of(leaf.public_key().raw);
        parse(uri, not_after, key).ok_or(IdentityError::Shape)
    }

    /// Our own certificate must fit what we are started as.
    pub(crate) fn must_be_own(&self, role: Role) -> Result<(), crate::error::CoreError> {
        let fits = self.must_be(role, &self.trust_domain, None);
        fits.map_err(|error| crate::error::CoreError::Identity(error.to_string()))
    }

    /// Holds the peer to a role, to our own trust domain, and to a uid where one is expected.
    pub fn must_be(&self, role: Role, trust_domain: &str, uid: Option<&str>) -> Result<(), IdentityError> {
        let fits = self.role == role && self.trust_domain == trust_domain && uid.is_none_or(|uid| uid == self.uid);
        if fits {
            return Ok(());
        }
        Err(IdentityError::Wrong {
            found: format!("{}/{} of {}", self.role.segment(), self.uid, self.trust_domain),
            wanted: format!("{}/{} of {trust_domain}", role.segment(), uid.unwrap_or("*")),
        })
    }
}

/// `spiffe://<trust domain>/[org/<uid>/][project/<uid>/]<role>/<uid>`, and nothing beside it. A connector's comes with
/// whose it is: `user/<uid>/` or `org/<uid>/project/<uid>/app/<uid>/` before it.
fn parse(uri: &str, not_after: i64, key: KeyFingerprint) -> Option<PeerIdentity> {
    let rest = uri.strip_prefix("spiffe://")?;
    let (trust_domain, path) = rest.split_once('/')?;
    let word = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let segments: Vec<&str> = path.split('/').collect();
    if !word(trust_domain) || segments.len() % 2 != 0 || !segments.iter().all(|s| word(s)) {
        return None;
    }
    let (scope, last) = segments.split_at(segments.len() - 2);
    let of_caller = |pair: &[&str]| pair[0] == "user" || pair[0] == "app";
    let scoped = scope.chunks(2).all(|pair| SCOPES.contains(&pair[0]));
    if !scoped || scope.chunks(2).any(of_caller) != (last[0] == "connector") {
        return None;
    }
    let role = match last[0] {
        "agent" => Role::Agent,
        "pop" => Role::Pop,
        "gateway" => Role::Gateway,
        "connector" => Role::Connector,
        "controlplane" | "user" => Role::Other,
        _ => return None,
    };
    Some(PeerIdentity { trust_domain: trust_domain.to_owned(), role, uid: last[1].to_owned(), not_after, key })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(uri: &str) -> Option<PeerIdentity> {
        parse(uri, 5, KeyFingerprint([0; 32]))
    }

    #[test]
    fn the_role_is_the_last_pair_and_scopes_cannot_pose_as_one() {
        let agent = named("spiffe://td/org/o/project/p/agent/a-1").unwrap();
        assert_eq!((agent.role, agent.uid.as_str()), (Role::Agent, "a-1"));
        assert_eq!(named("spiffe://td/pop/p1").map(|p| p.role), Some(Role::Pop));
        let connector = named("spiffe://td/user/u/connector/c-1").unwrap();
        assert_eq!((connector.role, connector.uid.as_str()), (Role::Connector, "c-1"));
        let of_app = named("spiffe://td/org/o/project/p/app/a/connector/c-2").unwrap();
        assert_eq!((of_app.role, of_app.uid.as_str()), (Role::Connector, "c-2"));
        for bad in [
            "spiffe://td/agent/a/pop/p",
            "spiffe://td/user/u/agent/a",
            "spiffe://td/connector/c",
            "spiffe://td/agent/",
            "spiffe://td/agent/a/b",
            "https://td/agent/a",
            "spiffe:///agent/a",
            "spiffe://td/agent/a?x=/pop/b",
            "spiffe://td/org/o/agent/..%2fpop",
        ] {
            assert_eq!(named(bad), None, "{bad}");
        }
    }

    #[test]
    fn another_trust_domain_is_another_world() {
        let peer = named("spiffe://elsewhere/agent/a").unwrap();
        assert!(peer.must_be(Role::Agent, "here", None).is_err());
        assert!(peer.must_be(Role::Agent, "elsewhere", Some("b")).is_err());
        assert!(peer.must_be(Role::Agent, "elsewhere", Some("a")).is_ok());
    }

    #[test]
    fn exactly_one_uri_ghsa_hhm9_wf63_g7qj() {
        let leaf = |uris: &[&str]| {
            let mut params = rcgen::CertificateParams::new(vec!["name".to_owned()]).unwrap();
            for uri in uris {
                params.subject_alt_names.push(rcgen::SanType::URI((*uri).try_into().unwrap()));
            }
            let key = rcgen::KeyPair::generate().unwrap();
            params.self_signed(&key).unwrap().der().to_vec()
        };
        let one = leaf(&["spiffe://td/agent/a"]);
        assert_eq!(PeerIdentity::of_leaf(&one).unwrap().uid, "a");
        let two = leaf(&["spiffe://td/agent/a", "spiffe://td/agent/b"]);
        assert_eq!(PeerIdentity::of_leaf(&two), Err(IdentityError::UriCount(2)));
        assert_eq!(PeerIdentity::of_leaf(&leaf(&[])), Err(IdentityError::UriCount(0)));
        assert_eq!(PeerIdentity::of_leaf(b"junk"), Err(IdentityError::Unreadable));
    }
}
