//! Tokens of users, and instances that know them.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use warren::config::Config;

use super::instance::config;
use super::process::Directory;

/// What the tests' tokens are signed with (HS256).
pub const SECRET: &str = "a secret for tests that is long enough";

/// A configuration whose key for tokens is [`SECRET`], in a file of `directory`.
pub fn with_tokens(directory: &Directory) -> Config {
    let jwt_key_file = Some(PathBuf::from(directory.write("jwt-key", SECRET)));
    Config { jwt_key_file, jwt_leeway_s: 0, ..config() }
}

/// A token of alice with these roles, for some minutes.
pub fn token(roles: &[&str]) -> String {
    token_of("alice", &json!({"roles": roles}))
}

/// A token of a user with these claims, for some minutes unless they say until when.
pub fn token_of(user: &str, claims: &Value) -> String {
    let mut all = json!({"sub": user, "exp": now_s() + 600});
    for (name, value) in claims.as_object().expect("claims") {
        all[name] = value.clone();
    }
    encode(&Header::default(), &all, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token")
}

/// Unix time in seconds.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("later than 1970").as_secs()
}
