//! How the options on identity are written: what is no plain number, text or switch.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

use super::format::Refusal;
use crate::identity::Place;

/// Whether who brings no token may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    Allow,
    Refuse,
    /// Unless a key for tokens is configured.
    Auto,
}

/// A text that is no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no such policy")]
pub struct UnknownPolicy;

impl FromStr for Anonymous {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Anonymous, UnknownPolicy> {
        match text {
            "allow" => Ok(Anonymous::Allow),
            "refuse" => Ok(Anonymous::Refuse),
            "auto" => Ok(Anonymous::Auto),
            _ => Err(UnknownPolicy),
        }
    }
}

/// A cookie's name: a token of RFC 6265 §4.1.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieName(String);

/// A text that is no cookie's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cookie's name has only letters, digits and some signs")]
pub struct NotACookie;

impl CookieName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CookieName {
    type Err = NotACookie;

    fn from_str(text: &str) -> Result<CookieName, NotACookie> {
        let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_name = !text.is_empty() && text.bytes().all(is_of_token);
        is_name.then(|| CookieName(text.to_owned())).ok_or(NotACookie)
    }
}

impl fmt::Display for CookieName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key set's place: a URL if it looks like one, else a file.
pub fn place(text: &str) -> Result<Place, Refusal> {
    if !text.contains("://") {
        return Ok(Place::File(PathBuf::from(text)));
    }
    let url = Url::parse(text).map_err(|error| Some(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err(Some("a URL begins with http:// or https://, and has no password".to_owned()));
    }
    Ok(Place::Url(url))
}

/// Names that are not empty.
pub fn names(items: &[String]) -> Result<Vec<String>, Refusal> {
    if items.iter().any(String::is_empty) { Err(Some("a name is empty".to_owned())) } else { Ok(items.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_in_a_file_or_at_a_url() {
        assert_eq!(place("/etc/keys.json"), Ok(Place::File("/etc/keys.json".into())));
        for url in ["https://idp.example/keys", "http://localhost:9000/"] {
            assert_eq!(place(url), Ok(Place::Url(url.parse().unwrap())));
        }
        for wrong in ["ftp://idp.example/keys", "https://user:secret@idp.example/", "https://"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cookie_has_a_name() {
        for good in ["warren_token", "__Host-token", "a"] {
            assert_eq!(good.parse::<CookieName>().map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "a b", "a=b", "a;b", "ä", "\"a\""] {
            assert_eq!(bad.parse::<CookieName>(), Err(NotACookie), "{bad}");
        }
    }
}
