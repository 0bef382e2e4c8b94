//! Making tokens: for trying things out, and for signing in where a development server offers that.

use std::path::Path;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};

use super::claims::{Claim, Claims};
use super::key_file::{self, InvalidKeyFile, KeyFile};
use super::{Identity, Rules};
use crate::message::now_unix_ms;

/// Signs tokens with one key.
#[derive(Clone)]
pub struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
}

/// Why a file has no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSigningKey {
    #[error(transparent)]
    File(#[from] InvalidKeyFile),
    #[error("it is PEM, but no private key of RSA, P-256 (PKCS #8) or Ed25519 (PKCS #8)")]
    NotPrivate,
    #[error("the key cannot sign: {0}")]
    CannotSign(#[from] jsonwebtoken::errors::Error),
}

impl Signer {
    /// With the key of a file: in PEM a private one, else the bytes of a secret.
    pub fn read(path: &Path) -> Result<Signer, InvalidSigningKey> {
        Signer::parse(&key_file::read(path)?)
    }

    pub fn parse(bytes: &[u8]) -> Result<Signer, InvalidSigningKey> {
        let pem = match KeyFile::parse(bytes)? {
            KeyFile::Secret(secret) => return Ok(Signer::of_secret(secret)),
            KeyFile::Pem(pem) => pem,
        };
        if !String::from_utf8_lossy(pem).contains("PRIVATE KEY-----") {
            return Err(InvalidSigningKey::NotPrivate);
        }
        let rsa = EncodingKey::from_rsa_pem(pem).map(|key| (Algorithm::RS256, key));
        let ec = || EncodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key));
        let ed = || EncodingKey::from_ed_pem(pem).map(|key| (Algorithm::EdDSA, key));
        let (algorithm, key) = rsa.or_else(|_| ec()).or_else(|_| ed()).map_err(|_| InvalidSigningKey::NotPrivate)?;
        Ok(Signer { algorithm, key })
    }

    pub fn of_secret(secret: &[u8]) -> Signer {
        Signer { algorithm: Algorithm::HS256, key: EncodingKey::from_secret(secret) }
    }

    /// A token for somebody, from now for so many seconds, that keeps the rules.
    pub fn sign(&self, identity: &Identity, lasts_s: u64, rules: &Rules) -> Result<String, InvalidSigningKey> {
        let claims = Claims {
            exp: Claim::Is((now_unix_ms() / 1000).saturating_add(lasts_s).into()),
            iss: rules.issuer.clone().map(Into::into).into(),
            aud: rules.audiences.first().cloned().map(Into::into).into(),
            ..Claims::of(identity)
        };
        Ok(encode(&Header::new(self.algorithm), &claims, &self.key)?)
    }
}
