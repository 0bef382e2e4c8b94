//! Whether a token is true: its signature, and the claims that say when, by whom and for whom.

use std::sync::Arc;

use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};

use super::claims::Claims;
use super::jwks::Jwks;
use super::{Identity, JwksSource, KeySet};
use crate::message::now_unix_ms;

/// Bytes of a token: more than fits beside other headers into a request.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What is asked of a token beside a good signature and `exp`.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// One of which `aud` must name; it is not looked at if there are none.
    pub audiences: Vec<String>,
    /// What `iss` must be.
    pub issuer: Option<String>,
    /// By how much clocks may differ.
    pub leeway_s: u64,
}

/// Tells true tokens from others. A cheap handle.
#[derive(Clone)]
pub struct Verifier {
    keys: Arc<Jwks>,
    rules: Rules,
}

/// Why a token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    #[error("a token has at most {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("this is no JSON Web Token with a signature, or it asks for what is not known here")]
    Malformed,
    #[error("the token's algorithm is not the key's")]
    Algorithm,
    /// The issuer's fault, or nobody's: the token may well be good.
    #[error("no token can be verified just now, for the issuer's keys could not be read")]
    NoKeys,
    #[error("the key that the token names is not known")]
    UnknownKey,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is for somebody else (aud)")]
    Audience,
    #[error("the token is by somebody else (iss)")]
    Issuer,
    #[error("the token's claim {0:?} is missing, or not what it must be")]
    Claim(&'static str),
}

impl Unverified {
    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Unverified::TooLong => "too_long",
            Unverified::Malformed => "malformed",
            Unverified::Algorithm => "algorithm",
            Unverified::NoKeys => "no_keys",
            Unverified::UnknownKey => "unknown_key",
            Unverified::Signature => "signature",
            Unverified::Expired => "expired",
            Unverified::NotYetValid => "not_yet_valid",
            Unverified::Audience => "audience",
            Unverified::Issuer => "issuer",
            Unverified::Claim(_) => "claim",
        }
    }
}

impl Verifier {
    /// With keys that stay what they are.
    pub fn new(keys: impl Into<KeySet>, rules: Rules) -> Verifier {
        Verifier { keys: Arc::new(Jwks::fixed(keys.into())), rules }
    }

    /// With the keys of a set that is read again now and then, once [`Verifier::keep_fresh`] runs.
    pub fn with_source(source: JwksSource, rules: Rules) -> Verifier {
        Verifier { keys: Arc::new(Jwks::of(source)), rules }
    }

    /// Whose token this is. Waits if its key is not known, but may be by now.
    pub async fn verify(&self, token: &str) -> Result<Identity, Unverified> {
        match self.verify_now(token) {
            Err(Unverified::UnknownKey | Unverified::NoKeys) if self.keys.are_read_again().await => {
                self.verify_now(token)
            }
            verified => verified,
        }
    }

    /// The same by the keys that are known.
    pub fn verify_now(&self, token: &str) -> Result<Identity, Unverified> {
        let verified = self.look_at(token);
        let found = verified.as_ref().map_or_else(|reason| reason.name(), |_| "it counts");
        log::trace!("a token was verified: {found}");
        verified
    }

    fn look_at(&self, token: &str) -> Result<Identity, Unverified> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Unverified::TooLong);
        }
        let header = decode_header(token).map_err(|_| Unverified::Malformed)?;
        // RFC 7515 §4.1.11: what is critical and not understood makes a token invalid.
        if header.crit.is_some() {
            return Err(Unverified::Malformed);
        }
        let keys = self.keys.current().ok_or(Unverified::NoKeys)?;
        let key = keys.find(header.kid.as_deref(), header.alg).ok_or(Unverified::UnknownKey)?;
        let decoded = decode::<Claims>(token, &key.decoding, &self.validation(key.algorithm));
        let claims = decoded.map_err(|error| why(error.kind(), token))?.claims;
        let identity = claims.into_identity(self.rules.leeway_s)?;
        // RFC 7519 §4.1.4: not on or after that time, while the crate takes it on that second.
        if identity.expires_s.is_some_and(|ends_s| ends_s <= now_unix_ms() / 1000) {
            return Err(Unverified::Expired);
        }
        Ok(identity)
    }

    /// Whether there are keys to go by: not before a source was read for the first time, nor when that is too long ago.
    pub fn has_keys(&self) -> bool {
        self.keys.current().is_some()
    }

    /// Reads the keys again whenever that is due, for ever; returns if they stay what they are.
    pub async fn keep_fresh(self) {
        self.keys.keep_fresh().await;
    }

    fn validation(&self, algorithm: jsonwebtoken::Algorithm) -> Validation {
        let Rules { audiences, issuer, leeway_s } = &self.rules;
        let mut validation = Validation::new(algorithm);
        let mut required = vec!["exp"];
        validation.leeway = *leeway_s;
        validation.validate_nbf = true;
        validation.validate_aud = !audiences.is_empty();
        if !audiences.is_empty() {
            validation.set_audience(audiences);
            required.push("aud");
        }
        if let Some(issuer) = issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        validation
    }
}

fn why(kind: &ErrorKind, token: &str) -> Unverified {
    match kind {
        // The signature is looked at before, so these are the token's claims; `decode` does not say which it cannot read.
        ErrorKind::Json(_) => match insecure_decode_claims::<Claims>(token).map(|claims| claims.into_identity(0)) {
            Ok(Err(reason)) => reason,
            Ok(Ok(_)) | Err(_) => Unverified::Malformed,
        },
        ErrorKind::InvalidSignature => Unverified::Signature,
        ErrorKind::InvalidAlgorithm => Unverified::Algorithm,
        ErrorKind::ExpiredSignature => Unverified::Expired,
        ErrorKind::ImmatureSignature => Unverified::NotYetValid,
        ErrorKind::InvalidAudience => Unverified::Audience,
        ErrorKind::InvalidIssuer => Unverified::Issuer,
        ErrorKind::MissingRequiredClaim(name) | ErrorKind::InvalidClaimFormat(name) => match name.as_str() {
            "aud" => Unverified::Audience,
            "iss" => Unverified::Issuer,
            "nbf" => Unverified::Claim("nbf"),
            _ => Unverified::Claim("exp"),
        },
        _ => Unverified::Malformed,
    }
}
