//! Keys by which tokens are verified: one from a file, or a set in the form of RFC 7517. A key knows its algorithm.

use std::path::Path;
use std::{fmt, fs, io};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// Bytes of a secret: what HMAC-SHA-256 asks for (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// Bytes of an RSA modulus, 2,048 bits (RFC 7518 §3.3).
const RSA_BYTES_MIN: usize = 256;

/// An uncompressed point of P-256: one byte and two coordinates.
const P256_POINT_BYTES: usize = 65;

/// Bytes of a file with keys.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Keys in one set: issuers have two or three, while they change them.
const KEYS_MAX: usize = 100;

/// How PEM begins.
const PEM: &[u8] = b"-----BEGIN ";

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
pub struct KeySet(Vec<Key>);

/// Why a text holds no keys.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKeys {
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    #[error("a file with keys has at most {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is a private key: the server needs the public one")]
    Private,
    #[error("it is PEM, but no public key of RSA (2,048 bits or more), P-256 or Ed25519")]
    Unknown,
    #[error("a secret has at least {SECRET_BYTES_MIN} bytes")]
    Short,
    #[error("it is no JSON Web Key Set: {0}")]
    NotASet(String),
    #[error("it has no key for RS256, ES256, EdDSA or, in a file, HS256")]
    Empty,
}

impl Key {
    /// The key of a file: in PEM a public one, else the bytes of a secret.
    pub fn read(path: &Path) -> Result<Key, InvalidKeys> {
        Key::parse(&read(path)?)
    }

    /// A line's end behind a secret is none of it.
    pub fn parse(bytes: &[u8]) -> Result<Key, InvalidKeys> {
        if bytes.trim_ascii_start().starts_with(PEM) {
            return Key::of_pem(bytes);
        }
        let secret = secret(bytes)?;
        Ok(Key { id: None, algorithm: Algorithm::HS256, decoding: DecodingKey::from_secret(secret) })
    }

    fn of_pem(pem: &[u8]) -> Result<Key, InvalidKeys> {
        if String::from_utf8_lossy(pem).contains("PRIVATE KEY-----") {
            return Err(InvalidKeys::Private);
        }
        let rsa = DecodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key, RSA_BYTES_MIN..=usize::MAX));
        let ec = |_| {
            let key = DecodingKey::from_ec_pem(pem)?;
            Ok((Algorithm::ES256, key, P256_POINT_BYTES..=P256_POINT_BYTES))
        };
        let ed = |_: jsonwebtoken::errors::Error| {
            DecodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key, 0..=usize::MAX))
        };
        let (algorithm, decoding, sizes) = rsa.or_else(ec).or_else(ed).map_err(|_| InvalidKeys::Unknown)?;
        let fits = decoding.try_get_as_bytes().is_ok_and(|bytes| sizes.contains(&bytes.len()));
        if fits { Ok(Key { id: None, algorithm, decoding }) } else { Err(InvalidKeys::Unknown) }
    }

    /// A key of a set, if it is for signatures and of a kind that is known.
    fn of_jwk(jwk: &Jwk) -> Option<Key> {
        if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return None;
        }
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            AlgorithmParameters::OctetKey(_) => Algorithm::HS256,
            _ => return None,
        };
        if jwk.common.key_algorithm.is_some_and(|said| said != KeyAlgorithm::from(algorithm)) {
            return None;
        }
        let decoding = DecodingKey::from_jwk(jwk).ok()?;
        let is_long_enough = match decoding.kind() {
            jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } => n.len() >= RSA_BYTES_MIN,
            jsonwebtoken::DecodingKeyKind::SecretOrDer(bytes) if algorithm == Algorithm::HS256 => {
                bytes.len() >= SECRET_BYTES_MIN
            }
            jsonwebtoken::DecodingKeyKind::SecretOrDer(_) => true,
        };
        is_long_enough.then(|| Key { id: jwk.common.key_id.clone(), algorithm, decoding })
    }

    /// Its bytes, if nobody but those who trust each other knows them.
    pub fn secret(&self) -> Option<&[u8]> {
        if self.algorithm == Algorithm::HS256 { self.decoding.try_get_as_bytes().ok() } else { None }
    }
}

/// Each key by itself, so that one of a new kind does not make the others useless.
#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. What is not for verifying tokens here is passed over; so are secrets, unless `private` says
    /// that nobody else could read them.
    pub fn parse(json: &[u8], private: bool) -> Result<KeySet, InvalidKeys> {
        let set: Set = serde_json::from_slice(json).map_err(|error| InvalidKeys::NotASet(error.to_string()))?;
        let set = JwkSet { keys: set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect() };
        let keys = set.keys.iter().filter_map(Key::of_jwk);
        let keys: Vec<Key> = keys.filter(|key| private || key.secret().is_none()).take(KEYS_MAX).collect();
        if keys.is_empty() { Err(InvalidKeys::Empty) } else { Ok(KeySet(keys)) }
    }

    /// Reads the set of a file.
    pub fn read(path: &Path) -> Result<KeySet, InvalidKeys> {
        KeySet::parse(&read(path)?, true)
    }

    /// The key that a token means: by its id, or the only one there is.
    pub(super) fn find(&self, id: Option<&str>) -> Option<&Key> {
        match (id, &self.0[..]) {
            // A key without an id is for all tokens.
            (_, [only]) if only.id.is_none() => Some(only),
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Key> for KeySet {
    fn from(key: Key) -> KeySet {
        KeySet(vec![key])
    }
}

impl fmt::Debug for Key {
    /// Without the key itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.algorithm, self.id)
    }
}

/// A secret without its line's end.
pub fn secret(bytes: &[u8]) -> Result<&[u8], InvalidKeys> {
    let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.len() < SECRET_BYTES_MIN { Err(InvalidKeys::Short) } else { Ok(secret) }
}

/// A secret from a file.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, InvalidKeys> {
    Ok(secret(&read(path)?)?.to_vec())
}

/// All of a file that may hold keys.
pub fn read(path: &Path) -> Result<Vec<u8>, InvalidKeys> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(InvalidKeys::TooLarge);
    }
    Ok(fs::read(path)?)
}
