//! What a file with a key holds: PEM, or the bytes of a secret. Nothing else, and no secret that others know: a public key
//! in another wrapping would make a secret of what everybody may read, and whoever has it could sign tokens.

use std::path::Path;
use std::{fs, io};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Bytes of a secret: what HMAC-SHA-256 asks for (RFC 7518 §3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// Bytes of a file with keys.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What stands in PEM, wherever in a file (RFC 7468 §2: what stands before it explains it); also where a line was cut.
const PEM: [&[u8]; 2] = [b"--BEGIN ", b"--END "];

/// How text begins that some editors write, in UTF-8 and in UTF-16.
const BYTE_ORDER_MARKS: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"];

/// How lines of OpenSSH begin, and its other form (RFC 4716).
const SSH: [&[u8]; 5] = [b"ssh-", b"ecdsa-", b"sk-ssh-", b"sk-ecdsa-", b"---- BEGIN "];

/// The content of a file with a key.
#[derive(Debug, PartialEq, Eq)]
pub enum KeyFile<'a> {
    Pem(&'a [u8]),
    /// Without its line's end.
    Secret(&'a [u8]),
}

/// Why a file holds no key that could be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKeyFile {
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    #[error("a file with keys has at most {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it begins with a byte order mark: save it without one")]
    ByteOrderMark,
    #[error("it is a key of SSH: write it as PEM (ssh-keygen -e -m PKCS8 -f FILE)")]
    Ssh,
    #[error("it is JSON and neither PEM nor a secret: a JSON Web Key Set is for --jwt-jwks")]
    Json,
    #[error("it is a key in DER: write it as PEM (openssl pkey -pubin -inform DER -in FILE)")]
    Der,
    #[error("it is PEM, and a secret is wanted: random bytes, as of openssl rand -hex 32")]
    NotASecret,
    #[error("a secret has at least {SECRET_BYTES_MIN} bytes")]
    Short,
}

impl KeyFile<'_> {
    pub fn parse(bytes: &[u8]) -> Result<KeyFile<'_>, InvalidKeyFile> {
        if BYTE_ORDER_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
            return Err(InvalidKeyFile::ByteOrderMark);
        }
        if PEM.iter().any(|mark| bytes.windows(mark.len()).any(|part| part == *mark)) {
            return Ok(KeyFile::Pem(bytes));
        }
        if bytes.split(|byte| *byte == b'\n').any(is_of_ssh) {
            return Err(InvalidKeyFile::Ssh);
        }
        if is_json(bytes) {
            return Err(InvalidKeyFile::Json);
        }
        if is_der(bytes) || is_bare_base64_of_der(bytes) {
            return Err(InvalidKeyFile::Der);
        }
        let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if secret.len() < SECRET_BYTES_MIN { Err(InvalidKeyFile::Short) } else { Ok(KeyFile::Secret(secret)) }
    }
}

/// The secret of a file.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, InvalidKeyFile> {
    match KeyFile::parse(&read(path)?)? {
        KeyFile::Secret(secret) => Ok(secret.to_vec()),
        KeyFile::Pem(_) => Err(InvalidKeyFile::NotASecret),
    }
}

/// All of a file that may hold keys.
pub fn read(path: &Path) -> Result<Vec<u8>, InvalidKeyFile> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(InvalidKeyFile::TooLarge);
    }
    Ok(fs::read(path)?)
}

fn is_of_ssh(line: &[u8]) -> bool {
    SSH.iter().any(|mark| line.trim_ascii_start().starts_with(mark))
}

/// Whether it is an object or an array of objects, though it were cut off.
fn is_json(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    let text = text.strip_prefix(b"[").unwrap_or(text).trim_ascii_start();
    text.strip_prefix(b"{").is_some_and(|rest| matches!(rest.trim_ascii_start().first(), Some(b'"' | b'}')))
}

/// Whether it is a sequence of ASN.1, as keys and certificates are: one whose length has bytes of its own, or that fills
/// the file. Of 32,768 secrets of random bytes one looks so, too, and has to be made anew.
fn is_der(bytes: &[u8]) -> bool {
    match bytes {
        [0x30, 0x81 | 0x82, ..] => true,
        [0x30, length, rest @ ..] => usize::from(*length) == rest.len(),
        _ => false,
    }
}

/// Whether it is what stands between the lines of PEM. Some issuers show their public keys so.
fn is_bare_base64_of_der(bytes: &[u8]) -> bool {
    let text: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(&text).is_ok_and(|bytes| is_der(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
    const RSA_PUBLIC: &[u8] = include_bytes!("../../tests/keys/rsa.pub.pem");
    const P256_PUBLIC: &[u8] = include_bytes!("../../tests/keys/p256.pub.pem");
    const ED25519_PUBLIC: &[u8] = include_bytes!("../../tests/keys/ed25519.pub.pem");

    /// What stands between the lines of PEM.
    fn base64_of(pem: &[u8]) -> String {
        let text = std::str::from_utf8(pem).unwrap();
        text.lines().filter(|line| !line.starts_with("-----")).collect()
    }

    #[test]
    fn a_secret_is_whatever_could_be_nothing_else() {
        let hex = "0f".repeat(32);
        for secret in [SECRET, hex.as_bytes(), &[0xff; 32], b"{not json} but long enough for a secret", &[0x30; 40]] {
            for end in [&b""[..], b"\n", b"\r\n"] {
                assert_eq!(KeyFile::parse(&[secret, end].concat()).unwrap(), KeyFile::Secret(secret));
            }
        }
        let base64 = STANDARD.encode([7; 48]);
        assert!(matches!(KeyFile::parse(base64.as_bytes()), Ok(KeyFile::Secret(_))));
        for short in [&b""[..], &[b'x'; 31], &[&[b'x'; 31][..], b"\r\n"].concat()] {
            assert!(matches!(KeyFile::parse(short), Err(InvalidKeyFile::Short)));
        }
    }

    #[test]
    fn a_public_key_in_another_wrapping_is_no_secret() {
        for pem in [RSA_PUBLIC, P256_PUBLIC, ED25519_PUBLIC] {
            for before in [&b""[..], b"\n\n", b"# our key\n", b"Bag Attributes\n    friendlyName: key\n", b"x "] {
                assert!(matches!(KeyFile::parse(&[before, pem].concat()), Ok(KeyFile::Pem(_))));
            }
            for mark in BYTE_ORDER_MARKS {
                assert!(matches!(KeyFile::parse(&[mark, pem].concat()), Err(InvalidKeyFile::ByteOrderMark)));
            }
            let base64 = base64_of(pem);
            let der = STANDARD.decode(&base64).unwrap();
            let with_lines = format!("{}\n{}\n", &base64[..20], &base64[20..]);
            for wrapped in [&der[..], base64.as_bytes(), with_lines.as_bytes()] {
                assert!(matches!(KeyFile::parse(wrapped), Err(InvalidKeyFile::Der)), "{wrapped:?}");
            }
        }
        let blob = "AAAAC3NzaC1lZDI1NTE5AAAAIJj3mRyZ8fXqNgaRQh5Ij5y8Tqk0nYVqv6mRyZ8fXqNg";
        for kind in ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com"] {
            for text in [format!("{kind} {blob} me@host\n"), format!("# mine\n  {kind} {blob}\n")] {
                assert!(matches!(KeyFile::parse(text.as_bytes()), Err(InvalidKeyFile::Ssh)), "{text}");
            }
        }
        let rfc4716 = format!("---- BEGIN SSH2 PUBLIC KEY ----\n{blob}\n---- END SSH2 PUBLIC KEY ----\n");
        assert!(matches!(KeyFile::parse(rfc4716.as_bytes()), Err(InvalidKeyFile::Ssh)));
        let set = include_str!("../../tests/keys/jwks.json");
        let padded = format!("{}{{}}", " ".repeat(40));
        for json in [set, &format!("\n [ {set} ]"), &set[..set.len() / 2], &padded] {
            assert!(matches!(KeyFile::parse(json.as_bytes()), Err(InvalidKeyFile::Json)), "{json}");
        }
    }
}
