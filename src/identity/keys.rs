//! Keys by which tokens are verified: one from a file, or a set in the form of RFC 7517. A key knows its algorithm.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, crypto};
use serde::Deserialize;
use serde_json::Value;

use super::key_file::{self, InvalidKeyFile, KeyFile, SECRET_BYTES_MIN};

/// Bytes of an RSA modulus: from 2,048 bits (RFC 7518 §3.3) to 4,096, more than which the verifier takes from nobody.
const RSA_BYTES: RangeInclusive<usize> = 256..=512;

/// The largest public exponent of RSA that the verifier takes.
const RSA_EXPONENT_MAX: u64 = (1 << 33) - 1;

/// An uncompressed point of P-256: one byte and two coordinates.
const P256_POINT_BYTES: usize = 65;

/// A public key of Ed25519 (RFC 8032 §5.1.5).
const ED25519_BYTES: usize = 32;

/// Keys in one set: issuers have two or three, while they change them.
const KEYS_MAX: usize = 100;

/// By which tokens are verified.
#[derive(Clone)]
pub struct Key {
    /// As tokens name it (`kid`), in a set.
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

/// All keys that count.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    /// What is wrong with those that should count, and do not.
    unusable: Vec<String>,
}

/// Why a text holds no keys.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKeys {
    #[error(transparent)]
    File(#[from] InvalidKeyFile),
    #[error("it is a private key: the server needs the public one")]
    Private,
    #[error("it is PEM, but no public key of RSA (2,048 to 4,096 bits), P-256 or Ed25519")]
    Unknown,
    #[error("it is no JSON Web Key Set: {0}")]
    NotASet(String),
    #[error("it has no key for RS256, ES256, EdDSA or, in a file, HS256")]
    Empty,
}

/// Why a key of a set does not count.
enum PassedOver {
    /// It is for something else.
    NotMeant,
    /// It should be for tokens, and no token could be verified by it.
    Unusable(&'static str),
}

impl Key {
    /// The key of a file: in PEM a public one, else the bytes of a secret.
    pub fn read(path: &Path) -> Result<Key, InvalidKeys> {
        Key::parse(&key_file::read(path)?)
    }

    pub fn parse(bytes: &[u8]) -> Result<Key, InvalidKeys> {
        match KeyFile::parse(bytes)? {
            KeyFile::Pem(pem) => Key::of_pem(pem),
            KeyFile::Secret(secret) => {
                Ok(Key { id: None, algorithm: Algorithm::HS256, decoding: DecodingKey::from_secret(secret) })
            }
        }
    }

    fn of_pem(pem: &[u8]) -> Result<Key, InvalidKeys> {
        if String::from_utf8_lossy(pem).contains("PRIVATE KEY-----") {
            return Err(InvalidKeys::Private);
        }
        let rsa = DecodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key));
        let ec = || DecodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key));
        let ed = || DecodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key));
        let found = rsa.or_else(|_| ec()).or_else(|_| ed());
        let (algorithm, decoding) = found.map_err(|_| InvalidKeys::Unknown)?;
        check(algorithm, &decoding).map_err(|_| InvalidKeys::Unknown)?;
        Ok(Key { id: None, algorithm, decoding })
    }

    /// A key of a set, if it is for signatures and of a kind that is known. Of a kind whose parameters are missing it is not
    /// known what it was meant for.
    fn of_jwk(jwk: &Value) -> Result<Key, PassedOver> {
        let jwk: Jwk = serde_json::from_value(jwk.clone()).map_err(|_| PassedOver::NotMeant)?;
        if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return Err(PassedOver::NotMeant);
        }
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            AlgorithmParameters::OctetKey(_) => Algorithm::HS256,
            _ => return Err(PassedOver::NotMeant),
        };
        if jwk.common.key_algorithm.is_some_and(|said| said != KeyAlgorithm::from(algorithm)) {
            return Err(PassedOver::NotMeant);
        }
        let decoding = DecodingKey::from_jwk(&jwk).map_err(|_| PassedOver::Unusable("it is not in base64url"))?;
        check(algorithm, &decoding).map_err(PassedOver::Unusable)?;
        Ok(Key { id: jwk.common.key_id, algorithm, decoding })
    }

    /// Its bytes, if nobody but those who trust each other knows them.
    pub fn secret(&self) -> Option<&[u8]> {
        if self.algorithm == Algorithm::HS256 { self.decoding.try_get_as_bytes().ok() } else { None }
    }
}

/// Each key by itself, so that one of a new kind does not make the others useless.
#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. What is not for verifying tokens here is passed over; so are secrets, unless `private` says
    /// that nobody else could read them. It may be that none is left.
    pub fn parse(json: &[u8], private: bool) -> Result<KeySet, InvalidKeys> {
        let set: Set = serde_json::from_slice(json).map_err(|error| InvalidKeys::NotASet(error.to_string()))?;
        let (mut keys, mut unusable) = (Vec::new(), Vec::new());
        for jwk in set.keys.iter().take(KEYS_MAX) {
            match Key::of_jwk(jwk) {
                Ok(key) if private || key.secret().is_none() => keys.push(key),
                Ok(_) | Err(PassedOver::NotMeant) => {}
                Err(PassedOver::Unusable(reason)) => unusable.push(format!("{}: {reason}", jwk["kid"])),
            }
        }
        Ok(KeySet { keys, unusable })
    }

    /// Reads the set of a file.
    pub fn read(path: &Path) -> Result<KeySet, InvalidKeys> {
        KeySet::parse(&key_file::read(path)?, true)
    }

    /// The set, if there is a key in it.
    pub fn not_empty(self) -> Result<KeySet, InvalidKeys> {
        if self.is_empty() { Err(InvalidKeys::Empty) } else { Ok(self) }
    }

    /// The key that a token means: by its id, or the only one there is. Keys of different kinds may share an id (RFC 7517
    /// §4.5); then it is the one of the token's algorithm, and no other algorithm counts for it.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Key> {
        let id = match (id, &self.keys[..]) {
            // A key without an id is for all tokens.
            (_, [only]) if only.id.is_none() => return Some(only),
            (None, [only]) => return Some(only),
            (None, _) => return None,
            (Some(id), _) => id,
        };
        let mut named = self.keys.iter().filter(|key| key.id.as_deref() == Some(id));
        named.clone().find(|key| key.algorithm == algorithm).or_else(|| named.next())
    }

    /// What is wrong with those that should count, and do not: a line for each.
    pub(super) fn unusable(&self) -> &[String] {
        &self.unusable
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl From<Key> for KeySet {
    fn from(key: Key) -> KeySet {
        KeySet { keys: vec![key], unusable: Vec::new() }
    }
}

impl fmt::Debug for Key {
    /// Without the key itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.algorithm, self.id)
    }
}

/// Whether tokens can be verified by a key. What is not of its length would make the verifier panic, and what is no point of
/// the curve would only ever be found out by tokens that do not count.
fn check(algorithm: Algorithm, key: &DecodingKey) -> Result<(), &'static str> {
    match (algorithm, key.kind()) {
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => check_rsa(n, e),
        (Algorithm::RS256, DecodingKeyKind::SecretOrDer(der)) => {
            let [n, e] = der_integers(der).ok_or("it is no RSAPublicKey (RFC 8017)")?;
            check_rsa(n, e)
        }
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) if point.len() != P256_POINT_BYTES => {
            Err("a point of P-256 has two coordinates of 32 bytes")
        }
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) if point.len() != ED25519_BYTES => {
            Err("a key of Ed25519 has 32 bytes")
        }
        (Algorithm::HS256, DecodingKeyKind::SecretOrDer(secret)) if secret.len() < SECRET_BYTES_MIN => {
            Err("a secret has at least 32 bytes")
        }
        // The signature of nothing is wrong; whether the key can be used is found out before.
        _ => crypto::verify("", b"", key, algorithm).map(drop).map_err(|_| "it is no point of its curve"),
    }
}

/// Both big-endian. The verifier's own bounds, but for an exponent of 1, with which everything is signed.
fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), &'static str> {
    let (n, e) = (without_zeros(n), without_zeros(e));
    if !RSA_BYTES.contains(&n.len()) {
        return Err("a modulus of RSA has 2,048 to 4,096 bits");
    }
    let exponent = (e.len() <= 8).then(|| e.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte)));
    let is_sound = exponent.is_some_and(|e| (3..=RSA_EXPONENT_MAX).contains(&e) && e % 2 == 1);
    if is_sound { Ok(()) } else { Err("an exponent of RSA is odd, and neither 1 nor huge") }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// The two integers of an RSAPublicKey (RFC 8017 §A.1.1).
fn der_integers(der: &[u8]) -> Option<[&[u8]; 2]> {
    let (sequence, rest) = der_value(der, 0x30)?;
    let (n, behind) = der_value(sequence, 0x02)?;
    let (e, end) = der_value(behind, 0x02)?;
    (rest.is_empty() && end.is_empty()).then_some([n, e])
}

/// What an element of DER holds, and what follows (X.690 §8.1.3).
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[tag])?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        ..=0x7f => (usize::from(*first), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}
