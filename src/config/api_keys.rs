//! Who may publish over HTTP: names and hashes of API keys, from a file.
//!
//! The file has no key, only what shows that somebody has one. A key is meant to be chance (32 bytes, say): then nobody
//! finds it by its hash, and no slow hash is needed.

use std::path::Path;
use std::{fmt, fs, io};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// Who has a key, and the SHA-256 of it.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKeys(Vec<(String, [u8; 32])>);

/// Why a file has no keys.
#[derive(Debug, thiserror::Error)]
pub enum InvalidApiKeys {
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    #[error("line {0} is not a name and 64 hexadecimal digits")]
    Line(usize),
    #[error("line {0} has the name or the key of another line")]
    Twice(usize),
    #[error("it has no key")]
    Empty,
}

impl ApiKeys {
    pub fn read(path: &Path) -> Result<ApiKeys, InvalidApiKeys> {
        Self::parse(&fs::read_to_string(path)?)
    }

    /// Lines of `NAME SHA256`; empty ones, and those that begin with `#`, say nothing.
    pub fn parse(text: &str) -> Result<ApiKeys, InvalidApiKeys> {
        let mut keys: Vec<(String, [u8; 32])> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let mut words = line.split_whitespace();
            let Some(name) = words.next().filter(|word| !word.starts_with('#')) else { continue };
            let hash = words.next().filter(|_| words.next().is_none()).and_then(hash);
            let hash = hash.ok_or(InvalidApiKeys::Line(number))?;
            if keys.iter().any(|(known, of_known)| known == name || *of_known == hash) {
                return Err(InvalidApiKeys::Twice(number));
            }
            keys.push((name.to_owned(), hash));
        }
        if keys.is_empty() { Err(InvalidApiKeys::Empty) } else { Ok(ApiKeys(keys)) }
    }

    /// Whose key this is. How long it takes tells neither whose nor how much of it is right: every hash is compared,
    /// and to its end.
    pub fn owner(&self, key: &[u8]) -> Option<&str> {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let (mut found, mut owner) = (Choice::from(0), 0_u64);
        for (index, (_, known)) in (0..).zip(&self.0) {
            let same = known.ct_eq(&hash);
            owner.conditional_assign(&index, same);
            found |= same;
        }
        let owner = usize::try_from(owner).ok().filter(|_| found.into())?;
        self.0.get(owner).map(|(name, _)| name.as_str())
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

fn hash(digits: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf %s abc | sha256sum` (the example of FIPS 180-2), and of the empty text.
    const OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const OF_NOTHING: &str = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855";

    #[test]
    fn who_has_the_key_is_known() {
        let keys = ApiKeys::parse(&format!("# who may publish\n\nshop  {OF_ABC}\n nobody {OF_NOTHING} \n")).unwrap();
        assert_eq!([keys.owner(b"abc"), keys.owner(b""), keys.owner(b"abd")], [Some("shop"), Some("nobody"), None]);
        assert_eq!(format!("{keys:?}"), "[\"shop\", \"nobody\"]");
    }

    #[test]
    fn what_is_no_list_of_keys_is_refused_by_its_line() {
        for (text, expected) in [
            (String::new(), "it has no key"),
            ("# none\n".to_owned(), "it has no key"),
            ("\nshop".to_owned(), "line 2 is not a name and 64 hexadecimal digits"),
            (format!("shop {OF_ABC} x"), "line 1 is not a name and 64 hexadecimal digits"),
            (format!("shop {}", &OF_ABC[1..]), "line 1 is not a name and 64 hexadecimal digits"),
            (format!("shop {}ä", &OF_ABC[2..]), "line 1 is not a name and 64 hexadecimal digits"),
            (format!("shop +{}", &OF_ABC[1..]), "line 1 is not a name and 64 hexadecimal digits"),
            (format!("a {OF_ABC}\nb {OF_ABC}"), "line 2 has the name or the key of another line"),
            (format!("a {OF_ABC}\na {OF_NOTHING}"), "line 2 has the name or the key of another line"),
        ] {
            assert_eq!(ApiKeys::parse(&text).expect_err(&text).to_string(), expected);
        }
    }
}
