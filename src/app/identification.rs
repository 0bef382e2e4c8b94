//! From the configuration to what tells who somebody is.

use std::time::Duration;

use anyhow::Context;

use crate::config::{Anonymous, Config};
use crate::http::{Identities, SignIn};
use crate::identity::{self, JwksSource, Key, Rules, Signer, Tickets, Verifier};

/// What verifies tokens, where a key for them is configured.
pub fn verifier(config: &Config) -> anyhow::Result<Option<Verifier>> {
    if let Some(key) = key(config)? {
        return Ok(Some(Verifier::new(key, rules(config))));
    }
    let source = |place| JwksSource {
        place,
        every: Duration::from_secs(config.jwt_jwks_refresh_s),
        age_max: Duration::from_secs(config.jwt_jwks_age_max_s),
    };
    Ok(config.jwt_jwks.clone().map(|place| Verifier::with_source(source(place), rules(config))))
}

/// What finds out whose requests are.
pub fn identities(config: &Config, verifier: Option<Verifier>) -> anyhow::Result<Identities> {
    let anonymous = match config.anonymous {
        Anonymous::Allow => true,
        Anonymous::Refuse => false,
        Anonymous::Auto => verifier.is_none(),
    };
    Ok(Identities {
        verifier,
        tickets: tickets(config)?,
        cookie: config.jwt_cookie.clone(),
        in_query: config.jwt_in_query,
        anonymous,
        allowed_origins: config.allowed_origins.clone(),
    })
}

/// What gives tokens to whoever asks, on a development server.
pub fn sign_in(config: &Config) -> anyhow::Result<Option<SignIn>> {
    let Some(path) = config.jwt_key_file.as_ref().filter(|_| config.dev_sign_in) else { return Ok(None) };
    let signer = Signer::read(path).with_context(|| format!("--jwt-key-file {}", path.display()))?;
    log::warn!(
        "--dev-sign-in: any program on this host gets a token for any name. This is for development, never for a server \
         that others use."
    );
    Ok(Some(SignIn { signer, rules: rules(config) }))
}

fn tickets(config: &Config) -> anyhow::Result<Tickets> {
    let shared = match &config.ticket_key_file {
        Some(path) => {
            Some(identity::read_secret(path).with_context(|| format!("--ticket-key-file {}", path.display()))?)
        }
        None => key(config)?.and_then(|key| key.secret().map(<[u8]>::to_vec)),
    };
    let made = Tickets::new(shared.as_deref(), config.ticket_lifetime_s, config.tickets_max);
    made.map_err(|error| anyhow::anyhow!("no chance to be had from the operating system: {error}"))
}

fn key(config: &Config) -> anyhow::Result<Option<Key>> {
    let Some(path) = &config.jwt_key_file else { return Ok(None) };
    Key::read(path).map(Some).with_context(|| format!("--jwt-key-file {}", path.display()))
}

fn rules(config: &Config) -> Rules {
    Rules { audiences: config.jwt_audience.clone(), issuer: config.jwt_issuer.clone(), leeway_s: config.jwt_leeway_s }
}
