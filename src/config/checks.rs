//! What concerns more than one option, or the world outside: checked once every option has its value.

use std::fs;
use std::path::Path;

use super::api_keys::{ApiKeys, InvalidApiKeys};
use super::broker::{BrokerChoice, BrokerUri};
use super::error::Error;
use super::identity::Anonymous;
use super::load::Sources;
use super::options::{Config, MAILBOX_IDLE_S_MAX};
use crate::identity::{self, InvalidKeyFile, InvalidKeys, Key, KeySet, Place};

/// Longest header of a WebSocket frame (RFC 6455 §5.2): 2 bytes, 8 of length, 4 of mask.
const FRAME_HEADER_BYTES_MAX: usize = 14;

/// Refuses options that do not go together.
pub fn check(config: &Config, sources: &Sources) -> Result<(), Error> {
    ping_comes_before_idle(config, sources)?;
    outbox_holds_a_message(config, sources)?;
    delay_leaves_time_to_drain(config, sources)?;
    instance_is_free(config, sources)?;
    file_has_api_keys(config, sources)?;
    identity(config, sources)?;
    mailboxes_fit_rabbitmq(config, sources)?;
    ca_file_is_used(config, sources)
}

/// A queue of RabbitMQ's lives for 2^32 ms at most, and a mailbox for the sum of these.
fn mailboxes_fit_rabbitmq(config: &Config, sources: &Sources) -> Result<(), Error> {
    let (idle_s, age_s) = (config.mailbox_idle_s, config.unread_age_s);
    if idle_s + age_s <= MAILBOX_IDLE_S_MAX {
        return Ok(());
    }
    Err(Error::Value {
        label: sources.label("mailbox_idle_s").to_owned(),
        shown: idle_s.to_string(),
        detail: Some("RabbitMQ keeps no mailbox for so long".to_owned()),
        allowed: format!("at most {MAILBOX_IDLE_S_MAX} together with {age_s}, {}", sources.label("unread_age_s")),
    })
}

fn ping_comes_before_idle(config: &Config, sources: &Sources) -> Result<(), Error> {
    let (ping_ms, idle_ms) = (config.ping_interval_ms, config.idle_timeout_ms);
    if ping_ms < idle_ms {
        return Ok(());
    }
    Err(Error::Value {
        label: sources.label("ping_interval_ms").to_owned(),
        shown: ping_ms.to_string(),
        detail: Some("every quiet session would be closed as idle".to_owned()),
        allowed: format!("less than {idle_ms}, {}", sources.label("idle_timeout_ms")),
    })
}

fn delay_leaves_time_to_drain(config: &Config, sources: &Sources) -> Result<(), Error> {
    let (delay_ms, timeout_ms) = (config.drain_delay_ms, config.drain_timeout_ms);
    if delay_ms == 0 || delay_ms < timeout_ms {
        return Ok(());
    }
    Err(Error::Value {
        label: sources.label("drain_delay_ms").to_owned(),
        shown: delay_ms.to_string(),
        detail: Some("no time would be left to close the sessions".to_owned()),
        allowed: format!("less than {timeout_ms}, {}", sources.label("drain_timeout_ms")),
    })
}

fn outbox_holds_a_message(config: &Config, sources: &Sources) -> Result<(), Error> {
    let bytes_min = config.message_bytes_max + FRAME_HEADER_BYTES_MAX;
    if config.outbox_bytes_max >= bytes_min {
        return Ok(());
    }
    let message = sources.label("message_bytes_max");
    Err(Error::Value {
        label: sources.label("outbox_bytes_max").to_owned(),
        shown: config.outbox_bytes_max.to_string(),
        detail: Some("it holds no message of the largest size".to_owned()),
        allowed: format!("at least {bytes_min}, {message} and {FRAME_HEADER_BYTES_MAX} for the frame's header"),
    })
}

fn file_has_api_keys(config: &Config, sources: &Sources) -> Result<(), Error> {
    let Some(path) = &config.api_keys_file else { return Ok(()) };
    let label = || sources.label("api_keys_file").to_owned();
    match ApiKeys::read(path) {
        Ok(_) => Ok(()),
        Err(InvalidApiKeys::Unreadable(source)) => {
            Err(Error::Unreadable { label: label(), path: path.display().to_string(), source })
        }
        Err(reason) => Err(Error::Value {
            label: label(),
            shown: format!("{path:?}"),
            detail: Some(reason.to_string()),
            allowed: "a file with lines of a name and the SHA-256 of a key".to_owned(),
        }),
    }
}

/// One source of keys for tokens, which must have some; and nothing that needs one without it.
fn identity(config: &Config, sources: &Sources) -> Result<(), Error> {
    let label = |name: &str| sources.label(name).to_owned();
    let useless =
        |name: &str, shown: String, because: String| Err(Error::Useless { label: label(name), shown, because });
    let key = config.jwt_key_file.as_ref().map(|path| keys_of(path, label("jwt_key_file"), Key::read)).transpose()?;
    match &config.jwt_jwks {
        Some(place) if key.is_some() => {
            let because = format!("{} has the key", label("jwt_key_file"));
            return useless("jwt_jwks", format!("{place:?}"), because);
        }
        Some(Place::File(path)) => {
            keys_of(path, label("jwt_jwks"), |path| KeySet::read(path)?.not_empty())?;
        }
        Some(Place::Url(_)) | None => {}
    }
    if let Some(path) = &config.ticket_key_file {
        keys_of(path, label("ticket_key_file"), |path| Ok(identity::read_secret(path)?))?;
    }
    keys_outlast_a_reading(config, sources)?;
    let without_tokens = key.is_none() && config.jwt_jwks.is_none();
    if config.anonymous == Anonymous::Refuse && without_tokens {
        let because = "nobody could connect without a key for tokens (--jwt-key-file, --jwt-jwks)".to_owned();
        return useless("anonymous", "refuse".to_owned(), because);
    }
    if config.dev_sign_in && key.is_none_or(|key| key.secret().is_none()) {
        let because = "there is no secret (HS256) in --jwt-key-file to sign tokens with".to_owned();
        return useless("dev_sign_in", "true".to_owned(), because);
    }
    Ok(())
}

fn keys_of<T>(path: &Path, label: String, read: impl Fn(&Path) -> Result<T, InvalidKeys>) -> Result<T, Error> {
    read(path).map_err(|reason| match reason {
        InvalidKeys::File(InvalidKeyFile::Unreadable(source)) => {
            Error::Unreadable { label, path: path.display().to_string(), source }
        }
        reason => Error::Value {
            label,
            shown: format!("{path:?}"),
            detail: Some(reason.to_string()),
            allowed: "a file with a key".to_owned(),
        },
    })
}

fn keys_outlast_a_reading(config: &Config, sources: &Sources) -> Result<(), Error> {
    let (age_s, refresh_s) = (config.jwt_jwks_age_max_s, config.jwt_jwks_refresh_s);
    if age_s > refresh_s {
        return Ok(());
    }
    Err(Error::Value {
        label: sources.label("jwt_jwks_age_max_s").to_owned(),
        shown: age_s.to_string(),
        detail: Some("the keys would be too old before they are read again".to_owned()),
        allowed: format!("more than {refresh_s}, {}", sources.label("jwt_jwks_refresh_s")),
    })
}

/// The instance's exchange bears its name: it must be neither RabbitMQ's own nor one that the cluster shares.
fn instance_is_free(config: &Config, sources: &Sources) -> Result<(), Error> {
    let Some(instance) = config.instance.as_ref().map(|instance| instance.as_str()) else { return Ok(()) };
    let reserved = ["amq.".to_owned(), format!("{}.", config.prefix)];
    let of_a_cluster = [".broadcast", ".direct"];
    let is_reserved = reserved.iter().any(|beginning| instance.starts_with(beginning))
        || of_a_cluster.iter().any(|end| instance.ends_with(end));
    if !is_reserved {
        return Ok(());
    }
    Err(Error::Value {
        label: sources.label("instance").to_owned(),
        shown: format!("{instance:?}"),
        detail: Some("exchanges of RabbitMQ and of the whole cluster are called so".to_owned()),
        allowed: format!(
            "a name that begins with neither {}, nor ends with {}",
            reserved.join(" nor "),
            of_a_cluster.join(" or ")
        ),
    })
}

fn ca_file_is_used(config: &Config, sources: &Sources) -> Result<(), Error> {
    let Some(path) = &config.broker_ca_file else { return Ok(()) };
    let label = sources.label("broker_ca_file");
    let is_tls = match &config.broker {
        BrokerChoice::Memory => false,
        BrokerChoice::Amqp(uris) => uris.iter().any(BrokerUri::is_tls),
    };
    if !is_tls {
        return Err(Error::Useless {
            label: label.to_owned(),
            shown: format!("{path:?}"),
            because: format!("{} names no amqps:// URI", sources.label("broker")),
        });
    }
    has_certificate(label, path)
}

fn has_certificate(label: &str, path: &Path) -> Result<(), Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::Unreadable {
        label: label.to_owned(),
        path: path.display().to_string(),
        source,
    })?;
    if text.contains("-----BEGIN CERTIFICATE-----") {
        return Ok(());
    }
    Err(Error::Value {
        label: label.to_owned(),
        shown: format!("{path:?}"),
        detail: None,
        allowed: "a file with a certificate in PEM".to_owned(),
    })
}
